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
    service::{Draft, MemberDraft},
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
        }
        unserved_vips(service);
    }
}

/// Only if no member is a name: what those have is known when they are resolved.
fn unserved_vips(service: &Draft<'_>) {
    let literal = |member: &MemberDraft<'_>| {
        member.endpoint.as_ref()?.value.literal().map(|literal| MemberAddresses::from_iter([literal]))
    };
    let Some(members) = service.members.iter().map(literal).collect::<Option<Vec<_>>>() else { return };
    for vip in service.vips.iter().filter(|vip| !members.is_empty() && is_unserved(vip.value, &members)) {
        service.section.fault(vip.at, unserved(vip.value));
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

/// A flow keeps its IP version, so a VIP needs a member that has an address of its own version.
///
/// One is enough: the contract's example has VIPs of both versions and a member with a literal IPv4 endpoint.
pub(super) fn is_unserved(vip: SocketAddr, members: &[MemberAddresses]) -> bool {
    members.iter().all(|member| !member.serves(vip))
}

/// What is said of a VIP that [is unserved](is_unserved).
pub(super) fn unserved(vip: SocketAddr) -> Complaint {
    let family = family(vip);
    Complaint::new(
        format!("VIP {vip} needs a member with an {family} address, and none has one"),
        format!("give a member an endpoint that has one, or remove the {family} VIP"),
    )
}

/// `IPv4` or `IPv6`
pub(super) fn family(address: SocketAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}
