//! How soon trouble is seen with the defaults of a profile, and what is borne: measured, beside what `check` computes.
//!
//! A bound here is the computed worst case, and some time for a switch, for clients that connect again, and for a machine
//! that does something else too.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{
    Agent, AgentConfig, Lab, Load, Member, Offloads, Scenario, VIP_PORT, VIP_V4, Workers, slowness,
    wait_until,
};

const START: Duration = Duration::from_secs(10);

/// Between the decision and the moment when every client is served again.
const AFTERWARDS: Duration = Duration::from_millis(150);

/// Of each kind of trouble.
const ROUNDS: u32 = 3;

/// What happens to a member, the words for it, and how it ends.
type Fault = (&'static str, &'static str, fn(&Lab, &Member) -> Result<()>, fn(&Lab, &Member) -> Result<()>);

const FAULTS: [Fault; 3] = [
    ("crash", "connection refused", |_, member| member.crash(), |_, member| member.start()),
    ("silence", "connect timed out", Lab::black_hole, Lab::heal),
    ("stall", "command timed out", |_, member| member.freeze(), |_, member| member.thaw()),
];

#[test]
fn fast() {
    let scenario = Scenario::new(Offloads::On);
    scenario.run(|lab| sees(lab, "fast", [4, 130, 131]));
}

#[test]
fn balanced() {
    let scenario = Scenario::new(Offloads::On);
    scenario.limit(Duration::from_secs(90)).run(|lab| sees(lab, "balanced", [4, 1300, 2002]));
}

/// The agent's defaults, and back to the better member soon.
fn config(lab: &Lab, profile: &str) -> AgentConfig {
    let moment = Duration::from_millis(200);
    let config = lab.config().timing(None).failback(moment, moment);
    config.service_line("on_failback = \"reset\"").service_line(&format!("profile = \"{profile}\""))
}

/// `worst`: as computed for crash, silence and stall, in milliseconds.
fn sees(lab: &Lab, profile: &str, worst: [u64; 3]) -> Result<()> {
    let agent = lab.agent(&config(lab, profile))?;
    agent.wait_active("m1", START)?;
    let workers = Workers::start(lab.app(), Load::new(4, (VIP_V4, VIP_PORT)))?;
    for ((name, words, strike, undo), worst) in FAULTS.into_iter().zip(worst) {
        let mut measured = Vec::new();
        for round in 0..ROUNDS {
            agent.wait_active("m1", START)?;
            workers.wait_served_by("m1", Instant::now(), START)?;
            // Anywhere between two probes.
            thread::sleep(Duration::from_millis(u64::from(round) * 137));
            let since = Instant::now();
            strike(lab, lab.member("m1"))?;
            measured.push(workers.wait_served_by("m2", since, START)?);
            let status = agent.status()?;
            let reason = status["services"][0]["last_switch"]["reason"].to_string();
            ensure!(reason.contains(words), "{name}: {reason}");
            undo(lab, lab.member("m1"))?;
        }
        eprintln!(
            "{profile}, {name}: served by the other after {measured:?}, computed {worst} ms at the most"
        );
        let bound = (Duration::from_millis(worst) + AFTERWARDS) * slowness();
        ensure!(
            measured.iter().all(|served| *served < bound),
            "{name}: {measured:?}, the bound is {bound:?}"
        );
    }
    Ok(())
}

/// A fork, a slow script: Redis is back within half a second, and nobody has moved. A whole second is not borne.
#[test]
fn stalls_are_borne() {
    let scenario = Scenario::new(Offloads::On);
    scenario.run(|lab| {
        let agent = lab.agent(&config(lab, "balanced"))?;
        agent.wait_active("m1", START)?;
        let before = epochs(&agent)?;
        for _ in 0..3 {
            lab.member("m1").freeze()?;
            thread::sleep(Duration::from_millis(500));
            lab.member("m1").thaw()?;
            thread::sleep(Duration::from_millis(1300));
            ensure!(
                epochs(&agent)? == before,
                "a stall of half a second was no reason to move: {:#}",
                agent.status()?
            );
        }
        lab.member("m1").freeze()?;
        agent.wait_active("m2", START)?;
        Ok(())
    });
}

/// With a tolerance, a server that is started again within it is not left; one that stays away is.
#[test]
fn restarts_are_borne() {
    let scenario = Scenario::new(Offloads::On);
    scenario.run(|lab| {
        let config = config(lab, "balanced").detect_line("refused_tolerance = \"1500ms\"");
        let agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        let before = epochs(&agent)?;
        lab.member("m1").crash()?;
        thread::sleep(Duration::from_millis(800));
        let reason = agent.status()?["services"][0]["members"][0]["reason"].to_string();
        ensure!(reason.contains("borne for 1s 500ms"), "{reason}");
        lab.member("m1").start()?;
        let up = || agent.status().is_ok_and(|status| status["services"][0]["members"][0]["state"] == "up");
        wait_until("m1 is up", START, up)?;
        thread::sleep(Duration::from_secs(2));
        ensure!(epochs(&agent)? == before, "it was back in time: {:#}", agent.status()?);

        let crash = Instant::now();
        lab.member("m1").crash()?;
        agent.wait_active("m2", START)?;
        let left = crash.elapsed();
        eprintln!("refusals borne for 1.5 s: left after {left:?}");
        ensure!(left >= Duration::from_millis(1500), "left after {left:?}");
        ensure!(left < Duration::from_millis(2000) * slowness(), "left after {left:?}");
        Ok(())
    });
}

fn epochs(agent: &Agent) -> Result<Vec<u64>> {
    let status = agent.status()?;
    let services = status["services"].as_array().context("services")?;
    services.iter().map(|service| service["epoch"].as_u64().context("epoch")).collect()
}
