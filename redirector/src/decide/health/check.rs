//! One check against one address: from outcomes to *passing* or *failing*.
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
//!
//! # Tolerances
//!
//! `fall` failures are not enough: trouble of each kind is borne for a time ([`Detect`]). Each kind has a clock of its own.
//! It runs from the *start* of the first probe that failed in this way; of a probe that was answered (refused, say) from its
//! end, a round trip later. All clocks stop at a pass, and that of the silence also when anything comes back: then there is
//! none. The check fails as soon as there are `fall` failures, of whatever kind, and one clock has run for its tolerance.
//! So a series of mixed failures ends no sooner than one kind of them alone is too much, and a change of the kind (refused,
//! then stalled, because the server starts again) does not begin the waiting anew.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    decide::time::Time,
    model::{
        Check, Detect, Effect, Failure, FailureKind, ProbeOutcome, RedisErrorKind, TroubleKind, Verdict,
    },
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::decide) struct CheckHealth {
    pub(in crate::decide) name: String,
    pub(in crate::decide) effect: Effect,
    pub(super) interval: Duration,
    pub(super) down_interval: Duration,
    pub(in crate::decide) fall: u32,
    pub(in crate::decide) rise: u32,
    detect: Detect,
    state: CheckState,
    /// Consecutive, up to now. One of the two is 0.
    pub(in crate::decide) passes: u32,
    pub(in crate::decide) failures: u32,
    clocks: Clocks,
    /// What made it fail, and how long that was borne; meaningless while it does not.
    borne: Option<(TroubleKind, Duration)>,
    newest: Option<ProbeOutcome>,
    /// When the probe of the newest outcome began; of one that was answered with an error: when it ended.
    began: Option<Time>,
    /// The newest failure that counted.
    failure: Option<Failure>,
    /// Its newest probes say nothing: since when, and how many.
    pub(super) silent: Option<(Time, u32)>,
}

/// What a check says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// No verdict yet.
    Unknown,
    /// It passed, and has not failed often or long enough since.
    Passing,
    /// It failed, and has not passed often enough since.
    Failing,
}

impl CheckHealth {
    pub(super) fn unknown(check: &Check) -> Self {
        Self {
            name: check.name.clone(),
            effect: check.effect,
            interval: check.interval,
            down_interval: check.down_interval,
            fall: check.fall,
            rise: check.rise,
            detect: check.detect,
            state: CheckState::Unknown,
            passes: 0,
            failures: 0,
            clocks: Clocks::default(),
            borne: None,
            newest: None,
            began: None,
            failure: None,
            silent: None,
        }
    }

    /// The same check with other times and thresholds: what was counted goes on.
    pub(super) fn with_settings_of(&self, check: &Check) -> Self {
        Self {
            state: self.state,
            passes: self.passes,
            failures: self.failures,
            clocks: self.clocks,
            borne: self.borne,
            newest: self.newest.clone(),
            began: self.began,
            failure: self.failure.clone(),
            silent: self.silent,
            ..Self::unknown(check)
        }
    }

    pub(super) fn on_outcome(&mut self, now: Time, outcome: &ProbeOutcome) {
        self.newest = Some(outcome.clone());
        self.began = Some(now.ago(outcome.took()));
        self.silent = (outcome.verdict() == Verdict::Inconclusive).then(|| {
            let (since, times) = self.silent.unwrap_or((now, 0));
            (since, times.saturating_add(1))
        });
        match (outcome.verdict(), outcome) {
            (Verdict::Pass, _) => self.on_pass(),
            (Verdict::Fail, ProbeOutcome::Failed(failure)) => self.on_failure(now, failure),
            _ => {}
        }
    }

    /// Whether it counts failures, and has no verdict of them so far. One whose newest probe said nothing does not go on counting.
    pub(super) fn counts_failures(&self) -> bool {
        let says_nothing = |newest: &ProbeOutcome| newest.verdict() == Verdict::Inconclusive;
        self.state != CheckState::Failing
            && self.failures > 0
            && !self.newest.as_ref().is_some_and(says_nothing)
    }

    /// Whether a probe that began at this moment or later has ended. A check that fails has had its say: it need not say it
    /// once more.
    pub(super) fn has_answered_since(&self, moment: Time) -> bool {
        self.state == CheckState::Failing || self.began.is_some_and(|began| began >= moment)
    }

    fn on_pass(&mut self) {
        self.failures = 0;
        self.clocks = Clocks::default();
        self.passes = self.passes.saturating_add(1);
        let enough = match self.state {
            CheckState::Unknown => 1,
            CheckState::Passing | CheckState::Failing => self.rise,
        };
        if self.passes >= enough {
            self.state = CheckState::Passing;
        }
    }

    fn on_failure(&mut self, now: Time, failure: &Failure) {
        self.passes = 0;
        self.failures = self.failures.saturating_add(1);
        self.clocks.note(failure.kind(), now.ago(failure.waited()));
        self.failure = Some(failure.clone());
    }

    /// It is a gate, and may have said nothing for so long that what it found before is forgotten: `fall` times in a row and for
    /// `patience`. One answer too late opens no gate that knows of a lag.
    pub(super) fn forget_if_silent(&mut self, now: Time, patience: Duration) {
        let is_silent =
            self.silent.is_some_and(|(since, times)| times >= self.fall && now.since(since) >= patience);
        if is_silent && self.state != CheckState::Passing {
            (self.state, self.passes, self.failures) = (CheckState::Unknown, 0, 0);
            self.clocks = Clocks::default();
        }
    }

    /// When the check fails unless it passes before; `None`: it does already, or there are not enough failures.
    pub(in crate::decide) fn fails_at(&self) -> Option<Time> {
        let is_open = self.state != CheckState::Failing && self.failures >= self.fall;
        self.clocks.end(&self.detect).filter(|_| is_open)
    }

    /// A tolerance may have ended.
    pub(super) fn on_deadline(&mut self, now: Time) {
        if self.fails_at().is_some_and(|at| at <= now) {
            self.state = CheckState::Failing;
            self.borne = self.clocks.ended(now, &self.detect).map(|(kind, since)| {
                let newest = self.failure.as_ref().map(Failure::kind);
                (trouble(kind, newest), now.since(since))
            });
        }
    }

    /// What made it fail, and how long that was borne; `None`: it does not fail.
    pub(super) fn borne(&self) -> Option<(TroubleKind, Duration)> {
        self.borne.filter(|_| self.state == CheckState::Failing)
    }

    pub(in crate::decide) fn state(&self) -> CheckState {
        self.state
    }

    pub(super) fn rank(&self) -> u8 {
        match self.state {
            CheckState::Failing => 0,
            CheckState::Unknown => 1,
            CheckState::Passing if self.failures > 0 || self.unclear().is_some() => 2,
            CheckState::Passing => 3,
        }
    }

    /// Whether asking again soon may change the state: nothing was asked yet, or a count towards another state
    /// has begun. An address that fails steadily is not in doubt, nor is one whose probes say nothing: asking
    /// twenty times a second with a wrong password only fills the member's log.
    pub(super) fn in_doubt(&self) -> bool {
        match self.state {
            CheckState::Unknown => self.newest.is_none() || self.failures > 0,
            CheckState::Passing => self.failures > 0,
            CheckState::Failing => self.passes > 0,
        }
    }

    /// The newest outcome, and how far a count has come.
    pub(in crate::decide) fn reason(&self) -> String {
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
            (Verdict::Fail, _) if self.failures >= self.fall => {
                format!("{outcome} ({} in a row, borne for {})", self.failures, self.borne_for())
            }
            (Verdict::Fail, _) => format!("{outcome} ({} of {})", self.failures, self.fall),
            _ => outcome,
        }
    }

    /// The same with the name of the check in any case.
    #[allow(dead_code, reason = "the choice of a member asks for it, with the operator's commands")]
    pub(super) fn doubt(&self) -> String {
        if self.newest.is_none() { format!("{}: no verdict yet", self.name) } else { self.reason() }
    }

    /// The tolerance of the newest failure.
    fn borne_for(&self) -> humantime::FormattedDuration {
        let kind = self.failure.as_ref().map_or(FailureKind::Other, Failure::kind);
        humantime::format_duration(self.detect.tolerance(kind))
    }

    /// The newest outcome, if it says nothing about the member: somebody has to look after the probe then.
    pub(super) fn unclear(&self) -> Option<String> {
        let newest = self.newest.as_ref()?;
        (newest.verdict() == Verdict::Inconclusive).then(|| newest.to_string())
    }

    pub(super) fn fails_because(&self) -> Option<String> {
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

/// What it is to people: the clock of refusals is that of errors, too, and the newest failure tells which.
fn trouble(clock: FailureKind, newest: Option<FailureKind>) -> TroubleKind {
    match (clock, newest) {
        (FailureKind::Silence, _) => TroubleKind::Silence,
        (FailureKind::Stall, _) => TroubleKind::Stall,
        (FailureKind::Refused, Some(FailureKind::Redis(_))) | (FailureKind::Redis(_), _) => {
            TroubleKind::Error
        }
        (FailureKind::Refused, _) => TroubleKind::Refused,
        (FailureKind::Other, _) => TroubleKind::Other,
    }
}

/// Since when there has been trouble of which kind, in the series of failures that goes on now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Clocks {
    silence: Option<Time>,
    stall: Option<Time>,
    /// And Redis errors, which are borne for as long.
    refused: Option<Time>,
    other: Option<Time>,
}

impl Clocks {
    /// Another failure, of a probe that started then.
    fn note(&mut self, kind: FailureKind, started: Time) {
        if kind != FailureKind::Silence {
            self.silence = None;
        }
        let clock = match kind {
            FailureKind::Silence => &mut self.silence,
            FailureKind::Stall | FailureKind::Redis(RedisErrorKind::Busy) => &mut self.stall,
            FailureKind::Refused | FailureKind::Redis(_) => &mut self.refused,
            FailureKind::Other => &mut self.other,
        };
        clock.get_or_insert(started);
    }

    /// Each that runs, and since when.
    fn running(&self) -> impl Iterator<Item = (FailureKind, Time)> {
        let clocks = [
            (FailureKind::Silence, self.silence),
            (FailureKind::Stall, self.stall),
            (FailureKind::Refused, self.refused),
            (FailureKind::Other, self.other),
        ];
        clocks.into_iter().filter_map(|(kind, since)| Some((kind, since?)))
    }

    /// When the first tolerance ends.
    fn end(&self, detect: &Detect) -> Option<Time> {
        self.running().map(|(kind, since)| since + detect.tolerance(kind)).min()
    }

    /// The first whose tolerance has ended.
    fn ended(&self, now: Time, detect: &Detect) -> Option<(FailureKind, Time)> {
        let end = |(kind, since): &(FailureKind, Time)| *since + detect.tolerance(*kind);
        self.running().filter(|running| end(running) <= now).min_by_key(end)
    }
}
