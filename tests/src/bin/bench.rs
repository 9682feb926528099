//! `cargo xtask bench`: the figures of the README, each measured in this run and printed with how it was taken.
//!
//! | module | figures |
//! |---|---|
//! | `throughput` | GET through the VIP against the direct connection: commands a second, CPU, latency |
//! | `programs` | the kernel programs' time per packet under that traffic |
//! | `packets` | the same, a packet at a time, without any traffic |
//! | `failover` | from a fault until every client is served again |
//! | `resets` | idle connections at a switch: first and last to hear of it, CPU, memory |
//! | `rest` | what the agent costs when nothing happens |
//! | `services` | the same with 500 services |
//!
//! What is compared is measured in turns, because a machine's speed changes while a benchmark runs. Nothing here is
//! a test: figures are printed, not judged. Only what does not work at all ends with an error.

#[path = "bench/clocks.rs"]
mod clocks;
#[path = "bench/effort.rs"]
mod effort;
#[path = "bench/failover.rs"]
mod failover;
#[path = "bench/figures.rs"]
mod figures;
#[path = "bench/load.rs"]
mod load;
#[path = "bench/machine.rs"]
mod machine;
#[path = "bench/packets.rs"]
mod packets;
#[path = "bench/programs.rs"]
mod programs;
#[path = "bench/resets.rs"]
mod resets;
#[path = "bench/rest.rs"]
mod rest;
#[path = "bench/services.rs"]
mod services;
#[path = "bench/throughput.rs"]
mod throughput;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use redirector_tests::unavailable;

use effort::Effort;

/// An agent has chosen a member within this.
const START: Duration = Duration::from_secs(10);

/// Measures Redirector in network namespaces of its own; about ten minutes
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench")]
struct Arguments {
    /// Fewer and shorter rounds: about three minutes, and noisier figures
    #[arg(long)]
    quick: bool,
    /// Only these (may be given several times)
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Connections at a switch, for `resets` (may be given several times)
    #[arg(long, default_values_t = [1, 1_000, 100_000])]
    crowd: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// GET through the VIP against the direct connection
    Throughput,
    /// The kernel programs' time per packet
    Programs,
    /// From a fault until every client is served again
    Failover,
    /// Idle connections at a switch, up to 100 000
    Resets,
    /// The agent's memory and CPU when nothing happens
    Rest,
    /// The same with 500 services
    Services,
}

impl Part {
    fn measure(self, effort: &Effort, crowds: &[usize]) -> Result<()> {
        match self {
            Self::Throughput => throughput::measure(effort).context("throughput"),
            Self::Programs => {
                programs::measure(effort).context("programs under load")?;
                packets::measure(effort).context("programs, a packet at a time")
            }
            Self::Failover => failover::measure(effort).context("failover"),
            Self::Resets => resets::measure(crowds).context("resets"),
            Self::Rest => rest::measure(effort).context("at rest"),
            Self::Services => services::measure(effort).context("many services"),
        }
    }
}

fn main() -> ExitCode {
    match bench(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> Result<()> {
    if let Some(reason) = unavailable() {
        bail!("the benchmark cannot run on this machine: {reason}");
    }
    let effort = if arguments.quick { Effort::QUICK } else { Effort::FULL };
    let start = Instant::now();
    println!("# Redirector, measured\n\n{}", machine::describe()?);
    let parts = Part::value_variants().iter();
    for part in parts.filter(|part| arguments.only.is_empty() || arguments.only.contains(part)) {
        part.measure(&effort, &arguments.crowd)?;
    }
    println!("Taken in {} s; load average at the end: {}.", start.elapsed().as_secs(), machine::load()?);
    Ok(())
}
