//! When things were seen: first, last, and how many in each hundredth of a second.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value as Json, json};

/// Times of things of one kind.
#[derive(Default)]
pub struct Seen {
    count: usize,
    first: Option<Duration>,
    last: Option<Duration>,
    /// By hundredth of a second since the start of the clock.
    hundredths: BTreeMap<u64, usize>,
}

impl Seen {
    /// One more, which comes no earlier than the one before.
    pub fn push(&mut self, at: Duration) {
        self.count += 1;
        self.first = self.first.or(Some(at));
        self.last = Some(at);
        let hundredth = at.as_secs() * 100 + u64::from(at.subsec_millis() / 10);
        *self.hundredths.entry(hundredth).or_default() += 1;
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn json(&self) -> Json {
        let nanoseconds = |time: Option<Duration>| time.and_then(|time| u64::try_from(time.as_nanos()).ok());
        json!({
            "count": self.count,
            "first_ns": nanoseconds(self.first),
            "last_ns": nanoseconds(self.last),
            "hundredths": self.hundredths.iter().collect::<Vec<_>>(),
        })
    }
}
