//! Which compiler and which linker build the kernel programs: decided here and nowhere else.
//!
//! Two crates share this file: `xtask setup` brings what is missing, the build script of `redirector` uses what
//! is there. It therefore needs nothing but the standard library.
//!
//! A kernel program needs `core` compiled for its own target, hence a compiler that comes with the *source* of
//! exactly its own `core`. bpf-linker loads the LLVM of that compiler at run time and speaks one major version.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The one version of bpf-linker that is used. Newer ones want a system LLVM instead of the compiler's.
pub(crate) const BPF_LINKER: &str = "0.10.3";

/// The major version of LLVM that [`BPF_LINKER`] speaks.
pub(crate) const LLVM: u32 = 22;

/// The target that `core` and the programs are compiled for.
pub(crate) const TARGET: &str =
    if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };

/// Places where a compiler may come from, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// rustup's nightly with the component `rust-src`.
    Nightly,
    /// Debian's rustc-web, cargo-web and rust-web-src, linked into rustup as `debian`.
    Debian,
    /// The `rustc` of `PATH`, on a machine without rustup.
    Path,
}

impl Origin {
    /// The name by which `rustup run` knows it. Without rustup aya-build ignores the name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nightly => "nightly",
            Self::Debian => "debian",
            Self::Path => "rustc of PATH",
        }
    }

    /// A stable compiler accepts `-Z build-std` only with `RUSTC_BOOTSTRAP=1`.
    pub(crate) fn is_stable(self) -> bool {
        self != Self::Nightly
    }

    /// A command that runs `program` (`rustc`, `cargo`) of this compiler.
    pub(crate) fn command(self, program: &str) -> Command {
        match self {
            Self::Path => Command::new(program),
            Self::Nightly | Self::Debian => {
                let mut command = Command::new("rustup");
                // Looking must not start a download.
                command.env("RUSTUP_AUTO_INSTALL", "0").args(["run", self.name(), program]);
                command
            }
        }
    }
}

/// A compiler that can build the kernel programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    pub(crate) origin: Origin,
    /// First line of `rustc --version`.
    pub(crate) version: String,
    /// The source of its `core`.
    pub(crate) core: PathBuf,
    /// Its LLVM, where bpf-linker does not find that by itself.
    pub(crate) llvm: Option<PathBuf>,
}

/// Why a compiler cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// It is not there, or does not start.
    Absent,
    /// It lacks the source of `core`, which belongs at this path.
    NoCore(PathBuf),
    /// It has another LLVM than the linker speaks.
    OtherLlvm(String),
    /// Its LLVM is not among the system's libraries.
    NoLlvmLibrary,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => write!(f, "not installed"),
            Self::NoCore(path) => write!(f, "has no source of core ({} is missing)", path.display()),
            Self::OtherLlvm(version) => {
                write!(f, "has LLVM {version}, but bpf-linker {BPF_LINKER} speaks LLVM {LLVM}")
            }
            Self::NoLlvmLibrary => write!(f, "libLLVM.so.{LLVM} is not among the system's libraries"),
        }
    }
}

/// Whether rustup is there. aya-build asks the same question: with rustup it always goes through `rustup run`.
pub(crate) fn has_rustup() -> bool {
    find_in_path("rustup").is_some()
}

/// The best compiler that is there, or why each candidate is none.
pub(crate) fn find_compiler() -> Result<Compiler, Vec<(Origin, Unusable)>> {
    choose(if has_rustup() { &[Origin::Nightly, Origin::Debian] } else { &[Origin::Path] }, examine)
}

fn choose(
    candidates: &[Origin],
    examine: impl Fn(Origin) -> Result<Compiler, Unusable>,
) -> Result<Compiler, Vec<(Origin, Unusable)>> {
    let mut refused = Vec::new();
    for &origin in candidates {
        match examine(origin) {
            Ok(compiler) => return Ok(compiler),
            Err(reason) => refused.push((origin, reason)),
        }
    }
    Err(refused)
}

/// Looks at one compiler.
pub(crate) fn examine(origin: Origin) -> Result<Compiler, Unusable> {
    let ask = |question: &[&str]| stdout_of(origin.command("rustc").args(question));
    let verbose = ask(&["--version", "--verbose"]).ok_or(Unusable::Absent)?;
    let sysroot = ask(&["--print", "sysroot"]).ok_or(Unusable::Absent)?;
    judge(origin, &verbose, Path::new(sysroot.trim()), &system_library_dirs())
}

/// The verdict on a compiler from what it says of itself; `libraries` is where the system keeps its libraries.
fn judge(origin: Origin, verbose: &str, sysroot: &Path, libraries: &[PathBuf]) -> Result<Compiler, Unusable> {
    let core = sysroot.join("lib/rustlib/src/rust/library/core");
    if !core.join("src/lib.rs").exists() {
        return Err(Unusable::NoCore(core));
    }
    let llvm = verbose.lines().find_map(|line| line.strip_prefix("LLVM version: ")).unwrap_or("unknown");
    if llvm.split('.').next().and_then(|major| major.parse().ok()) != Some(LLVM) {
        return Err(Unusable::OtherLlvm(llvm.to_owned()));
    }
    // rustup's compilers keep their LLVM beside themselves, where the linker looks first. Debian's use the
    // system's, which lies among other versions, and the linker would take the first that it meets.
    let llvm = if starts_with_llvm(&sysroot.join("lib")) {
        None
    } else {
        Some(find_llvm(libraries).ok_or(Unusable::NoLlvmLibrary)?)
    };
    let version = verbose.lines().next().unwrap_or_default().to_owned();
    Ok(Compiler { origin, version, core, llvm })
}

fn names_in(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path())
}

fn starts_with_llvm(dir: &Path) -> bool {
    names_in(dir).any(|path| file_name(&path).starts_with("libLLVM"))
}

fn find_llvm(libraries: &[PathBuf]) -> Option<PathBuf> {
    let wanted = format!("libLLVM.so.{LLVM}");
    let matches = |path: &PathBuf| {
        file_name(path).strip_prefix(&wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    libraries.iter().flat_map(|dir| names_in(dir)).find(matches)
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn system_library_dirs() -> Vec<PathBuf> {
    vec![
        format!("/usr/lib/{}-linux-gnu", env::consts::ARCH).into(),
        format!("/usr/lib/llvm-{LLVM}/lib").into(),
        "/usr/lib64".into(),
    ]
}

/// bpf-linker as found: its path, and its version if it tells one.
pub(crate) fn find_linker() -> Option<(PathBuf, Option<String>)> {
    let path = find_in_path("bpf-linker").or_else(|| {
        // `cargo install` puts it where a machine without rustup has no `PATH` to.
        cargo_bin().map(|bin| bin.join("bpf-linker")).filter(|path| path.is_file())
    })?;
    let version = stdout_of(Command::new(&path).arg("--version"))
        .and_then(|text| text.split_whitespace().nth(1).map(str::to_owned));
    Some((path, version))
}

/// Where `cargo install` leaves programs.
pub(crate) fn cargo_bin() -> Option<PathBuf> {
    let root = env::var_os("CARGO_INSTALL_ROOT").or_else(|| env::var_os("CARGO_HOME")).map(PathBuf::from);
    let root = root.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))?;
    Some(root.join("bin"))
}

/// The first file of this name in `PATH`.
pub(crate) fn find_in_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// What a command prints, if it starts and succeeds.
pub(crate) fn stdout_of(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
