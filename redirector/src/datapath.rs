//! The datapath: what the agent makes and changes in the kernel. Only this module touches BPF.
//!
//! | module | concern |
//! |---|---|
//! | `preflight` | what the host must offer |
//! | `host` | whether a configuration fits the host |
//! | `doctor` | what a host offers and what runs there, for people |
//! | `network` | VIP device, routes |
//! | `claim`, `pins` | whose pins these are: taken over, repaired or refused; uninstalling |
//! | `programs` | loading |
//! | `attach`, `links` | where programs run, by tcx links or by filters of clsact |
//! | `maps` | decisions, floors, tables |
//! | `registry` | ids that keep their meaning over a restart |
//! | `slots` | the addresses of members |
//! | `flows` | reading the flow table, deleting from it |
//! | `collect` | forgetting flows that nobody uses any more |
//! | `list` | flows as people see them |
//! | `clock` | the clock that the times of flows are on |
//! | `memory` | what the maps take |
//! | `bpf` | `bpf(2)`, as far as aya lacks it |
//! | `sockets` | `SOCK_DESTROY` |
//! | `sweep` | resetting what a switch made stale |
//!
//! # Invariants
//!
//! * A switch is one 64-bit store; resetting flows comes after it and never delays it.
//! * The agent never writes a flow, it only deletes.
//! * Stopping or killing the agent changes nothing in the kernel, unless `on_stop = "detach"`.

mod attach;
mod bpf;
mod claim;
mod clock;
mod collect;
pub mod doctor;
mod flows;
mod host;
mod links;
mod list;
mod maps;
mod memory;
pub mod network;
mod pins;
mod preflight;
pub mod programs;
mod registry;
mod slots;
mod sockets;
mod sweep;

use std::{
    collections::{BTreeSet, HashSet},
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    sync::{Arc, Mutex},
};

use anyhow::{Context as _, Result, bail};
use redirector_common::{
    decision::Decision,
    layout,
    outcome::{Count, Outcome},
};

pub use self::{
    claim::{Claim, uninstall},
    collect::Collected,
    host::misfits,
    list::{FlowList, ListedFlow},
    memory::{kernel_memory, map_sizes},
    preflight::check_ports,
};

use self::{
    attach::Method,
    clock::Clock,
    collect::Collector,
    maps::{Maps, Steering},
    network::{Device, Network, RouteTo},
    programs::Uplink,
    registry::{Assignment, Ids, Retired},
    slots::{Slots, Way},
    sweep::{Sweeper, lock},
};
use crate::{
    config::Resolved,
    model::{Config, Epoch, MAX_ADDRESSES, MemberId, Offer, OnStop, ServiceId},
};

/// What an earlier agent left in the maps for a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// The member that new flows go to.
    pub active: Option<MemberId>,
    /// Epoch of the last switch; 0: there was none.
    pub epoch: Epoch,
    /// The lowest floor of the members that are not active.
    pub floor: Epoch,
}

/// Programs, maps, device and routes of a running agent.
pub struct Datapath {
    claim: Claim,
    on_stop: OnStop,
    ids: Ids,
    steering: Arc<Steering>,
    slots: Arc<Slots>,
    maps: Arc<Mutex<Maps>>,
    routes: Routes,
    sweeper: Sweeper,
    collector: Collector,
    clock: Clock,
}

impl Datapath {
    /// Brings the kernel to what `config` says, over what an earlier agent left.
    ///
    /// When it fails, whatever it made itself is removed again; what an earlier agent left stays. That the
    /// configuration fits the host ([`misfits`]) is the caller's to find out.
    pub async fn start(claim: Claim, config: &Config, resolved: &Resolved, kernel_log: bool) -> Result<Self> {
        match Self::build(claim.clone(), config, resolved, kernel_log).await {
            Ok(datapath) => Ok(datapath),
            Err(error) => {
                claim.give_back().await;
                Err(error)
            }
        }
    }

    async fn build(claim: Claim, config: &Config, resolved: &Resolved, kernel_log: bool) -> Result<Self> {
        let (network, pins) = (&claim.network, claim.pin_dir.path());
        // What may fail because of the host comes before anything changes.
        let routes = Routes::find(network, config, resolved).await?;
        let uplinks = uplinks(network, config, &routes).await?;
        claim.refuse_taken_device().await?;

        let method = Method::choose(config.datapath.attach)?;
        claim.repair()?;
        let device = network.ensure_device(&config.datapath.device).await?;
        let settings = programs::Settings::new(&config.datapath, device, kernel_log);
        let mut programs = programs::load(&settings, Some(pins))?;
        if kernel_log {
            forward_kernel_log(&mut programs)?;
        }
        let mut maps = Maps::take(&mut programs)?;
        claim::sign(&mut maps)?;
        if maps.max_flows != config.datapath.max_flows {
            tracing::warn!(
                "the flow table that an earlier agent left has room for {} flows; max_flows = {} takes effect after \
                 `redirector uninstall`",
                maps.max_flows,
                config.datapath.max_flows
            );
        }

        let Assignment { ids, retired, new_members, written } = Ids::assign(config, &maps.names()?)?;
        retire(&mut maps, &retired)?;
        forget_strangers(&maps.steering, config, &ids);
        new_members.iter().for_each(|member| maps.steering.reset_floor(*member));
        // Names last: a free id has nothing left of whom it belonged to, also after a kill in between.
        for (index, name) in written {
            maps.set_name(index, name)?;
        }
        // Which addresses members have is the core's to say; how they are reached may have changed.
        maps.slots.reroute(ids.members(), |address| routes.way(address))?;
        let vips = config.services.iter().enumerate().flat_map(|(at, service)| {
            let id = ids.service(ServiceId(at));
            service.vips.iter().map(move |vip| (*vip, id))
        });
        maps.set_vips(&vips.collect::<Vec<_>>())?;
        maps.set_l3_devices(&l3_devices(network, &uplinks, &routes).await?)?;

        attach::attach(&mut programs, pins, method, device.index, &uplinks)?;
        let (steering, slots) = (Arc::clone(&maps.steering), Arc::clone(&maps.slots));
        let maps = Arc::new(Mutex::new(maps));
        // Whatever is stale already: an agent that died between a switch and its sweep, or a member that is gone. Its
        // resets need the routes that are there.
        let sweeper = Sweeper::start(Arc::clone(&maps))?;
        let clock = Clock::new(programs::classifier(&mut programs, programs::CLOCK)?.fd()?.as_fd())?;
        let (timeouts, cap) = (&config.datapath.idle_timeouts, settings.half_open.per_service);
        let collector = Collector::start(Arc::clone(&maps), clock.clone(), timeouts, cap)?;
        route_vips(network, config, device, &routes).await?;
        Ok(Self {
            on_stop: config.datapath.on_stop,
            claim,
            ids,
            steering,
            slots,
            maps,
            routes,
            sweeper,
            collector,
            clock,
        })
    }

    /// What an earlier agent decided for a service.
    #[must_use]
    pub fn adopted(&self, service: ServiceId) -> Adopted {
        let id = self.ids.service(service);
        let decision = self.steering.decision(id);
        // What every member that is not active was left behind by.
        let left = self.ids.members_of(service).filter(|member| decision.active != Some(*member));
        let floor = left.map(|member| self.steering.floor(member)).min();
        let floor = floor.and_then(|floor| u32::try_from(floor).ok()).unwrap_or(decision.epoch);
        Adopted {
            active: decision.active.and_then(|member| self.ids.member_of(service, member)),
            epoch: Epoch(decision.epoch),
            floor: Epoch(floor),
        }
    }

    /// The addresses that the maps hold of each member of a service: what an earlier agent left.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn addresses(&self, service: ServiceId) -> Result<Vec<Vec<Offer>>> {
        self.ids.members_of(service).map(|member| self.slots.held(member)).collect()
    }

    /// Finds out how addresses are reached that were not known before.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn learn(&mut self, addresses: &[SocketAddr]) -> Result<()> {
        for address in addresses {
            if self.routes.to(*address).is_none()
                && let Some(way) = self.claim.network.route_to(address.ip()).await?
            {
                self.routes.ways.push((*address, way));
            }
        }
        Ok(())
    }

    /// Makes these the addresses of a member, and sends new flows to those that are offered.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn offer(&self, service: ServiceId, member: MemberId, addresses: &[Offer]) -> Result<()> {
        let member = self.ids.member(service, member);
        let flows = || {
            let mut flows = [0; MAX_ADDRESSES];
            let table = lock(&self.maps).flows.clone();
            table.for_each(|_, flow| {
                if flow.member == member {
                    flows[flow.slot as usize % MAX_ADDRESSES] += 1;
                }
            })?;
            Ok(flows)
        };
        if self.slots.offer(
            member,
            addresses,
            |address| self.routes.way(address).unwrap_or_default(),
            flows,
        )? {
            self.sweeper.sweep();
        }
        Ok(())
    }

    /// Resets the flows of an address that is not offered any more; with `removed`, its slot is free then.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn reset_address(
        &self,
        service: ServiceId,
        member: MemberId,
        address: SocketAddr,
        removed: bool,
    ) -> Result<()> {
        self.slots.reset(self.ids.member(service, member), address, removed)?;
        self.sweeper.sweep();
        Ok(())
    }

    /// Sends new flows of a service to `active` from this instant.
    pub fn switch(&self, service: ServiceId, active: Option<MemberId>, epoch: Epoch) {
        let active = active.map(|member| self.ids.member(service, member));
        self.steering.set_decision(self.ids.service(service), Decision { active, epoch: epoch.0 });
    }

    /// Makes flows of every member but the active one stale if they are older than `epoch`, and resets them.
    pub fn raise_floor(&self, service: ServiceId, epoch: Epoch) {
        let active = self.steering.decision(self.ids.service(service)).active;
        for member in self.ids.members_of(service).filter(|member| active != Some(*member)) {
            self.steering.raise_floor(member, u64::from(epoch.0));
        }
        self.sweeper.sweep();
    }

    /// Waits for the end of the thread that resets stale flows, which is to come with that of the datapath only.
    pub fn sweeper_ended(&self) -> impl Future<Output = ()> + Send + 'static {
        self.sweeper.ended()
    }

    /// Counts flows and outcomes. Reads the whole flow table: not for the agent's main loop.
    pub fn counter(&self) -> impl FnOnce() -> Result<Counts> + Send + 'static {
        let maps = Arc::clone(&self.maps);
        let ids = self.ids.clone();
        let collected = Arc::clone(&self.collector.collected);
        move || {
            let table = lock(&maps).flows.clone();
            let mut flows = vec![0; layout::MAX_MEMBERS as usize];
            table.for_each(|_, flow| flows[usize::from(flow.member)] += 1)?;
            let maps = lock(&maps);
            let mut outcomes = Vec::new();
            for outcome in Outcome::ALL {
                let mut sum = maps.count(*outcome, None)?;
                for member in ids.members() {
                    let count = maps.count(*outcome, Some(member))?;
                    sum.packets += count.packets;
                    sum.bytes += count.bytes;
                }
                outcomes.push((*outcome, sum));
            }
            Ok(Counts { ids, flows, outcomes, collected })
        }
    }

    /// The flows as people see them. Reads the whole flow table: not for the agent's main loop.
    #[must_use]
    pub fn list(&self) -> FlowList {
        FlowList::new(Arc::clone(&self.maps), &self.ids, self.clock.clone())
    }

    /// Ends the agent's part: `keep` leaves everything in the kernel as it is, `detach` removes it.
    pub async fn stop(self) -> Result<()> {
        let Claim { network, pin_dir, device, .. } = &self.claim;
        match self.on_stop {
            OnStop::Keep => Ok(()),
            OnStop::Detach => claim::remove(network, pin_dir.path(), device).await,
        }
    }
}

/// What the kernel counted, at one moment.
#[derive(Clone, Debug)]
pub struct Counts {
    ids: Ids,
    flows: Vec<u64>,
    /// Packets and bytes of every outcome, since the maps were made.
    pub outcomes: Vec<(Outcome, Count)>,
    /// Flows that were collected.
    pub collected: Arc<Collected>,
}

impl Counts {
    /// Flows of one member.
    #[must_use]
    pub fn flows(&self, service: ServiceId, member: MemberId) -> u64 {
        self.flows[usize::from(self.ids.member(service, member))]
    }
}

/// Takes services and members out that the configuration does not have any more. Their flows become stale.
fn retire(maps: &mut Maps, retired: &Retired) -> Result<()> {
    retired.services.iter().for_each(|service| maps.steering.hold(*service));
    retired.members.iter().try_for_each(|member| maps.slots.empty(*member))
}

/// Holds every service whose active member is not its own any more: the id may be given to a member of another
/// service, and its clients would be sent there.
fn forget_strangers(steering: &Steering, config: &Config, ids: &Ids) {
    for service in (0..config.services.len()).map(ServiceId) {
        let id = ids.service(service);
        if steering.decision(id).active.is_some_and(|active| ids.member_of(service, active).is_none()) {
            steering.hold(id);
        }
    }
}

/// How this host reaches every address of every member.
struct Routes {
    ways: Vec<(SocketAddr, RouteTo)>,
}

impl Routes {
    async fn find(network: &Network, config: &Config, resolved: &Resolved) -> Result<Self> {
        let mut ways = Vec::new();
        for (at, service) in config.services.iter().enumerate() {
            for (number, member) in service.members.iter().enumerate() {
                for address in resolved.addresses(ServiceId(at), MemberId(number)).iter() {
                    let Some(way) = network.route_to(address.ip()).await? else {
                        bail!(
                            "member {:?} of service {:?}: this host has no route to {address} any more; add one, then \
                             start again",
                            member.name,
                            service.name
                        );
                    };
                    ways.push((address, way));
                }
            }
        }
        Ok(Self { ways })
    }

    fn to(&self, address: SocketAddr) -> Option<&RouteTo> {
        self.ways.iter().find(|(known, _)| *known == address).map(|(_, way)| way)
    }

    /// What flows to an address need to know.
    fn way(&self, address: SocketAddr) -> Option<Way> {
        self.to(address).map(|way| Way { sources: way.source.into_iter().collect(), local: way.local })
    }

    /// The smallest MTU on the way to any member.
    fn mtu(&self) -> u32 {
        self.ways.iter().map(|(_, way)| way.mtu).min().unwrap_or(1500)
    }

    /// The source that most programs would use for addresses of this family.
    fn source(&self, v6: bool) -> Option<IpAddr> {
        self.ways.iter().find(|(address, _)| address.is_ipv6() == v6).and_then(|(_, way)| way.source)
    }
}

/// The devices that replies come in by.
async fn uplinks(network: &Network, config: &Config, routes: &Routes) -> Result<Vec<Uplink>> {
    let mut found = BTreeSet::new();
    if config.datapath.uplinks.is_empty() {
        found.extend(routes.ways.iter().map(|(_, way)| way.device));
    }
    for name in &config.datapath.uplinks {
        let index = network.find(name).await?;
        found.insert(index.with_context(|| {
            format!(
                "this host has no device {name:?} any more; correct `uplinks` in [datapath], then start again"
            )
        })?);
    }
    let mut uplinks = Vec::new();
    for index in found {
        uplinks.push(Uplink { index, ethernet: network.has_link_layer_header(index).await? });
    }
    Ok(uplinks)
}

/// The devices without Ethernet header, among those that packets leave or come in by.
async fn l3_devices(network: &Network, uplinks: &[Uplink], routes: &Routes) -> Result<HashSet<u32>> {
    let mut found: HashSet<_> =
        uplinks.iter().filter(|uplink| !uplink.ethernet).map(|uplink| uplink.index).collect();
    for (_, way) in &routes.ways {
        if !network.has_link_layer_header(way.device).await? {
            found.insert(way.device);
        }
    }
    Ok(found)
}

async fn route_vips(network: &Network, config: &Config, device: Device, routes: &Routes) -> Result<()> {
    let vips: HashSet<IpAddr> =
        config.services.iter().flat_map(|service| service.vips.iter().map(SocketAddr::ip)).collect();
    for vip in &vips {
        network.set_vip_route(*vip, device.index, routes.source(vip.is_ipv6()), routes.mtu()).await?;
    }
    network.remove_other_routes(device.index, &vips).await
}

/// Hands what the programs log to the agent's own log.
fn forward_kernel_log(programs: &mut aya::Ebpf) -> Result<()> {
    use tokio::io::{Interest, unix::AsyncFd};

    let logger = aya_log::EbpfLogger::init(programs).context("cannot read the programs' log")?;
    // SAFETY: the logger owns its descriptor and lives as long as the registration.
    let mut logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE)? };
    tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
    Ok(())
}
