//! Flows as people see them: with names, states and times.

use std::{
    net::SocketAddr,
    ops::ControlFlow,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Result;
use redirector_common::{
    addr::Tuple,
    flow::{Flow, State},
    layout::{MAX_MEMBERS, MAX_SERVICES},
};

use super::{
    clock::Clock,
    maps::{Maps, Standings},
    registry::Ids,
    sweep::lock,
};
use crate::model::{MemberId, ServiceId};

/// Reads the flow table. It keeps no switch and no packet waiting.
pub struct FlowList {
    maps: Arc<Mutex<Maps>>,
    clock: Clock,
    /// By the ids that stand in flows.
    services: Vec<Option<ServiceId>>,
    members: Vec<Option<MemberId>>,
}

/// One flow, at one moment. Nothing is worked out before it is asked for.
pub struct ListedFlow<'a> {
    list: &'a FlowList,
    standings: &'a Standings,
    now: u32,
    client_side: &'a Tuple,
    flow: &'a Flow,
}

impl FlowList {
    pub(super) fn new(maps: Arc<Mutex<Maps>>, ids: &Ids, clock: Clock) -> Self {
        let mut services = vec![None; MAX_SERVICES as usize];
        let mut members = vec![None; MAX_MEMBERS as usize];
        for service in ids.services() {
            services[usize::from(ids.service(service))] = Some(service);
            for id in ids.members_of(service) {
                members[usize::from(id)] = ids.member_of(service, id);
            }
        }
        Self { maps, clock, services, members }
    }

    /// Calls `each` for every flow until it says to stop. One that is opened or ends meanwhile may be missed.
    pub fn for_each(&self, mut each: impl FnMut(&ListedFlow<'_>) -> ControlFlow<()>) -> Result<()> {
        let (flows, standings) = {
            let maps = lock(&self.maps);
            (maps.flows.clone(), maps.standings())
        };
        let now = self.clock.now()?;
        flows.for_each_until(|client_side, flow| {
            each(&ListedFlow { list: self, standings: &standings, now, client_side, flow })
        })
    }
}

impl ListedFlow<'_> {
    /// Its service; `None`: the configuration does not have it any more.
    #[must_use]
    pub fn service(&self) -> Option<ServiceId> {
        self.list.services.get(usize::from(self.flow.service)).copied().flatten()
    }

    /// Its member; `None`: the configuration does not have it any more.
    #[must_use]
    pub fn member(&self) -> Option<MemberId> {
        self.list.members.get(usize::from(self.flow.member)).copied().flatten()
    }

    /// How far it is.
    #[must_use]
    pub fn state(&self) -> State {
        self.flow.state()
    }

    /// Whether its member was left, or its address taken away.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.standings.is_stale(self.flow)
    }

    /// Whether its client is a socket in the agent's network namespace.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.flow.cookie != 0
    }

    /// Epoch of the decision that chose its member.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.flow.epoch
    }

    /// How long ago the last segment was carried.
    #[must_use]
    pub fn idle(&self) -> Duration {
        self.list.clock.duration(self.flow.idle(self.now))
    }

    /// How long ago it was opened; begins anew when the kernel's clock comes round ([`Clock`]).
    #[must_use]
    pub fn age(&self) -> Duration {
        self.list.clock.duration(redirector_common::flow::since(self.flow.opened_at, self.now))
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> SocketAddr {
        self.client_side.near_socket()
    }

    /// The VIP.
    #[must_use]
    pub fn vip(&self) -> SocketAddr {
        self.client_side.far_socket()
    }

    /// The translated source.
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        self.flow.member_side.near_socket()
    }

    /// The member's address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.flow.member_side.far_socket()
    }
}
