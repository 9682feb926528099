//! Follows the network: brings slots, uplinks, the VIP device and the routes of the VIPs to what is right now.
//!
//! An event says only *that* something has changed; a refresh then asks for everything that matters and changes what
//! differs. So it does not matter which events came, in which order, or whether some were lost. What a refresh changes
//! itself causes events too: the refresh that follows finds nothing to do, and that is the end of it.
//!
//! It runs as a task of its own, and what blocks (loading and attaching programs) in a thread: no switch waits for it.

mod report;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::Ebpf;
use tokio::{
    sync::Notify,
    task::{JoinHandle, spawn_blocking},
    time::{sleep, sleep_until},
};

use self::report::Report;
use super::{
    attach,
    events::Events,
    maps::Maps,
    network::{Device, Link, Network, VipRoute},
    notice::{Notice, Notices},
    pace::{Pace, Told},
    programs,
    registry::Ids,
    routes::{Reach, View},
    slots::Slots,
    sweep::{Sweeper, lock},
};
use crate::model::{Config, MemberId, ServiceId};

/// After the first event, so that a burst is one refresh.
const GATHER: Duration = Duration::from_millis(20);

/// A refresh takes at most one part in this many of the time, however busy the network is.
const SHARE: u32 = 10;

/// But a long one, with programs to be loaded, does not make the next one late.
const PAUSE_AT_MOST: Duration = Duration::from_millis(100);

/// When the kernel refused something, it is tried again after this, event or not.
const AGAIN: Duration = Duration::from_secs(1);

/// The programs of this agent, to be attached to devices that come.
pub(super) struct Loaded {
    programs: Ebpf,
    settings: programs::Settings,
    pin_dir: PathBuf,
    way: attach::Way,
    log: Option<JoinHandle<()>>,
}

impl Loaded {
    /// Loads programs over the pinned maps, for a VIP device.
    pub(super) fn load(settings: programs::Settings, pin_dir: PathBuf, way: attach::Way) -> Result<Self> {
        let mut programs = programs::load(&settings, Some(&pin_dir))?;
        let log = settings.log.then(|| programs::forward_log(&mut programs)).transpose()?;
        Ok(Self { programs, settings, pin_dir, way, log })
    }

    /// The object that was loaded.
    pub(super) fn programs(&mut self) -> &mut Ebpf {
        &mut self.programs
    }

    /// Lets the programs run at the VIP device and these uplinks, and nowhere else. The VIP device's index and address are
    /// constants in them: another one gets programs of its own, which replace the others on each uplink in one step.
    pub(super) fn attach(&mut self, device: Device, uplinks: &Uplinks) -> Result<()> {
        if self.settings.device != device {
            let settings = programs::Settings { device, ..self.settings };
            *self = Self::load(settings, self.pin_dir.clone(), self.way)?;
        }
        let uplinks: Vec<_> = uplinks
            .iter()
            .map(|(index, uplink)| attach::Uplink { index: *index, ethernet: uplink.ethernet })
            .collect();
        attach::attach(&mut self.programs, &self.pin_dir, self.way, device.index, &uplinks)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.log.iter().for_each(JoinHandle::abort);
    }
}

/// What the follower needs.
pub(super) struct Parts {
    pub(super) network: Network,
    pub(super) config: Config,
    pub(super) ids: Ids,
    pub(super) reach: Arc<Reach>,
    pub(super) slots: Arc<Slots>,
    pub(super) maps: Arc<Mutex<Maps>>,
    pub(super) sweeper: Arc<Sweeper>,
    pub(super) loaded: Loaded,
    pub(super) notices: Notices,
}

/// Keeps the datapath in step with the network.
pub(super) struct Follower {
    network: Network,
    config: Config,
    ids: Ids,
    reach: Arc<Reach>,
    slots: Arc<Slots>,
    maps: Arc<Mutex<Maps>>,
    sweeper: Arc<Sweeper>,
    loaded: Arc<Mutex<Loaded>>,
    /// Where the programs run.
    attached: (Device, Uplinks),
    /// What the route of each VIP was made.
    routed: BTreeMap<IpAddr, VipRoute>,
    /// Routes of somebody else that come before a VIP's, and that restoring does not help against.
    shadowed: HashMap<IpAddr, Option<VipRoute>>,
    device_pace: Pace,
    route_pace: Pace,
    report: Report,
    notices: Notices,
}

/// Uplinks by index.
pub(super) type Uplinks = BTreeMap<u32, Uplink>;

/// What is to be known of an uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Uplink {
    pub(super) name: String,
    /// Its packets have a link-layer header.
    pub(super) ethernet: bool,
}

impl From<&Link> for Uplink {
    fn from(link: &Link) -> Self {
        Self { name: link.name.clone(), ethernet: link.ethernet }
    }
}

impl Follower {
    /// Takes over what was made of `view`: the programs run at `device` and `uplinks`.
    pub(super) fn new(parts: Parts, view: &View, device: Device, uplinks: Uplinks) -> Self {
        let Parts { network, config, ids, reach, slots, maps, sweeper, loaded, notices } = parts;
        let report = Report::new(&config, &reach.addresses(), view);
        Self {
            network,
            config,
            ids,
            reach,
            slots,
            maps,
            sweeper,
            loaded: Arc::new(Mutex::new(loaded)),
            attached: (device, uplinks),
            routed: BTreeMap::new(),
            shadowed: HashMap::new(),
            device_pace: Pace::default(),
            route_pace: Pace::default(),
            report,
            notices,
        }
    }

    /// Waits until nothing of a refresh that was given up goes on.
    pub(super) fn settle(&self) {
        drop(self.loaded.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Brings everything to what is right now. When it is to be looked at again, without an event, is returned.
    pub(super) async fn refresh(&mut self) -> Result<Option<Instant>> {
        let now = Instant::now();
        let mut again = None;
        let current = self.reach.addresses();
        let localnet = leads_to_loopback(&current);
        match self.device_pace.wait_until(now) {
            None => self.restore_device(localnet, now).await?,
            later => again = later,
        }
        let view = look(&self.network, &self.config, &self.ids, &self.slots, &current).await?;
        self.report.routes(&self.config, &current, &view);
        for address in addresses(&self.ids, &self.slots, &current)? {
            self.reach.set_way(address, view.way(address));
        }
        // Before anything leaves by a new one.
        lock(&self.maps).set_l3_devices(&view.without_headers())?;
        let reach = &self.reach;
        if self.slots.reroute(self.ids.members(), |address| reach.way(address))? {
            self.sweeper.sweep();
        }
        let uplinks = self.uplinks(&view).await?;
        self.report.uplinks(&self.attached.1, &uplinks);
        // A device that is not there, and that may not be made anew yet.
        let Some(device) = self.network.find(&self.config.datapath.device).await? else {
            return Ok(again.or(Some(now + AGAIN)));
        };
        let device = Device { index: device, ..self.attached.0 };
        if self.attached != (device, uplinks.clone()) || !self.still_run(device, &uplinks)? {
            self.attach(device, &uplinks).await?;
            if self.attached.0 != device {
                self.routed.clear();
            }
            self.attached = (device, uplinks);
        }
        let wanted = view.vip_routes(&self.config, &current, device.index);
        Ok(self.route_vips(wanted, now).await?.or(again))
    }

    /// Makes the VIP device what it must be. Whoever changed it took its routes away too: no word about those.
    async fn restore_device(&mut self, localnet: bool, now: Instant) -> Result<()> {
        let name = &self.config.datapath.device;
        let done = self.network.ensure_device(name, localnet).await?.done;
        if done.is_empty() {
            return Ok(());
        }
        self.routed.clear();
        match self.device_pace.restored(now) {
            Told::Restored => {
                self.tell(format!("the VIP device {name}, changed by somebody else: {}", done.join("; ")));
            }
            Told::Slower => self.tell(format!(
                "the VIP device {name}, changed by somebody else again and again: {}; from now on it is restored once a \
                 second at most, without a word: find out who does that (`ip monitor link`)",
                done.join("; ")
            )),
            Told::Nothing => {}
        }
        Ok(())
    }

    /// What was taken away and is there again.
    fn tell(&self, restored: String) {
        // Nobody listens to an agent that stops.
        let _stops = self.notices.send(Notice::Restored(restored));
    }

    async fn uplinks(&self, view: &View) -> Result<Uplinks> {
        uplinks(&self.network, &self.config, view, &self.attached.1).await
    }

    /// Whether the programs still run where they were attached: somebody may have removed a filter.
    fn still_run(&self, device: Device, uplinks: &Uplinks) -> Result<bool> {
        let indices: Vec<_> = uplinks.keys().copied().collect();
        let run = attach::run_at(&self.config.datapath.pin_dir, device.index, &indices)?;
        if !run {
            self.tell("a program was taken away by somebody else: attached again".into());
        }
        Ok(run)
    }

    async fn attach(&self, device: Device, uplinks: &Uplinks) -> Result<()> {
        let loaded = Arc::clone(&self.loaded);
        let uplinks = uplinks.clone();
        let attached = spawn_blocking(move || {
            loaded.lock().unwrap_or_else(PoisonError::into_inner).attach(device, &uplinks)
        });
        attached.await.context("attaching the programs was cut short")?
    }

    /// Makes the VIPs' routes what they shall be. When to look again is returned.
    pub(super) async fn route_vips(
        &mut self,
        wanted: BTreeMap<IpAddr, VipRoute>,
        now: Instant,
    ) -> Result<Option<Instant>> {
        let mut restored = Vec::new();
        for (vip, wanted) in &wanted {
            let found = self.network.vip_route(*vip).await?;
            if found.as_ref() == Some(wanted) {
                self.shadowed.remove(vip);
                self.routed.insert(*vip, *wanted);
                continue;
            }
            if self.shadowed.get(vip) == Some(&found) {
                continue;
            }
            let taken_away = self.routed.get(vip) == Some(wanted);
            if taken_away && let Some(later) = self.route_pace.wait_until(now) {
                return Ok(Some(later));
            }
            self.network.set_vip_route(*vip, wanted).await?;
            if taken_away {
                restored.push(vip.to_string());
            } else if self.routed.contains_key(vip) {
                tracing::info!(%vip, mtu = wanted.mtu, source = ?wanted.source, "the VIP's route follows those to the members");
            }
            self.routed.insert(*vip, *wanted);
            let now_there = self.network.vip_route(*vip).await?;
            if now_there.as_ref() != Some(wanted) {
                tracing::warn!(
                    "packets to the VIP {vip} do not reach the VIP device, although it has a route there: another route or \
                     a rule comes first (`ip route get {vip}`, `ip rule`); remove it"
                );
                self.shadowed.insert(*vip, now_there);
            }
        }
        if restored.is_empty() {
            return Ok(None);
        }
        let vips = restored.join(", ");
        match self.route_pace.restored(now) {
            Told::Restored => {
                self.tell(format!("the route of VIP {vips} was taken away by somebody else: restored"));
            }
            Told::Slower => self.tell(format!(
                "the route of VIP {vips} is taken away by somebody else again and again: from now on it is restored once \
                 a second at most, without a word; find out who does that (`ip monitor route`)"
            )),
            Told::Nothing => {}
        }
        Ok(None)
    }
}

/// Looks at the network, for all addresses that members have or that slots still hold.
pub(super) async fn look(
    network: &Network,
    config: &Config,
    ids: &Ids,
    slots: &Slots,
    current: &[Vec<Vec<SocketAddr>>],
) -> Result<View> {
    View::look(network, &config.datapath, addresses(ids, slots, current)?).await
}

fn addresses(ids: &Ids, slots: &Slots, current: &[Vec<Vec<SocketAddr>>]) -> Result<BTreeSet<IpAddr>> {
    let mut all: BTreeSet<_> = current.iter().flatten().flatten().map(SocketAddr::ip).collect();
    for (at, service) in current.iter().enumerate() {
        for number in 0..service.len() {
            let held = slots.held(ids.member(ServiceId(at), MemberId(number)))?;
            all.extend(held.iter().map(|offer| offer.address.ip()));
        }
    }
    Ok(all)
}

/// Whether a member is in 127.0.0.0/8.
pub(super) fn leads_to_loopback(addresses: &[Vec<Vec<SocketAddr>>]) -> bool {
    addresses.iter().flatten().flatten().any(|address| address.is_ipv4() && address.ip().is_loopback())
}

/// The uplinks that are there: those that the configuration names, or else those that routes to members use.
///
/// One that was used before stays an uplink for as long as it is there: open flows have its addresses as their sources, and
/// their answers come in by it.
pub(super) async fn uplinks(
    network: &Network,
    config: &Config,
    view: &View,
    before: &Uplinks,
) -> Result<Uplinks> {
    let mut found = Uplinks::new();
    for name in &config.datapath.uplinks {
        found.extend(network.device_named(name).await?.map(|link| (link.index, Uplink::from(&link))));
    }
    if config.datapath.uplinks.is_empty() {
        found.extend(view.uplinks().map(|link| (link.index, Uplink::from(link))));
    }
    for index in before.keys() {
        if !found.contains_key(index) {
            found.extend(network.device(*index).await?.map(|link| (link.index, Uplink::from(&link))));
        }
    }
    // A route to a member that leads into the VIP device would be a circle.
    found.retain(|_, uplink| uplink.name != config.datapath.device);
    Ok(found)
}

/// Of the uplinks of an earlier agent those that flows have the addresses of: they are needed until their flows end.
pub(super) async fn still_used(
    network: &Network,
    maps: &Maps,
    view: &View,
    mut before: Vec<u32>,
) -> Result<Uplinks> {
    before.retain(|index| !view.links.contains_key(index));
    if before.is_empty() {
        return Ok(Uplinks::new());
    }
    let mut sources = HashSet::new();
    maps.flows.for_each(|_, flow| {
        sources.insert(flow.member_side.near);
    })?;
    let own = network.addresses_by_device().await?;
    before
        .retain(|index| own.iter().any(|(device, own)| device == index && sources.contains(&(*own).into())));
    let mut used = Uplinks::new();
    for index in before {
        used.extend(network.device(index).await?.map(|link| (link.index, Uplink::from(&link))));
    }
    Ok(used)
}

/// Follows the network for as long as the agent runs.
pub(super) async fn run(
    follower: Arc<tokio::sync::Mutex<Follower>>,
    mut events: Events,
    addresses_changed: Arc<Notify>,
) {
    let mut again = None;
    let mut said = String::new();
    loop {
        let waited = tokio::select! {
            waited = events.wait() => waited,
            () = addresses_changed.notified() => Ok(()),
            () = until(again) => Ok(()),
        };
        sleep(GATHER).await;
        if let Err(error) = waited.and_then(|()| events.forget()) {
            tracing::error!("cannot hear of changes of the network any more: {error}");
            return;
        }
        let start = Instant::now();
        let refreshed = follower.lock().await.refresh().await;
        tracing::debug!(
            took_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
            "refreshed"
        );
        again = match refreshed {
            Ok(again) => {
                said.clear();
                again
            }
            Err(error) => {
                let error = format!("{error:#}");
                if said != error {
                    tracing::error!("cannot follow the network: {error}; trying again every second");
                    said = error;
                }
                Some(Instant::now() + AGAIN)
            }
        };
        sleep((start.elapsed() * (SHARE - 1)).min(PAUSE_AT_MOST)).await;
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}
