//! A configuration file that is valid and fits this host: what a start, a check and every reload begin with.

use std::{fmt, path::Path, sync::Arc};

use crate::{
    config::{self, Answers, Resolved},
    datapath::{self, Survey},
    model::Config,
    resolve::Resolver,
};

/// A configuration that is valid and fits this host.
#[derive(Debug)]
pub struct Fitting {
    /// The configuration.
    pub config: Config,
    /// The addresses of its members.
    pub resolved: Resolved,
    /// How they are reached.
    pub paths: Vec<datapath::Path>,
    /// What this host does not have yet, each on a line.
    pub warnings: Vec<String>,
}

/// Why a configuration cannot be used. `Display` says what and where, and what to do.
#[derive(Debug)]
pub enum Unfit {
    /// It is wrong, or does not fit this host; a line for each fault.
    Configuration(config::Error),
    /// This host could not be asked.
    Host(anyhow::Error),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(error) => error.fmt(f),
            Self::Host(error) => write!(f, "{error:#}"),
        }
    }
}

/// Reads a configuration and compares it with this host. `earlier` are the answers that hold where the resolver fails, in a
/// state directory.
///
/// # Errors
/// Whatever keeps it from being used.
pub async fn read(
    path: &Path,
    resolver: &Arc<Resolver>,
    earlier: impl FnOnce(&Path) -> Answers,
) -> Result<Fitting, Unfit> {
    let loaded = config::load(path).map_err(Unfit::Configuration)?;
    let earlier = earlier(&loaded.config.agent.state_dir);
    fit(loaded, resolver, &earlier).await
}

/// The same for an agent that runs with another configuration already.
///
/// # Errors
/// As [`read`]; and every key that cannot change as long as the agent runs.
pub async fn read_again(
    path: &Path,
    resolver: &Arc<Resolver>,
    earlier: &Answers,
    running: &Config,
) -> Result<Fitting, Unfit> {
    let path = path.to_owned();
    let loaded = tokio::task::spawn_blocking(move || config::load(&path));
    let loaded = loaded.await.map_err(|error| Unfit::Host(error.into()))?.map_err(Unfit::Configuration)?;
    if let Some(error) = loaded.refuse_fixed(running) {
        return Err(Unfit::Configuration(error));
    }
    if loaded.config.datapath.port_range != running.datapath.port_range {
        datapath::check_ports(loaded.config.datapath.port_range).map_err(Unfit::Host)?;
    }
    fit(loaded, resolver, earlier).await
}

async fn fit(loaded: config::Loaded, resolver: &Arc<Resolver>, earlier: &Answers) -> Result<Fitting, Unfit> {
    let resolved = config::resolve(&loaded, resolver, earlier).await.map_err(Unfit::Configuration)?;
    let Survey { misfits, paths } = datapath::survey(&loaded.config, &resolved).await.map_err(Unfit::Host)?;
    match loaded.misfits(&misfits) {
        Some(error) => Err(Unfit::Configuration(error)),
        None => Ok(Fitting { warnings: loaded.warnings(&misfits), config: loaded.config, resolved, paths }),
    }
}
