//! `redirector reload`: has the agent read its file again, and shows what differs.

use std::{
    io::{self, Write},
    path::Path,
};

use clap::Args;

use super::{Exit, Output, operator::ChangeArgs};
use crate::control::{
    client::{self, ClientError},
    reload::{Asked, Reloaded, Wish},
};

/// `reload`
#[derive(Clone, Debug, Args)]
pub struct ReloadArgs {
    /// What all of them take that may take an active member away.
    #[command(flatten)]
    pub force: ForceArgs,
    /// What all of them take that change something.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// What every verb takes that may take an active member away.
#[derive(Clone, Copy, Debug, Args)]
pub struct ForceArgs {
    /// Although an active member goes and no other one is up: new connections are refused until one is
    #[arg(long)]
    pub force: bool,
}

/// Has the agent do it. Writes what became of it to `out` and errors to `err`.
pub async fn run(socket: &Path, args: ReloadArgs, out: &mut impl Write, err: &mut impl Write) -> Exit {
    ask(socket, Wish::Reload, args.force.force, args.change, out, err).await
}

/// The same for any other configuration.
pub(super) async fn ask(
    socket: &Path,
    wish: Wish,
    force: bool,
    change: ChangeArgs,
    out: &mut impl Write,
    err: &mut impl Write,
) -> Exit {
    let ChangeArgs { reason, dry_run, output } = change;
    let reloaded = match client::reload(socket, &Asked { wish, reason, dry_run, force }).await {
        Ok(reloaded) => reloaded,
        Err(error) => {
            // There is no place left to complain about an unwritable standard error.
            let _ = writeln!(err, "error: {error}");
            return match error {
                ClientError::NotRunning { .. } => Exit::NotRunning,
                ClientError::Failed { .. } => Exit::Failed,
            };
        }
    };
    super::conclude("answer", write(&reloaded, output, out), Exit::Done, err)
}

fn write(reloaded: &Reloaded, output: Output, out: &mut impl Write) -> io::Result<()> {
    match output {
        Output::Table => {
            if !reloaded.difference.is_empty() {
                // As in a log: what a file says moves no cursor.
                let text = reloaded.difference.to_string();
                text.lines().try_for_each(|line| writeln!(out, "{}", line.replace(char::is_control, "?")))?;
            }
            reloaded.warnings.iter().try_for_each(|warning| writeln!(out, "warning: {warning}"))?;
            let dry = if reloaded.dry_run { "dry run, nothing is changed: " } else { "" };
            writeln!(out, "{dry}{}", reloaded.message)?;
        }
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, reloaded)?;
            writeln!(out)?;
        }
    }
    out.flush()
}
