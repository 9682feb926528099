//! What tests on networks rely on, shown with direct connections: uplinks, narrow paths, containers, the tunnel.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redirector_tests::{Connection, Host, Member, Scenario, UPLINKS, Value, with_and_without_offloads};

const SHORT: Duration = Duration::from_millis(500);

with_and_without_offloads! {
    a_second_uplink_has_its_own_source,
    a_narrow_path_is_found_out,
    a_tunnel_carries,
    containers_need_masquerade,
    machines_reach_members,
    an_uplink_can_be_replaced,
    several_servers,
}

/// Connections over both IP versions, which carry a large value.
fn direct(host: &Host, member: &Member) -> Result<[Connection; 2]> {
    let open = |address| -> Result<_> {
        let mut connection =
            host.dial(address).limit(SHORT).connect().with_context(|| format!("{address}"))?;
        ensure!(connection.whoami()? == member.name());
        let value = "x".repeat(1_000_000);
        connection.command(&["SET", "large", &value]).context("a large value to the member")?;
        let found = connection.command(&["GET", "large"]).context("a large value from the member")?;
        ensure!(found == Value::Bulk(Some(value.into_bytes())));
        Ok(connection)
    };
    Ok([open(member.v4())?, open(member.v6())?])
}

fn a_second_uplink_has_its_own_source(scenario: Scenario) {
    scenario.run(|lab| {
        lab.second_uplink()?;
        lab.route(lab.member("m2"), &[1])?;
        for (n, name) in ["m1", "m2"].into_iter().enumerate() {
            let [mut v4, mut v6] = direct(lab.app(), lab.member(name))?;
            ensure!(v4.seen_as()?.ip() == UPLINKS[n].1.0 && v6.seen_as()?.ip() == UPLINKS[n].1.1);
        }
        lab.route(lab.member("m2"), &[0, 1])?;
        direct(lab.app(), lab.member("m2")).map(drop)
    });
}

/// Neither end knows; both learn it from the routers.
fn a_narrow_path_is_found_out(scenario: Scenario) {
    scenario.run(|lab| {
        let member = lab.member("m1");
        let narrow = lab.narrow(member.host(), 1300)?;
        for connection in direct(lab.app(), member)? {
            ensure!(connection.agreed()?.send_segment < 1300, "{:?}", connection.agreed()?);
        }
        // Without its errors the path is a black hole for large packets, and only for those.
        for router in [lab.router(), &narrow] {
            router.nft(
                "table inet mute { chain c { type filter hook output priority filter; \
                 icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }; }",
            )?;
        }
        for host in [lab.app(), member.host()] {
            host.ip("route flush cache")?;
            host.ip("-6 route flush cache")?;
        }
        let error = direct(lab.app(), member).err().context("large packets pass without ICMP errors")?;
        ensure!(format!("{error:#}").contains("a large value"), "{error:#}");
        Ok(())
    });
}

fn a_tunnel_carries(scenario: Scenario) {
    scenario.run(|lab| {
        let tunnel = lab.tunnel()?;
        lab.route_through_tunnel(lab.member("m1"))?;
        let [mut v4, _] = direct(lab.app(), lab.member("m1"))?;
        ensure!(v4.seen_as()?.ip() == std::net::Ipv4Addr::new(10, 7, 0, 2));
        drop(tunnel);
        ensure!(lab.app().ip("link show tun0").is_err(), "the device outlives the tunnel");
        Ok(())
    });
}

fn containers_need_masquerade(scenario: Scenario) {
    scenario.run(|lab| {
        let [one, two] = [lab.container("c1")?, lab.container("c2")?];
        ensure!(direct(&one, lab.member("m1")).is_err(), "members have no route to containers");
        lab.masquerade()?;
        for container in [&one, &two] {
            for mut connection in direct(container, lab.member("m1"))? {
                let seen = connection.seen_as()?.ip();
                ensure!(seen == UPLINKS[0].1.0 || seen == UPLINKS[0].1.1, "{seen}");
            }
        }
        Ok(())
    });
}

fn machines_reach_members(scenario: Scenario) {
    scenario.run(|lab| {
        let [one, two] = [lab.machine("one")?, lab.machine("two")?];
        lab.narrow(&two, 1300)?;
        for machine in [one, two] {
            direct(&machine, lab.member("m1"))?;
        }
        Ok(())
    });
}

fn an_uplink_can_be_replaced(scenario: Scenario) {
    scenario.run(|lab| {
        let before = lab.app().device_index("eth0")?;
        lab.replace_uplink()?;
        ensure!(lab.app().device_index("eth0")? != before);
        direct(lab.app(), lab.member("m1"))?;
        lab.uplink_down()?;
        ensure!(direct(lab.app(), lab.member("m1")).is_err());
        lab.uplink_up()?;
        direct(lab.app(), lab.member("m1")).map(drop)
    });
}

fn several_servers(scenario: Scenario) {
    scenario.run(|lab| {
        let container = lab.container("db")?;
        let own = ([10, 30, 0, 2].into(), [0xfd30, 0, 0, 0, 0, 0, 0, 2].into());
        let (here, there) =
            (lab.server(lab.app(), "here", UPLINKS[0].1)?, lab.server(&container, "there", own)?);
        direct(lab.app(), &here)?;
        direct(lab.app(), &there)?;
        there.crash()?;
        ensure!(direct(lab.app(), &there).is_err());
        there.start()?;
        direct(lab.app(), &there).map(drop)
    });
}
