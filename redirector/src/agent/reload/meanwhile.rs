//! What became known of members' addresses while a change was being prepared: it is newer than what the change was
//! prepared with, and must not be lost to it.

use crate::{
    agent::moves::Moves,
    config::{self, Resolved},
    model::{Config, MemberId, ServiceId},
};

/// The addresses under the configuration that holds: when the preparation began, and now.
pub(super) struct Meanwhile<'a> {
    pub(super) config: &'a Config,
    pub(super) began: &'a Resolved,
    pub(super) now: &'a Resolved,
}

impl Meanwhile<'_> {
    /// `prepared`, which are the addresses under `next`, with those that changed meanwhile; `None`: nothing to prepare for.
    ///
    /// A member with another endpoint has nothing of its old one. Addresses that it cannot have under `next` (one is a new
    /// VIP's) stay out: what follows its name asks again, and says so.
    pub(super) fn merged(&self, moves: &Moves, next: &Config, prepared: &Resolved) -> Option<Resolved> {
        let mut merged = prepared.clone();
        let mut services = (0..next.services.len()).map(ServiceId);
        moves.each_service(|old, members| {
            let Some((service, old)) = services.next().zip(old) else { return };
            for (number, was) in members.iter().enumerate() {
                let Some(was) = *was else { continue };
                let member = MemberId(number);
                let is_changed = self.now.addresses(old, was) != self.began.addresses(old, was);
                let endpoint = |config: &Config, service: ServiceId, member: MemberId| {
                    config.services[service.0].members[member.0].endpoint.clone()
                };
                if !is_changed || endpoint(self.config, old, was) != endpoint(next, service, member) {
                    continue;
                }
                if let Ok(addresses) = config::accept(next, service, self.now.addresses(old, was).as_slice())
                {
                    merged.replace(service, member, addresses);
                }
            }
        });
        (merged != *prepared).then_some(merged)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::config::{MemberAddresses, tests::configuration};

    const PARIS: MemberId = MemberId(0);
    const DUBLIN: MemberId = MemberId(1);

    /// Members that go by names.
    fn named(services: &[(&str, &[&str])]) -> Config {
        let mut config = configuration(services);
        for service in &mut config.services {
            for member in &mut service.members {
                member.endpoint.host = format!("{}.test", member.name);
            }
        }
        config
    }

    fn addresses(ips: &[&str]) -> MemberAddresses {
        ips.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 6379)).collect()
    }

    /// The addresses of members that go by names, all the same.
    fn resolved(config: &Config, ips: &[&str]) -> Resolved {
        let of_service =
            |service: &crate::model::Service| service.members.iter().map(|_| addresses(ips)).collect();
        Resolved::of(config.services.iter().map(of_service).collect())
    }

    #[test]
    fn what_changed_meanwhile_holds_and_nothing_else() {
        let old = named(&[("carts", &["paris"]), ("orders", &["paris", "dublin"])]);
        // Everything has another number.
        let next = named(&[("stock", &["paris"]), ("orders", &["dublin", "paris"]), ("carts", &["paris"])]);
        let moves = Moves::between(&old, &next);
        let began = resolved(&old, &["203.0.113.1"]);
        let prepared = resolved(&next, &["203.0.113.2"]);
        let mut now = began.clone();
        let merged = |now: &Resolved, next: &Config| {
            Meanwhile { config: &old, began: &began, now }.merged(&moves, next, &prepared)
        };
        assert_eq!(merged(&now, &next), None);

        now.replace(ServiceId(1), PARIS, addresses(&["203.0.113.9"]));
        let mut expected = prepared.clone();
        expected.replace(ServiceId(1), DUBLIN, addresses(&["203.0.113.9"]));
        assert_eq!(merged(&now, &next), Some(expected));

        // What both found out need not be prepared for again.
        now.replace(ServiceId(1), PARIS, addresses(&["203.0.113.2"]));
        assert_eq!(merged(&now, &next), None);

        // Another endpoint; an address that is a VIP now.
        now.replace(ServiceId(1), PARIS, addresses(&["203.0.113.9"]));
        let mut moved = next.clone();
        moved.services[1].members[1].endpoint.host = "oslo.test".to_owned();
        assert_eq!(merged(&now, &moved), None);
        let mut taken = next.clone();
        taken.services[2].vips = vec!["203.0.113.9:1".parse().unwrap()];
        assert_eq!(merged(&now, &taken), None);
    }
}
