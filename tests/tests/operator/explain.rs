//! `explain`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redirector_tests::{Agent, Offloads, Scenario, VIP_PORT, VIP_V4, Value, wait_until};
use serde_json::Value as Json;

use super::{SOON, START, document, done, one_service, refused};

fn member<'a>(explained: &'a Json, name: &str) -> Result<&'a Json> {
    let members = explained["members"].as_array().context("members")?;
    members.iter().find(|member| member["name"] == name).with_context(|| format!("{explained:#}"))
}

/// The check that fails is named with its newest outcome, the rule and the timer that hold are there, and so is what would
/// change the decision.
#[test]
fn the_whole_chain_is_there() {
    Scenario::new(Offloads::On).run(|lab| {
        let config = one_service(lab).failback(Duration::from_secs(3600), Duration::from_secs(3600));
        let agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        let text = done(&agent, &["explain", "orders"])?;
        ensure!(text.contains("failover to m2 as soon as m1 is down"), "{text}");
        lab.member("m1").crash()?;
        agent.wait_active("m2", START)?;
        wait_until("m1 fails", SOON, || {
            explained(&agent).is_ok_and(|it| it["members"][0]["state"] == "down")
        })?;
        let explained = explained(&agent)?;
        ensure!(
            explained["active"] == "m2" && explained["last_switch"]["kind"] == "failover",
            "{explained:#}"
        );
        let check = &member(&explained, "m1")?["addresses"][0]["checks"][0];
        ensure!(check["state"] == "failing" && check["name"] == "ping", "{explained:#}");
        ensure!(
            check["reason"].as_str().is_some_and(|why| why.contains("connection refused")),
            "{explained:#}"
        );
        ensure!(check["answered_ms_ago"].as_u64().is_some_and(|ago| ago < 2000), "{explained:#}");
        let timers = explained["timers"].as_array().context("timers")?;
        ensure!(timers.iter().any(|timer| timer["name"] == "hold_down"), "{explained:#}");
        let text = done(&agent, &["explain", "orders"])?;
        for words in
            ["because      failover from m1 to m2", "connection refused", "hold_down", "what would change it"]
        {
            ensure!(text.contains(words), "no {words:?}: {text}");
        }
        refused(
            &agent,
            &["explain", "carts"],
            &["there is no service \"carts\"; there is \"orders\"", "check"],
        )?;
        Ok(())
    });
}

fn explained(agent: &Agent) -> Result<Json> {
    document(agent, &["explain", "orders"])
}

/// One connection: why its member, and what becomes of it.
#[test]
fn a_flow_is_explained() {
    Scenario::new(Offloads::On).run(|lab| {
        let agent = lab.agent(&one_service(lab))?;
        agent.wait_active("m1", START)?;
        let mut connection = lab.app().connect((VIP_V4, VIP_PORT).into())?;
        ensure!(connection.command(&["PING"])? == Value::Status("PONG".into()));
        let client = connection.socket().local_addr()?.to_string();
        let flow = ["explain", "orders", "--flow", &client];
        let text = done(&agent, &flow)?;
        ensure!(text.contains("member       m1, at 10.2.1.2:6379") && text.contains("it stays"), "{text}");
        done(&agent, &["switch", "orders", "m2", "--reason", "maintenance"])?;
        let text = done(&agent, &flow)?;
        ensure!(
            text.contains("m1 was active when it was opened") && text.contains("m2 is active now"),
            "{text}"
        );
        ensure!(text.contains("maintenance") && text.contains("it may go on while it drains"), "{text}");
        ensure!(text.contains("in epoch 1, by the initial switch at "), "{text}");
        let json = document(&agent, &flow)?;
        let flow = &json["flows"][0]["flow"];
        ensure!(
            flow["member"] == "m1" && flow["state"] == "established" && flow["stale"] == false,
            "{json:#}"
        );
        let nobody = ["explain", "orders", "--flow", "10.1.0.2:1"];
        refused(&agent, &nobody, &["orders has no flow from 10.1.0.2:1", "redirector flows"])?;
        Ok(())
    });
}
