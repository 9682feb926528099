//! The flap score: how often a member went down lately. It lengthens how long the member must be up before a failback to it,
//! and nothing else: a member that is down is left at once whatever its score, and a failover goes to any member that is up.
//!
//! The score grows by one each time the member goes down, and halves with every `flap_half_life`. It is the figure of merit
//! of route flap damping (RFC 2439, section 4.2) without its suppression, which barred routes that worked. What counts is the score
//! at the moment when the member came up: so the time that it must prove itself does not change while it does so.
//!
//! | score when it came up | must be up for |
//! |---|---|
//! | at most 1 | `healthy_for` |
//! | above | and for every further point once more `healthy_for`, but at least [`LEAST`] |
//!
//! In thousandths and without floating point, so that a recording gives the same times on every machine: exact at every
//! half-life, a straight line between two of them, which is at most 6 % above the curve.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::Time;
use crate::model::{Failback, MemberState};

/// No score is higher: at the defaults that is half an hour without a break.
const HIGHEST: u32 = 32_000;
const ONE: u32 = 1000;

/// What each point above the first adds at least: else a service without `healthy_for` would follow every flap.
const LEAST: Duration = Duration::from_secs(10);

/// Of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Flap {
    /// How the member was when it was looked at last.
    state: MemberState,
    /// In thousandths, at `at`.
    score: u32,
    at: Time,
    /// What the score was when the member came up.
    at_rise: u32,
    /// As it was before it was raised last.
    before: Option<(u32, Time)>,
}

impl Default for Flap {
    fn default() -> Self {
        Self { state: MemberState::Unknown, score: 0, at: Time::default(), at_rise: 0, before: None }
    }
}

impl Flap {
    /// Takes a change of the member's state into account; going down only if it `counts`.
    pub(super) fn look(&mut self, now: Time, state: MemberState, half_life: Duration, counts: bool) {
        match (self.state, state) {
            (before, after) if before == after => return,
            (MemberState::Up, MemberState::Down) if counts => self.on_down(now, half_life),
            (_, MemberState::Up) => self.on_up(now, half_life),
            _ => {}
        }
        self.state = state;
    }

    /// The member went down.
    fn on_down(&mut self, now: Time, half_life: Duration) {
        self.before = Some((self.score, self.at));
        self.score = (self.thousandths(now, half_life) + ONE).min(HIGHEST);
        self.at = now;
    }

    /// The member came up.
    fn on_up(&mut self, now: Time, half_life: Duration) {
        self.at_rise = self.thousandths(now, half_life);
    }

    /// It was not the member that went down at or after `moment`, but the observer that saw nothing.
    pub(super) fn forgive(&mut self, moment: Time) {
        if self.at >= moment
            && let Some((score, at)) = self.before.take()
        {
            (self.score, self.at) = (score, at);
        }
    }

    /// How often it went down lately.
    pub(super) fn score(&self, now: Time, half_life: Duration) -> f64 {
        f64::from(self.thousandths(now, half_life)) / f64::from(ONE)
    }

    /// How long it must be up without a break before a failback.
    pub(super) fn healthy_for(&self, failback: &Failback) -> Duration {
        if failback.flap_half_life.is_zero() {
            return failback.healthy_for;
        }
        let extra = self.at_rise.saturating_sub(ONE);
        failback.healthy_for + failback.healthy_for.max(LEAST) * extra / ONE
    }

    /// Without a half-life nothing is remembered.
    fn thousandths(&self, now: Time, half_life: Duration) -> u32 {
        let half_life = half_life.as_millis();
        if half_life == 0 {
            return 0;
        }
        let age = now.since(self.at).as_millis();
        let Some(halved) =
            u32::try_from(age / half_life).ok().and_then(|times| self.score.checked_shr(times))
        else {
            return 0;
        };
        // Below one half of a score of at most 32000.
        let further = u128::from(halved) * (age % half_life) / (2 * half_life);
        halved - u32::try_from(further).unwrap_or(halved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FailbackMode;

    const HALF_LIFE: Duration = Duration::from_secs(600);

    fn at(seconds: u64) -> Time {
        Time(Duration::from_secs(seconds))
    }

    #[test]
    fn the_score_grows_by_one_and_halves() {
        let mut flap = Flap::default();
        flap.on_down(at(0), HALF_LIFE);
        let score = |flap: &Flap, seconds| flap.thousandths(at(seconds), HALF_LIFE);
        assert_eq!([0, 300, 600, 900, 1200, 100_000].map(|t| score(&flap, t)), [1000, 750, 500, 375, 250, 0]);
        flap.on_down(at(600), HALF_LIFE);
        assert_eq!([600, 1200].map(|t| score(&flap, t)), [1500, 750]);
        for second in 600..700 {
            flap.on_down(at(second), HALF_LIFE);
        }
        assert_eq!(score(&flap, 699), HIGHEST);
        flap.forgive(at(699));
        assert!(score(&flap, 699) < HIGHEST);
    }

    #[test]
    fn one_outage_lengthens_nothing_and_each_further_one_does() {
        let failback = |seconds| Failback {
            mode: FailbackMode::Auto,
            healthy_for: Duration::from_secs(seconds),
            hold_down: Duration::ZERO,
            flap_half_life: HALF_LIFE,
        };
        let mut flap = Flap::default();
        for (seconds, none) in [(60, 60), (0, 0)] {
            assert_eq!(flap.healthy_for(&failback(seconds)), Duration::from_secs(none));
        }
        for _ in 0..3 {
            flap.on_down(at(5), HALF_LIFE);
        }
        flap.on_up(at(5), HALF_LIFE);
        for (seconds, three) in [(60, 180), (20, 60), (1, 21), (0, 20)] {
            assert_eq!(flap.healthy_for(&failback(seconds)), Duration::from_secs(three));
        }
        let off = Failback { flap_half_life: Duration::ZERO, ..failback(60) };
        assert_eq!(flap.healthy_for(&off), Duration::from_secs(60));
    }
}
