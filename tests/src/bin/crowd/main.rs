//! Both ends of a crowd of connections, for tests and benchmark: in processes of their own, because a process may open only
//! so many files.
//!
//! | role | module | is |
//! |---|---|---|
//! | `hold` | `hold.rs` | clients that open connections, wait, and note when each one ends |
//! | `serve` | `serve.rs` | a server that accepts, and echoes what it is sent |
//!
//! Each says with a line of JSON on standard output that it is ready, answers each `report` on standard input with such a line,
//! and ends with standard input. Times are those of `CLOCK_MONOTONIC`, so that all processes of a machine have the same.
//! `redirector_tests::Crowd` and `CrowdServer` are the other side.

use std::{
    net::{IpAddr, SocketAddr},
    process::ExitCode,
};

use anyhow::Result;
use clap::Parser;

mod hold;
mod seen;
mod serve;
mod watch;

/// Clients or a server of a crowd; started by tests
#[derive(Parser)]
enum Role {
    /// Clients
    Hold {
        /// Where they connect to
        #[arg(long)]
        to: SocketAddr,
        /// How many
        #[arg(long)]
        count: usize,
        /// Their source addresses, in turns; none: what the route prefers
        #[arg(long)]
        from: Vec<IpAddr>,
        /// Whoever is ended connects again at once
        #[arg(long)]
        again: bool,
    },
    /// A server; several may listen on one address
    Serve {
        /// Where it listens
        address: SocketAddr,
    },
}

fn main() -> ExitCode {
    let worked: Result<()> = match Role::parse() {
        Role::Hold { to, count, from, again } => hold::hold(to, count, &from, again),
        Role::Serve { address } => serve::serve(address),
    };
    match worked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
