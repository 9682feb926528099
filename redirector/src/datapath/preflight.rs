//! What this host must offer before anything is made in its kernel.

use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::util::KernelVersion;
use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
};

/// The oldest kernel that has all that the programs and their links need: tcx links came with it.
const OLDEST: (u8, u8) = (6, 6);

/// Magic number of a BPF file system (`include/uapi/linux/magic.h`).
const BPF_FS: u64 = 0xcafe_4a11;

/// Refuses a host that cannot carry the programs. Touches nothing.
pub(super) fn check() -> Result<()> {
    check_kernel(KernelVersion::current().context("the kernel's version cannot be read")?)?;
    check_capabilities(&fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?)
}

fn check_kernel(version: KernelVersion) -> Result<()> {
    let (major, minor) = OLDEST;
    if version < KernelVersion::new(major, minor, 0) {
        bail!(
            "this kernel is too old: Linux {version:?} runs, Linux {major}.{minor} or newer is needed (tcx links keep \
             the programs attached when the agent stops); boot a newer kernel"
        );
    }
    Ok(())
}

fn check_capabilities(status: &str) -> Result<()> {
    /// Numbers of `include/uapi/linux/capability.h`.
    const NEEDED: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
    const SYS_ADMIN: u32 = 21;

    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .context("/proc/self/status has no CapEff")?;
    let has = |bit: u32| effective & 1 << bit != 0;
    let missing: Vec<_> = NEEDED
        .iter()
        // CAP_SYS_ADMIN stands for the two that were split from it.
        .filter(|(bit, _)| !(has(*bit) || *bit >= 38 && has(SYS_ADMIN)))
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "this process lacks {}, so it can change neither programs nor devices; run it as root",
        missing.join(", ")
    )
}

/// Holds the pin directory for this agent alone.
#[derive(Debug)]
pub(super) struct PinDir {
    path: PathBuf,
    /// Made by this call: an agent that fails to start leaves nothing behind.
    pub(super) fresh: bool,
    _lock: OwnedFd,
}

impl PinDir {
    /// Makes the directory if it is not there, and locks it.
    pub(super) fn claim(path: &Path) -> Result<Self> {
        check_bpffs(path)?;
        let fresh = !path.exists();
        fs::create_dir_all(path)
            .with_context(|| format!("cannot make the pin directory {}", path.display()))?;
        match lock(path) {
            Ok(lock) => Ok(Self { path: path.to_owned(), fresh, _lock: lock }),
            Err(Errno::WOULDBLOCK) => bail!(
                "another agent is running on the pin directory {}; stop it first, or give this one a pin_dir and a \
                 device of its own in [datapath]",
                path.display()
            ),
            Err(error) => {
                Err(error).with_context(|| format!("cannot lock the pin directory {}", path.display()))
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn lock(path: &Path) -> rustix::io::Result<OwnedFd> {
    let directory =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    Ok(directory)
}

/// Pins live on a BPF file system only.
fn check_bpffs(pin_dir: &Path) -> Result<()> {
    let existing = pin_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statfs(existing)
        .with_context(|| format!("cannot read the file system of {}", existing.display()))?;
    if stat.f_type.cast_unsigned() == BPF_FS {
        return Ok(());
    }
    bail!(
        "the pin directory {} is not on a BPF file system; `mount -t bpf bpf /sys/fs/bpf` makes one (a process moved \
         with `ip netns exec` does not see it: use `nsenter --net=`)",
        pin_dir.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_refused_by_name() {
        assert!(check_kernel(KernelVersion::new(6, 6, 0)).is_ok());
        let error = check_kernel(KernelVersion::new(5, 15, 7)).unwrap_err().to_string();
        assert!(error.contains("5.15") && error.contains("6.6"), "{error}");
    }

    #[test]
    fn missing_capabilities_are_named() {
        let all = "Name:\tx\nCapEff:\t000001ffffffffff\n";
        assert!(check_capabilities(all).is_ok());
        let admin_only = format!("CapEff:\t{:016x}\n", 1_u64 << 21 | 1 << 12);
        assert!(check_capabilities(&admin_only).is_ok());
        let error = check_capabilities("CapEff:\t0000000000000000\n").unwrap_err().to_string();
        assert!(error.contains("CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF") && error.contains("root"), "{error}");
    }

    #[test]
    fn an_ordinary_directory_is_no_place_for_pins() {
        let error = PinDir::claim(&std::env::temp_dir().join("redirector-no-bpffs")).unwrap_err().to_string();
        assert!(error.contains("mount -t bpf"), "{error}");
    }
}
