//! From a fault of the active member until every client is served by the other one.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{Agent, Lab, Load, Member, Timing, VIP_PORT, VIP_V4, WaitingClient, Workers};

use crate::{
    START,
    effort::Effort,
    figures::{Readings, row, table},
};

const WORKERS: usize = 16;
/// Clients of each kind that waits.
const WAITING: usize = 4;
/// Anything that is to happen at once happens within this or not at all.
const SOON: Duration = Duration::from_secs(5);

type Act = fn(&Lab, &Member) -> Result<()>;

/// A way to fail, and its end.
struct Fault {
    name: &'static str,
    strike: Act,
    undo: Act,
}

const FAULTS: [Fault; 3] = [
    Fault {
        name: "crash (SIGKILL, its host refuses)",
        strike: |_, member| member.crash(),
        undo: |_, member| member.start(),
    },
    Fault {
        name: "freeze (SIGSTOP, its host acknowledges)",
        strike: |_, member| member.freeze(),
        undo: |_, member| member.thaw(),
    },
    Fault { name: "black hole (nothing comes back)", strike: Lab::black_hole, undo: Lab::heal },
];

pub fn measure(effort: &Effort) -> Result<()> {
    let lab = Lab::builder().build()?;
    // Every outage begins at m1: the agent returns to it soon, and takes all clients along.
    let moment = Duration::from_millis(200);
    let config = lab.config().failback(moment, moment).service_line("on_failback = \"reset\"");
    let agent = lab.agent(&config)?;

    let Timing { interval, timeout, fall, .. } = Timing::QUICK;
    let load = load();
    table(
        "Failover",
        &format!(
            "`ping` with `interval = {interval:?}`, `timeout = {timeout:?}`, `fall = {fall}`. {WORKERS} workers, each \
             with a connection, a SET and a GET and a rest of {:?}, reconnecting at once; {WAITING} clients in \
             `BLPOP` and {WAITING} subscribers, all over IPv4. {} outages of each kind, from before the fault is \
             made until every worker had an answer of the other member, and until the last waiting client's \
             connection had ended. Milliseconds, median (min to max).",
            load.pause, effort.outages
        ),
        &[
            "fault of the active member",
            "all workers served again",
            "all blocked and subscribed clients woken",
        ],
    );
    for fault in FAULTS {
        let mut outages = Vec::new();
        for round in 0..effort.outages {
            let outage = outage(&lab, &agent, &fault, load, round);
            outages.push(outage.with_context(|| format!("{}, outage {round}", fault.name))?);
        }
        let of = |value: &dyn Fn(&Outage) -> Duration| {
            Readings::new(outages.iter().map(|outage| value(outage).as_secs_f64() * 1e3))
        };
        row(&[
            fault.name.to_owned(),
            format!("{:.0}", of(&|outage| outage.served)?),
            format!("{:.0}", of(&|outage| outage.woken)?),
        ]);
    }
    println!();
    Ok(())
}

fn load() -> Load {
    Load::new(WORKERS, (VIP_V4, VIP_PORT))
}

struct Outage {
    served: Duration,
    woken: Duration,
}

/// One outage of m1, with clients of its own.
fn outage(lab: &Lab, agent: &Agent, fault: &Fault, load: Load, round: usize) -> Result<Outage> {
    agent.wait_active("m1", START)?;
    let start = Instant::now();
    let workers = Workers::start(lab.app(), load)?;
    workers.wait_served_by("m1", start, SOON)?;
    let waiting = waiting_clients(lab)?;
    // Somewhere between two probes, and another place each time: 37 shares no factor with 100.
    thread::sleep(Duration::from_millis(300 + round as u64 * 37 % 100));

    let member = lab.member("m1");
    let since = Instant::now();
    (fault.strike)(lab, member)?;
    let served = workers.wait_served_by("m2", since, SOON)?;
    let mut woken = Duration::ZERO;
    for client in &waiting {
        let wake = client.wait_woken(SOON)?;
        ensure!(wake.with.is_err(), "woken by an answer: {wake:?}");
        woken = woken.max(wake.at.saturating_duration_since(since));
    }
    drop(workers);
    (fault.undo)(lab, member)?;
    Ok(Outage { served, woken })
}

fn waiting_clients(lab: &Lab) -> Result<Vec<WaitingClient>> {
    let address = (VIP_V4, VIP_PORT).into();
    let mut clients = Vec::new();
    for _ in 0..WAITING {
        clients.push(WaitingClient::blocked(lab.app(), address, "bench:queue")?);
        clients.push(WaitingClient::subscribed(lab.app(), address, "bench:news")?);
    }
    for client in &clients {
        ensure!(client.member == "m1", "{client:?} waits at {}, not at m1", client.member);
    }
    Ok(clients)
}
