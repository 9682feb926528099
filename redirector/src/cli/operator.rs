//! `redirector switch`, `release`, `drain`, `undrain`, `pause`, `resume` and `member weight`: has the agent do something,
//! shows what became of it, and waits for it.

mod wait;

use std::{
    fmt,
    io::{self, Write},
    path::Path,
    time::Duration,
};

use clap::{ArgGroup, Args};
use serde::Serialize;

use super::{Exit, Output, service_name};
use crate::control::{
    client::{self, ClientError},
    operator::{Answer, Asked, Left, Order, checked_reason, span},
    status::VERSION,
};
use crate::model::FlowPolicy;
use wait::Waited;

/// What every verb takes that changes something.
#[derive(Clone, Debug, Default, Args)]
pub struct ChangeArgs {
    /// Why, for the record
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: Option<String>,
    /// Say what would happen, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// What every verb takes that moves flows.
#[derive(Clone, Debug, Args)]
pub struct WaitArgs {
    /// Wait until no flow of the member that is left is there any more
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
    /// Give up waiting after this
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "5m", requires = "wait")]
    pub timeout: Duration,
}

/// `switch`
#[derive(Clone, Debug, Args)]
pub struct SwitchArgs {
    /// Service
    #[arg(value_parser = service_name)]
    pub service: String,
    /// Member that is to be active; its checks are asked first
    #[arg(value_parser = service_name)]
    pub member: String,
    /// Keep it active for so long, such as 1h; without this until `release`. A member that is down is left all the same
    #[arg(long = "for", value_name = "TIME", value_parser = span)]
    pub hold: Option<Duration>,
    /// Do not ask its checks first, and take a pin away from whoever set it
    #[arg(long)]
    pub force: bool,
    /// Waiting.
    #[command(flatten)]
    pub wait: WaitArgs,
    /// What all of them take.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `drain`
#[derive(Clone, Debug, Args)]
pub struct DrainArgs {
    /// Service
    #[arg(value_parser = service_name)]
    pub service: String,
    /// Member that is taken out; if it is active, the best other one becomes so
    #[arg(value_parser = service_name)]
    pub member: String,
    /// Also the last one that is up, and without asking the checks of the other first
    #[arg(long)]
    pub force: bool,
    /// Waiting.
    #[command(flatten)]
    pub wait: WaitArgs,
    /// What all of them take.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `undrain`
#[derive(Clone, Debug, Args)]
pub struct UndrainArgs {
    /// Service
    #[arg(value_parser = service_name)]
    pub service: String,
    /// Member that is taken back
    #[arg(value_parser = service_name)]
    pub member: String,
    /// What all of them take.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `release`
#[derive(Clone, Debug, Args)]
pub struct ReleaseArgs {
    /// Service
    #[arg(value_parser = service_name)]
    pub service: String,
    /// What all of them take.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `pause` and `resume`
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["service", "all"]))]
pub struct PauseArgs {
    /// Service
    #[arg(value_parser = service_name)]
    pub service: Option<String>,
    /// All services
    #[arg(long)]
    pub all: bool,
    /// What all of them take.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `member weight`
#[derive(Clone, Debug, Args)]
pub struct WeightArgs {
    /// Service
    #[arg(value_parser = service_name)]
    pub service: String,
    /// Member
    #[arg(value_parser = service_name)]
    pub member: String,
    /// Its weight from now on: the healthy member with the highest one is active
    #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub weight: u32,
    /// What all of them take.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// A reason that the agent will take.
fn reason(text: &str) -> Result<String, String> {
    Ok(checked_reason(text)?.unwrap_or_default())
}

/// A verb with its arguments, as all of them are carried out.
#[derive(Clone, Debug)]
pub struct Change {
    /// `None`: all services.
    service: Option<String>,
    asked: Asked,
    /// How long it is waited for.
    wait: Option<Duration>,
    output: Output,
}

impl Change {
    fn of(service: Option<String>, order: Order, change: ChangeArgs) -> Self {
        let ChangeArgs { reason, dry_run, output } = change;
        Self { service, asked: Asked { order, reason, dry_run }, wait: None, output }
    }

    fn waits(self, wait: &WaitArgs) -> Self {
        Self { wait: wait.wait.then_some(wait.timeout), ..self }
    }

    /// `pause`
    #[must_use]
    pub fn pause(args: PauseArgs) -> Self {
        Self::of(args.service, Order::Pause, args.change)
    }

    /// `resume`
    #[must_use]
    pub fn resume(args: PauseArgs) -> Self {
        Self::of(args.service, Order::Resume, args.change)
    }
}

impl From<SwitchArgs> for Change {
    fn from(SwitchArgs { service, member, hold, force, wait, change }: SwitchArgs) -> Self {
        Self::of(Some(service), Order::Switch { member, hold, force }, change).waits(&wait)
    }
}

impl From<DrainArgs> for Change {
    fn from(DrainArgs { service, member, force, wait, change }: DrainArgs) -> Self {
        Self::of(Some(service), Order::Drain { member, force }, change).waits(&wait)
    }
}

impl From<UndrainArgs> for Change {
    fn from(UndrainArgs { service, member, change }: UndrainArgs) -> Self {
        Self::of(Some(service), Order::Undrain { member }, change)
    }
}

impl From<ReleaseArgs> for Change {
    fn from(ReleaseArgs { service, change }: ReleaseArgs) -> Self {
        Self::of(Some(service), Order::Release, change)
    }
}

impl From<WeightArgs> for Change {
    fn from(WeightArgs { service, member, weight, change }: WeightArgs) -> Self {
        Self::of(Some(service), Order::Weight { member, weight }, change)
    }
}

/// Has the agent do it. Writes what became of it to `out` and errors to `err`, which are standard output and error
/// outside tests.
///
/// With several services the first that is refused ends it; those before it are done, and shown.
pub async fn run(
    socket: &Path,
    change: impl Into<Change>,
    out: &mut impl Write,
    err: &mut impl Write,
) -> Exit {
    let Change { service, asked, wait, output } = change.into();
    let (mut answers, mut failed) = (Vec::new(), None);
    match services(socket, service.as_ref()).await {
        Ok(names) => {
            for name in names {
                match client::operate(socket, &name, &asked).await {
                    Ok(answer) => answers.push(Shown { answer, wait: None }),
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
        }
        Err(error) => failed = Some(error),
    }
    let mut late = None;
    if let (Some(time), [shown]) = (wait, answers.as_mut_slice()) {
        match wait::until_left(socket, &shown.answer, time).await {
            Ok(waited) => {
                late = waited.gave_up(&shown.answer);
                shown.wait = Some(waited);
            }
            Err(error) => failed = Some(error),
        }
    }
    // An output that nobody reads any more is no failure; there is no place to complain about standard error.
    if !answers.is_empty()
        && let Err(error) = write(&answers, service.is_none(), output, out)
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        let _ = writeln!(err, "error: cannot write what was done: {error}; check where the output goes");
        return Exit::Failed;
    }
    if let Some(late) = late {
        let _ = writeln!(err, "error: {late}");
        return Exit::Failed;
    }
    match failed {
        None => Exit::Done,
        Some(error) => {
            let _ = writeln!(err, "error: {error}");
            match error {
                ClientError::NotRunning { .. } => Exit::NotRunning,
                ClientError::Failed { .. } => Exit::Failed,
            }
        }
    }
}

/// The services that are meant.
async fn services(socket: &Path, named: Option<&String>) -> Result<Vec<String>, ClientError> {
    match named {
        Some(name) => Ok(vec![name.clone()]),
        None => {
            let status = client::status(socket, None).await?;
            Ok(status.services.into_iter().map(|service| service.name).collect())
        }
    }
}

/// What is shown of one service.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    answer: Answer,
    /// `null`: it was not waited for.
    wait: Option<Waited>,
}

/// `--all -o json`
#[derive(Serialize)]
struct All<'a> {
    version: u32,
    services: &'a [Shown],
}

fn write(answers: &[Shown], all: bool, output: Output, out: &mut impl Write) -> io::Result<()> {
    match (output, answers) {
        (Output::Table, _) => answers.iter().try_for_each(|answer| write!(out, "{answer}"))?,
        (Output::Json, [one]) if !all => {
            serde_json::to_writer_pretty(&mut *out, one)?;
            writeln!(out)?;
        }
        (Output::Json, services) => {
            serde_json::to_writer_pretty(&mut *out, &All { version: VERSION, services })?;
            writeln!(out)?;
        }
    }
    out.flush()
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Answer { service, dry_run, message, left, .. } = &self.answer;
        let dry = if *dry_run { "dry run, nothing is changed: " } else { "" };
        writeln!(f, "{service}: {dry}{}", message.replace(char::is_control, "?"))?;
        if let Some(left) = left {
            writeln!(f, "{service}: {}", flows_of(left, *dry_run))?;
        }
        match &self.wait {
            Some(waited) => writeln!(f, "{service}: {waited}"),
            None => Ok(()),
        }
    }
}

/// What becomes of the flows of a member that was left.
fn flows_of(Left { member, flows, until }: &Left, dry_run: bool) -> String {
    let (are, go) = if dry_run { ("would be", "would go") } else { ("are", "go") };
    match (flows, until) {
        (FlowPolicy::Reset, _) => format!("the flows of {member:?} {are} reset"),
        (FlowPolicy::Drain, Some(until)) => {
            format!("the flows of {member:?} {go} on until {until}, what is left then is reset")
        }
        (FlowPolicy::Drain, None) => format!("the flows of {member:?} {go} on for a while, then {are} reset"),
        (FlowPolicy::Keep, _) => format!("the flows of {member:?} {go} on until they end by themselves"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{
        cli::{Cli, Verb as CliVerb},
        control::operator::Verb,
    };

    fn answer(verb: Verb, message: &str, left: Option<(FlowPolicy, Option<&str>)>, dry_run: bool) -> Answer {
        let left = left.map(|(flows, until)| Left {
            member: "paris".into(),
            flows,
            until: until.map(str::to_owned),
        });
        Answer {
            version: VERSION,
            service: "orders".into(),
            verb,
            member: Some("dublin".into()),
            dry_run,
            message: message.into(),
            active: Some("dublin".into()),
            epoch: 8,
            pinned: None,
            paused: false,
            left,
        }
    }

    #[test]
    fn people_read_what_happened_and_what_becomes_of_flows() {
        let at = "2026-11-21T20:00:30.000Z";
        let left = |end, flows| Some(Waited { end, flows, took_ms: 30_250 });
        let pages = [
            (answer(Verb::Pause, "automatic switching is stopped", None, false), None),
            (answer(Verb::Switch, "dublin is active now", Some((FlowPolicy::Drain, Some(at))), false), None),
            (answer(Verb::Switch, "dublin is active now", Some((FlowPolicy::Drain, Some(at))), true), None),
            (
                answer(Verb::Switch, "dublin is active now", Some((FlowPolicy::Reset, None)), false),
                left(wait::End::Left, 0),
            ),
            (
                answer(Verb::Switch, "dublin is active now", Some((FlowPolicy::Keep, None)), false),
                left(wait::End::StillFlows, 3),
            ),
            (answer(Verb::Drain, "dublin is taken out\n\x1b[2J", None, false), left(wait::End::Drained, 1)),
        ];
        let shown = pages.map(|(answer, wait)| Shown { answer, wait }.to_string());
        insta::assert_snapshot!(shown.join("\n"));
    }

    #[test]
    fn what_the_agent_would_refuse_is_wrong_usage() {
        let parsed = |line: &str| Cli::try_parse_from(["redirector"].into_iter().chain(line.split(' ')));
        for line in [
            "switch orders",
            "switch orders a/b",
            "switch orders dublin --for soon",
            "switch orders dublin --for 0s",
            "switch orders dublin --for 40days",
            "switch orders dublin --wait --dry-run",
            "switch orders dublin --timeout 1s",
            "switch orders dublin --reason a\nb",
            "pause",
            "pause orders --all",
            "member weight orders dublin 0",
            "member weight orders dublin -1",
            "explain orders --flow 10.1.0.2",
        ] {
            assert_eq!(parsed(line).map(|_| ()).map_err(|error| error.exit_code()), Err(2), "{line}");
        }
        for (line, says) in [
            ("pause", "<SERVICE|--all>"),
            ("resume", "<SERVICE|--all>"),
            (
                "explain orders --flow 10.1.0.2",
                "no address with a port; write both, like 10.0.0.1:50000 or [fd00::1]:50000",
            ),
        ] {
            let error = parsed(line).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(says), "{line}: {error}");
        }
        assert!(parsed("pause orders").is_ok() && parsed("resume --all").is_ok());
        let cli = parsed("switch orders dublin --for 1h --reason why --force --wait --timeout 1m").unwrap();
        let CliVerb::Switch(args) = cli.verb else { panic!("{:?}", cli.verb) };
        let change = Change::from(args);
        let hold = Some(Duration::from_secs(3600));
        assert_eq!(change.asked.order, Order::Switch { member: "dublin".into(), hold, force: true });
        assert_eq!(
            (change.wait, change.asked.reason.as_deref()),
            (Some(Duration::from_secs(60)), Some("why"))
        );
    }
}
