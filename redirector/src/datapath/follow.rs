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
    routes::{Reach, View, Wanted},
    slots::Slots,
    sweep::{Sweeper, lock},
};
use crate::model::Config;

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

    /// Lets programs with these constants run at the VIP device and these uplinks, and nowhere else. Other constants (the
    /// VIP device's index, a cap) take programs of their own, which replace the others at each hook in one step; when the
    /// kernel refuses, those that ran before run again.
    pub(super) fn attach(&mut self, settings: programs::Settings, uplinks: &Uplinks) -> Result<()> {
        if self.settings == settings {
            return self.attach_these(uplinks);
        }
        let mut others = Self::load(settings, self.pin_dir.clone(), self.way)?;
        let attached = others.attach_these(uplinks);
        if attached.is_ok() {
            *self = others;
        } else if let Err(error) =
            programs::set_continuations(&mut self.programs).and_then(|()| self.attach_these(uplinks))
        {
            tracing::error!(
                "the programs that ran before do not run again everywhere: {error:#}; restart the agent"
            );
        }
        attached
    }

    fn attach_these(&mut self, uplinks: &Uplinks) -> Result<()> {
        let uplinks: Vec<_> = uplinks
            .iter()
            .map(|(index, uplink)| attach::Uplink { index: *index, ethernet: uplink.ethernet })
            .collect();
        attach::attach(&mut self.programs, &self.pin_dir, self.way, self.settings.device.index, &uplinks)
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
    reach: Arc<Reach>,
    slots: Arc<Slots>,
    maps: Arc<Mutex<Maps>>,
    sweeper: Arc<Sweeper>,
    loaded: Arc<Mutex<Loaded>>,
    /// Constants of the programs that run.
    settings: programs::Settings,
    /// Where the programs run; `None`: nowhere yet.
    uplinks: Option<Uplinks>,
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
    /// With programs that run nowhere yet: that comes with [`Self::make_way`].
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { network, reach, slots, maps, sweeper, loaded, notices } = parts;
        Self {
            network,
            reach,
            slots,
            maps,
            sweeper,
            settings: loaded.settings,
            loaded: Arc::new(Mutex::new(loaded)),
            uplinks: None,
            routed: BTreeMap::new(),
            shadowed: HashMap::new(),
            device_pace: Pace::default(),
            route_pace: Pace::default(),
            report: Report::default(),
            notices,
        }
    }

    /// Waits until nothing of a refresh that was given up goes on.
    pub(super) fn settle(&self) {
        drop(self.loaded.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Makes the way to all that is going to be wanted: whatever may fail, and nothing that what is wanted now would miss.
    /// How the network looked is returned.
    pub(super) async fn make_way(&mut self, wanted: &Wanted) -> Result<View> {
        let config = &wanted.config;
        if wanted.leads_to_loopback() {
            self.network.ensure_device(&config.datapath.device, true).await?;
        }
        let view = look(&self.network, wanted, &self.slots).await?;
        view.routes.keys().for_each(|address| self.reach.set_way(*address, view.way(*address)));
        lock(&self.maps).add_l3_devices(&view.without_headers())?;
        let before = match &self.uplinks {
            Some(uplinks) => uplinks.clone(),
            None => {
                let before = attach::uplinks(&config.datapath.pin_dir)?;
                still_used(&self.network, &self.maps, &view, before).await?
            }
        };
        let uplinks = uplinks(&self.network, config, &view, &before).await?;
        let settings = programs::Settings::new(&config.datapath, self.settings.device, self.settings.log);
        if self.uplinks.as_ref() != Some(&uplinks) || self.settings != settings {
            self.attach(settings, &uplinks).await?;
            (self.settings, self.uplinks) = (settings, Some(uplinks));
        }
        Ok(view)
    }

    /// What was made ready is wanted now: routes lead to all VIPs.
    pub(super) async fn arrive(&mut self, wanted: &Wanted, view: &View) -> Result<()> {
        self.report = Report::new(wanted, view);
        let routes = view.vip_routes(wanted, self.settings.device.index);
        self.routed.retain(|vip, _| routes.contains_key(vip));
        self.shadowed.retain(|vip, _| routes.contains_key(vip));
        self.route_vips(routes, Instant::now()).await.map(drop)
    }

    /// No route leads to what is no VIP any more.
    pub(super) async fn leave(&self, wanted: &Wanted) -> Result<()> {
        let vips = wanted.config.services.iter().flat_map(|service| &service.vips);
        let addresses: HashSet<_> = vips.map(SocketAddr::ip).collect();
        self.network.remove_other_routes(self.settings.device.index, &addresses).await
    }

    /// Brings everything to what is right now. When it is to be looked at again, without an event, is returned.
    pub(super) async fn refresh(&mut self) -> Result<Option<Instant>> {
        let now = Instant::now();
        let mut again = None;
        let wanted = self.reach.wanted();
        let name = &wanted.config.datapath.device;
        match self.device_pace.wait_until(now) {
            None => self.restore_device(name, wanted.leads_to_loopback(), now).await?,
            later => again = later,
        }
        let view = look(&self.network, &wanted, &self.slots).await?;
        self.report.routes(&wanted, &view);
        for address in addresses(&wanted, &self.slots)? {
            self.reach.set_way(address, view.way(address));
        }
        // Before anything leaves by a new one.
        lock(&self.maps).set_l3_devices(&view.without_headers())?;
        let reach = &self.reach;
        if self.slots.reroute(wanted.ids.members(), |address| reach.way(address))? {
            self.sweeper.sweep();
        }
        let before = self.uplinks.clone().unwrap_or_default();
        let uplinks = uplinks(&self.network, &wanted.config, &view, &before).await?;
        self.report.uplinks(&before, &uplinks);
        // A device that is not there, and that may not be made anew yet.
        let Some(device) = self.network.find(name).await? else {
            return Ok(again.or(Some(now + AGAIN)));
        };
        let device = Device { index: device, ..self.settings.device };
        let settings = programs::Settings { device, ..self.settings };
        if self.settings != settings || before != uplinks || !self.still_run(&wanted, device, &uplinks)? {
            self.attach(settings, &uplinks).await?;
            if self.settings.device != device {
                self.routed.clear();
            }
            (self.settings, self.uplinks) = (settings, Some(uplinks));
        }
        let routes = view.vip_routes(&wanted, device.index);
        Ok(self.route_vips(routes, now).await?.or(again))
    }

    /// Makes the VIP device what it must be. Whoever changed it took its routes away too: no word about those.
    async fn restore_device(&mut self, name: &str, localnet: bool, now: Instant) -> Result<()> {
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

    /// Whether the programs still run where they were attached: somebody may have removed a filter.
    fn still_run(&self, wanted: &Wanted, device: Device, uplinks: &Uplinks) -> Result<bool> {
        let indices: Vec<_> = uplinks.keys().copied().collect();
        let run = attach::run_at(&wanted.config.datapath.pin_dir, device.index, &indices)?;
        if !run {
            self.tell("a program was taken away by somebody else: attached again".into());
        }
        Ok(run)
    }

    async fn attach(&self, settings: programs::Settings, uplinks: &Uplinks) -> Result<()> {
        let loaded = Arc::clone(&self.loaded);
        let uplinks = uplinks.clone();
        let attached = spawn_blocking(move || {
            loaded.lock().unwrap_or_else(PoisonError::into_inner).attach(settings, &uplinks)
        });
        attached.await.context("attaching the programs was cut short")?
    }

    /// Makes the VIPs' routes what they shall be. When to look again is returned.
    pub(super) async fn route_vips(
        &mut self,
        wanted: BTreeMap<IpAddr, VipRoute>,
        now: Instant,
    ) -> Result<Option<Instant>> {
        let device = self.settings.device.index;
        let (mut restored, mut covered) = (Vec::new(), Vec::new());
        let (mut routed, mut again, mut failed) = (None, None, None);
        for (vip, wanted) in &wanted {
            let found = self.network.vip_route(*vip).await?;
            if found.as_ref() == Some(wanted) {
                self.shadowed.remove(vip);
                self.routed.insert(*vip, *wanted);
                continue;
            }
            if self.shadowed.get(vip) == Some(&found) {
                // Once for all of them.
                if routed.is_none() {
                    routed = Some(self.network.vips_routed_into(device).await?);
                }
                if routed.as_ref().is_some_and(|routed| routed.contains(vip)) {
                    continue;
                }
            }
            let taken_away = self.routed.get(vip) == Some(wanted);
            if taken_away && let Some(later) = self.route_pace.wait_until(now) {
                again = Some(later);
                break;
            }
            // One that cannot be routed is none of the others' business.
            if let Err(error) = self.network.set_vip_route(*vip, wanted).await {
                failed.get_or_insert(error);
                continue;
            }
            if taken_away {
                restored.push(vip.to_string());
            } else if self.routed.contains_key(vip) {
                tracing::info!(%vip, mtu = wanted.mtu, source = ?wanted.source, "the VIP's route follows those to the members");
            }
            self.routed.insert(*vip, *wanted);
            let now_there = self.network.vip_route(*vip).await?;
            if now_there.as_ref() != Some(wanted) {
                covered.push((*vip, now_there));
            }
        }
        self.shadow(covered).await?;
        self.tell_restored(&restored, now);
        failed.map_or(Ok(again), Err)
    }

    /// Other routes come before those of these VIPs, or theirs were taken away already: then the event of that comes.
    async fn shadow(&mut self, covered: Vec<(IpAddr, Option<VipRoute>)>) -> Result<()> {
        if covered.is_empty() {
            return Ok(());
        }
        let routed = self.network.vips_routed_into(self.settings.device.index).await?;
        for (vip, other) in covered.into_iter().filter(|(vip, _)| routed.contains(vip)) {
            tracing::warn!(
                "packets to the VIP {vip} do not reach the VIP device, although it has a route there: another route or a \
                 rule comes first (`ip route get {vip}`, `ip rule`); remove it"
            );
            self.shadowed.insert(vip, other);
        }
        Ok(())
    }

    fn tell_restored(&mut self, restored: &[String], now: Instant) {
        if restored.is_empty() {
            return;
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
    }
}

/// Looks at the network, for all addresses that members have or that slots still hold.
async fn look(network: &Network, wanted: &Wanted, slots: &Slots) -> Result<View> {
    View::look(network, &wanted.config.datapath, addresses(wanted, slots)?).await
}

fn addresses(wanted: &Wanted, slots: &Slots) -> Result<BTreeSet<IpAddr>> {
    let mut all: BTreeSet<_> = wanted.addresses.iter().flatten().flatten().map(SocketAddr::ip).collect();
    for member in wanted.ids.members() {
        all.extend(slots.held(member)?.iter().map(|offer| offer.address.ip()));
    }
    Ok(all)
}

/// The uplinks that are there: those that the configuration names, or else those that routes to members use.
///
/// One that was used before stays an uplink for as long as it is there: open flows have its addresses as their sources, and
/// their answers come in by it.
async fn uplinks(network: &Network, config: &Config, view: &View, before: &Uplinks) -> Result<Uplinks> {
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
async fn still_used(
    network: &Network,
    maps: &Mutex<Maps>,
    view: &View,
    mut before: Vec<u32>,
) -> Result<Uplinks> {
    before.retain(|index| !view.links.contains_key(index));
    if before.is_empty() {
        return Ok(Uplinks::new());
    }
    let mut sources = HashSet::new();
    let flows = lock(maps).flows.clone();
    flows.for_each(|_, flow| {
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
