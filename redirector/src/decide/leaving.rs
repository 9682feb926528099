//! Addresses that were left out or removed and whose flows go on for a while: whose they end, and when.

use std::{net::SocketAddr, time::Duration};

use super::time::Time;
use crate::model::MemberId;

/// Few, so a list: at most all addresses of all members of a service, and those that were removed lately.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaving(Vec<Left>);

#[derive(Clone, Copy, Debug)]
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

    /// Members have other ids from now on; those that are gone are nobody's business here any more.
    pub(super) fn rename(&mut self, new: impl Fn(MemberId) -> Option<MemberId>) {
        self.0 =
            (self.0.drain(..)).filter_map(|left| Some(Left { member: new(left.member)?, ..left })).collect();
    }

    /// When the next one ends.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.0.iter().map(|left| left.deadline).min()
    }

    /// Removes those that have ended.
    pub(super) fn take_ended(&mut self, now: Time) -> Vec<(MemberId, SocketAddr)> {
        let (ended, rest): (Vec<_>, _) = self.0.drain(..).partition(|left| left.deadline <= now);
        self.0 = rest;
        ended.into_iter().map(|left| (left.member, left.address)).collect()
    }
}
