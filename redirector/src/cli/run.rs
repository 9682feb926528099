//! `redirector run` and `redirector uninstall`: the verbs that change the kernel.

use std::{io::IsTerminal as _, path::Path, sync::Arc};

use anyhow::anyhow;
use tracing_subscriber::EnvFilter;

use super::{Exit, RunArgs, UninstallArgs};
pub(super) use crate::fitting::Fitting;
use crate::{
    agent,
    config::{self, Answers},
    control::server,
    datapath,
    fitting::{self, Unfit},
    resolve::Resolver,
};

/// Runs the agent in the foreground.
pub async fn run(args: &RunArgs) -> Exit {
    log_to_standard_error("info");
    let resolver = Arc::default();
    let fitting = match read(&args.config, &resolver, agent::answers::read).await {
        Ok(read) => read,
        Err(exit) => return exit,
    };
    match agent::run(&args.config, fitting, resolver, args.kernel_log).await {
        Ok(()) => Exit::Done,
        Err(error) => failed(&error),
    }
}

/// Removes everything from the kernel, and the socket of an agent that was killed.
pub async fn uninstall(args: &UninstallArgs) -> Exit {
    log_to_standard_error("warn");
    let (agent, datapath) = match config::load_sections_of_the_host(&args.config) {
        Ok(sections) => sections,
        Err(error) => return wrong_configuration(&error),
    };
    match datapath::uninstall(&datapath).await {
        Ok(true) => {}
        // Who names another file than the agent's removes nothing, and should know.
        Ok(false) => eprintln!(
            "nothing was there to remove: no device {}, no pins in {}",
            datapath.device,
            datapath.pin_dir.display()
        ),
        Err(error) => return failed(&error),
    }
    let socket = agent.control_socket;
    match server::remove_abandoned(&socket) {
        Ok(()) => Exit::Done,
        Err(error) => failed(&anyhow!(
            "everything is removed from the kernel, but not the control socket {} ({error}); remove it",
            socket.display()
        )),
    }
}

/// Reads a configuration and compares it with this host. What is wrong is said.
pub(super) async fn read(
    path: &Path,
    resolver: &Arc<Resolver>,
    earlier: impl FnOnce(&Path) -> Answers,
) -> Result<Fitting, Exit> {
    fitting::read(path, resolver, earlier).await.map_err(|unfit| match unfit {
        Unfit::Configuration(error) => wrong_configuration(&error),
        Unfit::Host(error) => failed(&error),
    })
}

pub(super) fn wrong_configuration(error: &config::Error) -> Exit {
    eprintln!("error: {error}");
    Exit::WrongUsage
}

pub(super) fn failed(error: &anyhow::Error) -> Exit {
    eprintln!("error: {error:#}");
    Exit::Failed
}

/// `RUST_LOG` chooses what is logged; without it, what an operator wants to read of this verb.
pub(super) fn log_to_standard_error(level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}
