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
mod cores;
mod counting;
mod flows;
mod heartbeats;
mod history;
mod hooks;
mod inputs;
mod lookouts;
mod moves;
mod names;
mod observer;
mod operator;
mod orders;
mod probers;
mod readiness;
mod recorder;
mod reload;
mod report;
mod scrape;
mod signals;
mod tasks;
mod watch;

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use self::{
    clock::Clock,
    cores::Cores,
    history::History,
    hooks::Hooks,
    inputs::Punctuality,
    lookouts::Lookouts,
    moves::Moves,
    names::Names,
    observer::Observer,
    operator::Operators,
    orders::OrdersFile,
    probers::Probers,
    readiness::Readiness,
    recorder::Recorder,
    reload::{Order, Reloads},
    tasks::Tasks,
    watch::Watch,
};
use crate::{
    config::Resolved,
    control::{
        access::Access,
        server::{self, Request},
    },
    datapath::{Claim, Datapath, Notice, Pulses, Ticks, boot_id, peer_groups},
    decide::{Action, Core, Resumed, Switch},
    fitting::Fitting,
    model::{Config, FlowPolicy, LOOK_AFTER, MemberId, Offer, Service, ServiceId},
    probe::Report,
    resolve::{Changed, Resolver},
    telemetry::{self, Event, Events, Metrics},
};

/// Reports, changes and requests that may wait. Probers wait when the agent lags; nothing is lost.
const QUEUE: usize = 64;

/// How long a stopping agent lets its last event reach those who follow.
const LAST_WORDS: Duration = Duration::from_millis(5);

/// A running agent.
struct Agent {
    config: Arc<Config>,
    resolved: Resolved,
    datapath: Datapath,
    clock: Clock,
    history: History,
    orders: OrdersFile,
    operators: Operators,
    /// When somebody wants it.
    recorder: Option<Recorder>,
    punctuality: Punctuality,
    cores: Cores,
    probers: Probers,
    lookouts: Lookouts,
    answers: answers::Keeper,
    observer: Observer,
    hooks: Hooks,
    pulses: Arc<Pulses>,
    ticks: Ticks,
    watch: Watch,
}

/// Runs until SIGTERM or SIGINT, and reads `file` again at SIGHUP. Needs a tokio runtime on one thread.
pub async fn run(file: &Path, fitting: Fitting, resolver: Arc<Resolver>, kernel_log: bool) -> Result<()> {
    // Before anything is made: a signal from here on is a clean stop.
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;

    let Fitting { config, resolved, warnings, .. } = fitting;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let config = Arc::new(config);
    let claim = Claim::take(&config.datapath).await?;
    // Before anything else is made: where another agent answers, nothing changes.
    let listeners = || {
        let control = server::bind(&config.agent.control_socket)?;
        let metrics = config.agent.metrics_listen.map(telemetry::server::bind).transpose()?;
        Ok((control, metrics))
    };
    let (listener, metrics_listener) = match listeners() {
        Ok(listeners) => listeners,
        Err(error) => {
            claim.give_back().await;
            return Err(error);
        }
    };
    let metrics = Metrics::default();
    let events = Events::open(&config.agent.state_dir, metrics.clone());
    let datapath = Datapath::start(claim, &config, &resolved, kernel_log).await?;
    let boot = boot_id()?;
    let history = History::read(&config.agent.state_dir, &boot);
    let mut orders = OrdersFile::read(&config.agent.state_dir, &boot);
    orders.retain(&config.services);
    let (reports, mut from_probes) = mpsc::channel(QUEUE);
    let mut tasks = Tasks::default();
    events.emit(Event::Started {
        release: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        services: config.services.len(),
    });
    let observer = Observer::new(events.clone(), metrics);
    let (answers, mut from_hooks) = mpsc::channel(QUEUE);
    let hooks = Hooks::new(events.clone(), answers);
    let mut agent =
        Agent::new(config, resolved, datapath, (history, orders), reports, (observer, hooks), &mut tasks);
    let (mut notices, mut signals) = (agent.datapath.notices(), agent.datapath.signals());
    let source = names::Source { resolver: Arc::clone(&resolver), events: events.clone() };
    let mut names = agent.follow_names(&source, &mut tasks);
    tasks.spawn("what follows the network", agent.datapath.follow());
    let (requests, mut from_control) = mpsc::channel(QUEUE);
    let access = Access::new(agent.config.agent.operator_group.as_deref(), peer_groups);
    tasks.spawn("the control socket", server::serve(listener, access, requests));
    tasks.spawn("the thread that resets stale flows", agent.datapath.sweeper_ended());
    let mut reloads = Reloads::new(file.to_owned(), source);
    let (asks, mut from_metrics) = mpsc::channel(QUEUE);
    if let Some(listener) = metrics_listener {
        tasks.spawn("the listener for metrics", telemetry::server::serve(listener, asks));
    }
    let mut readiness = Readiness::announce(&agent.config);

    loop {
        agent.carry_out();
        readiness.look(&agent.cores, &events);
        tokio::select! {
            // What moves traffic comes first.
            biased;
            Some(report) = from_probes.recv() => agent.on_report(report),
            Some(changed) = names.changed() => agent.on_changed(changed, &mut tasks),
            // Looks at the clock at least every tick, and so comes round late only if the agent was not scheduled.
            () = agent.sleep_until_deadline() => agent.on_deadline(),
            seen = signals::next(&mut signals) => agent.on_signals(seen, &mut signals),
            Some(answered) = from_hooks.recv() => agent.on_hooks(answered),
            Some(notice) = notices.recv() => agent.on_notice(notice),
            Some(request) = from_control.recv() => match request {
                Request::Reload { asked, who, reply } => {
                    agent.order(Order::request(asked, who, reply), &mut reloads, &readiness);
                }
                request => agent.on_request(request),
            },
            step = reloads.next() => agent.on_step(step, &mut reloads, &readiness, &mut names, &mut tasks),
            Some(()) = hangup.recv() => agent.order(Order::signal(), &mut reloads, &readiness),
            Some(ask) = from_metrics.recv() => agent.on_ask(ask),
            // Not an orderly stop: what stays in the kernel serves until the next agent comes.
            error = tasks.failed() => return Err(error),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    readiness::tell(&[sd_notify::NotifyState::Stopping]);
    events.emit(Event::Stopping { on_stop: agent.config.datapath.on_stop });
    // So that those who follow hear of it.
    tokio::time::sleep(LAST_WORDS).await;
    // Ends the probers, what follows names, and the control socket.
    drop((tasks, reloads));
    agent.datapath.stop().await
}

impl Agent {
    fn new(
        config: Arc<Config>,
        resolved: Resolved,
        datapath: Datapath,
        (history, orders): (History, OrdersFile),
        reports: mpsc::Sender<Report>,
        (observer, hooks): (Observer, Hooks),
        tasks: &mut Tasks,
    ) -> Self {
        let answers = answers::Keeper::new(&config.agent.state_dir);
        answers.keep(&config, &resolved);
        let recorder = config.agent.record.as_deref().map(Recorder::new);
        let (pulses, ticks) = (datapath.pulses(), datapath.ticks());
        let watch = Watch::new(ticks.ticks(LOOK_AFTER));
        let mut agent = Self {
            cores: Cores::default(),
            answers,
            config,
            resolved,
            datapath,
            clock: Clock,
            history,
            recorder,
            orders,
            operators: Operators::default(),
            punctuality: Punctuality::new(Clock.now()),
            probers: Probers::new(reports),
            lookouts: Lookouts::default(),
            observer,
            hooks,
            pulses,
            ticks,
            watch,
        };
        // To the agent, all services are new.
        let moves =
            Moves::between(&Config { services: Vec::new(), ..Config::clone(&agent.config) }, &agent.config);
        agent.renumber_cores(&moves);
        agent.watch_again(&moves);
        agent.probers.rename(&moves, &agent.config.services);
        agent.each_member(|agent, service, member| agent.take_addresses(service, member, tasks));
        agent
    }

    /// A core for a service that is new to this agent, over what an earlier one left of it.
    fn new_core(&self, at: usize, service: &Service) -> Core {
        let id = ServiceId(at);
        let adopted = self.datapath.adopted(id);
        let resumed = (adopted.epoch.0 > 0).then(|| Resumed {
            active: adopted.active,
            epoch: adopted.epoch,
            floor: adopted.floor,
            last: self.history.resume(service, adopted.epoch, self.clock),
        });
        if let Some(resumed) = &resumed {
            self.observer.events.emit(Event::TookOver {
                service: service.name.clone(),
                active: resumed.active.map(|member| service.members[member.0].name.clone()),
                epoch: resumed.epoch.0,
            });
        }
        let known = self.datapath.addresses(id).unwrap_or_else(|error| {
            tracing::error!(service = service.name, "what the maps hold of it cannot be read: {error:#}");
            vec![Vec::new(); service.members.len()]
        });
        let mut core = Core::new(service.clone(), &known, resumed, self.clock.now());
        if let Some(orders) = self.orders.of(service, self.clock) {
            tracing::info!(service = service.name, ?orders, "goes on with what operators said");
            core.take_up(self.clock.now(), &orders);
        }
        core
    }

    fn follow_names(&self, source: &names::Source, tasks: &mut Tasks) -> Names {
        Names::follow(source, &self.config, &self.resolved, self.datapath.learner(), tasks)
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
        self.observer.takes_up();
        self.observer.addresses(service, member, &addresses);
        self.hand_in_addresses(service, member, &addresses);
        self.watch.probed(service, member, &addresses);
        self.probers.set(service, member, &self.config.services[service.0], &addresses, tasks);
        self.lookouts.set(&self.config.services[service.0], member, &addresses, tasks);
    }

    fn on_changed(&mut self, Changed { service, member, addresses }: Changed, tasks: &mut Tasks) {
        let config = &self.config.services[service.0];
        self.observer.events.emit(Event::AddressesChanged {
            service: config.name.clone(),
            member: config.members[member.0].name.clone(),
            from: self.resolved.addresses(service, member).to_string(),
            to: addresses.to_string(),
            left_out: addresses.left_out,
        });
        self.resolved.replace(service, member, addresses);
        self.answers.keep(&self.config, &self.resolved);
        self.take_addresses(service, member, tasks);
    }

    async fn sleep_until_deadline(&self) {
        tokio::time::sleep(self.next_wake_up()).await;
    }

    /// Does what the cores ask for.
    fn carry_out(&mut self) {
        while let Some((service, action)) = self.cores.poll_action() {
            self.act(service, action);
        }
        // Now that the maps say the same.
        self.history.write();
    }

    fn act(&mut self, id: ServiceId, action: Action) {
        match action {
            Action::Switch(switch) => self.switch(id, &switch),
            Action::RaiseFloor { epoch } => {
                self.datapath.raise_floor(id, epoch);
                let service = self.config.services[id.0].name.clone();
                let ended = Event::DrainEnded { service, member: None, epoch: epoch.0, reason: None };
                self.observer.events.emit(ended);
            }
            Action::EndDrain { member, epoch, reason } => {
                self.datapath.end_drain(id, member, epoch);
                let (service, member) = self.names(id, member);
                let (member, reason) = (Some(member), Some(reason));
                self.observer.events.emit(Event::DrainEnded { service, member, epoch: epoch.0, reason });
            }
            Action::Offer { member, addresses } => self.offer(id, member, &addresses),
            Action::ResetAddress { member, address, removed } => {
                self.reset_address(id, member, address, removed);
            }
            Action::Pace { member, address, pace } => self.probers.pace(id, member, address, pace),
            Action::AddressChanged { member, address, state, reason } => {
                let (service, member) = self.names(id, member);
                self.observer.events.emit(Event::AddressChanged { service, member, address, state, reason });
            }
            Action::MemberChanged { member, state, reason, borne } => {
                let (service, member) = self.names(id, member);
                self.observer.member_changed(service, member, state, reason, borne);
            }
            Action::Look { member } => self.probers.look(id, member),
            Action::Ask { member, address } => self.probers.ask_address(id, member, address),
            Action::Signal { member, signal, looked } => {
                let (service, member) = self.names(id, member);
                self.observer.signal(service, member, &signal, looked);
            }
            Action::Spread { from, epoch, over } => self.datapath.spread(id, from, epoch, over),
            Action::Drains(drains) => self.history.drains(&self.config.services[id.0], &drains, self.clock),
            ask @ Action::AskHooks { .. } => self.ask_hooks(id, ask),
            other @ (Action::Round { .. } | Action::Answer { .. } | Action::Orders(_)) => {
                self.act_on_orders(id, other);
            }
        }
    }

    fn switch(&mut self, id: ServiceId, switch: &Switch) {
        self.datapath.switch(id, switch.to, switch.epoch);
        let stored = Instant::now();
        if switch.policy == FlowPolicy::Reset && switch.over.is_zero() {
            self.datapath.raise_floor(id, switch.epoch);
        }
        let service = &self.config.services[id.0];
        self.observer.switched(id, service, switch, stored);
        self.history.record(service, switch, self.clock);
        self.tell_hooks(id, switch);
    }

    fn offer(&mut self, id: ServiceId, member: MemberId, addresses: &[Offer]) {
        let made = self.datapath.offer(id, member, addresses);
        let (service, member) = self.names(id, member);
        self.observer.events.emit(match made {
            Ok(()) => {
                let those = |offered| {
                    let wanted = addresses.iter().filter(move |offer| offer.offered == offered);
                    wanted.map(|offer| offer.address).collect()
                };
                Event::Offered { service, member, offered: those(true), left_out: those(false) }
            }
            Err(error) => {
                let message = format!("its addresses are not in the maps: {error:#}");
                Event::Error { service: Some(service), member: Some(member), message }
            }
        });
    }

    fn reset_address(&mut self, id: ServiceId, member: MemberId, address: SocketAddr, removed: bool) {
        let made = self.datapath.reset_address(id, member, address, removed);
        let (service, member) = self.names(id, member);
        self.observer.events.emit(match made {
            Ok(()) => Event::AddressReset { service, member, address, removed },
            Err(error) => {
                let message = format!("the flows of {address} are not reset: {error:#}");
                Event::Error { service: Some(service), member: Some(member), message }
            }
        });
    }

    fn on_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Restored(what) => self.observer.events.emit(Event::NetworkRestored { what }),
            Notice::Swept(swept) => {
                let (datapath, config, cores) = (&self.datapath, &self.config, &self.cores);
                self.observer.swept(&swept, |id| {
                    let (service, member) = datapath.owner(id)?;
                    let (named, epoch) = (&config.services[service.0], cores[service.0].epoch().0);
                    Some((named.name.clone(), named.members[member.0].name.clone(), epoch))
                });
            }
        }
    }

    fn on_request(&mut self, request: Request) {
        match request {
            Request::Status { place, reply } => self.count_for_status(place, reply),
            Request::Flows { filter, limit, place, lines, reply } => {
                self.list_flows(filter, limit, place, lines, reply);
            }
            Request::Totals { filter, place, reply } => self.count_totals(filter, place, reply),
            Request::Operate { service, asked, who, reply } => self.on_operate(service, asked, who, reply),
            // The run loop's own.
            Request::Reload { reply, .. } => drop(reply),
            Request::Explain { service, reply } => drop(reply.send(self.explain(&service))),
            Request::Denied(operation) => self.put_on_record(operation),
            Request::Events { selection, reply } => {
                let _gone = reply.send(self.subscribe(selection));
            }
        }
    }

    /// Service and member, as the configuration calls them.
    fn names(&self, service: ServiceId, member: MemberId) -> (String, String) {
        let service = &self.config.services[service.0];
        (service.name.clone(), service.members[member.0].name.clone())
    }
}
