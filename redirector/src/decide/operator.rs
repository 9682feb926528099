//! What an operator can say to a service, and what comes of it.
//!
//! | command | meaning |
//! |---|---|
//! | switch | makes a member active by hand and *pins* it: there is no failback while a pin holds |
//! | release | ends the pin; calls off a switch that still waits for its round |
//! | drain, undrain | takes a member out of the choice and back; the active one is left for the best other |
//! | pause, resume | nothing automatic moves the service, not even a failover |
//! | weight | another weight than the configuration's |
//!
//! What stands afterwards is in [`Orders`](super::Orders).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::MemberId;

/// What an operator wants of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Make a member active and pin it.
    Switch {
        /// Which one.
        to: MemberId,
        /// For how long it is pinned; `None`: until it is released.
        hold: Option<Duration>,
        /// The operator's own words; may be empty.
        reason: String,
        /// Without a round of checks, without regard to gates, and to a member that is down or unknown too; not to one
        /// that is drained. One that was not up then is not left for being down, until it has been up once.
        force: bool,
    },
    /// End the pin.
    Release,
    /// Take a member out of the choice.
    Drain {
        /// Which one.
        member: MemberId,
        /// Also the last one that is up, which is left when another one comes up; and without a round and regard to gates.
        force: bool,
    },
    /// Take it back into the choice.
    Undrain {
        /// Which one.
        member: MemberId,
    },
    /// No automatic switch any more.
    Pause,
    /// Automatic switches again.
    Resume,
    /// Another weight, until the configuration gives the member another one.
    Weight {
        /// Whose.
        member: MemberId,
        /// At least 1.
        weight: u32,
    },
}

/// The service does what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accepted {
    /// It is done, or stands as an order from now on.
    Done,
    /// The switch waits for a round of checks of its target. One [`Action::Answer`](super::Action::Answer) follows, at the
    /// latest when the checks' time-outs have passed; a second switch is refused until then.
    Waits,
}

/// The service does not do what it was told, and nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why, in words.
    pub reason: String,
    /// What the operator can do instead.
    pub next: String,
}

impl Refused {
    pub(super) fn new(reason: impl Into<String>, next: impl Into<String>) -> Self {
        Self { reason: reason.into(), next: next.into() }
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.reason, self.next)
    }
}
