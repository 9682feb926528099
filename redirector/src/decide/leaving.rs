//! Addresses that were left out or removed and whose flows go on for a while: whose they end, and when.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::time::Time;
use crate::model::MemberId;

/// Few, so a list: at most all addresses of all members of a service, and those that were removed lately.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Leaving(Vec<Left>);

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Left {
    deadline: Time,
    member: MemberId,
    address: SocketAddr,
}

impl Leaving {
    /// The flows of an address go on for `rest`. One that is left a second time keeps the earlier deadline.
    pub(super) fn begin(&mut self, now: Time, member: MemberId, address: SocketAddr, rest: Duration) {
        let deadline = now + rest;
        match self.0.iter_mut().find(|left| (left.member, left.address) == (member, address)) {
            Some(left) => left.deadline = left.deadline.min(deadline),
            None => self.0.push(Left { deadline, member, address }),
        }
    }

    /// The address gets new flows again.
    pub(super) fn forget(&mut self, member: MemberId, address: SocketAddr) {
        self.0.retain(|left| (left.member, left.address) != (member, address));
    }

    /// Members have other numbers now; those that are `None` are gone, and with them what they had.
    pub(super) fn renumber(&mut self, number: impl Fn(MemberId) -> Option<MemberId>) {
        let renumbered = |left: Left| Some(Left { member: number(left.member)?, ..left });
        self.0 = self.0.drain(..).filter_map(renumbered).collect();
    }

    /// When the time of the next one is over.
    pub(super) fn next_deadline(&self, now: Time) -> Option<Time> {
        self.0.iter().map(|left| left.deadline).filter(|deadline| *deadline > now).min()
    }

    /// Those whose time is over.
    pub(super) fn due(&self, now: Time) -> impl Iterator<Item = (MemberId, SocketAddr)> + '_ {
        self.0.iter().filter(move |left| left.deadline <= now).map(|left| (left.member, left.address))
    }

    /// Removes those whose time is over, if they `may_end`.
    pub(super) fn take_ended(
        &mut self,
        now: Time,
        may_end: impl Fn(MemberId, SocketAddr) -> bool,
    ) -> Vec<(MemberId, SocketAddr)> {
        let ends = |left: &Left| left.deadline <= now && may_end(left.member, left.address);
        let (ended, rest): (Vec<_>, _) = self.0.drain(..).partition(ends);
        self.0 = rest;
        ended.into_iter().map(|left| (left.member, left.address)).collect()
    }
}
