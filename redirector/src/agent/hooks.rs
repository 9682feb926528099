//! Runs hooks: before a switch one after the other, and the core waits; after it in the order of the service's switches, and
//! nothing waits.
//!
//! Hooks are the operator's, and so is what they may do: a command runs without privileges and is killed whole at its limit, a
//! webhook is asked once, within its limit. What is told them is what `status` shows to everybody: no secret.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;
use tokio::{
    sync::{Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use super::Agent;
use crate::{
    command::{self, End, Ended, PATH, Plan, first_line},
    decide::{Action, Switch, record::Input},
    model::{Config, Hook, HookFailure, HookRun, HookWhen, Login, ServiceId, SwitchKind},
    probe::http_client::Client,
    telemetry::{Event, Events},
};

/// Hooks after switches that run at a time, of all services.
const AT_A_TIME: usize = 4;

/// Switches of one service that may wait for their hooks.
const QUEUE: usize = 64;

/// How much of a webhook's answer is read.
const LONGEST_ANSWER: usize = 4096;

/// Exit statuses of a command that could not be run, as shells say it.
const NOT_RUN: [i32; 2] = [126, 127];

/// Version of [`Told`] as JSON.
const VERSION: u32 = 1;

/// The answer to a question of a core.
#[derive(Debug)]
pub(super) struct Answered {
    /// Name of the service: it may have another number by now.
    service: String,
    ask: u64,
    said: Result<(), String>,
}

/// What runs now. Dropping it ends all of it.
#[derive(Debug)]
pub(super) struct Hooks {
    events: Events,
    answers: mpsc::Sender<Answered>,
    /// By service: the question that is open.
    asking: HashMap<String, AbortHandle>,
    /// By service: switches whose hooks are to be run.
    after: HashMap<String, mpsc::Sender<Job>>,
    room: Arc<Semaphore>,
    running: JoinSet<()>,
}

/// What a hook is told, on its standard input or as the body of its request.
#[derive(Clone, Debug, Serialize)]
struct Told {
    version: u32,
    when: HookWhen,
    service: String,
    /// The member that is left; `null`: none was active.
    from: Option<String>,
    /// The member that is, or would be, active; `null`: new connections are refused.
    to: Option<String>,
    kind: SwitchKind,
    reason: String,
    /// Of the switch: before it, the one that it would have.
    epoch: u32,
    /// RFC 3339: when the switch was made, or the question put.
    at: String,
}

/// Hooks, and what they are told.
#[derive(Debug)]
struct Job {
    hooks: Vec<Hook>,
    told: Told,
}

/// What came of one hook.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    GoOn,
    Veto(String),
    /// It gave no answer.
    Failed(String),
}

impl Hooks {
    /// Answers go to `answers`.
    pub(super) fn new(events: Events, answers: mpsc::Sender<Answered>) -> Self {
        Self {
            events,
            answers,
            asking: HashMap::new(),
            after: HashMap::new(),
            room: Arc::new(Semaphore::new(AT_A_TIME)),
            running: JoinSet::new(),
        }
    }

    /// After a reload no question stands any more, and services that are gone have no more switches.
    pub(super) fn forget(&mut self, config: &Config) {
        self.asking.drain().for_each(|(_, task)| task.abort());
        self.after.retain(|name, _| config.services.iter().any(|service| service.name == *name));
    }

    fn ask(&mut self, ask: u64, job: Job) {
        while self.running.try_join_next().is_some() {}
        let (events, answers) = (self.events.clone(), self.answers.clone());
        let service = job.told.service.clone();
        let task = self.running.spawn(async move {
            let said = before(&events, &job).await;
            // Nobody is there any more when the agent stops.
            let _ = answers.send(Answered { service: job.told.service, ask, said }).await;
        });
        if let Some(earlier) = self.asking.insert(service, task) {
            earlier.abort();
        }
    }

    fn tell(&mut self, job: Job) {
        while self.running.try_join_next().is_some() {}
        let queue = self.after.entry(job.told.service.clone()).or_insert_with(|| {
            let (jobs, waiting) = mpsc::channel(QUEUE);
            self.running.spawn(after(self.events.clone(), Arc::clone(&self.room), waiting));
            jobs
        });
        if let Err(full) = queue.try_send(job) {
            let Job { hooks, told } = full.into_inner();
            let failed = Said::Failed(format!("not run: {QUEUE} switches wait for their hooks"));
            hooks.iter().for_each(|hook| report(&self.events, hook, &told, &failed, Duration::ZERO));
        }
    }
}

impl Agent {
    /// A core asks the hooks before a switch.
    pub(super) fn ask_hooks(&mut self, id: ServiceId, action: Action) {
        let Action::AskHooks { ask, to, kind, reason } = action else { return };
        let service = &self.config.services[id.0];
        let core = &self.cores[id.0];
        let name = |member: crate::model::MemberId| service.members[member.0].name.clone();
        let told = Told {
            version: VERSION,
            when: HookWhen::Before,
            service: service.name.clone(),
            from: core.active().map(name),
            to: Some(name(to)),
            kind,
            reason,
            epoch: core.epoch().next().0,
            at: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        };
        let hooks = service.hooks_at(HookWhen::Before, kind).cloned().collect();
        self.hooks.ask(ask, Job { hooks, told });
    }

    /// They have answered.
    pub(super) fn on_hooks(&mut self, Answered { service, ask, said }: Answered) {
        self.look_at_the_clock();
        self.observer.takes_up();
        let Some(at) = self.config.services.iter().position(|known| known.name == service) else { return };
        let (id, now) = (ServiceId(at), self.clock.now());
        self.note(now, id, || Input::Hooks(ask, said.as_ref().err().cloned()));
        self.cores.of(id).on_hooks(now, ask, said);
    }

    /// A switch was made: its hooks are run when those of the ones before have ended.
    pub(super) fn tell_hooks(&mut self, id: ServiceId, switch: &Switch) {
        let service = &self.config.services[id.0];
        let hooks: Vec<_> = service.hooks_at(HookWhen::After, switch.kind).cloned().collect();
        if hooks.is_empty() {
            return;
        }
        let name = |member: crate::model::MemberId| service.members[member.0].name.clone();
        let told = Told {
            version: VERSION,
            when: HookWhen::After,
            service: service.name.clone(),
            from: switch.from.map(name),
            to: switch.to.map(name),
            kind: switch.kind,
            reason: switch.reason.clone(),
            epoch: switch.epoch.0,
            at: self.clock.rfc3339(switch.at),
        };
        self.hooks.tell(Job { hooks, told });
    }
}

/// The first that says no is the last that is asked.
async fn before(events: &Events, Job { hooks, told }: &Job) -> Result<(), String> {
    for hook in hooks {
        let why = match run(events, hook, told).await {
            Said::GoOn => continue,
            Said::Veto(why) => format!("hook {:?} vetoed: {why}", hook.name),
            Said::Failed(_) if hook.on_failure == HookFailure::GoOn => continue,
            Said::Failed(why) => format!("hook {:?} gave no answer: {why}", hook.name),
        };
        return Err(why);
    }
    Ok(())
}

/// Those of one service, for as long as it is there.
async fn after(events: Events, room: Arc<Semaphore>, mut waiting: mpsc::Receiver<Job>) {
    while let Some(Job { hooks, told }) = waiting.recv().await {
        for hook in &hooks {
            // Never closed: it would end with the agent.
            let Ok(_room) = room.acquire().await else { return };
            run(&events, hook, &told).await;
        }
    }
}

/// One hook, from its start to what is told of it.
async fn run(events: &Events, hook: &Hook, told: &Told) -> Said {
    let began = Instant::now();
    let said = match timeout(hook.timeout, ask(hook, told)).await {
        Ok(said) => said,
        // What was begun is dropped, which kills it.
        Err(_) => Said::Failed(format!("not done within {}", humantime::format_duration(hook.timeout))),
    };
    report(events, hook, told, &said, began.elapsed());
    said
}

fn report(events: &Events, hook: &Hook, told: &Told, said: &Said, took: Duration) {
    events.emit(Event::Hook {
        service: told.service.clone(),
        hook: hook.name.clone(),
        when: match told.when {
            HookWhen::Before => "before",
            HookWhen::After => "after",
        }
        .to_owned(),
        done: *said == Said::GoOn,
        result: match (said, told.when) {
            (Said::GoOn, _) => "ok".to_owned(),
            (Said::Veto(why), HookWhen::Before) => format!("vetoed: {why}"),
            (Said::Veto(why) | Said::Failed(why), _) => why.clone(),
        },
        took_ms: (took.as_secs_f64() * 1e6).round() / 1e3,
    });
}

async fn ask(hook: &Hook, told: &Told) -> Said {
    let json = match serde_json::to_vec(told) {
        Ok(json) => json,
        Err(error) => return Said::Failed(error.to_string()),
    };
    match &hook.run {
        HookRun::Command { command, user } => {
            let mut input = json;
            input.push(b'\n');
            let plan = Plan {
                command: command.clone(),
                environment: environment(told),
                input,
                user: user.clone(),
                limit: hook.timeout,
            };
            let begun = command::start(plan);
            let (_running, ended) = match begun {
                Ok(begun) => begun,
                Err(why) => return Said::Failed(why),
            };
            match ended.await {
                Ok(Ok(ended)) => of_command(&ended),
                Ok(Err(why)) => Said::Failed(why),
                Err(_) => Said::Failed("its thread ended".to_owned()),
            }
        }
        HookRun::Url { url, tls } => {
            let client = Client::new(url.clone(), None, tls.as_ref(), &Login::default());
            match client.post(json, LONGEST_ANSWER).await {
                Ok(answer) => of_webhook(answer.status.as_u16(), &answer.body),
                Err(why) => Said::Failed(why),
            }
        }
    }
}

fn environment(told: &Told) -> Vec<(String, String)> {
    let when = if told.when == HookWhen::Before { "before" } else { "after" };
    let environment = [
        ("PATH", PATH.to_owned()),
        ("REDIRECTOR_SERVICE", told.service.clone()),
        ("REDIRECTOR_FROM", told.from.clone().unwrap_or_default()),
        ("REDIRECTOR_TO", told.to.clone().unwrap_or_default()),
        ("REDIRECTOR_KIND", told.kind.to_string()),
        ("REDIRECTOR_WHEN", when.to_owned()),
        ("REDIRECTOR_EPOCH", told.epoch.to_string()),
    ];
    environment.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

fn of_command(ended: &Ended) -> Said {
    let said = first_line(&ended.stdout).or_else(|| first_line(&ended.stderr));
    let with = |how: String| said.as_ref().map_or_else(|| how.clone(), |said| format!("{said} ({how})"));
    match ended.how {
        End::Exited(0) => Said::GoOn,
        End::Exited(status) if NOT_RUN.contains(&status) => {
            Said::Failed(with(format!("exit status {status}")))
        }
        End::Exited(status) => Said::Veto(with(format!("exit status {status}"))),
        End::Killed(signal) => Said::Failed(with(format!("ended by signal {signal}"))),
    }
}

fn of_webhook(status: u16, body: &[u8]) -> Said {
    let with = |how: String| first_line(body).map_or_else(|| how.clone(), |said| format!("{said} ({how})"));
    match status {
        200..=299 => Said::GoOn,
        403 | 409 | 423 => Said::Veto(with(format!("status {status}"))),
        // Whatever an error page says, it is nobody's word about this switch.
        _ => Said::Failed(format!("status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(how: End, stdout: &[u8], stderr: &[u8]) -> Said {
        of_command(&Ended { how, stdout: stdout.to_vec(), stderr: stderr.to_vec() })
    }

    #[test]
    fn hook_commands_go_on_veto_or_give_no_answer() {
        assert_eq!(of(End::Exited(0), b"whatever", b""), Said::GoOn);
        assert_eq!(of(End::Exited(1), b"", b""), Said::Veto("exit status 1".into()));
        assert_eq!(of(End::Exited(3), b"\nfrozen\nx", b"y"), Said::Veto("frozen (exit status 3)".into()));
        assert_eq!(
            of(End::Exited(127), b"", b"prlimit: no such file"),
            Said::Failed("prlimit: no such file (exit status 127)".into())
        );
        assert_eq!(of(End::Killed(9), b"", b""), Said::Failed("ended by signal 9".into()));
    }

    #[test]
    fn hook_webhooks_go_on_veto_or_give_no_answer() {
        assert_eq!(of_webhook(204, b""), Said::GoOn);
        for status in [403, 409, 423] {
            assert_eq!(of_webhook(status, b"frozen\n"), Said::Veto(format!("frozen (status {status})")));
        }
        for status in [200 + 100, 404, 500, 503] {
            assert_eq!(of_webhook(status, b"page"), Said::Failed(format!("status {status}")));
        }
    }
}
