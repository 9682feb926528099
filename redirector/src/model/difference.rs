//! What differs between two configurations, for people: what a reload is about to do, or has done.
//!
//! Every structure is taken apart field by field without a rest, so that a key which is added to the model does not
//! compile until the difference knows it. Values are shown as their `Debug` says, in the words of the configuration file;
//! of a secret that is nothing (invariant 12), and so a new password is only said to be another one.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    Access, Agent, Application, Check, CheckKind, Config, Datapath, Detect, Exec, Failback, Http,
    IdleTimeouts, Lag, Login, Member, PortRange, Rest, Service,
};

/// Everything that differs. Services are told by their names: another name is another service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// In `[agent]`.
    pub agent: Vec<Change>,
    /// In `[datapath]`.
    pub datapath: Vec<Change>,
    /// In the order of the new configuration; those that are gone come last.
    pub services: Vec<ServiceDifference>,
}

/// What becomes of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceDifference {
    /// Its name.
    pub service: String,
    /// Whether it comes, goes, or stays with changes.
    pub kind: Kind,
    /// What changes; of one that is added, what it has; of one that is removed nothing.
    pub changes: Vec<Change>,
}

/// What becomes of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It was not there before.
    Added,
    /// It is not there any more.
    Removed,
    /// It has another value.
    Changed,
}

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `weight of member "paris"`, `VIP`, `on_failover`.
    pub what: String,
    /// What becomes of it.
    pub kind: Kind,
    /// What it was; `null`: it was not there, or is a secret.
    pub from: Option<String>,
    /// What it is; `null`: it is not there any more, or is a secret.
    pub to: Option<String>,
}

impl Difference {
    /// From `old` to `new`.
    #[must_use]
    pub fn between(old: &Config, new: &Config) -> Self {
        let mut agent = Changes::default();
        agent.agent(&old.agent, &new.agent);
        let mut datapath = Changes::default();
        datapath.datapath(&old.datapath, &new.datapath);
        let mut services = Vec::new();
        for service in &new.services {
            let before = old.services.iter().find(|before| before.name == service.name);
            services.extend(match before {
                Some(before) => ServiceDifference::between(before, service),
                None => Some(ServiceDifference::added(service)),
            });
        }
        let is_gone = |before: &&Service| new.services.iter().all(|service| service.name != before.name);
        let gone = old.services.iter().filter(is_gone);
        services.extend(gone.map(|before| ServiceDifference {
            service: before.name.clone(),
            kind: Kind::Removed,
            changes: Vec::new(),
        }));
        Self { agent: agent.found, datapath: datapath.found, services }
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.agent.is_empty() && self.datapath.is_empty() && self.services.is_empty()
    }
}

impl ServiceDifference {
    /// `None`: nothing differs.
    fn between(old: &Service, new: &Service) -> Option<Self> {
        let mut changes = Changes::default();
        changes.service(old, new);
        let found = changes.found;
        (!found.is_empty()).then(|| Self { service: new.name.clone(), kind: Kind::Changed, changes: found })
    }

    fn added(service: &Service) -> Self {
        let vips = service.vips.iter().map(|vip| Change::added("VIP", vip.to_string()));
        let members = service.members.iter().map(|member| Change::added("member", told(member)));
        Self { service: service.name.clone(), kind: Kind::Added, changes: vips.chain(members).collect() }
    }
}

impl Change {
    fn added(what: impl Into<String>, to: String) -> Self {
        Self { what: what.into(), kind: Kind::Added, from: None, to: Some(to) }
    }

    fn removed(what: impl Into<String>, from: String) -> Self {
        Self { what: what.into(), kind: Kind::Removed, from: Some(from), to: None }
    }
}

/// A line: `weight of member "paris": 100 -> 50`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, kind, from, to } = self;
        match (kind, from, to) {
            (Kind::Added, _, Some(to)) => write!(f, "{what} {to} added"),
            (Kind::Removed, Some(from), _) => write!(f, "{what} {from} removed"),
            (_, Some(from), Some(to)) => write!(f, "{what}: {from} -> {to}"),
            _ => write!(f, "{what} changed"),
        }
    }
}

/// A line for each thing that differs; services with a title. Nothing: `nothing differs`.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Vec::new();
        for (section, changes) in [("[agent]", &self.agent), ("[datapath]", &self.datapath)] {
            lines.extend(changes.iter().map(|change| format!("{section} {change}")));
        }
        for ServiceDifference { service, kind, changes } in &self.services {
            let title = format!("service {service:?}");
            match kind {
                Kind::Added => lines.push(format!("{title} added")),
                Kind::Removed => lines.push(format!("{title} removed")),
                Kind::Changed => {}
            }
            lines.extend(changes.iter().map(|change| format!("{title} {change}")));
        }
        if lines.is_empty() {
            lines.push("nothing differs".to_owned());
        }
        f.write_str(&lines.join("\n"))
    }
}

/// What was found so far.
#[derive(Default)]
struct Changes {
    found: Vec<Change>,
}

/// Compares the fields of two values of a type. All of them stand here: a field that is missing does not compile. Those
/// after the semicolon are compared by whoever calls.
macro_rules! compare {
    ($changes:ident, $of:expr, $type:ident { $($field:ident),* $(,)? ; $($other:ident),* $(,)? }, $old:expr, $new:expr) => {{
        let $type { $($field: _,)* $($other: _,)* } = &$new;
        $($changes.value(&named(stringify!($field), $of), &$old.$field, &$new.$field);)*
    }};
}

impl Changes {
    fn agent(&mut self, old: &Agent, new: &Agent) {
        compare!(self, "", Agent { control_socket, state_dir, operator_group, metrics_listen, record; }, old, new);
    }

    fn datapath(&mut self, old: &Datapath, new: &Datapath) {
        compare!(self, "", Datapath {
            device, uplinks, pin_dir, max_flows, source_addresses, half_open_per_source,
            half_open_per_service, on_stop, attach; port_range, idle_timeouts
        }, old, new);
        let ports = |range: PortRange| format!("{}-{}", range.first, range.last);
        self.text("port_range", ports(old.port_range), ports(new.port_range));
        let (old, new) = (&old.idle_timeouts, &new.idle_timeouts);
        compare!(self, "idle_timeouts", IdleTimeouts { opening, established, closing; }, old, new);
    }

    fn service(&mut self, old: &Service, new: &Service) {
        compare!(self, "", Service {
            profile, combine, on_failover, on_failback, drain_timeout, reset_over, signals, breaker,
            limit, on_all_down, initial, initial_timeout;
            hooks, name, vips, failback, checks, application, members
        }, old, new);
        // What is run may hold a token, in a path or an argument.
        self.hidden("hooks", &old.hooks, &new.hooks);
        compare!(self, "failback", Failback { mode, healthy_for, hold_down, flap_half_life; }, old.failback, new.failback);
        let applications = (&old.application, &new.application);
        compare!(self, "application", Application { server_name, ready_every; login }, applications.0, applications.1);
        compare!(self, "application", Login { username, password; }, applications.0.login, applications.1.login);
        self.list("VIP", &old.vips, &new.vips, ToString::to_string, |_, _, _| {});
        let named = |check: &Check| format!("{:?}", check.name);
        self.list("check", &old.checks, &new.checks, named, |changes, old, new| {
            changes.check(&format!("check {:?}", new.name), old, new);
        });
        self.list("member", &old.members, &new.members, told_by_name, |changes, old, new| {
            changes.member(old, new);
        });
        self.order(&old.members, &new.members);
    }

    /// A check of the service, or as one member has it.
    fn check(&mut self, of: &str, old: &Check, new: &Check) {
        compare!(self, of, Check {
            effect, interval, fast_interval, down_interval, jitter_percent, timeout, probes, probe_delay, policy,
            fall, rise, role, counted_errors; name, kind, detect
        }, old, new);
        self.kind(of, &old.kind, &new.kind);
        compare!(self, of, Detect { silence_tolerance, stall_tolerance, refused_tolerance; }, old.detect, new.detect);
    }

    /// What a check does, key by key where it has many. Whom it is about is compared with the member.
    fn kind(&mut self, of: &str, old: &CheckKind, new: &CheckKind) {
        match (old, new) {
            (CheckKind::Lag(old), CheckKind::Lag(new)) => {
                compare!(self, of, Lag { tolerance, extended; of }, old, new);
                let rest = |lag: &Lag| lag.of.as_ref().map(|of| of.rest.clone());
                if let (Some(old), Some(new)) = (rest(old), rest(new)) {
                    let of = format!("rest of {of}");
                    self.text(&named("url", &of), old.url.to_string(), new.url.to_string());
                    compare!(self, &of, Rest { uid, tls; url, login }, old, new);
                    compare!(self, &of, Login { username, password; }, old.login, new.login);
                }
            }
            (CheckKind::Http(old), CheckKind::Http(new)) => {
                self.hidden(&named("target", of), &old.target, &new.target);
                compare!(self, of, Http { tls, status, contains; target }, old, new);
            }
            (CheckKind::Exec(old), CheckKind::Exec(new)) => {
                self.text(&named("user", of), old.user.name.clone(), new.user.name.clone());
                self.hidden(&named("command", of), &old.command, &new.command);
                compare!(self, of, Exec { ; command, user, of }, old, new);
            }
            (old, new) => self.value(&named("kind", of), old, new),
        }
    }

    fn member(&mut self, old: &Member, new: &Member) {
        let of = format!("member {:?}", new.name);
        self.text(&named("endpoint", &of), old.endpoint.to_string(), new.endpoint.to_string());
        compare!(self, &of, Member { weight; name, endpoint, access, rest, checks }, old, new);
        if old.rest != new.rest {
            let what = named("rest", &of);
            self.found.push(Change { what, kind: Kind::Changed, from: None, to: None });
        }
        // The host is that of the endpoint.
        compare!(self, &of, Access { tls; login, host }, old.access, new.access);
        compare!(self, &of, Login { username, password; }, old.access.login, new.access.login);
        let mut own = Self::default();
        for check in &new.checks {
            if let Some(before) = old.checks.iter().find(|before| before.name == check.name) {
                own.check(&format!("check {:?} of {of}", check.name), before, check);
            }
        }
        // What the service says of its checks is so for all of its members.
        own.found.retain(|change| !self.found.iter().any(|known| known.says_the_same_as(change, &of)));
        self.found.append(&mut own.found);
    }

    /// Of equals the first in the file is the better one.
    fn order(&mut self, old: &[Member], new: &[Member]) {
        let stays = |member: &&Member, other: &[Member]| other.iter().any(|known| known.name == member.name);
        let order = |members: &[Member], other: &[Member]| {
            let names =
                members.iter().filter(|member| stays(member, other)).map(|member| member.name.clone());
            names.collect::<Vec<_>>()
        };
        self.value("order of the members", &order(old, new), &order(new, old));
    }

    /// Compares two lists whose elements are told apart by what `name` says.
    fn list<T: PartialEq>(
        &mut self,
        what: &str,
        old: &[T],
        new: &[T],
        name: impl Fn(&T) -> String,
        mut compare: impl FnMut(&mut Self, &T, &T),
    ) {
        for element in new {
            match old.iter().find(|before| name(before) == name(element)) {
                Some(before) if before == element => {}
                Some(before) => compare(self, before, element),
                None => self.found.push(Change::added(what, name(element))),
            }
        }
        for before in old.iter().filter(|before| new.iter().all(|element| name(element) != name(before))) {
            self.found.push(Change::removed(what, name(before)));
        }
    }

    fn value<T: PartialEq + fmt::Debug>(&mut self, what: &str, old: &T, new: &T) {
        if old == new {
            return;
        }
        let (from, to) = (shown(old), shown(new));
        // A secret, or what is in a value and not shown; or a text of many lines, such as a certificate.
        let hidden = from == to || [&from, &to].iter().any(|text| text.contains("\\n"));
        let (from, to) = if hidden { (None, None) } else { (Some(from), Some(to)) };
        self.found.push(Change { what: what.to_owned(), kind: Kind::Changed, from, to });
    }

    /// Only that it differs.
    fn hidden<T: PartialEq>(&mut self, what: &str, old: &T, new: &T) {
        if old != new {
            self.found.push(Change { what: what.to_owned(), kind: Kind::Changed, from: None, to: None });
        }
    }

    fn text(&mut self, what: &str, old: String, new: String) {
        if old != new {
            let (from, to) = (Some(old), Some(new));
            self.found.push(Change { what: what.to_owned(), kind: Kind::Changed, from, to });
        }
    }
}

impl Change {
    /// Whether this is `change` without `of`.
    fn says_the_same_as(&self, change: &Self, of: &str) -> bool {
        change.what == named(&self.what, of) && (&self.from, &self.to) == (&change.from, &change.to)
    }
}

/// A value as the configuration file has it, as far as `Debug` tells: `Some(ReadOnly)` is `read_only`.
fn shown(value: &impl fmt::Debug) -> String {
    let text = format!("{value:?}").replace("Secret(***)", "set");
    let text = text.strip_prefix("Some(").and_then(|inner| inner.strip_suffix(')')).unwrap_or(&text);
    let is_word =
        text.starts_with(|c: char| c.is_ascii_uppercase()) && text.chars().all(|c| c.is_ascii_alphanumeric());
    if !is_word {
        return text.to_owned();
    }
    let mut word = String::new();
    for c in text.chars() {
        if c.is_ascii_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.push(c.to_ascii_lowercase());
    }
    word
}

fn named(field: &str, of: &str) -> String {
    if of.is_empty() { field.to_owned() } else { format!("{field} of {of}") }
}

fn told_by_name(member: &Member) -> String {
    format!("{:?}", member.name)
}

/// `"paris" at 10.2.1.2:6379, weight 100`
fn told(member: &Member) -> String {
    format!("{:?} at {}, weight {}", member.name, member.endpoint, member.weight)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{config, model::Secret};

    fn parsed(text: &str) -> Config {
        config::parse(Path::new("test.toml"), text).unwrap().config
    }

    const BEFORE: &str = r#"
        [datapath]
        port_range = "10000-20000"
        [[service]]
        name = "orders"
        vips = ["10.255.0.1:6379"]
        [[service.check]]
        kind = "ping"
        [[service.member]]
        name = "paris"
        endpoint = "10.2.1.2:6379"
        [[service.member]]
        name = "dublin"
        endpoint = "10.2.2.2:6379"
        weight = 50
        [[service]]
        name = "carts"
        vips = ["10.255.0.2:6379"]
        [[service.member]]
        name = "paris"
        endpoint = "10.2.1.2:6380"
    "#;

    #[test]
    fn a_configuration_does_not_differ_from_itself() {
        let difference = Difference::between(&parsed(BEFORE), &parsed(BEFORE));
        assert!(difference.is_empty() && difference.to_string() == "nothing differs");
    }

    #[test]
    fn each_thing_that_differs_is_one_line() {
        let after = r#"
            [datapath]
            port_range = "10000-30000"
            idle_timeouts = { closing = "1m" }
            [[service]]
            name = "stock"
            vips = ["10.255.0.3:6379"]
            [[service.member]]
            name = "paris"
            endpoint = "10.2.1.2:6381"
            [[service]]
            name = "orders"
            vips = ["10.255.0.1:6379", "10.255.0.4:6379"]
            on_failover = "drain"
            [service.failback]
            mode = "manual"
            [[service.check]]
            kind = "ping"
            interval = "2s"
            [[service.check]]
            kind = "tcp"
            [[service.member]]
            name = "dublin"
            endpoint = "10.2.2.3:6379"
            weight = 70
            [[service.member]]
            name = "oslo"
            endpoint = "10.2.3.2:6379"
        "#;
        let difference = Difference::between(&parsed(BEFORE), &parsed(after));
        insta::assert_snapshot!(difference, @r#"
        [datapath] port_range: 10000-20000 -> 10000-30000
        [datapath] closing of idle_timeouts: 120s -> 60s
        service "stock" added
        service "stock" VIP 10.255.0.3:6379 added
        service "stock" member "paris" at 10.2.1.2:6381, weight 100 added
        service "orders" on_failover: reset -> drain
        service "orders" mode of failback: auto -> manual
        service "orders" VIP 10.255.0.4:6379 added
        service "orders" interval of check "ping": 1s -> 2s
        service "orders" down_interval of check "ping": 1s -> 2s
        service "orders" check "tcp" added
        service "orders" endpoint of member "dublin": 10.2.2.2:6379 -> 10.2.2.3:6379
        service "orders" weight of member "dublin": 50 -> 70
        service "orders" member "oslo" added
        service "orders" member "paris" removed
        service "carts" removed
        "#);
    }

    /// Of a check with many settings each is a line, and not all of them one.
    #[test]
    fn checks_that_ask_somebody_else_differ_key_by_key() {
        let text = r#"
            [[service]]
            name = "orders"
            vips = ["10.255.0.1:6379"]
            check = [
                { kind = "lag", tolerance = "5s" },
                { kind = "http", path = "/health", port = 8080 },
                { kind = "exec", command = ["/bin/true"], user = "7:8" },
            ]
            [[service.member]]
            name = "paris"
            endpoint = "10.2.1.2:6379"
            rest = { url = "http://10.2.1.9:8080", username = "viewer", password_file = "/proc/self/comm" }
        "#;
        let after = [
            ("\"5s\"", "\"1s\""),
            ("8080 }", "8081 }"),
            ("/bin/true", "/bin/false"),
            ("7:8", "9:8"),
            ("10.2.1.9", "10.2.1.8"),
            ("viewer", "probe"),
        ];
        let after = after.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
        let mut new = parsed(&after);
        if let CheckKind::Lag(Lag { of: Some(of), .. }) = &mut new.services[0].members[0].checks[0].kind {
            of.rest.login.password = Some(Secret::new("sesame".to_owned()));
        }
        insta::assert_snapshot!(Difference::between(&parsed(text), &new), @r#"
        service "orders" tolerance of check "lag": 5s -> 1s
        service "orders" target of check "http" changed
        service "orders" user of check "exec": 7:8 -> 9:8
        service "orders" command of check "exec" changed
        service "orders" rest of member "paris" changed
        service "orders" url of rest of check "lag" of member "paris": http://10.2.1.9:8080/ -> http://10.2.1.8:8080/
        service "orders" username of rest of check "lag" of member "paris": "viewer" -> "probe"
        service "orders" password of rest of check "lag" of member "paris" changed
        "#);
    }

    #[test]
    fn the_order_of_members_is_a_difference() {
        let (old, mut new) = (parsed(BEFORE), parsed(BEFORE));
        new.services[0].members.reverse();
        let difference = Difference::between(&old, &new);
        assert_eq!(
            difference.to_string(),
            r#"service "orders" order of the members: ["paris", "dublin"] -> ["dublin", "paris"]"#
        );
    }

    /// Invariant 12.
    #[test]
    fn of_a_secret_only_that_it_changed() {
        let (mut old, mut new) = (parsed(BEFORE), parsed(BEFORE));
        let mut say = |before: Option<&str>, after: Option<&str>| {
            old.services[0].members[0].access.login.password =
                before.map(|text| Secret::new(text.to_owned()));
            new.services[0].members[0].access.login.password = after.map(|text| Secret::new(text.to_owned()));
            let difference = Difference::between(&old, &new);
            let said = format!("{difference} {}", serde_json::to_string(&difference).unwrap());
            assert!(!said.contains("hunter"), "{said}");
            difference.to_string()
        };
        let said = say(Some("hunter1"), Some("hunter2"));
        assert_eq!(said, r#"service "orders" password of member "paris" changed"#);
        let mut with_application = parsed(BEFORE);
        with_application.services[0].application.login.password = Some(Secret::new("hunter2".to_owned()));
        let said = Difference::between(&parsed(BEFORE), &with_application).to_string();
        assert_eq!(said, r#"service "orders" password of application: none -> set"#);
        let said = say(None, Some("hunter2"));
        assert_eq!(said, r#"service "orders" password of member "paris": none -> set"#);
    }

    #[test]
    fn enums_are_the_words_of_the_file() {
        assert_eq!(shown(&Some(super::super::FlowPolicy::Reset)), "reset");
        assert_eq!(shown(&None::<u32>), "none");
        assert_eq!(shown(&Some(5)), "5");
    }
}
