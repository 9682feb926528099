//! Builds the kernel programs into `$OUT_DIR/redirector-ebpf`, so that one `cargo build` makes everything.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain, build_ebpf};

#[path = "../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "xtask uses the rest")]
mod toolchain;

const SETUP: &str = "run `cargo xtask setup`, which installs what is missing (docs/building.md says what)";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not `Debug`: with RUST_BACKTRACE set that buries the message.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<()> {
    let compiler = match toolchain::find_compiler() {
        Ok(compiler) => compiler,
        Err(refused) => {
            let reasons: Vec<_> = refused.iter().map(|(o, why)| format!("{}: {why}", o.name())).collect();
            bail!("no compiler for the kernel programs ({}); {SETUP}", reasons.join("; "));
        }
    };
    let linker = match toolchain::find_linker() {
        Some((path, Some(version))) if version == toolchain::BPF_LINKER => path,
        Some((path, version)) => bail!(
            "{} is version {}, but the kernel programs are linked with {}; {SETUP}",
            path.display(),
            version.as_deref().unwrap_or("unknown"),
            toolchain::BPF_LINKER
        ),
        None => bail!("bpf-linker is not installed; {SETUP}"),
    };
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set: cargo sets it")?);
    // `<target>/<profile>/build/<package>/out`
    let target = out_dir.ancestors().nth(4).context("OUT_DIR is not in a target directory")?;
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let shared = toolchain::kernel_programs_dir(target, &checkout);
    fs::create_dir_all(&shared).with_context(|| format!("cannot make {}", shared.display()))?;
    set_environment(&compiler, &linker, &shared)?;

    let ebpf = checkout.join("redirector-ebpf");
    let root_dir = ebpf.to_str().context("the path of this repository is not UTF-8: move it")?;
    // aya-build watches the package itself. The rest of what the programs are made of and made with:
    for path in ["../redirector-common", "../Cargo.toml", "../Cargo.lock", "../xtask/src/toolchain.rs"] {
        println!("cargo:rerun-if-changed={path}");
    }
    for path in [&linker, &compiler.core] {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    let features: &[&str] =
        if env::var_os("CARGO_FEATURE_OTHER_PROGRAMS").is_some() { &["other-programs"] } else { &[] };
    let package = Package { name: "redirector-ebpf", root_dir, features, ..Package::default() };
    build_ebpf([package], Toolchain::Custom(compiler.origin.name()))
        .with_context(|| format!("the kernel programs do not build with {}", compiler.version))?;
    let object = shared.join("redirector-ebpf");
    fs::copy(&object, out_dir.join("redirector-ebpf"))
        .with_context(|| format!("cannot copy {}", object.display()))?;
    Ok(())
}

/// Arranges what cargo, rustc and bpf-linker read from the environment.
fn set_environment(compiler: &toolchain::Compiler, linker: &Path, shared: &Path) -> Result<()> {
    let mut set: Vec<(&str, OsString)> = vec![
        // aya-build turns every line of cargo into a warning: let only real ones come.
        ("CARGO_TERM_QUIET", "true".into()),
        // aya-build compiles below this and leaves the object in it.
        ("OUT_DIR", shared.into()),
    ];
    if compiler.origin.is_stable() {
        set.push(("RUSTC_BOOTSTRAP", "1".into()));
    }
    if let Some(llvm) = &compiler.llvm {
        // bpf-linker opens the first `libLLVM*` of these directories: one with nothing else in it comes
        // first.
        let dir = shared.join("llvm");
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        symlink(llvm, dir.join(llvm.file_name().context("a library without a name")?))?;
        set.push(("LD_LIBRARY_PATH", before("LD_LIBRARY_PATH", &dir)?));
    }
    if toolchain::find_in_path("bpf-linker").is_none() {
        set.push(("PATH", before("PATH", linker.parent().context("a linker without a directory")?)?));
    }
    for (name, value) in set {
        // SAFETY: this process has one thread.
        unsafe { env::set_var(name, value) };
    }
    Ok(())
}

/// The list of directories in the variable `name`, with `first` before all others.
fn before(name: &str, first: &Path) -> Result<OsString> {
    let rest = env::var_os(name).unwrap_or_default();
    Ok(env::join_paths([first.to_owned()].into_iter().chain(env::split_paths(&rest)))?)
}
