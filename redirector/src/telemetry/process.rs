//! The agent's own processor time and memory, from `/proc/self`.

use std::fs;

use rustix::time::{ClockId, clock_gettime};

/// What the kernel says of the agent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    /// User and system.
    pub(super) cpu_seconds: f64,
    /// Resident.
    pub(super) memory_bytes: u64,
    /// Open file descriptors.
    pub(super) open_fds: u64,
}

impl Process {
    /// Now; what cannot be read is 0.
    pub(super) fn now() -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        Self {
            cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
            memory_bytes: resident().unwrap_or_default(),
            // One of them is that of the look itself.
            open_fds: fs::read_dir("/proc/self/fd").map_or(0, |all| all.count().saturating_sub(1) as u64),
        }
    }
}

/// `VmRSS` of `/proc/self/status` (proc(5)), in KiB there.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let process = Process::now();
        assert!(
            process.cpu_seconds > 0.0 && process.memory_bytes > 1 << 20 && process.open_fds > 2,
            "{process:?}"
        );
    }
}
