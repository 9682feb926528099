//! Clients that are not simply a process of the host: containers, other machines, chosen source addresses.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use redirector_tests::{Agent, Host, Lab, Scenario, UPLINKS, first_vips, with_and_without_offloads};

use super::{START, addresses, agent, both_served, is_reset, quick_bulk, seen_from};

with_and_without_offloads! {
    containers,
    containers_behind_masquerade,
    other_machines,
    a_chosen_source_address,
}

/// A client on `host` is served, moves bulk, is seen by the member from an address that the member can answer, and is
/// reset with its next command when the member was left. Members have no route to containers.
fn carried_and_reset(lab: &Lab, agent: &Agent, host: &Host) -> Result<()> {
    let mut open = both_served(host, "m1")?;
    for (connection, address) in open.iter_mut().zip(addresses(UPLINKS[0].1)) {
        seen_from(connection, address)?;
        quick_bulk(connection)?;
    }
    lab.member("m1").freeze()?;
    agent.wait_active("m2", START)?;
    for connection in &mut open {
        is_reset(connection).with_context(|| host.name().to_owned())?;
    }
    for mut connection in both_served(host, "m2")? {
        quick_bulk(&mut connection)?;
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
