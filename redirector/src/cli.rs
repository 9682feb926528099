//! The command line: what may be written, and the verbs that only ask the agent.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    control::{
        client::ClientError,
        flows::{Clients, FlowState},
    },
    model::{LONGEST_NAME, is_name},
    telemetry::events::Since,
};

pub mod check;
pub mod doctor;
pub mod events;
pub mod explain;
pub mod flows;
pub mod member;
pub mod operator;
pub mod reload;
pub mod run;
pub mod simulate;
pub mod status;
mod table;

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/redirector/control.sock";

/// Where the configuration is unless told otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/redirector/redirector.toml";

/// Keeps a virtual IP on the healthy member of an Active-Active Redis database.
#[derive(Clone, Debug, Parser)]
#[command(name = "redirector", version, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, configuration or recording, 3 agent not running, 4 degraded \
                        (status --exit-code; doctor)."
)]
pub struct Cli {
    /// Control socket of the agent
    #[arg(long, global = true, env = "REDIRECTOR_SOCKET", value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

impl Cli {
    /// Does what was asked, on a runtime of one thread.
    pub fn run(self) -> Exit {
        raise_open_files();
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("error: cannot start: {error}; check the limits on open files and memory");
                return Exit::Failed;
            }
        };
        runtime.block_on(async {
            let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
            match self.verb {
                Verb::Run(args) => run::run(&args).await,
                Verb::Status(args) => status::run(&self.socket, &args, &mut out, &mut err).await,
                Verb::Flows(args) => flows::run(&self.socket, &args, &mut out, &mut err).await,
                Verb::Explain(args) => explain::run(&self.socket, &args, &mut out, &mut err).await,
                Verb::Switch(args) => operator::run(&self.socket, args, &mut out, &mut err).await,
                Verb::Release(args) => operator::run(&self.socket, args, &mut out, &mut err).await,
                Verb::Drain(args) => operator::run(&self.socket, args, &mut out, &mut err).await,
                Verb::Undrain(args) => operator::run(&self.socket, args, &mut out, &mut err).await,
                Verb::Pause(args) => {
                    operator::run(&self.socket, operator::Change::pause(args), &mut out, &mut err).await
                }
                Verb::Resume(args) => {
                    operator::run(&self.socket, operator::Change::resume(args), &mut out, &mut err).await
                }
                Verb::Member(verb) => member::run(&self.socket, verb, &mut out, &mut err).await,
                Verb::Reload(args) => reload::run(&self.socket, args, &mut out, &mut err).await,
                Verb::Events(args) => events::run(&self.socket, &args, &mut out, &mut err).await,
                Verb::Check(args) => check::run(&args, &mut out).await,
                Verb::Simulate(args) => simulate::run(&args, &mut out, &mut err),
                Verb::Doctor(args) => doctor::run(&self.socket, &args, &mut out).await,
                Verb::Uninstall(args) => run::uninstall(&args).await,
            }
        })
    }
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Run the agent in the foreground, with its log on standard error
    Run(RunArgs),
    /// Show services, active members, members with their state, and flows
    Status(StatusArgs),
    /// Show the connections through the VIPs, or how many there are
    Flows(FlowsArgs),
    /// Say why a member is active, since when, and what would change it; or why one connection is where it is
    Explain(explain::ExplainArgs),
    /// Make a member active, after asking its checks, and keep it so
    Switch(operator::SwitchArgs),
    /// End the pin of a switch: the best member may become active again
    Release(operator::ReleaseArgs),
    /// Take a member out: it does not become active, and if it is, another one does
    Drain(operator::DrainArgs),
    /// Take a member back that was taken out
    Undrain(operator::UndrainArgs),
    /// Stop automatic switching, failover too
    Pause(operator::PauseArgs),
    /// Start automatic switching again
    Resume(operator::PauseArgs),
    /// Change a member
    #[command(subcommand)]
    Member(member::MemberVerb),
    /// Read the configuration file again: shows what differs, and applies it whole or not at all
    Reload(reload::ReloadArgs),
    /// Show what happened, and with --follow what happens
    Events(EventsArgs),
    /// Validate the configuration and run every check once; changes nothing on this host
    Check(CheckArgs),
    /// Say what this host has, what is in the way, and what to do; needs no running agent and changes nothing that stays
    #[command(
        after_help = "Exit codes: 0 all good, or worth a note; 1 something prevents running; 2 wrong usage or \
                             configuration; 4 it runs, but not all of it works."
    )]
    Doctor(DoctorArgs),
    /// Replay what an agent recorded (`[agent] record`), and show every switch with its reason; needs no agent
    Simulate(SimulateArgs),
    /// Remove programs, maps, pins, device and routes; works without a running agent
    Uninstall(UninstallArgs),
}

/// `run`
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Log what the kernel programs say of flows that open, are refused or are reset
    #[arg(long)]
    pub kernel_log: bool,
}

/// `status`
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Only this service
    #[arg(value_parser = service_name)]
    pub service: Option<String>,
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Exit with 4 when a service is not ok
    #[arg(long)]
    pub exit_code: bool,
}

/// `flows`
#[derive(Clone, Debug, Args)]
pub struct FlowsArgs {
    /// Only those of this service
    #[arg(long, value_name = "SERVICE", value_parser = service_name)]
    pub service: Option<String>,
    /// Only those of this member
    #[arg(long, value_name = "MEMBER", value_parser = service_name)]
    pub member: Option<String>,
    /// Only those of these clients; IPv6 with a port in brackets
    #[arg(long, value_name = "ADDR[/LEN][:PORT]")]
    pub client: Option<Clients>,
    /// Only those in this state
    #[arg(long, value_enum)]
    pub state: Option<FlowState>,
    /// Only those without a packet for longer than this, such as 10m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub idle_over: Option<Duration>,
    /// Only those whose member was left: they are reset with their next packet
    #[arg(long)]
    pub stale: bool,
    /// Only count, by service, member and state
    #[arg(long)]
    pub totals: bool,
    /// At most so many; 0: all
    #[arg(long, value_name = "N", default_value_t = 1000, conflicts_with = "totals")]
    pub limit: u64,
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `events`
#[derive(Clone, Debug, Default, Args)]
pub struct EventsArgs {
    /// Go on with what comes, until the agent stops; without --since only that
    #[arg(short, long)]
    pub follow: bool,
    /// Only events from then on: how long ago, such as 10m, or a moment in UTC, such as 2026-11-21T20:00:00Z
    #[arg(long, value_name = "TIME")]
    pub since: Option<Since>,
    /// Only those about this service
    #[arg(long, value_name = "SERVICE", value_parser = service_name)]
    pub service: Option<String>,
    /// Format of the output; json is a document on each line
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `check`
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `simulate`
#[derive(Clone, Debug, Args)]
pub struct SimulateArgs {
    /// The recording
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `doctor`
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// Configuration file; without it nothing is said about members, VIPs and uplinks
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `uninstall`
#[derive(Clone, Debug, Args)]
pub struct UninstallArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}

/// Format of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Table,
    /// For scripts: a promise
    Json,
}

/// How a verb ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what was asked.
    Done = 0,
    /// It did not.
    Failed = 1,
    /// The configuration is wrong or does not fit this host, or a recording cannot be replayed; for a wrong command line clap
    /// exits with the same number.
    WrongUsage = 2,
    /// No agent answers on the control socket.
    NotRunning = 3,
    /// `status --exit-code`, and a service is not ok; `doctor`, and not all works.
    Degraded = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// As many open files as this process may have: each probe takes one or more. What the limit is by default, 1024, is for programs
/// that use `select` (systemd.exec(5)); commands that are started have a lower one of their own.
fn raise_open_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // That it stays as it was, `doctor` says.
    let _stays = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// The alphabet of names, so that what cannot be one is wrong usage and reaches no URL.
fn service_name(text: &str) -> Result<String, String> {
    if is_name(text) {
        Ok(text.to_owned())
    } else {
        Err(format!("a name has 1 to {LONGEST_NAME} letters, digits, `-`, `_` and `.`"))
    }
}

/// How a verb ends that asked the agent for something and wrote it.
fn finish(what: &str, written: Result<io::Result<()>, ClientError>, err: &mut impl Write) -> Exit {
    match written {
        Ok(written) => conclude(what, written, Exit::Done, err),
        Err(error) => {
            // There is no place left to complain about an unwritable standard error.
            let _ = writeln!(err, "error: {error}");
            match error {
                ClientError::NotRunning { .. } => Exit::NotRunning,
                ClientError::Failed { .. } => Exit::Failed,
            }
        }
    }
}

/// How a verb ends that wrote what it found, `exit` if nothing was in the way. An output that nobody reads any more (`| head`)
/// is no failure.
fn conclude(what: &str, written: io::Result<()>, exit: Exit, err: &mut impl Write) -> Exit {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let _ = writeln!(err, "error: cannot write the {what}: {error}; check where the output goes");
            Exit::Failed
        }
        _ => exit,
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let cli = Cli::try_parse_from(["redirector", "run"]).unwrap();
        assert!(
            matches!(cli.verb, Verb::Run(args) if args.config.as_os_str() == DEFAULT_CONFIG && !args.kernel_log)
        );
        let cli =
            Cli::try_parse_from(["redirector", "status", "--socket", "/s", "orders", "-o", "json"]).unwrap();
        assert_eq!(cli.socket.as_os_str(), "/s");
        let Verb::Status(args) = cli.verb else { panic!("{:?}", cli.verb) };
        assert_eq!(
            (args.service.as_deref(), args.output, args.exit_code),
            (Some("orders"), Output::Json, false)
        );
    }

    #[test]
    fn an_output_that_nobody_reads_is_no_failure_and_one_that_is_full_is() {
        let mut err = Vec::new();
        let gone = || Err(io::ErrorKind::BrokenPipe.into());
        assert_eq!(conclude("findings", gone(), Exit::Done, &mut err), Exit::Done);
        assert_eq!(conclude("findings", gone(), Exit::Degraded, &mut err), Exit::Degraded);
        assert!(err.is_empty(), "{err:?}");
        let full = Err(io::ErrorKind::StorageFull.into());
        assert_eq!(conclude("findings", full, Exit::Done, &mut err), Exit::Failed);
        let said = String::from_utf8(err).unwrap();
        assert!(
            said.starts_with("error: cannot write the findings: ") && said.contains("; check where"),
            "{said}"
        );
    }

    #[test]
    fn what_cannot_be_a_service_is_wrong_usage() {
        for name in ["", "a/b", "a b", "ü", &"x".repeat(64)] {
            let error = Cli::try_parse_from(["redirector", "status", name]).unwrap_err();
            assert_eq!((error.kind(), error.exit_code()), (ErrorKind::ValueValidation, 2), "{name:?}");
        }
    }
}
