//! The agent goes and comes; the application does not notice (invariant 5).

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::programs::TcAttachType;
use redirector_tests::{
    Application, Scenario, Value, WaitingClient, new_connections_are_served_by, one_program_on_each_hook,
    programs, vip_addresses, with_and_without_offloads,
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
