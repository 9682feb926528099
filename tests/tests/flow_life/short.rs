//! Two thousand short connections a second: neither table fills, and nothing is left over.
//!
//! `REDIRECTOR_SOAK_SECONDS=600` lets it run for ten minutes.

use std::{
    env,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{Offloads, Scenario, first_vips};

use super::{START, config, count, packets, tables::Tables, wait_count};

/// Connections a second that are aimed at.
const RATE: u32 = 2000;
const THREADS: u32 = 8;

/// Who ends a connection, and how. Each leaves other segments behind.
#[derive(Clone, Copy)]
enum End {
    /// The client's FIN comes first.
    Client,
    /// The member's does, after `QUIT`.
    Member,
    /// The client resets.
    Reset,
}

fn one(vip: SocketAddr, end: End) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&vip, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_nodelay(true)?;
    let mut answer = [0; 64];
    match end {
        End::Client => {
            stream.write_all(b"PING\r\n")?;
            stream.read_exact(&mut answer[..7])?;
            stream.shutdown(Shutdown::Both)
        }
        End::Member => {
            stream.write_all(b"QUIT\r\n")?;
            while stream.read(&mut answer)? > 0 {}
            Ok(())
        }
        End::Reset => {
            stream.write_all(b"PING\r\n")?;
            stream.read_exact(&mut answer[..7])?;
            Ok(rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?)
        }
    }
}

#[test]
fn short_connections_leave_nothing() {
    let seconds = env::var("REDIRECTOR_SOAK_SECONDS").ok().map(|text| text.parse().unwrap()).unwrap_or(10);
    let limit = Duration::from_secs(seconds + 90);
    Scenario::new(Offloads::On).limit(limit).run(|lab| {
        let config = config(lab);
        let agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        // A port of the host waits for a minute after a connection: 28 000 of them last for 14 s.
        lab.app().sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        let tables = Tables::open(config.pin_dir())?;

        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let start = Instant::now();
        let threads = (0..THREADS).map(|number| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            lab.app().spawn_thread("short", move || -> Result<()> {
                let vip = first_vips()[number as usize % 2];
                for turn in 0_u32.. {
                    if stop.load(Relaxed) {
                        break;
                    }
                    let due = start + Duration::from_secs(1) * THREADS * turn / RATE;
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    let end = [End::Client, End::Member, End::Reset][turn as usize % 3];
                    one(vip, end).with_context(|| format!("connection {turn} to {vip}"))?;
                    done.fetch_add(1, Relaxed);
                }
                Ok(())
            })
        });
        let threads: Vec<_> = threads.collect::<std::io::Result<_>>()?;
        let mut most = 0;
        while start.elapsed() < Duration::from_secs(seconds)
            && !threads.iter().any(std::thread::JoinHandle::is_finished)
        {
            thread::sleep(Duration::from_secs(1));
            most = most.max(count(&agent, &[])?);
        }
        stop.store(true, Relaxed);
        let elapsed = start.elapsed();
        for thread in threads {
            thread.join().unwrap()?;
        }
        let done = done.load(Relaxed);
        #[allow(clippy::cast_precision_loss)] // A figure to be read.
        let rate = done as f64 / elapsed.as_secs_f64();
        eprintln!("{done} connections in {elapsed:.1?}, {rate:.0} a second; at most {most} flows at a time");

        wait_count(&agent, 0, START).with_context(|| format!("{:?}", super::flows(&agent, &[])))?;
        ensure!(tables.stubs() == 0, "{} stubs are left", tables.stubs());
        ensure!(most < 1000, "{most} flows at a time");
        let status = agent.status()?;
        for (outcome, count) in status["outcomes"].as_object().context("outcomes")? {
            ensure!(!outcome.starts_with("refused") || count["packets"] == 0, "{outcome}: {count}");
        }
        ensure!(packets(&agent, "opened")? >= done, "{status:#}");
        for (reason, number) in status["collected"].as_object().context("collected")? {
            ensure!(number == 0, "{reason}: {number} were left to be collected");
        }
        Ok(())
    });
}
