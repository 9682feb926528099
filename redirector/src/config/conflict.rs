//! What is wrong only when different places of the file are compared.
//!
//! The rules about addresses hold for literal endpoints here and for resolved ones in [`super::resolve`].

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use super::{
    error::Complaint,
    read::{Section, Written},
    resolve::MemberAddresses,
    service::Draft,
};

pub(super) fn check(services: &[Draft<'_>]) {
    let names = services.iter().map(|service| (&service.section, service.name.as_ref()));
    unique_names("services", names);
    unique_vips(services);
    let vips = VipOwners::new(
        services
            .iter()
            .flat_map(|service| service.vips.iter().map(|vip| (vip.value, service.section.subject()))),
    );
    for service in services {
        let names = service.members.iter().map(|member| (&member.section, member.name.as_ref()));
        unique_names("members of a service", names);
        for member in &service.members {
            let Some(endpoint) = &member.endpoint else { continue };
            let Some(literal) = endpoint.value.literal() else { continue };
            let addresses = MemberAddresses::from_iter([literal]);
            let shown = endpoint.value.to_string();
            for complaint in vips.collisions(&shown, &addresses) {
                member.section.fault(endpoint.at, complaint);
            }
            let own = service.vips.iter().map(|vip| vip.value);
            for complaint in missing_families(&shown, &addresses, own) {
                member.section.fault(endpoint.at, complaint);
            }
        }
    }
}

fn unique_names<'a>(what: &str, named: impl Iterator<Item = (&'a Section<'a>, Option<&'a Written<String>>)>) {
    let mut first = HashMap::new();
    for (section, name) in named {
        let Some(name) = name else { continue };
        if let Some(at) = first.get(&name.value) {
            let place = section.document().place(*at);
            let cause = format!("the name is used twice, first at {place}");
            section.fault(name.at, Complaint::new(cause, format!("give {what} different names")));
        } else {
            first.insert(&name.value, name.at);
        }
    }
}

/// Within one service, reading the array has found it already.
fn unique_vips(services: &[Draft<'_>]) {
    let mut first: HashMap<SocketAddr, (&Draft<'_>, usize)> = HashMap::new();
    for service in services {
        for vip in &service.vips {
            if let Some((owner, at)) = first.get(&vip.value) {
                let place = service.section.document().place(*at);
                let cause = format!(
                    "VIP {} is used twice, first by {} at {place}",
                    vip.value,
                    owner.section.subject()
                );
                let next = "give each service an address or port of its own";
                service.section.fault(vip.at, Complaint::new(cause, next));
            } else {
                first.insert(vip.value, (service, vip.at));
            }
        }
    }
}

/// Every address that is a VIP's, on whatever port, and the service that has it.
pub(super) struct VipOwners<'a>(HashMap<IpAddr, &'a str>);

impl<'a> VipOwners<'a> {
    pub(super) fn new(vips: impl Iterator<Item = (SocketAddr, &'a str)>) -> Self {
        Self(vips.map(|(vip, owner)| (vip.ip(), owner)).collect())
    }

    /// A VIP's address belongs to Redirector on every port: a member there could not be reached.
    pub(super) fn collisions(&self, endpoint: &str, addresses: &MemberAddresses) -> Vec<Complaint> {
        let hit = |address: SocketAddr| {
            let ip = address.ip();
            let owner = self.0.get(&ip)?;
            let cause = format!("endpoint {endpoint:?} has the address of a VIP of {owner} ({ip})");
            Some(Complaint::new(cause, "give the VIP an address that no member and no host has"))
        };
        addresses.iter().filter_map(hit).collect()
    }
}

/// A flow keeps its IP version, so a member needs an address of each that its service's VIPs have.
pub(super) fn missing_families(
    endpoint: &str,
    addresses: &MemberAddresses,
    vips: impl Iterator<Item = SocketAddr>,
) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for vip in vips {
        let (missing, family) = match vip {
            SocketAddr::V4(_) => (addresses.v4.is_none(), "IPv4"),
            SocketAddr::V6(_) => (addresses.v6.is_none(), "IPv6"),
        };
        let complaint = Complaint::new(
            format!("endpoint {endpoint:?} has no {family} address, but VIP {vip} needs one"),
            format!("give a host name that has one, or put the {family} VIP into a service of its own"),
        );
        if missing {
            complaints.push(complaint);
        }
    }
    complaints
}
