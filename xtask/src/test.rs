//! `cargo xtask test`: everything that CI runs, in the order in which a fault is found soonest.

use std::{
    env, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    kernels::{self, Extent, Programs},
    run::{self, REDIRECTOR_BIN, REDIRECTOR_UPGRADE_BIN, cargo},
    setup, toolchain,
};

/// Labs that run side by side at most: more would measure how they disturb each other.
const MOST_THREADS: usize = 5;

/// Runs all steps and stops at the first that fails.
pub(crate) fn test(cargo_test: &[String]) -> Result<()> {
    run::need_root("test").map_err(|error| {
        anyhow!("{error}; tests that need no root: `cargo test -p redirector -p redirector-common`")
    })?;
    let mut steps = Steps::default();
    steps.step("setup", setup::ensure_for_tests)?;
    steps.step("rustfmt and clippy are there", has_linters)?;
    steps.step("format", || run::run(&mut cargo(&["fmt", "--all", "--check"])))?;
    steps.step("clippy", || run::run(&mut cargo(&["clippy", "--all-targets", "--", "-D", "warnings"])))?;
    steps.step("clippy, kernel programs", clippy_kernel_programs)?;
    let upgrade = steps.step("binary with other programs", run::build_upgrade)?;
    let redirector = steps.step("binary", run::build_for_tests)?;
    steps.step("tests", || {
        let mut command = cargo(&["test"]);
        command.args(cargo_test).env(REDIRECTOR_BIN, &redirector);
        command.env(REDIRECTOR_UPGRADE_BIN, &upgrade);
        // A snapshot that differs is a failure here, never an update.
        command.env("INSTA_UPDATE", "no");
        // What setup installs must be there: a lab that is skipped would look like one that passed.
        command.env("REDIRECTOR_LAB_REQUIRED", "1");
        // The environment, not an argument: so a person's own `-- --test-threads` wins.
        if env::var_os("RUST_TEST_THREADS").is_none() {
            let cores = thread::available_parallelism().map_or(1, usize::from);
            // Three more than there are processors: labs mostly wait.
            command.env("RUST_TEST_THREADS", (cores + 3).min(MOST_THREADS).to_string());
        }
        run::run(&mut command)
    })?;
    // Somebody who asks for one test does not want all of them on another kernel.
    if cargo_test.is_empty() && kernels::can_run() {
        steps.step(kernels::WITHOUT_TCX.step, || {
            kernels::test(&kernels::WITHOUT_TCX, &Programs::build(&redirector)?, &Extent::Short.runs())
        })?;
    }
    steps.summary();
    Ok(())
}

/// Runs the datapath's tests, or the given program, on other kernels: the named ones, or all.
pub(crate) fn kernels(names: &[String], extent: Extent, program: &[String]) -> Result<()> {
    if !kernels::can_run() {
        bail!("the kernels that are tested are for x86_64, this is {}", env::consts::ARCH);
    }
    let releases = kernels::named(names)?;
    let mut steps = Steps::default();
    steps.step("setup", setup::ensure_for_tests)?;
    let redirector = match env::var_os(REDIRECTOR_BIN) {
        Some(binary) => binary.into(),
        None => steps.step("release binary", || run::build_release(&[]))?,
    };
    let programs = steps.step("tests are built", || Programs::build(&redirector))?;
    let runs = match program {
        [] => extent.runs(),
        words => vec![words.to_vec()],
    };
    for release in &releases {
        steps.step(release.step, || kernels::test(release, &programs, &runs))?;
    }
    steps.summary();
    Ok(())
}

fn has_linters() -> Result<()> {
    for tool in ["fmt", "clippy"] {
        if toolchain::stdout_of(cargo(&[tool, "--version"]).current_dir(run::root())).is_none() {
            bail!("`cargo {tool}` is not installed; run `rustup component add rustfmt clippy`");
        }
    }
    Ok(())
}

/// Clippy on the kernel programs: for their own target where the compiler that builds them brings clippy,
/// else with the clippy of this machine and for this machine's target, which sees all but what is specific to
/// BPF.
fn clippy_kernel_programs() -> Result<()> {
    let Ok(compiler) = toolchain::find_compiler() else {
        bail!("no compiler for the kernel programs; run `cargo xtask setup`");
    };
    let package = ["-p", "redirector-ebpf", "--bins"];
    let own = compiler.origin.command("cargo").args(["clippy", "--version"]).output();
    if own.is_ok_and(|output| output.status.success()) {
        // What the build script compiled serves here too, `core` before all, if directory and flags are the same
        // as aya-build's.
        let shared = toolchain::kernel_programs_dir(&run::target_dir()?, &run::root().canonicalize()?);
        let flags =
            format!("--cfg=bpf_target_arch=\"{}\"\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf", env::consts::ARCH);
        let mut command = compiler.origin.command("cargo");
        run::at_root(&mut command);
        command.env("CARGO_ENCODED_RUSTFLAGS", flags);
        command.env("CARGO_TARGET_DIR", shared.join("aya-build/target/redirector-ebpf"));
        command.args(["clippy", "--release"]).args(package).args([
            "--target",
            toolchain::TARGET,
            "-Z",
            "build-std=core",
        ]);
        command.args(["--", "-D", "warnings"]);
        if compiler.origin.is_stable() {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        return run::run(&mut command);
    }
    println!("   for this machine's target: {} comes without clippy", compiler.version);
    let mut command = cargo(&["clippy"]);
    // A program without the standard library cannot unwind.
    command.args(package).args(["--", "-D", "warnings"]).env("CARGO_PROFILE_DEV_PANIC", "abort");
    run::run(&mut command)
}

/// The steps so far with their times.
#[derive(Default)]
struct Steps {
    done: Vec<(&'static str, Duration)>,
}

impl Steps {
    fn step<T>(&mut self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("\n== {name}");
        let started = Instant::now();
        let result = work().with_context(|| format!("step \"{name}\" failed"));
        let took = started.elapsed();
        println!(
            "== {name}: {} in {:.1} s",
            if result.is_ok() { "ok" } else { "FAILED" },
            took.as_secs_f64()
        );
        self.done.push((name, took));
        result
    }

    fn summary(&self) {
        println!("\nall steps passed:");
        for (name, took) in &self.done {
            println!("{:8.1} s  {name}", took.as_secs_f64());
        }
        let total: Duration = self.done.iter().map(|(_, took)| *took).sum();
        println!("{:8.1} s  together", total.as_secs_f64());
    }
}
