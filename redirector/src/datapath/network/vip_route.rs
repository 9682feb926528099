//! The routes of the VIPs: each leads one address into the VIP device.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result};
use rtnetlink::{
    RouteMessageBuilder,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
            RouteScope, RouteType,
        },
    },
};

use super::{super::netlink, Network, device_of, ip_of, mtu_of, source_of};

/// The route of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VipRoute {
    /// Index of the device that it leads to.
    pub device: u32,
    /// The address that local clients get.
    pub source: Option<IpAddr>,
    /// Largest packet, in bytes.
    pub mtu: u32,
}

/// A route that leads to one address and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SingleRoute {
    /// The address.
    pub to: IpAddr,
    /// The device that it leads to; `None`: a route that refuses or loses packets.
    pub device: Option<u32>,
}

impl Network {
    /// The route that packets to a VIP take, if it is one for that address alone in the main table.
    pub async fn vip_route(&self, vip: IpAddr) -> Result<Option<VipRoute>> {
        let Some(route) = self.look_up(vip, RouteFlags::FibMatch, None).await? else { return Ok(None) };
        if destination(&route) != Some(vip) || route.header.table != RouteHeader::RT_TABLE_MAIN {
            return Ok(None);
        }
        let source = source_of(&route);
        let found = |device| VipRoute { device, source, mtu: mtu_of(&route).unwrap_or(0) };
        Ok(device_of(&route).map(found))
    }

    /// Routes a VIP into the VIP device, in the place of the route that is there.
    pub async fn set_vip_route(&self, vip: IpAddr, wanted: &VipRoute) -> Result<()> {
        let mut route = match vip {
            IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(v4, 32)
                .scope(RouteScope::Link)
                .output_interface(wanted.device)
                .build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(v6, 128)
                .output_interface(wanted.device)
                .build(),
        };
        let source = match wanted.source {
            Some(IpAddr::V4(v4)) if vip.is_ipv4() => Some(RouteAddress::Inet(v4)),
            Some(IpAddr::V6(v6)) if vip.is_ipv6() => Some(RouteAddress::Inet6(v6)),
            _ => None,
        };
        route.attributes.extend(source.map(RouteAttribute::PrefSource));
        route.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(wanted.mtu)]));
        self.handle
            .route()
            .add(route)
            .replace()
            .execute()
            .await
            .with_context(|| format!("cannot route the VIP {vip} to the VIP device"))
    }

    /// The VIPs that have a route into the VIP device, be it the one that packets take or not.
    pub async fn vips_routed_into(&self, device: u32) -> Result<HashSet<IpAddr>> {
        self.main_routes(Some(device), |route| destination(&route)).await
    }

    /// Removes routes into the VIP device that belong to no VIP any more.
    pub async fn remove_other_routes(&self, device: u32, vips: &HashSet<IpAddr>) -> Result<()> {
        let other = |route| destination(&route).is_some_and(|vip| !vips.contains(&vip)).then_some(route);
        let others: Vec<_> = self.main_routes(Some(device), other).await?;
        for route in others {
            self.handle
                .route()
                .del(route)
                .execute()
                .await
                .context("cannot remove the route of an old VIP")?;
        }
        Ok(())
    }

    /// The routes that stand where a VIP's route would stand. Reads the whole routing table.
    pub async fn routes_to_single_addresses(&self) -> Result<Vec<SingleRoute>> {
        let single = |route| Some(SingleRoute { to: destination(&route)?, device: device_of(&route) });
        self.main_routes(None, single).await
    }

    /// What `keep` makes of the routes of the main table, where VIP routes are: of all, or of those that lead into one device.
    ///
    /// A host may have a million routes. Those into one device the kernel finds itself: it walks over the others a thousand
    /// times quicker than it would tell of them.
    async fn main_routes<T, R: Default + Extend<T>>(
        &self,
        device: Option<u32>,
        keep: impl Fn(RouteMessage) -> Option<T>,
    ) -> Result<R> {
        let mut kept = R::default();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            // What was asked for is looked at once more: where the kernel does not know an IP version, it tells of all others.
            let is_meant = |route: &RouteMessage| {
                route.header.address_family == family
                    && route.header.table == RouteHeader::RT_TABLE_MAIN
                    && device.is_none_or(|device| device_of(route) == Some(device))
            };
            let question = RouteNetlinkMessage::GetRoute(every_route(family, device));
            let listed = netlink::list(&self.strict, question, |answer| match answer {
                RouteNetlinkMessage::NewRoute(route) if is_meant(&route) => keep(route),
                _ => None,
            });
            match listed.await {
                Ok(listed) => kept.extend(listed),
                // There is no such table as long as it has no route; or no such device any more.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {}
                Err(error) => return Err(error).context("cannot list the routes"),
            }
        }
        Ok(kept)
    }
}

/// Asks for the routes of the main table: of each kind, whoever made them.
fn every_route(family: AddressFamily, device: Option<u32>) -> RouteMessage {
    let mut request = RouteMessage::default();
    request.header.address_family = family;
    request.header.table = RouteHeader::RT_TABLE_MAIN;
    request.header.protocol = RouteProtocol::Unspec;
    request.header.scope = RouteScope::Universe;
    request.header.kind = RouteType::Unspec;
    request.attributes.extend(device.map(RouteAttribute::Oif));
    request
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
