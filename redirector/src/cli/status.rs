//! `redirector status`: asks the agent and shows what it says.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Write},
    path::Path,
    time::{Duration, SystemTime},
};

use super::{
    Exit, Output, StatusArgs,
    table::{Align, Table},
};
use crate::control::{
    client::{self, ClientError},
    status::{
        AddressStatus, BreakerStatus, FindingStatus, MemberState, MemberStatus, ServiceState, ServiceStatus,
        Status, SwitchStatus, VitalsStatus,
    },
};

/// Writes the status to `out` and errors to `err`, which are standard output and error outside tests.
///
/// An output that nobody reads any more (`status | head`) is no failure.
pub async fn run(socket: &Path, args: &StatusArgs, out: &mut impl Write, err: &mut impl Write) -> Exit {
    let status = match client::status(socket, args.service.as_deref()).await {
        Ok(status) => status,
        Err(error) => {
            // There is no place left to complain about an unwritable standard error.
            let _ = writeln!(err, "error: {error}");
            return match error {
                ClientError::NotRunning { .. } => Exit::NotRunning,
                ClientError::Failed { .. } => Exit::Failed,
            };
        }
    };
    let is_ok = status.services.iter().all(|service| service.state == ServiceState::Ok);
    let exit = if args.exit_code && !is_ok { Exit::Degraded } else { Exit::Done };
    super::conclude("status", write(&status, args.output, args.service.is_some(), out), exit, err)
}

fn write(status: &Status, output: Output, one: bool, out: &mut impl Write) -> io::Result<()> {
    match output {
        Output::Table => write!(out, "{}", Blocks { status, now: SystemTime::now(), one })?,
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, status)?;
            writeln!(out)?;
        }
    }
    out.flush()
}

/// One block a service.
struct Blocks<'a> {
    status: &'a Status,
    now: SystemTime,
    /// Somebody asked for one service: there is room for its vitals.
    one: bool,
}

impl fmt::Display for Blocks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, service) in self.status.services.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write_service(f, service, self.now, self.one)?;
        }
        for problem in &self.status.resets.problems {
            writeln!(f, "\nat a switch  {}", problem.replace(char::is_control, "?"))?;
        }
        Ok(())
    }
}

fn write_service(
    f: &mut fmt::Formatter<'_>,
    service: &ServiceStatus,
    now: SystemTime,
    one: bool,
) -> fmt::Result {
    writeln!(f, "service      {}", service.name)?;
    writeln!(f, "state        {}", service.state)?;
    writeln!(f, "active       {}", or_none(service.active.as_deref()))?;
    writeln!(f, "epoch        {}", service.epoch)?;
    writeln!(f, "since        {}", service.since.as_deref().unwrap_or("-"))?;
    writeln!(f, "vips         {}", service.vips.join(", "))?;
    writeln!(f, "last switch  {}", last_switch(service.last_switch.as_ref()))?;
    if let Some(member) = &service.pinned {
        writeln!(f, "pinned       {member}")?;
    }
    if service.paused {
        writeln!(f, "paused       yes")?;
    }
    writeln!(f, "\n{}", members(&service.members, now).to_string().trim_end())?;
    if service.members.iter().any(|member| member.address_states.len() > 1) {
        writeln!(f, "\n{}", addresses(&service.members, now).to_string().trim_end())?;
    }
    if one {
        writeln!(f, "\n{}", vitals(&service.members).to_string().trim_end())?;
        if service.members.iter().any(|member| member.breaker.is_some()) {
            writeln!(f, "\n{}", breakers(&service.members, now).to_string().trim_end())?;
        }
    }
    write_findings(f, &service.members)
}

/// What would hurt after a switch, a line each.
fn write_findings(f: &mut fmt::Formatter<'_>, members: &[MemberStatus]) -> fmt::Result {
    if members.iter().any(|member| !member.readiness.findings.is_empty()) {
        writeln!(f)?;
    }
    for member in members {
        for FindingStatus { severity, text, .. } in &member.readiness.findings {
            writeln!(f, "{severity}  {}: {}", member.name, text.replace(char::is_control, "?"))?;
        }
    }
    Ok(())
}

fn or_none(member: Option<&str>) -> &str {
    member.unwrap_or("none")
}

fn last_switch(switch: Option<&SwitchStatus>) -> String {
    let Some(SwitchStatus { from, to, kind, reason, at }) = switch else {
        return "-".to_owned();
    };
    let (from, to) = (or_none(from.as_deref()), or_none(to.as_deref()));
    format!("{at} {kind} from {from} to {to}: {}", reason.replace(char::is_control, "?"))
}

fn members(members: &[MemberStatus], now: SystemTime) -> Table<8> {
    let mut table = Table::new([
        ("member", Align::Left),
        ("endpoint", Align::Left),
        ("weight", Align::Right),
        ("state", Align::Left),
        ("flows", Align::Right),
        ("eligible", Align::Left),
        ("checked", Align::Right),
        ("reason", Align::Left),
    ]);
    for member in members {
        table.row([
            member.name.clone(),
            member.endpoint.clone(),
            member.weight.to_string(),
            member.state.to_string(),
            member.flows.to_string(),
            eligible(member),
            checked(member.checked_at.as_deref(), now),
            member.reason.clone(),
        ]);
    }
    table
}

/// The addresses of the members that have several.
fn addresses(members: &[MemberStatus], now: SystemTime) -> Table<6> {
    let mut table = Table::new([
        ("member", Align::Left),
        ("address", Align::Left),
        ("state", Align::Left),
        ("new flows", Align::Left),
        ("checked", Align::Right),
        ("reason", Align::Left),
    ]);
    for member in members.iter().filter(|member| member.address_states.len() > 1) {
        for address in &member.address_states {
            table.row([
                member.name.clone(),
                address.address.clone(),
                address.state.to_string(),
                new_flows(address).to_owned(),
                checked(address.checked_at.as_deref(), now),
                address.reason.clone(),
            ]);
        }
    }
    table
}

/// What the traffic of the members shows.
fn vitals(members: &[MemberStatus]) -> Table<5> {
    let mut table = Table::new([
        ("member", Align::Left),
        ("rtt", Align::Right),
        ("shortest", Align::Right),
        ("connect", Align::Right),
        ("seen by the kernel", Align::Left),
    ]);
    for MemberStatus { name, vitals, .. } in members {
        let time = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2} ms"));
        table.row([
            name.clone(),
            time(vitals.rtt_ms),
            time(vitals.rtt_min_ms),
            time(vitals.connect_ms),
            seen(vitals),
        ]);
    }
    table
}

/// What clients have met within the window of each breaker.
fn breakers(members: &[MemberStatus], now: SystemTime) -> Table<6> {
    let mut table = Table::new([
        ("member", Align::Left),
        ("breaker", Align::Left),
        ("attempts", Align::Right),
        ("failures", Align::Right),
        ("rate", Align::Right),
        ("in a row", Align::Right),
    ]);
    for MemberStatus { name, breaker, .. } in members {
        let Some(BreakerStatus { state, since, attempts, failures, failure_rate, in_a_row }) = breaker else {
            continue;
        };
        let since = since.as_deref().map(|since| format!(" since {}", ago(since, now)));
        table.row([
            name.clone(),
            format!("{}{}", state.replace('_', " "), since.unwrap_or_default()),
            attempts.to_string(),
            failures.to_string(),
            failure_rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1} %")),
            in_a_row.to_string(),
        ]);
    }
    table
}

/// `error_reply 3 (loading 3), retransmitted 12`
fn seen(vitals: &VitalsStatus) -> String {
    let list = |counts: &BTreeMap<String, u64>, more: &dyn Fn(&str) -> String| {
        let counts = counts.iter().filter(|(_, count)| **count > 0);
        let words = counts.map(|(name, count)| format!("{name} {count}{}", more(name)));
        words.collect::<Vec<_>>().join(", ")
    };
    let errors = list(&vitals.error_replies, &|_| String::new());
    let which = |name: &str| match name {
        "error_reply" if !errors.is_empty() => format!(" ({errors})"),
        _ => String::new(),
    };
    match list(&vitals.signals, &which) {
        nothing if nothing.is_empty() => "no trouble".to_owned(),
        signals => signals,
    }
}

/// Whether an address gets new flows.
fn new_flows(address: &AddressStatus) -> &'static str {
    match address.state {
        _ if address.offered => "yes",
        MemberState::Unknown => "not yet",
        MemberState::Up | MemberState::Down | MemberState::Drained => "left out",
    }
}

fn checked(at: Option<&str>, now: SystemTime) -> String {
    at.map_or_else(|| "-".to_owned(), |at| ago(at, now))
}

fn eligible(member: &MemberStatus) -> String {
    match &member.eligible_reason {
        _ if member.eligible => "yes".to_owned(),
        Some(reason) => format!("no: {reason}"),
        None => "no".to_owned(),
    }
}

/// How long ago a time is; the time itself where it cannot be read.
fn ago(at: &str, now: SystemTime) -> String {
    let Ok(time) = humantime::parse_rfc3339(at) else {
        return at.to_owned();
    };
    // The agent may have stamped it after this process took `now`.
    let age = now.duration_since(time).unwrap_or(Duration::ZERO);
    format!("{} ago", short(age))
}

/// A time with one unit.
pub(super) fn short(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1}s", time.as_secs_f64()),
        seconds @ 10..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds => format!("{}h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::{ReadinessStatus, Severity, SwitchKind, VERSION};

    fn member(name: &str, weight: u32, state: MemberState) -> MemberStatus {
        MemberStatus {
            name: name.into(),
            endpoint: format!("{name}.example.com:6379"),
            addresses: vec!["10.2.1.2:6379".into()],
            weight,
            state,
            reason: "ping ok in 0.3 ms".into(),
            checked_at: Some("2026-11-21T20:00:00.250Z".into()),
            eligible: true,
            eligible_reason: None,
            flows: 12,
            address_states: Vec::new(),
            breaker: None,
            readiness: ReadinessStatus::default(),
            vitals: VitalsStatus::default(),
        }
    }

    fn address(number: u8, state: MemberState, reason: &str) -> AddressStatus {
        AddressStatus {
            address: format!("10.2.1.{number}:6379"),
            state,
            reason: reason.into(),
            checked_at: Some("2026-11-21T20:00:00.250Z".into()),
            offered: state == MemberState::Up,
        }
    }

    fn orders() -> ServiceStatus {
        let mut dublin = member("dublin", 50, MemberState::Down);
        dublin.reason = "ping command timed out after 1s".into();
        (dublin.eligible, dublin.eligible_reason, dublin.flows) = (false, Some("down".into()), 0);
        ServiceStatus {
            name: "orders".into(),
            vips: vec!["10.255.0.1:6379".into(), "[fd00:255::1]:6379".into()],
            state: ServiceState::Ok,
            active: Some("paris".into()),
            epoch: 7,
            since: Some("2026-11-21T19:00:00Z".into()),
            pinned: None,
            paused: false,
            last_switch: Some(SwitchStatus {
                from: Some("dublin".into()),
                to: Some("paris".into()),
                kind: SwitchKind::Failback,
                reason: "paris has been up for 1m".into(),
                at: "2026-11-21T19:00:00Z".into(),
            }),
            members: vec![member("paris", 100, MemberState::Up), dublin],
        }
    }

    fn shown(services: Vec<ServiceStatus>) -> String {
        shown_with(services, false)
    }

    fn shown_with(services: Vec<ServiceStatus>, one: bool) -> String {
        let now = humantime::parse_rfc3339("2026-11-21T20:00:00.500Z").unwrap();
        Blocks {
            status: &Status {
                version: VERSION,
                services,
                outcomes: BTreeMap::new(),
                collected: BTreeMap::new(),
                resets: Default::default(),
            },
            now,
            one,
        }
        .to_string()
    }

    #[test]
    fn one_service_is_shown_with_what_its_traffic_shows() {
        let mut service = orders();
        let counts = |counts: &[(&str, u64)]| {
            counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        service.members[0].vitals = VitalsStatus {
            rtt_ms: Some(31.254),
            rtt_min_ms: Some(30.9),
            connect_ms: Some(31.0),
            signals: counts(&[("refused", 0), ("retransmitted", 12), ("error_reply", 3)]),
            error_replies: counts(&[("loading", 3)]),
        };
        let closed = BreakerStatus {
            state: "closed".into(),
            since: None,
            attempts: 1300,
            failures: 52,
            failure_rate: Some(4.0),
            in_a_row: 0,
        };
        let half_open = BreakerStatus {
            state: "half_open".into(),
            since: Some("2026-11-21T19:59:00Z".into()),
            attempts: 0,
            failures: 0,
            failure_rate: None,
            in_a_row: 0,
        };
        (service.members[0].breaker, service.members[1].breaker) = (Some(closed), Some(half_open));
        insta::assert_snapshot!(shown_with(vec![service], true));
    }

    #[test]
    fn a_block_for_each_service() {
        let mut held = member("lone", 1, MemberState::Unknown);
        (held.reason, held.checked_at, held.eligible) = ("not probed yet".into(), None, false);
        let carts = ServiceStatus {
            name: "carts".into(),
            vips: vec!["10.255.0.2:6379".into()],
            state: ServiceState::Held,
            active: None,
            epoch: 0,
            since: None,
            pinned: Some("lone".into()),
            paused: true,
            last_switch: None,
            members: vec![held],
        };
        insta::assert_snapshot!(shown(vec![orders(), carts]));
    }

    #[test]
    fn several_addresses_have_a_table_of_their_own() {
        let mut service = orders();
        let one = address(2, MemberState::Up, "ping ok in 0.3 ms");
        service.members[1].address_states =
            vec![address(9, MemberState::Up, "not shown: it is the only one")];
        service.members[0].address_states = vec![
            one,
            address(3, MemberState::Down, "ping: connection refused (3 in a row)"),
            address(4, MemberState::Unknown, "no verdict yet"),
        ];
        insta::assert_snapshot!(shown(vec![service]));
    }

    #[test]
    fn what_would_hurt_stands_below_the_members() {
        let mut service = orders();
        let finding =
            |severity, text: &str| FindingStatus { kind: "tls".into(), severity, text: text.into() };
        service.members[1].readiness.findings = vec![
            finding(Severity::Problem, "the member's certificate expired at 2026-11-20T00:00:00Z; renew it"),
            finding(Severity::Warning, "maxmemory is 1 GiB, at paris 2 GiB; raise it\u{1b}[2J"),
        ];
        let shown = shown(vec![service]);
        let lines: Vec<_> = shown.lines().rev().take(3).collect();
        let expected = [
            "warning  dublin: maxmemory is 1 GiB, at paris 2 GiB; raise it?[2J",
            "problem  dublin: the member's certificate expired at 2026-11-20T00:00:00Z; renew it",
            "",
        ];
        assert_eq!(lines, expected, "{shown}");
    }

    #[test]
    fn ages_are_short() {
        let now = humantime::parse_rfc3339("2026-11-21T20:00:00Z").unwrap();
        for (at, age) in [
            ("2026-11-21T19:59:59.600Z", "0.4s ago"),
            ("2026-11-21T19:59:48Z", "12s ago"),
            ("2026-11-21T19:57:01Z", "2m ago"),
            ("2026-11-21T10:00:00Z", "10h ago"),
            ("2026-11-21T20:00:01Z", "0.0s ago"),
            ("soon", "soon"),
        ] {
            assert_eq!(ago(at, now), age);
        }
    }
}
