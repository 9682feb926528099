//! The first process of the virtual machine that `cargo xtask test --kernels` starts: loads the kernel's modules, runs
//! the tests of `/plan`, says how each ended, and switches the machine off.
//!
//! `/plan` has a line for each step: `module PATH`, `env NAME=VALUE`, or `run NAME PROGRAM ARGUMENTS…`. Lines of output
//! that begin with [`MARK`] are for the other side, `xtask/src/kernels.rs`; all others are for people.

use std::{
    env,
    ffi::CStr,
    fs,
    os::fd::AsRawFd as _,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, setrlimit};

/// Begins what the other side reads.
const MARK: &str = "@@";

fn main() {
    // Anywhere else it would switch off the machine of somebody who called it by mistake.
    if std::process::id() != 1 {
        eprintln!("this is the first process of a virtual machine; run `cargo xtask test --kernels`");
        std::process::exit(1);
    }
    if let Err(error) = work() {
        println!("{MARK} broken {error:#}");
    }
    println!("{MARK} end");
    // SAFETY: no pointer is involved. Nothing of the machine is kept, so nothing needs to be written back.
    unsafe { libc::reboot(libc::RB_AUTOBOOT) };
}

fn work() -> Result<()> {
    mount(c"proc", c"/proc")?;
    mount(c"sysfs", c"/sys")?;
    mount(c"devtmpfs", c"/dev")?;
    println!("{MARK} kernel {}", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim());
    // As much as a service manager gives.
    setrlimit(Resource::Nofile, Rlimit { current: Some(65536), maximum: Some(65536) })?;
    let plan = fs::read_to_string("/plan").context("/plan")?;
    for line in plan.lines() {
        match line.split_once(' ').context("a line of one word")? {
            ("module", path) => load_module(path).with_context(|| format!("module {path}"))?,
            ("env", assignment) => {
                let (name, value) = assignment.split_once('=').context("env without =")?;
                // SAFETY: this process has one thread.
                unsafe { env::set_var(name, value) };
            }
            ("run", words) => run(words)?,
            (other, _) => anyhow::bail!("no step {other}"),
        }
    }
    Ok(())
}

fn mount(kind: &CStr, at: &CStr) -> Result<()> {
    let path = Path::new(at.to_str()?);
    fs::create_dir_all(path)?;
    // SAFETY: all strings end with NUL and live until the call returns; no data is passed.
    let result = unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    ensure!(result == 0, "cannot mount {}: {}", path.display(), std::io::Error::last_os_error());
    Ok(())
}

/// `insmod`; the kernel unpacks compressed modules itself (Linux 5.17).
fn load_module(path: &str) -> Result<()> {
    /// `MODULE_INIT_COMPRESSED_FILE` of `linux/module.h`.
    const COMPRESSED: libc::c_int = 4;
    let flags = if path.ends_with(".ko") { 0 } else { COMPRESSED };
    let file = fs::File::open(path)?;
    let parameters: &CStr = c"";
    // SAFETY: the descriptor is open and the string ends with NUL until the call returns.
    let result =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), parameters.as_ptr(), flags) };
    ensure!(result == 0, std::io::Error::last_os_error());
    Ok(())
}

fn run(words: &str) -> Result<()> {
    let mut words = words.split(' ');
    let name = words.next().context("no name")?;
    let program = words.next().context("no program")?;
    let started = Instant::now();
    let status = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {program}"))?;
    let verdict = if status.success() { "ok" } else { "failed" };
    println!("{MARK} {verdict} {name} {:.1} s ({status})", started.elapsed().as_secs_f64());
    Ok(())
}
