//! Reloads: another configuration while the agent runs, out of its file or by an operator's word. Whole or not at all.
//!
//! ```text
//! SIGHUP, control ──order──▶ prepare (a task) ──ready──▶ apply (the agent's own task) ──▶ finish (a task) ──▶ answer
//!                            read, validate,            ids, cores, probers, maps          routes, flows
//!                            compare, make ready        between two events                 of what is gone
//! ```
//!
//! One after the other. What takes time never holds up a switch; what the agent's own task does is map writes and tasks.
//! Until then a failure changes nothing.

use std::{collections::VecDeque, path::PathBuf, sync::Arc, time::Instant};

use tokio::{sync::oneshot, task::JoinSet};

use self::meanwhile::Meanwhile;
use super::{
    Agent, answers,
    cores::Cores,
    moves::Moves,
    names::{Names, Source},
    readiness::Readiness,
    tasks::Tasks,
};
use crate::{
    config::Resolved,
    control::{
        access::Who,
        operator::{Operation, OperationResult, Refused, RefusedKind},
        reload::{Asked, Difference, Kind, Reloaded, Wish},
        status::VERSION,
    },
    datapath::{Ending, Prepared, Preparer},
    decide, fitting,
    model::Config,
    resolve::Resolver,
    telemetry::Event,
};

mod meanwhile;
mod member;

type Outcome = Result<Reloaded, Refused>;

/// Somebody wants another configuration.
pub(super) struct Order {
    asked: Asked,
    /// Who, and where the answer goes; `None`: a signal.
    from: Option<(Who, oneshot::Sender<Outcome>)>,
    since: Instant,
    /// How often it was prepared anew, because addresses changed meanwhile.
    again: u8,
}

/// How often that is done. Who asks many names finds one that changed each time; what is applied then is followed
/// within a second, as every change is.
const MOST_AGAIN: u8 = 3;

impl Order {
    /// SIGHUP.
    pub(super) fn signal() -> Self {
        let asked = Asked { wish: Wish::Reload, reason: None, dry_run: false, force: false };
        Self { asked, from: None, since: Instant::now(), again: 0 }
    }

    /// A request over the control socket.
    pub(super) fn request(asked: Asked, who: Who, reply: oneshot::Sender<Outcome>) -> Self {
        Self { asked, from: Some((who, reply)), since: Instant::now(), again: 0 }
    }
}

/// How far an order has come.
pub(super) enum Step {
    /// Everything is ready.
    Ready(Box<Ready>),
    /// Nothing is left to do.
    Over(Box<Over>),
}

/// A configuration that can be applied, and what there is to say of it.
pub(super) struct Ready {
    order: Order,
    told: Reloaded,
    next: Next,
    /// What was known of addresses, under the configuration that holds, when its preparation began.
    began: Resolved,
}

/// A configuration that everything is ready for.
struct Next {
    config: Arc<Config>,
    resolved: Resolved,
    prepared: Prepared,
}

/// What became of an order.
pub(super) struct Over {
    order: Order,
    outcome: Outcome,
}

impl Step {
    fn over(order: Order, outcome: Outcome) -> Self {
        Self::Over(Box::new(Over { order, outcome }))
    }
}

/// The orders, one under way at a time.
pub(super) struct Reloads {
    file: PathBuf,
    source: Source,
    working: JoinSet<Step>,
    waiting: VecDeque<Order>,
}

impl Reloads {
    pub(super) fn new(file: PathBuf, source: Source) -> Self {
        Self { file, source, working: JoinSet::new(), waiting: VecDeque::new() }
    }

    /// Waits until an order has come further. Nothing is lost when the wait is dropped.
    pub(super) async fn next(&mut self) -> Option<Step> {
        match self.working.join_next().await {
            Some(Ok(step)) => Some(step),
            Some(Err(error)) => {
                // Whoever asked hears that nobody answers.
                tracing::error!("a reload failed: {error}; this is a fault of the agent: report these lines");
                None
            }
            None => std::future::pending().await,
        }
    }
}

impl Agent {
    /// Takes an order.
    pub(super) fn order(&self, order: Order, reloads: &mut Reloads, readiness: &Readiness) {
        // A second signal adds nothing to one that waits: the file is read when its turn comes.
        let is_signal = |order: &Order| order.from.is_none();
        if !(is_signal(&order) && reloads.waiting.iter().any(is_signal)) {
            reloads.waiting.push_back(order);
        }
        self.begin_next(reloads, readiness);
    }

    /// Begins the next order, if none is under way.
    pub(super) fn begin_next(&self, reloads: &mut Reloads, readiness: &Readiness) {
        if !reloads.working.is_empty() {
            return;
        }
        let Some(order) = reloads.waiting.pop_front() else { return };
        if order.asked.wish == Wish::Reload && !order.asked.dry_run {
            readiness.reloading();
        }
        reloads.working.spawn(self.now(reloads).prepare(order));
    }

    fn now(&self, reloads: &Reloads) -> Now {
        Now {
            file: reloads.file.clone(),
            resolver: Arc::clone(&reloads.source.resolver),
            config: Arc::clone(&self.config),
            resolved: self.resolved.clone(),
            preparer: self.datapath.preparer(),
        }
    }

    /// An order has come further.
    pub(super) fn on_step(
        &mut self,
        step: Option<Step>,
        reloads: &mut Reloads,
        readiness: &Readiness,
        names: &mut Names,
        tasks: &mut Tasks,
    ) {
        match step {
            Some(Step::Ready(ready)) => {
                self.observer.takes_up();
                let Ready { mut order, told, next, began } = *ready;
                let moves = Moves::between(&self.config, &next.config);
                let meanwhile = Meanwhile { config: &self.config, began: &began, now: &self.resolved };
                let merged = meanwhile.merged(&moves, &next.config, &next.resolved);
                if let Some(resolved) = merged.filter(|_| order.again < MOST_AGAIN) {
                    // How they are reached has to be known before they are used. Each name is asked once a second at most.
                    order.again += 1;
                    let config = next.config;
                    // It holds up what follows the network, and so the next preparation.
                    drop(next.prepared);
                    reloads.working.spawn(self.now(reloads).make_ready(order, told, config, resolved));
                    return;
                }
                if let Err(refused) = self.leave_removed(&moves, order.asked.force) {
                    let over = Some(Step::over(order, Err(refused)));
                    // It held up what follows the network.
                    drop(next);
                    return self.on_step(over, reloads, readiness, names, tasks);
                }
                let applied = self.apply(&moves, next, &reloads.source, names, tasks);
                reloads.working.spawn(finish(order, told, applied));
                return;
            }
            Some(Step::Over(over)) => {
                let Over { order, outcome } = *over;
                if order.asked.wish == Wish::Reload && !order.asked.dry_run {
                    readiness.reloaded();
                }
                self.report(order, outcome);
            }
            None => readiness.reloaded(),
        }
        self.begin_next(reloads, readiness);
    }

    /// Active members that are to go are left, as a failback leaves them, while everything still has its old number. If one
    /// cannot be left, none is.
    fn leave_removed(&mut self, moves: &Moves, force: bool) -> Result<(), Refused> {
        let now = self.clock.now();
        let refused = |refused: decide::Refused| Refused {
            kind: RefusedKind::Conflict,
            message: refused.reason,
            next: "nothing has changed; keep it until another one is up, or reload with --force".to_owned(),
        };
        let stay = moves.each_service(|old, members| old.map(|old| (old, members.to_vec())));
        for (service, members) in stay.iter().flatten() {
            // Few services lose their active member: only of those a copy is made.
            if self.cores[service.0].would_leave(members) {
                self.cores[service.0].clone().leave_removed(now, members, force).map_err(refused)?;
            }
        }
        for (service, members) in stay.iter().flatten() {
            if self.cores[service.0].would_leave(members) {
                self.cores.of(*service).leave_removed(now, members, force).map_err(refused)?;
            }
        }
        self.carry_out();
        Ok(())
    }

    /// The change itself. Cores decide under the new configuration before anything of the old one goes.
    fn apply(
        &mut self,
        moves: &Moves,
        Next { config, resolved, prepared }: Next,
        source: &Source,
        names: &mut Names,
        tasks: &mut Tasks,
    ) -> anyhow::Result<Ending> {
        self.datapath.begin(&prepared)?;
        (self.config, self.resolved) = (config, resolved);
        self.answers.keep(&self.config, &self.resolved);
        self.orders.retain(&self.config.services);
        self.renumber_cores(moves);
        self.cores_are_others();
        self.services_are_others();
        self.observer.forget();
        self.hooks.forget(&self.config);
        self.watch_again(moves);
        self.probers.rename(moves, &self.config.services);
        self.lookouts.keep(&self.config);
        self.each_member(|agent, service, member| agent.take_addresses(service, member, tasks));
        *names = self.follow_names(source, tasks);
        self.carry_out();
        self.datapath.end(prepared)
    }

    /// Every service keeps its core; one that is new gets one.
    pub(super) fn renumber_cores(&mut self, moves: &Moves) {
        let now = self.clock.now();
        let mut before: Vec<_> = self.cores.take().into_iter().map(Some).collect();
        let mut services = self.config.services.iter().enumerate();
        let cores = moves.each_service(|old, members| {
            let (at, service) = services.next()?;
            let Some(mut core) = old.and_then(|old| before[old.0].take()) else {
                return Some(self.new_core(at, service));
            };
            core.set_service(now, service.clone(), members);
            Some(core)
        });
        self.cores = Cores::new(cores.into_iter().flatten().collect());
    }

    /// To the log, the record and whoever asked.
    fn report(&self, order: Order, outcome: Outcome) {
        let Asked { wish, reason, dry_run, .. } = order.asked;
        let took_ms = u64::try_from(order.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Ok(told) = &outcome {
            told.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            tracing::info!(took_ms, dry_run, "reload: {}", told.message);
        }
        if !dry_run {
            let (changes, error) = match &outcome {
                Ok(told) if told.difference.is_empty() => (Vec::new(), None),
                Ok(told) => (told.difference.to_string().lines().map(str::to_owned).collect(), None),
                Err(refused) => (Vec::new(), Some(format!("{}; {}", refused.message, refused.next))),
            };
            self.observer.events.emit(Event::Reload { done: error.is_none(), changes, error });
        }
        let Some((who, reply)) = order.from else { return };
        self.put_on_record(Operation {
            verb: wish.verb(),
            service: wish.service().map(str::to_owned),
            member: wish.member().map(str::to_owned),
            dry_run,
            who,
            reason,
            result: if outcome.is_ok() { OperationResult::Done } else { OperationResult::Refused },
            message: match &outcome {
                Ok(told) => told.message.clone(),
                Err(refused) => refused.message.clone(),
            },
        });
        // The client may have gone away meanwhile.
        let _gone = reply.send(outcome);
    }
}

/// What holds when an order begins.
struct Now {
    file: PathBuf,
    resolver: Arc<Resolver>,
    config: Arc<Config>,
    resolved: Resolved,
    preparer: Preparer,
}

impl Now {
    async fn prepare(self, order: Order) -> Step {
        let (config, resolved, warnings) = match self.read(&order.asked.wish).await {
            Ok(read) => read,
            Err(refused) => return Step::over(order, Err(refused)),
        };
        let difference = Difference::between(&self.config, &config);
        let nothing = difference.is_empty();
        let told = Reloaded {
            version: VERSION,
            verb: order.asked.wish.verb(),
            dry_run: order.asked.dry_run,
            message: self.message(&order.asked, &difference),
            difference,
            warnings,
        };
        if order.asked.dry_run || nothing {
            return Step::over(order, Ok(told));
        }
        self.make_ready(order, told, Arc::new(config), resolved).await
    }

    /// Does all that may fail, for members with these addresses.
    async fn make_ready(self, order: Order, told: Reloaded, config: Arc<Config>, resolved: Resolved) -> Step {
        match self.preparer.prepare(&config, &resolved).await {
            Ok(prepared) => {
                let next = Next { config, resolved, prepared };
                Step::Ready(Box::new(Ready { order, told, next, began: self.resolved }))
            }
            Err(error) => Step::over(order, Err(failed(format!("{error:#}")))),
        }
    }

    /// The configuration that is asked for, the addresses of its members, and what this host does not have yet.
    async fn read(&self, wish: &Wish) -> Result<(Config, Resolved, Vec<String>), Refused> {
        match wish {
            Wish::Reload => {
                let earlier = answers::of(&self.config, &self.resolved);
                let fitting = fitting::read_again(&self.file, &self.resolver, &earlier, &self.config).await;
                let fitting = fitting.map_err(|unfit| failed(unfit.to_string()))?;
                Ok((fitting.config, fitting.resolved, fitting.warnings))
            }
            Wish::Add { service, member } => {
                let (config, resolved) =
                    member::add(&self.config, &self.resolved, &self.resolver, service, member).await?;
                Ok((config, resolved, Vec::new()))
            }
            Wish::Remove { service, member } => {
                let (config, resolved) = member::remove(&self.config, &self.resolved, service, member)?;
                Ok((config, resolved, Vec::new()))
            }
        }
    }

    fn message(&self, asked: &Asked, difference: &Difference) -> String {
        let file = self.file.display();
        let done = match &asked.wish {
            Wish::Reload => {
                let count = |kind| difference.services.iter().filter(|service| service.kind == kind).count();
                let [added, removed, changed] = [Kind::Added, Kind::Removed, Kind::Changed].map(count);
                if difference.is_empty() {
                    return format!("nothing differs from {file}");
                }
                format!("{file} applied: {added} services added, {removed} removed, {changed} changed")
            }
            Wish::Add { service, member } => {
                format!("member {:?} of service {service:?} added, {LOST}: write it into {file}", member.name)
            }
            Wish::Remove { service, member } => {
                format!("member {member:?} of service {service:?} removed, {LOST}: take it out of {file}")
            }
        };
        if asked.dry_run { format!("this would be: {done}") } else { done }
    }
}

/// As operators know it of HAProxy's runtime API: the file is what holds in the end.
const LOST: &str = "until the next reload or restart; to keep it so";

/// Does what takes its time when everything is decided.
async fn finish(order: Order, told: Reloaded, applied: anyhow::Result<Ending>) -> Step {
    let finished = match applied {
        Ok(ending) => ending.finish().await,
        Err(error) => Err(error),
    };
    let outcome = finished.map(|()| told).map_err(|error| Refused {
        kind: RefusedKind::Failed,
        message: format!("the kernel refused a part of the new configuration: {error:#}"),
        next: "restart the agent, which does what is left to do; no flow is disturbed by that".to_owned(),
    });
    Step::over(order, outcome)
}

/// Before anything has changed.
fn failed(message: String) -> Refused {
    Refused {
        kind: RefusedKind::Conflict,
        message,
        next:
            "nothing has changed, and the configuration before goes on to hold; correct it and reload again"
                .to_owned(),
    }
}
