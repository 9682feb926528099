//! What the agent itself adds to a decision: it records what was handed in, and suspects itself when it was not scheduled.
//!
//! Nothing here depends on offloads.

use std::{path::Path, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use redirector_tests::{Agent, Application, Offloads, Scenario, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

const START: Duration = Duration::from_secs(10);

/// A failover and the failback that follows, recorded by one agent and replayed by the command line.
#[test]
fn a_recording_that_is_replayed_makes_the_same_switches() {
    Scenario::new(Offloads::On).run(|lab| {
        let config = lab.config().failback(Duration::from_secs(1), Duration::from_millis(500));
        let file = config.control_socket().with_file_name("record.jsonl");
        let mut agent = lab.agent(&config.agent_line(&format!("record = {file:?}")))?;
        agent.wait_active("m1", START)?;
        lab.member("m1").crash()?;
        agent.wait_active("m2", START)?;
        lab.member("m1").start()?;
        agent.wait_active("m1", START)?;
        let status = agent.status()?;
        let epochs = [epoch(&status, 0)?, epoch(&status, 1)?];
        ensure!(agent.terminate()?.success(), "{}", agent.log());

        let simulated = simulate(&agent, &file)?;
        for (number, service) in ["orders", "orders6"].iter().enumerate() {
            let switches: Vec<_> = simulated["switches"]
                .as_array()
                .context("switches")?
                .iter()
                .filter(|switch| switch["service"] == *service)
                .collect();
            let kinds: Vec<_> = switches.iter().filter_map(|switch| switch["kind"].as_str()).collect();
            ensure!(kinds == ["initial", "failover", "failback"], "{service}: {simulated:#}");
            let last = switches.last().context("the failback")?;
            ensure!(last["epoch"] == epochs[number] && last["to"] == "m1", "{service}: {simulated:#}");
            let lived = &status["services"][number]["last_switch"]["reason"];
            ensure!(last["reason"] == *lived, "lived {lived}, replayed {last}");
        }
        eprintln!("{} lines, {:.1} s", simulated["lines"], simulated["seconds"]);
        Ok(())
    });
}

fn simulate(agent: &Agent, file: &Path) -> Result<Json> {
    let output = agent.verb(&["simulate", &file.display().to_string(), "-o", "json"])?;
    ensure!(output.status.success(), "simulate: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("simulate -o json prints something else")
}

fn epoch(status: &Json, service: usize) -> Result<u64> {
    status["services"][service]["epoch"].as_u64().with_context(|| format!("{status:#}"))
}

/// The agent is stopped for three seconds, three times: probes that were under way have passed their time-out when it goes on.
#[test]
fn an_agent_that_was_stopped_leaves_nobody_for_it() {
    Scenario::new(Offloads::On).run(|lab| {
        let agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        let application = Application::start(lab, 2, "m1")?;
        stop_and_go_on(&agent)?;
        agent.wait_logged(&["was not scheduled", "late_ms"], Duration::from_secs(5))?;
        thread::sleep(Duration::from_secs(2));
        let status = agent.status()?;
        ensure!(epoch(&status, 0)? == 1 && status["services"][0]["active"] == "m1", "{status:#}");
        for timeline in application.timelines() {
            ensure!(timeline.failures_since(timeline.start).is_empty(), "{timeline}");
        }
        // And it goes on as before.
        lab.member("m1").crash()?;
        wait_until("the crash is seen", START, || {
            agent.status().is_ok_and(|s| s["services"][0]["active"] == "m2")
        })?;
        Ok(())
    });
}

fn stop_and_go_on(agent: &Agent) -> Result<()> {
    let pid = agent.pid().and_then(|pid| Pid::from_raw(pid.cast_signed())).context("the agent runs")?;
    for _ in 0..3 {
        kill_process(pid, Signal::STOP)?;
        thread::sleep(Duration::from_secs(3));
        kill_process(pid, Signal::CONT)?;
        thread::sleep(Duration::from_millis(700));
    }
    Ok(())
}
