//! The sweep: resetting the flows that a switch made stale, without waiting for their next packet.
//!
//! It runs in a thread of its own, so that a switch never waits for an earlier one's flows. What is stale is decided
//! by the same compare as in the kernel; so a sweep may come late, twice, or after a restart of the agent.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use redirector_common::{addr::Tuple, flow::Flow, layout::MAX_SERVICES};

use super::{
    maps::Maps,
    sockets::{Destroyer, Victim},
};

/// When the passes of a sweep start, after the switch. A program that read the old decision just before the switch
/// inserts its flow within the RCU grace period that follows, and takes it back; the later passes find what lost
/// that race in any other way, and sockets that the kernel had not finished with.
const PASSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(10), Duration::from_millis(50), Duration::from_millis(250)];

/// What one pass found.
#[derive(Clone, Copy, Debug)]
struct Pass {
    /// Stale flows of local sockets.
    local: usize,
    /// Stale flows of other clients: they are answered with a reset when their next packet comes.
    remote: usize,
}

/// Hands sweeps to their thread.
#[derive(Debug)]
pub(super) struct Sweeper {
    switches: mpsc::Sender<Instant>,
}

impl Sweeper {
    /// Starts the thread. It ends when the sweeper is dropped.
    pub(super) fn start(maps: Arc<Mutex<Maps>>) -> Result<Self> {
        let destroyer = Destroyer::open()?;
        let (switches, requests) = mpsc::channel();
        thread::Builder::new()
            .name("sweep".into())
            .spawn(move || {
                while let Ok(switch) = requests.recv() {
                    if let Err(error) = sweep(&maps, &destroyer, &requests, switch) {
                        tracing::error!("resetting stale flows failed: {error:#}");
                    }
                }
            })
            .context("cannot start the thread that resets stale flows")?;
        Ok(Self { switches })
    }

    /// Resets whatever is stale now.
    pub(super) fn sweep(&self) {
        // The thread ends only when this end of the channel is gone.
        let _never_fails = self.switches.send(Instant::now());
    }
}

fn sweep(
    maps: &Mutex<Maps>,
    destroyer: &Destroyer,
    requests: &mpsc::Receiver<Instant>,
    mut switch: Instant,
) -> Result<()> {
    let mut passes = PASSES.iter();
    while let Some(after) = passes.next() {
        // A switch that comes meanwhile starts the passes anew.
        let wait = (switch + *after).saturating_duration_since(Instant::now());
        match requests.recv_timeout(wait) {
            Ok(next) => {
                switch = next;
                passes = PASSES.iter();
                continue;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
        }
        let found = pass(maps, destroyer)?;
        if found.local + found.remote > 0 {
            tracing::info!(
                local = found.local,
                remote = found.remote,
                took_us = u64::try_from(switch.elapsed().as_micros()).unwrap_or(u64::MAX),
                "reset stale flows"
            );
        }
    }
    Ok(())
}

/// Ends every flow of every service, for good.
pub(super) fn reset_all(maps: Maps) -> Result<()> {
    (0..MAX_SERVICES).filter_map(|id| u16::try_from(id).ok()).for_each(|id| maps.steering.end(id));
    pass(&Mutex::new(maps), &Destroyer::open()?)?;
    Ok(())
}

/// Destroys the local sockets of all stale flows, then deletes the flows that are left of them.
fn pass(maps: &Mutex<Maps>, destroyer: &Destroyer) -> Result<Pass> {
    let (local, remote) = stale_flows(&lock(maps))?;
    let victims: Vec<_> = local
        .iter()
        .map(|(client_side, flow)| Victim { client_side: *client_side, cookie: flow.cookie })
        .collect();
    if let Some(error) = destroyer.destroy(&victims)? {
        tracing::warn!(
            "the kernel refused to destroy a socket ({error}); its flow is reset with its next packet. A kernel \
             without CONFIG_INET_DIAG_DESTROY refuses all of them"
        );
    }
    // A destroyed socket's own reset took its flow along. What is left had nothing to reset: a connection that was
    // still opening, or a socket that is gone.
    let mut maps = lock(maps);
    for (client_side, flow) in &local {
        maps.flows.remove(client_side, flow)?;
    }
    Ok(Pass { local: local.len(), remote })
}

/// The stale flows of local sockets, and how many others there are.
fn stale_flows(maps: &Maps) -> Result<(Vec<(Tuple, Flow)>, usize)> {
    let mut local = Vec::new();
    let mut remote = 0;
    maps.flows.for_each(|client_side, flow| match flow.is_stale(&maps.standing(flow)) {
        false => {}
        true if flow.cookie != 0 => local.push((*client_side, *flow)),
        true => remote += 1,
    })?;
    Ok((local, remote))
}

pub(super) fn lock(maps: &Mutex<Maps>) -> std::sync::MutexGuard<'_, Maps> {
    // A panic while the maps were held left no half-written state behind: every write is one system call.
    maps.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
