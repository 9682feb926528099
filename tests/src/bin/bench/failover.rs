//! From a fault of the active member until every client is served by the other one.

use std::{
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{Agent, Lab, Load, Member, VIP_PORT, VIP_V4, WaitingClient, Workers, wait_until};
use serde_json::Value as Json;

use crate::{
    START,
    effort::Effort,
    figures::{Readings, row, table},
};

/// The default one, and the one for those who are in a hurry.
const PROFILES: [&str; 2] = ["balanced", "fast"];

const WORKERS: usize = 16;
/// Clients of each kind that waits.
const WAITING: usize = 4;
/// Anything that is to happen at once happens within this or not at all.
const SOON: Duration = Duration::from_secs(5);

type Act = fn(&Lab, &Member) -> Result<()>;

/// A way to fail, and its end.
struct Fault {
    name: &'static str,
    /// What `check` calls the longest time until it is seen.
    computed: &'static str,
    strike: Act,
    undo: Act,
}

const FAULTS: [Fault; 3] = [
    Fault {
        name: "crash (SIGKILL, its host refuses)",
        computed: "crash_ms",
        strike: |_, member| member.crash(),
        undo: |_, member| member.start(),
    },
    Fault {
        name: "black hole (nothing comes back)",
        computed: "silence_ms",
        strike: Lab::black_hole,
        undo: Lab::heal,
    },
    Fault {
        name: "freeze (SIGSTOP, its host acknowledges)",
        computed: "stall_ms",
        strike: |_, member| member.freeze(),
        undo: |_, member| member.thaw(),
    },
];

pub fn measure(effort: &Effort) -> Result<()> {
    for profile in PROFILES {
        of_profile(effort, profile).with_context(|| format!("profile {profile}"))?;
    }
    Ok(())
}

fn of_profile(effort: &Effort, profile: &str) -> Result<()> {
    let lab = Lab::builder().build()?;
    // Every outage begins at m1: the agent returns to it soon, and takes all clients along.
    let moment = Duration::from_millis(200);
    let config = lab.config().timing(None).one_service().failback(moment, moment);
    let config = config.service_line("on_failback = \"reset\"");
    let agent = lab.agent(&config.service_line(&format!("profile = \"{profile}\"")))?;

    let load = load();
    table(
        &format!("Failover, `profile = \"{profile}\"`"),
        &format!(
            "{WORKERS} workers, each with a connection, a SET and a GET and a rest of {:?}, reconnecting at once; \
             {WAITING} clients in `BLPOP` and {WAITING} subscribers, all over IPv4. {} outages of each kind with this \
             traffic, and as many with none. From before the fault is made until every worker had an answer of the \
             other member; from the decision (as the event log has it, to the millisecond) until the last waiting \
             client's connection had ended; without traffic, from the fault to the decision; and what `check` \
             computes for the decision at the most. Milliseconds, median (min to max).",
            load.pause, effort.outages
        ),
        &[
            "fault of the active member",
            "all workers served again",
            "all blocked and subscribed clients woken after the decision",
            "decided without traffic",
            "computed at the most, with traffic",
            "without",
        ],
    );
    for fault in FAULTS {
        let (mut busy, mut idle) = (Vec::new(), Vec::new());
        for round in 0..effort.outages {
            let outage = outage(&lab, &agent, &fault, load, round);
            busy.push(outage.with_context(|| format!("{}, outage {round}", fault.name))?);
            let outage = idle_outage(&lab, &agent, &fault, round);
            idle.push(outage.with_context(|| format!("{}, idle, outage {round}", fault.name))?);
        }
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        let served = Readings::new(busy.iter().map(|outage| milliseconds(outage.served)))?;
        let woken = Readings::new(busy.iter().map(|outage| milliseconds(outage.woken)))?;
        let computed = computed(&agent, &fault)?;
        row(&[
            fault.name.to_owned(),
            format!("{served:.0}"),
            format!("{woken:.1}"),
            format!("{:.0}", Readings::new(idle.into_iter().map(milliseconds))?),
            computed[0].to_string(),
            computed[1].to_string(),
        ]);
    }
    println!();
    Ok(())
}

fn load() -> Load {
    Load::new(WORKERS, (VIP_V4, VIP_PORT))
}

struct Outage {
    /// From the fault.
    served: Duration,
    /// From the decision.
    woken: Duration,
}

/// One outage of m1, with clients of its own.
fn outage(lab: &Lab, agent: &Agent, fault: &Fault, load: Load, round: usize) -> Result<Outage> {
    agent.wait_active("m1", START)?;
    let start = Instant::now();
    let workers = Workers::start(lab.app(), load)?;
    workers.wait_served_by("m1", start, SOON)?;
    let waiting = waiting_clients(lab)?;
    somewhere_between_two_probes(round);

    let member = lab.member("m1");
    let (since, began) = (Instant::now(), SystemTime::now());
    (fault.strike)(lab, member)?;
    let served = workers.wait_served_by("m2", since, SOON)?;
    let decided = decision(agent, began)?;
    let mut woken = Duration::ZERO;
    for client in &waiting {
        let wake = client.wait_woken(SOON)?;
        ensure!(wake.with.is_err(), "woken by an answer: {wake:?}");
        // Those of a server that has died are woken by its host, before anything is decided.
        woken = woken.max(wake.at.saturating_duration_since(since).saturating_sub(decided));
    }
    drop(workers);
    (fault.undo)(lab, member)?;
    Ok(Outage { served, woken })
}

/// The same without any client: only probes can see it. From the fault to the decision.
fn idle_outage(lab: &Lab, agent: &Agent, fault: &Fault, round: usize) -> Result<Duration> {
    agent.wait_active("m1", START)?;
    somewhere_between_two_probes(round);
    let member = lab.member("m1");
    let began = SystemTime::now();
    (fault.strike)(lab, member)?;
    agent.wait_active("m2", SOON)?;
    let decided = decision(agent, began)?;
    (fault.undo)(lab, member)?;
    Ok(decided)
}

/// Another place each time: 37 and 10 share no factor.
fn somewhere_between_two_probes(round: usize) {
    thread::sleep(Duration::from_millis(1_000 + round as u64 * 370 % 1_000));
}

/// When m1 was left, from `began`, as the event log has it.
fn decision(agent: &Agent, began: SystemTime) -> Result<Duration> {
    let mut decided = None;
    // It is written a moment after it was made.
    wait_until("the switch is in the event log", SOON, || {
        let output = agent.verb(&["events", "-o", "json", "--since", "10s"]).ok();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let events = text.iter().flat_map(|text| text.lines());
        let events = events.filter_map(|line| serde_json::from_str::<Json>(line).ok());
        let mut switches = events.filter(|event| event["event"] == "switch" && event["from"] == "m1");
        let at = switches.next_back().and_then(|event| event["at"].as_str().map(str::to_owned));
        let at = at.and_then(|at| humantime::parse_rfc3339(&at).ok());
        decided = at.and_then(|at| (at + Duration::from_millis(1)).duration_since(began).ok());
        decided.is_some()
    })?;
    // The stamp is cut to the millisecond: a half more is right on average.
    Ok(decided.context("it was just found")?.saturating_sub(Duration::from_micros(500)))
}

/// What `check` says of m1, in milliseconds: with traffic, and without.
fn computed(agent: &Agent, fault: &Fault) -> Result<[u64; 2]> {
    let file = agent.config_file().to_string_lossy().into_owned();
    let output = agent.verb(&["check", "--config", &file, "-o", "json"])?;
    let findings: Json = serde_json::from_slice(&output.stdout).context("check -o json")?;
    let member = findings["detection"].as_array().into_iter().flatten().find(|one| one["member"] == "m1");
    let member = member.with_context(|| format!("no m1 in {:#}", findings["detection"]))?;
    let time = |of: &Json| {
        let time = of[fault.computed].as_u64();
        time.with_context(|| format!("no {} in {member:#}", fault.computed))
    };
    Ok([time(&member["with_traffic"])?, time(member)?])
}

fn waiting_clients(lab: &Lab) -> Result<Vec<WaitingClient>> {
    let address = (VIP_V4, VIP_PORT).into();
    let mut clients = Vec::new();
    for _ in 0..WAITING {
        clients.push(WaitingClient::blocked(lab.app(), address, "bench:queue")?);
        clients.push(WaitingClient::subscribed(lab.app(), address, "bench:news")?);
    }
    for client in &clients {
        ensure!(client.member == "m1", "{client:?} waits at {}, not at m1", client.member);
    }
    Ok(clients)
}
