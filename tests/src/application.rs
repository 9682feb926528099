//! An application as the tests and the demo have it: short commands, a client blocked in `BLPOP` and a subscriber,
//! through each kind of address.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{Lab, Load, Timeline, VIP_PORT, VIP_V4, VIP_V6, WaitingClient, Workers, wait_until};

/// The key that blocked clients wait at; nobody else pushes to it.
pub const QUEUE: &str = "application:queue";
/// The channel that subscribers listen to.
pub const CHANNEL: &str = "application:news";

/// How long anything that is to happen at once may take.
const SOON: Duration = Duration::from_secs(5);

/// The VIPs as clients write them: IPv4, IPv6, and IPv4 from an IPv6 socket.
#[must_use]
pub fn vip_addresses() -> [SocketAddr; 3] {
    [(VIP_V4, VIP_PORT).into(), (VIP_V6, VIP_PORT).into(), mapped(VIP_V4, VIP_PORT)]
}

/// `[::ffff:a.b.c.d]:port`, which an IPv6 socket reaches over IPv4.
#[must_use]
pub fn mapped(address: Ipv4Addr, port: u16) -> SocketAddr {
    (address.to_ipv6_mapped(), port).into()
}

/// Workers and waiting clients at all [`vip_addresses`].
#[derive(Debug)]
pub struct Application {
    workers: Vec<Workers>,
    waiting: Vec<WaitingClient>,
}

impl Application {
    /// Starts `workers` at each address, and waits until `member` serves all of them and all others wait at it.
    ///
    /// # Errors
    /// When that does not happen.
    pub fn start(lab: &Lab, workers: usize, member: &str) -> Result<Self> {
        let start = Instant::now();
        let addresses = vip_addresses();
        let load = |address| Workers::start(lab.app(), Load::new(workers, address));
        let workers = addresses.into_iter().map(load).collect::<Result<Vec<_>>>()?;
        let mut application = Self { workers, waiting: Vec::new() };
        application.wait_served_by(member, start)?;
        for address in addresses {
            application.waiting.push(WaitingClient::blocked(lab.app(), address, QUEUE)?);
            application.waiting.push(WaitingClient::subscribed(lab.app(), address, CHANNEL)?);
        }
        for client in &application.waiting {
            anyhow::ensure!(
                client.member == member,
                "{client:?} waits at {}, not at {member}",
                client.member
            );
        }
        let what = format!("blocked and subscribed clients wait at {member}");
        wait_until(&what, SOON, || {
            waiting_at(lab, member).is_ok_and(|count| count == application.waiting.len())
        })?;
        Ok(application)
    }

    /// Waits until `member` has served every worker at or after `since`; returns how long after `since`.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_served_by(&self, member: &str, since: Instant) -> Result<Duration> {
        let times = self.workers.iter().map(|workers| workers.wait_served_by(member, since, SOON));
        times.collect::<Result<Vec<_>>>()?.into_iter().max().context("no workers")
    }

    /// Waits until the connection of every blocked and subscribed client has ended; returns how long after `since`.
    ///
    /// # Errors
    /// When one still waits, or got an answer instead.
    pub fn wait_woken(&self, since: Instant) -> Result<Duration> {
        let mut longest = Duration::ZERO;
        for client in &self.waiting {
            let wake = client.wait_woken(SOON)?;
            anyhow::ensure!(wake.with.is_err(), "woken by an answer: {wake:?}");
            longest = longest.max(wake.at.saturating_duration_since(since));
        }
        Ok(longest)
    }

    /// Fails if any waiting client was woken.
    ///
    /// # Errors
    /// Naming it.
    pub fn still_waits(&self) -> Result<()> {
        for client in &self.waiting {
            let woken = client.woken();
            anyhow::ensure!(woken.is_none(), "{client:?} was woken: {woken:?}");
        }
        Ok(())
    }

    /// What the workers saw so far, one timeline for each of [`vip_addresses`].
    #[must_use]
    pub fn timelines(&self) -> Vec<Timeline> {
        self.workers.iter().map(Workers::timeline).collect()
    }
}

/// How many clients of an [`Application`] wait at `member`, as its server sees it.
///
/// # Errors
/// When the server does not answer.
pub fn waiting_at(lab: &Lab, member: &str) -> Result<usize> {
    let waits = |line: &&String| line.contains("cmd=blpop") || line.contains("cmd=subscribe");
    Ok(lab.member(member).clients()?.iter().filter(waits).count())
}
