//! Checks that concern the shards of a member, or all members of a service: what they are told, and what they find.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Cause;

/// What `keyspace` is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyspace {
    /// What its keys begin with; no braces.
    pub prefix: String,
    /// After this a value is gone by itself; longer than a probe takes.
    pub expiry: Duration,
    /// How many keys there are, spread over the slots, where the server has no Cluster API; 1 to [`MOST_TAGS`].
    pub tags: u16,
}

impl Default for Keyspace {
    fn default() -> Self {
        Self { prefix: "redirector:probe:".to_owned(), expiry: Duration::from_secs(60), tags: TAGS }
    }
}

/// What `heartbeat` is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// What the names of its channels begin with; no braces.
    pub channel: String,
    /// How late a message may be; longer than the check's interval.
    pub tolerance: Duration,
    /// How many channels there are, spread over the slots; `None`: one for all. 1 to [`MOST_TAGS`].
    pub tags: Option<u16>,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { channel: "redirector:heartbeat".to_owned(), tolerance: Duration::from_secs(5), tags: None }
    }
}

/// Parts that the slots are cut into, where a configuration says nothing.
pub const TAGS: u16 = 16;

/// Parts that they are cut into at most.
pub const MOST_TAGS: u16 = 1024;

/// A part of a member that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardFailure {
    /// Its slots, and where they should be: `slots 5461-10922 at 10.2.1.3:6379`.
    pub place: String,
    /// What stopped the probe there.
    pub cause: Cause,
    /// How many parts more failed, for other causes or at other addresses.
    pub others: usize,
}

impl ShardFailure {
    /// What follows the cause in a sentence.
    pub(super) fn and_others(&self) -> String {
        match self.others {
            0 => String::new(),
            1 => " (and one more part fails)".to_owned(),
            more => format!(" (and {more} more parts fail)"),
        }
    }
}

/// What a heartbeat finds wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeartbeatFault {
    /// The member does not even hear itself.
    Local,
    /// It hears itself, and not another one: what is written there does not arrive, or too late.
    Replication,
    /// Nothing was due yet.
    TooEarly,
    /// Nothing can be said: nobody else can be published through.
    Unknown,
}
