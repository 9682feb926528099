//! What the looks at all members of a service come to: each for itself, and compared with the others.

use std::{fmt, net::SocketAddr, time::SystemTime};

use super::{Finding, Look, Severity, facts::Facts};

/// The newest look at every address of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberLooks {
    /// Its name.
    pub member: String,
    /// `None`: not yet.
    pub looks: Vec<(SocketAddr, Option<Look>)>,
}

/// How ready a member is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// `Some(false)`: applications are sure to fail there. `Some(true)`: nothing of that kind was seen. `None`: it was not
    /// looked at yet, or the checks were not let in.
    pub ready: Option<bool>,
    /// Problems first.
    pub findings: Vec<Found>,
    /// What could not be looked at, and why, in words.
    pub unknown: Vec<String>,
    /// When the newest look ended.
    pub looked_at: Option<SystemTime>,
    /// When the first certificate that it showed is over; `None`: none was seen.
    pub certificate_expires: Option<SystemTime>,
}

/// A finding, and where it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub finding: Finding,
    /// Some addresses of the member and not all; empty: all of them.
    pub at: Vec<SocketAddr>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.finding.fmt(f)?;
        if self.at.is_empty() {
            return Ok(());
        }
        let at: Vec<_> = self.at.iter().map(ToString::to_string).collect();
        write!(f, " (at {})", at.join(", "))
    }
}

/// The readiness of each member, in their order.
#[must_use]
pub fn judge(members: &[MemberLooks]) -> Vec<Readiness> {
    let peers: Vec<_> = members.iter().map(Peer::of).collect();
    members.iter().enumerate().map(|(own, member)| of_member(member, compare(&peers, own))).collect()
}

fn of_member(member: &MemberLooks, compared: Vec<Finding>) -> Readiness {
    let mut findings: Vec<Found> = Vec::new();
    let mut unknown: Vec<String> = Vec::new();
    let looks = || member.looks.iter().filter_map(|(address, look)| Some((*address, look.as_ref()?)));
    for (address, look) in looks() {
        for finding in &look.findings {
            match findings.iter_mut().find(|found| found.finding.is_like(finding)) {
                Some(found) => found.at.push(address),
                None => findings.push(Found { finding: finding.clone(), at: vec![address] }),
            }
        }
        unknown
            .extend(look.unknown.iter().filter(|why| !unknown.contains(*why)).cloned().collect::<Vec<_>>());
    }
    let all = member.looks.len();
    findings.iter_mut().filter(|found| found.at.len() == all).for_each(|found| found.at.clear());
    findings.extend(compared.into_iter().map(|finding| Found { finding, at: Vec::new() }));
    findings.sort_by_key(|found| std::cmp::Reverse(found.finding.severity()));

    let hurts = findings.iter().any(|found| found.finding.severity() == Severity::Problem);
    let inside = looks().filter(|(_, look)| look.is_inside).count();
    Readiness {
        ready: if hurts { Some(false) } else { (all > 0 && inside == all).then_some(true) },
        findings,
        unknown,
        looked_at: looks().map(|(_, look)| look.at).max(),
        certificate_expires: looks().filter_map(|(_, look)| look.certificate_expires).min(),
    }
}

impl Finding {
    /// The same but for what changes from look to look.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Maxclients { .. }, Self::Maxclients { .. }) => true,
            (
                Self::CertificateExpires { of, at, .. },
                Self::CertificateExpires { of: other, at: then, .. },
            ) => of == other && at == then,
            _ => self == other,
        }
    }
}

/// A member as the others see it.
struct Peer<'a> {
    name: &'a str,
    facts: Facts,
}

impl<'a> Peer<'a> {
    /// Its addresses are servers of one database: the first that says something speaks for all.
    fn of(member: &'a MemberLooks) -> Self {
        let mut facts = Facts::default();
        for look in member.looks.iter().filter_map(|(_, look)| look.as_ref()) {
            let seen = look.facts.clone();
            facts = Facts {
                version: facts.version.or(seen.version),
                maxmemory: facts.maxmemory.or(seen.maxmemory),
                maxmemory_policy: facts.maxmemory_policy.or(seen.maxmemory_policy),
                crdt_guid: facts.crdt_guid.or(seen.crdt_guid),
                may_get: match (facts.may_get, seen.may_get) {
                    (Some(false), _) | (_, Some(false)) => Some(false),
                    (known, new) => known.or(new),
                },
            };
        }
        Self { name: &member.member, facts }
    }
}

/// What is different at the member `own`.
fn compare(peers: &[Peer<'_>], own: usize) -> Vec<Finding> {
    [
        maxmemory(peers, own),
        maxmemory_policy(peers, own),
        version(peers, own),
        crdt_guid(peers, own),
        permission(peers, own),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Less than nine tenths of what the largest has.
fn maxmemory(peers: &[Peer<'_>], own: usize) -> Option<Finding> {
    let room = |bytes: u64| if bytes == 0 { u64::MAX } else { bytes };
    let own = peers[own].facts.maxmemory?;
    let known = peers.iter().filter_map(|peer| Some((peer.facts.maxmemory?, peer.name)));
    // Of equals the first.
    let (most, at) = known.rev().max_by_key(|(bytes, _)| room(*bytes))?;
    (room(own) < room(most) / 10 * 9).then(|| Finding::Maxmemory { own, most, at: at.to_owned() })
}

fn maxmemory_policy(peers: &[Peer<'_>], own: usize) -> Option<Finding> {
    let (own, usual, at) = unusual(peers, own, |facts| facts.maxmemory_policy.as_ref())?;
    Some(Finding::MaxmemoryPolicy { own: own.clone(), usual: usual.clone(), at })
}

fn crdt_guid(peers: &[Peer<'_>], own: usize) -> Option<Finding> {
    let (own, usual, at) = unusual(peers, own, |facts| facts.crdt_guid.as_ref())?;
    Some(Finding::CrdtGuid { own: own.clone(), usual: usual.clone(), at })
}

/// Older by its first two numbers. Patches differ for days in every fleet, and applications see nothing of them.
fn version(peers: &[Peer<'_>], own: usize) -> Option<Finding> {
    let known = peers.iter().filter_map(|peer| {
        let version = peer.facts.version.as_deref()?;
        Some((major_and_minor(version)?, version, peer.name))
    });
    // Of equals the first.
    let (newest, text, at) = known.rev().max_by_key(|(numbers, ..)| *numbers)?;
    let own = peers[own].facts.version.as_deref()?;
    (major_and_minor(own)? < newest).then(|| Finding::Version {
        own: own.to_owned(),
        newest: text.to_owned(),
        at: at.to_owned(),
    })
}

fn major_and_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn permission(peers: &[Peer<'_>], own: usize) -> Option<Finding> {
    let refused = peers[own].facts.may_get == Some(false);
    let everywhere = peers.iter().all(|peer| peer.facts.may_get != Some(true));
    refused.then_some(Finding::Permission { everywhere })
}

/// What this member has, what most have, and who these are; `None`: it has what most have. Of two values that equally
/// many have, that of the first member counts as usual.
fn unusual<'a, T: PartialEq>(
    peers: &'a [Peer<'a>],
    own: usize,
    of: impl Fn(&'a Facts) -> Option<&'a T>,
) -> Option<(&'a T, &'a T, String)> {
    let own = of(&peers[own].facts)?;
    let having = |value: &T| -> Vec<&str> {
        peers.iter().filter(|peer| of(&peer.facts) == Some(value)).map(|peer| peer.name).collect()
    };
    let values = peers.iter().filter_map(|peer| of(&peer.facts));
    let mut usual = own;
    let mut most = 0;
    for value in values {
        let number = having(value).len();
        if number > most {
            (usual, most) = (value, number);
        }
    }
    (usual != own).then(|| (own, usual, having(usual).join(", ")))
}

#[cfg(test)]
mod tests;
