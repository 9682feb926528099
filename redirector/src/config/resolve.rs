//! Endpoints → addresses, asked of the host's resolver once, at start.

use std::{
    io,
    net::{SocketAddr, SocketAddrV4, SocketAddrV6, ToSocketAddrs as _},
    thread,
};

use super::{
    address,
    conflict::{VipOwners, missing_families},
    error::{Complaint, Error, Fault},
};
use crate::model::{Config, Endpoint, MemberId, ServiceId};

/// The addresses of every member of a [`Config`].
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

/// The first usable address of each IP version. There is one for each version that the service's VIPs have.
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
/// # Errors
/// Every member whose endpoint does not resolve, has no address of an IP version that a VIP of its service
/// has, or has the address of a VIP.
pub fn resolve(config: &Config) -> Result<Resolved, Error> {
    let answers: Vec<Vec<Answer>> = thread::scope(|scope| {
        let lookups: Vec<Vec<_>> = config
            .services
            .iter()
            .map(|service| {
                service.members.iter().map(|member| scope.spawn(|| look_up(&member.endpoint))).collect()
            })
            .collect();
        let join = |lookup: thread::ScopedJoinHandle<'_, Answer>| {
            lookup.join().unwrap_or_else(|_| Err(io::Error::other("the resolver panicked")))
        };
        lookups.into_iter().map(|lookups| lookups.into_iter().map(join).collect()).collect()
    });
    judge(config, answers)
}

pub(super) type Answer = io::Result<Vec<SocketAddr>>;

fn look_up(endpoint: &Endpoint) -> Answer {
    Ok((endpoint.host.as_str(), endpoint.port).to_socket_addrs()?.collect())
}

/// Chooses from the resolver's answers and compares them with the VIPs.
pub(super) fn judge(config: &Config, answers: Vec<Vec<Answer>>) -> Result<Resolved, Error> {
    let subjects: Vec<_> =
        config.services.iter().map(|service| format!("service {:?}", service.name)).collect();
    let vips = VipOwners::new(
        (config.services.iter().zip(&subjects))
            .flat_map(|(service, subject)| service.vips.iter().map(move |vip| (*vip, subject.as_str()))),
    );
    let mut faults = Vec::new();
    let mut services = Vec::new();
    for ((service, subject), answers) in config.services.iter().zip(&subjects).zip(answers) {
        let mut members = Vec::new();
        for (member, answer) in service.members.iter().zip(answers) {
            let endpoint = member.endpoint.to_string();
            let (addresses, complaints) = match choose(&endpoint, answer) {
                Ok(addresses) => {
                    let mut complaints = vips.collisions(&endpoint, &addresses);
                    complaints.extend(missing_families(&endpoint, &addresses, service.vips.iter().copied()));
                    (addresses, complaints)
                }
                Err(complaint) => (MemberAddresses::default(), vec![complaint]),
            };
            let subject = format!("member {:?} of {subject}", member.name);
            faults.extend(complaints.into_iter().map(|complaint| Fault::of(subject.clone(), complaint)));
            members.push(addresses);
        }
        services.push(members);
    }
    Error::of(faults).map_or(Ok(Resolved { services }), Err)
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
