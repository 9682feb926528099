//! The agent and its command line.

use std::process::ExitCode;

use clap::Parser as _;
use redirector::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run().into()
}
