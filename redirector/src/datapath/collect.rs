//! Collection: forgetting the flows that nobody uses any more.
//!
//! A flow that ends properly is removed by the programs at once. What is left is a flow whose ends went silent: a
//! client that was switched off, a member that is gone, a SYN that nobody answered. A thread of its own looks for
//! them every now and then: it reads the table in batches, and no packet, switch or request waits for it.
//!
//! # Invariants
//!
//! * Nothing is removed at the first look. The entry is read again, and must be the same flow, without a segment since.
//! * The flow of a local socket stays as long as that socket exists, however idle it is.
//! * Both halves go together.

mod half_open;
mod halves;

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use redirector_common::{
    addr::Tuple,
    flow::{Flow, State},
    layout::SourceKey,
};

pub(super) use self::half_open::HalfOpen;
use self::{half_open::Drift, halves::Halves};
use super::{
    clock::Clock,
    flows::Flows,
    maps::Maps,
    sockets::{Finder, Victim},
    sweep::lock,
};
use crate::model::IdleTimeouts;

/// From one collection to the next, at most.
const INTERVAL: Duration = Duration::from_secs(30);

/// How often the thread looks whether many flows are half open: then it does not wait for the interval.
const LOOK: Duration = Duration::from_secs(3);

/// Flows that are looked at for a second time together.
const BATCH: usize = 2048;

/// How many flows were collected since the agent started, by the reason.
#[derive(Debug, Default)]
pub struct Collected {
    /// Idle while opening.
    opening: AtomicU64,
    /// Idle while established.
    established: AtomicU64,
    /// Idle while closing.
    closing: AtomicU64,
    /// Stale, and nobody sent on them any more.
    stale: AtomicU64,
    /// A half without its other half.
    halves: AtomicU64,
}

/// Why a flow is collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Idle(State),
    Stale,
}

impl Collected {
    fn counter(&self, reason: Reason) -> &AtomicU64 {
        match reason {
            Reason::Idle(State::Opening) => &self.opening,
            Reason::Idle(State::Established) => &self.established,
            Reason::Idle(State::Closing) => &self.closing,
            Reason::Stale => &self.stale,
        }
    }

    /// All of them, with the reason in a word.
    #[must_use]
    pub fn by_reason(&self) -> [(&'static str, u64); 5] {
        [
            ("opening", &self.opening),
            ("established", &self.established),
            ("closing", &self.closing),
            ("stale", &self.stale),
            ("halves", &self.halves),
        ]
        .map(|(reason, counter)| (reason, counter.load(Ordering::Relaxed)))
    }

    /// All of them together.
    fn sum(&self) -> u64 {
        self.by_reason().iter().map(|(_, number)| number).sum()
    }
}

/// What the configuration says of collecting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) timeouts: IdleTimeouts,
    /// How many flows of one service may be half open.
    pub(super) cap: u32,
}

impl Limit {
    /// From one collection to the next, at most.
    fn interval(&self) -> Duration {
        let IdleTimeouts { opening, established, closing } = self.timeouts;
        INTERVAL.min(opening).min(established).min(closing)
    }
}

/// The thread that collects. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Collector {
    pub(super) collected: Arc<Collected>,
    limit: Arc<Mutex<Limit>>,
    /// `None` while dropping.
    alive: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Collector {
    /// Starts the thread.
    pub(super) fn start(maps: Arc<Mutex<Maps>>, clock: Clock, limit: Limit) -> Result<Self> {
        let collected = Arc::new(Collected::default());
        let limit = Arc::new(Mutex::new(limit));
        let mut pass = Pass::new(maps, clock, Arc::clone(&collected))?;
        let (alive, stopped) = mpsc::channel::<()>();
        let current = Arc::clone(&limit);
        let run = move || {
            let mut last = Instant::now();
            loop {
                // Copied: nobody waits for a collection.
                let limit = *current.lock().unwrap_or_else(PoisonError::into_inner);
                let interval = limit.interval();
                if stopped.recv_timeout(LOOK.min(interval)) != Err(mpsc::RecvTimeoutError::Timeout) {
                    return;
                }
                if last.elapsed() < interval && !pass.half_open.abound(limit.cap) {
                    continue;
                }
                if let Err(error) = pass.run(&limit.timeouts) {
                    tracing::error!("collecting flows failed: {error:#}");
                }
                last = Instant::now();
            }
        };
        let thread = thread::Builder::new()
            .name("collect".into())
            .spawn(run)
            .context("cannot start the thread that collects flows")?;
        Ok(Self { collected, limit, alive: Some(alive), thread: Some(thread) })
    }

    /// This holds from the next look on, a few seconds from now.
    pub(super) fn limit(&self, limit: Limit) {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner) = limit;
    }
}

impl Drop for Collector {
    /// Waits for a collection that is under way.
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _panicked = thread.join();
        }
    }
}

/// How many ticks of silence end a flow.
#[derive(Clone, Copy, Debug)]
struct Limits {
    opening: u32,
    established: u32,
    closing: u32,
}

impl Limits {
    /// Why a flow that was idle for so many ticks is to be collected, if it is.
    fn reason(&self, state: State, stale: bool, idle: u32) -> Option<Reason> {
        let limit = match state {
            State::Opening => self.opening,
            State::Established => self.established,
            State::Closing => self.closing,
        };
        if idle > limit {
            Some(Reason::Idle(state))
        } else if stale && idle > self.closing {
            Some(Reason::Stale)
        } else {
            None
        }
    }
}

/// A flow that is to be looked at for a second time.
struct Candidate {
    client_side: Tuple,
    flow: Flow,
    reason: Reason,
}

/// What collections need, and what one leaves to the next.
struct Pass {
    maps: Arc<Mutex<Maps>>,
    remover: Remover,
    half_open: HalfOpen,
    clock: Clock,
    halves: Halves,
    drift: Drift,
}

impl Pass {
    fn new(maps: Arc<Mutex<Maps>>, clock: Clock, collected: Arc<Collected>) -> Result<Self> {
        let (flows, half_open) = {
            let maps = lock(&maps);
            (maps.flows.clone(), maps.half_open.clone())
        };
        let remover = Remover { flows, finder: Finder::open()?, half_open: half_open.clone(), collected };
        Ok(Self { maps, remover, half_open, clock, halves: Halves::default(), drift: Drift::default() })
    }

    /// Reads both tables, and removes what is idle or has lost its other half.
    fn run(&mut self, timeouts: &IdleTimeouts) -> Result<()> {
        let (start, before) = (Instant::now(), self.remover.collected.sum());
        let limits = Limits {
            opening: self.clock.ticks(timeouts.opening),
            established: self.clock.ticks(timeouts.established),
            closing: self.clock.ticks(timeouts.closing),
        };
        // Before the table is read: a later clock would make flows look idle that were just used.
        let now = self.clock.now()?;
        let standings = lock(&self.maps).standings();
        let mut counts = HashMap::new();
        let mut candidates = Vec::new();
        let mut removed = Ok(());
        let mut halves = self.halves.begin();
        self.remover.flows.for_each_until(|client_side, flow| {
            halves.saw_flow(client_side, flow);
            if flow.half_open != 0 {
                *counts.entry(source_of(client_side, flow)).or_insert(0_i64) += 1;
            }
            let reason = limits.reason(flow.state(), standings.is_stale(flow), flow.idle(now));
            candidates.extend(reason.map(|reason| Candidate {
                client_side: *client_side,
                flow: *flow,
                reason,
            }));
            if candidates.len() == BATCH {
                removed = self.remover.remove(&mut candidates, &mut counts);
            }
            if removed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        removed.and_then(|()| self.remover.remove(&mut candidates, &mut counts))?;
        let flows = halves.flows();
        let strays = self.halves.end(halves, &self.remover.flows)?;
        self.remover.collected.halves.fetch_add(strays, Ordering::Relaxed);
        self.drift.correct(&self.half_open, &counts)?;
        tracing::debug!(
            flows,
            collected = self.remover.collected.sum() - before,
            took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
            "looked for idle flows"
        );
        Ok(())
    }
}

/// Looks for the second time, and removes.
struct Remover {
    flows: Flows,
    finder: Finder,
    half_open: HalfOpen,
    collected: Arc<Collected>,
}

impl Remover {
    /// Removes the candidates that are idle still and whose socket is gone, and takes them off what was counted as half
    /// open.
    fn remove(&self, candidates: &mut Vec<Candidate>, counts: &mut HashMap<SourceKey, i64>) -> Result<()> {
        self.keep_sockets(candidates)?;
        let mut taken_off = HashMap::new();
        for Candidate { client_side, flow, reason } in candidates.drain(..) {
            if !self.flows.remove_idle(&client_side, &flow)? {
                continue;
            }
            self.collected.counter(reason).fetch_add(1, Ordering::Relaxed);
            if flow.half_open != 0 {
                *taken_off.entry(source_of(&client_side, &flow)).or_insert(0_i64) += 1;
            }
        }
        for (source, number) in taken_off {
            *counts.entry(source).or_default() -= number;
            self.half_open.add(&source, -number)?;
        }
        Ok(())
    }

    /// Takes the flows off the list whose client is a local socket that exists.
    fn keep_sockets(&self, candidates: &mut Vec<Candidate>) -> Result<()> {
        let is_local = |candidate: &Candidate| candidate.flow.cookie != 0;
        let sockets: Vec<_> = candidates
            .iter()
            .filter(|candidate| is_local(candidate))
            .map(|candidate| Victim { client_side: candidate.client_side, cookie: candidate.flow.cookie })
            .collect();
        if sockets.is_empty() {
            return Ok(());
        }
        // Where the kernel cannot tell, nothing is known of any socket, and all of them are kept.
        let gone =
            if self.finder.works()? { self.finder.are_gone(&sockets)? } else { vec![false; sockets.len()] };
        let mut gone = gone.into_iter();
        candidates.retain(|candidate| !is_local(candidate) || gone.next() == Some(true));
        Ok(())
    }
}

/// What a flow that is half open is counted under.
fn source_of(client_side: &Tuple, flow: &Flow) -> SourceKey {
    SourceKey { address: client_side.near, service: u32::from(flow.service) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_has_its_time_and_what_is_stale_that_of_closing() {
        let limits = Limits { opening: 30, established: 1000, closing: 100 };
        let on = |state, stale, idle| limits.reason(state, stale, idle);
        assert_eq!(on(State::Opening, false, 30), None);
        assert_eq!(on(State::Opening, false, 31), Some(Reason::Idle(State::Opening)));
        assert_eq!(on(State::Established, false, 1000), None);
        assert_eq!(on(State::Established, false, 1001), Some(Reason::Idle(State::Established)));
        assert_eq!(on(State::Closing, false, 101), Some(Reason::Idle(State::Closing)));
        assert_eq!(on(State::Established, true, 100), None);
        assert_eq!(on(State::Established, true, 101), Some(Reason::Stale));
    }
}
