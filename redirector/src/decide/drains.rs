//! Drains under way: which epochs become the floor, and when.
//!
//! Each switch that drains has a deadline of its own. A later one that drains or keeps does not touch it: the
//! flows of the member that was left first still end when they were told to. A later switch that resets ends
//! all of them at once, because its epoch becomes the floor with it.
//!
//! With `reset_over` a drain does not end in one moment: what is left at its deadline is reset little by little first.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use super::time::Time;
use crate::model::{Epoch, MemberId};

/// A queue by deadline. The core's time never goes back, and none ends after one that began later, so
/// the order of the switches is the order of the deadlines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Drains(VecDeque<Drain>);

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Drain {
    deadline: Time,
    /// Of the switch that began it.
    epoch: Epoch,
    /// The member that was left, if its resets may be spread and were not yet.
    spread: Option<MemberId>,
}

/// What has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    /// The floor to raise.
    pub(super) floor: Option<Epoch>,
    /// Whose resets begin to be spread, and of which switch; the floor follows when that is over.
    pub(super) spread: Option<(MemberId, Epoch)>,
}

impl Drains {
    /// The switch to `epoch` lets the flows of the member that it left go on for `rest`. `spread`: that member, if their
    /// resets may be spread then.
    pub(super) fn begin(&mut self, now: Time, epoch: Epoch, rest: Duration, spread: Option<MemberId>) {
        let deadline = now + rest;
        // A reload may have made drains shorter. The floor of this one covers those before it.
        for drain in &mut self.0 {
            drain.deadline = drain.deadline.min(deadline);
        }
        self.0.push_back(Drain { deadline, epoch, spread });
    }

    /// A switch has raised the floor by itself, above all that is waiting here.
    pub(super) fn supersede(&mut self) {
        self.0.clear();
    }

    /// When the next one ends.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.0.front().map(|drain| drain.deadline)
    }

    /// Members have other numbers now; those that are `None` are gone.
    pub(super) fn renumber(&mut self, number: impl Fn(MemberId) -> Option<MemberId>) {
        for drain in &mut self.0 {
            drain.spread = drain.spread.and_then(&number);
        }
    }

    /// Removes those that have ended. The newest of them is the floor to raise: it covers the older ones. One whose resets
    /// are spread ends that much later, and those behind it no earlier. `over`: how long that takes for a member.
    pub(super) fn take_ended(&mut self, now: Time, over: impl Fn(MemberId) -> Duration) -> Ended {
        let mut ended = Ended::default();
        while let Some(drain) = self.0.front().copied().filter(|drain| drain.deadline <= now) {
            self.0.pop_front();
            if let Some(from) = drain.spread.filter(|from| !over(*from).is_zero()) {
                let deadline = now + over(from);
                self.0.push_front(Drain { deadline, spread: None, ..drain });
                ended.spread = Some((from, drain.epoch));
                break;
            }
            ended.floor = Some(drain.epoch);
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reload that makes drains shorter used to leave a new one waiting behind an old one.
    #[test]
    fn a_shorter_drain_ends_in_its_own_time_and_takes_those_before_it_along() {
        let (mut drains, now) = (Drains::default(), Time::default());
        drains.begin(now, Epoch(1), Duration::from_secs(3600), None);
        drains.begin(now, Epoch(2), Duration::from_secs(10), None);
        let end = now + Duration::from_secs(10);
        assert_eq!(drains.next_deadline(), Some(end));
        assert_eq!(drains.take_ended(end, |_| Duration::ZERO).floor, Some(Epoch(2)));
        assert_eq!(drains.next_deadline(), None);
    }
}
