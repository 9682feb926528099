//! `cargo xtask setup`: brings what a Debian 12 machine with Rust lacks for building, testing and showing.
//!
//! It looks first, decides purely ([`Machine::lacks`]) and only then acts, so the second time it does
//! nothing.

use std::{fmt::Write as _, path::Path, path::PathBuf, process::Command, time::Duration};

use anyhow::{Result, anyhow, bail};

use crate::{
    clients, kernels,
    run::{self, cargo, run, run_within},
    toolchain::{self, BPF_LINKER, Compiler, Origin, Unusable},
};

/// Debian's compiler with the source of its `core` (from the security suite of Debian 12).
const DEBIAN_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// The servers that demo and tests run, and `redis-benchmark`.
const REDIS: [&str; 2] = ["redis-server", "redis-tools"];
/// What the lab lays its networks with.
const NETWORK_TOOLS: [(&str, &str); 2] = [("ip", "iproute2"), ("nft", "nftables")];
/// The name server that tests run, without the service of the package `dnsmasq`.
const NAME_SERVER: &str = "dnsmasq-base";
/// The machine that other kernels run in, see `kernels.rs`.
const EMULATOR: [&str; 1] = ["qemu-system-x86"];
/// How long rustup may try to reach its server; 3 MB are to come.
const RUSTUP_LIMIT: Duration = Duration::from_secs(30);
const OTHER_COMPILER: &str =
    "elsewhere than on Debian 12: `rustup toolchain install nightly --profile minimal --component rust-src`";

/// What was found on this machine.
struct Machine {
    compiler: Result<Compiler, Vec<(Origin, Unusable)>>,
    linker: Option<(PathBuf, Option<String>)>,
    redis: bool,
    /// Packages of network tools that are not there.
    no_tools: Vec<&'static str>,
    name_server: bool,
    /// `None`: not needed for what is to be done.
    emulator: Option<bool>,
    /// Client libraries; `None` likewise.
    clients: Option<bool>,
}

/// What a machine is to be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// Building, and showing what was built.
    Build,
    /// All tests too, also on other kernels.
    Tests,
}

/// Something that has to be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lack {
    Compiler,
    Linker,
    Redis,
    NetworkTools,
    NameServer,
    Emulator,
    Clients,
}

impl Machine {
    fn look(wanted: Wanted) -> Self {
        let tests = wanted == Wanted::Tests;
        Self {
            compiler: toolchain::find_compiler(),
            linker: toolchain::find_linker(),
            redis: ["redis-server", "redis-cli", "redis-benchmark"]
                .iter()
                .all(|program| toolchain::find_in_path(program).is_some()),
            no_tools: NETWORK_TOOLS
                .iter()
                .filter(|(program, _)| !is_installed(program))
                .map(|(_, package)| *package)
                .collect(),
            name_server: toolchain::find_in_path("dnsmasq").is_some(),
            emulator: (tests && kernels::can_run())
                .then(|| toolchain::find_in_path("qemu-system-x86_64").is_some()),
            clients: tests.then(clients::are_installed),
        }
    }

    fn lacks(&self) -> Vec<Lack> {
        let mut lacks = Vec::new();
        if self.compiler.is_err() {
            lacks.push(Lack::Compiler);
        }
        if !matches!(&self.linker, Some((_, Some(version))) if version == BPF_LINKER) {
            lacks.push(Lack::Linker);
        }
        if !self.redis {
            lacks.push(Lack::Redis);
        }
        if !self.no_tools.is_empty() {
            lacks.push(Lack::NetworkTools);
        }
        if !self.name_server {
            lacks.push(Lack::NameServer);
        }
        if self.emulator == Some(false) {
            lacks.push(Lack::Emulator);
        }
        if self.clients == Some(false) {
            lacks.push(Lack::Clients);
        }
        lacks
    }

    /// What is there and what is not, in one line.
    fn summary(&self) -> String {
        let mut line = match &self.compiler {
            Ok(compiler) => format!("{} ({})", compiler.version, compiler.origin.name()),
            Err(refused) => {
                let reasons = refused.iter().map(|(origin, why)| format!("{} {why}", origin.name()));
                format!("no compiler ({})", reasons.collect::<Vec<_>>().join(", "))
            }
        };
        // Writing to a string does not fail.
        let _ = match &self.linker {
            Some((_, version)) => {
                write!(line, "; bpf-linker {}", version.as_deref().unwrap_or("of no version"))
            }
            None => write!(line, "; no bpf-linker"),
        };
        line += if self.redis { "; redis" } else { "; no redis" };
        line += if self.name_server { "; dnsmasq" } else { "; no dnsmasq" };
        line += match self.emulator {
            Some(true) => "; qemu",
            Some(false) => "; no qemu",
            None => "",
        };
        line += match self.clients {
            Some(true) => "; client libraries",
            Some(false) => "; no client libraries",
            None => "",
        };
        if self.no_tools.is_empty() { line } else { format!("{line}; no {}", self.no_tools.join(", no ")) }
    }
}

/// Debian keeps these where only root looks, and a login of somebody who became root may not.
fn is_installed(program: &str) -> bool {
    let usual = ["/usr/sbin", "/sbin"].map(|dir| Path::new(dir).join(program));
    toolchain::find_in_path(program).is_some() || usual.iter().any(|path| path.is_file())
}

/// The verb: says also that nothing was to do.
pub(crate) fn setup() -> Result<()> {
    let machine = install_lacks(Wanted::Tests)?;
    println!("setup: all there: {}", machine.summary());
    Ok(())
}

/// For the other verbs: silent when all is there.
pub(crate) fn ensure() -> Result<()> {
    install_lacks(Wanted::Build).map(drop)
}

/// For tests, which need more.
pub(crate) fn ensure_for_tests() -> Result<()> {
    install_lacks(Wanted::Tests).map(drop)
}

fn install_lacks(wanted: Wanted) -> Result<Machine> {
    let machine = Machine::look(wanted);
    let lacks = machine.lacks();
    if lacks.is_empty() {
        return Ok(machine);
    }
    println!("setup: found {}", machine.summary());
    let mut packages = Vec::new();
    let wants_compiler = match machine.compiler {
        Ok(_) => false,
        Err(ref refused) => !completes_nightly(refused),
    };
    // Installed but not known to rustup: linking is enough.
    let debian_is_there = toolchain::examine_installed(Path::new("/usr/bin/rustc")).is_ok();
    if wants_compiler && !debian_is_there {
        packages.extend(DEBIAN_COMPILER);
    }
    if lacks.contains(&Lack::Redis) {
        packages.extend(REDIS);
    }
    packages.extend(&machine.no_tools);
    if lacks.contains(&Lack::NameServer) {
        packages.push(NAME_SERVER);
    }
    if lacks.contains(&Lack::Emulator) {
        packages.extend(EMULATOR);
    }
    if lacks.contains(&Lack::Clients) {
        packages.extend(clients::missing_packages());
    }
    if !packages.is_empty() {
        install_packages(&packages)?;
    }
    if wants_compiler && toolchain::has_rustup() {
        println!("setup: making Debian's compiler known to rustup as `debian`");
        run(Command::new("rustup").args(["toolchain", "link", Origin::Debian.name(), "/usr"]))?;
    }
    if lacks.contains(&Lack::Linker) {
        install_linker(&machine)?;
    }
    if lacks.contains(&Lack::Clients) {
        clients::install()?;
    }
    let machine = Machine::look(wanted);
    if !machine.lacks().is_empty() {
        bail!(
            "setup ran, but something is still missing: {}; docs/building.md has the steps by hand",
            machine.summary()
        );
    }
    Ok(machine)
}

/// Tries to add the source of `core` to rustup's nightly. That rustup cannot download is no error: Debian
/// can.
fn completes_nightly(refused: &[(Origin, Unusable)]) -> bool {
    if !refused.iter().any(|(origin, why)| *origin == Origin::Nightly && matches!(why, Unusable::NoCore(_))) {
        return false;
    }
    println!("setup: adding the source of core to rustup's nightly");
    let mut command = Command::new("rustup");
    command.args(["component", "add", "rust-src", "--toolchain", Origin::Nightly.name()]);
    // A refusal is to come fast, and in one line.
    command.env("RUSTUP_MAX_RETRIES", "0").env("RUST_BACKTRACE", "0");
    if let Err(error) = run_within(RUSTUP_LIMIT, &mut command) {
        println!("setup: {error:#}; taking Debian's compiler instead");
        return false;
    }
    match toolchain::examine(Origin::Nightly) {
        Ok(_) => true,
        Err(why) => {
            println!("setup: nightly {why}; taking Debian's compiler instead");
            false
        }
    }
}

fn install_linker(machine: &Machine) -> Result<()> {
    match &machine.linker {
        Some((path, version)) => println!(
            "setup: replacing {} ({}) by bpf-linker {BPF_LINKER}, which uses the compiler's own LLVM",
            path.display(),
            version.as_deref().unwrap_or("of no version")
        ),
        None => println!("setup: building bpf-linker {BPF_LINKER} (about a minute)"),
    }
    run(&mut cargo(&["install", "bpf-linker", "--version", BPF_LINKER, "--locked"])).map_err(|error| {
        anyhow!("{error:#}; without a way to crates.io, copy the program from another machine into PATH")
    })
}

/// Installs Debian packages, without starting any service.
fn install_packages(packages: &[&str]) -> Result<()> {
    let by_hand =
        format!("apt-get update && apt-get install -y --no-install-recommends {}", packages.join(" "));
    if toolchain::find_in_path("apt-get").is_none() {
        bail!(
            "this machine has no apt-get to install {} with; install a Redis server and {OTHER_COMPILER}",
            packages.join(", ")
        );
    }
    if !run::is_root() {
        bail!(
            "only root may install {}; run `sudo sh -c '{by_hand}'` and then this again",
            packages.join(", ")
        );
    }
    println!("setup: installing {}", packages.join(", "));
    run(&mut apt_get(&["update", "--quiet"])).map_err(|error| {
        anyhow!("{error:#}; check the network and the files in /etc/apt, then run this again")
    })?;
    let redis = Service::hold(packages);
    // Without `--no-remove` apt would take away a compiler of Debian's that conflicts.
    let mut install = apt_get(&["install", "--quiet", "--yes", "--no-install-recommends", "--no-remove"]);
    run(install.args(packages)).map_err(|error| {
        anyhow!(
            "{error:#}; apt-get says why above: mend that and run this again, or by hand `{by_hand}`; \
             {OTHER_COMPILER}"
        )
    })?;
    drop(redis);
    Ok(())
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    // invoke-rc.d starts no service in runlevel 1: nobody asked for a Redis on port 6379.
    command.env("RUNLEVEL", "1");
    command
}

/// Keeps systemd from starting `redis-server` when its package is installed, and from starting it at boot.
struct Service;

impl Service {
    const UNIT: &str = "redis-server.service";

    fn hold(packages: &[&str]) -> Option<Self> {
        let systemd = Path::new("/run/systemd/system").is_dir();
        let held = systemd && packages.contains(&"redis-server") && Self::systemctl("mask");
        held.then_some(Self)
    }

    fn systemctl(verb: &str) -> bool {
        let command = ["--quiet", verb, Self::UNIT];
        Command::new("systemctl").args(command).status().is_ok_and(|status| status.success())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        Self::systemctl("unmask");
        Self::systemctl("disable");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete() -> Machine {
        Machine {
            compiler: Ok(Compiler {
                origin: Origin::Nightly,
                version: "rustc 1.97.0-nightly".into(),
                core: PathBuf::new(),
                llvm: None,
            }),
            linker: Some(("bpf-linker".into(), Some(BPF_LINKER.into()))),
            redis: true,
            no_tools: Vec::new(),
            name_server: true,
            emulator: None,
            clients: None,
        }
    }

    #[test]
    fn a_complete_machine_lacks_nothing() {
        assert_eq!(complete().lacks(), []);
        assert_eq!(complete().summary(), "rustc 1.97.0-nightly (nightly); bpf-linker 0.10.3; redis; dnsmasq");
    }

    #[test]
    fn a_fresh_machine_lacks_everything() {
        let core = PathBuf::from("/sysroot/core");
        let machine = Machine {
            compiler: Err(vec![
                (Origin::Nightly, Unusable::NoCore(core)),
                (Origin::Debian, Unusable::Absent),
            ]),
            linker: None,
            redis: false,
            no_tools: vec!["iproute2", "nftables"],
            name_server: false,
            emulator: Some(false),
            clients: Some(false),
        };
        assert_eq!(
            machine.lacks(),
            [
                Lack::Compiler,
                Lack::Linker,
                Lack::Redis,
                Lack::NetworkTools,
                Lack::NameServer,
                Lack::Emulator,
                Lack::Clients
            ]
        );
        assert_eq!(
            machine.summary(),
            "no compiler (nightly has no source of core (/sysroot/core is missing), debian not installed); \
             no bpf-linker; no redis; no dnsmasq; no qemu; no client libraries; no iproute2, no nftables"
        );
    }

    #[test]
    fn a_linker_of_another_version_is_lacking() {
        for version in [Some("0.13.1".to_owned()), None] {
            let machine = Machine { linker: Some(("bpf-linker".into(), version)), ..complete() };
            assert_eq!(machine.lacks(), [Lack::Linker]);
        }
    }
}
