//! What this host must offer before anything is made in its kernel.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, bail};
use aya::util::KernelVersion;
use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
};

use super::{capabilities, programs};
use crate::model::PortRange;

/// The oldest kernel that the tests run on (`cargo xtask test --kernels`), and the oldest one that a distribution still
/// maintains with all that the programs need. Without tcx, which came with 6.6, they are attached by clsact.
const OLDEST: (u8, u8) = (6, 1);

/// Magic number of a BPF file system (`include/uapi/linux/magic.h`).
const BPF_FS: u64 = 0xcafe_4a11;

/// Refuses a host that cannot carry the programs. Touches nothing.
pub(super) fn check() -> Result<()> {
    check_running_kernel()?;
    capabilities::check(&fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?)
}

/// Refuses the kernel that runs, by its version.
pub(super) fn check_running_kernel() -> Result<()> {
    check_kernel(KernelVersion::current().context("the kernel's version cannot be read")?)
}

/// Refuses a kernel by its version.
pub(super) fn check_kernel(version: KernelVersion) -> Result<()> {
    let (major, minor) = OLDEST;
    if version < KernelVersion::new(major, minor, 0) {
        // Its `Debug` is that of a struct.
        let [_, running_major, running_minor, _] = version.code().to_be_bytes();
        bail!(
            "this kernel is too old: Linux {running_major}.{running_minor} runs, Linux {major}.{minor} or newer is needed (the \
             programs are tested from there on); boot a newer kernel"
        );
    }
    Ok(())
}

/// Refuses source ports of the member side that the host's own connections get too: one of those to a member would
/// be given a port that a flow uses, and hang.
pub fn check_ports(range: PortRange) -> Result<()> {
    let read = |name: &str| {
        let path = format!("/proc/sys/net/ipv4/{name}");
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    };
    ports_apart(range, &read("ip_local_port_range")?, &read("ip_local_reserved_ports")?)
}

fn ports_apart(range: PortRange, local: &str, reserved: &str) -> Result<()> {
    let number = |text: &str| text.trim().parse::<u16>().ok();
    let mut ends = local.split_whitespace().filter_map(number);
    let (Some(first), Some(last)) = (ends.next(), ends.next()) else {
        bail!("net.ipv4.ip_local_port_range holds {local:?}, not two ports");
    };
    let is_reserved = |port: u16| {
        reserved.trim().split(',').any(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            number(from).is_some_and(|from| from <= port) && number(to).is_some_and(|to| port <= to)
        })
    };
    match (first.max(range.first)..=last.min(range.last)).find(|port| !is_reserved(*port)) {
        None => Ok(()),
        Some(port) => {
            let (range, earlier) = (format!("{}-{}", range.first, range.last), reserved.trim());
            // To write it replaces what is reserved already.
            let comma = if earlier.is_empty() { "" } else { "," };
            bail!(
                "port_range {range} overlaps with the ports that this host gives its own connections (port {port} of \
                 net.ipv4.ip_local_port_range, {first}-{last}): a direct connection to a member could get the port of a \
                 flow and hang; choose a port_range outside in [datapath], or reserve it: \
                 net.ipv4.ip_local_reserved_ports = {earlier}{comma}{range}, by `sysctl -w` for now and in a file of \
                 /etc/sysctl.d for after the next boot"
            )
        }
    }
}

/// Holds the pin directory for this agent alone.
#[derive(Debug)]
pub(super) struct PinDir {
    path: PathBuf,
    /// Directories that this call made, the outermost first: an agent that fails to start leaves nothing behind.
    made: Vec<PathBuf>,
    /// Whether all that is in it by now is of this start.
    emptied: AtomicBool,
    _lock: OwnedFd,
}

impl PinDir {
    /// Makes the directory if it is not there, and locks it.
    pub(super) fn claim(path: &Path) -> Result<Self> {
        check_bpffs(path)?;
        let made = make(path)?;
        match lock(path) {
            Ok(lock) => {
                Ok(Self { path: path.to_owned(), made, emptied: AtomicBool::new(false), _lock: lock })
            }
            Err(Errno::WOULDBLOCK) => bail!(
                "another agent is running on the pin directory {}; stop that one first, or use a pin_dir and a device \
                 of its own in [datapath]",
                path.display()
            ),
            Err(error) => bail!(
                "cannot lock the pin directory {}: {error}; check that it is a directory, or change pin_dir in \
                 [datapath]",
                path.display()
            ),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whatever is pinned from now on is of this start.
    pub(super) fn is_empty_now(&self) {
        self.emptied.store(true, Ordering::Relaxed);
    }

    /// Removes pins of this start, and the directory if this call made it.
    pub(super) fn give_back(&self) -> Result<()> {
        let Some((innermost, outer)) = self.made.split_last() else {
            return if self.emptied.load(Ordering::Relaxed) {
                programs::remove_contents(&self.path)
            } else {
                Ok(())
            };
        };
        programs::remove_pins(innermost)?;
        for directory in outer.iter().rev() {
            fs::remove_dir(directory).with_context(|| format!("cannot remove {}", directory.display()))?;
        }
        Ok(())
    }
}

/// Makes a directory and what is missing above it. Returns what it made; another agent that was faster made the rest.
fn make(path: &Path) -> Result<Vec<PathBuf>> {
    let mut made = Vec::new();
    let missing: Vec<_> = path.ancestors().take_while(|path| !path.exists()).collect();
    for directory in missing.into_iter().rev() {
        match fs::create_dir(directory) {
            Ok(()) => made.push(directory.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                // As empty as they were made; whoever is faster has made them his own.
                made.iter().rev().for_each(|directory| _ = fs::remove_dir(directory));
                bail!(
                    "cannot make the pin directory {}: {error}; run as root, and give a pin_dir in [datapath] without \
                     dots in its name (a BPF file system allows none)",
                    path.display()
                )
            }
        }
    }
    Ok(made)
}

fn lock(path: &Path) -> rustix::io::Result<OwnedFd> {
    let directory =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    // It may have been removed, and made anew, between these two steps: then the lock is worth nothing.
    let (locked, named) = (rustix::fs::fstat(&directory)?, rustix::fs::stat(path)?);
    if (locked.st_dev, locked.st_ino) != (named.st_dev, named.st_ino) {
        return Err(Errno::WOULDBLOCK);
    }
    Ok(directory)
}

/// Pins live on a BPF file system only, and in a directory of their own there.
pub(super) fn check_bpffs(pin_dir: &Path) -> Result<()> {
    let existing = pin_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statfs(existing)
        .with_context(|| format!("cannot read the file system of {}", existing.display()))?;
    if stat.f_type.cast_unsigned() != BPF_FS {
        bail!(
            "the pin directory {} is not on a BPF file system; `mount -t bpf bpf /sys/fs/bpf` makes one (a process \
             moved with `ip netns exec` does not see it: use `nsenter --net=`), or change pin_dir in [datapath]",
            pin_dir.display()
        )
    }
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev());
    let is_root = existing == pin_dir
        && pin_dir.parent().is_none_or(|parent| device(parent).ok() != device(pin_dir).ok());
    if is_root {
        bail!(
            "the pin directory {} is a whole file system, which other programs use too; give a directory below it as \
             pin_dir in [datapath]",
            pin_dir.display()
        )
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_refused_by_name() {
        assert!(check_kernel(KernelVersion::new(6, 1, 0)).is_ok());
        let error = check_kernel(KernelVersion::new(5, 15, 7)).unwrap_err().to_string();
        assert!(error.contains("5.15") && error.contains("6.1"), "{error}");
    }

    #[test]
    fn ports_of_the_member_side_are_nobody_elses() {
        let range = PortRange { first: 10_000, last: 32_767 };
        assert!(ports_apart(range, "32768\t60999\n", "\n").is_ok());
        assert!(ports_apart(range, "1024\t65535\n", "8080,10000-32767\n").is_ok());
        let error = ports_apart(range, "1024\t65535\n", "10000-20000\n").unwrap_err().to_string();
        assert!(error.contains("port 20001"), "{error}");
        // What is reserved for others stays reserved.
        assert!(error.contains("ip_local_reserved_ports = 10000-20000,10000-32767, by"), "{error}");
        let error = ports_apart(range, "1024\t65535\n", "\n").unwrap_err().to_string();
        assert!(error.contains("ip_local_reserved_ports = 10000-32767, by"), "{error}");
    }

    #[test]
    fn an_ordinary_directory_is_no_place_for_pins() {
        let error = PinDir::claim(&std::env::temp_dir().join("redirector-no-bpffs")).unwrap_err().to_string();
        assert!(error.contains("mount -t bpf"), "{error}");
    }
}
