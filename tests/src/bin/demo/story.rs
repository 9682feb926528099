//! The acts: a calm start, the fault, the failover, the member's return, the failback, the summary.

use std::{
    iter,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use redirector::control::status::{MemberStatus, ServiceState, ServiceStatus, Status, SwitchKind};
use redirector_tests::{
    Agent, CHANNEL, Lab, QUEUE, Timing, Value, namespace_exists, unavailable, wait_until, waiting_at,
};

use crate::{
    Fault,
    clients::{COMMANDS, CONNECTIONS, Clients, Waiting, vip},
    interrupted,
    screen::{Screen, Tone},
    stage::Stage,
    summary,
    tally::{Switch, Tally},
    words::{many, seconds},
};

/// The better member, active whenever it is healthy.
const BETTER: &str = "m1";
/// The other one.
const OTHER: &str = "m2";

/// Service of the lab's configuration that the demo's application uses.
const SERVICE: &str = "orders";

const TIMING: Timing = Timing::QUICK;
const HEALTHY_FOR: Duration = Duration::from_secs(3);
const HOLD_DOWN: Duration = Duration::from_secs(1);

/// The agent has asked each member, and chosen, within this.
const START: Duration = Duration::from_secs(10);

/// What is to happen at once and did not within this time did not happen.
const PATIENCE: Duration = Duration::from_secs(2);

/// Time in which nothing is to happen, between two acts.
const CALM: Duration = Duration::from_secs(2);

impl Fault {
    fn strike(self, lab: &Lab) -> Result<()> {
        let member = lab.member(BETTER);
        match self {
            Self::Crash => member.crash(),
            Self::Freeze => member.freeze(),
            Self::BlackHole => lab.black_hole(member),
        }
    }

    fn mend(self, lab: &Lab) -> Result<()> {
        let member = lab.member(BETTER);
        match self {
            Self::Crash => member.start(),
            Self::Freeze => member.thaw(),
            Self::BlackHole => lab.heal(member),
        }
    }

    /// What happens, and what undoes it.
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Crash => {
                ("the redis-server of m1 is killed (SIGKILL)", "the redis-server of m1 is started")
            }
            Self::Freeze => {
                ("the redis-server of m1 is frozen (SIGSTOP)", "the redis-server of m1 goes on (SIGCONT)")
            }
            Self::BlackHole => {
                ("the router drops every packet from and to m1", "the router forwards to m1 again")
            }
        }
    }
}

/// What the summary shows of a switch.
pub(crate) struct Act {
    pub(crate) from: &'static str,
    pub(crate) seen: Switch,
    /// The agent's own word on it, after it.
    pub(crate) status: ServiceStatus,
}

/// The whole demo. When it returns nothing of it is left.
pub(crate) fn tell(fault: Fault, screen: &mut Screen) -> Result<()> {
    if let Some(reason) = unavailable() {
        bail!("this machine cannot run the demo: {reason}");
    }
    screen.say(Tone::Title, "Redirector: an application goes on while its Redis dies")?;
    screen.say(Tone::Plain, "")?;
    let lab = Lab::builder().build().context("the lab cannot be built")?;
    let config = lab.config().failback(HEALTHY_FOR, HOLD_DOWN).service_line("on_failback = \"reset\"");
    let traces =
        Traces::of(&lab, &[config.pin_dir(), config.control_socket().parent().unwrap_or(config.pin_dir())]);
    let agent = lab.agent(&config)?;
    let result = acts(fault, &lab, &agent, screen);
    if result.is_err() && !interrupted() {
        screen.end_live();
        eprintln!("\n{}", agent.log());
    }
    drop(agent);
    drop(lab);
    let gone = traces.are_gone(screen);
    // What follows from an interruption is no failure of its own; what is left behind is.
    if interrupted() { gone } else { result.and(gone) }
}

fn acts(fault: Fault, lab: &Lab, agent: &Agent, screen: &mut Screen) -> Result<()> {
    agent.wait_active(BETTER, START)?;
    introduce(&service(agent)?, screen)?;

    let start = Instant::now();
    screen.event(start, None, Tone::Plain, "the application starts")?;
    let clients = Clients::start(lab.app())?;
    let mut stage = Stage::new(clients, Tally::new(BETTER, start), screen);
    all_at(&mut stage, BETTER)?;
    calm(&mut stage, BETTER)?;

    let failover = {
        stage.screen.say(Tone::Plain, "")?;
        let at = Instant::now();
        stage.tally.expect(OTHER, Some(at));
        fault.strike(lab)?;
        stage.event(at, None, Tone::Bad, fault.words().0)?;
        all_at(&mut stage, OTHER)?;
        let status = switched(&mut stage, agent, OTHER, "the fault", at)?;
        deliver(&mut stage, lab, OTHER, 0)?;
        calm(&mut stage, OTHER)?;
        Act { from: BETTER, seen: stage.tally.switch.clone(), status }
    };
    ensure_status(&failover.status, ServiceState::Degraded, SwitchKind::Failover)?;

    let failback = {
        stage.screen.say(Tone::Plain, "")?;
        stage.tally.expect(BETTER, None);
        fault.mend(lab)?;
        let at = Instant::now();
        stage.event(at, None, Tone::Plain, fault.words().1)?;
        let rest = format!("{} of health before the agent returns to it", seconds(HEALTHY_FOR));
        stage.screen.more(Tone::Quiet, &rest)?;
        ensure!(
            stage.watch(HEALTHY_FOR + PATIENCE, |tally| tally.switch.since.is_some())?,
            "no failback to {BETTER} within {} of its return",
            seconds(HEALTHY_FOR + PATIENCE)
        );
        all_at(&mut stage, BETTER)?;
        let status = switched(&mut stage, agent, BETTER, "the return of m1", at)?;
        let ghosts = ghosts(&mut stage, fault, lab)?;
        deliver(&mut stage, lab, BETTER, ghosts)?;
        calm(&mut stage, BETTER)?;
        Act { from: OTHER, seen: stage.tally.switch.clone(), status }
    };
    ensure_status(&failback.status, ServiceState::Ok, SwitchKind::Failback)?;

    lab.assert_no_checksum_errors()?;
    let Stage { clients, tally, screen, .. } = stage;
    drop(clients);
    summary::write(screen, fault, [&failover, &failback], &tally, start.elapsed())?;
    ensure!(tally.wrong.is_empty(), "clients failed that should not: {}", tally.wrong.join("; "));
    Ok(())
}

/// What there is, as the agent and the lab have it.
fn introduce(service: &ServiceStatus, screen: &mut Screen) -> Result<()> {
    let [one, two] = service.members.as_slice() else { bail!("two members were expected: {service:?}") };
    let member = |is: &MemberStatus| format!("{}  {}  weight {}", is.name, is.endpoint, is.weight);
    let left = format!("  application ──▶ VIP {} ──▶ router ──", vip());
    let space = " ".repeat(left.chars().count());
    screen.say(Tone::Plain, &format!("{space}┌─ {}", member(one)))?;
    screen.say(Tone::Plain, &format!("{left}┤"))?;
    screen.say(Tone::Plain, &format!("{space}└─ {}", member(two)))?;
    let (interval, timeout) = (TIMING.interval.as_millis(), TIMING.timeout.as_millis());
    let (fall, healthy_for) = (TIMING.fall, seconds(HEALTHY_FOR));
    screen.say_all(
        Tone::Quiet,
        &format!(
            "
  No machine has the VIP: the kernel of the application's host sends what goes there to
  the active member. {CONNECTIONS} connections SET and GET all the time, one client is blocked in
  BLPOP, one is subscribed. All know the VIP only, and connect again when a connection ends.

  The agent sends PING to each member every {interval} ms; {fall} failures in a row mean down, and
  {timeout} ms without an answer are a failure. It returns to the better member after {healthy_for} of
  health, and then resets open connections (on_failback = \"reset\"; the default drains them).

  Hosts are network namespaces, made for this run. Both Redis servers are real. They do not
  replicate, which would be the database's work.
"
        ),
    )?;
    screen.say(Tone::Plain, "")?;
    screen.say(Tone::Quiet, "since start  since event")?;
    Ok(())
}

/// Waits until every client is served by `member`.
fn all_at(stage: &mut Stage<'_>, member: &str) -> Result<()> {
    if stage.watch(PATIENCE, |tally| tally.switch.is_complete())? {
        return Ok(());
    }
    let switch = &stage.tally.switch;
    let mut missing = Vec::new();
    let connections = switch.moved.iter().filter(|moved| moved.is_none()).count();
    if connections > 0 {
        missing.push(many(connections, "connection"));
    }
    let waiting = Waiting::ALL.into_iter().zip(&switch.waits);
    missing
        .extend(waiting.filter(|(_, wait)| wait.waits.is_none()).map(|(client, _)| client.name().to_owned()));
    bail!("not served by {member} within {}: {}", seconds(PATIENCE), missing.join(", "))
}

/// Nothing happens for a while, and that is said with a figure.
fn calm(stage: &mut Stage<'_>, member: &str) -> Result<()> {
    let (start, rounds, wrong) = (Instant::now(), stage.tally.rounds, stage.tally.wrong.len());
    stage.pass(CALM)?;
    let time = seconds(Duration::from_millis(u64::try_from(start.elapsed().as_millis() / 100 * 100)?));
    let commands = many((stage.tally.rounds - rounds) * COMMANDS, "command");
    let failed = match stage.tally.wrong.len() - wrong {
        0 => "none failed".to_owned(),
        failures => many(failures, "failure"),
    };
    stage.event(
        Instant::now(),
        None,
        Tone::Plain,
        &format!("{member}: {commands} answered in {time}, {failed}"),
    )?;
    Ok(())
}

/// What the agent says of the switch that the clients have seen.
fn switched(
    stage: &mut Stage<'_>,
    agent: &Agent,
    member: &str,
    what: &str,
    at: Instant,
) -> Result<ServiceStatus> {
    agent.wait_active(member, PATIENCE)?;
    let status = service(agent)?;
    let last = status.last_switch.as_ref().context("the agent knows of no switch")?;
    // The status has whole milliseconds, by the clock on the wall.
    let began = SystemTime::now().checked_sub(at.elapsed()).context("the clock")?;
    let moved = humantime::parse_rfc3339(&last.at).context("last_switch.at")?;
    let after = moved.duration_since(began).unwrap_or_default().as_millis();
    let text = format!(
        "agent: {} to {member} {after} ms after {what}; service {}, epoch {}",
        last.kind, status.state, status.epoch
    );
    stage.event(Instant::now(), None, Tone::Plain, &text)?;
    stage.screen.more(Tone::Quiet, &last.reason)?;
    Ok(status)
}

/// How many clients of before the fault the member that returned still has in `BLPOP`. A crash leaves none, and one
/// that was frozen has heard of their end; but in a black hole that news is lost too, as with every TCP client.
fn ghosts(stage: &mut Stage<'_>, fault: Fault, lab: &Lab) -> Result<usize> {
    let all = waiting_at(lab, BETTER)?.saturating_sub(Waiting::ALL.len());
    let blocked = blocked_at(lab, BETTER)?.saturating_sub(1);
    if all > 0 {
        ensure!(fault == Fault::BlackHole, "{BETTER} still has {} of before", many(all, "waiting client"));
        let text = format!("{BETTER} still has {} of before the fault", many(all, "waiting client"));
        stage.event(Instant::now(), None, Tone::Trouble, &text)?;
        let lost =
            format!("it could not be told of their end: {} will go to nobody", many(blocked, "element"));
        stage.screen.more(Tone::Quiet, &lost)?;
    }
    Ok(blocked)
}

fn blocked_at(lab: &Lab, member: &str) -> Result<usize> {
    Ok(lab.member(member).clients()?.iter().filter(|line| line.contains("cmd=blpop")).count())
}

/// The clients that wait get what they wait for, sent through the VIP as everything else; the oldest client in
/// `BLPOP` is served first, so `ghosts` get theirs before.
fn deliver(stage: &mut Stage<'_>, lab: &Lab, member: &str, ghosts: usize) -> Result<()> {
    let mut sender = lab.app().connect(vip()).context("a new connection through the VIP")?;
    sender.set_time_limit(Some(PATIENCE))?;
    let sent = Instant::now();
    let elements = ["RPUSH", QUEUE].into_iter().chain(iter::repeat_n("an element", ghosts + 1));
    for command in [elements.collect::<Vec<_>>(), vec!["PUBLISH", CHANNEL, "a message"]] {
        let reply = sender.command(&command).with_context(|| command.join(" "))?;
        ensure!(matches!(reply, Value::Integer(1..)), "{}: {reply:?}", command.join(" "));
    }
    ensure!(
        stage.watch(PATIENCE, |tally| tally.delivered == [true; 2])?,
        "{} pushed and a message published, but delivered to {:?}: {:?}",
        many(ghosts + 1, "element"),
        Waiting::ALL,
        stage.tally.delivered,
    );
    let text = "BLPOP gets an element, the subscriber a message, both through the VIP";
    stage.event(sent, None, Tone::Plain, text)?;
    wait_until("nobody else waits", PATIENCE, || {
        waiting_at(lab, member).is_ok_and(|count| count == Waiting::ALL.len())
    })
    .with_context(|| format!("{member} has other waiting clients than the demo's"))?;
    Ok(())
}

fn service(agent: &Agent) -> Result<ServiceStatus> {
    let status: Status = serde_json::from_value(agent.status()?)?;
    let found = status.services.into_iter().find(|service| service.name == SERVICE);
    found.with_context(|| format!("the agent has no service {SERVICE}"))
}

fn ensure_status(status: &ServiceStatus, state: ServiceState, kind: SwitchKind) -> Result<()> {
    let last = status.last_switch.as_ref();
    ensure!(
        status.state == state && last.is_some_and(|last| last.kind == kind),
        "the agent's status should say {state} after a {kind}: {status:?}"
    );
    Ok(())
}

/// What a lab leaves if it leaves something.
struct Traces {
    paths: Vec<PathBuf>,
    namespaces: Vec<u64>,
}

impl Traces {
    fn of(lab: &Lab, paths: &[&std::path::Path]) -> Self {
        let namespaces = lab.hosts().map(|host| host.namespace().inode()).collect();
        Self { paths: paths.iter().map(|path| path.to_path_buf()).collect(), namespaces }
    }

    fn are_gone(&self, screen: &mut Screen) -> Result<()> {
        for path in &self.paths {
            ensure!(!path.exists(), "{} is left behind", path.display());
        }
        // Threads that have just ended may still be there.
        wait_until("the namespaces are gone", PATIENCE, || {
            !self.namespaces.iter().any(|inode| namespace_exists(*inode))
        })?;
        let text = "  Removed: servers, clients, agent, kernel programs, pins, namespaces. Nothing is left.";
        screen.say(Tone::Quiet, text)?;
        Ok(())
    }
}
