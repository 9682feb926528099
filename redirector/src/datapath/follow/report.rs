//! What an operator is told of a network that changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::Uplinks;
use crate::datapath::routes::{View, Wanted};

/// What was told last.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// The way to each address, in words; empty: there is none.
    ways: BTreeMap<IpAddr, String>,
    /// Configured source addresses that this host does not have.
    missing_sources: BTreeSet<IpAddr>,
}

impl Report {
    /// What was told before: at the start, or with a reload.
    pub(super) fn new(wanted: &Wanted, view: &View) -> Self {
        let mut ways = BTreeMap::new();
        for address in wanted.addresses.iter().flatten().flatten() {
            ways.insert(address.ip(), view.describe(address.ip()));
        }
        Self { ways, missing_sources: view.missing_sources(&wanted.config.datapath) }
    }

    /// Which ways have changed.
    pub(super) fn routes(&mut self, wanted: &Wanted, view: &View) {
        let config = &wanted.config;
        let mut ways = BTreeMap::new();
        for (service, addresses) in config.services.iter().zip(&wanted.addresses) {
            for (member, addresses) in service.members.iter().zip(addresses) {
                for address in addresses.iter().map(SocketAddr::ip) {
                    let now = view.describe(address);
                    let before = self.ways.get(&address);
                    if before != Some(&now) && !ways.contains_key(&address) {
                        let before = before.map_or("", String::as_str);
                        changed(&service.name, &member.name, address, before, &now);
                    }
                    ways.insert(address, now);
                }
            }
        }
        self.ways = ways;
        let missing = view.missing_sources(&config.datapath);
        for source in missing.difference(&self.missing_sources) {
            tracing::warn!(
                "the source address {source} is no address of this host any more: used when it is back"
            );
        }
        for source in self.missing_sources.difference(&missing) {
            tracing::info!("the source address {source} is one of this host now");
        }
        self.missing_sources = missing;
    }

    /// Which uplinks have come and gone.
    pub(super) fn uplinks(&self, before: &Uplinks, now: &Uplinks) {
        for (index, uplink) in now.iter().filter(|(index, _)| !before.contains_key(index)) {
            tracing::info!(device = uplink.name, index, "the device is an uplink now");
        }
        for (index, uplink) in before.iter().filter(|(index, _)| !now.contains_key(index)) {
            tracing::warn!(device = uplink.name, index, "the uplink is gone");
        }
    }
}

fn changed(service: &str, member: &str, address: IpAddr, before: &str, now: &str) {
    if now.is_empty() {
        tracing::warn!(service, member, %address, before, "this host has no route to the address any more");
    } else if before.is_empty() {
        tracing::info!(service, member, %address, now, "this host has a route to the address");
    } else {
        tracing::info!(service, member, %address, before, now, "the address is reached another way");
    }
}
