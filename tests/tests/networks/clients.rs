//! Clients that are not simply a process of the host: containers, other machines, chosen source addresses.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use redirector_tests::{
    Agent, Host, Lab, Load, Scenario, UPLINKS, WaitingClient, Workers, first_vips, with_and_without_offloads,
};

use super::{START, agent, both_served, quick_bulk, seen_from};

with_and_without_offloads! {
    containers,
    containers_behind_masquerade,
    other_machines,
    a_chosen_source_address,
}

/// A client on `host` is served, moves bulk, is seen by the member from an address that the member can answer, and is
/// reset when the member is left. Members have no route to containers.
fn carried_and_reset(lab: &Lab, agent: &Agent, host: &Host) -> Result<()> {
    let [mut v4, mut v6] = both_served(host, "m1")?;
    seen_from(&mut v4, UPLINKS[0].1.0)?;
    seen_from(&mut v6, UPLINKS[0].1.1)?;
    quick_bulk(&mut v4)?;
    quick_bulk(&mut v6)?;

    let vips = first_vips();
    let blocked: Vec<_> =
        vips.iter().map(|vip| WaitingClient::blocked(host, *vip, "nothing")).collect::<Result<_>>()?;
    let workers: Vec<_> =
        vips.iter().map(|vip| Workers::start(host, Load::new(2, *vip))).collect::<Result<_>>()?;
    for workers in &workers {
        workers.wait_served_by("m1", std::time::Instant::now(), START)?;
    }
    let since = std::time::Instant::now();
    lab.member("m1").freeze()?;
    agent.wait_active("m2", START)?;
    for workers in workers {
        let served = workers.wait_served_by("m2", since, START)?;
        eprintln!("{}: served by m2 {served:?} after the freeze", host.name());
        let timeline = workers.stop();
        ensure!(timeline.failures_after("m2", since).is_empty(), "{timeline}");
    }
    for client in &blocked {
        let wake = client.wait_woken(START)?;
        eprintln!("{}: woken {:?} after the freeze", host.name(), wake.at.saturating_duration_since(since));
        ensure!(wake.with.is_err(), "{wake:?}");
    }
    lab.member("m1").thaw()
}

/// Packets of containers arrive forwarded, with a source that no member can answer.
fn containers(scenario: Scenario) {
    scenario.run(|lab| {
        let container = lab.container("c1")?;
        let agent = agent(lab, &lab.config(), "m1")?;
        carried_and_reset(lab, &agent, &container)
    });
}

/// With masquerade, connection tracking has changed the source once already, for the VIP device and not for the
/// uplink; answers must find back through it.
fn containers_behind_masquerade(scenario: Scenario) {
    scenario.run(|lab| {
        let container = lab.container("c1")?;
        lab.masquerade()?;
        let agent = agent(lab, &lab.config(), "m1")?;
        carried_and_reset(lab, &agent, &container)
    });
}

/// This host is the VIP's router for machines that run no agent. Their packets enter and leave by the same uplink that
/// the members' answers come in by.
fn other_machines(scenario: Scenario) {
    scenario.run(|lab| {
        let machine = lab.machine("outside")?;
        lab.vips_through_app()?;
        let agent = agent(lab, &lab.config(), "m1")?;
        carried_and_reset(lab, &agent, &machine)
    });
}

/// A process bound to an address that the VIP's route does not prefer: answers must go to that address.
fn a_chosen_source_address(scenario: Scenario) {
    scenario.run(|lab| {
        let own: [IpAddr; 2] = [[10, 1, 0, 77].into(), [0xfd01, 0, 0, 0, 0, 0, 0, 0x77].into()];
        for address in own {
            let length = if address.is_ipv4() { 24 } else { 64 };
            lab.app().ip(&format!("address add {address}/{length} dev eth0 nodad"))?;
        }
        let _agent = agent(lab, &lab.config(), "m1")?;
        for (vip, own) in first_vips().into_iter().zip(own) {
            let mut connection = lab.app().dial(vip).from((own, 0)).connect()?;
            ensure!(connection.socket().local_addr()?.ip() == own);
            ensure!(connection.whoami()? == "m1");
            quick_bulk(&mut connection)?;
        }
        Ok(())
    });
}
