//! `redirector run` and `redirector uninstall`: the verbs that change the kernel.

use std::{io::IsTerminal as _, path::Path};

use tracing_subscriber::EnvFilter;

use super::{Exit, RunArgs, UninstallArgs};
use crate::{
    agent,
    config::{self, Resolved},
    datapath,
    model::Config,
};

/// Runs the agent in the foreground.
pub async fn run(args: &RunArgs) -> Exit {
    log_to_standard_error();
    let (config, resolved) = match read(&args.config) {
        Ok(read) => read,
        Err(error) => return wrong_configuration(&error),
    };
    match agent::run(config, resolved, args.kernel_log).await {
        Ok(()) => Exit::Done,
        Err(error) => failed(&error),
    }
}

/// Removes everything from the kernel.
pub async fn uninstall(args: &UninstallArgs) -> Exit {
    let config = match config::load(&args.config) {
        Ok(config) => config,
        Err(error) => return wrong_configuration(&error),
    };
    match datapath::uninstall(&config.datapath.pin_dir, &config.datapath.device).await {
        Ok(()) => Exit::Done,
        Err(error) => failed(&error),
    }
}

/// The configuration and the addresses of its members.
pub(super) fn read(path: &Path) -> Result<(Config, Resolved), config::Error> {
    let config = config::load(path)?;
    let resolved = config::resolve(&config)?;
    Ok((config, resolved))
}

pub(super) fn wrong_configuration(error: &config::Error) -> Exit {
    eprintln!("error: {error}");
    Exit::WrongUsage
}

pub(super) fn failed(error: &anyhow::Error) -> Exit {
    eprintln!("error: {error:#}");
    Exit::Failed
}

/// `RUST_LOG` chooses what is logged; without it, what an operator wants to read.
fn log_to_standard_error() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}
