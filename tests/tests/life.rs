//! The life of the agent: killed, upgraded, started over what others or the dead have left, and ended without a trace.

#[path = "life/killed.rs"]
mod killed;
#[path = "life/leftovers.rs"]
mod leftovers;
#[path = "life/load.rs"]
mod load;
#[path = "life/others.rs"]
mod others;
#[path = "life/pins.rs"]
mod pins;
#[path = "life/ready.rs"]
mod ready;
#[path = "life/unreachable.rs"]
mod unreachable;

use std::time::Duration;

use anyhow::Result;
use aya::programs::TcAttachType;
use redirector_tests::{Lab, programs, wait_until};

/// An agent starts, and a member is chosen, within this.
const START: Duration = Duration::from_secs(10);

/// Waits until the kernel has freed the links whose pins were removed: an RCU grace period later.
fn nothing_is_attached(lab: &Lab) -> Result<()> {
    let hooks = [("eth0", TcAttachType::Ingress), ("redirector0", TcAttachType::Egress)];
    let free = |(device, hook)| programs(lab.app(), device, hook).is_ok_and(|found| found.is_empty());
    wait_until("links without pins are gone", Duration::from_secs(5), || hooks.into_iter().all(free))?;
    Ok(())
}
