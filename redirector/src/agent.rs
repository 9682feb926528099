//! The agent: wires probes, core and datapath together.
//!
//! ```text
//! probe ──report──▶ core (decide) ──action──▶ datapath (one store, then the sweep)
//!   ▲                  │
//!   └──────pace────────┘
//!                      ▲
//! resolve ──changed────┘
//! ```
//!
//! One task owns all state and waits for whatever comes first: a report, other addresses of a member, a deadline of a
//! core, a request over the control socket, a signal. It never blocks: what reads files or many flows runs elsewhere.

pub mod answers;
mod clock;
mod flows;
mod history;
mod inputs;
mod lookouts;
mod orders;
mod probers;
mod recorder;
mod report;
mod tasks;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use self::{
    clock::Clock, history::History, inputs::Punctuality, lookouts::Lookouts, orders::OrdersFile, probers::Probers,
    recorder::Recorder, tasks::Tasks,
};
use crate::{
    config::Resolved,
    control::server::{self, Request},
    datapath::{Claim, Datapath, Learner},
    decide::{Action, Core, Resumed, Switch, Time},
    model::{Config, FlowPolicy, MemberId, Offer, Service, ServiceId},
    probe::Report,
    resolve::{Changed, Followed, Resolver, follow},
};

/// Reports, changes and requests that may wait. Probers wait when the agent lags; nothing is lost.
const QUEUE: usize = 64;

/// A running agent.
struct Agent {
    config: Arc<Config>,
    resolved: Resolved,
    datapath: Datapath,
    clock: Clock,
    history: History,
    orders: OrdersFile,
    /// When somebody wants it.
    recorder: Option<Recorder>,
    punctuality: Punctuality,
    cores: Vec<Core>,
    /// The next deadline of each of them.
    timers: Vec<Option<Time>>,
    probers: Probers,
    lookouts: Lookouts,
    answers: answers::Keeper,
}

/// Runs until SIGTERM or SIGINT. Needs a tokio runtime on one thread.
pub async fn run(
    config: Config,
    resolved: Resolved,
    resolver: Arc<Resolver>,
    kernel_log: bool,
) -> Result<()> {
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
    let (reports, mut from_probes) = mpsc::channel(QUEUE);
    let mut tasks = Tasks::default();
    let mut agent = Agent::new(config, resolved, datapath, history, reports, &mut tasks)?;
    let (changes, from_resolver) = mpsc::channel(QUEUE);
    let (learnt, mut from_learner) = mpsc::channel(QUEUE);
    tasks.spawn(
        "what learns how addresses are reached",
        learn(agent.datapath.learner(), from_resolver, learnt),
    );
    tasks.spawn("what follows the network", agent.datapath.follow());
    agent.follow_names(&resolver, &changes, &mut tasks);
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
            Some(changed) = from_learner.recv() => agent.on_changed(changed, &mut tasks),
            // Looks at the clock at least every tick, and so comes round late only if the agent was not scheduled.
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
    // Ends the probers, what follows names, and the control socket.
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

/// Finds out how new addresses are reached before anything is sent there. Not in the agent's own task: the kernel may take
/// its time to answer, and a switch does not wait for that.
async fn learn(learner: Learner, mut from: mpsc::Receiver<Changed>, to: mpsc::Sender<Changed>) {
    while let Some(changed) = from.recv().await {
        let Changed { service, member, addresses } = &changed;
        if let Err(error) = learner.learn(*service, *member, addresses.as_slice()).await {
            tracing::warn!(%addresses, "how they are reached is not known: {error:#}");
        }
        if to.send(changed).await.is_err() {
            return;
        }
    }
}

impl Agent {
    fn new(
        config: Config,
        resolved: Resolved,
        datapath: Datapath,
        history: History,
        reports: mpsc::Sender<Report>,
        tasks: &mut Tasks,
    ) -> Result<Self> {
        let clock = Clock;
        let orders = OrdersFile::read(&config.agent.state_dir);
        let core = |(at, service): (usize, &Service)| {
            let id = ServiceId(at);
            let adopted = datapath.adopted(id);
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
            let mut core = Core::new(service.clone(), &datapath.addresses(id)?, resumed, clock.now());
            if let Some(orders) = orders.of(service, clock) {
                tracing::info!(service = service.name, ?orders, "goes on with what operators said");
                core.take_up(clock.now(), &orders);
            }
            Ok(core)
        };
        let cores = config.services.iter().enumerate().map(core).collect::<Result<Vec<_>>>()?;
        let answers = answers::Keeper::new(&config.agent.state_dir);
        answers.keep(&config, &resolved);
        let recorder = config.agent.record.as_deref().map(Recorder::new);
        let mut agent = Self {
            timers: cores.iter().map(Core::next_deadline).collect(),
            cores,
            answers,
            config: Arc::new(config),
            resolved,
            datapath,
            clock,
            history,
            recorder,
            orders,
            punctuality: Punctuality::new(clock.now()),
            probers: Probers::new(reports),
            lookouts: Lookouts::default(),
        };
        agent.each_member(|agent, service, member| agent.take_addresses(service, member, tasks));
        Ok(agent)
    }

    fn each_member(&mut self, mut with: impl FnMut(&mut Self, ServiceId, MemberId)) {
        let config = Arc::clone(&self.config);
        for (at, service) in config.services.iter().enumerate() {
            (0..service.members.len()).for_each(|number| with(self, ServiceId(at), MemberId(number)));
        }
    }

    /// What is known of a member's addresses holds from now on.
    fn take_addresses(&mut self, service: ServiceId, member: MemberId, tasks: &mut Tasks) {
        let addresses = self.resolved.addresses(service, member).as_slice();
        let addresses = addresses.to_vec();
        self.hand_in_addresses(service, member, &addresses);
        self.probers.set(service, member, &self.config.services[service.0], &addresses, tasks);
        self.lookouts.set(&self.config.services[service.0], member, &addresses, tasks);
    }

    /// One task for each member whose endpoint is a name.
    fn follow_names(&mut self, resolver: &Arc<Resolver>, changes: &mpsc::Sender<Changed>, tasks: &mut Tasks) {
        self.each_member(|agent, service, member| {
            let endpoint = &agent.config.services[service.0].members[member.0].endpoint;
            if endpoint.literal().is_some() {
                return;
            }
            let name = format!("what follows the addresses of {endpoint}");
            let known = agent.resolved.addresses(service, member).clone();
            let followed = Followed { config: Arc::clone(&agent.config), service, member, known };
            tasks.spawn(name, follow(Arc::clone(resolver), followed, changes.clone()));
        });
    }

    fn on_changed(&mut self, Changed { service, member, addresses }: Changed, tasks: &mut Tasks) {
        let config = &self.config.services[service.0];
        tracing::info!(
            service = config.name,
            member = config.members[member.0].name,
            from = %self.resolved.addresses(service, member),
            to = %addresses,
            left_out = addresses.left_out,
            "the endpoint has other addresses"
        );
        self.resolved.replace(service, member, addresses);
        self.answers.keep(&self.config, &self.resolved);
        self.take_addresses(service, member, tasks);
    }

    async fn sleep_until_deadline(&self) {
        tokio::time::sleep(self.next_wake_up()).await;
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
            Action::Offer { member, addresses } => self.offer(id, member, &addresses),
            Action::ResetAddress { member, address, removed } => {
                self.reset_address(id, member, address, removed);
            }
            Action::Pace { member, address, pace } => self.probers.pace(id, member, address, pace),
            Action::AddressChanged { member, address, state, reason } => {
                let service = &self.config.services[id.0];
                let member = &service.members[member.0].name;
                tracing::info!(service = service.name, member, %address, %state, reason, "address changed");
            }
            Action::MemberChanged { member, state, reason } => {
                let service = &self.config.services[id.0];
                let member = &service.members[member.0].name;
                tracing::info!(service = service.name, member, %state, reason, "member changed");
            }
            other @ (Action::Round { .. } | Action::Answer { .. } | Action::Orders(_)) => {
                self.act_on_orders(id, other);
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

    fn offer(&mut self, service: ServiceId, member: MemberId, addresses: &[Offer]) {
        if let Err(error) = self.datapath.offer(service, member, addresses) {
            let service = &self.config.services[service.0];
            let member = &service.members[member.0].name;
            tracing::error!(service = service.name, member, "its addresses are not in the maps: {error:#}");
        }
    }

    fn reset_address(&mut self, service: ServiceId, member: MemberId, address: SocketAddr, removed: bool) {
        let name = &self.config.services[service.0].name;
        match self.datapath.reset_address(service, member, address, removed) {
            Ok(()) => tracing::info!(service = name, %address, "its flows are reset"),
            Err(error) => {
                tracing::error!(service = name, %address, "its flows are not reset: {error:#}");
            }
        }
    }

    fn on_request(&self, request: Request) {
        match request {
            Request::Status { reply } => {
                let now = self.clock.now();
                let views: Vec<_> = self.cores.iter().map(|core| core.view(now)).collect();
                let count = self.datapath.counter();
                let (config, clock) = (Arc::clone(&self.config), self.clock);
                let board = self.lookouts.board().clone();
                // Counting reads the whole flow table.
                tokio::task::spawn_blocking(move || match count() {
                    Ok(counts) => {
                        // The client may have gone away meanwhile.
                        let _gone = reply.send(report::status(&config, &views, &counts, &board, clock));
                    }
                    Err(error) => tracing::error!("cannot read the maps: {error:#}"),
                });
            }
            Request::Flows { filter, limit, lines, reply } => {
                let known = flows::known(&self.config, &filter);
                let is_known = known.is_ok();
                // The client may have gone away meanwhile.
                let _gone = reply.send(known);
                if is_known {
                    let (list, config) = (self.datapath.list(), Arc::clone(&self.config));
                    tokio::task::spawn_blocking(move || {
                        if let Err(error) = flows::list(&list, &config, &filter, limit, &lines) {
                            tracing::error!("cannot read the flow table: {error:#}");
                        }
                    });
                }
            }
            Request::Totals { filter, reply } => {
                let (list, config) = (self.datapath.list(), Arc::clone(&self.config));
                if let Err(unknown) = flows::known(&config, &filter) {
                    let _gone = reply.send(Err(unknown));
                    return;
                }
                tokio::task::spawn_blocking(move || match flows::totals(&list, &config, &filter) {
                    Ok(totals) => {
                        let _gone = reply.send(Ok(totals));
                    }
                    Err(error) => tracing::error!("cannot read the flow table: {error:#}"),
                });
            }
        }
    }
}
