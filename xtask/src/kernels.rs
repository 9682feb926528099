//! `cargo xtask test --kernels`: the datapath's tests on other kernels, in a virtual machine.
//!
//! Debian's kernels are unpacked below the target directory, never installed. QEMU emulates the processor, so it needs no
//! KVM and no privilege, and runs some ten times slower. The machine has no disk and no network: everything it needs is
//! in the initial RAM file system, and what the tests say comes back over the serial line. The first process there is
//! `tests/src/bin/guest.rs`.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use self::{archive::Archive, package::Kernel};
use crate::{
    run::{self, cargo},
    toolchain::{find_in_path, stdout_of},
};

mod archive;
mod package;

pub(crate) use self::package::{Release, WITHOUT_TCX, named};

/// Begins the lines that the machine's first process writes for this program.
const MARK: &str = "@@ ";

/// The longest that a machine may run.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Modules that the tests need, each after those that it needs itself. What a kernel does not have as a module it has
/// built in, or under another name in this list.
#[rustfmt::skip]
const MODULES: [&str; 24] = [
    "veth", "tun", "macvlan", "inet_diag", "tcp_diag", // devices, and `SOCK_DESTROY`
    "sch_ingress", "cls_bpf", "act_bpf", // clsact
    "llc", "stp", "bridge", // containers
    "nfnetlink", "libcrc32c", "nf_tables", // nftables
    "nft_fib", "nft_fib_ipv4", "nft_fib_ipv6", "nft_fib_inet",
    "nf_defrag_ipv6", "nf_defrag_ipv4", "nf_conntrack", "nf_nat", "nft_chain_nat", "nft_masq",
];

/// What the lab runs, and where Debian keeps it.
const TOOLS: [&str; 4] = ["redis-server", "ip", "nft", "dnsmasq"];

/// The test programs that a machine has.
const PROGRAMS: [&str; 6] = ["clsact", "failover", "flows", "packets", "redirect", "restart"];

/// How much of the tests runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What every change is tested with.
    Short,
    /// All that an emulated machine can do: bounds that are a matter of milliseconds are not for it.
    All,
}

impl Extent {
    /// What runs in the machine: a test program, and what it is told.
    pub(crate) fn runs(self) -> Vec<Vec<String>> {
        let runs: &[&[&str]] = match self {
            Self::Short => &[
                &["packets", "table", "noise"],
                &["clsact", "a_program_is_replaced_in_its_place::offloads_off"],
                &["redirect", "connections_reach_the_active_member::offloads_off"],
                &["failover", "demoted_members_are_reset_too::offloads_off"],
            ],
            Self::All => &[
                &["packets", "--skip", "fuzz"],
                &["clsact"],
                &["redirect", "--skip", "checks_log_in"],
                &["restart", "--skip", "drain"],
                &["failover", "crash", "black_hole", "demoted_members_are_reset_too"],
                &["flows"],
            ],
        };
        runs.iter().map(|words| words.iter().map(|word| (*word).to_owned()).collect()).collect()
    }
}

/// The programs that run in a machine, built for this one.
pub(crate) struct Programs {
    /// Where each lies here, and its path there.
    files: Vec<(PathBuf, String)>,
}

impl Programs {
    /// Builds the tests and finds the libraries that everything needs.
    pub(crate) fn build(redirector: &Path) -> Result<Self> {
        let mut files = vec![(redirector.to_owned(), "/bin/redirector".to_owned())];
        let mut command = cargo(&["test", "--no-run", "-p", "redirector-tests", "--bin", "guest"]);
        let wanted: BTreeSet<&str> = PROGRAMS.into_iter().collect();
        wanted.iter().for_each(|test| _ = command.args(["--test", test]));
        run::run(&mut command)?;
        // Cargo was quick to say what it built, now that it is built.
        let output = command.args(["--message-format", "json", "--quiet"]).output()?;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            let name = message["target"]["name"].as_str().unwrap_or_default();
            let Some(program) = message["executable"].as_str() else { continue };
            if message["target"]["kind"][0] == "test" {
                files.push((program.into(), format!("/tests/{name}")));
            }
        }
        // `cargo test` makes a program of the guest's tests, of which there are none.
        let mut command = cargo(&["build", "-p", "redirector-tests", "--bin", "guest"]);
        run::run(&mut command)?;
        files.push((run::target_dir()?.join("debug/guest"), "/init".to_owned()));
        for tool in TOOLS {
            let usual = || {
                ["/usr/sbin", "/sbin"]
                    .map(|dir| Path::new(dir).join(tool))
                    .into_iter()
                    .find(|path| path.is_file())
            };
            let found = find_in_path(tool).or_else(usual).with_context(|| format!("there is no {tool}"))?;
            files.push((found.canonicalize()?, format!("/bin/{tool}")));
        }

        let mut libraries = BTreeSet::new();
        for (program, _) in &files {
            let said = stdout_of(Command::new("ldd").arg(program))
                .with_context(|| format!("ldd cannot tell what {} needs", program.display()))?;
            libraries.extend(said.lines().filter_map(library));
        }
        files.extend(libraries.into_iter().map(|path| (PathBuf::from(&path), path)));
        Ok(Self { files })
    }
}

/// The path in a line of `ldd`: `libc.so.6 => /lib/… (0x…)`, or the loader's own, `/lib64/… (0x…)`.
fn library(line: &str) -> Option<String> {
    line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned)
}

/// Runs the tests on one kernel.
pub(crate) fn test(release: &Release, programs: &Programs, runs: &[Vec<String>]) -> Result<()> {
    let kernel = Kernel::get(release)?;
    let plan = plan(&kernel, runs);
    let mut archive = Archive::default();
    for directory in ["/proc", "/sys", "/dev", "/tmp", "/etc"] {
        archive.directory(directory);
    }
    archive.file("/plan", 0o644, plan.as_bytes());
    for (from, to) in &programs.files {
        archive.file(to, 0o755, &stripped(from)?);
    }
    for (_, path) in kernel.modules(&MODULES) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("/modules/{name}"), 0o644, &fs::read(&path)?);
    }
    let initramfs = kernel.directory().join("initramfs.cpio");
    fs::write(&initramfs, archive.finish()).with_context(|| initramfs.display().to_string())?;
    let result = Machine::start(&kernel.image, &initramfs)?.wait(runs.len());
    // Some hundred MB.
    fs::remove_file(&initramfs)?;
    result
}

/// What the machine's first process does, see there.
fn plan(kernel: &Kernel, runs: &[Vec<String>]) -> String {
    let mut plan = String::new();
    for (_, path) in kernel.modules(&MODULES) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        plan += &format!("module /modules/{name}\n");
    }
    for (name, value) in [
        ("PATH", "/bin"),
        ("REDIRECTOR_BIN", "/bin/redirector"),
        ("REDIRECTOR_LAB_REQUIRED", "1"),
        ("REDIRECTOR_LAB_SLOWNESS", "20"),
        ("RUST_BACKTRACE", "0"),
    ] {
        plan += &format!("env {name}={value}\n");
    }
    for run in runs {
        plan += &format!("run {} /tests/{}\n", run[0], run.join(" "));
    }
    plan
}

/// A program without what only a debugger needs, which is most of it.
fn stripped(program: &Path) -> Result<Vec<u8>> {
    let to = run::target_dir()?.join("kernels/stripped");
    let done = Command::new("strip").args(["--strip-debug", "-o"]).arg(&to).arg(program).status();
    let from = if done.is_ok_and(|status| status.success()) { &to } else { program };
    fs::read(from).with_context(|| program.display().to_string())
}

/// A running machine.
struct Machine {
    qemu: Child,
    started: Instant,
}

impl Machine {
    fn start(kernel: &Path, initramfs: &Path) -> Result<Self> {
        let mut command = Command::new("qemu-system-x86_64");
        // Several threads: as many processors as here, which race as real ones do.
        command.args(["-accel", "tcg,thread=multi", "-machine", "pc", "-cpu", "max,la57=off"]);
        command.args(["-smp", "2", "-m", "2048", "-nodefaults", "-no-user-config"]);
        command.args(["-display", "none", "-serial", "stdio", "-no-reboot"]);
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
        // A kernel that panics reboots, which ends the machine.
        command.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let qemu = command.spawn().context("cannot start qemu-system-x86_64")?;
        Ok(Self { qemu, started: Instant::now() })
    }

    /// Shows what the machine says until it ends, and judges by that: so many test programs are to pass.
    fn wait(mut self, runs: usize) -> Result<()> {
        let output = self.qemu.stdout.take().context("its output is piped")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut verdicts = Verdicts::default();
        loop {
            let left = LIMIT.saturating_sub(self.started.elapsed());
            match lines.recv_timeout(left) {
                Ok(line) => {
                    let line = String::from_utf8_lossy(&line);
                    println!("   | {}", line.trim_end());
                    verdicts.note(line.trim_end());
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    bail!("the machine did not end within {} s", LIMIT.as_secs())
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return verdicts.judge(runs),
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It has ended, or it shall.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// What the machine's first process has said.
#[derive(Debug, Default)]
struct Verdicts {
    passed: usize,
    failed: Vec<String>,
    ended: bool,
}

impl Verdicts {
    fn note(&mut self, line: &str) {
        let Some(said) = line.strip_prefix(MARK) else { return };
        match said.split_once(' ').unwrap_or((said, "")) {
            ("ok", _) => self.passed += 1,
            ("end", _) => self.ended = true,
            ("failed" | "broken", what) => self.failed.push(what.to_owned()),
            _ => {}
        }
    }

    fn judge(&self, runs: usize) -> Result<()> {
        if !self.failed.is_empty() {
            bail!("failed there: {}", self.failed.join("; "));
        }
        if !self.ended || self.passed != runs {
            bail!("the machine ended early, after {} of {runs} test programs", self.passed);
        }
        Ok(())
    }
}

/// Whether tests run on other kernels: those that are unpacked here are for this architecture only.
pub(crate) fn can_run() -> bool {
    env::consts::ARCH == "x86_64"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(lines: &[&str]) -> Result<()> {
        let mut verdicts = Verdicts::default();
        lines.iter().for_each(|line| verdicts.note(line));
        verdicts.judge(3)
    }

    #[test]
    fn a_machine_passes_only_when_every_test_program_did_and_it_came_to_its_end() {
        let ok = ["@@ ok packets 1.0 s"; 3];
        assert!(judged(&[&ok[..], &["@@ end"]].concat()).is_ok());
        assert!(judged(&ok).is_err(), "a kernel that panics after the last test");
        assert!(judged(&[&ok[1..], &["@@ end"]].concat()).is_err(), "a test program that did not run");
        let error = judged(&[&ok[..], &["@@ failed restart 2.0 s", "@@ end"]].concat()).unwrap_err();
        assert!(error.to_string().contains("restart"), "{error}");
        let error = judged(&["@@ broken module veth.ko", "@@ end"]).unwrap_err();
        assert!(error.to_string().contains("veth"), "{error}");
    }

    #[test]
    fn libraries_are_read_from_ldd() {
        assert_eq!(
            library("\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)").as_deref(),
            Some("/lib/x/libc.so.6")
        );
        assert_eq!(library("\t/lib64/ld.so (0x00007f)").as_deref(), Some("/lib64/ld.so"));
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007f)"), None);
    }
}
