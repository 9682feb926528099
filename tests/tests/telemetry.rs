//! What the agent tells of a failure: events in order, metrics that agree with what the application felt.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::Stdio,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use redirector_tests::{Agent, Application, Lab, Offloads, Scenario, wait_until};
use serde_json::Value as Json;

const START: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(5);

/// In the application's own network namespace.
const LISTEN: &str = "127.0.0.1:9109";

/// An agent with a listener for metrics, and `m1` active.
fn agent(lab: &Lab) -> Result<Agent> {
    let config = lab.config().agent_line(&format!("metrics_listen = \"{LISTEN}\""));
    let agent = lab.agent(&config)?;
    agent.wait_active("m1", START)?;
    Ok(agent)
}

/// Recent events, as the command line prints them.
fn events(agent: &Agent, arguments: &[&str]) -> Result<Vec<Json>> {
    let output = agent.verb(&[&["events", "-o", "json"], arguments].concat())?;
    ensure!(output.status.success(), "events: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let events: Vec<Json> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let sequences: Vec<_> = events.iter().map(|event| event["sequence"].as_u64()).collect();
    ensure!(sequences.is_sorted() && sequences.iter().all(Option::is_some), "{sequences:?}");
    Ok(events)
}

/// Code and body of a `GET` from the listener.
fn get(lab: &Lab, path: &str) -> Result<(u16, String)> {
    lab.app().run(|| {
        let address: SocketAddr = LISTEN.parse()?;
        let mut stream = TcpStream::connect_timeout(&address, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer of HTTP")?;
        let code = head.split_whitespace().nth(1).context("no code")?.parse()?;
        Ok((code, body.to_owned()))
    })
}

/// Every series with its value.
fn metrics(lab: &Lab) -> Result<BTreeMap<String, f64>> {
    // What was scraped just now serves others too.
    std::thread::sleep(redirector::telemetry::server::FRESH);
    let (code, body) = get(lab, "/metrics")?;
    ensure!(code == 200, "{code} {body}");
    let series = body.lines().filter(|line| !line.starts_with('#'));
    series
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').context("a series without a value")?;
            Ok((series.to_owned(), value.parse()?))
        })
        .collect()
}

/// The application's view and the agent's own: the whole story is told, in order, and the times agree.
#[test]
fn a_failure_is_told_from_the_first_failed_probe_to_the_last_reset() {
    Scenario::new(Offloads::On).run(|lab| {
        let agent = agent(lab)?;
        let application = Application::start(lab, 3, "m1")?;
        let before = metrics(lab)?;
        ensure!(before[r#"redirector_member_active{service="orders",member="m1"}"#] == 1.0, "{before:#?}");
        ensure!(before["redirector_detection_seconds_count"] == 0.0, "{before:#?}");

        let since = Instant::now();
        lab.member("m1").freeze()?;
        let served = application.wait_served_by("m2", since)?;
        application.wait_woken(since)?;
        agent.wait_active("m2", SOON)?;

        let mut story = Vec::new();
        wait_until("the flows' reset is told", SOON, || {
            story = events(&agent, &["--since", "1m", "--service", "orders"]).unwrap_or_default();
            story.iter().any(|event| event["event"] == "flows_reset")
        })?;
        let at = |name: &str, what: &dyn Fn(&Json) -> bool| {
            let found = story.iter().position(|event| event["event"] == name && what(event));
            found.with_context(|| format!("no {name}: {story:#?}"))
        };
        let down = at("member_changed", &|event| event["member"] == "m1" && event["state"] == "down")?;
        let switch = at("switch", &|event| event["kind"] == "failover")?;
        let reset = at("flows_reset", &|_| true)?;
        // Traffic moves before it is reported on.
        ensure!(switch < down && switch < reset, "{story:#?}");
        let reason = story[down]["reason"].as_str().context("reason")?;
        ensure!(reason.contains("timed out"), "{reason}");
        let switched = &story[switch];
        ensure!(switched["from"] == "m1" && switched["to"] == "m2" && switched["policy"] == "reset", "{switched:#}");
        ensure!(switched["epoch"] == story[reset]["epoch"] && story[reset]["member"] == "m1", "{story:#?}");
        ensure!(story[reset]["reset"].as_u64() >= Some(3), "{:#}", story[reset]);

        // Two failures of 100 ms each at least: and the outage that was felt has the detection in it.
        let detected = switched["detected_in_ms"].as_f64().context("detected_in_ms")?;
        let at_most = switched["outage_at_most_ms"].as_f64().context("outage_at_most_ms")?;
        let felt = served.as_secs_f64() * 1e3;
        eprintln!("detected in {detected} ms, at most {at_most} ms after the outage began; felt {felt:.1} ms");
        ensure!(detected >= 190.0 && detected <= at_most && detected <= felt + 20.0, "{detected} {at_most} {felt}");

        let after = metrics(lab)?;
        let grown = |series: &str| after.get(series).unwrap_or(&0.0) - before.get(series).unwrap_or(&0.0);
        for service in ["orders", "orders6"] {
            let labels = format!("service=\"{service}\"");
            ensure!(grown(&format!("redirector_switches_total{{{labels},kind=\"failover\"}}")) == 1.0, "{after:#?}");
            ensure!(after[&format!("redirector_member_state{{{labels},member=\"m1\",state=\"down\"}}")] == 1.0);
            ensure!(after[&format!("redirector_member_active{{{labels},member=\"m2\"}}")] == 1.0);
            ensure!(grown(&format!("redirector_service_epoch{{{labels}}}")) == 1.0);
            ensure!(after[&format!("redirector_service_state{{{labels},state=\"degraded\"}}")] == 1.0);
            let timed_out = format!(
                "redirector_probes_total{{{labels},member=\"m1\",check=\"ping\",verdict=\"fail\",outcome=\"timed_out\",phase=\"command\"}}"
            );
            ensure!(grown(&timed_out) >= 2.0, "{after:#?}");
            ensure!(grown(&format!("redirector_flows_reset_total{{{labels}}}")) >= 1.0, "{after:#?}");
        }
        // One for each service.
        for histogram in ["detection", "switch_store", "switch_reset"] {
            let (count, sum) =
                ["count", "sum"].map(|of| grown(&format!("redirector_{histogram}_seconds_{of}"))).into();
            eprintln!("{histogram}: {} ms on average", sum * 500.0);
            ensure!(count == 2.0 && sum > 0.0, "{histogram}: {count} {sum}");
            let most = if histogram == "detection" { felt / 1e3 + 0.05 } else { 0.05 };
            ensure!(sum / 2.0 < most, "{histogram}: {} s on average", sum / 2.0);
        }
        let carried = r#"redirector_packets_total{outcome="carried"}"#;
        ensure!(grown(carried) > 0.0 && after["redirector_flows"] > 0.0, "{after:#?}");
        Ok(())
    });
}

/// Events outlive the agent, in order; its endpoint says when it is well.
#[test]
fn events_survive_a_kill() {
    Scenario::new(Offloads::On).run(|lab| {
        let mut agent = agent(lab)?;
        ensure!(get(lab, "/healthz")?.0 == 200 && get(lab, "/readyz")?.0 == 200);
        ensure!(get(lab, "/")?.0 == 404);
        let before = events(&agent, &[])?;
        ensure!(before.iter().any(|event| event["event"] == "switch" && event["kind"] == "initial"));
        // A moment for the thread that writes.
        std::thread::sleep(Duration::from_millis(100));
        agent.kill()?;
        ensure!(get(lab, "/healthz").is_err(), "nobody listens");
        agent.start()?;
        agent.wait_active("m1", START)?;
        let after = events(&agent, &[])?;
        ensure!(after[..before.len()] == before, "{after:#?}");
        let names: Vec<_> =
            after[before.len()..].iter().filter_map(|event| event["event"].as_str()).collect();
        ensure!(names[..3] == ["started", "took_over", "took_over"], "{names:?}");
        agent.terminate()?;
        agent.start()?;
        let all = events(&agent, &[])?;
        ensure!(
            all.iter().any(|event| event["event"] == "stopping" && event["on_stop"] == "keep"),
            "{all:#?}"
        );
        Ok(())
    });
}

/// A follower hears of a switch when it is made, not when somebody asks.
#[test]
fn a_follower_hears_at_once() {
    Scenario::new(Offloads::On).run(|lab| {
        let _agent = agent(lab)?;
        let mut command = lab.app().command(redirector_tests::binary()?);
        command.args(["events", "--follow", "-o", "json", "--socket"]).arg(lab.config().control_socket());
        let mut follower = command.stdout(Stdio::piped()).spawn()?;
        let stdout = follower.stdout.take().context("piped")?;
        let (tell, heard) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _nobody = tell.send((Instant::now(), line));
            }
        });
        // It has to be there before anything happens.
        std::thread::sleep(Duration::from_millis(300));
        lab.member("m1").crash()?;
        let told = (|| loop {
            let (at, line) = heard.recv_timeout(SOON).context("no switch was told")?;
            let event: Json = serde_json::from_str(&line)?;
            if event["event"] == "switch" {
                let happened = humantime::parse_rfc3339(event["at"].as_str().context("at")?)?;
                let late = at.elapsed();
                let since = std::time::SystemTime::now().duration_since(happened)?;
                break anyhow::Ok(since.saturating_sub(late));
            }
        })();
        follower.kill()?;
        follower.wait()?;
        let told = told?;
        eprintln!("told {told:?} after the switch");
        ensure!(told < Duration::from_millis(50), "told {told:?} after the switch");
        Ok(())
    });
}

/// The probe's credentials are refused: the member is not left, and the operator is told, once and when it is over.
#[test]
fn refused_credentials_are_told_and_not_counted() {
    Scenario::new(Offloads::On).run(|lab| {
        let agent = agent(lab)?;
        let member = lab.member("m1");
        // A connection that is open stays logged in; those of the probes too, until they end.
        let mut operator = lab.app().connect(member.v4())?;
        operator.command(&["CONFIG", "SET", "requirepass", "other"])?;
        operator.command(&["CLIENT", "KILL", "TYPE", "normal"])?;
        let wait = |name: &str| {
            let told = || events(&agent, &[]).is_ok_and(|all| all.iter().any(|event| event["event"] == name));
            wait_until(&format!("{name} is told"), SOON, told)
        };
        wait("check_inconclusive")?;
        std::thread::sleep(Duration::from_millis(500));
        let all = events(&agent, &["--service", "orders"])?;
        let of = |name: &str| all.iter().filter(|event| event["event"] == name).cloned().collect::<Vec<_>>();
        let told = of("check_inconclusive");
        ensure!(
            told.len() == 1 && told[0]["outcome"] == "redis_noauth" && told[0]["member"] == "m1",
            "{told:#?}"
        );
        ensure!(of("switch").len() == 1, "the initial one only: {all:#?}");
        operator.command(&["CONFIG", "SET", "requirepass", ""])?;
        wait("check_conclusive")?;
        let after = metrics(lab)?;
        let refused = after.iter().filter(|(series, _)| series.contains("verdict=\"inconclusive\""));
        ensure!(refused.map(|(_, count)| count).sum::<f64>() >= 2.0, "{after:#?}");
        Ok(())
    });
}

/// The address is somebody else's: the agent says so, and nothing was changed.
#[test]
fn a_listener_that_is_taken_is_said_before_anything_is_made() {
    Scenario::new(Offloads::On).run(|lab| {
        let _taken = lab.app().run(|| std::net::TcpListener::bind(LISTEN))?;
        let Err(error) = agent(lab) else { bail!("it starts") };
        let error = format!("{error:#}");
        ensure!(
            error.contains("metrics_listen") && error.contains("another program listens there"),
            "{error}"
        );
        ensure!(lab.app().offloads("redirector0").is_err(), "there is a VIP device");
        Ok(())
    });
}
