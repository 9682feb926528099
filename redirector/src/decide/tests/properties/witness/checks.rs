//! What must be so after every call.

use std::{net::SocketAddr, time::Duration};

use super::{Witness, offers};
use crate::{
    decide::{Command, MemberView, Switch, View},
    model::{
        Epoch, FailbackMode, FlowPolicy, Initial, MemberId, MemberState, OnAllDown, Signals, SwitchKind,
        Verdict,
    },
};

impl Witness {
    pub(super) fn check_switch(&mut self, switch: &Switch, after: &View, command: Option<&Command>) {
        assert_eq!(switch.epoch, Epoch(self.before.epoch.0 + 1));
        assert_eq!(after.epoch, switch.epoch);
        assert_eq!((switch.from, switch.to, switch.at), (self.before.active, after.active, self.now));
        assert_ne!(switch.from, switch.to);
        let forced = match command {
            Some(Command::Switch { to, force: true, .. }) => Some(*to),
            _ => None,
        };
        match switch.to {
            Some(to) => {
                assert_ne!(after.members[to.0].state, MemberState::Drained, "gone to");
                let up = after.members[to.0].state == MemberState::Up;
                assert!(up || forced == Some(to) && switch.kind == SwitchKind::Manual, "gone to");
            }
            None => {
                assert_eq!(self.service.on_all_down, OnAllDown::Refuse);
                let down = |member: &MemberView| {
                    member.checks == MemberState::Down || member.state == MemberState::Drained
                };
                assert!(after.members.iter().all(down));
            }
        }
        assert!(switch.kind == SwitchKind::Manual || !(self.before.paused && after.paused), "it was paused");
        self.check_policy(switch, after);
        match switch.kind {
            SwitchKind::Manual => self.check_manual(switch, after, forced),
            SwitchKind::Failback => self.check_failback(switch, after),
            SwitchKind::Initial => self.check_first_choice(after),
            SwitchKind::Failover => {
                let from = switch.from.map(|from| after.members[from.0].checks);
                assert!(from.is_none_or(|state| state == MemberState::Down), "it lives");
                assert!(!self.against_checks(switch.from, after), "an operator wanted it");
            }
        }
        assert_eq!(
            self.choosing.is_some() && switch.kind != SwitchKind::Manual,
            switch.kind == SwitchKind::Initial
        );
        self.choosing = None;
        if switch.kind != SwitchKind::Manual {
            self.last_switch = Some(self.now);
        }
        self.note_drain(switch);
    }

    fn check_policy(&self, switch: &Switch, after: &View) {
        let expected = match switch.from {
            None => FlowPolicy::Keep,
            Some(from) if after.members[from.0].checks == MemberState::Down => self.service.on_failover,
            Some(_) => self.service.on_failback,
        };
        assert_eq!(switch.policy, expected);
        let lives = switch.from.is_some_and(|from| after.members[from.0].checks != MemberState::Down);
        let spread = lives && switch.policy == FlowPolicy::Reset && switch.kind != SwitchKind::Failover;
        assert_eq!(switch.over, if spread { self.service.reset_over } else { Duration::ZERO });
        assert_eq!(switch.borne.is_some(), switch.kind == SwitchKind::Failover && switch.from.is_some());
    }

    /// Probers look because of a signal: of a member that is not known to be down, and not too often.
    pub(super) fn check_look(&mut self, member: MemberId, after: &View) {
        assert_eq!(self.service.signals, Signals::Act);
        assert_ne!(after.members[member.0].checks, MemberState::Down, "nothing new would be learnt");
        let fast = self.service.checks.iter().filter(|check| check.effect.decides());
        let fast = fast.map(|check| check.fast_interval).min().expect("one decides");
        let last = self.members[member.0].looked_at.replace(self.now);
        assert!(last.is_none_or(|last| self.now.since(last) >= fast), "looked too often");
    }

    /// An operator's: by force, or after a round that has heard everything, and through an open gate.
    fn check_manual(&self, switch: &Switch, after: &View, forced: Option<MemberId>) {
        let to = switch.to.expect("an operator names somebody");
        let drained = switch.from.filter(|from| after.members[from.0].state == MemberState::Drained);
        let by_force = drained.is_some_and(|from| self.members[from.0].drained_by_force);
        assert!(forced == Some(to) || drained.is_some() || self.waits, "nobody asked for {switch:?}");
        if forced != Some(to) && !by_force {
            self.check_round(to);
        }
    }

    fn check_round(&self, to: MemberId) {
        let unheard = self.members[to.0].round.as_ref().expect("a round was asked for");
        assert!(unheard.is_empty(), "not heard of: {unheard:?}");
    }

    fn check_failback(&self, switch: &Switch, after: &View) {
        let (from, to) = (switch.from.expect("some member is left"), switch.to.expect("for another one"));
        let weight = |member: MemberId| after.members[member.0].weight;
        let failback = &self.service.failback;
        assert_eq!(failback.mode, FailbackMode::Auto);
        assert_eq!(after.members[from.0].checks, MemberState::Up);
        assert!(weight(to) > weight(from), "not better");
        assert!(self.orders.pin.is_none() || self.core.orders().pin.is_none(), "a pin held");
        let up_since = self.members[to.0].up_since.expect("a failback goes to a member that is up");
        assert!(self.now.since(up_since) >= failback.healthy_for, "healthy_for");
        let held = self.last_switch.is_none_or(|last| self.now.since(last) >= failback.hold_down);
        assert!(held, "hold_down");
        self.check_round(to);
    }

    fn check_first_choice(&self, after: &View) {
        let candidates: Vec<_> =
            after.members.iter().filter(|member| member.state != MemberState::Drained).collect();
        let count = |state| candidates.iter().filter(|member| member.state == state).count();
        let (all, up) = (candidates.len(), count(MemberState::Up));
        let enough = match self.service.initial {
            Initial::Any => 1,
            Initial::Majority => all / 2 + 1,
            Initial::All => all,
        };
        let known = count(MemberState::Unknown) == 0 && up >= enough;
        assert!(known || self.choosing.is_some_and(|until| self.now >= until), "decided too early");
    }

    fn against_checks(&self, member: Option<MemberId>, view: &View) -> bool {
        let pin = self.core.orders().pin;
        member.is_some() && pin.is_some_and(|pin| pin.against_checks) && view.pinned == member
    }

    /// What must be so after every call.
    pub(super) fn check_standing(&mut self, after: &View, switched: Option<&Switch>) {
        let up: Vec<_> = (0..after.members.len())
            .map(MemberId)
            .filter(|member| after.members[member.0].state == MemberState::Up)
            .collect();
        let mut is_kept = false;
        match after.active {
            Some(active) => {
                let down = after.members[active.0].checks == MemberState::Down;
                let others = up.iter().any(|member| *member != active);
                is_kept = down && others && !after.paused && !self.against_checks(Some(active), after);
                assert!(
                    !is_kept || after.suspicion.is_some(),
                    "a dead member is active and another one is up"
                );
                if switched
                    .is_some_and(|switch| matches!(switch.kind, SwitchKind::Failover | SwitchKind::Initial))
                {
                    self.check_best(active, &up, after);
                }
            }
            None if after.paused => {}
            None if self.choosing.is_some() => {
                let time_is_up = self.choosing.is_some_and(|until| self.now >= until);
                assert!(!time_is_up || up.is_empty(), "nobody was chosen in time");
            }
            None => assert!(up.is_empty(), "held, and a member is up"),
        }
        self.kept_dead_since = is_kept.then(|| self.kept_dead_since.unwrap_or(self.now));
        let check = &self.service.checks[0];
        let window = check.interval + check.timeout;
        let for_long = self.kept_dead_since.is_some_and(|since| self.now.since(since) >= window);
        assert!(!for_long, "a suspicion that does not end");
    }

    /// No member was better whose answers were new and good.
    fn check_best(&self, chosen: MemberId, up: &[MemberId], after: &View) {
        let rank = |member: MemberId| (after.pinned == Some(member), after.members[member.0].weight);
        let is_clean = |member: &MemberId| {
            let known = &self.members[member.0];
            after.members[member.0].addresses.iter().all(|view| {
                let deciding = |(_, check): &(usize, &crate::model::Check)| check.effect.decides();
                self.service.checks.iter().enumerate().filter(deciding).all(|(number, check)| {
                    known.answers.iter().any(|(address, of, at, verdict)| {
                        (*address, *of, *verdict) == (view.address, number, Verdict::Pass)
                            && self.now.since(*at) <= check.interval + check.timeout
                    })
                })
            })
        };
        let better = up.iter().filter(|member| rank(**member) > rank(chosen)).find(|member| is_clean(member));
        assert_eq!(better, None, "not the best");
    }

    /// Which addresses of a member new flows may go to, and what becomes of the flows of the others.
    pub(super) fn check_offers(&self, member: MemberId, after: &View, reset: &[SocketAddr]) {
        let (before, now) = (offers(&self.before, member), offers(after, member));
        let was_offered = |address| before.iter().any(|offer| offer.address == address && offer.offered);
        let views = &after.members[member.0].addresses;
        let learned = !now.is_empty() && now != before;
        for v6 in [false, true] {
            let version: Vec<_> = views.iter().filter(|view| view.address.is_ipv6() == v6).collect();
            let some_up = version.iter().any(|view| view.state == MemberState::Up);
            let some_offered = version.iter().any(|view| view.offered);
            assert!(version.is_empty() || some_offered || !learned, "nothing is offered");
            let old_ones = version.iter().any(|view| was_offered(view.address));
            for view in version {
                match view.state {
                    MemberState::Up => assert!(view.offered, "{} is up and left out", view.address),
                    MemberState::Down => {
                        assert!(!(some_up && view.offered), "{} is down and offered", view.address);
                    }
                    _ if was_offered(view.address) => assert!(view.offered, "left out before a verdict"),
                    _ => assert!(!(view.offered && (some_up || old_ones)), "{} is not proven", view.address),
                }
            }
        }
        for left in before.iter().filter(|offer| offer.offered).map(|offer| offer.address) {
            let policy = match now.iter().find(|offer| offer.address == left) {
                Some(offer) if offer.offered => continue,
                Some(_) => self.service.on_failover,
                None => self.service.on_failback,
            };
            let ends = policy == FlowPolicy::Reset && !self.is_held_up(member, left);
            assert!(!ends || reset.contains(&left), "the flows of {left} go on");
            let kept = policy != FlowPolicy::Keep || !reset.contains(&left);
            assert!(kept, "the flows of {left} were to go on");
        }
    }
}
