//! ICMP errors that a client must hear of.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{Dial, Scenario, first_vips, with_and_without_offloads};

use super::{agent, both_served};

with_and_without_offloads! {
    unreachable_is_told_at_once,
    time_exceeded_is_told_at_once,
}

/// Without the error a client waits for its SYN timer: 127 s. Not under a second: on veth the error is back before
/// `connect` has let go of the socket, so Linux ignores it (`LockDroppedIcmps`, for a direct connection too) and believes
/// the one for the SYN that is sent again.
const AT_ONCE: Duration = Duration::from_millis(1800);

fn fails_at_once(dial: &Dial, kind: ErrorKind) -> Result<()> {
    let start = Instant::now();
    let error = dial.connect().err().context("it is connected")?;
    let took = start.elapsed();
    ensure!(error.kind() == kind && took < AT_ONCE, "{dial:?}: {error} after {took:?}");
    Ok(())
}

/// A router or a firewall on the way to the member answers with host or port unreachable, about flows only (their
/// source ports are those of `port_range`): checks still pass, the member stays.
fn unreachable_is_told_at_once(scenario: Scenario) {
    scenario.run(|lab| {
        let agent = agent(lab, &lab.config(), "m1")?;
        let mut told = 0;
        for (code, kind) in [
            ("host-unreachable", ErrorKind::HostUnreachable),
            ("port-unreachable", ErrorKind::ConnectionRefused),
        ] {
            let open = both_served(lab.app(), "m1")?;
            lab.router().nft(&format!(
                "table inet refuse {{ chain c {{ type filter hook forward priority filter; \
                 tcp sport 10000-32767 tcp dport 6379 reject with icmpx {code}; }}; }}"
            ))?;
            for vip in first_vips() {
                fails_at_once(&lab.app().dial(vip), kind).with_context(|| code.to_owned())?;
                told += 1;
            }
            ensure!(agent.outcome("icmp_to_client")? >= told, "{:#}", agent.status()?["outcomes"]);
            lab.router().nft("delete table inet refuse")?;
            // An error is no end of a flow that is established (RFC 1122, 4.2.3.9).
            for mut connection in open {
                ensure!(connection.whoami()? == "m1");
            }
            both_served(lab.app(), "m1")?;
        }
        Ok(())
    });
}

/// A packet that may live for one hop only: the first router says so.
fn time_exceeded_is_told_at_once(scenario: Scenario) {
    scenario.run(|lab| {
        let agent = agent(lab, &lab.config(), "m1")?;
        let [v4, v6] = first_vips();
        let one = 1_i32.to_ne_bytes();
        let dials = [
            lab.app().dial(v4).option(libc::IPPROTO_IP, libc::IP_TTL, &one),
            lab.app().dial(v6).option(libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, &one),
        ];
        for dial in dials {
            fails_at_once(&dial, ErrorKind::HostUnreachable)?;
        }
        ensure!(agent.outcome("icmp_to_client")? >= 2, "{:#}", agent.status()?["outcomes"]);
        Ok(())
    });
}
