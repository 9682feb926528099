//! Health: from single verdicts to "this address is up".
//!
//! Counting is what HAProxy and keepalived have taught people to expect. `fall` *consecutive* failures make a
//! passing check fail, `rise` *consecutive* passes make a failing one pass, and a verdict of the other kind
//! starts the count again.
//!
//! Where they differ is the start. HAProxy believes a server to be up until the first probe and takes it down
//! on the first failure; keepalived believes it to be up too, or with `alpha` to be down. Here a check is
//! *unknown* first, which is neither. One pass ends that: an address that answers is up, and `rise` is for
//! those that have been down. `fall` failures end it as well, not one: a single lost packet while the agent
//! starts says as little as a single lost packet later.
//!
//! An inconclusive outcome (the probe's own credentials, no file descriptor left) is shown and otherwise left
//! out: it neither counts nor breaks a count.

use super::time::Time;
use crate::model::{Check, CheckId, Failure, MemberState, Pace, ProbeOutcome, Verdict};

/// One address of a member as its checks see it.
#[derive(Clone, Debug)]
pub(super) struct Health {
    /// In the order of the configuration, as everywhere in the core.
    checks: Vec<CheckHealth>,
    state: MemberState,
    /// When the newest probe ended.
    checked_at: Option<Time>,
    pace: Pace,
}

/// What an outcome has changed.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) state: Option<MemberState>,
    pub(super) pace: Option<Pace>,
}

impl Health {
    /// Of an address that was never probed; probes begin at the fast pace.
    pub(super) fn unknown(checks: &[Check]) -> Self {
        Self {
            checks: checks.iter().map(CheckHealth::unknown).collect(),
            state: MemberState::Unknown,
            checked_at: None,
            pace: Pace::Fast,
        }
    }

    /// Takes a probe's outcome into account.
    pub(super) fn on_outcome(&mut self, now: Time, check: CheckId, outcome: &ProbeOutcome) -> Change {
        self.checks[check.0].on_outcome(outcome);
        self.checked_at = Some(now);

        let state = state_of(&self.checks);
        let pace = if self.checks.iter().any(CheckHealth::in_doubt) { Pace::Fast } else { Pace::Normal };
        let change = Change {
            state: (state != self.state).then_some(state),
            pace: (pace != self.pace).then_some(pace),
        };
        self.state = state;
        self.pace = pace;
        change
    }

    pub(super) fn state(&self) -> MemberState {
        self.state
    }

    /// When the newest probe ended.
    pub(super) fn checked_at(&self) -> Option<Time> {
        self.checked_at
    }

    /// The newest outcome of the check that says most: one that fails, else one that is unknown, else one that
    /// has begun to fail, else the first.
    pub(super) fn reason(&self) -> String {
        let telling = self.checks.iter().min_by_key(|check| check.rank());
        telling.map(CheckHealth::reason).unwrap_or_default()
    }

    /// How little its [`Self::reason`] says; the smallest says most.
    pub(super) fn rank(&self) -> u8 {
        self.checks.iter().map(CheckHealth::rank).min().unwrap_or(u8::MAX)
    }

    /// Why the address is down; `None`: it is not.
    pub(super) fn down_because(&self) -> Option<String> {
        self.checks.iter().find_map(CheckHealth::fails_because)
    }
}

/// An address is down when any check fails, up when every check passes, and unknown otherwise.
fn state_of(checks: &[CheckHealth]) -> MemberState {
    if checks.iter().any(|check| check.state == CheckState::Failing) {
        MemberState::Down
    } else if checks.iter().all(|check| check.state == CheckState::Passing) {
        MemberState::Up
    } else {
        MemberState::Unknown
    }
}

/// One check against one address.
#[derive(Clone, Debug)]
struct CheckHealth {
    name: String,
    fall: u32,
    rise: u32,
    state: CheckState,
    /// Consecutive, up to now. One of the two is 0.
    passes: u32,
    failures: u32,
    newest: Option<ProbeOutcome>,
    /// The newest failure that counted.
    failure: Option<Failure>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CheckState {
    Unknown,
    Passing,
    Failing,
}

impl CheckHealth {
    fn unknown(check: &Check) -> Self {
        Self {
            name: check.name.clone(),
            fall: check.fall,
            rise: check.rise,
            state: CheckState::Unknown,
            passes: 0,
            failures: 0,
            newest: None,
            failure: None,
        }
    }

    fn on_outcome(&mut self, outcome: &ProbeOutcome) {
        self.newest = Some(outcome.clone());
        match outcome.verdict() {
            Verdict::Pass => self.on_pass(),
            Verdict::Fail => self.on_failure(outcome),
            Verdict::Inconclusive => {}
        }
    }

    fn on_pass(&mut self) {
        self.failures = 0;
        self.passes = self.passes.saturating_add(1);
        let enough = match self.state {
            CheckState::Unknown => 1,
            CheckState::Passing | CheckState::Failing => self.rise,
        };
        if self.passes >= enough {
            self.state = CheckState::Passing;
        }
    }

    fn on_failure(&mut self, outcome: &ProbeOutcome) {
        self.passes = 0;
        self.failures = self.failures.saturating_add(1);
        if let ProbeOutcome::Failed(failure) = outcome {
            self.failure = Some(failure.clone());
        }
        if self.failures >= self.fall {
            self.state = CheckState::Failing;
        }
    }

    fn rank(&self) -> u8 {
        match self.state {
            CheckState::Failing => 0,
            CheckState::Unknown => 1,
            CheckState::Passing if self.failures > 0 => 2,
            CheckState::Passing => 3,
        }
    }

    /// Whether asking again soon may change the state: nothing was asked yet, or a count towards another state
    /// has begun. An address that fails steadily is not in doubt, nor is one whose probes say nothing: asking
    /// twenty times a second with a wrong password only fills the member's log.
    fn in_doubt(&self) -> bool {
        match self.state {
            CheckState::Unknown => self.newest.is_none() || self.failures > 0,
            CheckState::Passing => self.failures > 0,
            CheckState::Failing => self.passes > 0,
        }
    }

    /// The newest outcome, and how far a count has come.
    fn reason(&self) -> String {
        let (name, Some(newest)) = (&self.name, &self.newest) else {
            return "no verdict yet".to_owned();
        };
        let outcome = match newest {
            ProbeOutcome::Passed { .. } => format!("{name} {newest}"),
            ProbeOutcome::Failed(_) | ProbeOutcome::Inconclusive(_) => format!("{name}: {newest}"),
        };
        match (newest.verdict(), self.state) {
            (Verdict::Pass, CheckState::Failing) => format!("{outcome} ({} of {})", self.passes, self.rise),
            (Verdict::Fail, CheckState::Failing) => format!("{outcome}{}", in_a_row(self.failures)),
            (Verdict::Fail, _) => format!("{outcome} ({} of {})", self.failures, self.fall),
            _ => outcome,
        }
    }

    fn fails_because(&self) -> Option<String> {
        let failure = self.failure.as_ref().filter(|_| self.state == CheckState::Failing)?;
        Some(match self.passes {
            0 => format!("{failure}{}", in_a_row(self.failures)),
            passes => format!("{failure} ({passes} of {} passes since)", self.rise),
        })
    }
}

fn in_a_row(failures: u32) -> String {
    if failures > 1 { format!(" ({failures} in a row)") } else { String::new() }
}
