//! A network namespace that lives as long as a descriptor or a process in it.
//!
//! Only the network namespace is changed, never the mount namespace: `/sys/fs/bpf` stays visible inside.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::fs::MetadataExt,
    },
    panic, thread,
};

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// A network namespace, held by a descriptor.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    inode: u64,
}

impl Namespace {
    /// Makes a new one.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN`, or when the kernel has no network namespaces.
    pub fn new() -> Result<Self> {
        let file = thread::Builder::new()
            .name("lab-unshare".into())
            .spawn(|| -> io::Result<File> {
                // SAFETY: only the network namespace of this short-lived thread is unshared, not its descriptors.
                unsafe { unshare_unsafe(UnshareFlags::NEWNET)? };
                File::open("/proc/thread-self/ns/net")
            })?
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic))
            .context("cannot make a network namespace; run as root with CAP_SYS_ADMIN")?;
        let inode = file.metadata()?.ino();
        Ok(Self { file, inode })
    }

    /// Number of the namespace, as `readlink /proc/<pid>/ns/net` shows it.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Descriptor number in this process.
    pub(crate) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Moves the calling thread in, for good.
    pub(crate) fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    /// Runs `work` on a thread inside the namespace and returns what it returns; a panic passes through.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter()
                        .expect("setns to a namespace that is held open, by the thread group that made it");
                    work()
                })
                .join()
                .unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }
}

/// Whether a process, a thread or a descriptor still holds the namespace with this [`Namespace::inode`].
#[must_use]
pub fn namespace_exists(inode: u64) -> bool {
    let link = format!("net:[{inode}]");
    let points_there =
        |path: &std::path::Path| fs::read_link(path).is_ok_and(|to| to.as_os_str() == link.as_str());
    let entries = |path: std::path::PathBuf| {
        fs::read_dir(path).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path())
    };
    entries("/proc".into()).any(|process| {
        entries(process.join("task")).any(|task| points_there(&task.join("ns/net")))
            || entries(process.join("fd")).any(|fd| points_there(&fd))
    })
}
