//! `[[service.check]]`: what is probed, how often, and what it takes to believe it.

use std::{collections::HashMap, time::Duration};

use super::{
    address,
    error::Complaint,
    read::{Section, Written},
};
use crate::model::{Check, CheckKind};

/// The shortest time between two probes, and for one: below it a host only probes.
const SHORTEST_PROBE: Duration = Duration::from_millis(1);

/// Without any, one ping with the defaults.
pub(super) fn read(service: &Section<'_>) -> Vec<Check> {
    let sections = service.list("check");
    if sections.is_empty() {
        return vec![Check::of(CheckKind::Ping)];
    }
    let mut names: HashMap<String, usize> = HashMap::new();
    let mut checks = Vec::new();
    for section in &sections {
        let (check, at) = check(section);
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

/// And where its name stands.
fn check(section: &Section<'_>) -> (Check, usize) {
    let later = ["echo", "set_get", "keyspace", "lag", "heartbeat", "http", "exec"];
    let kinds: [(_, fn() -> CheckKind); 2] = [("tcp", || CheckKind::Tcp), ("ping", || CheckKind::Ping)];
    let kind = section.word("kind", &kinds, &later).unwrap_or(|| CheckKind::Ping);
    let defaults = Check::of(kind());
    let name = section.text("name", address::name);
    let at = name.as_ref().map_or(section.at(), |name| name.at);
    let interval = section.time("interval", SHORTEST_PROBE);
    let check = Check {
        name: name.map_or(defaults.name, |name| name.value),
        kind: defaults.kind,
        fast_interval: fast_interval(section, interval, defaults.interval, defaults.fast_interval),
        interval: interval.map_or(defaults.interval, |interval| interval.value),
        timeout: section.time("timeout", SHORTEST_PROBE).map_or(defaults.timeout, |time| time.value),
        fall: section.number("fall", 1..=1000).unwrap_or(defaults.fall),
        rise: section.number("rise", 1..=1000).unwrap_or(defaults.rise),
        role: defaults.role,
        counted_errors: defaults.counted_errors,
    };
    (check, at)
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
