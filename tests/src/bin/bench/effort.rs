//! How much is measured: every count of rounds in one place, so that the whole run has a bound.

use std::time::Duration;

/// Counts and times of one run.
pub struct Effort {
    /// Pairs of throughput legs, one direct and one through the VIP, for each depth of the pipeline.
    pub pairs: usize,
    /// Length of a leg.
    pub leg: Duration,
    /// Pairs of blocks of single commands, for the latency.
    pub blocks: usize,
    /// Legs under which the programs' run time is read, for each depth of the pipeline.
    pub program_legs: usize,
    /// Readings of each packet in [`crate::packets`], and how often the packet runs in each.
    pub packet_rounds: usize,
    pub packet_repeats: u32,
    /// Outages of each kind.
    pub outages: usize,
    /// How long the agent is watched at rest.
    pub rest: Duration,
    /// The same with many services.
    pub services: Duration,
}

impl Effort {
    /// For the README.
    pub const FULL: Self = Self {
        pairs: 20,
        leg: Duration::from_secs(1),
        blocks: 40,
        program_legs: 9,
        packet_rounds: 15,
        packet_repeats: 1_000_000,
        outages: 10,
        rest: Duration::from_secs(10),
        services: Duration::from_secs(30),
    };

    /// For a first look.
    pub const QUICK: Self = Self {
        pairs: 5,
        leg: Duration::from_millis(500),
        blocks: 10,
        program_legs: 3,
        packet_rounds: 5,
        packet_repeats: 200_000,
        outages: 3,
        rest: Duration::from_secs(5),
        services: Duration::from_secs(10),
    };
}
