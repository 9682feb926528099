//! Endpoints → addresses, asked of the host's resolver once, at start.

use std::{
    io,
    net::{SocketAddr, SocketAddrV4, SocketAddrV6, ToSocketAddrs as _},
    thread,
};

use super::{
    Loaded, address,
    conflict::{VipOwners, family, is_unserved, unserved},
    error::{Complaint, Error},
};
use crate::model::{Endpoint, MemberId, ServiceId};

/// The addresses of every member of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    services: Vec<Vec<MemberAddresses>>,
}

impl Resolved {
    /// The addresses of one member of the configuration that was resolved; panics for ids of another one.
    #[must_use]
    pub fn addresses(&self, service: ServiceId, member: MemberId) -> MemberAddresses {
        self.services[service.0][member.0]
    }
}

/// The first usable address of each IP version. There is at least one, and for each VIP of a service there is a member
/// with an address of the VIP's version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberAddresses {
    /// IPv4.
    pub v4: Option<SocketAddrV4>,
    /// IPv6.
    pub v6: Option<SocketAddrV6>,
}

impl MemberAddresses {
    /// Those that there are, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        self.v4.map(SocketAddr::from).into_iter().chain(self.v6.map(SocketAddr::from))
    }

    /// Without addresses of an IP version that no VIP has: nothing is ever sent there, so no route to them is needed
    /// either. A member that would lose all of them keeps them.
    fn of_use_to(self, vips: &[SocketAddr]) -> Self {
        let used = Self {
            v4: self.v4.filter(|_| vips.iter().any(SocketAddr::is_ipv4)),
            v6: self.v6.filter(|_| vips.iter().any(SocketAddr::is_ipv6)),
        };
        if used == Self::default() { self } else { used }
    }

    /// Whether there is an address of the VIP's IP version.
    #[must_use]
    pub fn serves(&self, vip: SocketAddr) -> bool {
        if vip.is_ipv4() { self.v4.is_some() } else { self.v6.is_some() }
    }
}

impl FromIterator<SocketAddr> for MemberAddresses {
    fn from_iter<I: IntoIterator<Item = SocketAddr>>(addresses: I) -> Self {
        let mut first = Self::default();
        for address in addresses {
            match address {
                SocketAddr::V4(v4) => _ = first.v4.get_or_insert(v4),
                SocketAddr::V6(v6) => _ = first.v6.get_or_insert(v6),
            }
        }
        first
    }
}

/// Resolves the endpoints of all members, at the same time. Blocks as long as the host's resolver does.
///
/// Warns of members that cannot serve every VIP of their service.
///
/// # Errors
/// Every member whose endpoint does not resolve or has the address of a VIP, and every VIP whose IP version no member
/// of its service has.
pub fn resolve(loaded: &Loaded) -> Result<Resolved, Error> {
    let answers: Vec<Vec<Answer>> = thread::scope(|scope| {
        let lookups: Vec<Vec<_>> = (loaded.config.services.iter())
            .map(|service| {
                service.members.iter().map(|member| scope.spawn(|| look_up(&member.endpoint))).collect()
            })
            .collect();
        let join = |lookup: thread::ScopedJoinHandle<'_, Answer>| {
            lookup.join().unwrap_or_else(|_| Err(io::Error::other("the resolver panicked")))
        };
        lookups.into_iter().map(|lookups| lookups.into_iter().map(join).collect()).collect()
    });
    let resolved = judge(loaded, answers)?;
    for text in partial_members(loaded, &resolved) {
        tracing::warn!("{text}");
    }
    Ok(resolved)
}

pub(super) type Answer = io::Result<Vec<SocketAddr>>;

fn look_up(endpoint: &Endpoint) -> Answer {
    Ok((endpoint.host.as_str(), endpoint.port).to_socket_addrs()?.collect())
}

/// Chooses from the resolver's answers and compares them with the VIPs.
pub(super) fn judge(loaded: &Loaded, answers: Vec<Vec<Answer>>) -> Result<Resolved, Error> {
    let config = &loaded.config;
    let subjects: Vec<_> =
        (0..config.services.len()).map(|at| loaded.service_subject(ServiceId(at))).collect();
    let vips = VipOwners::new(
        (config.services.iter().zip(&subjects))
            .flat_map(|(service, subject)| service.vips.iter().map(move |vip| (*vip, subject.as_str()))),
    );
    let mut faults = Vec::new();
    let mut services = Vec::new();
    for (at, (service, answers)) in config.services.iter().zip(answers).enumerate() {
        let id = ServiceId(at);
        let mut members = Vec::new();
        for (number, (member, answer)) in service.members.iter().zip(answers).enumerate() {
            let endpoint = member.endpoint.to_string();
            let (addresses, complaints) = match choose(&endpoint, answer) {
                Ok(addresses) => (addresses, vips.collisions(&endpoint, &addresses)),
                Err(complaint) => (MemberAddresses::default(), vec![complaint]),
            };
            let fault = |complaint| loaded.member_fault(id, MemberId(number), complaint);
            faults.extend(complaints.into_iter().map(fault));
            members.push(addresses);
        }
        // A member without any address is a fault already, and might have had the one that is missed.
        if members.iter().all(|member| *member != MemberAddresses::default()) {
            let unserved_vips =
                service.vips.iter().enumerate().filter(|(_, vip)| is_unserved(**vip, &members));
            faults.extend(unserved_vips.map(|(number, vip)| loaded.vip_fault(id, number, unserved(*vip))));
        }
        services.push(members.into_iter().map(|member| member.of_use_to(&service.vips)).collect());
    }
    Error::of(faults).map_or(Ok(Resolved { services }), Err)
}

/// What is legal and yet worth a warning: members that lack the IP version of a VIP which another member has.
pub(super) fn partial_members(loaded: &Loaded, resolved: &Resolved) -> Vec<String> {
    let mut texts = Vec::new();
    for (at, service) in loaded.config.services.iter().enumerate() {
        for number in 0..service.members.len() {
            let (service_id, member) = (ServiceId(at), MemberId(number));
            let addresses = resolved.addresses(service_id, member);
            for vip in service.vips.iter().filter(|vip| !addresses.serves(**vip)) {
                let (subject, family) = (loaded.member_subject(service_id, member), family(*vip));
                texts.push(format!(
                    "{subject} has no {family} address: connections to VIP {vip} are refused while it is active; \
                     give it an endpoint that has one, or put the {family} VIP into a service of its own"
                ));
            }
        }
    }
    texts
}

/// The addresses that one answer gives, without those that no member can have: some resolvers answer
/// 0.0.0.0 for names that they block.
fn choose(endpoint: &str, answer: Answer) -> Result<MemberAddresses, Complaint> {
    let next = "check the name or give an address";
    let answer = answer
        .map_err(|error| Complaint::new(format!("endpoint {endpoint:?} does not resolve ({error})"), next))?;
    let canonical = answer.iter().map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()));
    let addresses: MemberAddresses = canonical.filter(|a| address::unusable(a.ip()).is_none()).collect();
    if addresses == MemberAddresses::default() {
        let cause = match answer.first() {
            None => format!("endpoint {endpoint:?} resolves to no address"),
            Some(first) => {
                format!("endpoint {endpoint:?} resolves to {}, which no member can have", first.ip())
            }
        };
        return Err(Complaint::new(cause, next));
    }
    Ok(addresses)
}
