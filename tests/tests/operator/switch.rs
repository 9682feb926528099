//! `switch` and `release`.

use std::{
    io::Write as _,
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use redirector_tests::{
    Agent, Offloads, Scenario, Timing, VIP_PORT, VIP_V4, WaitingClient, slowness, wait_until,
    with_and_without_offloads,
};

use super::{SOON, START, document, done, load, one_service, orders_of, refused, verb};

with_and_without_offloads! {
    a_switch_drains,
    a_switch_resets,
}

/// With `on_failback = "drain"` nothing fails before the drain ends, and then each connection once.
fn a_switch_drains(scenario: Scenario) {
    scenario.run(|lab| {
        let config = one_service(lab).service_line("drain_timeout = \"1s\"");
        let agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        let workers = load(lab, "m1")?;
        let blocked = WaitingClient::blocked(lab.app(), (VIP_V4, VIP_PORT).into(), "nothing")?;
        let since = Instant::now();
        let answer = document(&agent, &["switch", "orders", "m2", "--reason", "maintenance", "--wait"])?;
        let took = since.elapsed();
        ensure!(answer["active"] == "m2" && answer["pinned"] == "m2", "{answer:#}");
        let left = &answer["left"];
        ensure!(
            left["member"] == "m1" && left["flows"] == "drain" && left["until"].is_string(),
            "{answer:#}"
        );
        let ended = &answer["wait"]["end"];
        ensure!(ended == "left" || ended == "drained", "{answer:#}");
        ensure!(took >= Duration::from_millis(900), "it waited for {took:?} only");
        ensure!(blocked.wait_woken(SOON)?.with.is_err(), "what was left was not reset");
        workers.wait_served_by("m2", since, SOON)?;
        let status = orders_of(&agent)?;
        let last = &status["last_switch"];
        ensure!(last["kind"] == "manual" && last["from"] == "m1" && last["to"] == "m2", "{status:#}");
        ensure!(last["reason"].as_str().is_some_and(|why| why.contains("maintenance")), "{status:#}");
        let timeline = workers.stop();
        let failures = timeline.failures_since(since);
        ensure!(failures.len() == 10 && timeline.failures_after("m2", since).is_empty(), "{timeline}");
        let early = failures.iter().find(|event| event.at < since + Duration::from_millis(900));
        ensure!(early.is_none(), "reset before the drain ended: {timeline}");
        Ok(())
    });
}

/// With `on_failback = "reset"` every connection is reset at once, and goes on with the other member.
fn a_switch_resets(scenario: Scenario) {
    scenario.run(|lab| {
        let agent = lab.agent(&one_service(lab).service_line("on_failback = \"reset\""))?;
        agent.wait_active("m1", START)?;
        let workers = load(lab, "m1")?;
        let since = Instant::now();
        let said = done(&agent, &["switch", "orders", "m2", "--wait"])?;
        ensure!(
            said.contains("orders: \"m2\" is active now instead of \"m1\", pinned until it is released"),
            "{said}"
        );
        ensure!(said.contains("the flows of \"m1\" are reset"), "{said}");
        let served = workers.wait_served_by("m2", since, SOON)?;
        ensure!(served < Duration::from_secs(1) * slowness(), "served by m2 after {served:?}");
        let timeline = workers.stop();
        ensure!(timeline.failures_since(since).len() == 10, "{timeline}");
        ensure!(timeline.failures_after("m2", since).is_empty(), "{timeline}");
        Ok(())
    });
}

/// Neither the decision nor an order nor a connection is another one afterwards.
#[test]
fn a_dry_run_changes_nothing() {
    Scenario::new(Offloads::On).run(|lab| {
        let agent = lab.agent(&one_service(lab))?;
        agent.wait_active("m1", START)?;
        let workers = load(lab, "m1")?;
        let picture = || -> Result<_> {
            let status = orders_of(&agent)?;
            let weights: Vec<_> = [0, 1].map(|member| status["members"][member]["weight"].clone()).into();
            let states: Vec<_> = [0, 1].map(|member| status["members"][member]["state"].clone()).into();
            let keys = ["active", "epoch", "since", "pinned", "paused", "last_switch"];
            Ok((keys.map(|key| status[key].clone()), weights, states))
        };
        let (since, before) = (Instant::now(), picture()?);
        for (arguments, words) in [
            (&["switch", "orders", "m2"][..], "\"m2\" becomes active instead of \"m1\""),
            (&["switch", "orders", "m2", "--force", "--for", "1h"], "\"m2\" is active now instead of \"m1\""),
            (&["drain", "orders", "m1"], "\"m1\" is taken out"),
            (&["drain", "orders", "m2"], "\"m2\" is taken out"),
            (&["pause", "orders"], "automatic switching is stopped"),
            (&["pause", "--all"], "automatic switching is stopped"),
            (&["resume", "orders"], "was not stopped"),
            (&["release", "orders"], "no member was pinned"),
            (&["undrain", "orders", "m2"], "was not taken out"),
            (&["member", "weight", "orders", "m2", "500"], "has weight 500 instead of 50"),
        ] {
            let said = done(&agent, &[arguments, &["--dry-run", "--reason", "trial"]].concat())?;
            ensure!(said.contains("dry run, nothing is changed: ") && said.contains(words), "{said}");
        }
        agent.wait_logged(
            &["operator", "verb=\"pause\"", "dry_run=true", "reason=\"trial\"", "result=\"done\""],
            SOON,
        )?;
        // A round of checks that nobody waits for would have ended by now.
        thread::sleep(Duration::from_millis(500));
        let after = picture()?;
        ensure!(before == after, "{before:#?} became {after:#?}");
        let timeline = workers.stop();
        ensure!(timeline.failures_since(since).is_empty(), "{timeline}");
        Ok(())
    });
}

/// A pin ends by itself, and the better member is returned to. Until then a second operator is told of the first.
#[test]
fn a_pin_ends_and_is_not_taken_away_unawares() {
    Scenario::new(Offloads::On).lab(|lab| lab.members(3)).run(|lab| {
        let config = one_service(lab).failback(Duration::from_millis(100), Duration::from_millis(0));
        let agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        let pinned = Instant::now();
        done(&agent, &["switch", "orders", "m2", "--for", "2s", "--reason", "rolling upgrade"])?;
        let words = ["\"m2\" is pinned until ", "by root", "rolling upgrade", "--force"];
        refused(&agent, &["switch", "orders", "m3"], &words)?;
        agent.wait_logged(&["operator", "verb=\"switch\"", "member=\"m3\"", "result=\"refused\""], SOON)?;
        ensure!(orders_of(&agent)?["active"] == "m2", "the second switch was made");
        agent.wait_active("m1", START)?;
        ensure!(pinned.elapsed() >= Duration::from_millis(1900), "it ended after {:?}", pinned.elapsed());
        ensure!(orders_of(&agent)?["pinned"].is_null());

        // One without an end, taken away on purpose, and released.
        done(&agent, &["switch", "orders", "m2"])?;
        done(&agent, &["switch", "orders", "m3", "--force"])?;
        thread::sleep(Duration::from_millis(500));
        ensure!(orders_of(&agent)?["active"] == "m3", "it was failed back although it is pinned");
        let said = done(&agent, &["release", "orders"])?;
        ensure!(said.contains("the pin of \"m3\" is ended"), "{said}");
        agent.wait_active("m1", START)?;
        Ok(())
    });
}

fn is_switching(agent: &Agent) -> bool {
    document(agent, &["explain", "orders"]).is_ok_and(|explained| explained["orders"]["switching_to"] == "m2")
}

/// The answer is held while the checks are asked: a member that does not answer is not gone to, a second operator is told
/// of the first, and a client that leaves meanwhile changes nothing.
#[test]
fn a_switch_waits_for_the_checks_of_its_member() {
    Scenario::new(Offloads::On).run(|lab| {
        let timing = Timing {
            interval: Duration::from_secs(5),
            fast_interval: Duration::from_secs(5),
            timeout: Duration::from_secs(4),
            fall: 3,
            tolerance: Duration::from_secs(4),
        };
        let config = one_service(lab).timing(Some(timing));
        let agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        lab.member("m2").freeze()?;
        let start = Instant::now();
        thread::scope(|scope| {
            let first = scope.spawn(|| verb(&agent, &["switch", "orders", "m2", "--reason", "first"]));
            wait_until("the round is under way", SOON, || is_switching(&agent))?;
            let words = ["root", "asked for a switch to \"m2\"", "`release` to call it off"];
            refused(&agent, &["switch", "orders", "m2"], &words)?;
            let first = first.join().map_err(|_| anyhow::anyhow!("it panicked"))??;
            ensure!(first.code == Some(1) && first.err.contains("ping"), "{first:?}");
            Ok(())
        })?;
        ensure!(start.elapsed() >= Duration::from_millis(800), "it did not wait");
        agent
            .wait_logged(&["operator", "verb=\"switch\"", "reason=\"first\"", "result=\"refused\""], SOON)?;
        ensure!(orders_of(&agent)?["active"] == "m1");

        // One that waits is called off.
        thread::scope(|scope| {
            let first = scope.spawn(|| verb(&agent, &["switch", "orders", "m2", "--reason", "second"]));
            wait_until("the round is under way", SOON, || is_switching(&agent))?;
            done(&agent, &["release", "orders"])?;
            let first = first.join().map_err(|_| anyhow::anyhow!("it panicked"))??;
            ensure!(first.code == Some(1) && first.err.contains("it was released before"), "{first:?}");
            Ok(())
        })?;
        ensure!(orders_of(&agent)?["active"] == "m1");

        // Whoever asked is gone; the switch is made and on record.
        let mut stream = UnixStream::connect(config.control_socket())?;
        let body = r#"{"member": "m2", "reason": "third"}"#;
        let (path, length) = ("/v1/services/orders/switch", body.len());
        write!(stream, "POST {path} HTTP/1.1\r\nHost: l\r\nContent-Length: {length}\r\n\r\n{body}")?;
        wait_until("the round is under way", SOON, || is_switching(&agent))?;
        drop(stream);
        lab.member("m2").thaw()?;
        agent.wait_active("m2", SOON)?;
        agent.wait_logged(&["operator", "verb=\"switch\"", "reason=\"third\"", "result=\"done\""], SOON)?;
        Ok(())
    });
}
