//! `status -o json`. A promise to scripts: fields may be added, none changes its meaning.

use serde::{Deserialize, Serialize};

pub use crate::model::{MemberState, ServiceState, SwitchKind};

/// Version of every JSON document that the command line prints.
pub const VERSION: u32 = 1;

/// The whole answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`VERSION`].
    pub version: u32,
    /// In the order of the configuration.
    pub services: Vec<ServiceStatus>,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// `address:port`, IPv6 in brackets.
    pub vips: Vec<String>,
    /// How it is.
    pub state: ServiceState,
    /// Name of the active member; `None`: new connections are refused.
    pub active: Option<String>,
    /// Grows by one with each switch.
    pub epoch: u32,
    /// Since when the active member is active (RFC 3339, UTC); `None`: nothing was chosen yet.
    pub since: Option<String>,
    /// Name of the member that an operator pinned.
    pub pinned: Option<String>,
    /// Whether an operator stopped automatic switching.
    pub paused: bool,
    /// The newest switch.
    pub last_switch: Option<SwitchStatus>,
    /// In the order of the configuration.
    pub members: Vec<MemberStatus>,
}

/// One switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchStatus {
    /// Member that was left; `None`: there was none.
    pub from: Option<String>,
    /// Member that was chosen; `None`: the service is held.
    pub to: Option<String>,
    /// Why the agent moved.
    pub kind: SwitchKind,
    /// In words.
    pub reason: String,
    /// RFC 3339, UTC.
    pub at: String,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// As configured.
    pub endpoint: String,
    /// What the endpoint resolves to.
    pub addresses: Vec<String>,
    /// The healthy member with the highest weight is active.
    pub weight: u32,
    /// What the checks say.
    pub state: MemberState,
    /// Why, in words: `ping ok in 0.3 ms`.
    pub reason: String,
    /// When the newest probe ended (RFC 3339, UTC).
    pub checked_at: Option<String>,
    /// Whether it could become active now.
    pub eligible: bool,
    /// Why not.
    pub eligible_reason: Option<String>,
    /// Flows that it carries.
    pub flows: u64,
}
