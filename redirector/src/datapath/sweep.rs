//! The sweep: resetting the flows that a switch made stale, without waiting for their next packet.
//!
//! It runs in a thread of its own, so that a switch never waits for an earlier one's flows. What is stale is decided
//! by the same compare as in the kernel; so a sweep may come late, twice, or after a restart of the agent.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use redirector_common::{
    addr::Tuple,
    flow::Flow,
    layout::{MAX_MEMBERS, MAX_SERVICES},
};
use tokio::sync::watch;

use super::{
    flows::Flows,
    maps::{Maps, Standings, Vips},
    notice::{Notice, Notices, Swept, SweptFlows},
    sockets::{Destroyer, Victim},
};

/// When the passes of a sweep start, after the switch. A program that read the old decision just before the switch
/// inserts its flow within the RCU grace period that follows, and takes it back; the later passes find what lost
/// that race in any other way, and sockets that the kernel had not finished with.
const PASSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(10), Duration::from_millis(50), Duration::from_millis(250)];

/// What one pass found, by member.
type Pass = BTreeMap<u16, SweptFlows>;

/// Tells of a pass. One that comes again has news only where it reset something: what waits was told before.
fn tell(notices: &Notices, requested: Instant, mut found: Pass, comes_again: bool) {
    found.retain(|_, flows| flows.reset > 0 || !comes_again);
    if !comes_again || !found.is_empty() {
        // Nobody listens to an agent that stops.
        let _stops = notices.send(Notice::Swept(Swept { requested, ended: Instant::now(), members: found }));
    }
}

/// Hands sweeps to their thread.
#[derive(Debug)]
pub(super) struct Sweeper {
    /// `None` while dropping.
    switches: Option<mpsc::Sender<Instant>>,
    thread: Option<thread::JoinHandle<()>>,
    ended: watch::Receiver<()>,
}

impl Sweeper {
    /// Starts the thread.
    pub(super) fn start(maps: Arc<Mutex<Maps>>, notices: Notices) -> Result<Self> {
        let destroyer = Destroyer::open()?;
        let (switches, requests) = mpsc::channel();
        let (alive, ended) = watch::channel(());
        let thread = thread::Builder::new()
            .name("sweep".into())
            .spawn(move || {
                // Dropped with the thread, also in a panic.
                let _alive = alive;
                while let Ok(switch) = requests.recv() {
                    if let Err(error) = sweep(&maps, &destroyer, &requests, &notices, switch) {
                        tracing::error!("resetting stale flows failed: {error:#}");
                    }
                }
            })
            .context("cannot start the thread that resets stale flows")?;
        Ok(Self { switches: Some(switches), thread: Some(thread), ended })
    }

    /// Waits for the end of the thread, which is to come with that of the sweeper only.
    pub(super) fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut ended = self.ended.clone();
        // Nothing is ever sent: the other end is gone.
        async move { while ended.changed().await.is_ok() {} }
    }

    /// Resets whatever is stale now.
    pub(super) fn sweep(&self) {
        if let Some(switches) = &self.switches {
            // The thread ends only when this end of the channel is gone, or in a panic: the agent ends too then.
            let _thread_is_gone = switches.send(Instant::now());
        }
    }
}

impl Drop for Sweeper {
    /// Waits for a sweep that is under way: an agent that stops right after a switch leaves nobody hanging.
    fn drop(&mut self) {
        drop(self.switches.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _panicked = thread.join();
        }
    }
}

fn sweep(
    maps: &Mutex<Maps>,
    destroyer: &Destroyer,
    requests: &mpsc::Receiver<Instant>,
    notices: &Notices,
    mut switch: Instant,
) -> Result<()> {
    let mut passes = PASSES.iter();
    while let Some(after) = passes.next() {
        let comes_again = !after.is_zero();
        // A switch that comes meanwhile starts the passes anew.
        let wait = (switch + *after).saturating_duration_since(Instant::now());
        match requests.recv_timeout(wait) {
            Ok(next) => {
                switch = next;
                passes = PASSES.iter();
                continue;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            // The agent stops: once more at once, and no later.
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                tell(notices, switch, pass(maps, destroyer)?, comes_again);
                return Ok(());
            }
        }
        // What fails now may go well in the next pass.
        match pass(maps, destroyer) {
            Ok(pass) => tell(notices, switch, pass, comes_again),
            Err(error) => tracing::error!("resetting stale flows failed: {error:#}"),
        }
    }
    Ok(())
}

/// Ends every flow of every service, for good.
pub(super) fn reset_all(maps: Maps) -> Result<()> {
    let ids = |count| (0..count).filter_map(|id: u32| u16::try_from(id).ok());
    ids(MAX_SERVICES).for_each(|service| maps.steering.hold(service));
    ids(MAX_MEMBERS).try_for_each(|member| maps.slots.empty(member))?;
    pass(&Mutex::new(maps), &Destroyer::open()?)?;
    Ok(())
}

/// Ends flows through VIPs that their services do not have any more. Nothing makes them stale: member, slot and epoch are
/// what they were. The sockets of local clients are destroyed, and the kernel's own reset ends the member's side; flows
/// of other clients are deleted, and both sides are refused with their next segment.
pub(super) fn end_without_vip(maps: &Mutex<Maps>, vips: &Vips) -> Result<()> {
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
    let destroyer = Destroyer::open()?;
    let local = orphans.iter().filter(|(_, flow)| flow.cookie != 0 && destroyer.may_destroy(flow));
    let victims = local.map(|(client_side, flow)| Victim { client_side: *client_side, cookie: flow.cookie });
    // Whoever is refused goes the way of the others.
    let _refused = destroyer.destroy(&victims.collect::<Vec<_>>())?;
    for (client_side, flow) in &orphans {
        flows.remove(client_side, flow)?;
    }
    tracing::info!(flows = orphans.len(), "ended the flows through VIPs that are gone");
    Ok(())
}

/// Destroys the local sockets of all stale flows, then deletes the flows that are left of them.
fn pass(maps: &Mutex<Maps>, destroyer: &Destroyer) -> Result<Pass> {
    // Reading the table takes a while: nobody waits for it.
    let (flows, standings) = {
        let maps = lock(maps);
        (maps.flows.clone(), maps.standings())
    };
    let (local, mut found) = stale_flows(&flows, &standings, destroyer)?;
    let victims: Vec<_> = local
        .iter()
        .map(|(client_side, flow)| Victim { client_side: *client_side, cookie: flow.cookie })
        .collect();
    let refused = destroyer.destroy(&victims)?;
    if let Some((_, error)) = refused.first() {
        tracing::warn!(
            sockets = refused.len(),
            "the kernel refused to destroy sockets ({error}); their flows are reset with their next packet. A kernel \
             without CONFIG_INET_DIAG_DESTROY refuses all of them"
        );
    }
    // A destroyed socket's own reset took its flow along. What is left of those had nothing to reset: a connection
    // that was still opening, or a socket that is gone. Whoever was refused needs his flow to be reset at all.
    let refused: HashSet<_> = refused.iter().map(|(number, _)| *number).collect();
    for (number, (client_side, flow)) in local.iter().enumerate() {
        let of_member = found.entry(flow.member).or_default();
        if refused.contains(&number) {
            of_member.waiting += 1;
        } else {
            of_member.reset += 1;
            flows.remove(client_side, flow)?;
        }
    }
    Ok(found)
}

/// The stale flows of local sockets, and how many others there are.
fn stale_flows(
    flows: &Flows,
    standings: &Standings,
    destroyer: &Destroyer,
) -> Result<(Vec<(Tuple, Flow)>, Pass)> {
    let mut local = Vec::new();
    let mut others = Pass::new();
    flows.for_each(|client_side, flow| {
        if !standings.is_stale(flow) {
            return;
        }
        if flow.cookie != 0 && destroyer.may_destroy(flow) {
            local.push((*client_side, *flow));
        } else {
            others.entry(flow.member).or_default().waiting += 1;
        }
    })?;
    Ok((local, others))
}

pub(super) fn lock(maps: &Mutex<Maps>) -> std::sync::MutexGuard<'_, Maps> {
    // A panic while the maps were held left no half-written state behind: every write is one system call.
    maps.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
