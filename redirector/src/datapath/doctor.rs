//! What `redirector doctor` finds out about the kernel: facts, without a judgement. Nothing that stays is changed.
//!
//! | module | finds out |
//! |---|---|
//! | `kernel` | version, capabilities, limits, settings of the whole machine |
//! | `trial` | what works, by doing it in a network namespace that ends with it |
//! | `routes` | the way to each member, subnets, settings of the network |
//! | `hooks` | whose programs run where packets are taken |
//! | `pins` | what is pinned, and whether an agent can take it over |
//! | `netfilter` | rules that translate packets on their way to the VIP device |
//!
//! Where a start would refuse the host, the fact carries the sentence of that refusal: no condition is written twice.

pub mod hooks;
pub mod kernel;
pub mod netfilter;
pub mod pins;
pub mod routes;
pub mod trial;

pub use self::{
    hooks::{Direction, Hook, Program},
    kernel::Kernel,
    pins::Pins,
    routes::{Reached, Subnet, Way},
    trial::{Trial, Trials},
};
