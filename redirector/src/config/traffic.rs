//! What is made of live traffic: `signals`, `[service.breaker]`, `[service.limit]`.

use std::time::Duration;

use super::{error::Complaint, read::Section};
use crate::model::{Breaker, OpenLimit, Signals};

const SIGNALS: [(&str, Signals); 3] =
    [("act", Signals::Act), ("observe", Signals::Observe), ("off", Signals::Off)];

/// Two looks at the traffic: a shorter window could be empty whatever happens.
const SHORTEST_WINDOW: Duration = Duration::from_millis(200);

const SHORTEST_OPEN: Duration = Duration::from_millis(100);

pub(super) fn signals(service: &Section<'_>) -> Signals {
    service.word("signals", &SIGNALS, &[]).unwrap_or_default()
}

/// `[service.breaker]`; `None`: it is not there.
pub(super) fn breaker(service: &Section<'_>, signals: Signals) -> Option<Breaker> {
    service.has("breaker").then(|| {
        let section = service.sub("breaker");
        if signals == Signals::Off {
            let complaint = Complaint::new(
                "`signals` is \"off\", so the breaker would see nothing and never open",
                "write signals = \"act\", or \"observe\" to see what it counts, or remove the section",
            );
            section.fault(section.at(), complaint);
        }
        let defaults = Breaker::default();
        let time = |key, shortest, default| section.time(key, shortest).map_or(default, |time| time.value);
        Breaker {
            minimum_failures: section
                .number("minimum_failures", 1..=u32::MAX)
                .unwrap_or(defaults.minimum_failures),
            failure_rate: section.number("failure_rate", 0..=100).unwrap_or(defaults.failure_rate),
            window: time("window", SHORTEST_WINDOW, defaults.window),
            in_a_row: section.number("in_a_row", 0..=u32::MAX).unwrap_or(defaults.in_a_row),
            open_for: time("open_for", SHORTEST_OPEN, defaults.open_for),
        }
    })
}

/// `[service.limit]`; `None`: it is not there.
pub(super) fn limit(service: &Section<'_>) -> Option<OpenLimit> {
    service.has("limit").then(|| {
        let section = service.sub("limit");
        if !section.has("new_connections") {
            section.missing("new_connections");
        }
        let new_connections = section.number("new_connections", 1..=1_000_000).unwrap_or(1);
        let burst = section.number("burst", 1..=1_000_000).unwrap_or_else(|| (new_connections / 5).max(1));
        OpenLimit { new_connections, burst }
    })
}
