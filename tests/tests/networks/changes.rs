//! Networks that change under an agent that runs: followed within a second or so, and told in its log.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{
    Agent, GATEWAYS, Lab, Load, Scenario, UPLINKS, VIP_V4, VIP_V6, Workers, first_vips, wait_until,
    with_and_without_offloads,
};

use super::{SOON, START, agent, both_served, both_served_soon};

with_and_without_offloads! {
    an_uplink_goes_and_comes_back,
    an_uplink_is_replaced,
    a_route_moves_to_another_uplink,
    a_backup_route_takes_over,
    a_default_route_appears_late,
    the_mtu_follows_the_routes,
    the_vip_device_is_deleted,
    a_vip_route_is_deleted,
}

/// Clients of both VIPs that send all the time.
fn load(lab: &Lab) -> Result<[Workers; 2]> {
    let [v4, v6] = first_vips().map(|vip| Workers::start(lab.app(), Load::new(2, vip)));
    let workers = [v4?, v6?];
    all_served(&workers, START)?;
    Ok(workers)
}

/// Everybody is served by m1 from now on.
fn all_served(workers: &[Workers], within: Duration) -> Result<()> {
    let since = Instant::now();
    for workers in workers {
        workers.wait_served_by("m1", since, within)?;
    }
    Ok(())
}

/// Nobody noticed anything since the start, but perhaps waited.
fn nobody_failed(workers: [Workers; 2]) -> Result<()> {
    for workers in workers {
        let timeline = workers.stop();
        ensure!(timeline.failures_since(timeline.start).is_empty(), "{timeline}");
    }
    Ok(())
}

/// Longer than a check's time-out, so that everybody has noticed.
fn for_a_moment() {
    thread::sleep(Duration::from_millis(300));
}

fn one_member(scenario: Scenario) -> Scenario {
    // With one member nothing is switched: what is served again is served because the network was followed.
    scenario.lab(|lab| lab.members(1))
}

/// New flows leave by this uplink, with its source addresses, within [`SOON`]; the first ones may be lost.
fn leave_by(lab: &Lab, uplink: usize) -> Result<Duration> {
    let (wanted, mut last) = (super::addresses(UPLINKS[uplink].1), None);
    wait_until(&format!("new flows leave by {}", UPLINKS[uplink].0), SOON, || {
        let mut vips = first_vips().into_iter().zip(wanted);
        let one = |(vip, wanted)| -> Result<()> {
            let mut connection = lab.app().dial(vip).limit(Duration::from_millis(300)).connect()?;
            super::seen_from(&mut connection, wanted)
        };
        last = vips.try_for_each(one).err();
        last.is_none()
    })
    .with_context(|| format!("the last attempt: {last:?}"))
}

/// A cable is pulled and put back; the network manager gives addresses and routes again.
fn an_uplink_goes_and_comes_back(scenario: Scenario) {
    one_member(scenario).run(|lab| {
        let agent = agent(lab, &lab.config(), "m1")?;
        let workers = load(lab)?;
        lab.uplink_down()?;
        for_a_moment();
        lab.uplink_up()?;
        let took = both_served_soon(lab.app(), "m1")?;
        eprintln!("new connections are served {took:?} after the link is up");
        all_served(&workers, SOON)?;
        agent.wait_logged(&["eth0"], SOON)?;
        Ok(())
    });
}

/// A driver is reloaded, a virtual machine's device is plugged anew: same name, another index. The program hangs on
/// the old one.
fn an_uplink_is_replaced(scenario: Scenario) {
    one_member(scenario).run(|lab| {
        let agent = agent(lab, &lab.config(), "m1")?;
        let workers = load(lab)?;
        let before = lab.app().device_index("eth0")?;
        lab.replace_uplink()?;
        ensure!(lab.app().device_index("eth0")? != before, "the index is the old one");
        let took = both_served_soon(lab.app(), "m1")?;
        eprintln!("new connections are served {took:?} after the replacement");
        all_served(&workers, SOON)?;
        agent.wait_logged(&["eth0"], SOON)?;
        Ok(())
    });
}

/// A route moves to another device. New flows leave there, with its source address; open ones go on.
fn a_route_moves_to_another_uplink(scenario: Scenario) {
    one_member(scenario).run(|lab| {
        // The open flows' answers come in where they came in before.
        lab.app().sysctl("net/ipv4/conf/all/rp_filter", "2")?;
        lab.second_uplink()?;
        let agent = agent(lab, &lab.config(), "m1")?;
        let workers = load(lab)?;
        lab.route(lab.member("m1"), &[1])?;
        eprintln!("over the second uplink {:?} after the route moved", leave_by(lab, 1)?);
        agent.wait_logged(&["eth1"], SOON)?;
        all_served(&workers, SOON)?;
        // And back.
        lab.route(lab.member("m1"), &[0])?;
        for_a_moment();
        both_served_soon(lab.app(), "m1")?;
        all_served(&workers, SOON)?;
        nobody_failed(workers)
    });
}

/// The better of two routes goes with its link, and comes back with it.
fn a_backup_route_takes_over(scenario: Scenario) {
    one_member(scenario).run(|lab| {
        lab.second_uplink()?;
        lab.route(lab.member("m1"), &[1])?;
        let agent = agent(lab, &lab.config(), "m1")?;
        leave_by(lab, 1)?;
        lab.app().ip("link set eth1 down")?;
        eprintln!("over the backup {:?} after the link went", leave_by(lab, 0)?);
        agent.wait_logged(&["eth1"], SOON)?;
        lab.app().ip("link set eth1 up")?;
        lab.app().ip(&format!("address replace {}/64 dev eth1 nodad", UPLINKS[1].1.1))?;
        lab.route(lab.member("m1"), &[1])?;
        eprintln!("over the better one {:?} after it is back", leave_by(lab, 1)?);
        Ok(())
    });
}

/// At boot the agent is often earlier than DHCP or a routing daemon.
fn a_default_route_appears_late(scenario: Scenario) {
    one_member(scenario).run(|lab| {
        let gateways = GATEWAYS[0];
        lab.app().ip("route del default")?;
        lab.app().ip("-6 route del default")?;
        let agent = lab.agent(&lab.config()).context("an agent without a route does not start")?;
        for_a_moment();
        lab.app().ip(&format!("route add default via {}", gateways.0))?;
        lab.app().ip(&format!("-6 route add default via {}", gateways.1))?;
        let start = Instant::now();
        agent.wait_active("m1", SOON)?;
        both_served_soon(lab.app(), "m1")?;
        eprintln!("served {:?} after the route appeared", start.elapsed());
        ensure!(start.elapsed() < SOON, "{:?}", start.elapsed());
        Ok(())
    });
}

/// The MTU of the routes to both VIPs, as the host has it.
fn vip_mtu(lab: &Lab) -> Result<[Option<u32>; 2]> {
    let mtu = |vip: &str| -> Result<Option<u32>> {
        let shown = lab.app().ip(&format!("route show {vip}"))?;
        let shown = if shown.is_empty() { lab.app().ip(&format!("-6 route show {vip}"))? } else { shown };
        Ok(shown.split_once(" mtu ").and_then(|(_, mtu)| mtu.split_whitespace().next()?.parse().ok()))
    };
    Ok([mtu(&VIP_V4.to_string())?, mtu(&VIP_V6.to_string())?])
}

/// The VIP's route carries the smallest MTU of the routes to the members, also when that changes.
fn the_mtu_follows_the_routes(scenario: Scenario) {
    scenario.run(|lab| {
        let _agent = agent(lab, &lab.config(), "m1")?;
        let (gateway4, gateway6) = GATEWAYS[0];
        let becomes = |mtu| {
            wait_until(&format!("the VIPs' MTU is {mtu}"), SOON, || {
                vip_mtu(lab).is_ok_and(|found| found == [Some(mtu); 2])
            })
            .with_context(|| format!("{:?}", vip_mtu(lab)))
        };
        becomes(1500)?;
        for (mtu, smallest) in [("mtu 1300", 1300), ("mtu 1400", 1400), ("", 1500)] {
            // Of the member that is not active: a switch must not find a larger MTU than fits.
            lab.app().ip(&format!("route replace 10.2.2.0/24 via {gateway4} {mtu}"))?;
            lab.app().ip(&format!("-6 route replace fd02:2::/64 via {gateway6} {mtu}"))?;
            let took = becomes(smallest)?;
            eprintln!("the VIPs' routes have MTU {smallest} after {took:?}");
        }
        lab.app().ip("link set eth0 mtu 1350")?;
        becomes(1350)?;
        for mut connection in both_served(lab.app(), "m1")? {
            super::quick_bulk(&mut connection)?;
        }
        Ok(())
    });
}

/// Somebody cleans up. The device comes back, with everything on it, and open connections go on.
fn the_vip_device_is_deleted(scenario: Scenario) {
    scenario.run(|lab| {
        let agent = agent(lab, &lab.config(), "m1")?;
        let workers = load(lab)?;
        lab.app().ip("link del redirector0")?;
        restored(lab, &agent, &["redirector0"])?;
        all_served(&workers, SOON)
    });
}

/// A network manager that keeps "its" table clean takes the VIP's route away.
fn a_vip_route_is_deleted(scenario: Scenario) {
    scenario.run(|lab| {
        let agent = agent(lab, &lab.config(), "m1")?;
        let workers = load(lab)?;
        lab.app().ip(&format!("route del {VIP_V4}"))?;
        lab.app().ip(&format!("-6 route del {VIP_V6}"))?;
        restored(lab, &agent, &["route"])?;
        all_served(&workers, SOON)
    });
}

fn restored(lab: &Lab, agent: &Agent, words: &[&str]) -> Result<()> {
    let took = both_served_soon(lab.app(), "m1")?;
    eprintln!("new connections are served {took:?} after the deletion");
    agent.wait_logged(words, SOON)?;
    ensure!(agent.status()?["services"][0]["epoch"] == 1, "a switch: {:#}", agent.status()?);
    Ok(())
}
