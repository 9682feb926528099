//! The sweep: resetting the flows that a switch made stale, without waiting for their next packet.
//!
//! It runs in a thread of its own, so that a switch never waits for an earlier one's flows. What is stale is decided
//! by the same compare as in the kernel; so a sweep may come late, twice, or after a restart of the agent.
//!
//! | module | concern |
//! |---|---|
//! | `crew` | several threads at once |
//! | `end` | ending flows, each in the way that reaches its client |
//! | `spread` | ending those of a planned switch over a while |
//! | `ways` | which ways there are, found out at the start |

mod crew;
mod end;
mod spread;
mod ways;

use std::{
    net::SocketAddr,
    ops::ControlFlow::{Break, Continue},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use redirector_common::layout::{MAX_MEMBERS, MAX_SERVICES};
use tokio::sync::watch;

pub use self::ways::ResetWays;
pub(super) use self::ways::enter_a_namespace;
pub(super) use self::{crew::Crew, spread::Over};
use self::{
    end::{Ender, Left, Pass, Turn, look_beside},
    spread::Spread,
};
use super::{
    flows::Named,
    maps::{Maps, Vips},
    notice::{Notice, Notices, Swept},
};

/// When the passes of a sweep start, after the switch. A program that read the old decision just before the switch
/// inserts its flow within the RCU grace period that follows, and takes it back; the later passes find what lost
/// that race in any other way, and sockets that the kernel had not finished with.
const PASSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(10), Duration::from_millis(50), Duration::from_millis(250)];

/// How many passes there are at most. Those after the others, as far apart as the last two, are for clients that could not
/// be asked for because the device's queue was full.
const MOST_PASSES: usize = 20;

/// When the pass after so many others starts, after the switch.
fn start_of(pass: usize) -> Duration {
    let last = PASSES[PASSES.len() - 1];
    PASSES
        .get(pass)
        .copied()
        .unwrap_or_else(|| last * u32::try_from(pass + 2 - PASSES.len()).unwrap_or(u32::MAX))
}

/// What the thread is asked for.
#[derive(Debug)]
enum Request {
    /// Reset whatever is stale; since then.
    Sweep(Instant),
    Spread(Over),
    /// Go on with no spread of this member.
    Keep(u16),
}

/// Hands sweeps to their thread.
#[derive(Debug)]
pub(super) struct Sweeper {
    /// `None` while dropping.
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<thread::JoinHandle<()>>,
    ended: watch::Receiver<()>,
    pub(super) ways: ResetWays,
}

impl Sweeper {
    /// Starts the thread. `device`: the name of the VIP device.
    pub(super) fn start(maps: Arc<Mutex<Maps>>, device: &str, notices: Notices) -> Result<Self> {
        let ways = ResetWays::try_all(device);
        let (requests, asked) = mpsc::channel();
        let mut work = Work { maps, ender: Ender::open(device)?, notices, passes: None, spreads: Vec::new() };
        let (alive, ended) = watch::channel(());
        let thread = thread::Builder::new()
            .name("sweep".into())
            .spawn(move || {
                // Dropped with the thread, also in a panic.
                let _alive = alive;
                work.run(&asked);
            })
            .context("cannot start the thread that resets stale flows")?;
        Ok(Self { requests: Some(requests), thread: Some(thread), ended, ways })
    }

    /// Waits for the end of the thread, which is to come with that of the sweeper only.
    pub(super) fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut ended = self.ended.clone();
        // Nothing is ever sent: the other end is gone.
        async move { while ended.changed().await.is_ok() {} }
    }

    /// Resets whatever is stale now.
    pub(super) fn sweep(&self) {
        self.ask(Request::Sweep(Instant::now()));
    }

    /// Resets flows that are not stale yet, one after the other.
    pub(super) fn spread(&self, over: Over) {
        self.ask(Request::Spread(over));
    }

    /// A member is active again: what was not reset yet stays.
    pub(super) fn keep(&self, member: u16) {
        self.ask(Request::Keep(member));
    }

    fn ask(&self, request: Request) {
        if let Some(requests) = &self.requests {
            // The thread ends only when this end of the channel is gone, or in a panic: the agent ends too then.
            let _thread_is_gone = requests.send(request);
        }
    }
}

impl Drop for Sweeper {
    /// Waits for a sweep that is under way: an agent that stops right after a switch leaves nobody hanging.
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _panicked = thread.join();
        }
    }
}

/// What the thread has to do.
struct Work {
    maps: Arc<Mutex<Maps>>,
    ender: Ender,
    notices: Notices,
    /// A sweep under way: since when, and how many passes are over.
    passes: Option<(Instant, usize)>,
    spreads: Vec<Spread>,
}

impl Work {
    fn run(&mut self, requests: &mpsc::Receiver<Request>) {
        loop {
            let next = match self.next() {
                Some(at) => requests.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => requests.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            };
            match next {
                // A switch that comes meanwhile starts the passes anew.
                Ok(Request::Sweep(switch)) => self.passes = Some((switch, 0)),
                Ok(Request::Spread(over)) => self.begin(over),
                Ok(Request::Keep(member)) => self.keep(member),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.stop(),
            }
            self.pass_if_due();
            self.slice_if_due();
        }
    }

    /// When there is something to do.
    fn next(&self) -> Option<Instant> {
        let pass = self.passes.map(|(switch, over)| switch + start_of(over));
        self.spreads.iter().map(Spread::next).chain(pass).min()
    }

    fn pass_if_due(&mut self) {
        let Some((switch, over)) =
            self.passes.filter(|(switch, over)| *switch + start_of(*over) <= Instant::now())
        else {
            return;
        };
        let next = over + 1;
        let is_last = next >= PASSES.len();
        let then = match over {
            0 => Left::Stay,
            _ if is_last => Left::Go,
            _ => Left::Unseen,
        };
        let waiting = self.pass(switch, over > 0, then);
        let goes_on = !is_last || (waiting && self.ender.asks() && next < MOST_PASSES);
        self.passes = goes_on.then_some((switch, next));
        if !goes_on {
            self.ender.forget();
        }
    }

    /// The agent stops: once more at once, and no later. What is spread is a drain, which the next agent goes on with.
    fn stop(&mut self) {
        if let Some((switch, over)) = self.passes {
            self.pass(switch, over > 0, Left::Go);
        }
    }

    /// Returns whether somebody waits who could not be asked for. What fails now may go well in the next pass.
    fn pass(&mut self, switch: Instant, comes_again: bool, then: Left) -> bool {
        match pass(&self.maps, &mut self.ender, then) {
            Ok(found) => {
                let waiting = found.values().any(|flows| flows.waiting > 0);
                self.tell(switch, found, comes_again);
                waiting
            }
            Err(error) => {
                tracing::error!("resetting stale flows failed: {error:#}");
                true
            }
        }
    }

    /// Tells of a pass. One that comes again has news only where it reset something: what waits was told before.
    fn tell(&self, requested: Instant, mut found: Pass, comes_again: bool) {
        found.retain(|_, flows| flows.reset > 0 || (!comes_again && flows.waiting > 0));
        if !comes_again || !found.is_empty() {
            // Nobody listens to an agent that stops.
            let _stops =
                self.notices.send(Notice::Swept(Swept { requested, ended: Instant::now(), members: found }));
        }
    }
}

/// Ends every flow of every service, for good. `device`: the name of the VIP device.
pub(super) fn reset_all(maps: Maps, device: &str) -> Result<()> {
    let ids = |count| (0..count).filter_map(|id: u32| u16::try_from(id).ok());
    ids(MAX_SERVICES).for_each(|service| maps.steering.hold(service));
    ids(MAX_MEMBERS).try_for_each(|member| maps.slots.empty(member))?;
    pass(&Mutex::new(maps), &mut Ender::open(device)?, Left::Go)?;
    Ok(())
}

/// Ends flows through VIPs that their services do not have any more. Nothing makes them stale: member, slot and epoch are
/// what they were. `device`: the name of the VIP device.
pub(super) fn end_without_vip(maps: &Mutex<Maps>, vips: &Vips, device: &str) -> Result<()> {
    // Reading the table takes a while: nobody waits for it.
    let (flows, standings) = {
        let maps = lock(maps);
        (maps.flows.clone(), maps.standings())
    };
    let mut orphans = Vec::new();
    flows.for_each(|client_side, flow| {
        let vip = SocketAddr::new(client_side.far.into(), client_side.far_port.number());
        if vips.get(&vip) != Some(&flow.service) && !standings.is_stale(flow) {
            orphans.push((*client_side, *flow));
        }
    })?;
    if orphans.is_empty() {
        return Ok(());
    }
    let mut ender = Ender::open(device)?;
    let mut turn = Turn::default();
    for (client_side, flow) in &orphans {
        ender.take(&mut turn, ender.doom(client_side, flow))?;
    }
    ender.end(&flows, turn, Left::Go, look_beside, &mut Pass::new())?;
    // Whom no reset could be sent to hears one with his next segment.
    for (client_side, flow) in &orphans {
        flows.remove(&Named { client_side: *client_side, incarnation: flow.incarnation })?;
    }
    tracing::info!(flows = orphans.len(), "ended the flows through VIPs that are gone");
    Ok(())
}

/// Ends all stale flows. Their clients are asked for while the table is read.
fn pass(maps: &Mutex<Maps>, ender: &mut Ender, then: Left) -> Result<Pass> {
    // Reading the table takes a while: nobody waits for it.
    let (flows, standings) = {
        let maps = lock(maps);
        (maps.flows.clone(), maps.standings())
    };
    let (mut turn, mut taken) = (Turn::default(), Ok(()));
    flows.for_each_until(|client_side, flow| {
        if standings.is_stale(flow) {
            taken = ender.take(&mut turn, ender.doom(client_side, flow));
        }
        if taken.is_ok() { Continue(()) } else { Break(()) }
    })?;
    taken?;
    let mut found = Pass::new();
    ender.end(&flows, turn, then, look_beside, &mut found)?;
    Ok(found)
}

pub(super) fn lock(maps: &Mutex<Maps>) -> std::sync::MutexGuard<'_, Maps> {
    // A panic while the maps were held left no half-written state behind: every write is one system call.
    maps.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_after_the_planned_ones_are_as_far_apart_as_the_last() {
        let starts: Vec<_> = (0..7).map(|pass| start_of(pass).as_millis()).collect();
        assert_eq!(starts, [0, 10, 50, 250, 500, 750, 1000]);
    }
}
