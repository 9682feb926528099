//! A restarted agent that cannot see any member changes nothing: perhaps it is the one that is cut off.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use redirector_tests::{
    Agent, Application, Lab, Offloads, Scenario, new_connections_are_served_by, wait_until,
};
use serde_json::Value as Json;

use super::START;

fn services(agent: &Agent) -> Result<Vec<Json>> {
    Ok(agent.status()?["services"].as_array().context("no services")?.clone())
}

/// Active member and epoch of each service.
fn decisions(agent: &Agent) -> Result<Vec<(Json, Json)>> {
    Ok(services(agent)?
        .into_iter()
        .map(|service| (service["active"].clone(), service["epoch"].clone()))
        .collect())
}

/// Waits until these members are in `state`, in every service.
fn are(agent: &Agent, names: &[&str], state: &str) -> Result<()> {
    let all = || -> Result<bool> {
        let services = services(agent)?;
        let members = services.iter().filter_map(|service| service["members"].as_array()).flatten();
        let named = |member: &&Json| names.iter().any(|name| member["name"] == *name);
        Ok(members.filter(named).all(|member| member["state"] == state))
    };
    wait_until(&format!("{names:?} are {state}"), START, || all().unwrap_or(false))?;
    Ok(())
}

fn on_failover_to_m2(lab: &Lab) -> Result<Agent> {
    let agent = lab.agent(&lab.config().failback(Duration::from_secs(60), Duration::from_secs(60)))?;
    agent.wait_active("m1", START)?;
    lab.member("m1").crash()?;
    agent.wait_active("m2", START)?;
    lab.member("m1").start()?;
    Ok(agent)
}

/// Not the best member is active, so that a choice made anew would be another one. While nothing answers, and after it
/// answers again: the same member, the same epoch, the same flows.
#[test]
fn decisions_stay_while_every_member_is_unreachable() {
    Scenario::new(Offloads::On).run(|lab| {
        let mut agent = on_failover_to_m2(lab)?;
        let application = Application::start(lab, 2, "m2")?;
        let before = decisions(&agent)?;
        agent.kill()?;
        lab.members().iter().try_for_each(|member| lab.black_hole(member))?;
        agent.start()?;
        ensure!(decisions(&agent)? == before, "before there are verdicts: {:#}", agent.status()?);
        are(&agent, &["m1", "m2"], "down")?;
        // Long enough for another round of probes.
        thread::sleep(Duration::from_millis(300));
        ensure!(decisions(&agent)? == before, "after all are down: {:#}", agent.status()?);

        // The active one first: another one that comes up while it is down would be a reason to leave it.
        for name in ["m2", "m1"] {
            lab.heal(lab.member(name))?;
            are(&agent, &[name], "up")?;
        }
        ensure!(decisions(&agent)? == before, "after all are up: {:#}", agent.status()?);
        application.still_waits()?;
        for timeline in application.timelines() {
            ensure!(timeline.failures_since(timeline.start).is_empty(), "{timeline}");
        }
        new_connections_are_served_by(lab, "m2")
    });
}
