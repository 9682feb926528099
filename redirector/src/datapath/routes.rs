//! What the routes to the members mean for slots, uplinks and the routes of the VIPs. [`View::look`] asks; the rest is
//! worked out from the answers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Result;
use redirector_common::layout::MAX_SOURCES;

use super::{
    maps::Vips,
    network::{Link, Network, RouteTo, VipRoute},
    registry::Ids,
    slots::Way,
};
use crate::{
    config::Resolved,
    model::{Config, Datapath, MemberId, ServiceId},
};

/// The MTU of a VIP's route while no way to a member is known: Ethernet's.
const MTU_WITHOUT_ROUTES: u32 = 1500;

/// The largest MTU that the kernel lets a route have (`ip_metrics_convert` in `net/ipv4/metrics.c`).
const LARGEST_MTU: u32 = 65535 - 15;

/// What the configuration asks for, with the ids of everything that it names and the addresses that its members have.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) config: Arc<Config>,
    pub(super) ids: Ids,
    /// By service and member.
    pub(super) addresses: Vec<Vec<Vec<SocketAddr>>>,
}

impl Wanted {
    pub(super) fn new(config: Arc<Config>, ids: Ids, resolved: &Resolved) -> Self {
        let of_service = |(at, service): (usize, &crate::model::Service)| {
            let of_member = |number| resolved.addresses(ServiceId(at), MemberId(number)).as_slice().to_vec();
            (0..service.members.len()).map(of_member).collect()
        };
        let addresses = config.services.iter().enumerate().map(of_service).collect();
        Self { config, ids, addresses }
    }

    /// Of an agent that begins: no service at all.
    pub(super) fn nothing(config: &Config) -> Self {
        let config = Config { services: Vec::new(), ..config.clone() };
        Self { config: Arc::new(config), ids: Ids::default(), addresses: Vec::new() }
    }

    /// Every VIP with the id of its service.
    pub(super) fn vips(&self) -> Vips {
        let of_service = |(at, service): (usize, &crate::model::Service)| {
            let id = self.ids.service(ServiceId(at));
            service.vips.iter().map(move |vip| (*vip, id)).collect::<Vec<_>>()
        };
        self.config.services.iter().enumerate().flat_map(of_service).collect()
    }

    /// Whether a member is in 127.0.0.0/8.
    pub(super) fn leads_to_loopback(&self) -> bool {
        let mut all = self.addresses.iter().flatten().flatten();
        all.any(|address| address.is_ipv4() && address.ip().is_loopback())
    }
}

/// What is wanted, and how each address was reached last. Shared by the agent, which says what is wanted, and the
/// follower, which says how addresses are reached.
pub(super) struct Reach {
    inner: Mutex<Inner>,
}

struct Inner {
    wanted: Arc<Wanted>,
    ways: HashMap<IpAddr, Way>,
}

impl Reach {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self { inner: Mutex::new(Inner { wanted: Arc::new(wanted), ways: HashMap::new() }) }
    }

    /// What is wanted now.
    pub(super) fn wanted(&self) -> Arc<Wanted> {
        Arc::clone(&self.lock().wanted)
    }

    /// This is wanted from now on.
    pub(super) fn want(&self, wanted: Wanted) {
        self.lock().wanted = Arc::new(wanted);
    }

    /// A member has these addresses from now on.
    pub(super) fn set_addresses(&self, service: ServiceId, member: MemberId, addresses: &[SocketAddr]) {
        Arc::make_mut(&mut self.lock().wanted).addresses[service.0][member.0] = addresses.to_vec();
    }

    /// Other members leave, or none does any more.
    pub(super) fn set_ids(&self, ids: Ids) {
        Arc::make_mut(&mut self.lock().wanted).ids = ids;
    }

    /// How an address is reached; `None`: it never was.
    pub(super) fn way(&self, address: SocketAddr) -> Option<Way> {
        self.lock().ways.get(&address.ip()).cloned()
    }

    /// An address is reached like this. Without a way now, the sources of the last one stay.
    pub(super) fn set_way(&self, address: IpAddr, way: Option<Way>) {
        let mut inner = self.lock();
        match way {
            Some(way) => drop(inner.ways.insert(address, way)),
            None => {
                if let Some(known) = inner.ways.get_mut(&address) {
                    known.local = false;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in here leaves no half-written entry: each is replaced as a whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The network at one moment, as far as it concerns the datapath.
#[derive(Debug, Default)]
pub(super) struct View {
    /// The way to every address that was asked for; an address that no route leads to has none.
    pub(super) routes: BTreeMap<IpAddr, RouteTo>,
    /// The devices of all these ways.
    pub(super) links: BTreeMap<u32, Link>,
    /// Which device has which of the configured source addresses.
    sources: Vec<(u32, IpAddr)>,
}

impl View {
    /// Asks for the way to each of `addresses`.
    pub(super) async fn look(
        network: &Network,
        config: &Datapath,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Self> {
        let mut view = Self::default();
        for address in BTreeSet::from_iter(addresses) {
            let Some(mut route) = network.route_to(address).await? else { continue };
            for index in route.devices.clone() {
                if view.links.contains_key(&index) {
                    continue;
                }
                if let Some(link) = network.device(index).await? {
                    view.links.insert(index, link);
                } else {
                    // It went away in between.
                    route.devices.remove(&index);
                }
            }
            if !route.devices.is_empty() {
                view.routes.insert(address, route);
            }
        }
        if !config.source_addresses.is_empty() {
            let all = network.addresses_by_device().await?;
            view.sources = all.into_iter().filter(|(_, own)| config.source_addresses.contains(own)).collect();
            // In the order of the configuration.
            view.sources
                .sort_by_key(|(_, own)| config.source_addresses.iter().position(|given| given == own));
        }
        Ok(view)
    }

    /// What flows to an address need to know; `None`: no route leads there.
    pub(super) fn way(&self, address: IpAddr) -> Option<Way> {
        let route = self.routes.get(&address)?;
        let mut sources = route.sources.clone();
        for (device, own) in &self.sources {
            let fits = route.devices.contains(device) && own.is_ipv4() == address.is_ipv4();
            if fits && !sources.contains(own) {
                sources.push(*own);
            }
        }
        sources.truncate(MAX_SOURCES);
        Some(Way { sources, local: route.local })
    }

    /// Configured source addresses that this host does not have.
    pub(super) fn missing_sources(&self, config: &Datapath) -> BTreeSet<IpAddr> {
        let is_own = |given: &&IpAddr| self.sources.iter().any(|(_, own)| own == *given);
        config.source_addresses.iter().filter(|given| !is_own(given)).copied().collect()
    }

    /// Largest packet on the way to an address, as far as this host knows, in bytes.
    pub(super) fn mtu(&self, address: IpAddr) -> Option<u32> {
        let route = self.routes.get(&address)?;
        let devices = route.devices.iter().filter_map(|index| self.links.get(index));
        route.mtu.into_iter().chain(devices.map(|link| link.mtu)).min()
    }

    /// The way to an address in words; empty: there is none.
    pub(super) fn describe(&self, address: IpAddr) -> String {
        let Some(route) = self.routes.get(&address) else { return String::new() };
        if route.local {
            return "on this host".into();
        }
        let names = route.devices.iter().filter_map(|index| self.links.get(index));
        let names: Vec<_> = names.map(|link| link.name.as_str()).collect();
        let sources = self.way(address).map(|way| way.sources).unwrap_or_default();
        let sources: Vec<_> = sources.iter().map(ToString::to_string).collect();
        format!("by {} from {}", names.join(", "), sources.join(", "))
    }

    /// The devices that the answers of members come in by. Those on this host answer by the VIP device.
    pub(super) fn uplinks(&self) -> impl Iterator<Item = &Link> {
        let devices: BTreeSet<_> =
            self.routes.values().filter(|route| !route.local).flat_map(|route| &route.devices).collect();
        devices.into_iter().filter_map(|index| self.links.get(index)).filter(|link| !link.loopback)
    }

    /// The devices of all these ways whose packets have no link-layer header.
    pub(super) fn without_headers(&self) -> HashSet<u32> {
        self.links.values().filter(|link| !link.ethernet).map(|link| link.index).collect()
    }

    /// What the route of each VIP shall be, into the device with this index.
    pub(super) fn vip_routes(&self, wanted: &Wanted, device: u32) -> BTreeMap<IpAddr, VipRoute> {
        let mut members: BTreeMap<IpAddr, Vec<IpAddr>> = BTreeMap::new();
        for (service, addresses) in wanted.config.services.iter().zip(&wanted.addresses) {
            for vip in &service.vips {
                let of_its_version =
                    addresses.iter().flatten().filter(|member| member.is_ipv4() == vip.is_ipv4());
                members.entry(vip.ip()).or_default().extend(of_its_version.map(SocketAddr::ip));
            }
        }
        let route = |members: &[IpAddr]| VipRoute {
            device,
            source: self.vip_source(members),
            mtu: self.smallest_mtu(members),
        };
        members.iter().map(|(vip, members)| (*vip, route(members))).collect()
    }

    fn smallest_mtu(&self, members: &[IpAddr]) -> u32 {
        let smallest = members.iter().filter_map(|member| self.mtu(*member)).min();
        smallest.unwrap_or(MTU_WITHOUT_ROUTES).min(LARGEST_MTU)
    }

    /// The address that local clients get: what the route to the first member on another host prefers. An address of the
    /// loopback device is none that a packet may leave a host's stack with.
    fn vip_source(&self, members: &[IpAddr]) -> Option<IpAddr> {
        let routes = || members.iter().filter_map(|member| self.routes.get(member));
        let usable = |route: &RouteTo| route.sources.iter().copied().find(|source| !source.is_loopback());
        routes().filter(|route| !route.local).find_map(usable).or_else(|| routes().find_map(usable))
    }
}
