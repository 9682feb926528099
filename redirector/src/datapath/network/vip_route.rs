//! The routes of the VIPs: each leads one address into the VIP device.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result};
use rtnetlink::{
    RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteScope,
        },
    },
};
use tokio_stream::StreamExt as _;

use super::{Network, device_of, ip_of, mtu_of, source_of};

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

    /// Whether a VIP has a route into the VIP device, be it the one that packets take or not.
    pub async fn has_vip_route(&self, vip: IpAddr, device: u32) -> Result<bool> {
        let routes = self.routes_to_single_addresses().await?;
        Ok(routes.contains(&SingleRoute { to: vip, device: Some(device) }))
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
