//! Clients that are not simply a process of the host: containers, other machines, chosen source addresses.

use std::{io::ErrorKind, net::IpAddr, time::Instant};

use anyhow::{Context, Result, ensure};
use redirector_tests::{
    Agent, Host, Lab, Scenario, UPLINKS, first_vips, wait_until, with_and_without_offloads,
};

use super::{SECOND, START, addresses, agent, both_served, is_reset, quick_bulk, seen_from};

with_and_without_offloads! {
    containers,
    containers_behind_masquerade,
    other_machines,
    a_chosen_source_address,
    a_held_service_refuses_everybody,
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

/// A service without a member to offer: whoever connects is refused at once, wherever it is, and does not wait for its
/// SYN timer.
fn a_held_service_refuses_everybody(scenario: Scenario) {
    scenario.lab(|lab| lab.members(1)).run(|lab| {
        let [plain, masqueraded] = [lab.container("c1")?, lab.container("c2")?];
        let machine = lab.machine("outside")?;
        lab.vips_through_app()?;
        let agent = agent(lab, &lab.config().service_line("on_all_down = \"refuse\""), "m1")?;
        lab.member("m1").crash()?;
        wait_until("the services are held", START, || {
            let held = |n: usize| agent.status().is_ok_and(|status| status["services"][n]["state"] == "held");
            held(0) && held(1)
        })?;
        for client in [lab.app(), &plain, &machine, &masqueraded] {
            if client.name() == masqueraded.name() {
                lab.masquerade()?;
            }
            for vip in first_vips() {
                let start = Instant::now();
                let error = client.dial(vip).connect().err().context("a held service answers")?;
                let (kind, took) = (error.kind(), start.elapsed());
                ensure!(
                    kind == ErrorKind::ConnectionRefused && took < SECOND,
                    "{} to {vip}: {error} after {took:?}",
                    client.name()
                );
            }
        }
        Ok(())
    });
}
