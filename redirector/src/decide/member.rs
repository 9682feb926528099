//! A member with all its addresses: what their checks say of it, and which of them are offered to new flows.
//!
//! Every address has a health of its own, and the member has one [`breaker`] for all. While that is not closed the member is
//! down. Else it is **up** when one of its addresses is up, **down** when all are
//! down, and else unknown. Where it has addresses of both IP versions, the IPv4 ones say it: were the two counted
//! together, a member that IPv4 clients cannot reach any more would never be left.
//!
//! Which addresses of an IP version are offered:
//!
//! * Those that are up, if there are any; and with them those that have no verdict yet but were offered before. A new
//!   address has to pass its checks, one that a restarted agent finds in use stays in use.
//! * While none is up: those that were offered. When all addresses fail, taking out the last ones helps nobody, and
//!   whether to leave the member is not decided here.
//! * If none of those is left: those that are not down, or else all.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    breaker::{self, Breaker},
    health::{Change, Health},
    time::Time,
};
use crate::model::{
    Breaker as Settings, Check, CheckId, Combine, MemberState, Offer, ProbeOutcome, Traffic, TroubleKind,
    Verdict,
};

/// One member as its checks see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Member {
    /// As the caller gave them.
    addresses: Vec<Address>,
    /// How their checks are combined.
    combine: Combine,
    breaker: Breaker,
    state: MemberState,
    /// Since when `state` holds without a break.
    since: Time,
    checked_at: Option<Time>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Address {
    address: SocketAddr,
    health: Health,
    offered: bool,
    /// It was left out because it is down, and its flows were dealt with.
    left: bool,
}

impl Member {
    /// With addresses that were never probed.
    pub(super) fn new(known: &[Offer], checks: &[Check], combine: Combine, now: Time) -> Self {
        let address = |offer: &Offer| Address {
            offered: offer.offered,
            ..Address::new(offer.address, checks, combine)
        };
        Self {
            addresses: known.iter().map(address).collect(),
            combine,
            breaker: Breaker::default(),
            state: MemberState::Unknown,
            since: now,
            checked_at: None,
        }
    }

    /// Takes a probe's outcome into account. `None`: the address was removed meanwhile.
    pub(super) fn on_outcome(
        &mut self,
        now: Time,
        address: SocketAddr,
        check: CheckId,
        outcome: &ProbeOutcome,
    ) -> Option<Change> {
        let found = self.addresses.iter_mut().find(|known| known.address == address)?;
        let change = found.health.on_outcome(now, check, outcome);
        if outcome.verdict() != Verdict::Inconclusive {
            self.breaker.on_outcome(address, check, outcome.verdict() == Verdict::Pass);
        }
        self.checked_at = Some(now);
        self.judge(now);
        Some(change)
    }

    /// Gates that have said nothing for `patience` bar nobody any more.
    pub(super) fn forget_silent_gates(&mut self, now: Time, patience: Duration) {
        self.addresses.iter_mut().for_each(|known| known.health.forget_silent_gates(now, patience));
    }

    /// Tolerances may have ended. What that has changed, address by address.
    pub(super) fn on_deadline(&mut self, now: Time) -> Vec<(SocketAddr, Change)> {
        let mut changes = Vec::new();
        for known in &mut self.addresses {
            if known.health.next_deadline().is_some_and(|deadline| deadline <= now) {
                changes.push((known.address, known.health.on_deadline(now)));
            }
        }
        self.breaker.on_deadline(now);
        self.judge(now);
        changes
    }

    /// Clients of the member have met this. Returns whether that takes it down, which it may if the service `acts`.
    pub(super) fn on_traffic(
        &mut self,
        now: Time,
        settings: &Settings,
        traffic: Traffic,
        acts: bool,
    ) -> bool {
        if self.state == MemberState::Down {
            // What fails now is no news, and no reason to go down again when it is back.
            self.breaker.forget();
            return false;
        }
        if !acts {
            self.breaker.count(now, settings, traffic);
            return false;
        }
        let opened = self.breaker.on_traffic(now, settings, traffic);
        self.judge(now);
        opened
    }

    /// The breaker may have other settings now, if it `is_new`, or there is none that may open.
    pub(super) fn set_breaker(&mut self, settings: Option<&Settings>, is_new: bool, now: Time) {
        self.breaker.carry(settings, is_new);
        self.judge(now);
    }

    pub(super) fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// What took the member down, and how long it was borne; `None`: it is not down.
    pub(super) fn borne(&self) -> Option<(TroubleKind, Duration)> {
        if self.state != MemberState::Down {
            return None;
        }
        if self.breaker.state() != breaker::State::Closed {
            return Some((TroubleKind::Breaker, Duration::ZERO));
        }
        self.deciding().find_map(|known| known.health.borne())
    }

    /// When [`Self::on_deadline`] wants to be called.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.next_tolerance().into_iter().chain(self.breaker.next_deadline()).min()
    }

    /// When a check fails unless it passes before.
    pub(super) fn next_tolerance(&self) -> Option<Time> {
        self.addresses.iter().filter_map(|known| known.health.next_deadline()).min()
    }

    /// Makes `wanted` the addresses. Returns those that were there and are not any more.
    pub(super) fn set_addresses(
        &mut self,
        wanted: &[SocketAddr],
        checks: &[Check],
        now: Time,
    ) -> Vec<SocketAddr> {
        let mut before = std::mem::take(&mut self.addresses);
        for address in wanted {
            let known = before.iter().position(|known| known.address == *address);
            let kept = known.map(|at| before.swap_remove(at));
            self.addresses.push(kept.unwrap_or_else(|| Address::new(*address, checks, self.combine)));
        }
        self.judge(now);
        before.iter().map(|gone| gone.address).collect()
    }

    /// Decides anew which addresses are offered. Returns those that were left out now because they are down.
    pub(super) fn offer(&mut self) -> Vec<SocketAddr> {
        self.offer_version(|address| address.address.is_ipv4());
        self.offer_version(|address| address.address.is_ipv6());
        let mut left_out = Vec::new();
        for address in &mut self.addresses {
            let leaves = !address.offered && address.state() == MemberState::Down;
            if leaves && !address.left {
                left_out.push(address.address);
            }
            address.left = leaves;
        }
        left_out
    }

    fn offer_version(&mut self, of_version: impl Fn(&Address) -> bool) {
        let mut version: Vec<_> = self.addresses.iter_mut().filter(|address| of_version(address)).collect();
        if version.iter().any(|address| address.state() == MemberState::Up) {
            for address in &mut version {
                address.offered = match address.state() {
                    MemberState::Up => true,
                    MemberState::Down | MemberState::Drained => false,
                    MemberState::Unknown => address.offered,
                };
            }
        } else if !version.iter().any(|address| address.offered) {
            let all_down = version.iter().all(|address| address.state() == MemberState::Down);
            for address in &mut version {
                address.offered = all_down || address.state() != MemberState::Down;
            }
        }
    }

    /// All addresses, and which of them are offered.
    pub(super) fn offers(&self) -> Vec<Offer> {
        self.addresses.iter().map(|known| Offer { address: known.address, offered: known.offered }).collect()
    }

    pub(super) fn state(&self) -> MemberState {
        self.state
    }

    /// Whether a check that decides counts failures at an address, and has no verdict of them so far.
    pub(super) fn counts_failures(&self) -> bool {
        self.addresses.iter().any(|known| known.health.counts_failures())
    }

    /// Whether each of these checks has answered a probe that began at this moment or later, at every address.
    pub(super) fn have_answered_since(&self, moment: Time, checks: &[CheckId]) -> bool {
        self.addresses.iter().all(|known| known.health.have_answered_since(moment, checks))
    }

    /// Since when the member has been up without a break; `None`: it is not up.
    pub(super) fn up_since(&self) -> Option<Time> {
        (self.state == MemberState::Up).then_some(self.since)
    }

    /// Since when [`Self::state`] holds without a break.
    pub(super) fn since(&self) -> Time {
        self.since
    }

    /// When the newest probe ended.
    pub(super) fn checked_at(&self) -> Option<Time> {
        self.checked_at
    }

    /// The address that says most about the member, and what it says. With several addresses it is named.
    pub(super) fn reason(&self) -> String {
        if let Some(why) = self.breaker.down_because() {
            return why;
        }
        let telling = self.addresses.iter().min_by_key(|known| known.health.rank());
        let Some(telling) = telling else {
            return "no address".to_owned();
        };
        let reason = telling.health.reason();
        if self.addresses.len() == 1 {
            return reason;
        }
        let up = self.addresses.iter().filter(|known| known.state() == MemberState::Up).count();
        format!("{up} of {} addresses up; {}: {reason}", self.addresses.len(), telling.address)
    }

    /// What the checks say of one of several addresses; `None`: it is the only one, or not there.
    pub(super) fn reason_of(&self, address: SocketAddr) -> Option<String> {
        let several = self.addresses.len() > 1;
        let found = self.addresses.iter().find(|known| several && known.address == address)?;
        Some(found.health.reason())
    }

    /// Why the member is down; `None`: it is not.
    pub(super) fn down_because(&self) -> Option<String> {
        if self.state != MemberState::Down {
            return None;
        }
        if let Some(why) = self.breaker.down_because() {
            return Some(why);
        }
        let (first, why) =
            self.deciding().find_map(|known| Some((known.address, known.health.down_because()?)))?;
        Some(match self.deciding().count() - 1 {
            0 if self.addresses.len() == 1 => why,
            0 => format!("{first}: {why}"),
            others => format!("{first}: {why}, and {others} more"),
        })
    }

    /// Why a member that is alive may not be left for this one: what a gate says of an address that flows would go to.
    /// `None`: no gate bars it.
    #[allow(dead_code, reason = "the choice of a member asks for it, with the operator's commands")]
    pub(super) fn gate(&self) -> Option<String> {
        let mut up = self.deciding().filter(|known| known.state() == MemberState::Up);
        up.find_map(|known| {
            let why = known.health.gate()?;
            Some(if self.addresses.len() == 1 { why } else { format!("{}: {why}", known.address) })
        })
    }

    /// What a round of checks asks: every check at every address that is up, and whether a failure there would be new.
    pub(super) fn asked_in_a_round(&self) -> impl Iterator<Item = (SocketAddr, CheckId, bool)> {
        let up = self.addresses.iter().filter(|known| known.state() == MemberState::Up);
        up.flat_map(|known| {
            let asked = |(check, must_pass)| (known.address, check, must_pass);
            known.health.asked_in_a_round().map(asked)
        })
    }

    /// The checks are others now: each was the one of its `origin` before, or is new. What that has changed.
    pub(super) fn set_checks(
        &mut self,
        checks: &[Check],
        origins: &[Option<CheckId>],
        combine: Combine,
        now: Time,
    ) -> Vec<(SocketAddr, Change)> {
        self.combine = combine;
        let set =
            |known: &mut Address| (known.address, known.health.set_checks(checks, origins, combine, now));
        let changes = self.addresses.iter_mut().map(set).collect();
        self.judge(now);
        changes
    }

    /// Each address with its health and whether it is offered.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (SocketAddr, &Health, bool)> {
        self.addresses.iter().map(|known| (known.address, &known.health, known.offered))
    }

    /// The addresses that say how the member is.
    fn deciding(&self) -> impl Iterator<Item = &Address> {
        let v4 = self.addresses.iter().any(|known| known.address.is_ipv4());
        self.addresses.iter().filter(move |known| known.address.is_ipv4() == v4)
    }

    fn judge(&mut self, now: Time) {
        if self.breaker.state() == breaker::State::HalfOpen && self.has_passed_anew() {
            self.breaker.close();
        }
        let state = if self.breaker.state() == breaker::State::Closed {
            self.state_by_checks()
        } else {
            MemberState::Down
        };
        if state != self.state {
            (self.state, self.since) = (state, now);
        }
    }

    /// At one of the addresses at least.
    fn has_passed_anew(&self) -> bool {
        self.deciding().any(|known| {
            let passes = |check| self.breaker.passes(known.address, check);
            known.health.has_passed_anew(passes)
        })
    }

    fn state_by_checks(&self) -> MemberState {
        let any = |state| self.deciding().any(|known| known.state() == state);
        if any(MemberState::Up) {
            MemberState::Up
        } else if any(MemberState::Down) && !any(MemberState::Unknown) {
            MemberState::Down
        } else {
            MemberState::Unknown
        }
    }
}

impl Address {
    fn new(address: SocketAddr, checks: &[Check], combine: Combine) -> Self {
        Self { address, health: Health::unknown(checks, combine), offered: false, left: false }
    }

    fn state(&self) -> MemberState {
        self.health.state()
    }
}
