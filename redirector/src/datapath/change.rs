//! From one configuration to the next: a start is that from a configuration without services, a reload from the one
//! that holds. Both take the same steps, in this order.
//!
//! | step | does | may fail | packets meet |
//! |---|---|---|---|
//! | [`Preparer::prepare`] | ids for new names; the ways to all members; programs on further uplinks, with new constants | yes: everything goes on as it was | what they met before |
//! | [`Datapath::begin`] | new names and caps are written: ids have their meaning from here on | the kernel only | the same: no VIP leads to a new service, no decision to a new member |
//! | the agent | cores decide: addresses into slots, one word for each service that switches | no | the old decision or the new one |
//! | [`Datapath::end`] | VIPs lead to their services; what is gone is held, withdrawn or emptied; its names are freed | the kernel only | a VIP that is gone refuses |
//! | [`Ending::finish`] | routes of new VIPs; flows through VIPs that are gone end; their routes go | the kernel only: the follower tries again | |
//!
//! # Invariants
//!
//! * An id never changes its meaning: it is given only when nothing in the maps means its last owner, and freed last.
//! * What is new is whole before a VIP leads to it. What is gone refuses before its flows end, and its routes go after that.
//! * After a kill at any moment the next start takes the same steps from what is pinned, and ends where the file says.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use redirector_common::{layout, rate::Rate};
use tokio::{
    sync::{Notify, OwnedMutexGuard},
    task::spawn_blocking,
};

use super::{
    Datapath,
    collect::Limit,
    follow::Follower,
    maps::{Maps, Vips},
    programs::HalfOpen,
    registry::{Assignment, FREE, Gone, Ids, member_place, service_place},
    routes::{View, Wanted},
    sweep::{self, lock},
};
use crate::{
    config::Resolved,
    model::{Config, FlowPolicy, OpenLimit, ServiceId},
};

/// After [`Datapath::end`] no program leads a new flow through a VIP that is gone. One that had looked its service up by
/// then has inserted its flow this much later, an RCU grace period.
const GRACE: Duration = Duration::from_millis(20);

/// Makes ready what a configuration asks for, apart from the agent's own task.
pub struct Preparer {
    maps: Arc<Mutex<Maps>>,
    follower: Arc<tokio::sync::Mutex<Follower>>,
}

/// A configuration that everything is ready for. While it lives, the network is not followed.
pub struct Prepared {
    assignment: Assignment,
    /// Members that have flows, if any member is gone.
    busy: HashSet<u16>,
    wanted: Wanted,
    view: View,
    follower: OwnedMutexGuard<Follower>,
}

/// What takes its time at the end of a change.
#[must_use]
pub struct Ending {
    maps: Arc<Mutex<Maps>>,
    wanted: Wanted,
    view: View,
    vips: Vips,
    follower: OwnedMutexGuard<Follower>,
    changed: Arc<Notify>,
}

/// A cap on new connections as programs compute with it.
fn rate_of(limit: Option<OpenLimit>) -> Rate {
    limit.map_or_else(Rate::default, |limit| Rate::new(limit.new_connections, limit.burst))
}

impl Preparer {
    /// Does all that may fail.
    ///
    /// # Errors
    /// When there are no ids or VIPs left, or the kernel refuses; nothing that packets meet is another then.
    pub async fn prepare(&self, config: &Arc<Config>, resolved: &Resolved) -> Result<Prepared> {
        let names = lock(&self.maps).names()?;
        let assignment = Ids::assign(config, &names)?;
        let wanted = Wanted::new(Arc::clone(config), assignment.ids.clone(), resolved);
        lock(&self.maps).check_vips(&wanted.vips())?;
        let busy = if assignment.retired.members.is_empty() { HashSet::new() } else { self.busy().await? };
        let mut follower = Arc::clone(&self.follower).lock_owned().await;
        let view = follower.make_way(&wanted).await?;
        Ok(Prepared { assignment, busy, wanted, view, follower })
    }

    /// The members that have flows.
    async fn busy(&self) -> Result<HashSet<u16>> {
        let flows = lock(&self.maps).flows.clone();
        let count = spawn_blocking(move || {
            let mut busy = HashSet::new();
            flows.for_each(|_, flow| {
                busy.insert(flow.member);
            })?;
            Ok(busy)
        });
        count.await.context("reading the flow table was cut short")?
    }
}

impl Datapath {
    /// To make ready what the next configuration asks for.
    #[must_use]
    pub fn preparer(&self) -> Preparer {
        Preparer { maps: Arc::clone(&self.maps), follower: Arc::clone(&self.follower) }
    }

    /// From here on ids are those of the new configuration. To be followed by [`Self::end`], when the cores have decided
    /// under it.
    ///
    /// # Errors
    /// When the kernel refuses to write; ids are those of the old configuration then.
    pub fn begin(&mut self, prepared: &Prepared) -> Result<()> {
        let Prepared { assignment, wanted, .. } = prepared;
        let mut maps = lock(&self.maps);
        // Nobody has a flow on it. The epochs of whoever had the id before mean nothing.
        assignment.new_members.iter().for_each(|member| {
            self.steering.reset_floor(*member);
            self.pulses.clear(*member);
        });
        assignment.named.iter().try_for_each(|(index, name)| maps.set_name(*index, *name))?;
        for service in assignment.ids.services() {
            let rate = rate_of(wanted.config.services[service.0].limit);
            maps.set_service(assignment.ids.service(service), layout::Service::default().with_rate(rate))?;
        }
        drop(maps);
        let mut ids = assignment.ids.clone();
        ids.take_leaving(&self.ids);
        self.leaving.retain(|gone| ids.is_leaving(gone));
        let wanted = Wanted { ids: ids.clone(), ..wanted.clone() };
        self.ids = ids;
        self.config = wanted.config.datapath.clone();
        let half_open = HalfOpen::new(&self.config);
        self.collector.limit(Limit { timeouts: self.config.idle_timeouts, cap: half_open.per_service });
        self.reach.want(wanted);
        // Which addresses members have is the core's to say; how they are reached may have changed.
        let reach = &self.reach;
        if self.slots.reroute(self.ids.members(), |address| reach.way(address))? {
            self.sweeper.sweep();
        }
        Ok(())
    }

    /// VIPs lead to their services, and what is gone goes. What takes longer is returned.
    ///
    /// # Errors
    /// When the kernel refuses to write. A start, or the next reload, does what is left to do.
    pub fn end(&mut self, prepared: Prepared) -> Result<Ending> {
        let Prepared { assignment, busy, view, follower, .. } = prepared;
        let wanted = Wanted::clone(&self.reach.wanted());
        let vips = wanted.vips();
        // Before a VIP leads there: the member may be one of another service by now.
        self.hold_strangers();
        lock(&self.maps).set_vips(&vips)?;
        for service in &assignment.retired.services {
            self.steering.hold(*service);
        }
        for gone in &assignment.retired.members {
            self.retire(*gone, &wanted.config, busy.contains(&gone.member))?;
        }
        for service in &assignment.retired.services {
            lock(&self.maps).set_name(service_place(*service), FREE)?;
        }
        self.reach.set_ids(self.ids.clone());
        self.sweeper.sweep();
        let (maps, changed) = (Arc::clone(&self.maps), Arc::clone(&self.addresses_changed));
        Ok(Ending { maps, wanted, view, vips, follower, changed })
    }

    /// Holds every service whose active member is not its own any more: the id may be given to a member of another
    /// service, and its clients would be sent there.
    fn hold_strangers(&self) {
        for service in self.ids.services() {
            let id = self.ids.service(service);
            let active = self.steering.decision(id).active;
            if active.is_some_and(|active| self.ids.member_of(service, active).is_none()) {
                self.steering.hold(id);
            }
        }
    }

    /// A member that the configuration does not have any more. It may well live: its flows end as those of a member do
    /// that is failed back from. With its service they end at once.
    fn retire(&mut self, gone: Gone, config: &Config, has_flows: bool) -> Result<()> {
        let service = self.ids.service_with(gone.service).map(|ServiceId(at)| &config.services[at]);
        // No new flow can have come since they were counted.
        let is_withdrawn = self.slots.held(gone.member)?.iter().all(|offer| !offer.offered);
        let until = match service.map(|service| (service.on_failback, service.drain_timeout)) {
            None | Some((FlowPolicy::Reset, _)) => return self.dismiss(gone),
            Some(_) if is_withdrawn && !has_flows => return self.dismiss(gone),
            Some(_) if self.ids.is_leaving(gone) => return Ok(()),
            Some((FlowPolicy::Drain, time)) => Some(Instant::now() + time),
            Some((FlowPolicy::Keep, _)) => None,
        };
        self.slots.withdraw(gone.member)?;
        self.ids.leaves(gone);
        self.leaving.insert(gone, until);
        Ok(())
    }

    /// The flows of a member become stale, and its id is free.
    fn dismiss(&mut self, gone: Gone) -> Result<()> {
        self.slots.empty(gone.member)?;
        lock(&self.maps).set_name(member_place(gone.member), FREE)?;
        // Nothing is forgotten as long as something may have to be done again.
        self.ids.has_left(gone);
        self.leaving.remove(gone);
        Ok(())
    }

    /// When [`Self::dismiss_leaving`] wants to be called next; `None`: no member's flows are to end.
    #[must_use]
    pub fn next_dismissal(&self) -> Option<Instant> {
        self.leaving.next()
    }

    /// Ends the flows of members that left their service, if their time is over.
    ///
    /// # Errors
    /// When the kernel refuses to write: once for each member, however often it is tried again.
    pub fn dismiss_leaving(&mut self) -> Result<()> {
        let now = Instant::now();
        let due = self.leaving.due(now);
        if due.is_empty() {
            return Ok(());
        }
        let results: Vec<_> = due.into_iter().map(|gone| (gone, self.dismiss(gone))).collect();
        let done = results.iter().filter(|(_, result)| result.is_ok()).count();
        if done > 0 {
            tracing::info!(
                members = done,
                "the flows of members that were removed are reset: their drain ended"
            );
        }
        self.reach.set_ids(self.ids.clone());
        self.sweeper.sweep();
        self.leaving.dismissed(now, results)
    }
}

impl Ending {
    /// Routes come, flows through VIPs that are gone end, routes go.
    ///
    /// # Errors
    /// When the kernel refuses. Routes of VIPs are tried again by whatever follows the network.
    pub async fn finish(mut self) -> Result<()> {
        // Whatever fails here is looked at again in a moment.
        self.changed.notify_one();
        self.follower.arrive(&self.wanted, &self.view).await?;
        let (maps, vips) = (Arc::clone(&self.maps), Arc::new(self.vips));
        let device = &self.wanted.config.datapath.device;
        for wait in [Duration::ZERO, GRACE] {
            tokio::time::sleep(wait).await;
            let (maps, vips, device) = (Arc::clone(&maps), Arc::clone(&vips), device.clone());
            // Reads the whole flow table. Its resets need the routes that are there.
            let ended = spawn_blocking(move || sweep::end_without_vip(&maps, &vips, &device));
            ended.await.context("ending flows was cut short")??;
        }
        self.follower.leave(&self.wanted).await?;
        lock(&maps).forget_vip_addresses(&vips)
    }
}
