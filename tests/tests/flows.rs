//! Many flows, and connections that are none.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redirector_tests::{
    Connection, Host, Scenario, VIP_PORT, VIP_V4, Value, wait_until, with_and_without_offloads,
};

const START: Duration = Duration::from_secs(10);

/// A lost packet is sent again after 200 ms at the earliest, a lost SYN after a second.
const AT_ONCE: Duration = Duration::from_millis(900);

with_and_without_offloads! { flows_and_direct_connections_do_not_meet }

/// The kernel gives one source port to a connection to the VIP and to one to the member: once translated, both would
/// be the same tuple. With 5 000 flows that kept their ports 89 of 200 direct connections timed out.
fn flows_and_direct_connections_do_not_meet(scenario: Scenario) {
    scenario.run(|lab| {
        let agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        let mut flows = open(lab.app(), (VIP_V4, VIP_PORT).into(), 5000)?;
        let mut direct = open(lab.app(), lab.member("m1").v4(), 1000)?;
        let shared = ports(&flows)?.intersection(&ports(&direct)?).count();
        eprintln!("{shared} of 1000 direct connections share their port with a flow");
        for round in 0..2 {
            ping(&mut direct).with_context(|| format!("direct connections, round {round}"))?;
            ping(&mut flows).with_context(|| format!("flows, round {round}"))?;
        }
        let status = || agent.status().unwrap_or_default();
        let carried = || status()["services"][0]["members"][0]["flows"].as_u64();
        wait_until("5000 flows are counted", START, || carried() == Some(5000))?;
        ensure!(status()["services"][0]["epoch"] == 1, "{:#}", status());
        Ok(())
    });
}

fn open(host: &Host, address: std::net::SocketAddr, count: usize) -> Result<Vec<Connection>> {
    host.run(|| {
        let mut connections = Vec::with_capacity(count);
        for n in 0..count {
            let start = Instant::now();
            let mut connection =
                Connection::open(address).with_context(|| format!("{address}, connection {n}"))?;
            connection.set_time_limit(Some(AT_ONCE))?;
            let reply = connection.command(&["GET", "whoami"]).with_context(|| format!("{address}: {n}"))?;
            ensure!(reply.text().as_deref() == Some("m1"), "{address}: {n}: {reply:?}");
            ensure!(start.elapsed() < AT_ONCE, "{address}, connection {n} took {:?}", start.elapsed());
            connections.push(connection);
        }
        Ok(connections)
    })
}

fn ports(connections: &[Connection]) -> Result<std::collections::BTreeSet<u16>> {
    connections.iter().map(|connection| Ok(connection.socket().local_addr()?.port())).collect()
}

fn ping(connections: &mut [Connection]) -> Result<()> {
    for (n, connection) in connections.iter_mut().enumerate() {
        let reply = connection.command(&["PING"]).with_context(|| format!("connection {n}"))?;
        ensure!(reply == Value::Status("PONG".into()), "connection {n}: {reply:?}");
    }
    Ok(())
}
