//! The probers that run: one for each check of each address, coming and going with the addresses and the checks.

use std::{collections::HashMap, net::SocketAddr};

use tokio::sync::{mpsc, watch};

use super::{
    heartbeats::Heartbeats,
    moves::Moves,
    tasks::{Owned, Tasks},
};
use crate::{
    model::{CheckId, MemberId, Pace, Service, ServiceId},
    probe::{self, ProberId, Report, Target, Told, heartbeat},
};

/// All of them.
pub(super) struct Probers {
    /// By service and member.
    members: Vec<Vec<Addresses>>,
    /// What each prober probes, by the numbers of the configuration that holds now.
    subjects: HashMap<ProberId, Subject>,
    heartbeats: Heartbeats,
    reports: mpsc::Sender<Report>,
    started: u64,
}

type Addresses = HashMap<SocketAddr, Running>;

/// What a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) service: ServiceId,
    pub(super) member: MemberId,
    pub(super) address: SocketAddr,
    pub(super) check: CheckId,
}

/// The probers of one address.
struct Running {
    /// Tells them which interval holds, and when to probe at once.
    told: watch::Sender<Told>,
    /// In the order of the checks.
    probers: Vec<Prober>,
}

/// A prober that runs, until it is dropped.
struct Prober {
    target: Target,
    _task: Owned,
}

impl Running {
    fn new() -> Self {
        Self { told: watch::channel(Pace::Fast.into()).0, probers: Vec::new() }
    }
}

impl Probers {
    /// None yet. They will report to `reports`.
    pub(super) fn new(reports: mpsc::Sender<Report>) -> Self {
        let (members, subjects, heartbeats) = (Vec::new(), HashMap::new(), Heartbeats::default());
        Self { members, subjects, heartbeats, reports, started: 0 }
    }

    /// Services and members have other numbers from now on. Those that are gone are probed no more. To be followed by
    /// [`Self::set`] for each member.
    pub(super) fn rename(&mut self, moves: &Moves, services: &[Service]) {
        self.heartbeats.retain(services);
        let mut before: Vec<Vec<Option<Addresses>>> =
            self.members.drain(..).map(|members| members.into_iter().map(Some).collect()).collect();
        self.members = moves.each_service(|old, members| {
            let mut take = |member: &Option<MemberId>| before[old?.0].get_mut((*member)?.0)?.take();
            members.iter().map(|member| take(member).unwrap_or_default()).collect()
        });
        // Filled again by `set`: whatever is said by those that are gone is about nothing.
        self.subjects.clear();
    }

    /// Probes these addresses of a member from now on, with the checks that it has, and no others. A prober that would do
    /// the same as before goes on.
    pub(super) fn set(
        &mut self,
        service_id: ServiceId,
        member_id: MemberId,
        service: &Service,
        addresses: &[SocketAddr],
        tasks: &mut Tasks,
    ) {
        self.heartbeats.set(service, member_id, addresses, tasks);
        let mut before = std::mem::take(&mut self.members[service_id.0][member_id.0]);
        let member = &service.members[member_id.0];
        for address in addresses {
            let mut running = before.remove(address).unwrap_or_else(Running::new);
            let mut earlier = std::mem::take(&mut running.probers);
            for (index, check) in member.checks.iter().enumerate() {
                let target = Target {
                    prober: ProberId::default(),
                    service: service_id,
                    member: member_id,
                    check_id: CheckId(index),
                    check: check.clone(),
                    address: *address,
                    access: member.access.clone(),
                };
                let same = earlier.iter().position(|prober| does_the_same(&prober.target, &target));
                let prober = match same {
                    Some(at) => earlier.swap_remove(at),
                    None => self.start(target, service, &running.told, tasks),
                };
                let subject = Subject {
                    service: service_id,
                    member: member_id,
                    address: *address,
                    check: CheckId(index),
                };
                self.subjects.insert(prober.target.prober, subject);
                running.probers.push(prober);
            }
            self.forget(&earlier);
            self.members[service_id.0][member_id.0].insert(*address, running);
        }
        before.values().for_each(|gone| self.forget(&gone.probers));
    }

    /// What a report is about; `None`: nothing that is probed any more.
    pub(super) fn subject(&self, prober: ProberId) -> Option<Subject> {
        self.subjects.get(&prober).copied()
    }

    /// Every prober of a member probes once, now. One that is probing already does so when that has ended: its answer may be older than
    /// the question.
    pub(super) fn ask(&self, service: ServiceId, member: MemberId) {
        for running in self.members[service.0][member.0].values() {
            running.told.send_modify(|told| told.asked += 1);
        }
    }

    /// Every prober of one address does the same.
    pub(super) fn ask_address(&self, service: ServiceId, member: MemberId, address: SocketAddr) {
        if let Some(running) = self.members[service.0][member.0].get(&address) {
            running.told.send_modify(|told| told.asked += 1);
        }
    }

    /// Every prober of a member that a signal concerns does the same.
    pub(super) fn look(&self, service: ServiceId, member: MemberId) {
        for running in self.members[service.0][member.0].values() {
            running.told.send_modify(|told| told.looks += 1);
        }
    }

    /// The probers of an address go over to another interval.
    pub(super) fn pace(&self, service: ServiceId, member: MemberId, address: SocketAddr, pace: Pace) {
        if let Some(running) = self.members[service.0][member.0].get(&address) {
            running.told.send_modify(|told| told.pace = pace);
        }
    }

    fn start(
        &mut self,
        target: Target,
        service: &Service,
        told: &watch::Sender<Told>,
        tasks: &mut Tasks,
    ) -> Prober {
        self.started += 1;
        let target = Target { prober: ProberId(self.started), ..target };
        let member = &service.members[target.member.0].name;
        let name =
            format!("the prober of {} of member {member:?} of service {:?}", target.address, service.name);
        let (told, reports) = (told.subscribe(), self.reports.clone());
        let task = match self.heartbeats.said(service, &target.check) {
            Some(said) => {
                tasks.spawn_owned(name, heartbeat::relay(target.clone(), member.clone(), said, told, reports))
            }
            None => tasks.spawn_owned(name, probe::run(target.clone(), told, reports)),
        };
        Prober { target, _task: task }
    }

    fn forget(&mut self, gone: &[Prober]) {
        for prober in gone {
            self.subjects.remove(&prober.target.prober);
        }
    }
}

/// Whether two probers differ in nothing but their numbers.
fn does_the_same(one: &Target, other: &Target) -> bool {
    let Target { prober, service, member, check_id, .. } = *other;
    Target { prober, service, member, check_id, ..one.clone() } == *other
}
