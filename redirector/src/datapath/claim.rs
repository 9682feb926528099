//! The right of one agent alone to a pin directory and a VIP device: taken before anything is made, given back when
//! a start fails. And its end, `uninstall`.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    attach,
    maps::Maps,
    network::Network,
    pins::{self, Holds},
    preflight::{self, PinDir},
    programs, sweep,
};
use crate::model;

/// The right of one agent alone to a pin directory. Until [`super::Datapath::start`] it has made nothing but that
/// directory.
#[derive(Clone, Debug)]
pub struct Claim {
    pub(super) network: Network,
    pub(super) pin_dir: Arc<PinDir>,
    pub(super) device: String,
    /// There was none before: an agent that fails to start leaves nothing behind.
    pub(super) device_is_new: bool,
}

/// Refuses what a start would refuse this host for, as far as looking tells. Changes nothing, and needs no privileges, but
/// a tokio runtime.
///
/// # Errors
/// The first thing that is in the way.
pub async fn foresee(config: &model::Datapath) -> Result<()> {
    preflight::check_running_kernel()?;
    preflight::check_ports(config.port_range)?;
    preflight::check_bpffs(&config.pin_dir)?;
    Network::connect()?.refuse_foreign_device(&config.device).await
}

impl Claim {
    /// Refuses a host that cannot carry the programs, and a pin directory that another agent has claimed or whose
    /// pins cannot be used. Needs a tokio runtime.
    pub async fn take(config: &model::Datapath) -> Result<Self> {
        preflight::check()?;
        preflight::check_ports(config.port_range)?;
        let network = Network::connect()?;
        let device_is_new = !network.has_device(&config.device).await?;
        let pin_dir = Arc::new(PinDir::claim(&config.pin_dir)?);
        let claim = Self { network, pin_dir, device: config.device.clone(), device_is_new };
        let path = claim.pin_dir.path();
        match settled(path).await.and_then(|found| found.may_be_used(path)) {
            Ok(()) => Ok(claim),
            Err(error) => {
                claim.give_back().await;
                Err(error)
            }
        }
    }

    /// Removes pins that cannot be taken over: remains of the dead, and of a start that was killed halfway.
    pub(super) fn repair(&self) -> Result<()> {
        let path = self.pin_dir.path();
        if Holds::look(path)?.repair(path)? {
            self.pin_dir.is_empty_now();
        }
        Ok(())
    }

    /// Refuses a VIP device that an agent with another pin directory owns.
    pub(super) async fn refuse_taken_device(&self) -> Result<()> {
        refuse_taken(&self.network, self.pin_dir.path(), &self.device).await
    }

    /// Removes what this start has made; what was there before stays.
    pub async fn give_back(self) {
        // Another agent may have made it since.
        if self.device_is_new
            && self.refuse_taken_device().await.is_ok()
            && let Err(error) = self.network.remove_device(&self.device).await
        {
            tracing::error!("cleaning up after a failed start: {error:#}");
        }
        if let Err(error) = self.pin_dir.give_back() {
            tracing::error!("cleaning up after a failed start: {error:#}");
        }
    }
}

/// What a pin directory holds, once a network namespace that is ending has ended: the kernel takes its devices away a
/// moment after its last process, and a container may be started again sooner.
async fn settled(pin_dir: &Path) -> Result<Holds> {
    const ENDING: Duration = Duration::from_secs(2);
    const PAUSE: Duration = Duration::from_millis(50);

    let begin = Instant::now();
    loop {
        let found = Holds::look(pin_dir)?;
        if !matches!(found, Holds::Foreign(_)) || begin.elapsed() >= ENDING {
            return Ok(found);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Says whose maps these are, once all of them are pinned. The next agent reads it first.
pub(super) fn sign(maps: &mut Maps) -> Result<()> {
    let own = pins::own_meta()?;
    if maps.meta()? == own { Ok(()) } else { maps.set_meta(own) }
}

/// Removes programs, maps, pins, device and routes. Needs no running agent, and refuses while one runs. Returns whether there was
/// anything.
pub async fn uninstall(config: &model::Datapath) -> Result<bool> {
    preflight::check()?;
    let network = Network::connect()?;
    let claim = if config.pin_dir.exists() { Some(PinDir::claim(&config.pin_dir)?) } else { None };
    refuse_taken(&network, &config.pin_dir, &config.device).await?;
    let was_there = config.pin_dir.exists() || network.has_device(&config.device).await?;
    remove(&network, &config.pin_dir, &config.device).await?;
    drop(claim);
    Ok(was_there)
}

/// Flows end first, while programs can carry their resets: nobody hangs on a connection that goes nowhere. Then the
/// device goes, so that nothing is routed to programs that are about to vanish.
pub(super) async fn remove(network: &Network, pin_dir: &Path, device: &str) -> Result<()> {
    let found = settled(pin_dir).await?;
    found.may_be_removed(pin_dir)?;
    match &found {
        Holds::Ours => sweep::reset_all(Maps::open(pin_dir)?, device)?,
        Holds::OtherLayout(layout) => tracing::warn!(
            "this version cannot read the flows of layout {layout}: they end without a reset, and who waits for an \
             answer waits until a time-out"
        ),
        Holds::Broken(what) => tracing::warn!("flows end without a reset, because {what}"),
        Holds::Nothing | Holds::Dead(_) | Holds::Foreign(_) => {}
    }
    network.remove_device(device).await?;
    programs::remove_pins(pin_dir)
}

async fn refuse_taken(network: &Network, pin_dir: &Path, device: &str) -> Result<()> {
    match network.find(device).await? {
        Some(index) => attach::refuse_foreign(pin_dir, device, index),
        None => Ok(()),
    }
}
