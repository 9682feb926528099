//! Members on the host that the agent runs on.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use redirector_tests::{AgentConfig, Host, Lab, Member, Scenario, UPLINKS, with_and_without_offloads};

use super::{START, agent, both_served, is_reset, quick_bulk};

with_and_without_offloads! {
    on_loopback,
    on_an_own_address,
    in_a_container,
}

/// A configuration whose better member is `local`, and whose other one is m2.
fn config(lab: &Lab, local: &Member) -> AgentConfig {
    let m2 = lab.member("m2");
    lab.config().members(&[("local", local.v4(), local.v6()), ("m2", m2.v4(), m2.v6())])
}

/// Clients are carried to the member, and reset with their next command when it was left.
fn carried_and_reset(lab: &Lab, local: &Member, clients: &[Host]) -> Result<()> {
    let agent = agent(lab, &config(lab, local), "local")?;
    let mut open = Vec::new();
    for client in clients {
        for mut connection in both_served(client, "local")? {
            quick_bulk(&mut connection).with_context(|| client.name().to_owned())?;
            open.push((client.name(), connection));
        }
    }
    local.freeze()?;
    agent.wait_active("m2", START)?;
    for (client, connection) in &mut open {
        is_reset(connection).with_context(|| (*client).to_owned())?;
    }
    for client in clients {
        both_served(client, "m2")?;
    }
    local.thaw()
}

/// The host, a container of it, and another machine.
fn clients(lab: &Lab) -> Result<Vec<Host>> {
    let clients = vec![lab.app().clone(), lab.container("c1")?, lab.machine("outside")?];
    lab.vips_through_app()?;
    Ok(clients)
}

/// 127.0.0.1 and ::1: answers never leave the host, so no uplink sees them.
fn on_loopback(scenario: Scenario) {
    scenario.run(|lab| {
        let local = lab.server(lab.app(), "local", (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST))?;
        carried_and_reset(lab, &local, &clients(lab)?)
    });
}

/// The host's own address on its uplink: for the routing table that is a local delivery, not a way.
fn on_an_own_address(scenario: Scenario) {
    scenario.run(|lab| {
        let local = lab.server(lab.app(), "local", UPLINKS[0].1)?;
        carried_and_reset(lab, &local, &clients(lab)?)
    });
}

/// A member in a container is behind a bridge, which is an uplink like any other.
fn in_a_container(scenario: Scenario) {
    scenario.run(|lab| {
        let container = lab.container("db")?;
        let own = ([10, 30, 0, 2].into(), [0xfd30, 0, 0, 0, 0, 0, 0, 2].into());
        let local = lab.server(&container, "local", own)?;
        carried_and_reset(lab, &local, &clients(lab)?)
    });
}
