//! The newest answer of every check at every address of a member: when it came, and whether it was a failure.
//!
//! Health counts answers; this remembers when they came. What is answered from it: is a verdict fresh, has a round of checks come
//! back, was a verdict confirmed after a moment at which the observer was suspected, and which members began to fail together.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::time::Time;
use crate::model::{Check, CheckId, Verdict};

/// Of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answers(Vec<AtAddress>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct AtAddress {
    address: SocketAddr,
    /// In the order of the configuration.
    checks: Vec<Option<Answer>>,
    /// When another one was heard for the first time since this one began to fail.
    heard: Option<Time>,
}

/// The newest answer of one check at one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) at: Time,
    pub(super) verdict: Verdict,
    /// Whether it, or one before it, said anything about the member.
    was_conclusive: bool,
    /// Whether the check can make the address up or down.
    decides: bool,
    /// When the failures up to now began without a pass between them.
    failing_since: Option<Time>,
    /// When the failure before the newest one came.
    failed_before: Option<Time>,
}

/// What an answer of a check that decides has changed at its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The first failure after passes, or of all.
    Fails,
    /// The first pass after failures.
    Passes {
        /// When they began.
        failed_since: Time,
    },
}

impl Answers {
    /// An answer has come. Returns what it has changed; `None`: it says what the one before said, or does not decide.
    pub(super) fn note(
        &mut self,
        now: Time,
        checks: &[Check],
        address: SocketAddr,
        check: CheckId,
        verdict: Verdict,
    ) -> Option<Turn> {
        let position = self.0.iter().position(|known| known.address == address);
        let position = position.unwrap_or_else(|| {
            self.0.push(AtAddress { address, checks: vec![None; checks.len()], heard: None });
            self.0.len() - 1
        });
        let slot = &mut self.0[position].checks[check.0];
        let (since, newest, was_conclusive) = slot.as_ref().map_or((None, None, false), |old| {
            let newest = (old.verdict == Verdict::Fail).then_some(old.at).or(old.failed_before);
            (old.failing_since, newest, old.was_conclusive)
        });
        let (failing_since, failed_before) = match verdict {
            Verdict::Pass => (None, None),
            Verdict::Fail => (since.or(Some(now)), newest),
            Verdict::Inconclusive => (since, newest),
        };
        let decides = checks[check.0].effect.decides();
        *slot = Some(Answer {
            at: now,
            verdict,
            was_conclusive: was_conclusive || verdict != Verdict::Inconclusive,
            decides,
            failing_since,
            failed_before,
        });
        let turn = match (since, failing_since) {
            (None, Some(_)) => Some(Turn::Fails),
            (Some(failed_since), None) => Some(Turn::Passes { failed_since }),
            (None, None) | (Some(_), Some(_)) => None,
        };
        turn.filter(|_| decides)
    }

    /// Addresses that are gone are forgotten.
    pub(super) fn retain(&mut self, addresses: &[SocketAddr]) {
        self.0.retain(|known| addresses.contains(&known.address));
    }

    /// The checks are others now: each was the one of its `origin` before, or is new.
    pub(super) fn rearrange(&mut self, origins: &[Option<CheckId>]) {
        for at in &mut self.0 {
            let old = std::mem::take(&mut at.checks);
            at.checks = origins.iter().map(|origin| *old.get((*origin)?.0)?).collect();
        }
    }

    /// The newest answer of a check at an address.
    pub(super) fn of(&self, address: SocketAddr, check: CheckId) -> Option<&Answer> {
        self.0.iter().find(|known| known.address == address)?.checks.get(check.0)?.as_ref()
    }

    /// Whether every check at `address` has answered within its own interval and time-out.
    pub(super) fn are_fresh(&self, now: Time, address: SocketAddr, checks: &[Check]) -> bool {
        let mut deciding = checks.iter().enumerate().filter(|(_, check)| check.effect.decides());
        deciding.all(|(number, check)| {
            self.of(address, CheckId(number))
                .is_some_and(|answer| now.since(answer.at) <= check.interval + check.longest_probe())
        })
    }

    /// Of one address.
    pub(super) fn at(&self, address: SocketAddr) -> Self {
        Self(self.0.iter().filter(|known| known.address == address).cloned().collect())
    }

    /// Of [the others](Self::others_of).
    pub(super) fn beside(&self, address: SocketAddr) -> Self {
        Self(self.0.iter().filter(|known| known.is_beside(address)).cloned().collect())
    }

    /// Other addresses of the same IP version that have answered anything.
    pub(super) fn others_of(&self, address: SocketAddr) -> impl Iterator<Item = SocketAddr> + '_ {
        self.0.iter().filter(move |known| known.is_beside(address)).map(|known| known.address)
    }

    /// When [another one](Self::others_of) was heard for the first time since this one began to fail.
    pub(super) fn heard(&self, address: SocketAddr) -> Option<Time> {
        self.0.iter().find(|known| known.address == address)?.heard
    }

    pub(super) fn set_heard(&mut self, address: SocketAddr, now: Time) {
        let known = self.0.iter_mut().find(|known| known.address == address);
        known.expect("it was asked for").heard = Some(now);
    }

    /// Since when no address has answered as it should; `None`: one has, or nothing is known yet.
    pub(super) fn failing_since(&self) -> Option<Time> {
        let at_address = |at: &AtAddress| at.deciding().filter_map(|answer| answer.failing_since).min();
        let is_known = |at: &&AtAddress| at.deciding().any(|answer| answer.was_conclusive);
        self.0.iter().filter(is_known).map(at_address).reduce(|one, other| Some(one?.max(other?)))?
    }

    /// Since when each check that fails does so without a pass, at every address.
    pub(super) fn failures(&self) -> impl Iterator<Item = Time> {
        self.0.iter().flat_map(AtAddress::deciding).filter_map(|answer| answer.failing_since)
    }

    /// When checks passed whose newest answer is a pass.
    pub(super) fn passes(&self) -> impl Iterator<Item = Time> {
        let deciding = self.0.iter().flat_map(AtAddress::deciding);
        deciding.filter(|answer| answer.verdict == Verdict::Pass).map(|answer| answer.at)
    }

    /// Whether something is known of an address, and no check fails there.
    pub(super) fn none_fails_at(&self, address: SocketAddr) -> bool {
        let known = self.0.iter().filter(|at| at.address == address);
        let mut known = known.filter(|at| at.deciding().any(|answer| answer.was_conclusive));
        known.any(|at| at.deciding().all(|answer| answer.failing_since.is_none()))
    }

    /// Whether a probe that began after `moment` has failed: of two failures after it, the first may have been under way.
    pub(super) fn confirmed_failing(&self, moment: Time) -> bool {
        let confirms = |answer: &Answer| {
            answer.verdict == Verdict::Fail && answer.failed_before.is_some_and(|before| before >= moment)
        };
        self.0.iter().flat_map(AtAddress::deciding).any(confirms)
    }

    /// Whether `others` have not passed since a check began to fail here: perhaps this host is cut off, and these answers are merely
    /// the first to show it.
    pub(super) fn is_unheard_by(&self, others: &Self) -> bool {
        let heard = others.passes().max();
        let failing = self.failures().max();
        failing.is_some_and(|since| heard.is_none_or(|heard| heard < since))
    }

    /// Whether all that is known against who is down since `down_since` may be of a cut that ended when others were `heard`.
    pub(super) fn may_have_been_cut(&self, down_since: Time, heard: Time) -> bool {
        let fails_since = || self.failures().any(|since| since <= heard);
        (down_since <= heard || fails_since()) && !self.confirmed_failing(heard)
    }
}

impl AtAddress {
    fn is_beside(&self, address: SocketAddr) -> bool {
        self.address != address && self.address.is_ipv4() == address.is_ipv4()
    }

    fn deciding(&self) -> impl Iterator<Item = &Answer> {
        self.checks.iter().flatten().filter(|answer| answer.decides)
    }
}

/// How old the answer of any of these checks may be, at most, while nothing is wrong.
pub(super) fn longest_wait<'a>(checks: impl Iterator<Item = &'a Check>) -> Duration {
    let wait = |check: &Check| check.interval.max(check.down_interval) + check.longest_probe();
    checks.filter(|check| check.effect.decides()).map(wait).max().unwrap_or_default()
}
