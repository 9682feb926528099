//! Redirector: a host agent that keeps a virtual IP on the healthy member of an Active-Active Redis database.
//!
//! A packet's way is in `redirector-ebpf`; a decision's way is [`probe`] → [`decide`] → [`datapath`], wired
//! together by [`agent`]; members come and go with the addresses that [`resolve`] finds. `docs/` has one page per concern.

pub mod agent;
pub mod cli;
mod command;
pub mod config;
pub mod control;
pub mod datapath;
pub mod decide;
pub mod fitting;
pub mod kept;
pub mod kinds;
pub mod model;
pub mod probe;
mod quote;
pub mod readiness;
pub mod resolve;
pub mod telemetry;
pub mod tls;
pub mod users;
