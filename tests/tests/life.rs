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

/// An agent starts, and a member is chosen, within this.
const START: Duration = Duration::from_secs(10);
