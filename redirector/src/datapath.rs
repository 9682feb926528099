//! The datapath: what the agent makes and changes in the kernel. Only this module touches BPF.
//!
//! | module | concern |
//! |---|---|
//! | `preflight`, `capabilities` | what the host must offer, and what this process may |
//! | `host` | whether a configuration fits the host |
//! | `doctor` | what a host offers and what runs there, for people |
//! | `network` | VIP device, routes |
//! | `routes` | what the ways to the members mean for slots, uplinks and the VIPs' routes |
//! | `follow`, `events`, `pace` | keeping all of this in step with a network that changes |
//! | `change` | from one configuration to the next: the start, and every reload |
//! | `claim`, `pins` | whose pins these are: taken over, repaired or refused; uninstalling |
//! | `programs` | loading |
//! | `attach`, `links` | where programs run, by tcx links or by filters of clsact |
//! | `maps` | decisions, floors, tables |
//! | `registry` | ids that keep their meaning over a restart |
//! | `slots` | the addresses of members |
//! | `flows` | reading the flow table, deleting from it |
//! | `collect` | forgetting flows that nobody uses any more |
//! | `list` | flows as people see them |
//! | `peer` | who is at the other end of a Unix socket |
//! | `signals` | what programs report on the traffic of members |
//! | `pulses` | how members are doing as their traffic shows |
//! | `clock` | the clock that the times of flows are on |
//! | `memory` | what the maps take |
//! | `notice` | what its threads tell the agent |
//! | `bpf` | `bpf(2)`, as far as aya lacks it |
//! | `sockets` | `SOCK_DESTROY` |
//! | `namespaces` | the network namespaces that clients are in, beside this one |
//! | `inject` | resets for clients whose socket cannot be destroyed |
//! | `sweep` | resetting what a switch made stale |
//!
//! # Invariants
//!
//! * A switch is one 64-bit store; resetting flows comes after it and never delays it.
//! * The agent never writes a flow, it only deletes.
//! * Stopping or killing the agent changes nothing in the kernel, unless `on_stop = "detach"`.

mod attach;
mod bpf;
mod capabilities;
mod change;
mod claim;
mod clock;
mod collect;
pub mod doctor;
mod events;
mod flows;
mod follow;
mod host;
mod inject;
mod leaving;
mod links;
mod list;
mod maps;
mod memory;
mod namespaces;
mod netlink;
pub mod network;
mod notice;
mod pace;
mod peer;
mod pins;
mod preflight;
pub mod programs;
mod pulses;
mod registry;
mod routes;
mod signals;
mod slots;
mod sockets;
mod sweep;

use std::{
    net::SocketAddr,
    os::fd::AsFd as _,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Result;
use redirector_common::{
    decision::Decision,
    layout,
    outcome::{Count, Outcome},
};
use tokio::sync::{Notify, mpsc};

pub use self::{
    change::{Ending, Prepared, Preparer},
    claim::{Claim, foresee, uninstall},
    clock::Clock as Ticks,
    collect::Collected,
    host::{Path, Survey, survey},
    list::{FlowList, ListedFlow},
    memory::{kernel_memory, map_sizes},
    notice::{Notice, Swept, SweptFlows},
    peer::peer_groups,
    pins::boot_id,
    preflight::check_ports,
    pulses::{Beat, Pulses, Totals, Vitals},
    signals::{OfMember, Signals},
    sweep::ResetWays,
};

use self::{
    clock::Clock,
    collect::{Collector, Limit},
    events::Events,
    follow::{Follower, Loaded, Parts},
    leaving::LeavingMembers,
    maps::{Maps, Steering},
    network::Network,
    registry::Ids,
    routes::{Reach, View, Wanted},
    slots::Slots,
    sweep::{Over, Sweeper, lock},
};
use crate::{
    config::Resolved,
    model::{self, Config, Epoch, MAX_ADDRESSES, MemberId, Offer, OnStop, ServiceId},
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
    config: model::Datapath,
    ids: Ids,
    leaving: LeavingMembers,
    steering: Arc<Steering>,
    slots: Arc<Slots>,
    maps: Arc<Mutex<Maps>>,
    sweeper: Arc<Sweeper>,
    reach: Arc<Reach>,
    /// Tells the follower that there are other addresses.
    addresses_changed: Arc<Notify>,
    follower: Arc<tokio::sync::Mutex<Follower>>,
    /// `None`: given to the follower's task.
    events: Option<Events>,
    collector: Collector,
    clock: Clock,
    pulses: Arc<Pulses>,
    /// `None`: given to the agent.
    signals: Option<Signals>,
    /// `None`: given to the agent.
    notices: Option<mpsc::UnboundedReceiver<Notice>>,
}

impl Datapath {
    /// Brings the kernel to what `config` says, over what an earlier agent left.
    ///
    /// When it fails, whatever it made itself is removed again; what an earlier agent left stays. That the
    /// configuration fits the host ([`survey`]) is the caller's to find out.
    pub async fn start(
        claim: Claim,
        config: &Arc<Config>,
        resolved: &Resolved,
        kernel_log: bool,
    ) -> Result<Self> {
        let started = async {
            let mut datapath = Self::open(claim.clone(), config, kernel_log).await?;
            let prepared = datapath.preparer().prepare(config, resolved).await?;
            datapath.begin(&prepared)?;
            datapath.end(prepared)?.finish().await?;
            Ok(datapath)
        };
        match started.await {
            Ok(datapath) => Ok(datapath),
            Err(error) => {
                claim.give_back().await;
                Err(error)
            }
        }
    }

    /// The VIP device, programs that run nowhere yet, and the maps. No service is known.
    async fn open(claim: Claim, config: &Config, kernel_log: bool) -> Result<Self> {
        // Whatever changes from here on is looked at again.
        let events = Events::open()?;
        // What may fail because of the host comes before anything changes.
        claim.refuse_taken_device().await?;

        let way = attach::Way::choose(config.datapath.attach)?;
        claim.repair()?;
        let ensured = claim.network.ensure_device(&config.datapath.device, false).await?;
        if !ensured.done.is_empty() && !claim.device_is_new {
            tracing::warn!("the VIP device {}: {}", config.datapath.device, ensured.done.join("; "));
        }
        let settings = programs::Settings::new(&config.datapath, ensured.device, kernel_log);
        let mut loaded = Loaded::load(settings, claim.pin_dir.path().to_owned(), way)?;
        let mut maps = Maps::take(loaded.programs())?;
        claim::sign(&mut maps)?;
        if maps.max_flows != config.datapath.max_flows {
            tracing::warn!(
                "the flow table that an earlier agent left has room for {} flows; max_flows = {} takes effect after \
                 `redirector uninstall`",
                maps.max_flows,
                config.datapath.max_flows
            );
        }
        let (steering, slots) = (Arc::clone(&maps.steering), Arc::clone(&maps.slots));
        let maps = Arc::new(Mutex::new(maps));
        let (notices, told) = mpsc::unbounded_channel();
        let sweeper = Arc::new(Sweeper::start(Arc::clone(&maps), &config.datapath.device, notices.clone())?);
        let clock = Clock::new(programs::classifier(loaded.programs(), programs::CLOCK)?.fd()?.as_fd())?;
        let pulses = Arc::clone(&lock(&maps).pulses);
        let signals = lock(&maps).signals.take().map(|map| Signals::new(map, clock.clone())).transpose()?;
        let limit = Limit { timeouts: config.datapath.idle_timeouts, cap: settings.half_open.per_service };
        let collector = Collector::start(Arc::clone(&maps), clock.clone(), limit)?;
        let reach = Arc::new(Reach::new(Wanted::nothing(config)));
        let follower = Follower::new(Parts {
            network: claim.network.clone(),
            reach: Arc::clone(&reach),
            slots: Arc::clone(&slots),
            maps: Arc::clone(&maps),
            sweeper: Arc::clone(&sweeper),
            loaded,
            notices,
        });
        Ok(Self {
            config: config.datapath.clone(),
            ids: Ids::default(),
            leaving: LeavingMembers::default(),
            steering,
            slots,
            maps,
            sweeper,
            reach,
            addresses_changed: Arc::default(),
            follower: Arc::new(tokio::sync::Mutex::new(follower)),
            events: Some(events),
            collector,
            clock,
            pulses,
            signals,
            notices: Some(told),
            claim,
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

    /// To find out how addresses are reached that members get while the agent runs.
    #[must_use]
    pub fn learner(&self) -> Learner {
        Learner {
            network: self.claim.network.clone(),
            reach: Arc::clone(&self.reach),
            changed: Arc::clone(&self.addresses_changed),
        }
    }

    /// Follows links, addresses and routes from now on. To be called once, and to run as long as the agent does.
    pub fn follow(&mut self) -> impl Future<Output = ()> + Send + 'static {
        let follower = Arc::clone(&self.follower);
        let (events, changed) = (self.events.take(), Arc::clone(&self.addresses_changed));
        async move {
            if let Some(events) = events {
                follow::run(follower, events, changed).await;
            }
        }
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
            |address| self.reach.way(address).unwrap_or_default(),
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
        if let Some(active) = active {
            self.sweeper.keep(active);
        }
    }

    /// Makes flows of every member but the active one stale if they are older than `epoch`, and resets them.
    pub fn raise_floor(&self, service: ServiceId, epoch: Epoch) {
        let active = self.steering.decision(self.ids.service(service)).active;
        let members = self.ids.members_of(service).chain(self.ids.leaving(service));
        for member in members.filter(|member| active != Some(*member)) {
            self.steering.raise_floor(member, u64::from(epoch.0));
        }
        self.sweeper.sweep();
    }

    /// Makes flows of `member`, which is not the active one, stale if they are older than `epoch`, and resets them.
    pub fn end_drain(&self, service: ServiceId, member: MemberId, epoch: Epoch) {
        let member = self.ids.member(service, member);
        self.steering.raise_floor(member, u64::from(epoch.0));
        // What was to be reset little by little is reset at once.
        self.sweeper.keep(member);
        self.sweeper.sweep();
    }

    /// Resets the flows of `from` that are older than `epoch`, evenly over `time`. They do not become stale by that:
    /// [`Datapath::raise_floor`] is to follow when the time is over. Ends early when `from` becomes active again.
    pub fn spread(&self, service: ServiceId, from: MemberId, epoch: Epoch, time: Duration) {
        let (member, epoch) = (self.ids.member(service, from), u64::from(epoch.0));
        self.sweeper.spread(Over { member, epoch, since: Instant::now(), time });
    }

    /// What its threads and tasks tell, from the start on. To be called once: later there is nothing to hear.
    pub fn notices(&mut self) -> mpsc::UnboundedReceiver<Notice> {
        self.notices.take().unwrap_or_else(|| mpsc::unbounded_channel().1)
    }

    /// What the kernel programs report, from now on. To be called once: later there is nothing to hear.
    pub fn signals(&mut self) -> Option<Signals> {
        self.signals.take()
    }

    /// How the members are doing as their traffic shows.
    #[must_use]
    pub fn pulses(&self) -> Arc<Pulses> {
        Arc::clone(&self.pulses)
    }

    /// The clock that pulses are on.
    #[must_use]
    pub fn ticks(&self) -> Ticks {
        self.clock.clone()
    }

    /// The kernel's id of a member.
    #[must_use]
    pub fn id(&self, service: ServiceId, member: MemberId) -> u16 {
        self.ids.member(service, member)
    }

    /// Whose id in the kernel this is; `None`: nobody's any more.
    #[must_use]
    pub fn owner(&self, member: u16) -> Option<(ServiceId, MemberId)> {
        self.ids.services().find_map(|service| Some((service, self.ids.member_of(service, member)?)))
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
        let pulses = Arc::clone(&self.pulses);
        let ways = self.sweeper.ways.clone();
        move || {
            let table = lock(&maps).flows.clone();
            let mut flows = vec![0; layout::MAX_MEMBERS as usize];
            let start = Instant::now();
            table.for_each(|_, flow| flows[usize::from(flow.member)] += 1)?;
            let counted_in = start.elapsed();
            let (counts, max_flows) = {
                let maps = lock(&maps);
                (maps.outcomes(), maps.max_flows)
            };
            let mut outcomes = Vec::new();
            for outcome in Outcome::ALL {
                let mut sum = counts.count(*outcome, None)?;
                for member in ids.members() {
                    let count = counts.count(*outcome, Some(member))?;
                    sum.packets += count.packets;
                    sum.bytes += count.bytes;
                }
                outcomes.push((*outcome, sum));
            }
            Ok(Counts { ids, flows, outcomes, collected, pulses, max_flows, counted_in, ways })
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
        match self.config.on_stop {
            OnStop::Keep => Ok(()),
            OnStop::Detach => {
                // Nothing is restored any more.
                let follower = self.follower.lock().await;
                follower.settle();
                claim::remove(network, pin_dir.path(), device).await
            }
        }
    }
}

/// Finds out how addresses are reached that were not known before.
#[derive(Clone)]
pub struct Learner {
    network: Network,
    reach: Arc<Reach>,
    changed: Arc<Notify>,
}

impl Learner {
    /// A member has these addresses from now on.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn learn(&self, service: ServiceId, member: MemberId, addresses: &[SocketAddr]) -> Result<()> {
        let wanted = self.reach.wanted();
        let addresses_only = addresses.iter().map(SocketAddr::ip);
        let view = View::look(&self.network, &wanted.config.datapath, addresses_only).await?;
        for address in addresses {
            self.reach.set_way(address.ip(), view.way(address.ip()));
        }
        self.reach.set_addresses(service, member, addresses);
        self.changed.notify_one();
        Ok(())
    }
}

/// What the kernel counted, at one moment.
#[derive(Clone)]
pub struct Counts {
    ids: Ids,
    flows: Vec<u64>,
    /// Packets and bytes of every outcome, since the maps were made.
    pub outcomes: Vec<(Outcome, Count)>,
    /// Flows that were collected.
    pub collected: Arc<Collected>,
    pulses: Arc<Pulses>,
    /// How many flows there is room for.
    pub max_flows: u32,
    /// How long reading the flow table took.
    pub counted_in: Duration,
    /// Which clients can be reset at a switch.
    pub ways: ResetWays,
}

impl Counts {
    /// Flows of one member.
    #[must_use]
    pub fn flows(&self, service: ServiceId, member: MemberId) -> u64 {
        self.flows[usize::from(self.ids.member(service, member))]
    }

    /// What its traffic shows of one member, now.
    #[must_use]
    pub fn vitals(&self, service: ServiceId, member: MemberId) -> Vitals {
        self.pulses.vitals(self.ids.member(service, member))
    }

    /// Flows of all members, also of those that the configuration does not have any more.
    #[must_use]
    pub fn all_flows(&self) -> u64 {
        self.flows.iter().sum()
    }
}
