//! A member that ends a connection itself keeps the port for a minute (TIME-WAIT), and the next flow that gets this port is
//! another client's, with numbers that do not go on from there. Nobody may wait for that.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{Offloads, Scenario, first_vips};

use super::{START, config};

/// Ports of the member side: few enough that soon the member keeps all of them.
const PORTS: u32 = 64;

/// A connection that the member ends. How long it took to open.
fn one(vip: SocketAddr) -> Result<Duration> {
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&vip, Duration::from_secs(5))?;
    let took = start.elapsed();
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"QUIT\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer == b"+OK\r\n", "{answer:?}");
    Ok(took)
}

#[test]
fn a_port_that_the_member_keeps_delays_nobody() {
    Scenario::new(Offloads::On).run(|lab| {
        let config = config(lab).datapath_line(&format!("port_range = \"20000-{}\"", 20_000 + PORTS - 1));
        let agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        let times = lab.app().run(|| -> Result<Vec<_>> {
            first_vips()
                .into_iter()
                .flat_map(|vip| (0..4 * PORTS).map(move |_| vip))
                .map(|vip| one(vip).with_context(|| vip.to_string()))
                .collect()
        })?;
        let longest = times.iter().max().context("connections")?;
        eprintln!("{} connections; the longest took {longest:?} to open", times.len());
        // A SYN that nobody answers is sent again after a second. The first time that it is answered wrongly, after two
        // ticks.
        ensure!(*longest < Duration::from_millis(500), "{longest:?}");
        Ok(())
    });
}
