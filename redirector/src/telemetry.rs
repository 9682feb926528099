//! What the agent tells: events, metrics, and whether it is well.
//!
//! | module | concern |
//! |---|---|
//! | [`event`] | everything that happens, as one typed enum |
//! | `log` | an event as a line of the log |
//! | [`events`] | [`Events::emit`]: log, ring of recent ones, stream |
//! | `kept` | the ring on disk, over restarts |
//! | [`metrics`] | what is counted as it happens |
//! | [`families`] | every metric with its meaning |
//! | [`exposition`] | metrics as text |
//! | [`server`] | the listener: `/metrics`, `/healthz`, `/readyz` |
//! | `words` | outcomes of probes as labels |
//! | `process` | the agent's own processor time and memory |
//!
//! Nothing in here decides anything, and nothing makes the agent's loop wait: a disk that is slow, a follower that does not
//! read or a scraper that asks too often loses events or waits itself.

pub mod event;
pub mod events;
pub mod exposition;
pub mod families;
mod kept;
mod log;
pub mod metrics;
mod process;
pub mod server;
mod words;

pub use self::{
    event::{Event, Record},
    events::{Events, Line, Selection, Subscription},
    metrics::{CheckMetrics, Metrics},
    words::Words,
};
