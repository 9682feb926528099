//! The agent goes and comes; the application does not notice (invariant 5).

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::programs::TcAttachType;
use redirector_tests::{
    Agent, Application, Lab, Offloads, Scenario, Value, WaitingClient, first_vips,
    new_connections_are_served_by, one_program_on_each_hook, programs, slowness, vip_addresses,
    with_and_without_offloads,
};

const START: Duration = Duration::from_secs(10);

with_and_without_offloads! {
    stopped_killed_and_started_again,
    started_after_a_switch,
    uninstalled,
}

/// Long enough for some hundred commands of the workers.
fn let_it_run() {
    thread::sleep(Duration::from_millis(400));
}

fn stopped_killed_and_started_again(scenario: Scenario) {
    scenario.run(|lab| {
        let mut agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        one_program_on_each_hook(lab)?;
        let application = Application::start(lab, 3, "m1")?;

        let status = agent.terminate()?;
        ensure!(status.success(), "SIGTERM: {status}");
        let_it_run();
        new_connections_are_served_by(lab, "m1").context("while the agent is stopped")?;
        agent.start()?;
        let_it_run();
        agent.kill()?;
        let_it_run();
        new_connections_are_served_by(lab, "m1").context("after the agent was killed")?;
        agent.start()?;
        agent.wait_active("m1", START)?;
        let_it_run();
        one_program_on_each_hook(lab)?;
        let status = agent.status()?;
        ensure!(status["services"][0]["epoch"] == 1, "a restart is no switch: {status:#}");

        application.still_waits()?;
        for timeline in application.timelines() {
            ensure!(timeline.failures_since(timeline.start).is_empty(), "{timeline}");
            ensure!(timeline.connections() == timeline.workers && timeline.answers() > 100, "{timeline}");
        }

        // It took over what the first one had begun.
        let crash = Instant::now();
        lab.member("m1").freeze()?;
        application.wait_served_by("m2", crash)?;
        application.wait_woken(crash)?;
        Ok(())
    });
}

/// Active member, epoch and flows are those of the agent before, also when its choice was not the first one.
fn started_after_a_switch(scenario: Scenario) {
    scenario.run(|lab| {
        let mut agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        lab.member("m1").crash()?;
        agent.wait_active("m2", START)?;
        lab.member("m1").start()?;
        let application = Application::start(lab, 2, "m2")?;
        let before = agent.status()?;
        agent.kill()?;
        let_it_run();
        agent.start()?;
        let_it_run();
        let after = agent.status()?;
        for (before, after) in [0, 1].map(|n| (&before["services"][n], &after["services"][n])) {
            // m1 is better and up, but has not been healthy for long enough: a restart is no reason to go back.
            ensure!(after["active"] == "m2" && after["epoch"] == before["epoch"], "{after:#}");
            ensure!(after["last_switch"]["kind"] == "failover", "{after:#}");
        }
        application.still_waits()?;
        for timeline in application.timelines() {
            ensure!(timeline.failures_since(timeline.start).is_empty(), "{timeline}");
        }
        Ok(())
    });
}

fn uninstalled(scenario: Scenario) {
    scenario.run(|lab| {
        let config = lab.config();
        let mut agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        let mut direct = lab.app().connect(lab.member("m1").v4())?;
        // A program that vanishes under an open connection would leave its client hanging.
        let waiting: Vec<_> = vip_addresses()
            .map(|address| WaitingClient::blocked(lab.app(), address, "nothing"))
            .into_iter()
            .collect::<Result<_>>()?;
        agent.terminate()?;
        ensure!(config.pin_dir().exists() && lab.app().offloads("redirector0").is_ok(), "on_stop = \"keep\"");
        for _ in 0..2 {
            agent.uninstall().context("also when there is nothing left")?;
            ensure!(!config.pin_dir().exists(), "pins are left");
            ensure!(lab.app().offloads("redirector0").is_err(), "the VIP device is left");
            let left = programs(lab.app(), "eth0", TcAttachType::Ingress)?.len();
            ensure!(left == 0, "{left} programs are left");
        }
        for client in &waiting {
            client.wait_woken(Duration::from_secs(1)).context("an open connection was not reset")?;
        }
        for address in vip_addresses() {
            ensure!(lab.app().connect(address).is_err(), "{address} still leads somewhere");
        }
        ensure!(
            direct.command(&["PING"])? == Value::Status("PONG".into()),
            "a direct connection was disturbed"
        );

        agent.start()?;
        agent.wait_active("m1", START)?;
        new_connections_are_served_by(lab, "m1")?;
        agent.terminate()?;
        Ok(())
    });
}

/// Clients that an operator's switch has left behind, to drain.
struct Left {
    clients: Vec<WaitingClient>,
    /// Just before it, and just after.
    between: [Instant; 2],
}

/// Clients wait at `from`, which drains from here on.
fn leave(lab: &Lab, agent: &Agent, from: &str, to: &str) -> Result<Left> {
    let client = |vip| WaitingClient::blocked(lab.app(), vip, "nothing");
    let clients = first_vips().into_iter().map(client).collect::<Result<Vec<_>>>()?;
    ensure!(clients.iter().all(|client| client.member == from), "not at {from}: {clients:?}");
    let before = Instant::now();
    for service in ["orders", "orders6"] {
        agent.switch_at_once(service, to)?;
    }
    Ok(Left { clients, between: [before, Instant::now()] })
}

impl Left {
    /// All are woken, not before their drain ends, and soon after that or after `back`, when there was an agent again.
    fn are_woken(&self, drain: Duration, back: Instant) -> Result<()> {
        let [earliest, latest] = self.between.map(|at| at + drain);
        for client in &self.clients {
            let wake = client.wait_woken(drain + START)?;
            let by = latest.max(back) + Duration::from_millis(700) * slowness();
            let early = earliest.saturating_duration_since(wake.at);
            ensure!(early.is_zero(), "{client:?} was woken {early:?} before its drain ended: {wake:?}");
            let late = wake.at.saturating_duration_since(by);
            ensure!(late.is_zero(), "{client:?} was woken {late:?} too late: {wake:?}");
            ensure!(wake.with.is_err(), "{wake:?}");
        }
        Ok(())
    }

    fn still_wait(&self) -> Result<()> {
        for client in &self.clients {
            let woken = client.woken();
            ensure!(woken.is_none(), "{client:?}: {woken:?}");
        }
        Ok(())
    }
}

/// How long the drain of `orders` that ends first has to go yet, as `explain` says.
fn drain_left(agent: &Agent) -> Result<Option<Duration>> {
    let output = agent.verb(&["explain", "orders", "-o", "json"])?;
    let explained: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let timers = explained["timers"].as_array().with_context(|| explained.to_string())?;
    let drain = timers.iter().find(|timer| timer["name"] == "drain");
    Ok(drain.and_then(|drain| drain["left_ms"].as_u64()).map(Duration::from_millis))
}

/// Only the drain of the newest switch went on: what the one before had left stayed for ever.
#[test]
fn two_drains_go_on_to_their_ends() {
    let drain = Duration::from_secs(12);
    Scenario::new(Offloads::On).lab(|lab| lab.members(3)).run(|lab| {
        let mut agent =
            lab.agent(&lab.config().service_line("on_failback = \"drain\"\ndrain_timeout = \"12s\""))?;
        agent.wait_active("m1", START)?;
        let first = leave(lab, &agent, "m1", "m2")?;
        thread::sleep(Duration::from_secs(3));
        let second = leave(lab, &agent, "m2", "m3")?;
        let_it_run();
        agent.kill()?;
        agent.start()?;
        let at_most = drain.saturating_sub(first.between[1].elapsed());
        let left = drain_left(&agent)?.context("nothing drains")?;
        ensure!(left <= at_most, "{left:?} left of the first one, not {at_most:?}");
        // What the second agent has not touched, the third one finds too.
        agent.terminate()?;
        agent.start()?;
        let back = Instant::now();
        first.still_wait()?;
        first.are_woken(drain, back)?;
        second.still_wait()?;
        second.are_woken(drain, back)?;
        ensure!(drain_left(&agent)?.is_none(), "nothing is left to drain");
        new_connections_are_served_by(lab, "m3")
    });
}

#[test]
fn a_drain_that_ends_while_no_agent_runs_ends_with_the_next_one_and_no_other_does() {
    let drain = Duration::from_secs(10);
    Scenario::new(Offloads::On).lab(|lab| lab.members(3)).run(|lab| {
        let mut agent =
            lab.agent(&lab.config().service_line("on_failback = \"drain\"\ndrain_timeout = \"10s\""))?;
        agent.wait_active("m1", START)?;
        let first = leave(lab, &agent, "m1", "m2")?;
        // For as long an agent may take to start.
        thread::sleep(Duration::from_secs(7));
        let second = leave(lab, &agent, "m2", "m3")?;
        let_it_run();
        agent.kill()?;
        let over = first.between[1] + drain + Duration::from_millis(200);
        thread::sleep(over.saturating_duration_since(Instant::now()));
        first.still_wait().context("nobody is there to reset them")?;
        agent.start()?;
        let back = Instant::now();
        first.are_woken(drain, back)?;
        second.still_wait()?;
        second.are_woken(drain, back)
    });
}
