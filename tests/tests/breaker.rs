//! The breaker, with real clients: a member whose probes pass and whose clients get errors is left, and only its checks bring it
//! back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redirector_tests::{Agent, Connection, Lab, Offloads, Scenario, VIP_PORT, VIP_V4};
use serde_json::Value as Json;

const START: Duration = Duration::from_secs(10);

/// How long it is open, at least.
const OPEN: Duration = Duration::from_secs(1);

/// Writes again and again, as an application that connects anew when its connection ends, until a write succeeds or fails as it
/// should. Returns when.
fn write_until(lab: &Lab, succeeds: bool) -> Result<Instant> {
    let mut client: Option<Connection> = None;
    let end = Instant::now() + START;
    while Instant::now() < end {
        let connection = match client.as_mut() {
            Some(connection) => connection,
            None => client.insert(lab.app().connect((VIP_V4, VIP_PORT).into())?),
        };
        match connection.command(&["SET", "key", "value"]) {
            Ok(reply) if reply.text().as_deref() == Some("OK") && succeeds => return Ok(Instant::now()),
            Ok(reply) if reply.text().is_some_and(|text| text.starts_with("OOM")) && !succeeds => {
                return Ok(Instant::now());
            }
            Ok(_) => {}
            // Reset by the switch.
            Err(_) => client = None,
        }
    }
    anyhow::bail!("no write has {}", if succeeds { "succeeded" } else { "failed" })
}

fn newest(agent: &Agent, name: &str) -> Result<Json> {
    let output = agent.verb(&["events", "-o", "json"])?;
    let text = String::from_utf8(output.stdout)?;
    let events = text.lines().map(serde_json::from_str::<Json>).collect::<Result<Vec<_>, _>>()?;
    events.into_iter().rev().find(|event| event["event"] == name).with_context(|| format!("no event {name}"))
}

/// Full memory: `PING` is answered as ever, every write with an error.
#[test]
fn a_member_that_answers_its_clients_with_errors_is_left_although_its_probes_pass() {
    Scenario::new(Offloads::On).run(|lab| {
        let moment = Duration::from_millis(200);
        let breaker = format!(
            "breaker = {{ minimum_failures = 20, failure_rate = 50, window = \"1s\", open_for = \"{}s\" }}",
            OPEN.as_secs()
        );
        let config = lab.config().one_service().failback(moment, moment).service_line(&breaker);
        let agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        write_until(lab, true)?;
        let m1 = lab.member("m1");
        m1.command(&["CONFIG", "SET", "maxmemory", "1"])?;
        let since = write_until(lab, false)?;
        let served = write_until(lab, true)?;
        eprintln!(
            "errors of clients opened the breaker, and they were served again, after {:?}",
            served - since
        );
        let switch = newest(&agent, "switch")?;
        ensure!((&switch["to"], &switch["trouble"]) == (&"m2".into(), &"breaker".into()), "{switch:#}");
        let reason = switch["reason"].as_str().context("a reason")?;
        ensure!(
            reason.contains("breaker open: ") && reason.contains("attempts of clients failed"),
            "{reason}"
        );

        let breaker = |member: usize| -> Result<Json> {
            Ok(agent.status()?["services"][0]["members"][member]["breaker"].clone())
        };
        let open = breaker(0)?;
        ensure!(open["state"] == "open" && open["since"].is_string() && open["attempts"] == 0, "{open:#}");
        let closed = breaker(1)?;
        ensure!(closed["state"] == "closed" && closed["since"].is_null(), "{closed:#}");
        let table = String::from_utf8(agent.verb(&["status", "orders"])?.stdout)?;
        ensure!(table.contains("open since "), "{table}");

        m1.command(&["CONFIG", "SET", "maxmemory", "0"])?;
        agent.wait_active("m1", START).context("it is closed, and m1 returned to")?;
        ensure!(served.elapsed() >= OPEN, "its time was not over: {:?}", served.elapsed());
        Ok(())
    });
}
