//! What an operator does from the command line and over the socket, with an application that goes on working.

#[path = "operator/access.rs"]
mod access;
#[path = "operator/explain.rs"]
mod explain;
#[path = "operator/orders.rs"]
mod orders;
#[path = "operator/switch.rs"]
mod switch;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redirector_tests::{Agent, AgentConfig, Lab, Load, VIP_PORT, VIP_V4, Workers};
use serde_json::Value as Json;

const START: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(5);

/// One service, `orders`; nobody fails back within a test unless it says so.
fn one_service(lab: &Lab) -> AgentConfig {
    lab.config().one_service()
}

/// Clients that work at `member`.
fn load(lab: &Lab, member: &str) -> Result<Workers> {
    let start = Instant::now();
    let workers = Workers::start(lab.app(), Load::new(10, (VIP_V4, VIP_PORT)))?;
    workers.wait_served_by(member, start, SOON)?;
    Ok(workers)
}

/// How a verb ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

fn verb(agent: &Agent, arguments: &[&str]) -> Result<Ended> {
    let output = agent.verb(arguments)?;
    let text = |bytes| String::from_utf8(bytes).context("the output is no text");
    Ok(Ended { code: output.status.code(), out: text(output.stdout)?, err: text(output.stderr)? })
}

/// A verb that does what it should; its output.
fn done(agent: &Agent, arguments: &[&str]) -> Result<String> {
    let ended = verb(agent, arguments)?;
    ensure!(ended.code == Some(0) && ended.err.is_empty(), "{arguments:?}: {ended:?}");
    Ok(ended.out)
}

/// The same as JSON.
fn document(agent: &Agent, arguments: &[&str]) -> Result<Json> {
    let text = done(agent, &[arguments, &["-o", "json"]].concat())?;
    let document: Json = serde_json::from_str(&text).with_context(|| text)?;
    ensure!(document["version"] == 1, "{document:#}");
    Ok(document)
}

/// A verb that is refused with exit code 1 and these words.
fn refused(agent: &Agent, arguments: &[&str], words: &[&str]) -> Result<()> {
    let ended = verb(agent, arguments)?;
    ensure!(ended.code == Some(1) && ended.out.is_empty(), "{arguments:?}: {ended:?}");
    let all = words.iter().all(|word| ended.err.contains(word));
    ensure!(all && ended.err.starts_with("error: ") && ended.err.contains("; "), "{arguments:?}: {ended:?}");
    Ok(())
}

/// The service `orders`.
fn orders_of(agent: &Agent) -> Result<Json> {
    Ok(agent.status()?["services"][0].clone())
}
