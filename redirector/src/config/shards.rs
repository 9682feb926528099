//! The keys of checks that cover the shards of a member, or all members of a service: `keyspace` and `heartbeat`.

use std::time::Duration;

use super::{
    check::{self, PREFIX},
    error::Complaint,
    read::Section,
};
use crate::model::{Check, CheckKind, Heartbeat, Keyspace, MOST_TAGS, TAGS};

/// Longest beginning of a channel's name: it is sent with every message.
const LONGEST_CHANNEL: usize = 256;

/// Keys of a prober's rounds, which a heartbeat has none of.
const OF_ROUNDS: [&str; 5] = ["probes", "probe_delay", "policy", "down_interval", "jitter_percent"];

/// A heartbeat is there to see what takes seconds; a shorter tolerance would see this host's own pauses.
const SHORTEST_TOLERANCE: Duration = Duration::from_millis(100);

pub(super) fn keyspace(section: &Section<'_>) -> CheckKind {
    let prefix = check::prefix(section);
    if let Some(at) = section.place_of("prefix").filter(|_| has_braces(&prefix)) {
        section.fault(at, in_braces("prefix", PREFIX));
    }
    CheckKind::Keyspace(Keyspace {
        prefix,
        expiry: check::expiry(section),
        tags: tags(section).unwrap_or(TAGS),
    })
}

pub(super) fn heartbeat(section: &Section<'_>) -> CheckKind {
    for key in OF_ROUNDS {
        if let Some(at) = section.place_of(key) {
            let cause = format!("`{key}` means nothing to a heartbeat, which beats once in every `interval`");
            section.fault(at, Complaint::new(cause, "remove it"));
        }
    }
    let defaults = Heartbeat::default();
    let channel = section.text("channel", |text| {
        if text.is_empty() || text.len() > LONGEST_CHANNEL || text.chars().any(char::is_control) {
            let cause = format!("`channel` must have 1 to {LONGEST_CHANNEL} bytes and no control characters");
            return Err(Complaint::new(cause, format!("write it like channel = {:?}", defaults.channel)));
        }
        if has_braces(text) {
            return Err(in_braces("channel", &defaults.channel));
        }
        Ok(text.to_owned())
    });
    let tolerance = section.time("tolerance", SHORTEST_TOLERANCE);
    let per_shard = section.boolean("per_shard").unwrap_or(false);
    let tags = tags(section);
    if let Some(at) = section.place_of("tags").filter(|_| !per_shard) {
        let next = "add per_shard = true, or remove `tags`: one channel stands for all slots";
        section.fault(at, Complaint::new("`tags` of a heartbeat without `per_shard`", next));
    }
    CheckKind::Heartbeat(Heartbeat {
        channel: channel.map_or(defaults.channel, |channel| channel.value),
        tolerance: tolerance.map_or(defaults.tolerance, |tolerance| tolerance.value),
        tags: per_shard.then(|| tags.unwrap_or(TAGS)),
    })
}

fn tags(section: &Section<'_>) -> Option<u16> {
    section.number("tags", 1..=MOST_TAGS.into()).and_then(|tags| u16::try_from(tags).ok())
}

/// The text in the first pair of braces decides about the slot of a key or channel: it has to be ours.
fn has_braces(text: &str) -> bool {
    text.contains(['{', '}'])
}

fn in_braces(key: &str, example: &str) -> Complaint {
    let next = format!("write it without, like {key} = {example:?}: hash tags are added to it");
    Complaint::new(format!("`{key}` has braces, which would decide about the slot"), next)
}

/// A message is late when another one should have come after it, at the least.
pub(super) fn beats_in_time(section: &Section<'_>, check: &Check, at: usize) {
    let CheckKind::Heartbeat(Heartbeat { tolerance, .. }) = &check.kind else { return };
    if *tolerance <= check.interval {
        let [tolerance, interval] = [*tolerance, check.interval].map(humantime::format_duration);
        let cause = format!("`tolerance` ({tolerance}) is not longer than `interval` ({interval})");
        section.fault(at, Complaint::new(cause, "make `tolerance` longer, or `interval` shorter"));
    }
}

/// What a member may not say of a heartbeat, which is one thing for all of them.
pub(super) fn of_all_members(section: &Section<'_>, check: &Check) {
    if !matches!(check.kind, CheckKind::Heartbeat(_)) {
        return;
    }
    for key in ["interval", "fast_interval", "timeout"].into_iter().chain(OF_ROUNDS) {
        if let Some(at) = section.place_of(key) {
            let cause =
                format!("`{key}` of a heartbeat in one member: it beats through all of them together");
            section.fault(at, Complaint::new(cause, "write it into the check of the service"));
        }
    }
}
