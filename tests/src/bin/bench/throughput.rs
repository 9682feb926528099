//! GET through the VIP against the direct connection to the same server.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use redirector_tests::{Connection, Lab, VIP_PORT, VIP_V4};

use crate::{
    START,
    effort::Effort,
    figures::{Readings, row, table},
    load::{CLIENTS, Leg, Load, PIPELINES},
};

pub fn measure(effort: &Effort) -> Result<()> {
    let lab = Lab::builder().build()?;
    let agent = lab.agent(&lab.config().timing(None))?;
    agent.wait_active("m1", START)?;
    throughput(&lab, effort)?;
    latency(&lab, effort)
}

/// A connection's way to the server; also its place in a pair.
#[derive(Clone, Copy)]
enum Way {
    Direct,
    Vip,
}

/// Runs both ways right after each other, in alternating order.
fn in_turns<T>(round: usize, mut run: impl FnMut(Way) -> Result<T>) -> Result<[T; 2]> {
    if round.is_multiple_of(2) {
        Ok([run(Way::Direct)?, run(Way::Vip)?])
    } else {
        let vip = run(Way::Vip)?;
        Ok([run(Way::Direct)?, vip])
    }
}

/// A leg is cut into so many slices, and the two legs of a pair take turns: what else the machine does hits both.
const SLICES: u32 = 4;

/// Commands a second, and CPU microseconds a command, of a pair of legs.
fn pair(round: usize, load: &Load<'_>, addresses: [SocketAddr; 2]) -> Result<[Leg; 2]> {
    let slices = (0..SLICES as usize)
        .map(|slice| in_turns(round + slice, |way| load.run(addresses[way as usize])))
        .collect::<Result<Vec<_>>>()?;
    let sum =
        |way: Way, value: fn(&Leg) -> f64| slices.iter().map(|pair| value(&pair[way as usize])).sum::<f64>();
    Ok([Way::Direct, Way::Vip].map(|way| Leg {
        rate: f64::from(SLICES) / sum(way, |leg| 1.0 / leg.rate),
        cpu: sum(way, |leg| leg.cpu) / f64::from(SLICES),
    }))
}

fn throughput(lab: &Lab, effort: &Effort) -> Result<()> {
    let addresses = [lab.member("m1").v4(), (VIP_V4, VIP_PORT).into()];
    table(
        "Throughput through the VIP",
        &format!(
            "`redis-benchmark -c {CLIENTS} GET whoami` over IPv4, {} pairs of legs of {:?}, direct and through the \
             VIP, each in {SLICES} slices that take turns; a ratio is that of a pair. CPU is the time of client and server together, with the \
             interrupts handled meanwhile. The agent runs during both. Median (min to max).",
            effort.pairs, effort.leg
        ),
        &[
            "pipeline",
            "VIP / direct",
            "direct, GET/s",
            "VIP, GET/s",
            "direct, CPU µs/GET",
            "VIP, CPU µs/GET",
            "CPU, VIP / direct",
        ],
    );
    for pipeline in PIPELINES {
        let load = Load::calibrated(lab, lab.member("m1"), pipeline, effort.leg / SLICES)?;
        let pairs =
            (0..effort.pairs).map(|round| pair(round, &load, addresses)).collect::<Result<Vec<_>>>()?;
        let of = |value: &dyn Fn(&[Leg; 2]) -> f64| Readings::new(pairs.iter().map(value));
        row(&[
            pipeline.to_string(),
            format!("{:.3}", of(&|[direct, vip]| vip.rate / direct.rate)?),
            format!("{:.0}", of(&|[direct, _]| direct.rate)?),
            format!("{:.0}", of(&|[_, vip]| vip.rate)?),
            format!("{:.2}", of(&|[direct, _]| direct.cpu)?),
            format!("{:.2}", of(&|[_, vip]| vip.cpu)?),
            format!("{:.3}", of(&|[direct, vip]| vip.cpu / direct.cpu)?),
        ]);
    }
    println!();
    Ok(())
}

/// Commands of a block.
const BLOCK: usize = 500;

fn latency(lab: &Lab, effort: &Effort) -> Result<()> {
    table(
        "Latency of one client",
        &format!(
            "A client that waits for each reply: the median of {BLOCK} GET, {} pairs of such blocks in turns; what is \
             added is that of a pair. Microseconds, median (min to max).",
            effort.blocks
        ),
        &["direct", "VIP", "added"],
    );
    let mut connections =
        [lab.app().connect(lab.member("m1").v4())?, lab.app().connect((VIP_V4, VIP_PORT).into())?];
    let mut pairs = Vec::new();
    for round in 0..=effort.blocks {
        pairs.push(in_turns(round, |way| block(&mut connections[way as usize]))?);
    }
    // The first pair warmed up.
    let of = |value: &dyn Fn(&[f64; 2]) -> f64| Readings::new(pairs.iter().skip(1).map(value));
    let readings = [of(&|[direct, _]| *direct)?, of(&|[_, vip]| *vip)?, of(&|[direct, vip]| vip - direct)?];
    row(&readings.map(|readings| format!("{readings:.1}")));
    println!();
    Ok(())
}

/// The median of a block, in microseconds.
fn block(connection: &mut Connection) -> Result<f64> {
    connection.set_time_limit(Some(Duration::from_secs(5)))?;
    let mut times = Vec::with_capacity(BLOCK);
    for _ in 0..BLOCK {
        let start = Instant::now();
        let reply = connection.command(&["GET", "whoami"])?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
        ensure!(reply.text().as_deref() == Some("m1"), "GET whoami: {reply:?}");
    }
    Ok(Readings::new(times)?.median())
}
