//! Flows that end later, and those whose member goes down before.

use std::time::Duration;

use super::Witness;
use crate::{
    decide::{Core, Resumed, ResumedSwitch, Switch, View},
    model::{Epoch, FlowPolicy, MemberId, MemberState, Service, SwitchKind, Verdict},
};

/// What an earlier agent had not finished.
pub(super) fn resumed_drains(service: &Service, resumed: &Resumed) -> Vec<(MemberId, Epoch)> {
    let Some(last) = &resumed.last else { return Vec::new() };
    let Some(drains) = &last.drains else {
        return newest_drain(service, resumed, last).into_iter().collect();
    };
    let is_known = |epoch: Epoch| epoch > resumed.floor && epoch <= resumed.epoch;
    let drains = drains.iter().map(|draining| draining.drain).filter(|drain| is_known(drain.epoch));
    drains.filter_map(|drain| Some((drain.from?, drain.epoch))).collect()
}

/// As far as a version knew it that did not write down drains.
fn newest_drain(service: &Service, resumed: &Resumed, last: &ResumedSwitch) -> Option<(MemberId, Epoch)> {
    let policy = match last.kind {
        SwitchKind::Initial => FlowPolicy::Keep,
        SwitchKind::Failover => service.on_failover,
        SwitchKind::Failback | SwitchKind::Manual => service.on_failback,
    };
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
            reason: String::new(),
            age: Duration::ZERO,
            drains: Some(self.kept_drains.clone()),
        };
        let View { active, epoch, .. } = *after;
        let resumed = Resumed { active, epoch, floor: self.floor, last: Some(last) };
        let known = vec![Vec::new(); self.members.len()];
        let next = Core::new(self.service.clone(), &known, Some(resumed), self.now);
        assert_eq!(next.drains, self.core.drains);
    }

    /// It was begun, its member is down, and whoever is reset has somewhere to go.
    pub(super) fn check_end_of_drain(&mut self, member: MemberId, epoch: Epoch, after: &View) {
        let newest = self.drains.iter().filter(|(of, _)| *of == member).map(|(_, epoch)| *epoch).max();
        assert_eq!(newest, Some(epoch), "no such drain of {member:?}");
        assert!(self.may_end(member, after), "{member:?} drains");
        self.drains.retain(|(of, _)| *of != member);
    }

    fn may_end(&self, member: MemberId, view: &View) -> bool {
        let checks = |member: MemberId| view.members[member.0].checks;
        let elsewhere =
            view.active.is_some_and(|active| active != member && checks(active) == MemberState::Up);
        checks(member) == MemberState::Down && elsewhere && self.service.on_failover == FlowPolicy::Reset
    }

    /// Nobody waits for a member that is down: not at all where nothing makes this host suspect, and not for ever.
    pub(super) fn check_drains(&mut self, after: &View) {
        let check = &self.service.checks[0];
        let window = check.interval + check.timeout;
        for member in (0..self.members.len()).map(MemberId) {
            let is_drained = self.drains.iter().any(|(of, _)| *of == member);
            let held_up = is_drained && self.may_end(member, after);
            let since = self.members[member.0].held_up_since;
            let since = held_up.then(|| since.unwrap_or(self.now));
            self.members[member.0].held_up_since = since;
            let Some(since) = since else { continue };
            assert!(self.now.since(since) < window, "a suspicion that does not end");
            let active = after.active.expect("clients could go there");
            let fails = self.members[active.0].answers.iter().any(|(.., verdict)| *verdict != Verdict::Pass);
            let was_late = self.late.is_some_and(|late| self.now.since(late) < window);
            let is_suspect = was_late || fails || after.members[active.0].state == MemberState::Drained;
            assert!(is_suspect, "{member:?} is drained and down, and its clients wait");
        }
    }
}
