//! Addresses that are left out because they are down, and whose flows end when the others go on.

use std::net::SocketAddr;

use super::{Known, Witness, drains::Story, offers};
use crate::{
    decide::{AddressView, Time, View},
    model::{FlowPolicy, MemberId, MemberState, Offer},
};

/// What the test knows of an address that a member has.
#[derive(Clone, Debug)]
pub(super) struct KnownAddress {
    address: SocketAddr,
    /// What its checks say, and since when.
    state: (MemberState, Time),
    /// When another one was heard first since it began to fail.
    heard: Option<Time>,
    /// It is left out because it is down.
    is_left: bool,
    /// Its flows were to be reset when it was left out, and go on.
    is_held_up: bool,
}

impl Known {
    pub(super) fn note_addresses(&mut self, now: Time, views: &[AddressView]) {
        self.addresses.retain(|known| views.iter().any(|view| view.address == known.address));
        for view in views {
            match self.addresses.iter_mut().find(|known| known.address == view.address) {
                Some(known) if known.state.0 != view.state => known.state = (view.state, now),
                Some(_) => {}
                None => self.addresses.push(KnownAddress {
                    address: view.address,
                    state: (view.state, now),
                    heard: None,
                    is_left: false,
                    is_held_up: false,
                }),
            }
        }
    }

    fn address(&self, address: SocketAddr) -> Option<&KnownAddress> {
        self.addresses.iter().find(|known| known.address == address)
    }
}

fn is_beside(one: SocketAddr, other: SocketAddr) -> bool {
    one != other && one.is_ipv4() == other.is_ipv4()
}

/// Nobody `beside` has passed since a check began to fail `here`.
fn is_unheard(here: &[&Story], beside: &[&Story]) -> bool {
    let failing = here.iter().filter_map(|story| story.failures.first()).max();
    let passed = beside.iter().filter_map(|story| story.passed).max();
    failing.is_some_and(|failing| passed.is_none_or(|passed| passed < *failing))
}

impl Witness {
    /// What the checks that decide have said at an address, and beside it.
    fn stories(&self, member: MemberId, address: SocketAddr) -> (Vec<&Story>, Vec<&Story>) {
        let deciding = |story: &&Story| self.service.checks[story.check].effect.decides();
        let (here, elsewhere): (Vec<_>, Vec<_>) = (self.members[member.0].stories.iter())
            .filter(deciding)
            .partition(|story| story.address == address);
        (here, elsewhere.into_iter().filter(|story| is_beside(story.address, address)).collect())
    }

    /// An address passes: those beside it since whose failures nobody was heard may have been cut off until now.
    pub(super) fn note_heard_beside(&mut self, member: MemberId, address: SocketAddr) {
        let is_news = |known: &KnownAddress| {
            let (here, beside) = self.stories(member, known.address);
            is_beside(known.address, address) && is_unheard(&here, &beside)
        };
        let news: Vec<_> = self.members[member.0].addresses.iter().map(is_news).collect();
        for (known, is_news) in self.members[member.0].addresses.iter_mut().zip(news) {
            known.heard = if is_news { Some(self.now) } else { known.heard };
        }
    }

    /// What speaks for a cut of this host, or for the address.
    fn address_waits_for(&self, member: MemberId, known: &KnownAddress) -> Option<&'static str> {
        let (here, beside) = self.stories(member, known.address);
        if is_unheard(&here, &beside) {
            return Some("no other one was heard since");
        }
        let is_of_the_cut = |heard: Time| {
            known.state.1 <= heard
                || here.iter().any(|story| story.failures.first().is_some_and(|first| *first <= heard))
        };
        let failed_again = |heard: Time| {
            let since = |story: &Story| story.failures.iter().filter(|failure| **failure >= heard).count();
            here.iter().any(|story| story.fails && since(story) >= 2)
        };
        if known.heard.is_some_and(|heard| is_of_the_cut(heard) && !failed_again(heard)) {
            return Some("it failed together with the others, and was not asked again");
        }
        let is_known = here.iter().any(|story| story.is_conclusive);
        let answers = is_known && here.iter().all(|story| story.failures.is_empty());
        answers.then_some("it answers again")
    }

    /// Since when both are known, it to be down and another one to be up; `None`: no other one is up.
    fn both_known(&self, member: MemberId, known: &KnownAddress) -> Option<Time> {
        let beside = self.members[member.0].addresses.iter();
        let up = beside
            .filter(|other| is_beside(other.address, known.address) && other.state.0 == MemberState::Up);
        Some(up.map(|other| other.state.1).min()?.max(known.state.1))
    }

    pub(super) fn is_held_up(&self, member: MemberId, address: SocketAddr) -> bool {
        self.members[member.0].address(address).is_some_and(|known| known.is_held_up)
    }

    /// One that passes while another one that has flows fails, or one that is down and may be so for a cut.
    pub(super) fn check_asked(&self, member: MemberId, address: SocketAddr, after: &View) {
        assert_eq!(self.service.on_failover, FlowPolicy::Reset);
        let views = &after.members[member.0].addresses;
        let state = views.iter().find(|view| view.address == address).expect("it is the member's").state;
        let (here, beside) = self.stories(member, address);
        let passes = here.iter().all(|story| story.failures.is_empty());
        let was_offered = |address| offers(&self.before, member).contains(&Offer { address, offered: true });
        let others_fail = beside.iter().any(|story| story.fails && was_offered(story.address));
        assert!(state == MemberState::Down || passes && others_fail, "{address} is asked");
    }

    /// Flows of an address end when it is down and the others go on, and not much later: where nothing speaks for a cut in the very
    /// call that finds it down, else a window after both were known.
    pub(super) fn check_left_out(&mut self, member: MemberId, after: &View, reset: &[SocketAddr]) {
        let mut addresses = std::mem::take(&mut self.members[member.0].addresses);
        // What follows asks about all of them.
        self.members[member.0].addresses.clone_from(&addresses);
        for known in &mut addresses {
            let views = &after.members[member.0].addresses;
            let view = views.iter().find(|view| view.address == known.address).expect("it is the member's");
            let is_left = !view.offered && view.state == MemberState::Down;
            let is_reset = reset.contains(&known.address);
            let begins = is_left && !known.is_left && self.service.on_failover == FlowPolicy::Reset;
            known.is_left = is_left;
            known.is_held_up = (begins || known.is_held_up) && !is_reset && !view.offered;
            if !is_left {
                assert!(!known.is_held_up, "{} is not known to be down", known.address);
                continue;
            }
            let both_known = self.both_known(member, known);
            let is_over = both_known.is_some_and(|since| self.now.since(since) >= self.window());
            let waits = self.address_waits_for(member, known).filter(|_| !is_over);
            if is_reset {
                assert!(both_known.is_some(), "the flows of {} have nowhere to go", known.address);
                assert_eq!(waits, None, "the flows of {} are reset", known.address);
            }
            let was_late = self.late.is_some_and(|late| self.now.since(late) < self.window());
            let may_go_on = both_known.is_none() || waits.is_some() || was_late;
            assert!(!known.is_held_up || may_go_on, "the flows of {} wait", known.address);
        }
        self.members[member.0].addresses = addresses;
    }
}
