//! Drains under way: which epochs become the floor, and when.
//!
//! Each switch that drains has a deadline of its own. A later one that drains or keeps does not touch it: the
//! flows of the member that was left first still end when they were told to. A later switch that resets ends
//! all of them at once, because its epoch becomes the floor with it.
//!
//! With `reset_over` a drain does not end in one moment: what is left at its deadline is reset little by little first.
//!
//! A member that goes down meanwhile has nothing to finish any more: its flows end at once, if that is what `on_failover`
//! says of members that are down: [`early_end`](super::early_end).

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Action, Core, time::Time};
use crate::model::{Epoch, MemberId, MemberState};

/// A queue by deadline. The core's time never goes back, and none ends after one that began later, so
/// the order of the switches is the order of the deadlines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Drains(VecDeque<Draining>);

/// A drain under way: what the next agent needs to go on with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// When it ends.
    pub deadline: Time,
    /// What ends.
    pub drain: Drain,
}

/// What a switch left to end later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Of the switch.
    pub epoch: Epoch,
    /// The member that was left; `None`: it is gone, or its flows have ended. Others may have older flows still.
    pub from: Option<MemberId>,
    /// Whether its resets come little by little.
    pub spread: Spread,
}

/// Whether the resets of a drain are spread over [`Service::reset_over`](crate::model::Service::reset_over).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// They come all at once, at its deadline.
    No,
    /// From its deadline on, if its member lives then.
    AtEnd,
    /// They are being spread: until its deadline.
    UnderWay,
}

/// What has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    /// The floor to raise.
    pub(super) floor: Option<Epoch>,
    /// Whose resets begin to be spread, and of which switch; the floor follows when that is over.
    pub(super) spread: Option<(MemberId, Epoch)>,
}

impl Drain {
    /// Of the switch to `epoch`, which left `from`.
    pub(super) const fn of(epoch: Epoch, from: Option<MemberId>, spread: Spread) -> Self {
        Self { epoch, from, spread }
    }
}

impl Drains {
    /// Those of an earlier agent.
    pub(super) fn resumed(mut drains: Vec<Draining>) -> Self {
        // As they began. A deadline may be later than that of the next one: what is spread keeps those behind it waiting.
        drains.sort_by_key(|draining| draining.drain.epoch);
        Self(drains.into())
    }

    /// All of them, as they began.
    pub(super) fn list(&self) -> Vec<Draining> {
        self.0.iter().copied().collect()
    }

    /// Flows go on for `rest`.
    pub(super) fn begin(&mut self, now: Time, rest: Duration, drain: Drain) {
        let deadline = now + rest;
        // A reload may have made drains shorter. The floor of this one covers those before it.
        for waiting in &mut self.0 {
            waiting.deadline = waiting.deadline.min(deadline);
        }
        self.0.push_back(Draining { deadline, drain });
    }

    /// A switch has raised the floor by itself, above all that is waiting here.
    pub(super) fn supersede(&mut self) {
        self.0.clear();
    }

    /// When the next one ends.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.0.front().map(|waiting| waiting.deadline)
    }

    /// Members have other numbers now; those that are `None` are gone.
    pub(super) fn renumber(&mut self, number: impl Fn(MemberId) -> Option<MemberId>) {
        for Draining { drain, .. } in &mut self.0 {
            drain.from = drain.from.and_then(&number);
        }
    }

    /// The members that were left.
    pub(super) fn members(&self) -> BTreeSet<MemberId> {
        self.0.iter().filter_map(|waiting| waiting.drain.from).collect()
    }

    /// The flows of `member` end now. Returns the floor that says so. `only`: no other member can have flows that its drains are
    /// about, so they are forgotten; else they go on to their deadlines for those.
    pub(super) fn end_of(&mut self, member: MemberId, only: bool) -> Option<Epoch> {
        let is_its = |waiting: &Draining| waiting.drain.from == Some(member);
        let epoch = self.0.iter().filter(|waiting| is_its(waiting)).map(|waiting| waiting.drain.epoch).max();
        if only {
            self.0.retain(|waiting| !is_its(waiting));
        } else {
            self.renumber(|from| (from != member).then_some(from));
        }
        epoch
    }

    /// Removes those that have ended. The newest of them is the floor to raise: it covers the older ones. One whose resets
    /// are spread ends that much later, and those behind it no earlier. `over`: how long that takes for a member.
    pub(super) fn take_ended(&mut self, now: Time, over: impl Fn(MemberId) -> Duration) -> Ended {
        let mut ended = Ended::default();
        while let Some(waiting) = self.0.front().copied().filter(|waiting| waiting.deadline <= now) {
            self.0.pop_front();
            let drain = waiting.drain;
            let spread = drain.from.filter(|from| drain.spread == Spread::AtEnd && !over(*from).is_zero());
            if let Some(from) = spread {
                let deadline = now + over(from);
                self.0.push_front(Draining { deadline, drain: Drain { spread: Spread::UnderWay, ..drain } });
                ended.spread = Some((from, drain.epoch));
                break;
            }
            ended.floor = Some(drain.epoch);
        }
        ended
    }
}

impl Core {
    /// Drains that are over become the floor, after their resets were spread.
    pub(super) fn end_drains(&mut self) {
        let (members, reset_over) = (&self.members, self.service.reset_over);
        let is_down = |from: MemberId| members[from.0].state() == MemberState::Down;
        let over = |from| if is_down(from) { Duration::ZERO } else { reset_over };
        let ended = self.drains.take_ended(self.now, over);
        if let Some(epoch) = ended.floor {
            self.actions.push_back(Action::RaiseFloor { epoch });
        }
        if let Some((from, epoch)) = ended.spread {
            self.spread(Some(from), epoch, reset_over);
        }
    }

    /// Says which drains the next agent has to go on with, if that is new.
    pub(super) fn keep_drains(&mut self) {
        if self.drains != self.kept_drains {
            self.kept_drains = self.drains.clone();
            self.actions.push_back(Action::Drains(self.drains.list()));
        }
    }

    /// Says that the flows of `from`, as old as the switch to `epoch`, are reset little by little.
    pub(super) fn spread(&mut self, from: Option<MemberId>, epoch: Epoch, over: Duration) {
        let is_left = |from: &MemberId| self.standing.active() != Some(*from);
        if let Some(from) = from.filter(is_left).filter(|_| !over.is_zero()) {
            self.actions.push_back(Action::Spread { from, epoch, over });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reload that makes drains shorter used to leave a new one waiting behind an old one.
    #[test]
    fn a_shorter_drain_ends_in_its_own_time_and_takes_those_before_it_along() {
        let (mut drains, now) = (Drains::default(), Time::default());
        drains.begin(now, Duration::from_secs(3600), Drain::of(Epoch(1), None, Spread::No));
        drains.begin(now, Duration::from_secs(10), Drain::of(Epoch(2), None, Spread::No));
        let end = now + Duration::from_secs(10);
        assert_eq!(drains.next_deadline(), Some(end));
        assert_eq!(drains.take_ended(end, |_| Duration::ZERO).floor, Some(Epoch(2)));
        assert_eq!(drains.next_deadline(), None);
    }
}
