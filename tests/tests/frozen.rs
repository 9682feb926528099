//! An agent that is not scheduled while the active member dies. Nothing is worse than without it: what it has decided goes on
//! to hold, in the kernel. And it acts as soon as it goes on.

use std::{
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{Agent, Failure, Load, Offloads, Scenario, VIP_PORT, VIP_V4, What, Workers, slowness};
use serde_json::Value as Json;

const START: Duration = Duration::from_secs(10);

const ROUNDS: usize = 3;

/// Long enough to be noticed: the agent looks at the clock twice a second.
const FROZEN: Duration = Duration::from_millis(1500);

/// From the moment when the agent goes on.
const ACTS_WITHIN: Duration = Duration::from_millis(50);

#[test]
fn a_crash_while_the_agent_is_frozen() {
    Scenario::new(Offloads::On).run(|lab| {
        let moment = Duration::from_millis(200);
        let config = lab.config().timing(None).failback(moment, moment);
        let mut agent = lab.agent(&config.service_line("on_failback = \"reset\""))?;
        let mut acted = Vec::new();
        for _ in 0..ROUNDS {
            agent.wait_active("m1", START)?;
            let start = Instant::now();
            let workers = Workers::start(lab.app(), Load::new(8, (VIP_V4, VIP_PORT)))?;
            workers.wait_served_by("m1", start, START)?;

            agent.freeze()?;
            let frozen = Instant::now();
            thread::sleep(FROZEN / 2);
            let connection = lab.app().connect((VIP_V4, VIP_PORT).into());
            ensure!(connection?.whoami()? == "m1", "a new connection is served too");
            ensure!(workers.timeline().failures_since(start).is_empty(), "{}", workers.timeline());

            let crash = Instant::now();
            lab.member("m1").crash()?;
            thread::sleep(FROZEN / 2);
            for failure in workers.timeline().failures_since(crash) {
                ensure!(is_prompt(&failure.what), "nobody waits for nothing: {failure:?}");
            }

            let (thawed, at) = (Instant::now(), SystemTime::now());
            agent.thaw()?;
            let served = workers.wait_served_by("m2", thawed, START)?;
            let missed = thawed - frozen;
            let switched = switched(&agent, at)?;
            eprintln!(
                "frozen for {missed:.1?}: acted {switched:.1?} after it went on, all served after {served:.1?}"
            );
            acted.push(switched.max(served));
            lab.member("m1").start()?;
        }
        acted.sort_unstable();
        ensure!(acted[ROUNDS / 2] < ACTS_WITHIN * slowness(), "{acted:?}");

        // It is told once in a while.
        let late = last(&agent, "late")?["late_ms"].as_f64().context("late_ms")?;
        let frozen = FROZEN.as_secs_f64() * 1e3;
        // Half a second of it may have been sleep that was due.
        ensure!(late > frozen - 600.0 && late < (frozen + 500.0) * f64::from(slowness()), "late by {late} ms");
        Ok(())
    });
}

/// What a client is told at once by the host of a server that has died.
fn is_prompt(what: &What) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, ConnectionReset, UnexpectedEof};
    match what {
        What::Failed(Failure::Connect(kind)) => *kind == ConnectionRefused,
        What::Failed(Failure::Command(kind)) => matches!(kind, ConnectionReset | UnexpectedEof),
        _ => false,
    }
}

/// How long after `since` the last switch was made. Events are stamped with whole milliseconds.
fn switched(agent: &Agent, since: SystemTime) -> Result<Duration> {
    let switch = last(agent, "switch")?;
    ensure!(switch["kind"] == "failover" && switch["to"] == "m2", "{switch:#}");
    let at = humantime::parse_rfc3339(switch["at"].as_str().context("at")?)? + Duration::from_millis(1);
    at.duration_since(since).context("it was made while the agent was frozen")
}

/// The newest event of this name.
fn last(agent: &Agent, name: &str) -> Result<Json> {
    let output = agent.verb(&["events", "-o", "json", "--since", "1m"])?;
    ensure!(output.status.success(), "events: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let events = text.lines().map(|line| Ok(serde_json::from_str::<Json>(line)?));
    let events: Vec<_> = events.collect::<Result<_>>()?;
    let found = events.iter().rev().find(|event| event["event"] == name);
    found.cloned().with_context(|| format!("no {name} among {events:#?}"))
}
