//! Resets spread over a while, so that a planned switch does not send every client into a TLS handshake at once.
//!
//! Until the end of that time nothing makes these flows stale: who is not reset yet goes on. When it is over, the floor is
//! raised, and a sweep finds whoever is left. So it is a drain that helps, and like one it may be cut short or begun again
//! by another agent.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    super::{maps::Maps, namespaces::Namespace},
    Work,
    end::{Doomed, Ender, Left, Pass, Turn, look_beside},
    lock,
};

/// How often a few flows are reset.
const SLICE: Duration = Duration::from_millis(10);

/// How long what is known of the network namespaces beside this one is believed.
const BELIEVED: Duration = Duration::from_secs(1);

/// What is to be reset, and how long that may take.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Over {
    /// Id of the member that was left.
    pub(in super::super) member: u16,
    /// Those of its flows that have a lower epoch.
    pub(in super::super) epoch: u64,
    /// Since when.
    pub(in super::super) since: Instant,
    /// How long.
    pub(in super::super) time: Duration,
}

/// Flows that are reset one after the other.
pub(super) struct Spread {
    over: Over,
    /// In random order.
    flows: Vec<Doomed>,
    /// How many of them are over.
    done: usize,
    next: Instant,
    beside: Arc<[Namespace]>,
    /// When `beside` was found out; `None`: not yet.
    looked: Option<Instant>,
    found: Pass,
}

impl Spread {
    fn new(over: Over, mut flows: Vec<Doomed>) -> Self {
        // The low half of an incarnation is random.
        flows.sort_unstable_by_key(|flow| flow.name.incarnation & u64::from(u32::MAX));
        let next = over.since;
        Self { over, flows, done: 0, next, beside: Arc::new([]), looked: None, found: Pass::new() }
    }

    /// When the next slice is due.
    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    /// Those whose turn has come.
    fn take_due(&mut self, now: Instant) -> Vec<Doomed> {
        let due = due(self.flows.len(), now.saturating_duration_since(self.over.since), self.over.time);
        let begin = self.done;
        self.done = due.max(begin);
        self.next = now + SLICE;
        self.flows[begin..self.done].to_vec()
    }

    fn is_over(&self) -> bool {
        self.done == self.flows.len()
    }

    fn slice(&mut self, now: Instant, maps: &Mutex<Maps>, ender: &mut Ender) -> Result<()> {
        let due = self.take_due(now);
        let flows = lock(maps).flows.clone();
        let mut turn = Turn::default();
        for flow in due {
            ender.take(&mut turn, flow)?;
        }
        let (all, beside, looked) = (&self.flows, &mut self.beside, &mut self.looked);
        let believed = |_: &[&Doomed]| {
            if looked.is_none_or(|looked| now.saturating_duration_since(looked) >= BELIEVED) {
                *beside = look_beside(&all.iter().collect::<Vec<_>>()).into();
                *looked = Some(now);
            }
            Arc::clone(beside)
        };
        ender.end(&flows, turn, Left::Go, believed, &mut self.found)
    }
}

/// How many of so many flows are to be over after `elapsed` of `time`.
fn due(flows: usize, elapsed: Duration, time: Duration) -> usize {
    if elapsed >= time {
        return flows;
    }
    // In 128 bits: neither overflows.
    let due = flows as u128 * elapsed.as_nanos() / time.as_nanos();
    usize::try_from(due).unwrap_or(flows).min(flows)
}

impl Work {
    /// Reads the flow table and begins. One that cannot begin is left to the sweep at its end.
    pub(super) fn begin(&mut self, over: Over) {
        match self.flows_of(&over) {
            Ok(flows) => self.spreads.push(Spread::new(over, flows)),
            Err(error) => tracing::error!("flows are not reset before the end of reset_over: {error:#}"),
        }
    }

    fn flows_of(&self, over: &Over) -> Result<Vec<Doomed>> {
        let (table, standings) = {
            let maps = lock(&self.maps);
            (maps.flows.clone(), maps.standings())
        };
        let mut flows = Vec::new();
        table.for_each(|client_side, flow| {
            let is_meant = flow.member == over.member && u64::from(flow.epoch) < over.epoch;
            if is_meant && !standings.is_stale(flow) {
                flows.push(self.ender.doom(client_side, flow));
            }
        })?;
        Ok(flows)
    }

    /// Flows of this member are not reset any more: it is active again.
    pub(super) fn keep(&mut self, member: u16) {
        let (kept, others) =
            std::mem::take(&mut self.spreads).into_iter().partition(|spread| spread.over.member == member);
        self.spreads = others;
        let kept: Vec<Spread> = kept;
        for spread in kept {
            self.tell(spread.over.since, spread.found, false);
        }
    }

    /// Goes on with what is spread.
    pub(super) fn slice_if_due(&mut self) {
        let now = Instant::now();
        for mut spread in std::mem::take(&mut self.spreads) {
            if spread.next > now {
                self.spreads.push(spread);
                continue;
            }
            // What fails now is left to the sweep at the end.
            if let Err(error) = spread.slice(now, &self.maps, &mut self.ender) {
                tracing::error!("resetting flows over a while failed: {error:#}");
            }
            if spread.is_over() {
                self.tell(spread.over.since, spread.found, false);
            } else {
                self.spreads.push(spread);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_reset_evenly_and_all_of_them() {
        let time = Duration::from_secs(2);
        let shares = (0..=200).map(|slice| due(10_000, SLICE * slice, time)).collect::<Vec<_>>();
        assert!(shares.windows(2).all(|pair| pair[1] - pair[0] == 50), "{shares:?}");
        assert_eq!((shares[0], shares[200]), (0, 10_000));
        assert_eq!(due(7, Duration::from_secs(9), time), 7, "late");
        assert_eq!(due(7, Duration::ZERO, Duration::ZERO), 7, "at once");
        assert_eq!(due(0, Duration::ZERO, time), 0);
    }
}
