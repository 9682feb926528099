//! Several uplinks, several source addresses.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Result, ensure};
use redirector_tests::{
    Connection, GATEWAYS, Host, Lab, Scenario, UPLINKS, Value, first_vips, with_and_without_offloads,
};

use super::{agent, both_served, quick_bulk, seen_from, served};

with_and_without_offloads! {
    each_member_by_its_own_uplink,
    ecmp_spreads,
    an_uplink_without_ethernet,
    an_uplink_that_is_a_bridge,
    an_uplink_that_is_a_macvlan,
    source_addresses_multiply_ports,
}

/// As providers do: what does not come from an address of their own network, they drop (BCP 38).
fn providers_drop_foreign_sources(lab: &Lab, second: &Host) -> Result<()> {
    for (host, device, net) in [(lab.router(), "to-app", 1), (second, "to-app", 9)] {
        let v4 = format!("iifname {device} ip saddr != 10.{net}.0.0/24");
        let v6 = format!("iifname {device} ip6 saddr != fd0{net}::/64");
        host.lose(&[&v4, &v6])?;
    }
    Ok(())
}

/// Members behind different uplinks: the flow to the second one left with the first one's source address, and its
/// provider dropped it.
fn each_member_by_its_own_uplink(scenario: Scenario) {
    scenario.run(|lab| {
        let second = lab.second_uplink()?;
        lab.route(lab.member("m2"), &[1])?;
        providers_drop_foreign_sources(lab, &second)?;
        let agent = agent(lab, &lab.config(), "m1")?;
        for (n, member) in ["m1", "m2"].into_iter().enumerate() {
            agent.wait_active(member, super::START)?;
            let [mut v4, mut v6] = both_served(lab.app(), member)?;
            seen_from(&mut v4, UPLINKS[n].1.0)?;
            seen_from(&mut v6, UPLINKS[n].1.1)?;
            quick_bulk(&mut v4)?;
            quick_bulk(&mut v6)?;
            if n == 0 {
                lab.member("m1").crash()?;
            }
        }
        Ok(())
    });
}

/// How many connections the member sees from which address.
fn sources(connections: &mut [Connection]) -> Result<BTreeMap<IpAddr, usize>> {
    let mut count = BTreeMap::new();
    for connection in connections {
        *count.entry(connection.seen_as()?.ip()).or_default() += 1;
    }
    Ok(count)
}

/// Equal-cost paths: without the ports in the look-up every flow takes the same one, and the other link idles.
fn ecmp_spreads(scenario: Scenario) {
    scenario.lab(|lab| lab.members(1)).run(|lab| {
        let routers = [lab.router().clone(), lab.second_uplink()?];
        lab.route(lab.member("m1"), &[0, 1])?;
        let _agent = agent(lab, &lab.config(), "m1")?;
        for vip in first_vips() {
            for router in &routers {
                // Flows only: probes come from other ports.
                router.count("iifname to-app tcp sport 10000-32767 tcp flags & (syn | ack) == syn")?;
            }
            let mut open = (0..48).map(|_| served(lab.app(), vip, "m1")).collect::<Result<Vec<_>>>()?;
            let paths = [routers[0].counted()?, routers[1].counted()?];
            let sources = sources(&mut open)?;
            eprintln!("{vip}: 48 flows by path: {paths:?}, by source address: {sources:?}");
            // By chance, fewer than 8 of 48 come once in two million times.
            ensure!(
                paths.iter().sum::<u64>() == 48 && paths.iter().all(|path| *path >= 8),
                "{vip}: {paths:?}"
            );
            for connection in &mut open {
                ensure!(connection.command(&["PING"])? == Value::Status("PONG".into()));
            }
            quick_bulk(&mut open[0])?;
        }
        Ok(())
    });
}

/// A tunnel (WireGuard, IPIP, PPP) carries packets without an Ethernet header: writing one in front of them, or leaving
/// by a neighbour that is none, loses them all.
fn an_uplink_without_ethernet(scenario: Scenario) {
    scenario.run(|lab| {
        let _tunnel = lab.tunnel()?;
        lab.route_through_tunnel(lab.member("m1"))?;
        let agent = agent(lab, &lab.config(), "m1")?;
        let [mut v4, mut v6] = both_served(lab.app(), "m1")?;
        seen_from(&mut v4, [10, 7, 0, 2])?;
        seen_from(&mut v6, [0xfd07, 0, 0, 0, 0, 0, 0, 2])?;
        quick_bulk(&mut v4)?;
        quick_bulk(&mut v6)?;
        // From the tunnel to a member over Ethernet.
        lab.member("m1").crash()?;
        agent.wait_active("m2", super::START)?;
        let [mut v4, mut v6] = both_served(lab.app(), "m2")?;
        quick_bulk(&mut v4)?;
        quick_bulk(&mut v6)
    });
}

/// `eth0` carries no address any more; a device on top of it, made with these words, has it.
fn stacked(lab: &Lab, make: &[&str]) -> Result<()> {
    let app = lab.app();
    app.ip("address flush dev eth0")?;
    for command in make {
        app.ip(command)?;
    }
    app.ip("link set top up")?;
    let (own, gateway) = (super::addresses(UPLINKS[0].1), super::addresses(GATEWAYS[0]));
    for (own, gateway) in own.into_iter().zip(gateway) {
        app.ip(&format!("address add {own}/{} dev top nodad", if own.is_ipv4() { 24 } else { 64 }))?;
        app.ip(&format!("-{} route replace default via {gateway}", if own.is_ipv4() { 4 } else { 6 }))?;
    }
    let _agent = agent(lab, &lab.config(), "m1")?;
    for mut connection in both_served(app, "m1")? {
        quick_bulk(&mut connection)?;
    }
    Ok(())
}

/// A hypervisor's uplink: the cable is a port of a bridge, the address is the bridge's. A packet passes two devices.
fn an_uplink_that_is_a_bridge(scenario: Scenario) {
    scenario.run(|lab| stacked(lab, &["link add top type bridge", "link set eth0 master top"]));
}

/// A device with an Ethernet address of its own on somebody else's cable.
fn an_uplink_that_is_a_macvlan(scenario: Scenario) {
    scenario.run(|lab| stacked(lab, &["link add top link eth0 type macvlan mode bridge"]));
}

/// One source address carries as many flows to a member's address as `port_range` has ports. More addresses carry
/// more.
fn source_addresses_multiply_ports(scenario: Scenario) {
    const PORTS: std::ops::RangeInclusive<u16> = 10_000..=10_007;
    scenario.run(|lab| {
        let more = ["10.1.0.3/24", "fd01::3/64"];
        for address in more {
            lab.app().ip(&format!("address add {address} dev eth0 nodad"))?;
        }
        let config = lab
            .config()
            .datapath_line("source_addresses = [\"10.1.0.2\", \"10.1.0.3\", \"fd01::2\", \"fd01::3\"]")
            .datapath_line(&format!("port_range = \"{}-{}\"", PORTS.start(), PORTS.end()));
        let _agent = agent(lab, &config, "m1")?;
        for vip in first_vips() {
            let mut open = (0..16).map(|_| served(lab.app(), vip, "m1")).collect::<Result<Vec<_>>>()?;
            let sources = sources(&mut open)?;
            ensure!(sources.len() == 2 && sources.values().all(|count| *count == 8), "{vip}: {sources:?}");
            for connection in &mut open {
                let seen = connection.seen_as()?;
                ensure!(PORTS.contains(&seen.port()), "{vip}: a port outside of the range: {seen}");
            }
        }
        Ok(())
    });
}
