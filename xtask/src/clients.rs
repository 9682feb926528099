//! The client libraries that `tests/tests/clients.rs` takes through a failover, in the versions that `tests/clients` pins:
//! Python's in a virtual environment, JavaScript's by npm, both in Cargo's target directory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow};

use crate::{
    run::{self, run},
    toolchain,
};

/// What pins the versions. A copy of all of them is left in the directory when all is installed.
const PINS: [&str; 3] = ["requirements.txt", "package.json", "package-lock.json"];
const INSTALLED: &str = "installed";

/// Whether all libraries are there, in these versions.
pub(crate) fn are_installed() -> bool {
    let read = || Some((fs::read_to_string(directory().ok()?.join(INSTALLED)).ok()?, pins().ok()?));
    read().is_some_and(|(installed, pinned)| installed == pinned)
}

/// Debian's packages that installing them needs and that are not there.
pub(crate) fn missing_packages() -> Vec<&'static str> {
    let mut missing = Vec::new();
    if toolchain::find_in_path("python3").is_none() {
        missing.push("python3");
    }
    // Debian keeps what makes virtual environments in a package of its own.
    let makes_environments = Command::new("python3").args(["-c", "import ensurepip, venv"]).output();
    if !makes_environments.is_ok_and(|output| output.status.success()) {
        missing.push("python3-venv");
    }
    for (program, package) in [("node", "nodejs"), ("npm", "npm")] {
        if toolchain::find_in_path(program).is_none() {
            missing.push(package);
        }
    }
    missing
}

/// Installs them anew.
pub(crate) fn install() -> Result<()> {
    let (directory, pinned) = (directory()?, pins()?);
    println!("setup: installing client libraries for tests in {}", directory.display());
    // What is half there is not there.
    let _was_there = fs::remove_file(directory.join(INSTALLED));
    let (python, javascript) = (directory.join("python"), directory.join("javascript"));
    fs::create_dir_all(&javascript).with_context(|| javascript.display().to_string())?;

    let mended = |error| anyhow!("{error:#}; the tool says why above: mend that and run this again");
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&python)).map_err(mended)?;
    let mut pip = Command::new(python.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    run(pip.arg(source(PINS[0]))).map_err(mended)?;

    for file in &PINS[1..] {
        fs::copy(source(file), javascript.join(file)).with_context(|| format!("cannot copy {file}"))?;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]);
    run(npm.current_dir(&javascript)).map_err(mended)?;

    fs::write(directory.join(INSTALLED), pinned).context("cannot note what is installed")
}

/// Where they are installed; `tests/tests/clients/program.rs` looks for them there.
fn directory() -> Result<PathBuf> {
    Ok(run::target_dir()?.join("clients"))
}

fn source(file: &str) -> PathBuf {
    run::root().join("tests/clients").join(file)
}

fn pins() -> Result<String> {
    let read = |file: &&str| {
        let path: &Path = &source(file);
        fs::read_to_string(path).with_context(|| path.display().to_string())
    };
    PINS.iter().map(read).collect()
}
