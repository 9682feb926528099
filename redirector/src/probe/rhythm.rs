//! When the next round of probes is due.
//!
//! Jitter only ever shortens an interval, by a random part of up to `jitter_percent`: what is written is the longest, and
//! what is computed from it the worst case. The rounds of many services, which all start with the agent, are spread over
//! the first interval in the same way.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use crate::model::{Check, FailureKind, Pace, ProbeOutcome, Verdict};

/// The rhythm of one prober.
#[derive(Debug)]
pub(super) struct Rhythm {
    chance: Chance,
    /// No round has waited for an interval yet.
    is_new: bool,
    /// The newest round was refused, and more of them would make the check fail: when the next one is due.
    after_refusal: Option<Duration>,
    /// Drawn for the rest that goes on: at least 0, less than 1.
    drawn: f64,
}

impl Rhythm {
    pub(super) fn new() -> Self {
        // The standard library seeds its hash maps from the kernel; no other randomness is needed here.
        Self::with_seed(RandomState::new().build_hasher().finish())
    }

    fn with_seed(seed: u64) -> Self {
        Self { chance: Chance(seed), is_new: true, after_refusal: None, drawn: 0.0 }
    }

    /// A round has ended; this one is the `failures`th that failed in a row.
    pub(super) fn ended(&mut self, check: &Check, outcome: &ProbeOutcome, failures: u32) {
        let refused = match (outcome.verdict(), outcome) {
            (Verdict::Fail, ProbeOutcome::Failed(failure)) => failure.kind() == FailureKind::Refused,
            _ => false,
        };
        self.after_refusal = (refused && failures < check.fall).then(|| check.after_refusal(failures));
        self.drawn = self.chance.next();
    }

    /// From the start of that round to the start of the next, at this pace.
    pub(super) fn interval(&self, check: &Check, pace: Pace) -> Duration {
        if let Some(interval) = self.after_refusal {
            return interval;
        }
        let whole = match pace {
            Pace::Normal => check.interval,
            Pace::Down => check.down_interval,
            Pace::Fast => return check.fast_interval,
        };
        let jitter = f64::from(check.jitter_percent) / 100.0;
        let part = match jitter > 0.0 && self.is_new {
            true => 1.0,
            false => jitter,
        };
        whole.mul_f64(1.0 - part * self.drawn)
    }

    /// The rest is over; it was one of this pace.
    pub(super) fn rested(&mut self, pace: Pace) {
        self.is_new &= pace == Pace::Fast;
    }
}

/// Random enough to spread load: SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    /// At least 0, less than 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let upper = u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or(u32::MAX);
        f64::from(upper) / (f64::from(u32::MAX) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Cause, CheckKind, Failure, Phase};

    const PASS: ProbeOutcome = ProbeOutcome::Passed { latency: Duration::ZERO };

    fn refused() -> ProbeOutcome {
        ProbeOutcome::Failed(Failure { phase: Phase::Connect, cause: Cause::Refused })
    }

    /// The intervals after this many passes.
    fn intervals(check: &Check, pace: Pace, count: usize) -> Vec<Duration> {
        let mut rhythm = Rhythm::with_seed(1);
        let mut next = || {
            rhythm.ended(check, &PASS, 0);
            let interval = rhythm.interval(check, pace);
            rhythm.rested(pace);
            interval
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn jitter_shortens_by_no_more_than_it_says_and_spreads_evenly() {
        let check = Check::of(CheckKind::Ping);
        let [shortest, longest] = [check.interval.mul_f64(0.9), check.interval];
        let intervals = &intervals(&check, Pace::Normal, 1001)[1..];
        assert!(intervals.iter().all(|interval| (shortest..=longest).contains(interval)));
        let mean = intervals.iter().sum::<Duration>() / 1000;
        assert!(mean.abs_diff(check.interval.mul_f64(0.95)) < Duration::from_millis(5), "{mean:?}");
    }

    #[test]
    fn the_first_rests_of_many_services_are_spread_over_the_interval() {
        let check = Check::of(CheckKind::Ping);
        let first = |seed| {
            let mut rhythm = Rhythm::with_seed(seed);
            rhythm.ended(&check, &PASS, 0);
            // The pace of the start, until the core has heard of the pass.
            assert_eq!(rhythm.interval(&check, Pace::Fast), check.fast_interval);
            rhythm.interval(&check, Pace::Normal)
        };
        let mut tenths = [0_u32; 10];
        for seed in 0..1000 {
            tenths[usize::try_from(first(seed).as_millis() / 100).unwrap().min(9)] += 1;
        }
        assert!(tenths.iter().all(|services| (60..140).contains(services)), "{tenths:?}");
    }

    #[test]
    fn without_jitter_and_while_in_doubt_every_interval_is_as_written() {
        let steady = Check { jitter_percent: 0, ..Check::of(CheckKind::Ping) };
        assert!(intervals(&steady, Pace::Normal, 10).iter().all(|interval| *interval == steady.interval));
        let check = Check::of(CheckKind::Ping);
        assert!(intervals(&check, Pace::Fast, 10).iter().all(|interval| *interval == check.fast_interval));
    }

    #[test]
    fn while_down_for_long_the_interval_is_another() {
        let check =
            Check { jitter_percent: 0, down_interval: Duration::from_secs(9), ..Check::of(CheckKind::Ping) };
        assert!(intervals(&check, Pace::Down, 3).iter().all(|interval| *interval == check.down_interval));
    }

    /// A crashed server refuses at once: three attempts within milliseconds, and no more of them.
    #[test]
    fn a_refusal_is_confirmed_quickly_until_the_check_fails() {
        let check = Check::of(CheckKind::Ping);
        let mut rhythm = Rhythm::with_seed(1);
        for (failures, expected) in [(1, 1), (2, 1), (3, 50)] {
            rhythm.ended(&check, &refused(), failures);
            assert_eq!(rhythm.interval(&check, Pace::Fast), Duration::from_millis(expected), "{failures}");
        }
        // More than three were asked for, to wait.
        let stubborn = Check { fall: 10, ..check.clone() };
        for (failures, expected) in [(1, 1), (2, 1), (3, 50), (9, 50)] {
            rhythm.ended(&stubborn, &refused(), failures);
            assert_eq!(rhythm.interval(&stubborn, Pace::Fast), Duration::from_millis(expected), "{failures}");
        }
        let mut borne = check.clone();
        borne.detect.refused_tolerance = Duration::from_secs(5);
        rhythm.ended(&borne, &refused(), 1);
        assert_eq!(rhythm.interval(&borne, Pace::Fast), borne.fast_interval);
    }
}
