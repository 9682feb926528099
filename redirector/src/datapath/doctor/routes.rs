//! The network of this host: the way to each member, subnets, and the settings that decide who may use a VIP.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result};
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
};

use super::super::{
    netlink,
    network::{Network, RouteTo},
};
use crate::{
    config::Resolved,
    model::{Config, MemberId, ServiceId},
};

/// How this host reaches one address of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The member's service.
    pub service: ServiceId,
    /// The member.
    pub member: MemberId,
    /// One of its addresses.
    pub address: SocketAddr,
    /// `None`: it does not reach it.
    pub route: Option<Reached>,
}

/// What a route says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// The devices that it leads to, by name: of equal-cost paths all.
    pub devices: Vec<String>,
    /// The source addresses that it prefers.
    pub sources: Vec<IpAddr>,
    /// Largest packet, as far as this host knows, in bytes.
    pub mtu: u32,
    /// Whether the address is one of this host's own.
    pub local: bool,
}

/// The ways to all members.
///
/// # Errors
/// When the kernel does not answer.
pub async fn ways(config: &Config, resolved: &Resolved) -> Result<Vec<Way>> {
    let network = Network::connect()?;
    let mut ways = Vec::new();
    for (at, from) in config.services.iter().enumerate() {
        for number in 0..from.members.len() {
            let (service, member) = (ServiceId(at), MemberId(number));
            for address in resolved.addresses(service, member).iter() {
                let route = match network.route_to(address.ip()).await? {
                    Some(route) => reached(&network, route).await?,
                    None => None,
                };
                ways.push(Way { service, member, address, route });
            }
        }
    }
    Ok(ways)
}

/// `None`: its devices went away in between.
async fn reached(network: &Network, route: RouteTo) -> Result<Option<Reached>> {
    let mut links = Vec::new();
    for index in route.devices {
        links.extend(network.device(index).await?);
    }
    let mtus = links.iter().map(|link| link.mtu).chain(route.mtu);
    Ok(mtus.min().map(|mtu| Reached {
        devices: links.iter().map(|link| link.name.clone()).collect(),
        sources: route.sources,
        mtu,
        local: route.local,
    }))
}

/// The addresses that a device is directly connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Name of the device.
    pub device: String,
    /// Any address of it.
    pub address: IpAddr,
    /// How many bits all of them share.
    pub prefix: u8,
}

impl Subnet {
    /// Whether an address is one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let differs = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (own.to_bits() ^ other.to_bits()).leading_zeros(),
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits() ^ other.to_bits()).leading_zeros(),
            _ => return false,
        };
        differs >= u32::from(self.prefix)
    }
}

/// The subnets of all devices; an address alone is none.
///
/// # Errors
/// When the kernel does not answer.
pub async fn subnets() -> Result<Vec<Subnet>> {
    let handle = netlink::connect(false).context("cannot open a netlink socket")?;
    let network = Network::connect()?;
    let mut names = BTreeMap::new();
    let mut subnets = Vec::new();
    let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let listed = netlink::list(&handle, question, |answer| match answer {
        RouteNetlinkMessage::NewAddress(message) => Some(message),
        _ => None,
    });
    for message in listed.await.context("cannot list the addresses")? {
        let (index, prefix) = (message.header.index, message.header.prefix_len);
        let address = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        });
        let Some(address) = address.filter(|address| prefix < if address.is_ipv4() { 32 } else { 128 })
        else {
            continue;
        };
        if let std::collections::btree_map::Entry::Vacant(entry) = names.entry(index) {
            entry.insert(network.device(index).await?.map(|link| link.name));
        }
        if let Some(device) = names[&index].clone() {
            subnets.push(Subnet { device, address, prefix });
        }
    }
    Ok(subnets)
}

/// Which devices of this list the host has.
///
/// # Errors
/// When the kernel does not answer.
pub async fn existing(devices: &[String]) -> Result<Vec<String>> {
    let network = Network::connect()?;
    let mut found = Vec::new();
    for device in devices {
        if network.has_device(device).await? {
            found.push(device.clone());
        }
    }
    Ok(found)
}

/// A number below `/proc/sys/net`; `None`: there is none, in this kernel or this network namespace.
#[must_use]
pub fn setting(name: &str) -> Option<i64> {
    fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?.trim().parse().ok()
}

/// A range below `/proc/sys/net`, first and last.
#[must_use]
pub fn port_range(name: &str) -> Option<(u16, u16)> {
    let text = fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?;
    let mut ends = text.split_whitespace().filter_map(|end| end.parse().ok());
    Some((ends.next()?, ends.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_contains_what_shares_its_prefix() {
        let subnet = |address: &str, prefix| Subnet {
            device: "eth0".into(),
            address: address.parse().unwrap(),
            prefix,
        };
        let contains = |subnet: &Subnet, address: &str| subnet.contains(address.parse().unwrap());
        let v4 = subnet("10.1.0.2", 24);
        assert!(contains(&v4, "10.1.0.200") && !contains(&v4, "10.1.1.2") && !contains(&v4, "::1"));
        assert!(contains(&subnet("0.0.0.0", 0), "10.1.1.2"));
        let v6 = subnet("fd01::2", 64);
        assert!(contains(&v6, "fd01::ffff") && !contains(&v6, "fd01:0:0:1::"));
    }
}
