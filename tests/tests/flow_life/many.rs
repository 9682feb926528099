//! 250 000 flows: what they take in the kernel, and how fast they are counted and listed.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use redirector::datapath::map_sizes;
use redirector_common::{addr::Addr, flow::Stub};
use redirector_tests::{Lab, Offloads, Scenario, first_vips};

use super::{
    START, config, count, flows,
    tables::{Tables, memory},
};

const FLOWS: u32 = 250_000;

/// In the application's own network namespace.
const LISTEN: &str = "127.0.0.1:9109";

/// As many flows as fit, made of one that is real, each with a client of its own.
fn fill(tables: &mut Tables) -> Result<()> {
    let (client_side, flow) = tables.flows.iter().next().context("there is no flow")??;
    let mut number = 0_u64;
    while number < u64::from(FLOWS) - 1 {
        let address = Ipv4Addr::from_bits(0x0a28_0000 + u32::try_from(number / 50_000)?);
        let port = 1024 + u16::try_from(number % 50_000)?;
        let mut client = client_side;
        (client.near, client.near_port) =
            (Addr::from(std::net::IpAddr::from(address)), redirector_common::addr::Port::new(port));
        let mut copy = flow;
        (copy.member_side.near, copy.member_side.near_port) = (client.near, client.near_port);
        copy.incarnation = flow.incarnation + 1 + number;
        copy.cookie = 0;
        tables.replies.insert(
            copy.member_side,
            Stub { incarnation: copy.incarnation, client_side: client, reserved: 0 },
            0,
        )?;
        tables.flows.insert(client, copy, 0)?;
        number += 1;
    }
    Ok(())
}

/// Resident memory of a process in KiB, now and at its highest.
fn resident(pid: u32) -> Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<u64> {
        let line = text.lines().find(|line| line.starts_with(name)).context("no such line")?;
        line.split_whitespace().nth(1).context("no number")?.parse().context("no number")
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

/// A scrape counts all flows in a thread: the loop, which `/healthz` asks, does not wait for it.
fn scrapes(lab: &Lab) -> Result<()> {
    let (mut best, mut slowest_loop) = (Duration::MAX, Duration::ZERO);
    let get = |path: &str| -> Result<(String, Duration)> {
        let start = Instant::now();
        let mut stream = lab.app().run(|| TcpStream::connect(LISTEN))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Ok((answer, start.elapsed()))
    };
    let value = |text: &str, name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).context("no such metric")?;
        Ok(line.trim().parse()?)
    };
    for _ in 0..5 {
        let scraped = thread::scope(|scope| {
            let scrape = scope.spawn(|| get("/metrics"));
            while !scrape.is_finished() {
                slowest_loop = slowest_loop.max(get("/healthz")?.1);
            }
            scrape.join().map_err(|_| anyhow!("a scrape panicked"))?
        })?;
        ensure!(value(&scraped.0, "redirector_flows ")? == f64::from(FLOWS));
        let counted = Duration::from_secs_f64(value(&scraped.0, "redirector_flow_count_seconds ")?);
        eprintln!("a scrape: {:?}, of which {counted:?} to count {FLOWS} flows", scraped.1);
        best = best.min(scraped.1);
        thread::sleep(redirector::telemetry::server::FRESH);
    }
    eprintln!("a scrape: {best:?} at best; the loop answered meanwhile within {slowest_loop:?}");
    ensure!(best < Duration::from_secs(1), "a scrape took {best:?}");
    ensure!(slowest_loop < Duration::from_millis(250), "the loop took {slowest_loop:?}");
    Ok(())
}

#[test]
fn a_quarter_of_a_million_flows_are_counted_listed_and_paid_for() {
    Scenario::new(Offloads::On).limit(Duration::from_secs(180)).run(|lab| {
        let config = config(lab).one_service().agent_line(&format!("metrics_listen = \"{LISTEN}\""));
        let agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;

        // What `check` prints is what the kernel says.
        let sizes = map_sizes(262_144)?;
        let mut pinned = 0;
        for (name, worked_out) in &sizes {
            let pin = config.pin_dir().join("maps").join(name);
            if !pin.exists() {
                continue;
            }
            let kernel = memory(&pin)?;
            eprintln!("{name}: {kernel} bytes, worked out {worked_out}");
            ensure!(kernel.abs_diff(*worked_out) <= kernel / 50 + 256, "{name}: {kernel}, not {worked_out}");
            pinned += kernel;
        }
        let config_file = agent.config_file().to_string_lossy().into_owned();
        let check = agent.verb(&["check", "--config", &config_file, "-o", "json"])?;
        let check: serde_json::Value = serde_json::from_slice(&check.stdout)?;
        let printed = check["flow_table_bytes"].as_u64().context("check")?;
        ensure!(printed.abs_diff(pinned) <= pinned / 33, "check says {printed}, the kernel {pinned}");

        let _real = lab.app().connect(first_vips()[0])?;
        let mut tables = Tables::open(config.pin_dir())?;
        fill(&mut tables)?;
        let pid = agent.pid().context("it runs")?;
        let (before, _) = resident(pid)?;
        let mut best = Duration::MAX;
        for _ in 0..5 {
            let start = Instant::now();
            ensure!(count(&agent, &[])? == u64::from(FLOWS));
            best = best.min(start.elapsed());
        }
        eprintln!("flows --totals: {best:?} of {FLOWS} flows");
        ensure!(best < Duration::from_secs(1), "flows --totals took {best:?}");

        scrapes(lab)?;
        let start = Instant::now();
        let one = SocketAddr::from(([10, 40, 0, 1], 1024 + 77)).to_string();
        let found = flows(&agent, &["--client", &one])?;
        eprintln!("flows --client: {:?}", start.elapsed());
        ensure!(found["matched"] == 1 && found["flows"][0]["client"] == one, "{found:#}");
        ensure!(count(&agent, &["--client", "10.40.0.0/32", "--state", "established"])? == 50_000);
        let part = flows(&agent, &["--limit", "10"])?;
        ensure!(part["matched"] == FLOWS && part["flows"].as_array().context("flows")?.len() == 10);

        let start = Instant::now();
        let all = flows(&agent, &["--limit", "0"])?;
        eprintln!("flows --limit 0: {:?}", start.elapsed());
        ensure!(all["flows"].as_array().context("flows")?.len() == FLOWS as usize);
        let (_, highest) = resident(pid)?;
        eprintln!("the agent: {before} KiB resident, at most {highest} KiB");
        ensure!(highest < before + 32 * 1024, "the agent took {highest} KiB for a list, {before} KiB before");
        Ok(())
    });
}
