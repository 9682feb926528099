//! The probers that run: one for each check of each address, coming and going with the addresses.

use std::{collections::HashMap, net::SocketAddr};

use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};

use super::tasks::Tasks;
use crate::{
    model::{CheckId, MemberId, Pace, Service, ServiceId},
    probe::{self, Report, Target},
};

/// All of them.
pub(super) struct Probers {
    running: HashMap<(ServiceId, MemberId), HashMap<SocketAddr, Running>>,
    reports: mpsc::Sender<Report>,
}

/// The probers of one address.
struct Running {
    /// Tells them which interval holds.
    pace: watch::Sender<Pace>,
    checks: Vec<AbortHandle>,
}

impl Probers {
    /// None yet. They will report to `reports`.
    pub(super) fn new(reports: mpsc::Sender<Report>) -> Self {
        Self { running: HashMap::new(), reports }
    }

    /// Probes these addresses of a member from now on, and no others. One that was probed already goes on.
    pub(super) fn set(
        &mut self,
        service_id: ServiceId,
        member_id: MemberId,
        service: &Service,
        addresses: &[SocketAddr],
        tasks: &mut Tasks,
    ) {
        let running = self.running.entry((service_id, member_id)).or_default();
        running.retain(|address, probers| {
            let stays = addresses.contains(address);
            if !stays {
                probers.checks.iter().for_each(AbortHandle::abort);
            }
            stays
        });
        for address in addresses {
            running.entry(*address).or_insert_with(|| {
                let (sender, pace) = watch::channel(Pace::Fast);
                let checks = service.members[member_id.0].checks.iter().enumerate().map(|(index, check)| {
                    let target = Target {
                        service: service_id,
                        member: member_id,
                        check_id: CheckId(index),
                        check: check.clone(),
                        address: *address,
                        access: service.members[member_id.0].access.clone(),
                    };
                    let member = &service.members[member_id.0].name;
                    let name =
                        format!("the prober of {address} of member {member:?} of service {:?}", service.name);
                    tasks.spawn(name, probe::run(target, pace.clone(), self.reports.clone()))
                });
                Running { checks: checks.collect(), pace: sender }
            });
        }
    }

    /// Every prober of a member probes once, now. One that is probing already does not begin another one: its answer is as new.
    pub(super) fn ask(&self, service: ServiceId, member: MemberId) {
        for running in self.running.get(&(service, member)).into_iter().flat_map(HashMap::values) {
            // The same pace said again.
            running.pace.send_modify(|_| ());
        }
    }

    /// The probers of an address go over to another interval.
    pub(super) fn pace(&self, service: ServiceId, member: MemberId, address: SocketAddr, pace: Pace) {
        let running = self.running.get(&(service, member)).and_then(|member| member.get(&address));
        if let Some(running) = running {
            running.pace.send_replace(pace);
        }
    }
}
