//! How a configuration fits this host. Asks, and changes nothing.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use anyhow::Result;

use super::{
    network::{Network, SingleRoute},
    routes::View,
};
use crate::{
    config::{Misfit, Resolved},
    kinds,
    model::{Config, MemberId, Service, ServiceId},
    users,
};

/// What this host says to a configuration.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Everything that it contradicts.
    pub misfits: Vec<Misfit>,
    /// How it reaches every address of every member.
    pub paths: Vec<Path>,
}

/// How this host reaches an address of a member.
#[derive(Clone, Debug)]
pub struct Path {
    /// Whose it is.
    pub service: ServiceId,
    /// Whose it is.
    pub member: MemberId,
    /// The address.
    pub address: SocketAddr,
    /// In words; empty: no route leads there.
    pub way: String,
    /// Largest packet, in bytes.
    pub mtu: Option<u32>,
    /// The source addresses of flows to it.
    pub sources: Vec<IpAddr>,
    /// How many flows it can carry from this host: source ports of the member side, for each source address.
    pub flows: u64,
}

/// Compares a configuration with this host. Needs no privileges, but a tokio runtime.
///
/// # Errors
/// When the kernel does not answer.
pub async fn survey(config: &Config, resolved: &Resolved) -> Result<Survey> {
    let network = Network::connect()?;
    let own = network.addresses().await?;
    let mut survey = Survey { misfits: vip_misfits(&network, config, &own).await?, paths: Vec::new() };
    for (uplink, name) in config.datapath.uplinks.iter().enumerate() {
        if network.find(name).await?.is_none() {
            survey.misfits.push(Misfit::NoUplink { uplink });
        }
    }
    for source in config.datapath.source_addresses.iter().filter(|source| !own.contains(source)) {
        survey.misfits.push(Misfit::NoSource { source: *source });
    }
    if let Some(group) = &config.agent.operator_group
        && users::is_no_group(group).await
    {
        survey.misfits.push(Misfit::NoOperatorGroup);
    }
    survey.misfits.extend(kinds::wrong(&config.agent));
    survey.misfits.extend(same_servers(config, resolved));
    let members = |(at, service): (usize, &Service)| {
        (0..service.members.len()).map(move |number| (ServiceId(at), MemberId(number)))
    };
    let members: Vec<_> = config.services.iter().enumerate().flat_map(members).collect();
    let all = members.iter().flat_map(|(service, member)| resolved.addresses(*service, *member).iter());
    let view = View::look(&network, &config.datapath, all.map(|address| address.ip())).await?;
    for (service, member) in members {
        for address in resolved.addresses(service, member).iter() {
            let path = path(config, &view, service, member, address);
            if path.way.is_empty() {
                survey.misfits.push(Misfit::NoRoute { service, member, address });
            }
            survey.paths.push(path);
        }
    }
    Ok(survey)
}

/// Members of one service that lead to where an earlier one leads: each is named once.
fn same_servers(config: &Config, resolved: &Resolved) -> Vec<Misfit> {
    let mut misfits = Vec::new();
    for (at, members) in config.services.iter().map(|service| &service.members).enumerate() {
        let service = ServiceId(at);
        let (mut endpoints, mut addresses) = (HashMap::new(), HashMap::new());
        for (number, written) in members.iter().enumerate() {
            let member = MemberId(number);
            let by_endpoint = endpoints.get(&written.endpoint).map(|earlier| (*earlier, None));
            let own = resolved.addresses(service, member);
            let by_address =
                || own.iter().find_map(|address| Some((*addresses.get(&address)?, Some(address))));
            if let Some((earlier, address)) = by_endpoint.or_else(by_address) {
                misfits.push(Misfit::SameServer { service, member, earlier, address });
            }
            endpoints.entry(&written.endpoint).or_insert(member);
            own.iter().for_each(|address| _ = addresses.entry(address).or_insert(member));
        }
    }
    misfits
}

fn path(config: &Config, view: &View, service: ServiceId, member: MemberId, address: SocketAddr) -> Path {
    let way = view.way(address.ip()).unwrap_or_default();
    // A member on this host sees the VIP as its client.
    let vips = config.services[service.0].vips.iter().filter(|vip| vip.is_ipv4() == address.is_ipv4());
    let sources = if way.local { vips.map(SocketAddr::ip).collect() } else { way.sources };
    let ports = config.datapath.port_range;
    let ports = u64::from(ports.last - ports.first) + 1;
    Path {
        service,
        member,
        address,
        way: view.describe(address.ip()),
        mtu: view.mtu(address.ip()),
        flows: ports * sources.len().max(1) as u64,
        sources,
    }
}

async fn vip_misfits(network: &Network, config: &Config, own: &HashSet<IpAddr>) -> Result<Vec<Misfit>> {
    let device = network.find(&config.datapath.device).await?;
    let routes = network.routes_to_single_addresses().await?;
    let mut misfits = Vec::new();
    for (at, from) in config.services.iter().enumerate() {
        let service = ServiceId(at);
        for (vip, address) in from.vips.iter().enumerate() {
            let ours = |route: &SingleRoute| device.is_some() && route.device == device;
            let foreign = routes.iter().find(|route| route.to == address.ip() && !ours(route));
            if own.contains(&address.ip()) {
                misfits.push(Misfit::VipIsOwn { service, vip });
            } else if let Some(route) = foreign {
                let device = match route.device {
                    Some(index) => network.device(index).await?.map(|link| link.name),
                    None => None,
                };
                misfits.push(Misfit::VipIsRouted { service, vip, device });
            }
        }
    }
    Ok(misfits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, MemberAddresses};

    #[test]
    fn members_that_lead_to_the_same_server_are_named_once_each() {
        let names = ["paris.example", "london.example", "alias.example", "paris.example", "dublin.example"];
        let member = |name: &str, number: usize| {
            format!("[[service.member]]\nname = \"m{number}\"\nendpoint = \"{name}:6379\"\n")
        };
        let members: String = names.iter().enumerate().map(|(number, name)| member(name, number)).collect();
        let service =
            |name, vip| format!("[[service]]\nname = \"{name}\"\nvips = [\"{vip}:6379\"]\n{members}");
        // Another service may have the same members.
        let text = service("orders", "10.255.0.1") + &service("carts", "10.255.0.2");
        let loaded = config::parse(std::path::Path::new("redirector.toml"), &text).unwrap();
        let addresses: Vec<_> = ["10.2.0.1", "10.2.0.2", "10.2.0.2", "10.2.0.4", "10.2.0.5"]
            .map(|ip| MemberAddresses::from_iter([SocketAddr::new(ip.parse().unwrap(), 6379)]))
            .into();
        let resolved = Resolved::of(vec![addresses.clone(), addresses]);
        let misfits = same_servers(&loaded.config, &resolved);
        assert!(misfits.iter().all(Misfit::is_warning), "{misfits:?}");
        let warnings = loaded.warnings(&misfits);
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        for (warning, says) in warnings.iter().zip([
            "member \"m2\" of service \"orders\": the endpoint leads to 10.2.0.2:6379, as that of member \"m1\" does; correct",
            "member \"m3\" of service \"orders\": the endpoint is that of member \"m0\" too; correct",
            "member \"m2\" of service \"carts\"",
            "member \"m3\" of service \"carts\"",
        ]) {
            assert!(warning.contains(says), "{warning}");
        }
    }
}
