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
    interview(origin, || origin.command("rustc"))
}

/// Looks at a compiler that rustup does not know (yet).
pub(crate) fn examine_installed(rustc: &Path) -> Result<Compiler, Unusable> {
    interview(Origin::Debian, || Command::new(rustc))
}

fn interview(origin: Origin, rustc: impl Fn() -> Command) -> Result<Compiler, Unusable> {
    let ask = |question: &[&str]| stdout_of(rustc().args(question));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A compiler's files and a system's libraries, in a directory of their own that goes away.
    struct Files(PathBuf);

    impl Files {
        fn new(test: &str, files: &[&str]) -> Self {
            let top = env::temp_dir().join(format!("redirector-xtask-{}-{test}", std::process::id()));
            for file in files {
                let path = top.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "").unwrap();
            }
            Self(top)
        }

        fn judge(&self, verbose: &str) -> Result<Compiler, Unusable> {
            judge(
                Origin::Debian,
                verbose,
                &self.0.join("sysroot"),
                &[self.0.join("missing"), self.0.join("lib")],
            )
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const CORE: &str = "sysroot/lib/rustlib/src/rust/library/core/src/lib.rs";
    const OLD_LLVM: &str = "lib/libLLVM-15.so.1";
    const FUTURE_LLVM: &str = "lib/libLLVM.so.221.0";
    const LLVM_22: &str = "lib/libLLVM.so.22.1";
    const VERBOSE: &str = "rustc 1.96.0 (ac68faa20 2026-05-25)\nhost: x86_64\nLLVM version: 22.1.8\n";

    #[test]
    fn a_compiler_with_the_source_and_its_own_llvm_is_used_as_it_is() {
        let files = Files::new("own", &[CORE, "sysroot/lib/libLLVM-22-rust-1.97.0-nightly.so", LLVM_22]);
        let compiler = files.judge(VERBOSE).unwrap();
        assert_eq!(compiler.version, "rustc 1.96.0 (ac68faa20 2026-05-25)");
        assert_eq!(compiler.llvm, None);
    }

    #[test]
    fn a_compiler_that_shares_the_systems_llvm_gets_the_version_it_needs_among_several() {
        let files = Files::new("shared", &[CORE, OLD_LLVM, FUTURE_LLVM, LLVM_22]);
        assert_eq!(files.judge(VERBOSE).unwrap().llvm, Some(files.0.join(LLVM_22)));
    }

    #[test]
    fn a_compiler_without_the_source_of_core_is_refused() {
        let files = Files::new("no-core", &[LLVM_22]);
        assert!(
            matches!(files.judge(VERBOSE), Err(Unusable::NoCore(path)) if path.ends_with("library/core"))
        );
    }

    #[test]
    fn a_compiler_with_another_llvm_is_refused() {
        let files = Files::new("other", &[CORE, LLVM_22]);
        let verbose = VERBOSE.replace("22.1.8", "23.1.0");
        assert_eq!(files.judge(&verbose), Err(Unusable::OtherLlvm("23.1.0".into())));
    }

    #[test]
    fn a_compiler_whose_llvm_is_not_to_be_found_is_refused() {
        let files = Files::new("no-llvm", &[CORE, OLD_LLVM]);
        assert_eq!(files.judge(VERBOSE), Err(Unusable::NoLlvmLibrary));
    }

    #[test]
    fn the_first_usable_candidate_wins_and_a_failure_names_them_all() {
        let compiler = |origin| Compiler { origin, version: String::new(), core: PathBuf::new(), llvm: None };
        let both = [Origin::Nightly, Origin::Debian];
        assert_eq!(choose(&both, |origin| Ok(compiler(origin))).unwrap().origin, Origin::Nightly);
        let only_debian = |origin| {
            if origin == Origin::Debian { Ok(compiler(origin)) } else { Err(Unusable::Absent) }
        };
        assert_eq!(choose(&both, only_debian).unwrap().origin, Origin::Debian);
        let refused = choose(&both, |_| Err(Unusable::Absent)).unwrap_err();
        assert_eq!(refused, both.map(|origin| (origin, Unusable::Absent)));
    }
}
