//! What the agent costs when nothing happens: one service, two members, default settings, no flow.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use aya::maps::MapInfo;
use redirector::datapath::programs::maps_dir;
use redirector_tests::Lab;

use crate::{
    START,
    clocks::cpu_time,
    effort::Effort,
    figures::{row, table},
};

/// Starting is over, and with it what starting allocated.
const SETTLE: Duration = Duration::from_secs(3);

pub fn measure(effort: &Effort) -> Result<()> {
    let lab = Lab::builder().build()?;
    let config = lab.config().timing(None).one_service();
    let agent = lab.agent(&config)?;
    agent.wait_active("m1", START)?;
    let pid = agent.pid().context("the agent does not run")?;
    thread::sleep(SETTLE);
    let before = cpu_time(pid)?;
    thread::sleep(effort.rest);
    let cpu = cpu_time(pid)?.saturating_sub(before);

    table(
        "At rest",
        &format!(
            "One service of two members with default settings, after {SETTLE:?}, without a flow; CPU time over {:?}. \
             Maps are kernel memory, allocated once for `max_flows` (262144 by default).",
            effort.rest
        ),
        &["what", "cost"],
    );
    row(&["agent, resident memory", &format!("{:.1} MiB", mib(resident(pid, "VmRSS")?))]);
    row(&["… of it private", &format!("{:.1} MiB", mib(resident(pid, "RssAnon")?))]);
    let percent = cpu.as_secs_f64() / effort.rest.as_secs_f64() * 100.0;
    row(&["agent, CPU", &format!("{:.1} ms, {percent:.3} % of one processor", cpu.as_secs_f64() * 1e3)]);
    let mut maps = maps(&maps_dir(config.pin_dir()))?;
    maps.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let total: u64 = maps.iter().map(|(_, bytes)| bytes).sum();
    row(&["all maps", &format!("{:.1} MiB", mib(total / 1024))]);
    for (name, bytes) in maps.iter().filter(|(_, bytes)| bytes * 20 > total) {
        row(&[&format!("… of it `{name}`"), &format!("{:.1} MiB", mib(bytes / 1024))]);
    }
    println!();
    Ok(())
}

/// MiB of so many KiB.
fn mib(number: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let number = number as f64;
    number / 1024.0
}

/// A line of `/proc/<pid>/status`, in KiB.
pub fn resident(pid: u32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    number_after(&status, name).with_context(|| format!("/proc/{pid}/status has no {name}"))
}

/// Pinned maps and their memory in bytes, as the kernel accounts it.
fn maps(dir: &Path) -> Result<Vec<(String, u64)>> {
    let mut maps = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        let map = MapInfo::from_pin(entry.path())?.fd()?;
        let information = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd()))?;
        let bytes =
            number_after(&information, "memlock").context("the kernel does not tell a map's memory")?;
        maps.push((entry.file_name().to_string_lossy().into_owned(), bytes));
    }
    Ok(maps)
}

/// The number in the line `name: number`.
fn number_after(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}
