//! Devices, addresses, routes and policy rules of hosts, over rtnetlink.

use std::{future::Future, net::IpAddr};

use anyhow::{Context, Result};
use rtnetlink::{
    Handle, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection,
    packet_route::{
        AddressFamily,
        link::LinkMessage,
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};
use rustix::net::{
    AddressFamily as SocketFamily, SocketFlags, SocketType, netdevice::name_to_index, socket_with,
};

use crate::Host;

/// One end of a cable.
#[derive(Clone, Copy)]
pub(crate) struct End<'a> {
    pub(crate) host: &'a Host,
    pub(crate) device: &'a str,
    pub(crate) addresses: &'a [(IpAddr, u8)],
}

/// Runs requests against the host's own rtnetlink socket.
///
/// # Errors
/// When the socket cannot be opened, or what `requests` says.
pub fn netlink<F: Future<Output = Result<()>>>(
    host: &Host,
    requests: impl FnOnce(Handle) -> F + Send,
) -> Result<()> {
    host.block_on(|| async {
        let (connection, handle, _) = new_connection()?;
        tokio::spawn(connection);
        requests(handle).await
    })?
    .with_context(|| format!("host {}: network set-up", host.name()))
}

/// Index of a device in the calling thread's namespace.
pub(crate) fn index(device: &str) -> Result<u32> {
    let socket = socket_with(SocketFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    name_to_index(&socket, device).with_context(|| format!("device {device}"))
}

fn up(device: &str) -> Result<LinkMessage> {
    Ok(LinkUnspec::new_with_index(index(device)?).up().build())
}

/// Settings that every host of the lab has before it gets devices: loopback up, no duplicate address detection
/// (addresses of a new veth would be unusable for a second).
pub(crate) fn prepare(host: &Host) -> Result<()> {
    for scope in ["all", "default"] {
        host.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
    }
    netlink(host, |handle| async move { Ok(handle.link().set(up("lo")?).execute().await?) })
}

/// Settings of a router. It looks at no source address: a flow may come back by another way than it went. It sends
/// every ICMP error: a test shall not wait for one that was saved because a probe got the last.
pub(crate) fn prepare_router(host: &Host) -> Result<()> {
    host.forward()?;
    host.sysctl("net/ipv4/icmp_ratelimit", "0")?;
    host.sysctl("net/ipv6/icmp/ratelimit", "0")?;
    for scope in ["all", "default"] {
        host.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
    }
    Ok(())
}

/// Lays a veth pair between two hosts and configures both ends.
pub(crate) fn cable(one: End<'_>, other: End<'_>) -> Result<()> {
    let target = other.host.namespace().raw_fd();
    netlink(one.host, |handle| async move {
        let veth = LinkVeth::new(one.device, other.device).build();
        handle.link().add(veth).execute().await.with_context(|| format!("veth {}", one.device))?;
        let moved = LinkUnspec::new_with_index(index(other.device)?).setns_by_fd(target).build();
        handle.link().set(moved).execute().await.with_context(|| format!("moving {}", other.device))?;
        Ok(())
    })?;
    for end in [one, other] {
        netlink(end.host, |handle| async move {
            for (address, prefix) in end.addresses {
                handle.address().add(index(end.device)?, *address, *prefix).execute().await?;
            }
            Ok(handle.link().set(up(end.device)?).execute().await?)
        })?;
    }
    Ok(())
}

/// Sends everything else over `gateways`.
pub(crate) fn default_routes(host: &Host, gateways: &[IpAddr]) -> Result<()> {
    netlink(host, |handle| async move {
        for gateway in gateways {
            let any: IpAddr = if gateway.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let route =
                RouteMessageBuilder::<IpAddr>::new().destination_prefix(any, 0)?.gateway(*gateway)?.build();
            handle
                .route()
                .add(route)
                .execute()
                .await
                .with_context(|| format!("default route via {gateway}"))?;
        }
        Ok(())
    })
}

/// Adds (or removes) rules by which a router loses all packets from and to `addresses`, in silence.
///
/// Not a link set down: a router whose route vanished answers with ICMP "unreachable", which is the opposite of
/// silence, and IPv6 addresses would be lost with the link.
pub(crate) fn black_hole(router: &Host, addresses: &[IpAddr], lost: bool) -> Result<()> {
    netlink(router, |handle| async move {
        for rule in addresses.iter().flat_map(|address| [rule(*address, true), rule(*address, false)]) {
            if lost {
                let mut request = handle.rule().add();
                *request.message_mut() = rule;
                request.execute().await?;
            } else {
                handle.rule().del(rule).execute().await?;
            }
        }
        Ok(())
    })
}

/// `from|to ADDRESS blackhole`
fn rule(address: IpAddr, from: bool) -> RuleMessage {
    let mut rule = RuleMessage::default();
    let length = if address.is_ipv4() { 32 } else { 128 };
    rule.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    rule.header.action = RuleAction::Blackhole;
    if from {
        rule.header.src_len = length;
        rule.attributes.push(RuleAttribute::Source(address));
    } else {
        rule.header.dst_len = length;
        rule.attributes.push(RuleAttribute::Destination(address));
    }
    rule
}
