//! Reading the flow table in batches, and deleting from it.
//!
//! The agent never writes a flow: an update of a hash map replaces the element, and would lose what programs wrote
//! in between. It only deletes.

use std::{
    io,
    ops::ControlFlow::{self, Continue},
    os::fd::BorrowedFd,
};

use anyhow::{Context as _, Result};
use redirector_common::{
    addr::Tuple,
    flow::{Flow, Half, Stub},
};

use super::bpf::Table;

/// Both halves of all flows. Clones are the same tables; reading them keeps nobody waiting.
#[derive(Clone, Debug)]
pub(super) struct Flows {
    flows: Table<Tuple, Flow>,
    replies: Table<Tuple, Stub>,
}

/// A flow, by what names exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// Its key.
    pub(super) client_side: Tuple,
    /// Another one has the same key by now, if this differs.
    pub(super) incarnation: u64,
}

impl Flows {
    /// Of the maps `flows` and `replies`.
    pub(super) fn new(flows: BorrowedFd<'_>, replies: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { flows: Table::new(flows)?, replies: Table::new(replies)? })
    }

    /// Calls `each` for every flow. One that is opened or ends meanwhile may be missed or seen; none is seen twice
    /// unless it was opened twice.
    pub(super) fn for_each(&self, mut each: impl FnMut(&Tuple, &Flow)) -> Result<()> {
        self.for_each_until(|client_side, flow| {
            each(client_side, flow);
            Continue(())
        })
    }

    /// As [`Flows::for_each`], until `each` says to stop.
    pub(super) fn for_each_until(&self, each: impl FnMut(&Tuple, &Flow) -> ControlFlow<()>) -> Result<()> {
        self.flows.for_each(each).context("cannot read the flow table")
    }

    /// Calls `each` for every stub.
    pub(super) fn for_each_stub(&self, mut each: impl FnMut(&Tuple, &Stub)) -> Result<()> {
        let each = |member_side: &Tuple, stub: &Stub| {
            each(member_side, stub);
            Continue(())
        };
        self.replies.for_each(each).context("cannot read the stubs of flows")
    }

    /// Whether the other half of a flow is there and belongs to it.
    pub(super) fn has_stub(&self, flow: &Flow) -> Result<bool> {
        let stub = self.replies.get(&flow.member_side).context("cannot read a stub")?;
        Ok(stub.is_some_and(|stub| stub.incarnation == flow.incarnation))
    }

    /// Whether a flow is still there, and not another one with its tuple.
    pub(super) fn has(&self, flow: &Named) -> Result<bool> {
        let now = self.flows.get(&flow.client_side).context("cannot read a flow")?;
        Ok(now.is_some_and(|now| now.incarnation == flow.incarnation))
    }

    /// Forgets a flow, both halves, unless the entry is another one by now.
    pub(super) fn remove(&self, flow: &Named) -> Result<()> {
        self.remove_if(&flow.client_side, |now| now.incarnation == flow.incarnation).map(drop)
    }

    /// Forgets a flow, both halves, unless something was carried since `flow` was read. Returns whether it did.
    ///
    /// Between this look and the deletion a segment may still be carried. Whoever sent it after all that time hears a
    /// reset when he goes on: nobody is left hanging.
    pub(super) fn remove_idle(&self, client_side: &Tuple, flow: &Flow) -> Result<bool> {
        let unchanged = |now: &Half, then: &Half| now.at == then.at && now.seen == then.seen;
        self.remove_if(client_side, |now| {
            now.incarnation == flow.incarnation
                && unchanged(&now.client, &flow.client)
                && unchanged(&now.replies, &flow.replies)
        })
    }

    fn remove_if(&self, client_side: &Tuple, is_meant: impl FnOnce(&Flow) -> bool) -> Result<bool> {
        let now = self.flows.get(client_side).context("cannot read a flow")?;
        let Some(flow) = now.filter(|now| is_meant(now)) else { return Ok(false) };
        // The stub goes first: a reply that still comes is then nobody's.
        if self.has_stub(&flow)? {
            self.replies.remove(&flow.member_side).context("cannot delete a stub")?;
        }
        self.flows.remove(client_side).context("cannot delete a flow")
    }

    /// Removes a stub if it still leads to no flow. Returns whether it did.
    pub(super) fn remove_stray(&self, member_side: &Tuple, stub: &Stub) -> Result<bool> {
        let now = self.replies.get(member_side).context("cannot read a stub")?;
        if now.is_none_or(|now| now.incarnation != stub.incarnation) {
            return Ok(false);
        }
        let flow = self.flows.get(&stub.client_side).context("cannot read a flow")?;
        if flow.is_some_and(|flow| flow.incarnation == stub.incarnation) {
            return Ok(false);
        }
        self.replies.remove(member_side).context("cannot delete a stub")
    }
}
