//! Reverse-path filters: in the kernel and in firewalls.

use anyhow::{Context, Result};
use redirector_tests::{Host, Lab, Scenario, with_and_without_offloads};

use super::{agent, both_served, quick_bulk};

with_and_without_offloads! {
    every_rp_filter,
    a_firewall_rule_on_reverse_paths,
}

/// The host itself, a container, and another machine.
fn clients(lab: &Lab) -> Result<[Host; 3]> {
    let clients = [lab.app().clone(), lab.container("c1")?, lab.machine("outside")?];
    lab.vips_through_app()?;
    Ok(clients)
}

fn all_carried(clients: &[Host]) -> Result<()> {
    for client in clients {
        for mut connection in both_served(client, "m1")? {
            quick_bulk(&mut connection).with_context(|| client.name().to_owned())?;
        }
    }
    Ok(())
}

/// Distributions ship 0, 1 or 2. A reply that enters where its source is not routed passes with 0 and 2 only.
fn every_rp_filter(scenario: Scenario) {
    scenario.run(|lab| {
        let clients = clients(lab)?;
        let _agent = agent(lab, &lab.config(), "m1")?;
        // Written for all devices and for each: the larger of the two counts.
        for mode in ["0", "1", "2"] {
            for scope in ["all", "default", "eth0", "br0", "redirector0"] {
                lab.app().sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), mode)?;
            }
            all_carried(&clients).with_context(|| format!("rp_filter = {mode}"))?;
        }
        Ok(())
    });
}

/// No sysctl shows that a firewall checks reverse paths too.
fn a_firewall_rule_on_reverse_paths(scenario: Scenario) {
    scenario.run(|lab| {
        let clients = clients(lab)?;
        lab.app().nft(
            "table inet firewall { chain prerouting { type filter hook prerouting priority raw; \
             fib saddr . iif oif missing counter drop; }; }",
        )?;
        let _agent = agent(lab, &lab.config(), "m1")?;
        all_carried(&clients).with_context(|| lab.app().nft("list ruleset").unwrap_or_default())
    });
}
