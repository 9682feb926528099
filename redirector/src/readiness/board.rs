//! Where looks are put up, and what they come to is read.
//!
//! Nothing of it decides anything, and so it is shared instead of owned by the agent's one task: who looks puts it up, who
//! answers a question reads it, both for some microseconds.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    Look, Readiness, judge,
    judge::{Found, MemberLooks},
};

/// The newest looks at all members of all services. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<HashMap<String, Service>>>);

/// In the order in which the members were made known.
#[derive(Debug, Default)]
struct Service {
    members: Vec<MemberLooks>,
    judged: Vec<Readiness>,
}

impl Board {
    /// A member of a service has these addresses from now on. Looks at others are forgotten.
    pub fn expect(&self, service: &str, member: &str, addresses: &[SocketAddr]) {
        let mut services = self.lock();
        let service = services.entry(service.to_owned()).or_default();
        let mut known = match service.members.iter_mut().find(|known| known.member == member) {
            Some(known) => std::mem::take(&mut known.looks),
            None => {
                service.members.push(MemberLooks { member: member.to_owned(), looks: Vec::new() });
                Vec::new()
            }
        };
        let looks = addresses.iter().map(|address| {
            let at = known.iter().position(|(known, _)| known == address);
            (*address, at.and_then(|at| known.swap_remove(at).1))
        });
        let looks = looks.collect();
        if let Some(known) = service.members.iter_mut().find(|known| known.member == member) {
            known.looks = looks;
        }
        service.judged = judge(&service.members);
    }

    /// Forgets every member that `is_kept` does not name, by service and member.
    pub fn retain(&self, is_kept: impl Fn(&str, &str) -> bool) {
        self.lock().retain(|name, service| {
            service.members.retain(|member| is_kept(name, &member.member));
            service.judged = judge(&service.members);
            !service.members.is_empty()
        });
    }

    /// Puts a look up, unless the address is the member's no more. What is new because of it, and what is over, is logged.
    pub fn put(&self, name: &str, member: &str, address: SocketAddr, look: Look) {
        let mut services = self.lock();
        let Some(service) = services.get_mut(name) else { return };
        let members = service.members.iter_mut().filter(|known| known.member == member);
        let Some((_, seen)) = members.flat_map(|known| &mut known.looks).find(|(known, _)| *known == address)
        else {
            return;
        };
        *seen = Some(look);
        let judged = judge(&service.members);
        for ((member, before), now) in service.members.iter().zip(&service.judged).zip(&judged) {
            log(name, &member.member, &before.findings, &now.findings);
        }
        service.judged = judged;
    }

    /// What is known of a member; nothing, if nobody expects it.
    #[must_use]
    pub fn readiness(&self, service: &str, member: &str) -> Readiness {
        let services = self.lock();
        let found = services.get(service).and_then(|service| {
            let at = service.members.iter().position(|known| known.member == member)?;
            service.judged.get(at).cloned()
        });
        found.unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Service>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log(service: &str, member: &str, before: &[Found], now: &[Found]) {
    let without =
        |some: &[Found], found: &Found| !some.iter().any(|known| known.finding.is_like(&found.finding));
    for found in now.iter().filter(|found| without(before, found)) {
        let (kind, severity) = (found.finding.kind(), found.finding.severity());
        tracing::warn!(service, member, kind, %severity, "not ready for applications: {found}");
    }
    for found in before.iter().filter(|found| without(now, found)) {
        tracing::info!(service, member, kind = found.finding.kind(), "no longer found: {found}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::readiness::{Finding, facts::Facts};

    fn look() -> Look {
        Look {
            at: SystemTime::now(),
            is_inside: true,
            certificate_expires: None,
            findings: vec![Finding::MaxclientsReached],
            unknown: Vec::new(),
            facts: Facts::default(),
        }
    }

    #[test]
    fn only_addresses_that_a_member_has_are_known() {
        let board = Board::default();
        let [one, two] = ["192.0.2.1:1", "192.0.2.2:1"].map(|text| text.parse().unwrap());
        board.put("orders", "paris", one, look());
        assert_eq!(board.readiness("orders", "paris"), Readiness::default());
        board.expect("orders", "paris", &[one]);
        board.put("orders", "paris", two, look());
        assert_eq!(board.readiness("orders", "paris").ready, None);
        board.put("orders", "paris", one, look());
        assert_eq!(board.readiness("orders", "paris").ready, Some(false));
        // Kept, and not enough any more.
        board.expect("orders", "paris", &[two, one]);
        assert_eq!(board.readiness("orders", "paris").findings[0].at, [one]);
        board.expect("orders", "paris", &[two]);
        assert_eq!(board.readiness("orders", "paris"), Readiness::default());
        board.retain(|_, member| member != "paris");
        board.put("orders", "paris", two, look());
        assert_eq!(board.readiness("orders", "paris"), Readiness::default());
    }
}
