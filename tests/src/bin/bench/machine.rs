//! The machine that the figures were taken on.

use std::{fs, process::Command, thread};

use anyhow::{Context, Result};

/// Kernel, processors, server and load, as a Markdown list.
pub fn describe() -> Result<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel's version")?;
    let processors = thread::available_parallelism().context("the number of processors")?;
    let information = fs::read_to_string("/proc/cpuinfo").context("the processor's name")?;
    let model = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown", |(_, name)| name.trim());
    // The guest sees its host's processor; that there is a host matters for the noise.
    let guest = information.lines().any(|line| line.starts_with("flags") && line.contains(" hypervisor"));
    let guest = if guest { ", a virtual machine" } else { "" };
    Ok(format!(
        "* Linux {}{guest}\n* {processors} processors, {model}; return instructions (SRSO): {}\n* {}\n* load \
         average before: {}\n",
        kernel.trim(),
        returns(),
        redis()?,
        load()?
    ))
}

/// How the kernel guards its return instructions. Kernel programs call short functions of the kernel, so on some
/// processors this is half of their time.
fn returns() -> String {
    let text = fs::read_to_string("/sys/devices/system/cpu/vulnerabilities/spec_rstack_overflow");
    text.map_or_else(|_| "not told".to_owned(), |text| text.trim().to_owned())
}

/// The load of the last minute: what else ran.
pub fn load() -> Result<String> {
    let load = fs::read_to_string("/proc/loadavg").context("the load average")?;
    Ok(load.split(' ').next().unwrap_or_default().to_owned())
}

/// `Redis server v=7.0.15 sha=…`
fn redis() -> Result<String> {
    let output = Command::new("redis-server").arg("--version").output().context("redis-server --version")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().find_map(|word| word.strip_prefix("v="));
    Ok(format!("Redis {}", version.unwrap_or("of an unknown version")))
}
