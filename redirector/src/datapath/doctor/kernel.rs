//! The kernel and this process: version, capabilities, limits, settings that hold for the whole machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya::util::KernelVersion;
use rustix::process::{Resource, getrlimit};

use super::super::{capabilities, preflight};
pub use capabilities::Missing;

/// What a start asks of the machine, and what only explains it.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Major, minor, patch.
    pub version: [u8; 3],
    /// Why an agent would not start on this version.
    pub refused: Option<String>,
    /// Why an agent would not start as this process.
    pub unprivileged: Option<String>,
    /// Capabilities that an agent can do without, and this process lacks.
    pub missing: Vec<Missing>,
    /// Whether a filter of system calls is set for this process, as systemd's `SystemCallFilter` does.
    pub filters_system_calls: bool,
    /// What the kernel keeps from root; `None`: it does not say.
    pub lockdown: Option<Lockdown>,
    /// `kernel.unprivileged_bpf_disabled`; `None`: the kernel has no such setting.
    pub unprivileged_bpf_disabled: Option<u8>,
    /// Where cgroup v2 is mounted.
    pub cgroup2: Option<PathBuf>,
    /// How much memory this process may lock, in bytes; `None`: any. It counts for maps before Linux 5.11.
    pub locked_memory: Option<u64>,
    /// How many files this process may open, as an agent may after it raised that to what it is allowed; `None`: any.
    pub open_files: Option<u64>,
}

/// `/sys/kernel/security/lockdown` (Linux 5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// Nothing is kept from root.
    None,
    /// The running kernel cannot be changed. Programs load.
    Integrity,
    /// Nor can its memory be read: some helpers fail, none that Redirector's programs call.
    Confidentiality,
}

impl Kernel {
    /// Asks.
    ///
    /// # Errors
    /// Without `/proc`.
    pub fn look() -> Result<Self> {
        let running = KernelVersion::current().context("the kernel's version cannot be read")?;
        let status =
            fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status; mount /proc")?;
        let [_, major, minor, patch] = running.code().to_be_bytes();
        let text = |path: &str| fs::read_to_string(path).ok();
        let sentence = |refused: Result<()>| refused.err().map(|error| format!("{error:#}"));
        Ok(Self {
            version: [major, minor, patch],
            refused: sentence(preflight::check_kernel(running)),
            unprivileged: sentence(capabilities::check(&status)),
            missing: capabilities::missing(&status)?,
            filters_system_calls: field(&status, "Seccomp:").is_some_and(|mode| mode != "0"),
            lockdown: text("/sys/kernel/security/lockdown").as_deref().and_then(lockdown),
            unprivileged_bpf_disabled: text("/proc/sys/kernel/unprivileged_bpf_disabled")
                .and_then(|value| value.trim().parse().ok()),
            cgroup2: text("/proc/self/mountinfo").as_deref().and_then(cgroup2),
            locked_memory: getrlimit(Resource::Memlock).current,
            open_files: getrlimit(Resource::Nofile).current,
        })
    }

    /// Whether the kernel is of this version or newer.
    #[must_use]
    pub fn since(&self, major: u8, minor: u8) -> bool {
        self.version >= [major, minor, 0]
    }
}

/// Why pins cannot be in `pin_dir`; `None`: they can.
#[must_use]
pub fn refuses_pins(pin_dir: &Path) -> Option<String> {
    preflight::check_bpffs(pin_dir).err().map(|error| format!("{error:#}"))
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// `none [integrity] confidentiality`
fn lockdown(text: &str) -> Option<Lockdown> {
    let (_, rest) = text.split_once('[')?;
    match rest.split_once(']')?.0 {
        "none" => Some(Lockdown::None),
        "integrity" => Some(Lockdown::Integrity),
        "confidentiality" => Some(Lockdown::Confidentiality),
        _ => None,
    }
}

/// The first mount of cgroup v2. The file system's type is the first word after the dash (proc_pid_mountinfo(5)).
fn cgroup2(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        file_system.starts_with("cgroup2 ").then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        assert_eq!(lockdown("[none] integrity confidentiality\n"), Some(Lockdown::None));
        assert_eq!(lockdown("none integrity [confidentiality]\n"), Some(Lockdown::Confidentiality));
        assert_eq!(lockdown(""), None);
        let mounts = "30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:5 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2("30 24 0:26 / /sys/fs/cgroup rw - tmpfs cgroup2 rw\n"), None);
        assert_eq!(field("Name:\tx\nSeccomp:\t2\n", "Seccomp:"), Some("2"));
    }

    #[test]
    fn this_kernel_is_newer_than_an_older_one() {
        let kernel = Kernel::look().unwrap();
        assert!(kernel.since(2, 6) && !kernel.since(200, 0), "{kernel:?}");
    }
}
