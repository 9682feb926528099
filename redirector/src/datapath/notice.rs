//! What the datapath's threads and tasks tell the agent: what they did, never what is to be done.

use std::{collections::BTreeMap, time::Instant};

use tokio::sync::mpsc;

/// Where notices go. They are few: a handful for each switch, and restorations have a pace. Nobody waits for the reader.
pub(super) type Notices = mpsc::UnboundedSender<Notice>;

/// Something was done.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A pass over the flow table has ended.
    Swept(Swept),
    /// What somebody else took away from this host is there again; in words.
    Restored(String),
}

/// A pass that resets stale flows.
#[derive(Clone, Debug)]
pub struct Swept {
    /// When it was asked for: after flows were made stale.
    pub requested: Instant,
    /// When it had ended.
    pub ended: Instant,
    /// What it found, by the id that the kernel has for a member.
    pub members: BTreeMap<u16, SweptFlows>,
}

/// Stale flows of one member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweptFlows {
    /// Both ends were reset: their sockets were destroyed, or they were sent resets.
    pub reset: u64,
    /// Neither was possible: reset with their next packet.
    pub waiting: u64,
}
