//! Running other programs: where, with which words on the screen, and what a failure says.

use std::{
    env, fs,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf, absolute},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// Names the agent's binary for the tests, the demo and the benchmark.
pub(crate) const REDIRECTOR_BIN: &str = "REDIRECTOR_BIN";

/// Names the binary that the tests upgrade to and back from.
pub(crate) const REDIRECTOR_UPGRADE_BIN: &str = "REDIRECTOR_UPGRADE_BIN";

/// The top of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// `cargo`, the one that runs this program, at the top of the repository.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    at_root(&mut command);
    command.args(arguments);
    command
}

/// Lets a command run at the top of the repository with the same target directory as this program's.
pub(crate) fn at_root(command: &mut Command) {
    command.current_dir(root());
    // `cargo run` gives these to its child: a nested cargo is to decide anew.
    for (name, _) in env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            command.env_remove(name);
        }
    }
    if let Some(relative) = env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty())
        && let Ok(path) = absolute(relative)
    {
        command.env("CARGO_TARGET_DIR", path);
    }
}

/// Builds the agent's release binary, and what `more` names; answers where the agent is.
pub(crate) fn build_release(more: &[&str]) -> Result<PathBuf> {
    let mut command = cargo(&["build", "--release", "-p", "redirector", "--bin", "redirector"]);
    command.args(more);
    run(&mut command)?;
    let binary = target_dir()?.join("release/redirector");
    if !binary.is_file() {
        bail!("cargo built no {}; start this program with `cargo xtask`", binary.display());
    }
    Ok(binary)
}

/// Builds the agent in the profile of the tests, whose dependencies are needed anyway; answers where it is. Kernel
/// programs are optimised in every profile.
pub(crate) fn build_for_tests() -> Result<PathBuf> {
    run(&mut cargo(&["build", "-p", "redirector", "--bin", "redirector"]))?;
    Ok(target_dir()?.join("debug/redirector"))
}

/// The same with kernel programs that do the same and are others, for tests of upgrades.
pub(crate) fn build_upgrade() -> Result<PathBuf> {
    run(&mut cargo(&["build", "-p", "redirector", "--bin", "redirector", "--features", "other-programs"]))?;
    let debug = target_dir()?.join("debug");
    let upgrade = debug.join("redirector-upgrade");
    // Cargo gives the ordinary binary, which the next build makes, the same name.
    fs::copy(debug.join("redirector"), &upgrade).context("cannot keep the binary for tests of upgrades")?;
    Ok(upgrade)
}

/// Cargo's target directory.
pub(crate) fn target_dir() -> Result<PathBuf> {
    // This program is `<target>/<profile>/xtask`: the one place that all of Cargo's settings agree on.
    let this = env::current_exe().context("cannot tell where this program is")?;
    Ok(this.ancestors().nth(2).context("this program is not in a target directory")?.to_owned())
}

/// Becomes a program of the lab, so that a signal reaches it and nobody else, and its exit code is ours.
pub(crate) fn become_program(program: &Path, redirector: &Path, arguments: &[String]) -> Result<()> {
    let error = Command::new(program).env(REDIRECTOR_BIN, redirector).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}

/// Runs a command with this program's input and output, shown beforehand.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    println!("   $ {shown}");
    io::stdout().flush()?;
    let status = command.status().with_context(|| format!("cannot start `{shown}`"))?;
    succeeded(status, &shown)
}

/// Like [`run`], but gives up after `limit`.
pub(crate) fn run_within(limit: Duration, command: &mut Command) -> Result<()> {
    let shown = show(command);
    println!("   $ {shown}");
    let started = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot start `{shown}`"))?;
    loop {
        if let Some(status) = child.try_wait()? {
            return succeeded(status, &shown);
        }
        if started.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!("`{shown}` did not end within {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn succeeded(status: ExitStatus, shown: &str) -> Result<()> {
    if status.success() { Ok(()) } else { bail!("`{shown}` failed ({status})") }
}

/// The command as a person would type it.
fn show(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = [program].into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Whether this process may do what root may.
pub(crate) fn is_root() -> bool {
    // The second number is the effective user id: proc_pid_status(5).
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    line.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

/// The error of a verb that makes network namespaces and loads kernel programs.
pub(crate) fn need_root(verb: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    bail!(
        "`cargo xtask {verb}` makes network namespaces and loads kernel programs, which only root may do: run \
         it as root, for example `sudo -E env PATH=\"$PATH\" cargo xtask {verb}`"
    )
}
