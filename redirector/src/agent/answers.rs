//! The last good addresses of every name, on disk: an agent that starts while the resolver fails goes on with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
};

use crate::{
    config::{Answers, Resolved},
    kept::{self, Writer},
    model::{Config, MemberId, ServiceId},
};

const FILE: &str = "addresses.json";

/// What earlier agents kept in this `state_dir`, by host name.
#[must_use]
pub fn read(state_dir: &Path) -> Answers {
    kept::read(&state_dir.join(FILE))
}

/// Keeps them.
#[derive(Debug)]
pub(super) struct Keeper(Writer<Answers>);

impl Keeper {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self(Writer::new(&state_dir.join(FILE), "the addresses of names are"))
    }

    /// Keeps the addresses of all endpoints that are names.
    pub(super) fn keep(&self, config: &Config, resolved: &Resolved) {
        let answers = of(config, resolved);
        if !answers.is_empty() {
            self.0.write(answers);
        }
    }
}

/// The addresses of all endpoints that are names.
pub(super) fn of(config: &Config, resolved: &Resolved) -> Answers {
    let mut hosts: BTreeMap<_, BTreeSet<IpAddr>> = BTreeMap::new();
    for (at, service) in config.services.iter().enumerate() {
        for (number, member) in service.members.iter().enumerate() {
            if member.endpoint.literal().is_some() {
                continue;
            }
            let addresses = resolved.addresses(ServiceId(at), MemberId(number));
            // Services with VIPs of different IP versions keep different ones.
            let host = hosts.entry(member.endpoint.host.clone()).or_default();
            host.extend(addresses.iter().map(|address| address.ip()));
        }
    }
    hosts.into_iter().map(|(host, ips)| (host, ips.into_iter().collect())).collect()
}
