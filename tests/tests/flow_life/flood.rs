//! A SYN flood of one container refuses nobody else.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{Host, Offloads, Scenario, VIP_PORT, VIP_V4, wait_until};
use rustix::net::{AddressFamily, Protocol, SendFlags, SocketType};

use super::{START, collected, config, count, impatient, packets};

/// A neighbour of the containers that nobody is: what is answered to it gets lost.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 77);

/// Sends SYNs from so many ports of [`NOBODY`].
fn flood(container: &Host, count: u16) -> Result<()> {
    container
        .run(|| {
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(raw()))?;
            let vip = SocketAddrV4::new(VIP_V4, VIP_PORT);
            for port in 1024..1024 + count {
                let packet = syn(SocketAddrV4::new(NOBODY, port), vip);
                rustix::net::sendto(&socket, &packet, SendFlags::empty(), &vip)?;
            }
            Ok::<_, io::Error>(())
        })
        .context("a raw socket")
}

/// The headers are in what is sent.
fn raw() -> Protocol {
    rustix::net::ipproto::RAW
}

/// A SYN with both headers; the kernel sums the IPv4 one.
fn syn(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    let mut tcp = Vec::new();
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend([0, 0, 0, 7, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    let pseudo = [&packet[12..20], &[0, 6, 0, 20], &tcp[..]].concat();
    let mut sum: u32 = pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).unwrap();
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(tcp);
    packet
}

/// Without caps, 1024 SYNs of one container fill the table, and everybody else is refused.
#[test]
fn a_container_s_flood_refuses_nobody_else() {
    Scenario::new(Offloads::On).run(|lab| {
        let config = impatient(config(lab).one_service().datapath_line("max_flows = 1024"), "1h");
        let agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        let (flooder, other) = (lab.container("c1")?, lab.container("c2")?);
        flood(&flooder, 3000)?;
        // An eighth of the table, and not one flow more.
        let of_flooder = NOBODY.to_string();
        ensure!(count(&agent, &["--client", &of_flooder])? <= 128);
        wait_until("the rest was refused", START, || {
            packets(&agent, "refused_half_open").is_ok_and(|number| number >= 3000 - 2 * 128)
        })?;
        ensure!(packets(&agent, "refused_table_full")? == 0);

        for host in [&other, lab.app(), &flooder] {
            flood(&flooder, 200)?;
            let start = Instant::now();
            let mut connection = host
                .connect((VIP_V4, VIP_PORT).into())
                .with_context(|| format!("{} while a container floods", host.name()))?;
            ensure!(connection.command(&["GET", "whoami"])?.text().as_deref() == Some("m1"));
            ensure!(start.elapsed() < Duration::from_millis(900), "{} had to wait", host.name());
        }

        // What nobody goes on with is collected, and taken off the counts: the same source may come again.
        wait_until("the flood is collected", START, || {
            count(&agent, &["--client", &of_flooder]).is_ok_and(|number| number == 0)
        })?;
        ensure!(collected(&agent, "opening")? >= 128);
        let refused = packets(&agent, "refused_half_open")?;
        flood(&flooder, 100)?;
        wait_until("the source is admitted again", START, || {
            count(&agent, &["--client", &of_flooder]).is_ok_and(|number| number == 100)
        })?;
        ensure!(packets(&agent, "refused_half_open")? == refused, "{:#}", agent.status()?);
        Ok(())
    });
}
