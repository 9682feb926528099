//! An address is left out because it fails: its flows end when it is clear that the others of its member go on.
//!
//! New flows go to the others at once, and come back when it is up. A reset cannot be taken back, and when this host is cut off for a
//! moment, one address fails before the others do. So what ends the flows of an address is what ends the drain of a member that goes
//! down ([`early_end`](super::early_end)). *The others* are the addresses of its member with its IP version: it is left out because one
//! of them is up.
//!
//! | the address is down, and | its flows end when |
//! |---|---|
//! | none of the others is up | one is: where all fail, nobody's flows are reset for that |
//! | none of the others was heard since its failures began | one has answered: they are asked when they begin. What it answers may have been put off by a cut, so the next row follows |
//! | all its failures but one came before that answer | a probe that began since has failed: it is asked at once, and once more |
//! | it answers again, and is not up yet | it fails again |
//! | the agent was late ([`suspicion`](super::suspicion)) | a probe that began since has failed |
//!
//! All of this, but for the first row, ends a window after both were known, the one to be down and one of the others to be up. An address
//! that dies alone loses its flows in the call that finds it down, if another one has answered before the last two of the failures
//! that count.

use std::net::SocketAddr;

use super::{Action, Core, health::Health, suspicion::Doubt, time::Time};
use crate::model::{FlowPolicy, MemberId, MemberState, Offer};

impl Core {
    /// Ends the flows of addresses that were left out or removed, when their time is over and nothing is in the way.
    pub(super) fn end_addresses(&mut self) {
        let mut leaving = std::mem::take(&mut self.leaving);
        let ended = leaving.take_ended(self.now, |member, address| self.may_end(member, address));
        self.leaving = leaving;
        for (member, address) in ended {
            let removed = !self.offered[member.0].iter().any(|offer| offer.address == address);
            self.actions.push_back(Action::ResetAddress { member, address, removed });
        }
    }

    /// When the next of them end, whatever is heard.
    pub(super) fn next_end_of_addresses(&self) -> Option<Time> {
        let doubts = self.doubted_addresses(self.now).map(|(.., doubt)| doubt.until);
        self.leaving.next_deadline(self.now).into_iter().chain(doubts).min()
    }

    /// Addresses whose flows would end, and why they do not yet.
    pub(super) fn doubted_addresses(
        &self,
        now: Time,
    ) -> impl Iterator<Item = (MemberId, SocketAddr, Doubt)> + '_ {
        let due = self.leaving.due(now);
        due.filter_map(move |(member, address)| {
            Some((member, address, self.doubt_of_address(member, address, now)?))
        })
    }

    /// An address that has flows began to fail: the others must say whether they go on.
    pub(super) fn ask_the_others(&mut self, member: MemberId, address: SocketAddr) {
        let has_flows = |offer: &Offer| offer.address == address && offer.offered;
        let may_lose_them = self.service.on_failover == FlowPolicy::Reset;
        // One that is out already, and fails again and again, is no reason to ask as often.
        if !may_lose_them || !self.offered[member.0].iter().any(has_flows) {
            return;
        }
        let answers = &self.answers[member.0];
        // Who fails already is asked often enough.
        let others = answers.others_of(address).filter(|other| answers.none_fails_at(*other));
        self.actions.extend(others.map(|address| Action::Ask { member, address }));
    }

    /// The others of an address that passes, to whom that is news: nobody beside them was heard since they began to fail.
    pub(super) fn others_that_hear(&self, member: MemberId, address: SocketAddr) -> Vec<SocketAddr> {
        let answers = &self.answers[member.0];
        let is_news = |other: &SocketAddr| answers.at(*other).is_unheard_by(&answers.beside(*other));
        // Mostly there is nobody.
        let failing = answers.others_of(address).filter(|other| !answers.none_fails_at(*other));
        failing.filter(is_news).collect()
    }

    /// A cut that ends now may have been all that is known against an address: it must fail again.
    pub(super) fn doubt_failures_of_address(&mut self, member: MemberId, address: SocketAddr) {
        self.answers[member.0].set_heard(address, self.now);
        self.ask_address(member, address);
    }

    /// An address has failed. If that probe may have been under way in a cut, the next one does not wait for its turn.
    pub(super) fn ask_address_once_more(&mut self, member: MemberId, address: SocketAddr) {
        if self.down_since(member, address).is_some_and(|since| self.is_of_a_cut(member, address, since)) {
            self.ask_address(member, address);
        }
    }

    fn ask_address(&mut self, member: MemberId, address: SocketAddr) {
        let would_end = self.service.on_failover == FlowPolicy::Reset;
        if would_end && self.down_since(member, address).is_some() {
            self.actions.push_back(Action::Ask { member, address });
        }
    }

    /// Whether the flows of an address whose time is over end now.
    fn may_end(&self, member: MemberId, address: SocketAddr) -> bool {
        let is_down = self.down_since(member, address).is_some();
        let nowhere_to_go = is_down && self.others_up_since(member, address).is_none();
        !nowhere_to_go && self.doubt_of_address(member, address, self.now).is_none()
    }

    /// Why the flows of an address do not end yet; `None`: nothing but that none of the others is up can be in the way.
    fn doubt_of_address(&self, member: MemberId, address: SocketAddr, now: Time) -> Option<Doubt> {
        let down_since = self.down_since(member, address)?;
        let up_since = self.others_up_since(member, address)?;
        let answers = &self.answers[member.0];
        let here = answers.at(address);
        let why = if here.is_unheard_by(&answers.beside(address)) {
            Some("no other address was heard since it began to fail: one must answer first")
        } else if self.is_of_a_cut(member, address, down_since) {
            Some(
                "another address is heard again, as when this host was cut off: a probe that began since must fail too",
            )
        } else if answers.none_fails_at(address) {
            Some("it answers again: it must fail once more")
        } else {
            None
        };
        let until = down_since.max(up_since) + self.window();
        let doubts = [why.map(|why| Doubt { why: why.to_owned(), until }), self.late(down_since, &here)];
        doubts.into_iter().flatten().find(|doubt| now < doubt.until)
    }

    fn is_of_a_cut(&self, member: MemberId, address: SocketAddr, down_since: Time) -> bool {
        let answers = &self.answers[member.0];
        let heard = answers.heard(address);
        heard.is_some_and(|heard| answers.at(address).may_have_been_cut(down_since, heard))
    }

    /// Since when an address is down; `None`: it is not, or is not the member's any more.
    fn down_since(&self, member: MemberId, address: SocketAddr) -> Option<Time> {
        let (_, health, _) = self.members[member.0].addresses().find(|(known, ..)| *known == address)?;
        (health.state() == MemberState::Down).then(|| health.since().unwrap_or_default())
    }

    /// Since when one of the others has been up without a break.
    fn others_up_since(&self, member: MemberId, address: SocketAddr) -> Option<Time> {
        let is_up = |other: SocketAddr, health: &Health| {
            other != address && other.is_ipv4() == address.is_ipv4() && health.state() == MemberState::Up
        };
        let up = self.members[member.0].addresses().filter(|(other, health, _)| is_up(*other, health));
        up.map(|(_, health, _)| health.since().unwrap_or_default()).min()
    }
}
