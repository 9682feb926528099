//! The cores, one for each service, and which of them want something: what an event costs does not grow with the number
//! of services.

use std::{collections::BTreeSet, ops::Deref};

use crate::{
    decide::{Action, Core, Time},
    model::ServiceId,
};

/// All of them, by service.
#[derive(Debug, Default)]
pub(super) struct Cores {
    cores: Vec<Core>,
    /// When each wants to be called next, as it stands in `queue`.
    deadlines: Vec<Option<Time>>,
    queue: BTreeSet<(Time, usize)>,
    /// Those that were called since they were last asked what there is to do.
    changed: Vec<usize>,
}

impl Cores {
    /// All of them are asked first what there is to do.
    pub(super) fn new(cores: Vec<Core>) -> Self {
        let (deadlines, changed) = (vec![None; cores.len()], (0..cores.len()).collect());
        Self { cores, deadlines, queue: BTreeSet::new(), changed }
    }

    /// Takes the cores out. What they want is to be asked anew.
    pub(super) fn take(&mut self) -> Vec<Core> {
        std::mem::take(self).cores
    }

    /// One of them, to be told something.
    pub(super) fn of(&mut self, service: ServiceId) -> &mut Core {
        // One that is told several things in a row stands here once.
        if self.changed.last() != Some(&service.0) {
            self.changed.push(service.0);
        }
        &mut self.cores[service.0]
    }

    /// The next thing to do. To be called until it returns `None`.
    pub(super) fn poll_action(&mut self) -> Option<(ServiceId, Action)> {
        while let Some(at) = self.changed.last().copied() {
            if let Some(action) = self.cores[at].poll_action() {
                return Some((ServiceId(at), action));
            }
            self.changed.pop();
            self.schedule(at);
        }
        None
    }

    /// When [`Self::on_deadline`] is to be called next.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.queue.first().map(|(deadline, _)| *deadline)
    }

    /// The next core whose deadline has passed, to be told so. To be called until it returns `None`.
    pub(super) fn take_due(&mut self, now: Time) -> Option<ServiceId> {
        let (_, at) = self.queue.first().copied().filter(|(deadline, _)| *deadline <= now)?;
        self.queue.pop_first();
        self.deadlines[at] = None;
        Some(ServiceId(at))
    }

    fn schedule(&mut self, at: usize) {
        let next = self.cores[at].next_deadline();
        if next == self.deadlines[at] {
            return;
        }
        if let Some(before) = self.deadlines[at] {
            self.queue.remove(&(before, at));
        }
        self.queue.extend(next.map(|next| (next, at)));
        self.deadlines[at] = next;
    }
}

/// To look at them; what changes one goes through [`Cores::of`].
impl Deref for Cores {
    type Target = [Core];

    fn deref(&self) -> &[Core] {
        &self.cores
    }
}
