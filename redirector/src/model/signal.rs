//! What the kernel programs observed on live traffic, and what a service makes of it: `signals`, `[service.breaker]`,
//! `[service.limit]`.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::RedisErrorKind;

/// How long a member is waited for before its silence, or its stall, is a signal: what the programs saw is looked at so often.
pub const LOOK_AFTER: Duration = Duration::from_millis(100);

/// Something that live traffic with a member has shown. A reason to look, never a proof: a firewall that rejects one
/// container's packets with resets looks like a member that refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// What it was.
    pub kind: SignalKind,
    /// How long before the signal is handed in the trouble began: the first segment that got no answer, say.
    pub ago: Duration,
    /// How often it was seen since the signal of this kind before; at least 1.
    pub count: u32,
}

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalKind {
    /// A reset in answer to a SYN.
    Refused,
    /// A SYN was sent again.
    Unanswered,
    /// The member reset an established flow.
    Reset,
    /// The member ended an established flow first.
    Closed,
    /// A client's segment was sent again.
    Retransmitted,
    /// Something was sent, and nothing at all came back, not even an acknowledgement.
    Silent,
    /// Something was asked, and acknowledged, but not answered.
    Stalled,
    /// ICMP says that there is no way to the member.
    Unreachable,
    /// A reply that begins with an error that means trouble.
    ErrorReply(RedisErrorKind),
}

impl SignalKind {
    /// The word for it, as in metrics and `status`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Retransmitted => "retransmitted",
            Self::Silent => "silent",
            Self::Stalled => "stalled",
            Self::Unreachable => "unreachable",
            Self::ErrorReply(_) => "error_reply",
        }
    }
}

/// `silent`, `error_reply LOADING`
impl fmt::Display for SignalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ErrorReply(kind) => write!(f, "{} {}", self.name(), kind.word()),
            _ => f.pad(self.name()),
        }
    }
}

/// What all processes of this host have met at a member since the same was handed in before.
///
/// The unit is an *attempt*: a connection that was opened or not, or a reply that was looked at. Replies are looked at by
/// samples, errors and others alike, so that their proportion is right and their number too low.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Connections that were opened.
    #[serde(rename = "c")]
    pub connected: u32,
    /// Connections that were refused, or whose SYN was given up or repeated.
    #[serde(rename = "f")]
    pub failed: u32,
    /// Replies that were no error that means trouble.
    #[serde(rename = "a")]
    pub answered: u32,
    /// Error replies that mean trouble.
    #[serde(rename = "e")]
    pub errors: u32,
}

impl Traffic {
    /// Whether nothing happened.
    #[must_use]
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// `signals`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signals {
    /// A signal makes the member's probers probe at once.
    #[default]
    Act,
    /// Signals are shown, and what a breaker counts; it never opens.
    Observe,
    /// Nobody looks at them, nor at the traffic: there is no breaker.
    Off,
}

/// `[service.breaker]`: takes a member down for what its clients meet, whatever its checks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    /// So many failures within the window are needed; at least 1.
    pub minimum_failures: u32,
    /// And so many percent of all attempts in the window; 0 (the number alone counts) to 100.
    pub failure_rate: u32,
    /// What is further back is forgotten; at least 200 ms.
    pub window: Duration,
    /// Or so many failures in a row; 0: no number of them is enough.
    pub in_a_row: u32,
    /// How long it stays open at least; then the member's checks must pass anew. At least 100 ms.
    pub open_for: Duration,
}

impl Default for Breaker {
    /// As redis-py and Jedis have it (1000 failures and 10 % within 2 s, 60 s of grace), and twenty in a row.
    fn default() -> Self {
        Self {
            minimum_failures: 1000,
            failure_rate: 10,
            window: Duration::from_secs(2),
            in_a_row: 20,
            open_for: Duration::from_secs(60),
        }
    }
}

/// `[service.limit]`: how quickly new connections may come. More are refused with a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenLimit {
    /// In a second, to the whole service; at least 1.
    pub new_connections: u32,
    /// How many may come at once, beyond that; at least 1.
    pub burst: u32,
}
