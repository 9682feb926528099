//! What many services cost when nothing happens: 500 of them, each with three members, every member probed once a second.

use std::{
    fs,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{Agent, AgentConfig, Lab, VIP_PORT, wait_until};

use crate::{
    clocks::cpu_time,
    effort::Effort,
    figures::{row, table},
    rest::resident,
};

const SERVICES: u16 = 500;
const MEMBERS: u8 = 3;

/// All of them have chosen within this.
const CHOSEN: Duration = Duration::from_secs(60);

/// Probes go at their normal pace by then.
const SETTLE: Duration = Duration::from_secs(5);

pub fn measure(effort: &Effort) -> Result<()> {
    let lab = Lab::builder().members(MEMBERS).build()?;
    let config = (1..SERVICES).fold(lab.config().timing(None).one_service(), |config, number| {
        config.service(&format!("service-{number}"), &[vip(number)])
    });
    let start = Instant::now();
    let agent = lab.agent(&config)?;
    let answers = start.elapsed();
    wait_until("every service has chosen", CHOSEN, || chosen(&agent).is_ok_and(|chosen| chosen))?;
    let ready = start.elapsed();
    let pid = agent.pid().context("the agent does not run")?;
    thread::sleep(SETTLE);

    let probes_before = probes(&lab)?;
    let before = cpu_time(pid)?;
    let begin = Instant::now();
    thread::sleep(effort.services);
    let cpu = cpu_time(pid)?.saturating_sub(before);
    let time = begin.elapsed();
    let probed = probes(&lab)? - probes_before;

    table(
        "Many services",
        &format!(
            "{SERVICES} services of {MEMBERS} members each with default settings (`ping` every second, over a connection \
             that is kept) on {MEMBERS} servers, after {SETTLE:?}, without a flow; CPU time, user and system, over {time:.0?}."
        ),
        &["what", "cost"],
    );
    let seconds = time.as_secs_f64();
    let probed = f64::from(u32::try_from(probed).unwrap_or(u32::MAX));
    let percent = cpu.as_secs_f64() / seconds * 100.0;
    row(&["agent, CPU", &format!("{:.0} ms, **{percent:.2} %** of one processor", cpu.as_secs_f64() * 1e3)]);
    row(&["probes", &format!("{:.0} a second", probed / seconds)]);
    row(&["… CPU for each", &format!("{:.1} us", cpu.as_secs_f64() * 1e6 / probed)]);
    row(&["agent, resident memory", &format!("{} KiB", resident(pid, "VmRSS")?)]);
    row(&["start until the control socket answers", &format!("{answers:.2?}")]);
    row(&["start until every service has an active member", &format!("{ready:.2?}")]);
    for (what, file) in changes(&config) {
        fs::write(agent.config_file(), file)?;
        let (begin, cpu_before) = (Instant::now(), cpu_time(pid)?);
        let output = agent.verb(&["reload"])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let took = begin.elapsed();
        let cpu = cpu_time(pid)?.saturating_sub(cpu_before);
        row(&[format!("reload: {what}"), format!("{took:.2?}, CPU {cpu:.2?}")]);
    }
    println!();
    Ok(())
}

/// What is reloaded, one after the other.
fn changes(config: &AgentConfig) -> [(&'static str, String); 3] {
    let text = config.to_string();
    let more = config.clone().service("one-more", &[vip(SERVICES)]).to_string();
    // Of the first service.
    let weight = text.replacen("weight = 33", "weight = 34", 1);
    [("one service more", more), ("one service less", text), ("one weight", weight)]
}

fn vip(number: u16) -> SocketAddr {
    let [high, low] = number.to_be_bytes();
    ([10, 254, high, low], VIP_PORT).into()
}

fn chosen(agent: &Agent) -> Result<bool> {
    let status = agent.status()?;
    let services = status["services"].as_array().context("no services")?;
    Ok(services.iter().all(|service| service["active"] == "m1"))
}

/// How many commands the servers have answered.
fn probes(lab: &Lab) -> Result<u64> {
    let mut sum = 0;
    for member in lab.members() {
        let stats = member.command(&["INFO", "commandstats"])?.text().context("INFO")?;
        let pings = stats.lines().find_map(|line| line.strip_prefix("cmdstat_ping:calls="));
        sum += pings
            .and_then(|rest| rest.split(',').next())
            .and_then(|calls| calls.parse::<u64>().ok())
            .unwrap_or(0);
    }
    Ok(sum)
}
