//! Devices and routes that are somebody else's.

use std::net::Ipv4Addr;

use anyhow::Result;
use redirector_tests::{Host, netlink};
use rtnetlink::{LinkBridge, LinkVeth, RouteMessageBuilder, packet_route::route::RouteType};

/// A veth pair.
pub(crate) fn veth(host: &Host, one: &str, other: &str) -> Result<()> {
    netlink(host, |handle| async move {
        Ok(handle.link().add(LinkVeth::new(one, other).build()).execute().await?)
    })
}

/// A bridge.
pub(crate) fn bridge(host: &Host, name: &str) -> Result<()> {
    netlink(
        host,
        |handle| async move { Ok(handle.link().add(LinkBridge::new(name).build()).execute().await?) },
    )
}

/// Removes a device, which must be there.
pub(crate) fn remove(host: &Host, name: &str) -> Result<()> {
    netlink(host, |handle| async move {
        let mut found = Box::pin(handle.link().get().match_name(name.to_owned()).execute());
        let link = tokio_stream::StreamExt::try_next(&mut found).await?;
        let index = link.ok_or_else(|| anyhow::anyhow!("there is no device {name}"))?.header.index;
        Ok(handle.link().del(index).execute().await?)
    })
}

/// A route that refuses packets to one address.
pub(crate) fn unreachable(host: &Host, address: Ipv4Addr, there: bool) -> Result<()> {
    let mut route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address, 32).build();
    route.header.kind = RouteType::Unreachable;
    netlink(host, |handle| async move {
        if there {
            handle.route().add(route).execute().await?;
        } else {
            handle.route().del(route).execute().await?;
        }
        Ok(())
    })
}
