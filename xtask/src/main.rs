//! `cargo xtask`: what Cargo alone cannot do.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use self::kernels::Extent;

mod clients;
mod kernels;
mod run;
mod setup;
mod test;
mod toolchain;

/// Sets up, builds, tests and shows Redirector.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Installs what is missing; says what it does, and does nothing when all is there
    Setup,
    /// Builds target/release/redirector with the kernel programs inside
    Build,
    /// Runs everything that CI runs: format, clippy, build, all tests (as root)
    Test {
        /// Instead of that, the datapath's tests on Debian's kernels, each in a virtual machine: those that are named (6.1,
        /// 6.12, newest), or all
        #[arg(long, value_name = "NAME", num_args = 0..)]
        kernels: Option<Vec<String>>,
        /// With --kernels: only what is run without it on Linux 6.1
        #[arg(long, requires = "kernels")]
        short: bool,
        /// Goes to `cargo test`: a filter, or for example `-p redirector -- --nocapture`. With --kernels, a test program and
        /// what it is told: `packets table --nocapture`
        #[arg(last = true)]
        cargo_test: Vec<String>,
    },
    /// Shows a failover in network namespaces, live (as root)
    Demo {
        /// Goes to the demo
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Takes the measurements of the README (as root)
    Bench {
        /// Goes to the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    match act(Arguments::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not `Debug`: with RUST_BACKTRACE set that buries the message.
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(verb: Verb) -> Result<()> {
    match verb {
        Verb::Setup => setup::setup(),
        Verb::Build => {
            setup::ensure()?;
            let binary = run::build_release(&[])?;
            let size = std::fs::metadata(&binary)?.len();
            println!("{} ({}.{} MB)", binary.display(), size / 1_000_000, size / 100_000 % 10);
            Ok(())
        }
        Verb::Test { kernels: Some(names), short, cargo_test } => {
            test::kernels(&names, if short { Extent::Short } else { Extent::All }, &cargo_test)
        }
        Verb::Test { kernels: None, cargo_test, .. } => test::test(&cargo_test),
        Verb::Demo { arguments } => show("demo", &[], &arguments),
        Verb::Bench { arguments } => show("bench", &["--bin", "crowd"], &arguments),
    }
}

/// Builds and becomes one of the programs of the lab; `more` is built too, for that program to start.
fn show(program: &str, more: &[&str], arguments: &[String]) -> Result<()> {
    run::need_root(program)?;
    setup::ensure()?;
    let redirector = run::build_release(&[&["-p", "redirector-tests", "--bin", program], more].concat())?;
    run::become_program(&redirector.with_file_name(program), &redirector, arguments)
}
