//! The lab: hosts in network namespaces, real `redis-server` processes, faults, clients and the agent.
//!
//! ```text
//!   app ──────── router ──────── m1   10.2.1.2   fd02:1::2
//!   10.1.0.2         │
//!   fd01::2          └────────── m2   10.2.2.2   fd02:2::2   …
//! ```
//!
//! More hosts, uplinks, links and narrow paths are laid on request: `topology.rs`.
//!
//! Tests, demo and benchmark stand on it. Everything that a [`Lab`] makes is its own: devices live in namespaces
//! that no other process sees, so labs run side by side, and dropping the lab (also in a panic) removes them.
//! When the process is killed the kernel does it: a namespace ends with the last descriptor to it, and children
//! carry a parent-death signal. What the kernel cannot remove (pins on the BPF file system, a directory under the
//! temporary directory) is swept by the next lab of any process.
//!
//! The namespaces have no names under `/run/netns`. To look into one while a test sleeps, take the line that
//! [`Host`]'s `Debug` prints: `nsenter --net=/proc/<pid of the test>/fd/<N>` (not `ip netns exec`, which would hide
//! the BPF file system). It needs root; [`unavailable`] says what a machine lacks.

mod agent;
mod agent_config;
mod application;
mod assembly;
mod client;
mod counters;
mod crowd;
mod diagnostics;
mod dial;
mod filters;
mod foreign;
mod host;
mod lab;
mod member;
mod name_server;
mod namespace;
mod network;
mod offloads;
mod process;
mod resolv_conf;
mod scenario;
mod scratch;
mod timeline;
mod tools;
mod topology;
mod traces;
mod tunnel;
mod waiting;
mod workers;

pub use agent::{Agent, binary, upgrade_binary};
pub use agent_config::{AgentConfig, Timing, VIP_PORT, VIP_V4, VIP_V6};
pub use application::{Application, CHANNEL, QUEUE, mapped, vip_addresses, waiting_at};
pub use assembly::Assembly;
pub use client::{Agreed, Connection, Stopper, Value};
pub use crowd::{Crowd, CrowdServer, Held, Part, Seen, Served};
pub use dial::Dial;
pub use filters::{Filter, filters, has_clsact, has_tcx, programs};
pub use foreign::{foreign_program, program_info};
pub use host::Host;
pub use lab::{Builder, Lab};
pub use member::{Member, REDIS_PORT};
pub use name_server::NameServer;
pub use namespace::{Namespace, namespace_exists};
pub use network::netlink;
pub use offloads::Offloads;
pub use process::{Log, Process};
pub use scenario::{Scenario, unavailable};
pub use timeline::{Event, Failure, Timeline, What};
pub use topology::{CONTAINERS, GATEWAYS, UPLINKS, first_vips};
pub use traces::{new_connections_are_served_by, nothing_is_left, one_program_on_each_hook, routes_a_vip};
pub use tunnel::Tunnel;
pub use waiting::{WaitingClient, Wake};
pub use workers::{Load, Workers};

use std::{
    env, thread,
    time::{Duration, Instant},
};

/// How many times slower than a real machine this one is, by `REDIRECTOR_LAB_SLOWNESS`; 1 when that is not set. An emulated
/// one needs more time for everything, probes included: their times and the bounds of waiting grow with it.
#[must_use]
pub fn slowness() -> u32 {
    env::var("REDIRECTOR_LAB_SLOWNESS").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

/// Asks `ready` every few milliseconds until it answers yes. No wait in the lab is without a bound.
///
/// # Errors
/// After `within`, with `what` in the message.
pub fn wait_until(what: &str, within: Duration, mut ready: impl FnMut() -> bool) -> anyhow::Result<Duration> {
    let (start, within) = (Instant::now(), within * slowness());
    while !ready() {
        anyhow::ensure!(start.elapsed() < within, "{what}: not so within {within:?}");
        thread::sleep(Duration::from_millis(2));
    }
    Ok(start.elapsed())
}
