//! Debian's kernels, unpacked: which there are, where they come from, and what is in them.
//!
//! apt does the work, with a configuration of its own below the target directory: it takes the archive's address from
//! the machine's apt, but suites of any Debian, and changes nothing of the machine's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    run::{self, run, run_within},
    toolchain::stdout_of,
};

/// A kernel of Debian's that tests run on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Release {
    /// Directory below `target/kernels`.
    name: &'static str,
    /// The step of `cargo xtask test`.
    pub(crate) step: &'static str,
    /// The package that depends on the newest image of that series.
    meta: &'static str,
    suites: &'static [Suite],
}

/// A part of the archive, and its name.
#[derive(Clone, Copy, Debug)]
enum Suite {
    Main(&'static str),
    Security(&'static str),
}

const BOOKWORM: &[Suite] = &[Suite::Main("bookworm"), Suite::Security("bookworm-security")];

/// Debian 12's own kernel: no tcx, which came with Linux 6.6.
pub(crate) const WITHOUT_TCX: Release = Release {
    name: "6.1",
    step: "Linux 6.1, without tcx",
    meta: "linux-image-cloud-amd64",
    suites: BOOKWORM,
};

/// All that `--kernels` runs.
const ALL: [Release; 3] = [
    WITHOUT_TCX,
    Release { name: "6.12", step: "Linux 6.12", meta: "linux-image-6.12-cloud-amd64", suites: BOOKWORM },
    Release {
        name: "newest",
        step: "Debian's newest Linux",
        meta: "linux-image-cloud-amd64",
        suites: &[Suite::Main("sid")],
    },
];

/// The releases with these names; all, if there are none.
pub(crate) fn named(names: &[String]) -> Result<Vec<Release>> {
    let known = || ALL.iter().map(|release| release.name).collect::<Vec<_>>().join(", ");
    if let Some(unknown) = names.iter().find(|name| ALL.iter().all(|release| release.name != **name)) {
        bail!("no kernel is called {unknown}; there are {}", known());
    }
    Ok(ALL
        .into_iter()
        .filter(|release| names.is_empty() || names.iter().any(|name| name == release.name))
        .collect())
}

/// An unpacked kernel is taken as it is for this long; afterwards the archive is asked for a newer one.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// How long apt may try.
const APT_LIMIT: Duration = Duration::from_secs(180);

/// An unpacked kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    directory: PathBuf,
    /// The kernel itself.
    pub(super) image: PathBuf,
}

impl Kernel {
    /// Downloads and unpacks a kernel, unless that was done lately. Without a way to the archive an older one serves.
    pub(super) fn get(release: &Release) -> Result<Self> {
        let directory = run::target_dir()?.join("kernels").join(release.name);
        let tree = directory.join("tree");
        let age = fs::metadata(&tree)
            .and_then(|tree| tree.modified())
            .ok()
            .map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
        if age.is_none_or(|age| age > FRESH)
            && let Err(error) = download(release, &directory)
        {
            if age.is_none() {
                return Err(error.context(format!("Debian's kernel {} cannot be had", release.name)));
            }
            println!("   taking the kernel that is here already: {error:#}");
        }
        let image = files_below(&tree)?
            .into_iter()
            .find(|path| file_name(path).starts_with("vmlinuz"))
            .with_context(|| format!("no kernel in {}; remove that directory", tree.display()))?;
        Ok(Self { directory, image })
    }

    /// Where it may be worked with.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Those of `wanted` that this kernel has as modules, in the same order.
    pub(super) fn modules(&self, wanted: &[&'static str]) -> Vec<(&'static str, PathBuf)> {
        let files = files_below(&self.directory.join("tree")).unwrap_or_default();
        let find = |name: &str| {
            let file = format!("{name}.ko");
            files.iter().find(|path| file_name(path).split(".xz").next() == Some(&file)).cloned()
        };
        wanted.iter().filter_map(|name| Some((*name, find(name)?))).collect()
    }
}

/// Fetches the packages of a release and unpacks them into `directory/tree`.
fn download(release: &Release, directory: &Path) -> Result<()> {
    let apt = Apt::prepare(release, &directory.join("apt"))?;
    run_within(APT_LIMIT, apt.command("apt-get").args(["update", "--quiet", "--quiet"]))?;
    let packages = apt.packages(release.meta)?;
    println!("   {}", packages.join(" "));
    let downloads = directory.join("packages");
    recreate(&downloads)?;
    let mut command = apt.command("apt-get");
    run_within(
        APT_LIMIT,
        command.args(["download", "--quiet", "--quiet"]).args(&packages).current_dir(&downloads),
    )?;
    // Whole or not at all: a tree that is there is complete.
    let unpacked = directory.join("unpacked");
    recreate(&unpacked)?;
    for package in fs::read_dir(&downloads)? {
        run(Command::new("dpkg-deb").arg("-x").arg(package?.path()).arg(&unpacked))?;
    }
    let tree = directory.join("tree");
    remove(&tree)?;
    fs::rename(&unpacked, &tree)?;
    // The package's own time is that of its making.
    fs::File::open(&tree)?.set_modified(SystemTime::now())?;
    remove(&downloads)
}

/// apt with a configuration of its own.
struct Apt {
    directory: PathBuf,
}

impl Apt {
    /// Debian's own keys (package debian-archive-keyring).
    const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

    fn prepare(release: &Release, directory: &Path) -> Result<Self> {
        let archives = stdout_of(Command::new("apt-get").args(["update", "--print-uris"]))
            .context("apt-get does not say where it gets packages from; is this Debian?")?;
        for part in ["state/lists/partial", "cache/archives/partial"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        }
        let lines = release.suites.iter().map(|suite| suite.line(&archives)).collect::<Result<Vec<_>>>()?;
        fs::write(directory.join("sources.list"), lines.concat())?;
        Ok(Self { directory: directory.to_owned() })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = |name: &str| self.directory.join(name).display().to_string();
        for option in [
            format!("Dir::Etc::SourceList={}", path("sources.list")),
            "Dir::Etc::SourceParts=/dev/null".into(),
            format!("Dir::State={}", path("state")),
            format!("Dir::Cache={}", path("cache")),
            "Dir::State::status=/dev/null".into(),
            "Acquire::Languages=none".into(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
            // Its own user may not write below the target directory.
            "APT::Sandbox::User=root".into(),
            "APT::Architecture=amd64".into(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }

    /// The packages of the newest kernel that `meta` stands for. Since 6.17 an image is split in several.
    fn packages(&self, meta: &str) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut asked = vec![meta.to_owned()];
        while let Some(package) = asked.pop() {
            let said = stdout_of(self.command("apt-cache").args([
                "depends",
                "--no-recommends",
                "--no-suggests",
                &package,
            ]))
            .with_context(|| format!("the archive has no package {package}"))?;
            asked.extend(kernel_packages(&said));
            if package != meta {
                found.push(package);
            }
        }
        if found.is_empty() {
            bail!("the package {meta} depends on no kernel");
        }
        Ok(found)
    }
}

impl Suite {
    /// A line for `sources.list`, out of what `apt-get update --print-uris` says: `'ADDRESS/dists/SUITE/FILE' …`.
    fn line(self, said: &str) -> Result<String> {
        let (archive, name) = match self {
            Self::Main(name) => ("debian", name),
            Self::Security(name) => ("debian-security", name),
        };
        let address = said
            .lines()
            .filter_map(|line| Some(line.strip_prefix('\'')?.split_once("/dists/")?.0))
            .find(|address| address.rsplit('/').next() == Some(archive))
            .ok_or_else(|| anyhow!("this machine's apt knows no archive named {archive}; is this Debian?"))?;
        Ok(format!("deb [signed-by={}] {address} {name} main\n", Apt::KEYS))
    }
}

/// The packages of a kernel in the output of `apt-cache depends`.
fn kernel_packages(said: &str) -> impl Iterator<Item = String> {
    let names = said.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names
        .filter(|name| {
            ["linux-image-", "linux-binary-", "linux-modules-"].iter().any(|part| name.starts_with(part))
        })
        .map(str::to_owned)
}

fn recreate(directory: &Path) -> Result<()> {
    remove(directory)?;
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files_below(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_is_looked_for_where_the_machine_gets_its_packages_from() {
        let said = "'https://mirror.example/debian/dists/trixie/InRelease' x 0 \n\
                    'https://mirror.example/debian-security/dists/trixie-security/InRelease' y 0 \n";
        let line = Suite::Security("bookworm-security").line(said).unwrap();
        assert!(
            line.ends_with("] https://mirror.example/debian-security bookworm-security main\n"),
            "{line}"
        );
        assert!(
            Suite::Main("sid").line("'https://mirror.example/ubuntu/dists/noble/InRelease' z 0").is_err()
        );
    }

    #[test]
    fn an_image_and_its_parts_are_what_a_kernel_is_made_of() {
        let said = "linux-image-7\n  Depends: <linux-initramfs-tool>\n  Depends: linux-base-7\n  Depends: linux-binary-7\n \
                    |Depends: kmod\n  Depends: linux-modules-7\n";
        assert_eq!(kernel_packages(said).collect::<Vec<_>>(), ["linux-binary-7", "linux-modules-7"]);
    }
}
