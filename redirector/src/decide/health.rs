//! Health: from the verdicts of several checks to "this address is up".
//!
//! What one check says of an address is counted in [`check`]. Here the checks are combined, in three-valued logic: a check
//! *passes*, *fails* or is *unknown*, and so is what is made of them. Of the checks that count, `all`, `any` or `at_least`
//! so many must pass: that is certain as soon as so many pass, and out of the question as soon as too few are left that
//! could. Every check that vetoes must pass besides. What may go either way is unknown.
//!
//! | checks that count | vetoes | address |
//! |---|---|---|
//! | enough pass | all pass | up |
//! | too few can still pass | any | down |
//! | any | one fails | down |
//! | otherwise | | unknown |
//!
//! Gates and checks that are only observed have no part in it. A gate is asked by the choice of another member
//! ([`Health::gate`]).

use std::time::Duration;

pub(super) use self::check::CheckHealth;
pub use self::check::CheckState;
use serde::{Deserialize, Serialize};

use super::time::Time;
use crate::model::{Check, CheckId, Combine, Effect, MemberState, Pace, ProbeOutcome, TroubleKind};

mod check;

/// One address of a member as its checks see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Health {
    /// In the order of the configuration, as everywhere in the core.
    checks: Vec<CheckHealth>,
    combine: Combine,
    state: MemberState,
    /// Since when `state` holds; `None`: since ever.
    since: Option<Time>,
    /// When the newest probe ended.
    checked_at: Option<Time>,
    pace: Pace,
}

/// What an outcome, or the end of a tolerance, has changed.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) state: Option<MemberState>,
    pub(super) pace: Option<Pace>,
}

impl Health {
    /// Of an address that was never probed; probes begin at the fast pace.
    pub(super) fn unknown(checks: &[Check], combine: Combine) -> Self {
        Self {
            checks: checks.iter().map(CheckHealth::unknown).collect(),
            combine,
            state: MemberState::Unknown,
            since: None,
            checked_at: None,
            pace: Pace::Fast,
        }
    }

    /// Takes a probe's outcome into account, and then the tolerances that have ended by now: an answer that came in time
    /// ends them.
    pub(super) fn on_outcome(&mut self, now: Time, check: CheckId, outcome: &ProbeOutcome) -> Change {
        self.checks[check.0].on_outcome(now, outcome);
        self.checked_at = Some(now);
        self.on_deadline(now)
    }

    /// Gates that have said nothing for long bar nobody any more. While the address itself is not up they have no way to.
    pub(super) fn forget_silent_gates(&mut self, now: Time, patience: Duration) {
        let is_up = self.state() == MemberState::Up;
        for gate in self.checks.iter_mut().filter(|check| check.effect == Effect::Gate) {
            if is_up {
                gate.forget_if_silent(now, patience);
            } else {
                gate.silent = None;
            }
        }
    }

    /// Tolerances may have ended.
    pub(super) fn on_deadline(&mut self, now: Time) -> Change {
        self.checks.iter_mut().for_each(|check| check.on_deadline(now));
        let state = state_of(&self.checks, self.combine);
        if state != self.state {
            self.since = Some(now);
        }
        let before = (self.state, self.pace);
        self.state = state;
        self.pace = self.pace_at(now);
        Change {
            state: (self.state != before.0).then_some(self.state),
            pace: (self.pace != before.1).then_some(self.pace),
        }
    }

    /// When a check fails unless it passes before.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.checks.iter().filter_map(CheckHealth::fails_at).min()
    }

    /// The checks are others now: each was the one of its `origin` before and goes on counting, or is new and unknown.
    pub(super) fn set_checks(
        &mut self,
        checks: &[Check],
        origins: &[Option<CheckId>],
        combine: Combine,
        now: Time,
    ) -> Change {
        let carried = |(check, origin): (&Check, &Option<CheckId>)| match origin {
            Some(origin) => self.checks[origin.0].with_settings_of(check),
            None => CheckHealth::unknown(check),
        };
        self.checks = checks.iter().zip(origins).map(carried).collect();
        self.combine = combine;
        self.on_deadline(now)
    }

    /// The checks of a round: all that are not only observed, and whether a failure would be new.
    pub(super) fn asked_in_a_round(&self) -> impl Iterator<Item = (CheckId, bool)> {
        let numbered = self.checks.iter().enumerate().filter(|(_, check)| check.effect != Effect::Observe);
        numbered.map(|(number, check)| (CheckId(number), check.state() == CheckState::Passing))
    }

    /// Every check, for people.
    pub(super) fn checks(&self) -> &[CheckHealth] {
        &self.checks
    }

    pub(super) fn state(&self) -> MemberState {
        self.state
    }

    /// Since when [`Self::state`] holds; `None`: since ever.
    pub(super) fn since(&self) -> Option<Time> {
        self.since
    }

    /// When the newest probe ended.
    pub(super) fn checked_at(&self) -> Option<Time> {
        self.checked_at
    }

    /// The newest outcome of the check that says most: one that fails, else one that is unknown, else one that
    /// has begun to fail or says nothing, else the first. Of gates and observed checks only what they find wrong, or that
    /// they find nothing, is added.
    pub(super) fn reason(&self) -> String {
        let telling = self.deciding().min_by_key(|check| check.rank());
        let mut reason = telling.map(CheckHealth::reason).unwrap_or_default();
        for check in self.checks.iter().filter(|check| !check.effect.decides()) {
            if let Some(why) = check.fails_because().or_else(|| check.unclear()) {
                reason += &format!("; {} {}: {why}", check.effect.name(), check.name);
            }
        }
        reason
    }

    /// How little its [`Self::reason`] says; the smallest says most.
    pub(super) fn rank(&self) -> u8 {
        self.deciding().map(CheckHealth::rank).min().unwrap_or(u8::MAX)
    }

    /// Why the address is down; `None`: it is not.
    pub(super) fn down_because(&self) -> Option<String> {
        if self.state != MemberState::Down {
            return None;
        }
        let veto = self.deciding().filter(|check| check.effect == Effect::Veto);
        veto.chain(self.deciding()).find_map(CheckHealth::fails_because)
    }

    /// What made the address down, and how long that was borne; `None`: it is not down.
    pub(super) fn borne(&self) -> Option<(TroubleKind, Duration)> {
        if self.state != MemberState::Down {
            return None;
        }
        let veto = self.deciding().filter(|check| check.effect == Effect::Veto);
        veto.chain(self.deciding()).find_map(CheckHealth::borne)
    }

    /// Whether every check that decides, and passes, has passed so often: `passes` says how often each did.
    pub(super) fn has_passed_anew(&self, passes: impl Fn(CheckId) -> u32) -> bool {
        let mut deciding = self.checks.iter().enumerate().filter(|(_, check)| check.effect.decides());
        self.state == MemberState::Up
            && deciding.all(|(number, check)| {
                check.state() != CheckState::Passing || passes(CheckId(number)) >= check.rise
            })
    }

    /// Whether a check that decides counts failures.
    pub(super) fn counts_failures(&self) -> bool {
        self.deciding().any(CheckHealth::counts_failures)
    }

    /// Whether each of these checks has answered a probe that began at this moment or later.
    pub(super) fn have_answered_since(&self, moment: Time, checks: &[CheckId]) -> bool {
        checks.iter().all(|check| self.checks[check.0].has_answered_since(moment))
    }

    /// Why a member that is alive may not be left for this one; `None`: no gate bars it.
    ///
    /// A gate bars when it fails, and until its first verdict: not probed yet, or its first failures are being counted. A gate
    /// whose probes say nothing (its REST API is gone, or refuses the login) bars nobody: that would be a failure of the
    /// management, not of the member. One that had failed before bars for a while all the same ([`Self::forget_silent_gates`]).
    #[allow(dead_code, reason = "the choice of a member asks for it, with the operator's commands")]
    pub(super) fn gate(&self) -> Option<String> {
        self.checks.iter().filter(|check| check.effect == Effect::Gate).find_map(|gate| match gate.state() {
            CheckState::Passing => None,
            CheckState::Failing => {
                Some(format!("{}: {}", gate.name, gate.fails_because().unwrap_or_default()))
            }
            CheckState::Unknown => gate.in_doubt().then(|| gate.doubt()),
        })
    }

    /// The checks that can make the address up or down.
    fn deciding(&self) -> impl Iterator<Item = &CheckHealth> {
        self.checks.iter().filter(|check| check.effect.decides())
    }

    /// Fast while a check that decides is in doubt. One that has been down for longer than its `down_interval` is asked so
    /// rarely: before, it may be back in a moment.
    fn pace_at(&self, now: Time) -> Pace {
        if self.deciding().any(CheckHealth::in_doubt) {
            return Pace::Fast;
        }
        let long = self.checks.iter().map(|check| check.down_interval).max().unwrap_or_default();
        let differs = self.checks.iter().any(|check| check.down_interval != check.interval);
        let is_long = self.since.is_some_and(|since| now.since(since) >= long);
        if differs && self.state == MemberState::Down && is_long { Pace::Down } else { Pace::Normal }
    }
}

/// See the table above.
fn state_of(checks: &[CheckHealth], combine: Combine) -> MemberState {
    let count = |effect, state: Option<CheckState>| {
        let of_effect = checks.iter().filter(|check| check.effect == effect);
        of_effect.filter(|check| state.is_none_or(|state| check.state() == state)).count()
    };
    let counting = count(Effect::Count, None);
    let needed = combine.needed(counting);
    let can_pass = counting - count(Effect::Count, Some(CheckState::Failing));
    if count(Effect::Veto, Some(CheckState::Failing)) > 0 || can_pass < needed {
        return MemberState::Down;
    }
    let vetoes_pass = count(Effect::Veto, Some(CheckState::Passing)) == count(Effect::Veto, None);
    if vetoes_pass && count(Effect::Count, Some(CheckState::Passing)) >= needed {
        MemberState::Up
    } else {
        MemberState::Unknown
    }
}
