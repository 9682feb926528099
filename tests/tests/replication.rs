//! Members that live, and do not hear each other: what a heartbeat bars, and what it does not.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use redirector_tests::{
    Agent, AgentConfig, Lab, Member, Scenario, slowness, wait_until, with_and_without_offloads,
};
use serde_json::Value as Json;

const START: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(15);

with_and_without_offloads! {
    a_member_that_is_behind_is_not_gone_back_to,
}

/// A primary hands on what is published to its replica, and a replica nothing to its primary: replication in one direction.
fn replicate(from: &Member, to: &Member) -> Result<()> {
    let (address, port) = (from.v4().ip().to_string(), from.v4().port().to_string());
    from.command(&["REPLICAOF", "NO", "ONE"])?;
    to.command(&["REPLICAOF", &address, &port])?;
    let info = || to.command(&["INFO", "replication"]).ok()?.text();
    wait_until("the replication stands", SOON, || {
        info().is_some_and(|text| text.contains("master_link_status:up"))
    })?;
    Ok(())
}

fn config(lab: &Lab) -> AgentConfig {
    let ms = |milliseconds| format!("\"{}ms\"", milliseconds * slowness());
    let heartbeat = format!(
        "kind = \"heartbeat\"\ninterval = {}\nfast_interval = {}\ntimeout = {}\ntolerance = {}",
        ms(100),
        ms(50),
        ms(200),
        ms(600)
    );
    lab.config().one_service().failback(Duration::from_millis(500), Duration::ZERO).check(&heartbeat)
}

/// What is said of a member of the first service.
fn member(agent: &Agent, number: usize) -> Result<Json> {
    Ok(agent.status()?["services"][0]["members"][number].clone())
}

/// `redirector check` asks all members together, too: whether the heartbeat of each passes.
fn checked(agent: &Agent, expected: &[bool]) -> Result<()> {
    let file = agent.config_file().to_string_lossy().into_owned();
    let output = agent.verb(&["check", "--config", &file, "-o", "json"])?;
    let findings: Json = serde_json::from_slice(&output.stdout)?;
    let checks = findings["checks"].as_array().context("checks")?;
    let beats: Vec<_> = checks.iter().filter(|check| check["check"] == "heartbeat").collect();
    ensure!(beats.len() == expected.len(), "{findings:#}");
    for (beat, passed) in beats.into_iter().zip(expected) {
        ensure!(beat["passed"] == *passed, "{beat:#}");
        let says = beat["result"].as_str().context("result")?;
        ensure!(*passed || says.ends_with("replication from m2 is broken"), "{beat:#}");
    }
    Ok(())
}

/// The heartbeat evicts nobody: a member that does not hear the other one stays active, and bars no failover. It only keeps
/// the agent from leaving a member that lives for one that is behind.
fn a_member_that_is_behind_is_not_gone_back_to(scenario: Scenario) {
    scenario.run(|lab| {
        let (m1, m2) = (lab.member("m1"), lab.member("m2"));
        replicate(m1, m2)?;
        let agent = lab.agent(&config(lab))?;
        agent.wait_active("m1", START)?;
        let silent = "no message from m2";
        wait_until("m1 does not hear m2", SOON, || {
            member(&agent, 0).is_ok_and(|m1| m1["reason"].as_str().is_some_and(|text| text.contains(silent)))
        })?;
        ensure!(member(&agent, 0)?["state"] == "up", "{:#}", agent.status()?);
        ensure!(agent.status()?["services"][0]["active"] == "m1", "{:#}", agent.status()?);

        checked(&agent, &[false, true])?;

        m1.crash()?;
        agent.wait_active("m2", START)?;
        m1.start()?;
        wait_until("m1 is up and barred", SOON, || {
            member(&agent, 0).is_ok_and(|m1| {
                let why = m1["eligible_reason"].as_str().unwrap_or_default();
                m1["state"] == "up" && why.contains(silent)
            })
        })?;
        // Four times as long as a failback takes.
        thread::sleep(Duration::from_secs(2) * slowness());
        ensure!(agent.status()?["services"][0]["active"] == "m2", "{:#}", agent.status()?);

        replicate(m2, m1)?;
        agent.wait_active("m1", SOON)?;
        let status = agent.status()?;
        ensure!(status["services"][0]["last_switch"]["kind"] == "failback", "{status:#}");
        Ok(())
    });
}
