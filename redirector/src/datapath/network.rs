//! Devices, addresses and routes, over netlink: what there is. Asks, and changes nothing.
//!
//! | module | concern |
//! |---|---|
//! | `device` | the VIP device: made, kept as it must be, removed |
//! | `vip_route` | the routes of the VIPs |

mod device;
mod vip_route;

use std::{
    collections::{BTreeSet, HashSet},
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result};
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType},
    },
};
use tokio_stream::StreamExt as _;

pub use self::{
    device::{Device, Ensured},
    vip_route::{SingleRoute, VipRoute},
};
use super::netlink;

/// A device of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Its name now.
    pub name: String,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Whether packets there have a link-layer header: those of tunnels have none.
    pub ethernet: bool,
    /// Whether it is the loopback device.
    pub loopback: bool,
}

/// How this host reaches an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTo {
    /// The devices that packets leave by: of equal-cost paths all.
    pub devices: BTreeSet<u32>,
    /// The source addresses that the route prefers: one, or of equal-cost paths one for each.
    pub sources: Vec<IpAddr>,
    /// Largest packet that the route itself allows, in bytes; `None`: as the device.
    pub mtu: Option<u32>,
    /// Whether the address is one of this host's own.
    pub local: bool,
}

/// Route netlink of the agent's network namespace.
#[derive(Clone, Debug)]
pub struct Network {
    handle: Handle,
    /// For lists that the kernel shall filter: it takes every word of a request seriously here.
    strict: Handle,
}

impl Network {
    /// Opens netlink sockets; needs a tokio runtime, which drives them.
    pub fn connect() -> Result<Self> {
        let handle = netlink::connect(false).context("cannot open a netlink socket")?;
        let strict =
            netlink::connect(true).context("cannot open a netlink socket that filters (Linux 4.20)")?;
        Ok(Self { handle, strict })
    }

    /// The index of a device; `None`: there is none.
    pub async fn find(&self, name: &str) -> Result<Option<u32>> {
        Ok(self.link(name).await?.map(|link| link.header.index))
    }

    /// The device with this name; `None`: there is none.
    pub async fn device_named(&self, name: &str) -> Result<Option<Link>> {
        Ok(self.link(name).await?.map(Link::from))
    }

    /// The device with this index; `None`: there is none, any more.
    pub async fn device(&self, index: u32) -> Result<Option<Link>> {
        let link = self.first_link(self.handle.link().get().match_index(index)).await?;
        Ok(link.map(Link::from))
    }

    async fn link(&self, name: &str) -> Result<Option<LinkMessage>> {
        self.first_link(self.handle.link().get().match_name(name.to_owned())).await
    }

    async fn first_link(&self, request: rtnetlink::LinkGetRequest) -> Result<Option<LinkMessage>> {
        match Box::pin(request.execute()).try_next().await {
            Ok(Some(link)) => Ok(Some(link)),
            Ok(None) => Err(netlink::lost()).context("cannot ask for a device"),
            Err(rtnetlink::Error::NetlinkError(error)) if error.to_io().kind() == ErrorKind::NotFound => {
                Ok(None)
            }
            Err(rtnetlink::Error::NetlinkError(error)) if -error.raw_code() == libc::ENODEV => Ok(None),
            Err(error) => Err(error).context("cannot ask for a device"),
        }
    }

    /// How this host reaches `address`; `None`: it does not.
    ///
    /// Two questions: one for what a packet would meet now, with the source address; and one for the route as it was
    /// made, with all of its next hops, and without what the kernel has learnt about the path to this one address.
    pub async fn route_to(&self, address: IpAddr) -> Result<Option<RouteTo>> {
        let Some(answer) = self.look_up(address, RouteFlags::empty(), None).await? else { return Ok(None) };
        let Some(device) = device_of(&answer) else { return Ok(None) };
        let Some(route) = self.look_up(address, RouteFlags::FibMatch, None).await? else { return Ok(None) };
        // The one that was chosen is all that is known of next-hop objects, where they are not spelled out
        // (`net.ipv4.nexthop_compat_mode = 0`).
        let devices = BTreeSet::from_iter(devices_of(&route).chain([device]));
        let mut sources: Vec<_> = source_of(&answer).into_iter().collect();
        // Each path of several has a source of its own, and kernels from 6.16 on choose the path that fits the source.
        for device in devices.iter().filter(|_| devices.len() > 1) {
            let by_device = self.look_up(address, RouteFlags::empty(), Some(*device)).await?;
            sources.extend(by_device.as_ref().and_then(source_of).filter(|source| !sources.contains(source)));
        }
        let local = answer.header.kind == RouteType::Local;
        Ok(Some(RouteTo { devices, sources, mtu: mtu_of(&route), local }))
    }

    /// What the routing table says about an address, by `device` if there is one; `None`: there is no way.
    async fn look_up(
        &self,
        address: IpAddr,
        flags: RouteFlags,
        device: Option<u32>,
    ) -> Result<Option<RouteMessage>> {
        let mut request = match address {
            IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4, 32).build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(v6, 128).build(),
        };
        request.header.flags |= flags;
        request.attributes.extend(device.map(RouteAttribute::Oif));
        match Box::pin(self.handle.route().get(request).execute()).try_next().await {
            Ok(Some(route)) => Ok(Some(route)),
            Ok(None) => {
                Err(netlink::lost()).with_context(|| format!("cannot ask for the route to {address}"))
            }
            Err(rtnetlink::Error::NetlinkError(error))
                if matches!(
                    -error.raw_code(),
                    libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL
                ) =>
            {
                Ok(None)
            }
            // The device went away in between.
            Err(rtnetlink::Error::NetlinkError(error))
                if device.is_some() && -error.raw_code() == libc::ENODEV =>
            {
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("cannot ask for the route to {address}")),
        }
    }

    /// Every address of this host.
    pub async fn addresses(&self) -> Result<HashSet<IpAddr>> {
        Ok(self.addresses_by_device().await?.into_iter().map(|(_, address)| address).collect())
    }

    /// Every address of this host, and the index of the device that has it.
    pub async fn addresses_by_device(&self) -> Result<Vec<(u32, IpAddr)>> {
        let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let found = netlink::list(&self.handle, question, |answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => own_address(&message),
            _ => None,
        });
        found.await.context("cannot list the addresses")
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let header = &message.header;
        let mut link = Self {
            index: header.index,
            name: String::new(),
            mtu: 0,
            ethernet: has_link_layer_header(header.link_layer_type),
            loopback: header.flags.contains(LinkFlags::Loopback),
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                _ => {}
            }
        }
        link
    }
}

/// An address of this host, and the index of the device that has it.
fn own_address(message: &AddressMessage) -> Option<(u32, IpAddr)> {
    let (mut own, mut other) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => own = Some(*address),
            // The other end's on a point-to-point device, where the own one is given too.
            AddressAttribute::Address(address) => other = Some(*address),
            _ => {}
        }
    }
    Some((message.header.index, own.or(other)?))
}

fn device_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// The devices of all next hops.
fn devices_of(route: &RouteMessage) -> impl Iterator<Item = u32> {
    route.attributes.iter().flat_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => vec![*index],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => Vec::new(),
    })
}

/// The source address that a route prefers.
fn source_of(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(source) => ip_of(source),
        _ => None,
    })
}

fn mtu_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => metrics.iter().find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
            _ => None,
        }),
        _ => None,
    })
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// The kernel's own list (`dev_is_mac_header_xmit`, `include/linux/if_arp.h`).
fn has_link_layer_header(kind: LinkLayerType) -> bool {
    use LinkLayerType::{Ip6gre, Ipgre, None, Ppp, Rawip, Sit, Tunnel, Tunnel6, Void};
    !matches!(kind, Tunnel | Tunnel6 | Sit | Ipgre | Ip6gre | Void | None | Rawip | Ppp)
}
