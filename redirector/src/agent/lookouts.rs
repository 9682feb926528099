//! Who looks at the readiness of members: one task for each, coming and going with the member's addresses.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
};

use super::tasks::{Owned, Tasks};
use crate::{
    model::{Config, MemberId, Service},
    readiness::{self, Board, Target},
};

/// All of them, and what they saw.
#[derive(Default)]
pub(super) struct Lookouts {
    board: Board,
    /// By the names of service and member, which outlive their numbers.
    running: HashMap<(String, String), Running>,
}

/// One that runs, until it is dropped.
struct Running {
    target: Target,
    addresses: Vec<SocketAddr>,
    _task: Owned,
}

impl Lookouts {
    /// Looks at these addresses of a member from now on. Where nothing has changed, what runs goes on.
    pub(super) fn set(
        &mut self,
        service: &Service,
        member: MemberId,
        addresses: &[SocketAddr],
        tasks: &mut Tasks,
    ) {
        let target = Target::of(service, member);
        let name = (target.service.clone(), target.member.clone());
        if let Some(running) = self.running.get(&name)
            && running.target == target
            && running.addresses == addresses
        {
            return;
        }
        self.board.expect(&target.service, &target.member, addresses);
        let what = format!(
            "what looks at the readiness of member {:?} of service {:?}",
            target.member, target.service
        );
        let addresses = addresses.to_vec();
        let task =
            tasks.spawn_owned(what, readiness::run(target.clone(), addresses.clone(), self.board.clone()));
        self.running.insert(name, Running { target, addresses, _task: task });
    }

    /// Nobody looks any more at members that `config` does not have, and what was seen there is forgotten.
    pub(super) fn keep(&mut self, config: &Config) {
        let known: HashSet<_> = (config.services.iter())
            .flat_map(|service| {
                service.members.iter().map(|member| (service.name.as_str(), member.name.as_str()))
            })
            .collect();
        self.running.retain(|(service, member), _| known.contains(&(service.as_str(), member.as_str())));
        self.board.retain(|service, member| known.contains(&(service, member)));
    }

    /// What they saw.
    pub(super) fn board(&self) -> &Board {
        &self.board
    }
}
