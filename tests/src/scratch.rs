//! What of a lab the kernel does not remove by itself when the process is killed: a directory for configuration,
//! control socket and state, and a directory of pins. Both carry the process id, and each new lab sweeps those of
//! processes that are gone.

use std::{
    env,
    ffi::CStr,
    fs, io,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};
use rustix::fs::statfs;

const PREFIX: &str = "redirector-lab-";
const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPFFS_MAGIC: i64 = 0xcafe_4a11;

/// Removed, with all that is in it, when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// Unique on this machine while the process lives.
    pub(crate) id: String,
    /// For files.
    pub(crate) dir: PathBuf,
    /// For pins; not made yet, because the agent makes it.
    pub(crate) pin_dir: PathBuf,
}

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        mount_bpffs()?;
        for parent in [env::temp_dir(), BPFFS.into()] {
            sweep(&parent)
                .with_context(|| format!("cannot remove what an earlier lab left in {}", parent.display()))?;
        }
        let id = format!("{PREFIX}{}-{}", process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let dir = env::temp_dir().join(&id);
        fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
        Ok(Self { dir, pin_dir: Path::new(BPFFS).join(&id), id })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for dir in [&self.dir, &self.pin_dir] {
            if let Err(error) = fs::remove_dir_all(dir)
                && error.kind() != io::ErrorKind::NotFound
            {
                eprintln!("lab {}: {} is left behind: {error}", self.id, dir.display());
            }
        }
    }
}

/// Mounts the BPF file system where everybody expects it, unless it is there.
fn mount_bpffs() -> Result<()> {
    // f_type's width differs between architectures.
    #[allow(clippy::unnecessary_cast)]
    let magic = |path| statfs(path).map(|stat| stat.f_type as i64);
    if magic(BPFFS).with_context(|| format!("{BPFFS}: is the kernel built with CONFIG_BPF_SYSCALL?"))?
        == BPFFS_MAGIC
    {
        return Ok(());
    }
    let (source, target): (&CStr, &CStr) = (c"bpf", c"/sys/fs/bpf");
    // SAFETY: all strings end with NUL and live until the call returns; no data is passed.
    let result =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), source.as_ptr(), 0, std::ptr::null()) };
    if result == 0 {
        return Ok(());
    }
    // Two labs that start together: the other one was faster.
    let error = io::Error::last_os_error();
    anyhow::ensure!(magic(BPFFS)? == BPFFS_MAGIC, "cannot mount the BPF file system at {BPFFS}: {error}");
    Ok(())
}

/// Removes directories of labs whose process is gone.
fn sweep(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let owner = name.and_then(|name| name.strip_prefix(PREFIX)).and_then(|rest| rest.split('-').next());
        let Some(owner) = owner.filter(|owner| owner.parse::<u32>().is_ok()) else { continue };
        if Path::new("/proc").join(owner).exists() {
            continue;
        }
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            // Another lab sweeps too.
            _ => {}
        }
    }
    Ok(())
}
