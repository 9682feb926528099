//! What is said of services, members and switches: the words that `decide`, `status` and events share.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::SignalKind;

/// How a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    /// The best member is active.
    Ok,
    /// Another one is.
    Degraded,
    /// The active member is down and none is better.
    Down,
    /// No member is active: new connections are refused.
    Held,
}

/// Why the agent moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SwitchKind {
    /// The first choice of a service.
    Initial,
    /// Leaves a member that is down.
    Failover,
    /// Returns to a better one.
    Failback,
    /// An operator's.
    Manual,
}

/// What kind of trouble took a member down: what the kernel of its host, and Redis, still did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TroubleKind {
    /// Connections were refused, closed or reset.
    Refused,
    /// Nothing came back, not even an acknowledgement: host or network are gone.
    Silence,
    /// It was acknowledged, and not answered: a fork, a slow script, a frozen process.
    Stall,
    /// Redis answered with an error.
    Error,
    /// Anything else, such as a wrong answer.
    Other,
    /// The breaker opened: its clients failed.
    Breaker,
}

/// What took a member down, and how long it was borne.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Borne {
    /// What it was.
    pub trouble: TroubleKind,
    /// From its beginning, as the checks saw it, until the member was down; of a breaker zero.
    pub lasted: Duration,
    /// The signal of the kernel that made the probers look, if one did.
    pub signal: Option<SignalKind>,
    /// From the beginning of the trouble, as the traffic saw it, until the member was down.
    pub signalled: Option<Duration>,
}

/// What the checks say of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// No verdict yet: neither up nor down.
    Unknown,
    /// Passed.
    Up,
    /// Failed.
    Down,
    /// Taken out by an operator.
    Drained,
}

/// Which of a check's intervals holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// [`Check::interval`](super::Check::interval).
    Normal,
    /// [`Check::fast_interval`](super::Check::fast_interval): while in doubt.
    Fast,
    /// [`Check::down_interval`](super::Check::down_interval): while down for long.
    Down,
}

impl fmt::Display for ServiceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Down => "down",
            Self::Held => "held",
        })
    }
}

impl fmt::Display for TroubleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Refused => "refused",
            Self::Silence => "silence",
            Self::Stall => "stall",
            Self::Error => "error",
            Self::Other => "other",
            Self::Breaker => "breaker",
        })
    }
}

impl fmt::Display for SwitchKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Initial => "initial",
            Self::Failover => "failover",
            Self::Failback => "failback",
            Self::Manual => "manual",
        })
    }
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
            Self::Drained => "drained",
        })
    }
}
