//! Narrow paths, and packets with more in front of TCP than usual.

use anyhow::{Context, Result, ensure};
use redirector_tests::{CONTAINERS, Offloads, Scenario, first_vips, with_and_without_offloads};

use super::{SOON, agent, both_served, quick_bulk};

with_and_without_offloads! {
    a_narrow_path_to_the_member,
    a_narrow_path_behind_forwarded_clients,
    a_narrow_uplink_before_forwarded_clients,
    a_narrow_path_to_the_client,
    a_narrow_bridge_to_the_container,
    fragments_of_a_client,
    fragments_of_a_member,
    options_in_the_ip_header,
    extension_headers,
    tcp_options_are_kept,
}

/// What fits in the middle, while both ends believe in 1500.
const NARROW: u32 = 1300;

/// The router's "fragmentation needed" quotes the translated header: unless it is translated back the client's stack
/// takes it for somebody else's, and every bulk transfer hangs while small commands work.
fn a_narrow_path_to_the_member(scenario: Scenario) {
    scenario.run(|lab| {
        lab.narrow(lab.member("m1").host(), NARROW)?;
        let agent = agent(lab, &lab.config(), "m1")?;
        let mut before = agent.outcome("icmp_to_client")?;
        for mut connection in both_served(lab.app(), "m1")? {
            quick_bulk(&mut connection)?;
            let after = agent.outcome("icmp_to_client")?;
            ensure!(
                after > before,
                "no ICMP error was translated for the client: {:#}",
                agent.status()?["outcomes"]
            );
            before = after;
        }
        Ok(())
    });
}

/// The same for clients that are not this host's own: the error goes on to them, once through connection tracking.
fn a_narrow_path_behind_forwarded_clients(scenario: Scenario) {
    scenario.run(|lab| {
        lab.narrow(lab.member("m1").host(), NARROW)?;
        let [first, second] = [lab.container("c1")?, lab.container("c2")?];
        let machine = lab.machine("outside")?;
        lab.vips_through_app()?;
        let agent = agent(lab, &lab.config(), "m1")?;
        for client in [&first, &machine, &second] {
            if client.name() == "c2" {
                lab.masquerade()?;
            }
            // The member knows the path of this host's addresses by now, and would ask for small segments itself.
            for family in ["-4", "-6"] {
                lab.member("m1").host().ip(&format!("{family} route flush cache"))?;
            }
            let before = agent.outcome("icmp_to_client")?;
            for mut connection in both_served(client, "m1")? {
                quick_bulk(&mut connection).with_context(|| client.name().to_owned())?;
            }
            let outcomes = &agent.status()?["outcomes"];
            ensure!(agent.outcome("icmp_to_client")? >= before + 2, "{}: {outcomes:#}", client.name());
        }
        Ok(())
    });
}

/// This host itself finds that what it forwards does not fit, before it becomes a member's: the stack says so to the client. Larger
/// packets than the uplink takes would be lost there, without a word.
fn a_narrow_uplink_before_forwarded_clients(scenario: Scenario) {
    scenario.run(|lab| {
        lab.app().ip(&format!("link set eth0 mtu {NARROW}"))?;
        lab.router().ip(&format!("link set to-app mtu {NARROW}"))?;
        let clients = [lab.container("c1")?, lab.machine("outside")?];
        lab.vips_through_app()?;
        let _agent = agent(lab, &lab.config(), "m1")?;
        for client in &clients {
            for mut connection in both_served(client, "m1")? {
                quick_bulk(&mut connection).with_context(|| client.name().to_owned())?;
            }
        }
        Ok(())
    });
}

/// The same in the other direction: somebody behind this host cannot take what the member sends. The error goes to the
/// VIP, and the member has never heard of that.
fn a_narrow_path_to_the_client(scenario: Scenario) {
    scenario.run(|lab| {
        let machine = lab.machine("outside")?;
        lab.vips_through_app()?;
        lab.narrow(&machine, NARROW)?;
        let agent = agent(lab, &lab.config(), "m1")?;
        let mut before = agent.outcome("icmp_to_member")?;
        for mut connection in both_served(&machine, "m1")? {
            quick_bulk(&mut connection)?;
            let after = agent.outcome("icmp_to_member")?;
            ensure!(
                after > before,
                "no ICMP error was translated for the member: {:#}",
                agent.status()?["outcomes"]
            );
            before = after;
        }
        Ok(())
    });
}

/// This host itself finds that the answer does not fit, on the bridge to a container (an overlay network's), and
/// sends the error from its own stack.
fn a_narrow_bridge_to_the_container(scenario: Scenario) {
    scenario.run(|lab| {
        let container = lab.container("c1")?;
        lab.app().ip(&format!("link set {} mtu {NARROW}", CONTAINERS.0))?;
        let agent = agent(lab, &lab.config(), "m1")?;
        for mut connection in both_served(&container, "m1")? {
            quick_bulk(&mut connection)?;
        }
        ensure!(agent.outcome("icmp_to_member")? > 0, "{:#}", agent.status()?["outcomes"]);
        Ok(())
    });
}

/// A client that lets routers cut its packets (no path MTU discovery): the pieces after the first have no ports.
fn fragments_of_a_client(scenario: Scenario) {
    scenario.run(|lab| {
        let machine = lab.machine("outside")?;
        lab.vips_through_app()?;
        lab.narrow(&machine, NARROW)?;
        let agent = agent(lab, &lab.config(), "m1")?;
        let [v4, _] = first_vips();
        let dont = libc::IP_PMTUDISC_DONT.to_ne_bytes();
        let dial = machine.dial(v4).option(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &dont).limit(SOON);
        quick_bulk(&mut dial.connect()?)
            .with_context(|| format!("{:#}", agent.status().unwrap_or_default()["outcomes"]))
    });
}

/// The same of a member whose kernel has path MTU discovery switched off.
fn fragments_of_a_member(scenario: Scenario) {
    scenario.run(|lab| {
        let member = lab.member("m1");
        lab.narrow(member.host(), NARROW)?;
        member.host().sysctl("net/ipv4/ip_no_pmtu_disc", "1")?;
        let agent = agent(lab, &lab.config(), "m1")?;
        let [mut v4, _] = both_served(lab.app(), "m1")?;
        quick_bulk(&mut v4).with_context(|| format!("{:#}", agent.status().unwrap_or_default()["outcomes"]))
    });
}

/// The TCP header does not begin where it usually does. A recorded route comes back in the answer, so both directions
/// have options, and routers change them under way.
fn options_in_the_ip_header(scenario: Scenario) {
    scenario.run(|lab| {
        let _agent = agent(lab, &lab.config(), "m1")?;
        let [v4, _] = first_vips();
        // Record route (RFC 791): type 7, length 15, next at 4, room for three addresses; end of list.
        let mut record_route = [0_u8; 16];
        record_route[..3].copy_from_slice(&[7, 15, 4]);
        let no_operation = [1, 1, 1, 0];
        for options in [record_route.as_slice(), &no_operation] {
            let dial = lab.app().dial(v4).option(libc::IPPROTO_IP, libc::IP_OPTIONS, options).limit(SOON);
            let mut connection = dial.connect().with_context(|| format!("{options:?}"))?;
            ensure!(connection.whoami()? == "m1");
            quick_bulk(&mut connection).with_context(|| format!("{options:?}"))?;
        }
        Ok(())
    });
}

/// Headers between IPv6 and TCP: hop-by-hop options, destination options, and both.
fn extension_headers(scenario: Scenario) {
    scenario.run(|lab| {
        let agent = agent(lab, &lab.config(), "m1")?;
        let [_, v6] = first_vips();
        // Eight bytes (RFC 8200, 4.3): next header, which the kernel fills in, length 0, PadN of four bytes.
        let header = [0, 0, 1, 4, 0, 0, 0, 0];
        let (hops, destination) = (libc::IPV6_HOPOPTS, libc::IPV6_DSTOPTS);
        for options in [&[hops][..], &[destination], &[hops, destination]] {
            let mut dial = lab.app().dial(v6).limit(SOON);
            for option in options {
                dial = dial.option(libc::IPPROTO_IPV6, *option, &header);
            }
            let context = || format!("{options:?}: {:#}", agent.status().unwrap_or_default()["outcomes"]);
            let mut connection = dial.connect().with_context(context)?;
            ensure!(connection.whoami()? == "m1");
            // Not large segments behind destination options, which Linux routers cannot measure: `ip6_rcv` takes them
            // for the TCP header, and of 20 direct connections with them 11 hung (Linux 6.18).
            if *options == [hops] || lab.offloads() == Offloads::Off {
                quick_bulk(&mut connection).with_context(context)?;
            }
        }
        Ok(())
    });
}

/// What the two ends agree on when they connect is what they would agree on directly: window scale, timestamps,
/// selective acknowledgements, segment size.
fn tcp_options_are_kept(scenario: Scenario) {
    scenario.run(|lab| {
        let _agent = agent(lab, &lab.config(), "m1")?;
        let member = lab.member("m1");
        for (vip, direct) in first_vips().into_iter().zip([member.v4(), member.v6()]) {
            let agreed = |to| -> Result<_> {
                let mut connection = lab.app().dial(to).connect()?;
                connection.whoami()?;
                Ok(connection.agreed()?)
            };
            let (through, direct) = (agreed(vip)?, agreed(direct)?);
            ensure!(through == direct, "{vip}: {through:?}, directly {direct:?}");
        }
        Ok(())
    });
}
