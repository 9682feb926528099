//! What was handed in to a core, as lines: to be kept, and to be replayed.
//!
//! One line of JSON is one call, with its time and the service. A recording begins with the core as it is, and has it again
//! after a reload; everything else follows, because a core knows nothing but what is handed in. So a day of production becomes
//! a test: `redirector simulate` replays it, and with it comes every switch, at the same time and for the same reason.
//!
//! Not recorded are calls that cannot have changed anything: deadlines that were not due. Every outcome is: a pass that
//! changes no state still makes the verdict fresh. Times are nanoseconds of the agent's clock. What checks are, and how
//! they log in, is not recorded: neither a command line nor a password is anybody's business here.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Action, Command, Core, Time};
use crate::model::{CheckId, Failure, MemberId, ProbeOutcome, Signal, Traffic};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// When it was handed in.
    #[serde(rename = "t")]
    pub at: Time,
    /// To which service, by its name.
    #[serde(rename = "s")]
    pub service: String,
    /// What.
    #[serde(flatten)]
    pub input: Input,
}

/// What was handed in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// The core as it is from here on: a recording begins, or the service was reloaded.
    Core(Box<Core>),
    /// [`Core::on_probe`]
    Probe(MemberId, SocketAddr, CheckId, Outcome),
    /// [`Core::on_addresses`]
    Addresses(MemberId, Vec<SocketAddr>),
    /// [`Core::on_operator`]
    Operator(Command),
    /// [`Core::on_hooks`]: the question, and what stands against the switch.
    Hooks(u64, Option<String>),
    /// [`Core::on_signal`]
    Signal(MemberId, Signal),
    /// [`Core::on_traffic`]
    Traffic(MemberId, Traffic),
    /// [`Core::on_late`]; nanoseconds.
    Late(u64),
    /// [`Core::on_deadline`]
    Deadline,
}

/// A [`ProbeOutcome`] in few letters: a pass is its latency in nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It passed.
    Pass(u64),
    /// It failed.
    Fail(Failure),
    /// It says nothing about the member.
    Inconclusive(Failure),
}

impl From<&ProbeOutcome> for Outcome {
    fn from(outcome: &ProbeOutcome) -> Self {
        match outcome {
            ProbeOutcome::Passed { latency } => Self::Pass(nanos(*latency)),
            ProbeOutcome::Failed(failure) => Self::Fail(failure.clone()),
            ProbeOutcome::Inconclusive(failure) => Self::Inconclusive(failure.clone()),
        }
    }
}

impl From<&Outcome> for ProbeOutcome {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Pass(latency) => Self::Passed { latency: Duration::from_nanos(*latency) },
            Outcome::Fail(failure) => Self::Failed(failure.clone()),
            Outcome::Inconclusive(failure) => Self::Inconclusive(failure.clone()),
        }
    }
}

/// As [`Input::Late`] has it; more than 584 years are as many.
#[must_use]
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Core {
    /// Whether [`Self::on_deadline`] would change anything, and so belongs into a recording.
    #[must_use]
    pub fn is_due(&self, now: Time) -> bool {
        self.next_deadline().is_some_and(|deadline| deadline <= now)
    }

    /// Hands in what a recording says. Returns what the core wanted done.
    ///
    /// # Errors
    ///
    /// The line names a member or a check that the service does not have. Nothing was handed in.
    pub fn replay(&mut self, now: Time, input: &Input) -> Result<Vec<Action>, String> {
        match input {
            Input::Core(core) => *self = Self::clone(core),
            Input::Probe(member, address, check, outcome) => {
                self.known_member(*member)?;
                let checks = self.service.members[member.0].checks.len();
                if check.0 >= checks {
                    return Err(format!("it names check {}, and member {} has {checks}", check.0, member.0));
                }
                self.on_probe(now, *member, *address, *check, &outcome.into());
            }
            Input::Addresses(member, addresses) => {
                self.known_member(*member)?;
                self.on_addresses(now, *member, addresses);
            }
            // What was refused then is refused again.
            Input::Operator(command) => drop(self.on_operator(now, command)),
            Input::Hooks(ask, veto) => self.on_hooks(now, *ask, veto.clone().map_or(Ok(()), Err)),
            Input::Signal(member, signal) => {
                self.known_member(*member)?;
                self.on_signal(now, *member, signal);
            }
            Input::Traffic(member, traffic) => {
                self.known_member(*member)?;
                self.on_traffic(now, *member, *traffic);
            }
            Input::Late(by) => self.on_late(now, Duration::from_nanos(*by)),
            Input::Deadline => self.on_deadline(now),
        }
        Ok(std::iter::from_fn(|| self.poll_action()).collect())
    }

    fn known_member(&self, member: MemberId) -> Result<(), String> {
        let members = self.members.len();
        if member.0 < members {
            return Ok(());
        }
        Err(format!("it names member {}, and the service has {members}", member.0))
    }
}
