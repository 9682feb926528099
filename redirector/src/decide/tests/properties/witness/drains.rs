//! Flows that end later, and those whose member goes down before.

use std::{net::SocketAddr, time::Duration};

use super::{Known, Witness};
use crate::{
    decide::{Core, Drain, Resumed, ResumedSwitch, Switch, Time, View},
    model::{Epoch, FlowPolicy, MemberId, MemberState, Service, SwitchKind, Verdict},
};

/// What an earlier agent had not finished.
pub(super) fn resumed_drains(service: &Service, resumed: &Resumed) -> Vec<(MemberId, Epoch)> {
    let Some(last) = &resumed.last else { return Vec::new() };
    let Some(drains) = &last.drains else {
        return newest_drain(service, resumed, last).into_iter().collect();
    };
    let is_back = |drain: &Drain| drain.from.is_some() && drain.from == resumed.active;
    let is_known =
        |drain: &Drain| (drain.epoch > resumed.floor || is_back(drain)) && drain.epoch <= resumed.epoch;
    let drains = drains.iter().map(|draining| draining.drain).filter(is_known);
    drains.filter_map(|drain| Some((drain.from?, drain.epoch))).collect()
}

/// The floor below which nothing is raised: a drain of the active member goes on below that of the others.
pub(super) fn resumed_floor(service: &Service, resumed: &Resumed) -> Epoch {
    let drains = resumed_drains(service, resumed).into_iter();
    drains.fold(resumed.floor, |floor, (_, epoch)| floor.min(Epoch(epoch.0.saturating_sub(1))))
}

/// As far as a version knew it that did not write down drains.
fn newest_drain(service: &Service, resumed: &Resumed, last: &ResumedSwitch) -> Option<(MemberId, Epoch)> {
    let policy = last.policy.unwrap_or(match last.kind {
        SwitchKind::Initial => FlowPolicy::Keep,
        SwitchKind::Failover => service.on_failover,
        SwitchKind::Failback | SwitchKind::Manual => service.on_failback,
    });
    let is_spread = last.kind != SwitchKind::Failover && !service.reset_over.is_zero();
    let ends_later = policy == FlowPolicy::Drain || policy == FlowPolicy::Reset && is_spread;
    let drain = (last.from?, resumed.epoch);
    (ends_later && resumed.floor < resumed.epoch).then_some(drain)
}

impl Witness {
    /// A switch was made.
    pub(super) fn note_drain(&mut self, switch: &Switch) {
        match (switch.policy, switch.from) {
            (FlowPolicy::Reset, _) if switch.over.is_zero() => self.raised(switch.epoch),
            (FlowPolicy::Reset | FlowPolicy::Drain, Some(from)) => self.drains.push((from, switch.epoch)),
            _ => {}
        }
    }

    /// The floor was raised.
    pub(super) fn raised(&mut self, epoch: Epoch) {
        self.floor = epoch;
        self.drains.retain(|(_, of)| *of > epoch);
    }

    pub(super) fn renumber_drains(&mut self, origins: &[Option<MemberId>]) {
        let number = |old: MemberId| origins.iter().position(|from| *from == Some(old)).map(MemberId);
        self.drains =
            self.drains.iter().filter_map(|(member, epoch)| Some((number(*member)?, *epoch))).collect();
    }

    /// The next agent would go on with the same drains, if it came now.
    pub(super) fn check_kept_drains(&self, after: &View) {
        assert_eq!(self.core.drains.list(), self.kept_drains, "what is to be kept is said");
        let last = ResumedSwitch {
            from: None,
            kind: SwitchKind::Manual,
            policy: Some(FlowPolicy::Keep),
            reason: String::new(),
            age: Duration::ZERO,
            drains: Some(self.kept_drains.clone()),
            is_older: false,
        };
        let View { active, epoch, .. } = *after;
        let resumed = Resumed { active, epoch, floor: self.floor, last: Some(last) };
        let known = vec![Vec::new(); self.members.len()];
        let next = Core::new(self.service.clone(), &known, Some(resumed), self.now);
        assert_eq!(next.drains, self.core.drains);
    }

    /// It was begun, its member is down, whoever is reset has somewhere to go, and it was not this host that was cut off.
    pub(super) fn check_end_of_drain(&mut self, member: MemberId, epoch: Epoch, after: &View) {
        let newest = self.drains.iter().filter(|(of, _)| *of == member).map(|(_, epoch)| *epoch).max();
        assert_eq!(newest, Some(epoch), "no such drain of {member:?}");
        assert!(self.may_end(member, after), "{member:?} drains");
        let active = after.active.expect("clients could go there");
        let since = [active, member].map(|member| self.members[member.0].state.1);
        let is_over = since.iter().all(|since| self.now.since(*since) >= self.window());
        let waits = self.waits_for(member, active, after);
        assert!(waits.is_none() || is_over, "{member:?} is ended though {waits:?}");
        self.drains.retain(|(of, _)| *of != member);
    }

    fn may_end(&self, member: MemberId, view: &View) -> bool {
        let checks = |member: MemberId| view.members[member.0].checks;
        let elsewhere =
            view.active.is_some_and(|active| active != member && checks(active) == MemberState::Up);
        checks(member) == MemberState::Down && elsewhere && self.service.on_failover == FlowPolicy::Reset
    }

    /// What speaks for a cut of this host, or for the member.
    fn waits_for(&self, member: MemberId, active: MemberId, view: &View) -> Option<&'static str> {
        let of_it = &self.members[member.0];
        let deciding = |story: &&Story| self.service.checks[story.check].effect.decides();
        let stories = || of_it.stories.iter().filter(deciding);
        if self.is_unheard(active, member) {
            return Some("the active member was not heard since");
        }
        let is_of_the_cut = |heard: Time| {
            of_it.state.1 <= heard
                || stories().any(|story| story.failures.first().is_some_and(|first| *first <= heard))
        };
        let failed_again = |heard: Time| {
            stories().any(|story| {
                story.fails && story.failures.iter().filter(|failure| **failure >= heard).count() >= 2
            })
        };
        if of_it.heard_again.is_some_and(|heard| is_of_the_cut(heard) && !failed_again(heard)) {
            return Some("it failed together with the active member, and was not asked again");
        }
        let views = &view.members[member.0].addresses;
        let answers = |address: SocketAddr| {
            let mut here = stories().filter(|story| story.address == address).peekable();
            here.peek().is_some() && here.all(|story| story.failures.is_empty())
        };
        let is_back = views.iter().any(|view| view.state == MemberState::Down && answers(view.address));
        is_back.then_some("it answers again")
    }

    /// Whether the one has not passed since the other began to fail.
    fn is_unheard(&self, active: MemberId, member: MemberId) -> bool {
        let stories = |member: MemberId| {
            let decides = |story: &&Story| self.service.checks[story.check].effect.decides();
            self.members[member.0].stories.iter().filter(decides)
        };
        let failing = stories(member).filter_map(|story| story.failures.first()).max();
        let passed = stories(active).filter_map(|story| story.passed).max();
        failing.is_some_and(|failing| passed.is_none_or(|passed| passed < *failing))
    }

    /// A member passes: those that began to fail since it was heard last may have been cut off until now.
    pub(super) fn note_heard(&mut self, member: MemberId) {
        if self.before.active.is_some_and(|active| active != member) {
            return;
        }
        for other in (0..self.members.len()).map(MemberId).filter(|other| *other != member) {
            if self.is_unheard(member, other) {
                self.members[other.0].heard_again = Some(self.now);
            }
        }
    }

    /// A member is heard again: those that began to fail with it may have been cut off with it.
    pub(super) fn note_back(&mut self, member: MemberId, failed_since: Time) {
        if self.before.active.is_some_and(|active| active != member) {
            return;
        }
        let (now, window) = (self.now, self.window());
        let about = |at: &Time| failed_since.since(*at) <= window;
        let checks = &self.service.checks;
        for (number, other) in self.members.iter_mut().enumerate() {
            let mut deciding = other.stories.iter().filter(|story| checks[story.check].effect.decides());
            if number != member.0 && deciding.any(|story| story.failures.first().is_some_and(about)) {
                other.heard_again = Some(now);
            }
        }
    }

    pub(super) fn window(&self) -> Duration {
        let check = &self.service.checks[0];
        check.interval + check.timeout
    }

    /// Nobody waits for a member that is down: not at all where nothing makes this host suspect, and not for ever.
    pub(super) fn check_drains(&mut self, after: &View) {
        let window = self.window();
        for member in (0..self.members.len()).map(MemberId) {
            let is_drained = self.drains.iter().any(|(of, _)| *of == member);
            let held_up = is_drained && self.may_end(member, after);
            let since = self.members[member.0].held_up_since.filter(|_| self.before.active == after.active);
            let since = held_up.then(|| since.unwrap_or(self.now));
            self.members[member.0].held_up_since = since;
            let Some(since) = since else { continue };
            assert!(self.now.since(since) < window, "a suspicion that does not end");
            let active = after.active.expect("clients could go there");
            let fails = self.members[active.0].answers.iter().any(|(.., verdict)| *verdict != Verdict::Pass);
            let was_late = self.late.is_some_and(|late| self.now.since(late) < window);
            let is_suspect = was_late || fails || self.waits_for(member, active, after).is_some();
            assert!(is_suspect, "{member:?} is drained and down, and its clients wait");
        }
    }
}

/// What a check has said at an address.
#[derive(Clone, Debug)]
pub(super) struct Story {
    pub(super) address: SocketAddr,
    pub(super) check: usize,
    /// When its newest answer came, if that is a pass.
    pub(super) passed: Option<Time>,
    /// All failures since its newest pass.
    pub(super) failures: Vec<Time>,
    /// Its newest answer is a failure.
    pub(super) fails: bool,
    /// It has passed or failed before.
    pub(super) is_conclusive: bool,
}

impl Known {
    /// Returns since when the check had failed, if it passes now.
    pub(super) fn tell(
        &mut self,
        now: Time,
        address: SocketAddr,
        check: usize,
        verdict: Verdict,
    ) -> Option<Time> {
        let known = self.stories.iter().position(|story| (story.address, story.check) == (address, check));
        let known = known.unwrap_or_else(|| {
            self.stories.push(Story {
                address,
                check,
                passed: None,
                failures: Vec::new(),
                fails: false,
                is_conclusive: false,
            });
            self.stories.len() - 1
        });
        let story = &mut self.stories[known];
        story.fails = verdict == Verdict::Fail;
        story.is_conclusive |= verdict != Verdict::Inconclusive;
        story.passed = (verdict == Verdict::Pass).then_some(now);
        match verdict {
            Verdict::Pass => return std::mem::take(&mut story.failures).first().copied(),
            Verdict::Fail => story.failures.push(now),
            Verdict::Inconclusive => {}
        }
        None
    }
}
