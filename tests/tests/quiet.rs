//! No false alarms: with the default profile nobody is left for what happens every day; and a member that is well is asked
//! once a second, whatever its traffic.
//!
//! Twenty seconds; `REDIRECTOR_QUIET_SECONDS` for longer. `decide/tests/noise.rs` is the same for hours, in virtual time.

#[path = "quiet/nuisances.rs"]
mod nuisances;

use std::{
    env, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{
    Agent, Load, Member, Offloads, Scenario, VIP_PORT, VIP_V4, VIP_V6, WaitingClient, Workers,
};
use serde_json::Value as Json;

const START: Duration = Duration::from_secs(10);

fn length() -> Duration {
    let seconds = env::var("REDIRECTOR_QUIET_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(20))
}

/// Everything since the agent started, in order.
fn events(agent: &Agent) -> Result<Vec<Json>> {
    let output = agent.verb(&["events", "-o", "json", "--since", "1d"])?;
    ensure!(output.status.success(), "events: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[test]
fn nobody_is_left_for_what_happens_every_day() {
    Scenario::new(Offloads::On).limit(length() + Duration::from_secs(60)).run(|lab| {
        let agent = lab.agent(&lab.config().timing(None))?;
        agent.wait_active("m1", START)?;
        let load = |address: (std::net::IpAddr, u16)| Load {
            pause: Duration::from_millis(4),
            ..Load::new(4, address)
        };
        let workers = [VIP_V4.into(), VIP_V6.into()]
            .map(|vip| Workers::start(lab.app(), load((vip, VIP_PORT))))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let start = Instant::now();
        for workers in &workers {
            workers.wait_served_by("m1", start, START)?;
        }
        let waiting = [
            WaitingClient::blocked(lab.app(), (VIP_V4, VIP_PORT).into(), "nothing")?,
            WaitingClient::subscribed(lab.app(), (VIP_V6, VIP_PORT).into(), "silence")?,
        ];

        nuisances::all_at_once(lab, || {
            thread::sleep(length());
            Ok(())
        })?;

        let is_alarm = |event: &&Json| {
            event["event"] == "switch" && !event["from"].is_null() || event["state"] == "down"
        };
        let events = events(&agent)?;
        let alarms: Vec<_> = events.iter().filter(is_alarm).collect();
        ensure!(alarms.is_empty(), "somebody was left, or went down: {alarms:#?}");
        for workers in workers {
            let timeline = workers.stop();
            eprintln!(
                "  {} answers, the longest wait for one was {:.0?}",
                timeline.answers(),
                timeline.longest_gap(start)
            );
            ensure!(timeline.failures_since(start).is_empty(), "{timeline}");
        }
        for client in &waiting {
            ensure!(client.woken().is_none(), "{client:?} was woken");
        }
        Ok(())
    });
}

/// However much traffic there is: what the kernel sees of it is no reason to ask while all is well.
#[test]
fn a_member_that_is_well_is_asked_once_a_second() {
    const WATCHED: Duration = Duration::from_secs(5);
    Scenario::new(Offloads::On).run(|lab| {
        let agent = lab.agent(&lab.config().timing(None).one_service())?;
        agent.wait_active("m1", START)?;
        let workers = Workers::start(lab.app(), Load::new(8, (VIP_V4, VIP_PORT)))?;
        workers.wait_served_by("m1", Instant::now(), START)?;
        // The first probes come quicker, until the member is up.
        thread::sleep(Duration::from_secs(1));
        let asked = || lab.members().iter().map(pings).collect::<Result<Vec<_>>>();
        let before = asked()?;
        thread::sleep(WATCHED);
        for (before, after) in before.into_iter().zip(asked()?) {
            let probes = after - before;
            eprintln!("{probes} probes in {WATCHED:?}");
            // An interval is shortened by a tenth at the most, and a count of five may be one more.
            ensure!((4..=7).contains(&probes), "{probes} probes in {WATCHED:?}");
        }
        ensure!(workers.stop().answers() > 1_000, "there was no traffic");
        Ok(())
    });
}

/// How often its server has answered `PING`, which only probes ask.
fn pings(member: &Member) -> Result<u64> {
    let text = member.command(&["INFO", "commandstats"])?.text().context("INFO")?;
    let calls = text.lines().find_map(|line| line.strip_prefix("cmdstat_ping:calls=")?.split(',').next());
    Ok(calls.with_context(|| format!("no pings in {text}"))?.parse()?)
}
