//! `exec`: a command of the operator's own says how the member is.
//!
//! | exit status | meaning |
//! |---|---|
//! | 0 | passes |
//! | 75 (`EX_TEMPFAIL` of sysexits.h) | inconclusive: the command could not find out |
//! | 126, 127 | inconclusive: the command could not be run. Shells say the same of one within a script |
//! | any other | fails |
//!
//! The first line that it writes is the reason. A command that a signal ended has told nothing: inconclusive. One that takes
//! longer than the check's time-out fails, as any probe.

use std::{net::SocketAddr, time::Duration};

use tokio::sync::oneshot;

use super::stop::Stop;
use crate::{
    command::{self, End, Ended, PATH, Plan, first_line},
    model::{Cause, Exec as Settings, ExecOf, Phase, Witness},
};

/// Exit statuses of a command that could not find out, or not be run at all.
const UNKNOWN: [i32; 3] = [75, 126, 127];

/// The state of an `exec` prober.
pub(super) struct Exec {
    plan: Plan,
    /// Of the run that has begun: tells when nothing of it is left.
    begun: Option<oneshot::Receiver<Result<Ended, String>>>,
}

impl Exec {
    pub(super) fn new(settings: &Settings, of: &ExecOf, address: SocketAddr, limit: Duration) -> Self {
        let environment = [
            ("PATH", PATH.to_owned()),
            ("REDIRECTOR_SERVICE", of.service.clone()),
            ("REDIRECTOR_MEMBER", of.member.clone()),
            ("REDIRECTOR_ENDPOINT", of.endpoint.to_string()),
            ("REDIRECTOR_ADDRESS", address.ip().to_string()),
            ("REDIRECTOR_PORT", address.port().to_string()),
            ("REDIRECTOR_TIMEOUT_MS", limit.as_millis().to_string()),
        ];
        let plan = Plan {
            command: settings.command.clone(),
            environment: environment.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            input: Vec::new(),
            user: settings.user.clone(),
            limit,
        };
        Self { plan, begun: None }
    }

    /// One probe. Dropped half-way, it kills the command and everything that the command started; the next one waits
    /// until that is done.
    pub(super) async fn probe(&mut self, phase: &mut Phase) -> Result<(), Stop> {
        *phase = Phase::Command;
        if let Some(before) = &mut self.begun {
            let _ = before.await;
            self.begun = None;
        }
        let (_running, ended) = command::start(self.plan.clone()).map_err(impossible)?;
        let ended = self.begun.insert(ended).await;
        self.begun = None;
        match ended {
            Ok(Ok(ended)) => judge(&ended),
            Ok(Err(why)) => Err(impossible(why)),
            Err(_) => Err(impossible("its thread ended".to_owned())),
        }
    }
}

fn impossible(why: String) -> Stop {
    Stop::Answer(Cause::Local(why))
}

fn judge(ended: &Ended) -> Result<(), Stop> {
    let said = first_line(&ended.stdout).or_else(|| first_line(&ended.stderr));
    let with = |how: String| said.as_ref().map_or_else(|| how.clone(), |said| format!("{said} ({how})"));
    Err(Stop::Answer(match ended.how {
        End::Exited(0) => return Ok(()),
        End::Exited(status) if UNKNOWN.contains(&status) => unknown(with(format!("exit status {status}"))),
        End::Exited(status) => Cause::Reported(with(format!("exit status {status}"))),
        End::Killed(signal) => unknown(with(format!("ended by signal {signal}"))),
    }))
}

fn unknown(why: String) -> Cause {
    Cause::Witness(Witness::Command, Box::new(Cause::Reported(why)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(how: End, stdout: &[u8], stderr: &[u8]) -> Option<String> {
        let ended = Ended { how, stdout: stdout.to_vec(), stderr: stderr.to_vec() };
        match judge(&ended) {
            Ok(()) => None,
            Err(Stop::Answer(Cause::Reported(text))) => Some(format!("fails: {text}")),
            Err(Stop::Answer(Cause::Witness(_, cause))) => match *cause {
                Cause::Reported(text) => Some(format!("unknown: {text}")),
                cause => panic!("{cause:?}"),
            },
            Err(stop) => panic!("{stop:?}"),
        }
    }

    #[test]
    fn exit_status_and_output_make_the_verdict() {
        assert_eq!(verdict(End::Exited(0), b"whatever", b"warning"), None);
        assert_eq!(verdict(End::Exited(1), b"", b"").unwrap(), "fails: exit status 1");
        assert_eq!(
            verdict(End::Exited(2), b"lag 9 s\nmore", b"no").unwrap(),
            "fails: lag 9 s (exit status 2)"
        );
        assert_eq!(verdict(End::Exited(2), b" \n", b"\r\nbroken").unwrap(), "fails: broken (exit status 2)");
        assert_eq!(verdict(End::Exited(75), b"API gone", b"").unwrap(), "unknown: API gone (exit status 75)");
        assert_eq!(verdict(End::Killed(11), b"", b"").unwrap(), "unknown: ended by signal 11");
    }

    #[test]
    fn output_is_made_fit_to_be_shown() {
        let shown = verdict(End::Exited(1), b"\x1b[2Jgone\xff\x07\nsecond", b"").unwrap();
        assert!(
            !shown.contains(char::is_control) && shown.contains("gone") && !shown.contains("second"),
            "{shown}"
        );
        let long = verdict(End::Exited(1), &[b'a'; 4000], b"").unwrap();
        assert!(long.chars().count() < 200, "{long}");
    }
}
