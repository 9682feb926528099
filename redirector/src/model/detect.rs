//! How verdicts become a state, and how long trouble is borne: `effect`, `combine`, `policy`, `[service.detect]`; and what
//! follows from the tolerances for the probes themselves.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Check, FailureKind, RedisErrorKind};

/// What the verdict of a check is good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Takes part in [`Combine`].
    #[default]
    Count,
    /// Must pass, whatever the others say.
    Veto,
    /// Only decides whether a member that is alive may be left for this one.
    Gate,
    /// Is shown and decides nothing.
    Observe,
}

impl Effect {
    /// Whether it can make an address up or down.
    #[must_use]
    pub fn decides(self) -> bool {
        matches!(self, Self::Count | Self::Veto)
    }

    /// The word that a configuration uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Veto => "veto",
            Self::Gate => "gate",
            Self::Observe => "observe",
        }
    }
}

/// Which of the checks that count must pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Combine {
    /// All of them.
    #[default]
    All,
    /// One is enough.
    Any,
    /// This many; at least 1, and no more than there are.
    AtLeast(u32),
}

impl Combine {
    /// How many of `count` checks must pass. Of none, none: then vetoes alone decide.
    #[must_use]
    pub fn needed(self, count: usize) -> usize {
        match self {
            Self::All => count,
            Self::Any => count.min(1),
            Self::AtLeast(number) => count.min(usize::try_from(number).unwrap_or(usize::MAX)),
        }
    }
}

/// How many of several probes must pass to make one verdict. Those that are inconclusive are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// All of them.
    #[default]
    All,
    /// More than half.
    Majority,
    /// One is enough.
    Any,
}

/// `[service.detect]`: how long which kind of trouble is borne.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detect {
    /// Nothing comes back, or the network says that there is no way; at least 10 ms.
    pub silence_tolerance: Duration,
    /// The host acknowledges, Redis does not answer, or answers `BUSY`: a slow script; at least 10 ms.
    pub stall_tolerance: Duration,
    /// The connection is refused or closed, or Redis answers with another error: it may be about to come back.
    pub refused_tolerance: Duration,
}

impl Detect {
    /// The tolerance of failures of this kind. A wrong answer is not borne: waiting mends none.
    #[must_use]
    pub fn tolerance(&self, kind: FailureKind) -> Duration {
        match kind {
            FailureKind::Silence => self.silence_tolerance,
            FailureKind::Stall | FailureKind::Redis(RedisErrorKind::Busy) => self.stall_tolerance,
            FailureKind::Refused | FailureKind::Redis(_) => self.refused_tolerance,
            FailureKind::Other => Duration::ZERO,
        }
    }
}

/// How long one probe waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For a sign of life: the answer over a kept connection, or the answer to a SYN. `None`: as long as for the answer.
    pub silence: Option<Duration>,
    /// For the answer, from the start of the probe.
    pub answer: Duration,
}

impl Limits {
    /// How long a probe waits for the answer over a kept connection before it asks again over a new one.
    #[must_use]
    pub fn kept(&self) -> Duration {
        self.silence.map_or(self.answer, |silence| silence.min(self.answer / 2))
    }
}

/// No probe is given up sooner: below it a busy host would see faults of its own.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// From one refused probe to the next: long enough to be another attempt, short enough to leave a crashed member at once.
const CONFIRMATION: Duration = Duration::from_millis(1);

/// How many attempts follow each other so quickly.
const QUICK_ATTEMPTS: u32 = 3;

impl Check {
    /// How long a probe waits when nobody is in a hurry: nothing passed yet, or the check fails already.
    #[must_use]
    pub fn patient_limits(&self) -> Limits {
        Limits { silence: None, answer: self.timeout }
    }

    /// How long a probe waits while the check passes, so that `fall` failures in a row fit into the tolerance of their kind.
    ///
    /// A member that is far away or slow is given more: twice what its newest passes took, `round_trip` over a connection that
    /// was open already (or the like) and `whole` with opening one. `timeout` is the limit of it all.
    ///
    /// A probe over a kept connection that gets no answer asks again over a new one, so the first failure of a silence
    /// takes two waits: hence `fall` + 1.
    #[must_use]
    pub fn limits(&self, round_trip: Duration, whole: Duration) -> Limits {
        let share = |tolerance: Duration, of: u32| round_up(tolerance / of).max(SHORTEST_WAIT);
        let silence = share(self.detect.silence_tolerance, self.fall + 1).max(round_up(round_trip * 2));
        let silence = silence.min(self.timeout / 2);
        let answer = share(self.detect.stall_tolerance, self.fall).max(round_up(whole * 2)).max(silence);
        Limits { silence: Some(silence), answer: answer.min(self.timeout) }
    }

    /// From the start of a round that was refused to the next one, when so many have failed in a row. The first three
    /// attempts follow quickly, as far as there is no tolerance to spread them over; who asks for more than three by
    /// `fall` wants to wait. Whoever else is asked than the member's Redis is in no such hurry.
    #[must_use]
    pub fn after_refusal(&self, failures: u32) -> Duration {
        if self.kind.asks_redis() && failures < self.fall.min(QUICK_ATTEMPTS) {
            (self.detect.refused_tolerance / self.fall).max(CONFIRMATION).min(self.fast_interval)
        } else {
            self.fast_interval
        }
    }
}

/// To whole milliseconds, as time-outs are shown.
fn round_up(duration: Duration) -> Duration {
    let millis = duration.as_nanos().div_ceil(1_000_000);
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}
