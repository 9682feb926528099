//! The agent: wires probes, core and datapath together.
//!
//! ```text
//! probe ──report──▶ core (decide) ──action──▶ datapath (one store, then the sweep)
//!   ▲                  │
//!   └──────pace────────┘
//! ```
//!
//! One task owns all state and waits for whatever comes first: a report, a deadline of a core, a request over the
//! control socket, a signal. It never blocks: what reads files or many flows runs elsewhere.

mod clock;
mod history;
mod report;
mod tasks;

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use self::{clock::Clock, history::History, tasks::Tasks};
use crate::{
    config::Resolved,
    control::server::{self, Request},
    datapath::{Claim, Datapath},
    decide::{Action, Core, Resumed, Switch},
    model::{CheckId, Config, FlowPolicy, MemberId, Pace, ServiceId},
    probe::{self, Report, Target},
};

/// Reports and requests that may wait. Probers wait when the agent lags; nothing is lost.
const QUEUE: usize = 64;

/// A running agent.
struct Agent {
    config: Arc<Config>,
    resolved: Arc<Resolved>,
    datapath: Datapath,
    clock: Clock,
    history: History,
    cores: Vec<Core>,
    /// Tells the probers of a member which interval holds.
    paces: HashMap<(ServiceId, MemberId), watch::Sender<Pace>>,
}

/// Runs until SIGTERM or SIGINT. Needs a tokio runtime on one thread.
pub async fn run(config: Config, resolved: Resolved, kernel_log: bool) -> Result<()> {
    // Before anything is made: a signal from here on is a clean stop.
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;

    let claim = Claim::take(&config.datapath).await?;
    // Before anything else is made: where another agent answers, nothing changes.
    let listener = match server::bind(&config.agent.control_socket) {
        Ok(listener) => listener,
        Err(error) => {
            claim.give_back().await;
            return Err(error);
        }
    };
    let datapath = Datapath::start(claim, &config, &resolved, kernel_log).await?;
    let history = History::read(&config.agent.state_dir);
    let mut agent = Agent::new(config, resolved, datapath, history);

    let (reports, mut from_probes) = mpsc::channel(QUEUE);
    let mut tasks = Tasks::default();
    agent.start_probes(&mut tasks, &reports);
    let (requests, mut from_control) = mpsc::channel(QUEUE);
    tasks.spawn("the control socket", server::serve(listener, requests));
    tasks.spawn("the thread that resets stale flows", agent.datapath.sweeper_ended());
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "started");
    let mut readiness = Readiness::announce(&agent.config);

    loop {
        agent.carry_out();
        readiness.look(&agent.cores);
        tokio::select! {
            // What moves traffic comes first.
            biased;
            Some(report) = from_probes.recv() => agent.on_report(&report),
            () = agent.sleep_until_deadline() => agent.on_deadline(),
            Some(request) = from_control.recv() => agent.on_request(request),
            // Not an orderly stop: what stays in the kernel serves until the next agent comes.
            error = tasks.failed() => return Err(error),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    let _not_under_systemd = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!(on_stop = ?agent.config.datapath.on_stop, "stopping");
    // Ends the probers and the control socket.
    drop(tasks);
    agent.datapath.stop().await
}

/// Tells systemd when others may count on the VIPs: every service has an active member, taken over or chosen, or its
/// time for the first choice is over.
struct Readiness {
    is_told: bool,
}

impl Readiness {
    /// The first choice may take longer than systemd waits.
    fn announce(config: &Config) -> Self {
        const REST_OF_THE_START: Duration = Duration::from_secs(10);

        let longest = config.services.iter().map(|service| service.initial_timeout).max().unwrap_or_default();
        let time = u32::try_from((longest + REST_OF_THE_START).as_micros()).unwrap_or(u32::MAX);
        // Nobody may be listening: the agent runs without systemd too.
        let _not_under_systemd = sd_notify::notify(&[sd_notify::NotifyState::ExtendTimeoutUsec(time)]);
        Self { is_told: false }
    }

    fn look(&mut self, cores: &[Core]) {
        if self.is_told || cores.iter().any(Core::waits_for_first_choice) {
            return;
        }
        self.is_told = true;
        tracing::info!("ready");
        let _not_under_systemd = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }
}

impl Agent {
    fn new(config: Config, resolved: Resolved, datapath: Datapath, history: History) -> Self {
        let clock = Clock;
        let cores = config.services.iter().enumerate().map(|(at, service)| {
            let adopted = datapath.adopted(ServiceId(at));
            let resumed = (adopted.epoch.0 > 0).then(|| Resumed {
                active: adopted.active,
                epoch: adopted.epoch,
                floor: adopted.floor,
                last: history.resume(service, adopted.epoch),
            });
            if let Some(resumed) = &resumed {
                tracing::info!(
                    service = service.name,
                    active = resumed.active.map(|member| service.members[member.0].name.as_str()),
                    epoch = resumed.epoch.0,
                    "took over what an earlier agent left"
                );
            }
            Core::new(service.clone(), resumed, clock.now())
        });
        Self {
            cores: cores.collect(),
            config: Arc::new(config),
            resolved: Arc::new(resolved),
            datapath,
            clock,
            history,
            paces: HashMap::new(),
        }
    }

    /// One prober for each check of each member.
    fn start_probes(&mut self, tasks: &mut Tasks, reports: &mpsc::Sender<Report>) {
        for (at, service) in self.config.services.iter().enumerate() {
            for (number, member) in service.members.iter().enumerate() {
                let (service_id, member_id) = (ServiceId(at), MemberId(number));
                let (sender, pace) = watch::channel(Pace::Fast);
                self.paces.insert((service_id, member_id), sender);
                // Both addresses of a member lead to the same server: one of them is probed.
                let Some(address) = self.resolved.addresses(service_id, member_id).iter().next() else {
                    continue;
                };
                for (index, check) in service.checks.iter().enumerate() {
                    let target = Target {
                        service: service_id,
                        member: member_id,
                        check_id: CheckId(index),
                        check: check.clone(),
                        address,
                        login: member.login.clone(),
                    };
                    let name =
                        format!("the prober of member {:?} of service {:?}", member.name, service.name);
                    tasks.spawn(name, probe::run(target, pace.clone(), reports.clone()));
                }
            }
        }
    }

    fn on_report(&mut self, report: &Report) {
        self.cores[report.service.0].on_probe(self.clock.now(), report.member, report.check, &report.outcome);
    }

    fn on_deadline(&mut self) {
        let now = self.clock.now();
        self.cores.iter_mut().for_each(|core| core.on_deadline(now));
    }

    async fn sleep_until_deadline(&self) {
        /// Sleeps are measured by a clock that stops in suspend, deadlines are not: look again now and then.
        const AT_MOST: Duration = Duration::from_secs(60);

        match self.cores.iter().filter_map(Core::next_deadline).min() {
            Some(deadline) => tokio::time::sleep(deadline.since(self.clock.now()).min(AT_MOST)).await,
            None => std::future::pending().await,
        }
    }

    /// Does what the cores ask for.
    fn carry_out(&mut self) {
        for at in 0..self.cores.len() {
            while let Some(action) = self.cores[at].poll_action() {
                self.act(ServiceId(at), action);
            }
        }
    }

    fn act(&mut self, id: ServiceId, action: Action) {
        match action {
            Action::Switch(switch) => self.switch(id, &switch),
            Action::RaiseFloor { epoch } => {
                self.datapath.raise_floor(id, epoch);
                tracing::info!(service = self.config.services[id.0].name, epoch = epoch.0, "drain ended");
            }
            Action::Pace { member, pace } => {
                if let Some(sender) = self.paces.get(&(id, member)) {
                    sender.send_replace(pace);
                }
            }
            Action::MemberChanged { member, state, reason } => {
                let service = &self.config.services[id.0];
                let member = &service.members[member.0].name;
                tracing::info!(service = service.name, member, %state, reason, "member changed");
            }
        }
    }

    fn switch(&mut self, id: ServiceId, switch: &Switch) {
        self.datapath.switch(id, switch.to, switch.epoch);
        if switch.policy == FlowPolicy::Reset {
            self.datapath.raise_floor(id, switch.epoch);
        }
        let service = &self.config.services[id.0];
        let name = |member: Option<MemberId>| member.map(|member| service.members[member.0].name.as_str());
        tracing::warn!(
            service = service.name,
            from = name(switch.from),
            to = name(switch.to),
            epoch = switch.epoch.0,
            kind = %switch.kind,
            flows = ?switch.policy,
            reason = switch.reason,
            "switch"
        );
        self.history.record(service, switch, self.clock.system_time(switch.at));
    }

    fn on_request(&self, request: Request) {
        match request {
            Request::Status { reply } => {
                let now = self.clock.now();
                let views: Vec<_> = self.cores.iter().map(|core| core.view(now)).collect();
                let count = self.datapath.counter();
                let (config, resolved, clock) =
                    (Arc::clone(&self.config), Arc::clone(&self.resolved), self.clock);
                // Counting reads the whole flow table.
                tokio::task::spawn_blocking(move || match count() {
                    Ok(counts) => {
                        // The client may have gone away meanwhile.
                        let _gone = reply.send(report::status(&config, &resolved, &views, &counts, clock));
                    }
                    Err(error) => tracing::error!("cannot read the maps: {error:#}"),
                });
            }
        }
    }
}
