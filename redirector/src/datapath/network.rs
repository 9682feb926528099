//! Devices and routes, over netlink.
//!
//! The VIP device is one end of a veth pair without ARP: whatever the host routes to a VIP leaves its stack there,
//! and the program on its egress takes it from there. What the program leaves alone ends at the peer.

use std::{
    collections::HashSet,
    fs,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result, anyhow, bail};
use rtnetlink::{
    Handle, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::AddressAttribute,
        link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage},
        route::{
            RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteScope, RouteType,
        },
    },
};
use tokio_stream::StreamExt as _;

/// The Ethernet address of the VIP device. Nothing but this host ever sees it. Given when the device is made, because
/// udev changes an address that the kernel chose, a moment later (`MACAddressPolicy=persistent`): then replies would
/// carry the old one, and the stack would take them for somebody else's.
const ETHERNET_ADDRESS: [u8; 6] = [0x02, b'R', b'D', b'I', b'R', 0x01];

/// The largest MTU of a veth. What counts is the MTU of the VIP's route.
const DEVICE_MTU: u32 = 65535;

/// The VIP device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Interface index.
    pub index: u32,
    /// Ethernet address.
    pub mac: [u8; 6],
}

/// How this host reaches an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteTo {
    /// The device that packets leave by.
    pub device: u32,
    /// The source address that the route prefers.
    pub source: Option<IpAddr>,
    /// Largest packet on the way, as far as this host knows, in bytes.
    pub mtu: u32,
    /// Whether the address is one of this host's own.
    pub local: bool,
}

/// A route that leads to one address and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SingleRoute {
    /// The address.
    pub to: IpAddr,
    /// The device that it leads to; `None`: a route that refuses or loses packets.
    pub device: Option<u32>,
}

/// Route netlink of the agent's network namespace.
#[derive(Clone, Debug)]
pub struct Network {
    handle: Handle,
}

impl Network {
    /// Opens a netlink socket; needs a tokio runtime, which drives it.
    pub fn connect() -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().context("cannot open a netlink socket")?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// The VIP device, made if it is not there. One that an earlier agent left is taken over.
    pub async fn ensure_device(&self, name: &str) -> Result<Device> {
        let peer_name = peer_of(name);
        if self.remove_torn(name).await? {
            tracing::warn!("the VIP device {name} had lost its other end {peer_name}; made it anew");
        }
        if self.link(name).await?.is_none() {
            if self.link(&peer_name).await?.is_some() {
                bail!(
                    "there is a device {peer_name}, the name that the other end of {name} shall have; choose another \
                     name in [datapath] device, or remove it (`ip link del {peer_name}`)"
                );
            }
            let pair = LinkVeth::new(name, &peer_name).address(ETHERNET_ADDRESS.to_vec()).build();
            self.handle.link().add(pair).execute().await.map_err(|error| {
                anyhow!("cannot make the veth pair {name} and {peer_name}: {error}; {}", hint(&error))
            })?;
        }
        let Some((link, peer)) = self.pair(name).await? else {
            bail!(
                "there is a device {name} that is no veth pair with {peer_name}, so it is not Redirector's; choose \
                 another name in [datapath] device, or remove it (`ip link del {name}`)"
            );
        };
        for end in [name, &peer_of(name)] {
            quieten(end)?;
        }
        for index in [link.header.index, peer.header.index] {
            self.handle
                .link()
                .set(
                    LinkUnspec::new_with_index(index)
                        .mtu(DEVICE_MTU)
                        .arp(false)
                        .multicast(false)
                        .up()
                        .build(),
                )
                .execute()
                .await
                .with_context(|| format!("cannot set up the device with index {index}"))?;
        }
        // The routing table is asked for the way to a member as if packets came in by this device. It answers only
        // if forwarding is on for it; the host does not become a router.
        sysctl(&format!("net/ipv4/conf/{name}/forwarding"), "1")?;
        let mac = address_of(&link).with_context(|| format!("the device {name} has no Ethernet address"))?;
        Ok(Device { index: link.header.index, mac })
    }

    /// Removes a VIP device whose other end was renamed or moved to another network namespace. Whether it was so. By
    /// its Ethernet address it is known as Redirector's.
    async fn remove_torn(&self, name: &str) -> Result<bool> {
        let Some(link) = self.link(name).await? else { return Ok(false) };
        if self.pair(name).await?.is_some() || !is_veth(&link) || address_of(&link) != Some(ETHERNET_ADDRESS)
        {
            return Ok(false);
        }
        let removed = self.handle.link().del(link.header.index).execute().await;
        removed.with_context(|| format!("cannot remove the VIP device {name}"))?;
        Ok(true)
    }

    /// Removes the VIP device, and with it the routes that lead to it. Nothing to remove is no error.
    pub async fn remove_device(&self, name: &str) -> Result<()> {
        self.remove_torn(name).await?;
        let Some((link, _)) = self.pair(name).await? else { return Ok(()) };
        self.handle
            .link()
            .del(link.header.index)
            .execute()
            .await
            .with_context(|| format!("cannot remove the device {name}"))
    }

    /// Whether there is a device with this name.
    pub async fn has_device(&self, name: &str) -> Result<bool> {
        Ok(self.link(name).await?.is_some())
    }

    /// The index of a device; `None`: there is none.
    pub async fn find(&self, name: &str) -> Result<Option<u32>> {
        Ok(self.link(name).await?.map(|link| link.header.index))
    }

    /// The name of a device; `None`: there is none, any more.
    pub async fn name_of(&self, device: u32) -> Result<Option<String>> {
        let link = self.first_link(self.handle.link().get().match_index(device)).await?;
        let mut attributes = link.into_iter().flat_map(|link| link.attributes);
        Ok(attributes.find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        }))
    }

    /// Whether a device puts a link-layer header before its packets: tunnels do not. The kernel's own list
    /// (`dev_is_mac_header_xmit`, `include/linux/if_arp.h`).
    pub async fn has_link_layer_header(&self, device: u32) -> Result<bool> {
        use LinkLayerType::{Ip6gre, Ipgre, None, Ppp, Rawip, Sit, Tunnel, Tunnel6, Void};

        let link = self.first_link(self.handle.link().get().match_index(device)).await?;
        let link = link.with_context(|| format!("there is no device with index {device} any more"))?;
        let kind = link.header.link_layer_type;
        Ok(!matches!(kind, Tunnel | Tunnel6 | Sit | Ipgre | Ip6gre | Void | None | Rawip | Ppp))
    }

    /// The two ends of a VIP device; `None`: there is none, or it is somebody else's.
    async fn pair(&self, name: &str) -> Result<Option<(LinkMessage, LinkMessage)>> {
        let (Some(link), Some(peer)) = (self.link(name).await?, self.link(&peer_of(name)).await?) else {
            return Ok(None);
        };
        let leads_to_peer = link
            .attributes
            .iter()
            .any(|attribute| matches!(attribute, LinkAttribute::Link(index) if *index == peer.header.index));
        Ok((is_veth(&link) && leads_to_peer).then_some((link, peer)))
    }

    async fn link(&self, name: &str) -> Result<Option<LinkMessage>> {
        self.first_link(self.handle.link().get().match_name(name.to_owned())).await
    }

    async fn first_link(&self, request: rtnetlink::LinkGetRequest) -> Result<Option<LinkMessage>> {
        match Box::pin(request.execute()).try_next().await {
            Ok(link) => Ok(link),
            Err(rtnetlink::Error::NetlinkError(error)) if error.to_io().kind() == ErrorKind::NotFound => {
                Ok(None)
            }
            Err(rtnetlink::Error::NetlinkError(error)) if -error.raw_code() == libc::ENODEV => Ok(None),
            Err(error) => Err(error).context("cannot ask for a device"),
        }
    }

    async fn mtu_of(&self, device: u32) -> Result<u32> {
        let link = self.first_link(self.handle.link().get().match_index(device)).await?;
        link.and_then(|link| {
            link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Mtu(mtu) => Some(*mtu),
                _ => None,
            })
        })
        .with_context(|| format!("the device with index {device} has no MTU"))
    }

    /// How this host reaches `address`; `None`: it does not.
    pub async fn route_to(&self, address: IpAddr) -> Result<Option<RouteTo>> {
        let request = match address {
            IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4, 32).build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(v6, 128).build(),
        };
        let answer = Box::pin(self.handle.route().get(request).execute()).try_next().await;
        let route = match answer {
            Ok(Some(route)) => route,
            Ok(None) => return Ok(None),
            Err(rtnetlink::Error::NetlinkError(error))
                if matches!(
                    -error.raw_code(),
                    libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL
                ) =>
            {
                return Ok(None);
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot ask for the route to {address}"));
            }
        };
        let mut way =
            RouteTo { device: 0, source: None, mtu: 0, local: route.header.kind == RouteType::Local };
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => way.device = *index,
                RouteAttribute::PrefSource(source) => way.source = ip_of(source),
                RouteAttribute::Metrics(metrics) => {
                    way.mtu = metrics
                        .iter()
                        .find_map(|metric| match metric {
                            RouteMetric::Mtu(mtu) => Some(*mtu),
                            _ => None,
                        })
                        .unwrap_or(way.mtu);
                }
                _ => {}
            }
        }
        if way.device == 0 {
            return Ok(None);
        }
        if way.mtu == 0 {
            way.mtu = self.mtu_of(way.device).await?;
        }
        Ok(Some(way))
    }

    /// Routes a VIP into the VIP device, with `source` as the address that local clients get.
    pub async fn set_vip_route(
        &self,
        vip: IpAddr,
        device: u32,
        source: Option<IpAddr>,
        mtu: u32,
    ) -> Result<()> {
        let mut route = match vip {
            IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(v4, 32)
                .scope(RouteScope::Link)
                .output_interface(device)
                .build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(v6, 128)
                .output_interface(device)
                .build(),
        };
        let source = match source {
            Some(IpAddr::V4(v4)) if vip.is_ipv4() => Some(RouteAddress::Inet(v4)),
            Some(IpAddr::V6(v6)) if vip.is_ipv6() => Some(RouteAddress::Inet6(v6)),
            _ => None,
        };
        route.attributes.extend(source.map(RouteAttribute::PrefSource));
        route.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        self.handle
            .route()
            .add(route)
            .replace()
            .execute()
            .await
            .with_context(|| format!("cannot route the VIP {vip} to the VIP device"))
    }

    /// Removes routes into the VIP device that belong to no VIP any more.
    pub async fn remove_other_routes(&self, device: u32, vips: &HashSet<IpAddr>) -> Result<()> {
        let routes = self.main_routes().await?;
        for route in routes.into_iter().filter(|route| device_of(route) == Some(device)) {
            if destination(&route).is_some_and(|vip| !vips.contains(&vip)) {
                self.handle
                    .route()
                    .del(route)
                    .execute()
                    .await
                    .context("cannot remove the route of an old VIP")?;
            }
        }
        Ok(())
    }

    /// The routes that stand where a VIP's route would stand.
    pub async fn routes_to_single_addresses(&self) -> Result<Vec<SingleRoute>> {
        let single =
            |route: &RouteMessage| Some(SingleRoute { to: destination(route)?, device: device_of(route) });
        Ok(self.main_routes().await?.iter().filter_map(single).collect())
    }

    /// Every route of the main table, where VIP routes are.
    async fn main_routes(&self) -> Result<Vec<RouteMessage>> {
        let mut found = Vec::new();
        for request in
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let mut routes = Box::pin(self.handle.route().get(request).execute());
            while let Some(route) = routes.try_next().await.context("cannot list the routes")? {
                if route.header.table == RouteHeader::RT_TABLE_MAIN {
                    found.push(route);
                }
            }
        }
        Ok(found)
    }

    /// Every address of this host.
    pub async fn addresses(&self) -> Result<HashSet<IpAddr>> {
        let mut found = HashSet::new();
        let mut list = Box::pin(self.handle.address().get().execute());
        while let Some(message) = list.try_next().await.context("cannot list the addresses")? {
            for attribute in message.attributes {
                if let AddressAttribute::Address(ip) | AddressAttribute::Local(ip) = attribute {
                    found.insert(ip);
                }
            }
        }
        Ok(found)
    }
}

/// The other end of the VIP device.
fn peer_of(name: &str) -> String {
    format!("{name}-p")
}

fn is_veth(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => {
            infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)))
        }
        _ => false,
    })
}

fn address_of(link: &LinkMessage) -> Option<[u8; 6]> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(mac) => mac.as_slice().try_into().ok(),
        _ => None,
    })
}

fn device_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// The next step after the kernel refused a device.
fn hint(error: &rtnetlink::Error) -> &'static str {
    match error {
        rtnetlink::Error::NetlinkError(error) if -error.raw_code() == libc::EOPNOTSUPP => {
            "load the kernel module veth (CONFIG_VETH)"
        }
        _ => "look at the kernel's log (`dmesg`)",
    }
}

/// The one address that a route leads to; `None` for a prefix, which is not ours.
fn destination(route: &RouteMessage) -> Option<IpAddr> {
    let whole = if route.header.address_family == AddressFamily::Inet { 32 } else { 128 };
    if route.header.destination_prefix_length != whole {
        return None;
    }
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip_of(address),
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

/// No addresses, no router solicitations: nothing but VIP traffic shall pass the device.
fn quieten(device: &str) -> Result<()> {
    for (name, value) in [("addr_gen_mode", "1"), ("accept_ra", "0"), ("forwarding", "1")] {
        let path = format!("net/ipv6/conf/{device}/{name}");
        match sysctl(&path, value) {
            // A host without IPv6.
            Err(error)
                if error
                    .downcast_ref::<std::io::Error>()
                    .is_some_and(|error| error.kind() == ErrorKind::NotFound) => {}
            other => other?,
        }
    }
    Ok(())
}

fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/{name}");
    fs::write(&path, value).with_context(|| format!("cannot write {value} to {path}"))
}
