//! `[[service.check]]` and `[[service.member.check]]`: what is probed, how often, and what it takes to believe it.

use std::{collections::HashMap, time::Duration};

use super::{
    address, detect,
    error::Complaint,
    read::{self, Section, Written},
    shards, witness,
};
use crate::model::{Check, CheckKind, Detect, Keyspace, Profile, RedisErrorKind, Role};

/// The shortest time between two probes, and for one: below it a host only probes.
const SHORTEST_PROBE: Duration = Duration::from_millis(1);

/// Longest beginning of a key: it is sent with every probe.
const LONGEST_PREFIX: usize = 256;

/// What the keys of probes begin with, where nothing is said.
pub(super) const PREFIX: &str = "redirector:probe:";

/// After which time what probes write is gone, where nothing is said.
pub(super) const EXPIRY: Duration = Duration::from_secs(60);

/// Keys that mean something to some kinds only.
pub(super) const KEYS_OF_KINDS: [(&str, &[&str]); 17] = [
    ("role", &["ping", "echo"]),
    ("prefix", &["set_get", "keyspace"]),
    ("expiry", &["set_get", "keyspace"]),
    ("counted_errors", &["ping", "echo", "set_get", "keyspace", "heartbeat"]),
    ("tags", &["keyspace", "heartbeat"]),
    ("channel", &["heartbeat"]),
    ("per_shard", &["heartbeat"]),
    ("tolerance", &["lag", "heartbeat"]),
    ("extended", &["lag"]),
    ("url", &["http"]),
    ("path", &["http"]),
    ("port", &["http"]),
    ("status", &["http"]),
    ("contains", &["http"]),
    ("tls", &["http"]),
    ("command", &["exec"]),
    ("user", &["exec"]),
];

/// Reads what only one kind has.
type ReadKind = fn(&Section<'_>) -> CheckKind;

/// Without any, one ping with the defaults of the profile.
pub(super) fn read(service: &Section<'_>, profile: Profile, detect: Detect) -> Vec<Check> {
    let of = |kind| Check { detect, ..Check::with(kind, profile) };
    let sections = service.list("check");
    if sections.is_empty() {
        return vec![of(CheckKind::Ping)];
    }
    let mut names: HashMap<String, usize> = HashMap::new();
    let mut checks = Vec::new();
    for section in &sections {
        let (check, at) = check(section, of);
        if let Some(first) = names.get(&check.name) {
            let place = section.document().place(*first);
            let cause = format!("two checks are called {:?}, the first at {place}", check.name);
            section.fault(at, Complaint::new(cause, "give one of them a `name` of its own"));
        } else {
            names.insert(check.name.clone(), at);
        }
        checks.push(check);
    }
    checks
}

/// The checks of a member: those of its service, with what this member overrides.
pub(super) fn of_member(member: &Section<'_>, service: &[Check]) -> Vec<Check> {
    let mut checks = service.to_vec();
    let mut overridden: HashMap<String, usize> = HashMap::new();
    for section in member.list("check") {
        let Some(name) = section.required("name", address::name) else { continue };
        let Some(check) = checks.iter_mut().find(|check| check.name == name.value) else {
            let names: Vec<_> = service.iter().map(|check| format!("{:?}", check.name)).collect();
            let cause = format!("the service has no check {:?}", name.value);
            section.fault(name.at, Complaint::new(cause, format!("name one of {}", names.join(", "))));
            continue;
        };
        if let Some(first) = overridden.insert(name.value.clone(), name.at) {
            let place = section.document().place(first);
            let cause = format!("check {:?} is overridden twice, first at {place}", name.value);
            section.fault(name.at, Complaint::new(cause, "put the keys into one section"));
        }
        shards::of_all_members(&section, check);
        *check = timing(&section, check.clone());
        only_keys_of(&section, check.kind.name());
        witness::other_target(&section, &mut check.kind);
        expires_late_enough(&section, check, name.at);
    }
    checks
}

/// And where its name stands.
fn check(section: &Section<'_>, of: impl Fn(CheckKind) -> Check) -> (Check, usize) {
    let kinds: [(_, ReadKind); 9] = [
        ("tcp", |_| CheckKind::Tcp),
        ("ping", |_| CheckKind::Ping),
        ("echo", |_| CheckKind::Echo),
        ("set_get", set_get),
        ("keyspace", shards::keyspace),
        ("heartbeat", shards::heartbeat),
        ("lag", witness::lag),
        ("http", witness::http),
        ("exec", witness::exec),
    ];
    let kind = section.word("kind", &kinds, &[]);
    let defaults = of(kind.map_or(CheckKind::Ping, |kind| kind(section)));
    // A kind that is not known has any keys.
    if kind.is_some() || !section.has("kind") {
        only_keys_of(section, defaults.kind.name());
    }
    let name = section.text("name", address::name);
    let at = name.as_ref().map_or(section.at(), |name| name.at);
    let roles = [("any", Role::Any), ("primary", Role::Primary)];
    let check = Check {
        name: name.map_or(defaults.name.clone(), |name| name.value),
        effect: section.word("effect", &detect::EFFECTS, &[]).unwrap_or(defaults.effect),
        role: section.word("role", &roles, &[]).unwrap_or(defaults.role),
        counted_errors: counted_errors(section).unwrap_or_else(|| defaults.counted_errors.clone()),
        ..timing(section, defaults)
    };
    expires_late_enough(section, &check, at);
    shards::beats_in_time(section, &check, at);
    (check, at)
}

/// The keys that a member may override: times and thresholds. `base` has what is not written.
fn timing(section: &Section<'_>, base: Check) -> Check {
    let interval = section.time("interval", SHORTEST_PROBE);
    let down_interval = section.time("down_interval", SHORTEST_PROBE).or(interval);
    let check = Check {
        fast_interval: fast_interval(section, interval, base.interval, base.fast_interval),
        interval: interval.map_or(base.interval, |interval| interval.value),
        down_interval: down_interval.map_or(base.down_interval, |interval| interval.value),
        timeout: section.time("timeout", SHORTEST_PROBE).map_or(base.timeout, |time| time.value),
        fall: section.number("fall", 1..=1000).unwrap_or(base.fall),
        rise: section.number("rise", 1..=1000).unwrap_or(base.rise),
        ..base
    };
    detect::rounds(section, check)
}

fn set_get(section: &Section<'_>) -> CheckKind {
    CheckKind::SetGet { prefix: prefix(section), expiry: expiry(section) }
}

/// `prefix`: what the keys of probes begin with.
pub(super) fn prefix(section: &Section<'_>) -> String {
    let prefix = section.text("prefix", |text| {
        if text.is_empty() || text.len() > LONGEST_PREFIX || text.chars().any(char::is_control) {
            let cause = format!("`prefix` must have 1 to {LONGEST_PREFIX} bytes and no control characters");
            return Err(Complaint::new(cause, format!("write it like prefix = {PREFIX:?}")));
        }
        Ok(text.to_owned())
    });
    prefix.map_or_else(|| PREFIX.to_owned(), |prefix| prefix.value)
}

/// `expiry`: after which time what probes write is gone.
pub(super) fn expiry(section: &Section<'_>) -> Duration {
    section.time("expiry", Duration::from_millis(1)).map_or(EXPIRY, |expiry| expiry.value)
}

/// A value that expires while its probe waits would count as lost.
fn expires_late_enough(section: &Section<'_>, check: &Check, at: usize) {
    let (CheckKind::SetGet { expiry, .. } | CheckKind::Keyspace(Keyspace { expiry, .. })) = &check.kind
    else {
        return;
    };
    if *expiry <= check.timeout {
        let [expiry, timeout] = [*expiry, check.timeout].map(humantime::format_duration);
        let cause = format!("`expiry` ({expiry}) is not longer than `timeout` ({timeout})");
        section.fault(at, Complaint::new(cause, "make `expiry` longer, or `timeout` shorter"));
    }
}

/// `counted_errors`: by their words; none at all is a choice.
fn counted_errors(section: &Section<'_>) -> Option<Vec<RedisErrorKind>> {
    let errors = section.any_texts("counted_errors", |text| {
        let kind = read::word("counted_errors", text, &RedisErrorKind::WORDS, &[])?;
        if kind.is_about_credentials() {
            let cause =
                format!("{text} in `counted_errors`: credentials of the probe say nothing about a member");
            return Err(Complaint::new(cause, "remove it; it is shown, and never counts"));
        }
        Ok(kind)
    });
    errors.map(|errors| errors.into_iter().map(|error| error.value).collect())
}

/// Reports the keys that mean nothing to this kind.
fn only_keys_of(section: &Section<'_>, kind: &str) {
    for (key, kinds) in KEYS_OF_KINDS {
        if let Some(at) = section.place_of(key).filter(|_| !kinds.contains(&kind)) {
            let cause = format!("`{key}` means nothing to a check of kind {kind:?}");
            let next = format!("remove it, or use it with {}", kinds.join(", "));
            section.fault(at, Complaint::new(cause, next));
        }
    }
}

/// Never longer than `interval`: when it is not written, a short interval shortens it.
fn fast_interval(
    section: &Section<'_>,
    interval: Option<Written<Duration>>,
    default_interval: Duration,
    default: Duration,
) -> Duration {
    let limit = interval.map_or(default_interval, |interval| interval.value);
    let Some(fast) = section.time("fast_interval", SHORTEST_PROBE) else {
        return default.min(limit);
    };
    // An interval that is written but could not be read is no measure.
    let limit_is_known = interval.is_some() || !section.has("interval");
    if limit_is_known && fast.value > limit {
        let [shown, limit] = [fast.value, limit].map(humantime::format_duration);
        let cause = format!("`fast_interval` ({shown}) is longer than `interval` ({limit})");
        section.fault(fast.at, Complaint::new(cause, "shorten it, or remove it"));
    }
    fast.value
}
