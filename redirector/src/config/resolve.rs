//! Endpoints → addresses: what a member can have of what the resolver answers, at start and later.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::task::JoinSet;

use super::{
    Loaded, address,
    conflict::{VipOwners, family, is_unserved, unserved},
    error::{Complaint, Error},
};
use crate::{
    model::{Config, Endpoint, MAX_ADDRESSES, MemberId, ServiceId},
    resolve::Resolver,
};

/// The addresses of every member of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    services: Vec<Vec<MemberAddresses>>,
}

impl Resolved {
    /// These, by service and member.
    #[cfg(test)]
    pub(crate) fn of(services: Vec<Vec<MemberAddresses>>) -> Self {
        Self { services }
    }

    /// The addresses of one member of the configuration that was resolved; panics for ids of another one.
    #[must_use]
    pub fn addresses(&self, service: ServiceId, member: MemberId) -> &MemberAddresses {
        &self.services[service.0][member.0]
    }

    /// A member has other addresses from now on; panics for ids of another configuration.
    pub fn replace(&mut self, service: ServiceId, member: MemberId, addresses: MemberAddresses) {
        self.services[service.0][member.0] = addresses;
    }

    /// A service has one member more, the last one; panics for ids of another configuration.
    pub fn push(&mut self, service: ServiceId, addresses: MemberAddresses) {
        self.services[service.0].push(addresses);
    }

    /// A service has this member no more; panics for ids of another configuration.
    pub fn remove(&mut self, service: ServiceId, member: MemberId) {
        self.services[service.0].remove(member.0);
    }
}

/// The usable addresses of a member, in order, none twice, at most [`MAX_ADDRESSES`]. Of a member of a [`Resolved`]
/// there is at least one, and for each VIP of a service there is a member with an address of the VIP's version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberAddresses {
    addresses: Vec<SocketAddr>,
    /// How many more there were.
    pub left_out: usize,
}

impl MemberAddresses {
    /// All of them, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = SocketAddr> + use<'_> {
        self.addresses.iter().copied()
    }

    /// The same as a slice.
    #[must_use]
    pub fn as_slice(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Whether there is an address of the VIP's IP version.
    #[must_use]
    pub fn serves(&self, vip: SocketAddr) -> bool {
        self.addresses.iter().any(|address| address.is_ipv4() == vip.is_ipv4())
    }

    fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Without addresses of an IP version that no VIP has: nothing is ever sent there, so no route to them is needed
    /// either. A member that would lose all of them keeps them.
    ///
    /// What is more than a member can have is left out: the last ones, so that every host leaves out the same. Neither
    /// version takes the room of the other.
    fn of_use_to(self, vips: &[SocketAddr]) -> Self {
        let is_used = |address: &SocketAddr| vips.iter().any(|vip| vip.is_ipv4() == address.is_ipv4());
        let mut used: Vec<_> = self.iter().filter(is_used).collect();
        if used.is_empty() {
            used = self.addresses;
        }
        let v4 = used.iter().filter(|address| address.is_ipv4()).count();
        let v6 = used.len() - v4;
        let most_v4 = (MAX_ADDRESSES / 2).max(MAX_ADDRESSES.saturating_sub(v6)).min(v4);
        let most_v6 = (MAX_ADDRESSES - most_v4).min(v6);
        let taken = used[..most_v4].iter().chain(&used[v4..v4 + most_v6]).copied();
        Self { addresses: taken.collect(), left_out: used.len() - most_v4 - most_v6 }
    }
}

impl FromIterator<SocketAddr> for MemberAddresses {
    fn from_iter<I: IntoIterator<Item = SocketAddr>>(addresses: I) -> Self {
        let in_order: BTreeSet<_> = addresses.into_iter().collect();
        Self { addresses: in_order.into_iter().collect(), left_out: 0 }
    }
}

impl fmt::Display for MemberAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, address) in self.iter().enumerate() {
            f.write_str(if number > 0 { ", " } else { "" })?;
            address.fmt(f)?;
        }
        Ok(())
    }
}

/// The last good addresses of names, by host.
pub type Answers = BTreeMap<String, Vec<IpAddr>>;

/// Resolves the endpoints of all members, at the same time. Takes as long as the host's resolver does.
///
/// Where the resolver fails, what is in `earlier` holds, with a warning: an agent that is started again in the middle of
/// such a failure is needed more than ever.
///
/// Warns of members that cannot serve every VIP of their service, or have more addresses than are used.
///
/// # Errors
/// Every member whose endpoint does not resolve or has the address of a VIP, and every VIP whose IP version no member
/// of its service has.
pub async fn resolve(
    loaded: &Loaded,
    resolver: &Arc<Resolver>,
    earlier: &Answers,
) -> Result<Resolved, Error> {
    let services = &loaded.config.services;
    let mut lookups = JoinSet::new();
    for (at, service) in services.iter().enumerate() {
        for (number, member) in service.members.iter().enumerate() {
            let (resolver, endpoint) = (Arc::clone(resolver), member.endpoint.clone());
            let earlier = earlier.get(&endpoint.host).cloned().unwrap_or_default();
            lookups.spawn(async move { (at, number, look_up(&resolver, &endpoint, &earlier).await) });
        }
    }
    let stopped = || Err(io::Error::other("the resolver stopped"));
    let mut answers: Vec<Vec<Answer>> =
        services.iter().map(|service| service.members.iter().map(|_| stopped()).collect()).collect();
    while let Some(lookup) = lookups.join_next().await {
        if let Ok((at, number, answer)) = lookup {
            answers[at][number] = answer;
        }
    }
    let resolved = judge(loaded, answers)?;
    for text in warnings(loaded, &resolved) {
        tracing::warn!("{text}");
    }
    Ok(resolved)
}

/// Judges an answer that comes while the agent runs, for a member of `service`.
///
/// # Errors
/// When no member can have any of the addresses, none has the IP version of any VIP of the service, or one of them is a VIP's.
pub fn accept(config: &Config, service: ServiceId, answer: &[SocketAddr]) -> Result<MemberAddresses, String> {
    let addresses = usable(answer).map_err(|cause| format!("it {cause}"))?;
    let vips: BTreeSet<IpAddr> =
        config.services.iter().flat_map(|service| service.vips.iter().map(SocketAddr::ip)).collect();
    if let Some(vip) = addresses.iter().find(|address| vips.contains(&address.ip())) {
        return Err(format!("it resolves to {}, which is the address of a VIP", vip.ip()));
    }
    let vips = &config.services[service.0].vips;
    // Its flows would be ended for a slip in a zone file, and no failover would follow: the member is up where nobody goes.
    if !vips.iter().any(|vip| addresses.serves(*vip)) {
        return Err("it resolves to no address of the IP version of any VIP of its service".into());
    }
    Ok(addresses.of_use_to(vips))
}

pub(super) type Answer = io::Result<Vec<SocketAddr>>;

async fn look_up(resolver: &Arc<Resolver>, endpoint: &Endpoint, earlier: &[IpAddr]) -> Answer {
    if let Some(literal) = endpoint.literal() {
        return Ok(vec![literal]);
    }
    let answer = resolver.look_up(&endpoint.host).await;
    let ips = match answer.after(earlier) {
        Ok(ips) => ips,
        Err(error) if earlier.is_empty() => return Err(io::Error::other(error)),
        Err(error) => {
            tracing::warn!(endpoint = %endpoint, error, "does not resolve, its addresses of earlier hold");
            earlier.to_vec()
        }
    };
    Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, endpoint.port)).collect())
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
                Ok(addresses) => {
                    let collisions = vips.collisions(&endpoint, &addresses);
                    (addresses, collisions)
                }
                Err(complaint) => (MemberAddresses::default(), vec![complaint]),
            };
            let fault = |complaint| loaded.member_fault(id, MemberId(number), complaint);
            faults.extend(complaints.into_iter().map(fault));
            members.push(addresses);
        }
        // A member without any address is a fault already, and might have had the one that is missed.
        if !members.iter().any(MemberAddresses::is_empty) {
            let unserved_vips =
                service.vips.iter().enumerate().filter(|(_, vip)| is_unserved(**vip, &members));
            faults.extend(unserved_vips.map(|(number, vip)| loaded.vip_fault(id, number, unserved(*vip))));
        }
        services.push(members.into_iter().map(|member| member.of_use_to(&service.vips)).collect());
    }
    Error::of(faults).map_or(Ok(Resolved { services }), Err)
}

/// What is legal and yet worth a warning: members that lack the IP version of a VIP which another member has, and
/// addresses that are not used.
pub(super) fn warnings(loaded: &Loaded, resolved: &Resolved) -> Vec<String> {
    let mut texts = Vec::new();
    for (at, service) in loaded.config.services.iter().enumerate() {
        for number in 0..service.members.len() {
            let (service_id, member) = (ServiceId(at), MemberId(number));
            let addresses = resolved.addresses(service_id, member);
            let subject = loaded.member_subject(service_id, member);
            for vip in service.vips.iter().filter(|vip| !addresses.serves(**vip)) {
                let family = family(*vip);
                texts.push(format!(
                    "{subject} has no {family} address: connections to VIP {vip} are refused while it is active; \
                     give it an endpoint that has one, or put the {family} VIP into a service of its own"
                ));
            }
            if addresses.left_out > 0 {
                texts.push(format!(
                    "{subject} has more than {MAX_ADDRESSES} addresses: {} of them get no flows; give it an endpoint with \
                     fewer",
                    addresses.left_out
                ));
            }
        }
    }
    texts
}

/// The addresses that one answer at start gives.
fn choose(endpoint: &str, answer: Answer) -> Result<MemberAddresses, Complaint> {
    let next = "check the name or give an address";
    let answer = answer
        .map_err(|error| Complaint::new(format!("endpoint {endpoint:?} does not resolve ({error})"), next))?;
    usable(&answer).map_err(|cause| Complaint::new(format!("endpoint {endpoint:?} {cause}"), next))
}

/// Those that a member can have: some resolvers answer 0.0.0.0 for names that they block.
fn usable(answer: &[SocketAddr]) -> Result<MemberAddresses, String> {
    let canonical = answer.iter().map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()));
    let addresses: MemberAddresses = canonical.filter(|a| address::unusable(a.ip()).is_none()).collect();
    if !addresses.is_empty() {
        return Ok(addresses);
    }
    Err(match answer.first() {
        None => "resolves to no address".to_owned(),
        Some(first) => format!("resolves to {}, which no member can have", first.ip()),
    })
}
