//! A member fails, and the application goes on with the other one.
//!
//! Bounds are those of the README's figures, with room for a machine that does something else too.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{
    Agent, Application, CHANNEL, Lab, Load, Member, QUEUE, Scenario, VIP_PORT, VIP_V4, Value, WaitingClient,
    Workers, slowness, vip_addresses, wait_until, waiting_at, with_and_without_offloads,
};

const START: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(5);

with_and_without_offloads! {
    crash,
    freeze,
    black_hole,
    two_hundred_clients,
    new_connections_survive_the_sweep,
    failback_drains,
    a_drain_outlasts_a_flap,
    demoted_members_are_reset_too,
}

/// The server dies, its host answers: connections end by themselves, new ones are refused until the switch.
fn crash(scenario: Scenario) {
    scenario.run(|lab| fails_over(lab, "crash", Duration::from_millis(250), |_, member| member.crash()));
}

/// The server is stopped and its host acknowledges everything: nothing but the agent ends a connection.
fn freeze(scenario: Scenario) {
    scenario.run(|lab| {
        fails_over(lab, "freeze", Duration::from_millis(700), |_, member| member.freeze())?;
        // It comes back and finds that nobody waits any more: an element pushed now is popped by nobody.
        lab.member("m1").thaw()?;
        wait_until("the waiting clients are gone at m1", SOON, || {
            waiting_at(lab, "m1").is_ok_and(|n| n == 0)
        })?;
        Ok(())
    });
}

/// Packets vanish: nothing at all comes back.
fn black_hole(scenario: Scenario) {
    scenario.run(|lab| {
        fails_over(lab, "black hole", Duration::from_millis(700), Lab::black_hole)?;
        lab.heal(lab.member("m1"))
    });
}

fn fails_over(
    lab: &Lab,
    what: &str,
    bound: Duration,
    fault: impl Fn(&Lab, &Member) -> Result<()>,
) -> Result<()> {
    let agent = lab.agent(&lab.config())?;
    agent.wait_active("m1", START)?;
    let application = Application::start(lab, 3, "m1")?;
    let epochs = epochs(&agent)?;
    let bound = bound * slowness();

    let since = Instant::now();
    fault(lab, lab.member("m1"))?;
    let served = application.wait_served_by("m2", since)?;
    let woken = application.wait_woken(since)?;
    eprintln!("{what}, offloads {:?}: served by m2 after {served:?}, woken after {woken:?}", lab.offloads());
    ensure!(served < bound, "served by m2 after {served:?}, the bound is {bound:?}");
    ensure!(woken < bound, "woken after {woken:?}, the bound is {bound:?}");

    let status = agent.status()?;
    for (service, epoch) in status["services"].as_array().context("services")?.iter().zip(epochs) {
        let last = &service["last_switch"];
        ensure!(service["active"] == "m2" && service["state"] == "degraded", "{status:#}");
        ensure!(last["from"] == "m1" && last["to"] == "m2" && last["kind"] == "failover", "{status:#}");
        ensure!(service["epoch"] == epoch + 1 && service["members"][0]["state"] == "down", "{status:#}");
    }
    thread::sleep(Duration::from_millis(300));
    for timeline in application.timelines() {
        ensure!(timeline.failures_after("m2", since).is_empty(), "a connection to m2 failed: {timeline}");
    }
    Ok(())
}

fn epochs(agent: &Agent) -> Result<Vec<u64>> {
    let status = agent.status()?;
    let services = status["services"].as_array().context("services")?;
    services.iter().map(|service| service["epoch"].as_u64().context("epoch")).collect()
}

fn two_hundred_clients(scenario: Scenario) {
    scenario.run(|lab| {
        let agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        let start = Instant::now();
        let workers = Workers::start(lab.app(), Load::new(200, (VIP_V4, VIP_PORT)))?;
        workers.wait_served_by("m1", start, SOON)?;
        let since = Instant::now();
        lab.member("m1").freeze()?;
        let served = workers.wait_served_by("m2", since, SOON)?;
        eprintln!("200 clients, freeze, offloads {:?}: all served by m2 after {served:?}", lab.offloads());
        ensure!(served < Duration::from_secs(1), "served by m2 after {served:?}");
        thread::sleep(Duration::from_millis(500));
        let timeline = workers.stop();
        ensure!(timeline.failures_after("m2", since).is_empty(), "a connection to m2 failed: {timeline}");
        // One reset each, and the connection that replaced it; the freeze refuses nobody.
        ensure!(timeline.connections() == 400 && timeline.failures_since(since).len() == 200, "{timeline}");
        Ok(())
    });
}

/// The sweep after a switch resets the flows of the member that was left. One that was opened a moment after the
/// switch belongs to the new member and must not be among them.
fn new_connections_survive_the_sweep(scenario: Scenario) {
    scenario.run(|lab| {
        let agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        // Some thousand stale flows, so that the sweep takes its time.
        let connect = |address| lab.app().connect(address);
        let stale = (0..2000).map(|_| connect((VIP_V4, VIP_PORT).into())).collect::<Result<Vec<_>, _>>()?;
        lab.member("m1").crash()?;
        let crash = Instant::now();
        let mut opened = Vec::new();
        while crash.elapsed() < Duration::from_millis(700) {
            for address in vip_addresses() {
                let Ok(mut connection) = connect(address) else { continue };
                connection.set_time_limit(Some(SOON))?;
                let Ok(reply) = connection.command(&["GET", "whoami"]) else { continue };
                ensure!(reply.text().as_deref() == Some("m2"), "{reply:?}");
                opened.push((connection, crash.elapsed()));
            }
        }
        ensure!(opened.len() > 20, "only {} connections", opened.len());
        thread::sleep(Duration::from_millis(500));
        for (connection, at) in &mut opened {
            let reply = connection.command(&["PING"]);
            let reply =
                reply.with_context(|| format!("the connection opened {at:?} after the crash was reset"))?;
            ensure!(reply == Value::Status("PONG".into()), "{reply:?}");
        }
        drop(stale);
        Ok(())
    });
}

/// The better member returns: new connections go there, open ones stay where they are until the drain ends.
fn failback_drains(scenario: Scenario) {
    scenario.run(|lab| {
        let config = lab.config().failback(Duration::from_millis(500), Duration::from_millis(100));
        let config = config.service_line("on_failback = \"drain\"").service_line("drain_timeout = \"1s\"");
        let agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        let crash = Instant::now();
        lab.member("m1").crash()?;
        agent.wait_active("m2", START)?;
        let application = Application::start(lab, 2, "m2")?;

        let back = Instant::now();
        lab.member("m1").start()?;
        agent.wait_active("m1", START)?;
        let failback = Instant::now();
        ensure!(failback - back >= Duration::from_millis(400), "it was not healthy for 500 ms");
        for address in vip_addresses() {
            let reply = lab.app().connect(address)?.command(&["GET", "whoami"])?;
            ensure!(reply.text().as_deref() == Some("m1"), "a new connection to {address}: {reply:?}");
        }
        // Before the drain ends (1 s after the switch, which was before it was seen).
        thread::sleep(Duration::from_millis(300));
        application.still_waits()?;
        for timeline in application.timelines() {
            ensure!(timeline.failures_since(failback).is_empty(), "reset before the drain ended: {timeline}");
        }
        application.wait_woken(failback)?;
        application.wait_served_by("m1", failback)?;
        for timeline in application.timelines() {
            ensure!(timeline.failures_after("m1", failback).is_empty(), "{timeline}");
            ensure!(timeline.longest_gap(crash) < Duration::from_millis(500), "{timeline}");
        }
        let status = agent.status()?;
        for service in status["services"].as_array().context("services")? {
            ensure!(service["state"] == "ok" && service["last_switch"]["kind"] == "failback", "{status:#}");
        }
        Ok(())
    });
}

/// A member fails while another one drains, and returns: what drains was left by neither switch. (With one floor for
/// all members of a service, the second failback ended it at once.)
fn a_drain_outlasts_a_flap(scenario: Scenario) {
    scenario.run(|lab| {
        let config = lab.config().failback(Duration::from_millis(300), Duration::from_millis(50));
        let agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        lab.member("m1").crash()?;
        agent.wait_active("m2", START)?;
        let draining: Vec<_> = vip_addresses()
            .map(|address| WaitingClient::blocked(lab.app(), address, "nothing"))
            .into_iter()
            .collect::<Result<_>>()?;
        wait_until("the clients wait at m2", SOON, || waiting_at(lab, "m2").is_ok_and(|count| count == 3))?;
        for _ in 0..2 {
            lab.member("m1").start()?;
            agent.wait_active("m1", START)?;
            lab.member("m1").crash()?;
            agent.wait_active("m2", START)?;
        }
        lab.member("m1").start()?;
        agent.wait_active("m1", START)?;
        thread::sleep(Duration::from_millis(400));
        for client in &draining {
            let woken = client.woken();
            ensure!(woken.is_none(), "a drain of 30 s ended: {woken:?}");
        }
        Ok(())
    });
}

/// A member that is left although it lives keeps no half of a connection (a `BLPOP` there would pop an element for
/// nobody), and connections that were made to it directly are none of the agent's business.
fn demoted_members_are_reset_too(scenario: Scenario) {
    scenario.run(|lab| {
        let config = lab.config().failback(Duration::from_millis(500), Duration::from_millis(100));
        let agent = lab.agent(&config.service_line("on_failback = \"reset\""))?;
        agent.wait_active("m1", START)?;
        lab.member("m1").crash()?;
        agent.wait_active("m2", START)?;
        let demoted = lab.member("m2");
        let application = Application::start(lab, 2, "m2")?;
        let direct = WaitingClient::blocked(lab.app(), demoted.v4(), "direct")?;
        let direct6 = WaitingClient::subscribed(lab.app(), demoted.v6(), CHANNEL)?;

        lab.member("m1").start()?;
        agent.wait_active("m1", START)?;
        let failback = Instant::now();
        application.wait_woken(failback)?;
        application.wait_served_by("m1", failback)?;
        wait_until("m2 keeps the direct clients only", SOON, || waiting_at(lab, "m2").is_ok_and(|n| n == 2))?;
        ensure!(demoted.command(&["RPUSH", QUEUE, "element"])? == Value::Integer(1));
        ensure!(demoted.command(&["LLEN", QUEUE])? == Value::Integer(1), "a ghost has popped the element");
        ensure!(direct.woken().is_none() && direct6.woken().is_none(), "a direct connection was disturbed");
        ensure!(demoted.command(&["RPUSH", "direct", "element"])? == Value::Integer(1));
        ensure!(direct.wait_woken(SOON)?.with.is_ok(), "the direct client gets its element");
        ensure!(demoted.command(&["PUBLISH", CHANNEL, "news"])? == Value::Integer(1));
        ensure!(direct6.wait_woken(SOON)?.with.is_ok(), "the direct subscriber gets its message");
        Ok(())
    });
}
