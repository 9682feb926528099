//! The life of flows: what is idle is collected, what is half open is capped, and nothing is left over.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test: what is odd shall panic")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redirector_tests::{Agent, AgentConfig, Lab, Timing, wait_until};
use serde_json::Value as Json;

#[path = "flow_life/collected.rs"]
mod collected;
#[path = "flow_life/flood.rs"]
mod flood;
#[path = "flow_life/kept_ports.rs"]
mod kept_ports;
#[path = "flow_life/many.rs"]
mod many;
#[path = "flow_life/short.rs"]
mod short;
#[path = "flow_life/tables.rs"]
mod tables;

const START: Duration = Duration::from_secs(10);

/// Nothing here is about failover: a busy machine shall cause none.
const PATIENT: Timing = Timing {
    interval: Duration::from_secs(1),
    fast_interval: Duration::from_millis(500),
    timeout: Duration::from_secs(5),
    fall: 10,
    tolerance: Duration::from_secs(50),
};

fn config(lab: &Lab) -> AgentConfig {
    lab.config().timing(Some(PATIENT))
}

/// Collections come every second, and find what was idle for one.
fn impatient(config: AgentConfig, established: &str) -> AgentConfig {
    config.datapath_line(&format!(
        "[datapath.idle_timeouts]\nopening = \"1s\"\nestablished = \"{established}\"\nclosing = \"1s\""
    ))
}

/// `redirector flows -o json` with these arguments.
fn flows(agent: &Agent, arguments: &[&str]) -> Result<Json> {
    let output = agent.verb(&[&["flows", "-o", "json"], arguments].concat())?;
    ensure!(output.status.success(), "flows: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("flows -o json prints something else")
}

/// How many flows there are.
fn count(agent: &Agent, arguments: &[&str]) -> Result<u64> {
    let totals = flows(agent, &[&["--totals"], arguments].concat())?;
    totals["flows"].as_u64().with_context(|| totals.to_string())
}

fn wait_count(agent: &Agent, wanted: u64, within: Duration) -> Result<()> {
    let mut last = None;
    wait_until(&format!("{wanted} flows"), within, || {
        last = count(agent, &[]).ok();
        last == Some(wanted)
    })
    .with_context(|| format!("{last:?} flows"))
    .map(drop)
}

/// How many flows were collected for a reason.
fn collected(agent: &Agent, reason: &str) -> Result<u64> {
    let status = agent.status()?;
    status["collected"][reason].as_u64().with_context(|| status.to_string())
}

/// Packets of an outcome.
fn packets(agent: &Agent, outcome: &str) -> Result<u64> {
    let status = agent.status()?;
    status["outcomes"][outcome]["packets"].as_u64().with_context(|| status.to_string())
}
