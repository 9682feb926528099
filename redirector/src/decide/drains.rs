//! Drains under way: which epochs become the floor, and when.
//!
//! Each switch that drains has a deadline of its own. A later one that drains or keeps does not touch it: the
//! flows of the member that was left first still end when they were told to. A later switch that resets ends
//! all of them at once, because its epoch becomes the floor with it.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use super::time::Time;
use crate::model::Epoch;

/// A queue by deadline. The core's time never goes back and all drains of a service last equally long, so
/// the order of the switches is the order of the deadlines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Drains(VecDeque<Drain>);

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Drain {
    deadline: Time,
    /// Of the switch that began it.
    epoch: Epoch,
}

impl Drains {
    /// The switch to `epoch` lets the flows of the member that it left go on for `rest`.
    pub(super) fn begin(&mut self, now: Time, epoch: Epoch, rest: Duration) {
        self.0.push_back(Drain { deadline: now + rest, epoch });
    }

    /// A switch has raised the floor by itself, above all that is waiting here.
    pub(super) fn supersede(&mut self) {
        self.0.clear();
    }

    /// When the next one ends.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.0.front().map(|drain| drain.deadline)
    }

    /// Removes those that have ended. The newest of them is the floor to raise: it covers the older ones.
    pub(super) fn take_ended(&mut self, now: Time) -> Option<Epoch> {
        let mut floor = None;
        while let Some(&Drain { deadline, epoch }) = self.0.front()
            && deadline <= now
        {
            floor = Some(epoch);
            self.0.pop_front();
        }
        floor
    }
}
