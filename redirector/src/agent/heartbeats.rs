//! The heartbeats that run: one for each such check of a service. Its members come and go with their addresses; what it
//! says is reported by relays, one in the place of each prober ([`super::probers`]).

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use tokio::sync::watch;

use super::tasks::{Owned, Tasks};
use crate::{
    model::{Access, Check, CheckKind, MemberId, Service},
    probe::heartbeat::{self, Addresses, Heartbeat, Said},
};

/// All of them, by the names of service and check.
#[derive(Default)]
pub(super) struct Heartbeats {
    running: HashMap<(String, String), Running>,
}

/// One that runs, until it is dropped.
struct Running {
    check: Check,
    members: Vec<(String, Access)>,
    /// Of each member.
    addresses: Vec<Addresses>,
    /// Outlives the task, so that relays need not know when it is started anew.
    said: Arc<watch::Sender<Said>>,
    _task: Owned,
}

impl Heartbeats {
    /// A member of this service has these addresses from now on. Its heartbeats that do not run yet, or have other members or
    /// settings than they should, are started.
    pub(super) fn set(
        &mut self,
        service: &Service,
        member: MemberId,
        addresses: &[SocketAddr],
        tasks: &mut Tasks,
    ) {
        for check in &service.checks {
            let Some(heartbeat) = Heartbeat::of(service, check) else { continue };
            let key = (service.name.clone(), check.name.clone());
            let members = members(service);
            let same =
                self.running.get(&key).is_some_and(|old| old.check == *check && old.members == members);
            if !same {
                let old = self.running.remove(&key);
                self.running
                    .insert(key.clone(), start(service, check, heartbeat, members, old.as_ref(), tasks));
            }
            if let Some(running) = self.running.get(&key) {
                running.addresses[member.0].send_replace(addresses.to_vec());
            }
        }
    }

    /// Ends those of services and checks that are not there any more.
    pub(super) fn retain(&mut self, services: &[Service]) {
        self.running.retain(|(service, check), _| {
            let service = services.iter().find(|known| known.name == *service);
            service.is_some_and(|service| {
                service.checks.iter().any(|known| known.name == *check && is_heartbeat(known))
            })
        });
    }

    /// What the heartbeat of this check says; `None`: it is another kind, now at least.
    pub(super) fn said(&self, service: &Service, check: &Check) -> Option<watch::Receiver<Said>> {
        let key = is_heartbeat(check).then(|| (service.name.clone(), check.name.clone()))?;
        let running = self.running.get(&key)?;
        Some(running.said.subscribe())
    }
}

fn is_heartbeat(check: &Check) -> bool {
    matches!(check.kind, CheckKind::Heartbeat(_))
}

fn members(service: &Service) -> Vec<(String, Access)> {
    service.members.iter().map(|member| (member.name.clone(), member.access.clone())).collect()
}

/// Starts a heartbeat, over what an `old` one of the same name knew of addresses.
fn start(
    service: &Service,
    check: &Check,
    (heartbeat, addresses): (Heartbeat, Vec<Addresses>),
    members: Vec<(String, Access)>,
    old: Option<&Running>,
    tasks: &mut Tasks,
) -> Running {
    for ((name, _), sender) in members.iter().zip(&addresses) {
        let old = old.and_then(|old| {
            let at = old.members.iter().position(|(known, _)| known == name)?;
            Some(old.addresses[at].borrow().clone())
        });
        sender.send_replace(old.unwrap_or_default());
    }
    let said = old.map_or_else(|| Arc::new(watch::Sender::default()), |old| Arc::clone(&old.said));
    let name = format!("the heartbeat {:?} of service {:?}", check.name, service.name);
    let task = tasks.spawn_owned(name, heartbeat::run(heartbeat, Arc::clone(&said)));
    Running { check: check.clone(), members, addresses, said, _task: task }
}
