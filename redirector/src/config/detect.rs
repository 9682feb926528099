//! `[service.detect]`, `combine`, and those keys of `[[service.check]]` that say what a verdict is made of and good for.

use std::time::Duration;

use super::{error::Complaint, read::Section};
use crate::model::{Check, Combine, Detect, Effect, Policy, Profile};

/// The shortest tolerance of what is noticed by waiting: below it a host sees faults of its own.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// What the verdict of a check is good for.
pub(super) const EFFECTS: [(&str, Effect); 4] =
    [("count", Effect::Count), ("veto", Effect::Veto), ("gate", Effect::Gate), ("observe", Effect::Observe)];

const POLICIES: [(&str, Policy); 3] =
    [("all", Policy::All), ("majority", Policy::Majority), ("any", Policy::Any)];

/// `[service.detect]`
pub(super) fn read(section: &Section<'_>, profile: Profile) -> Detect {
    let defaults = profile.defaults().detect;
    let time = |key, shortest, default| section.time(key, shortest).map_or(default, |time| time.value);
    Detect {
        silence_tolerance: time("silence_tolerance", SHORTEST_WAIT, defaults.silence_tolerance),
        stall_tolerance: time("stall_tolerance", SHORTEST_WAIT, defaults.stall_tolerance),
        refused_tolerance: time("refused_tolerance", Duration::ZERO, defaults.refused_tolerance),
    }
}

/// What makes one verdict, and how its times are spread. `base` has what is not written.
pub(super) fn rounds(section: &Section<'_>, base: Check) -> Check {
    let delay = section.time("probe_delay", Duration::ZERO);
    let check = Check {
        policy: section.word("policy", &POLICIES, &[]).unwrap_or(base.policy),
        jitter_percent: section.number("jitter_percent", 0..=50).unwrap_or(base.jitter_percent),
        probes: section.number("probes", 1..=100).unwrap_or(base.probes),
        probe_delay: delay.map_or(base.probe_delay, |delay| delay.value),
        ..base
    };
    let round = check.probe_delay * (check.probes - 1);
    if round > check.interval {
        let [shown, interval] = [round, check.interval].map(humantime::format_duration);
        let number = check.probes;
        let cause =
            format!("a round of {number} probes takes {shown} at least, longer than `interval` ({interval})");
        let at = section.place_of("probe_delay").or_else(|| section.place_of("probes"));
        let at = at.unwrap_or(section.at());
        section.fault(at, Complaint::new(cause, "shorten `probe_delay`, or lengthen `interval`"));
    }
    check
}

/// How the checks of a service are combined.
pub(super) fn combine(service: &Section<'_>, checks: &[Check]) -> Combine {
    if !checks.iter().any(|check| check.effect.decides()) {
        let cause = "no check decides whether a member is up: every one is a gate or only observed";
        let next = "give one of them `effect = \"count\"`, or add a check";
        service.fault(service.at(), Complaint::new(cause.to_owned(), next));
    }
    let word = service.word("combine", &[("all", "all"), ("any", "any"), ("at_least", "at_least")], &[]);
    let counting = checks.iter().filter(|check| check.effect == Effect::Count).count();
    let most = u32::try_from(counting).unwrap_or(u32::MAX).max(1);
    match word {
        Some("at_least") => {
            if !service.has("at_least") {
                service.missing("at_least");
            }
            Combine::AtLeast(service.number("at_least", 1..=most).unwrap_or(1))
        }
        other => {
            let is_known = other.is_some() || !service.has("combine");
            if let Some(at) = service.place_of("at_least").filter(|_| is_known) {
                let cause = "`at_least` is only for `combine = \"at_least\"`";
                service.fault(at, Complaint::new(cause.to_owned(), "remove it, or set `combine`"));
            }
            if other == Some("any") { Combine::Any } else { Combine::All }
        }
    }
}
