//! One verdict out of several probes, known as soon as those that are left cannot change it.

use crate::model::{Policy, ProbeOutcome, Verdict};

/// The probes of one round so far. Inconclusive ones leave the set: two passes and one that says nothing are two of two.
#[derive(Debug)]
pub(super) struct Vote {
    policy: Policy,
    left: u32,
    passes: Votes,
    failures: Votes,
    inconclusive: Votes,
}

/// Those with one verdict.
#[derive(Debug, Default)]
struct Votes {
    count: u32,
    newest: Option<ProbeOutcome>,
}

impl Vote {
    /// Of `probes` probes, none of which has ended.
    pub(super) fn new(policy: Policy, probes: u32) -> Self {
        let [passes, failures, inconclusive] = Default::default();
        Self { policy, left: probes, passes, failures, inconclusive }
    }

    /// One of them has ended. Returns the outcome of the round, once its verdict is certain: the newest one with that verdict.
    pub(super) fn count(&mut self, outcome: ProbeOutcome) -> Option<ProbeOutcome> {
        self.left = self.left.saturating_sub(1);
        let votes = match outcome.verdict() {
            Verdict::Pass => &mut self.passes,
            Verdict::Fail => &mut self.failures,
            Verdict::Inconclusive => &mut self.inconclusive,
        };
        votes.count += 1;
        votes.newest = Some(outcome);
        let (left, passes, failures) = (self.left, self.passes.count, self.failures.count);
        let (passed, failed) = match self.policy {
            Policy::All => (left == 0 && failures == 0, failures > 0),
            Policy::Majority => (passes > failures + left, failures >= passes + left),
            Policy::Any => (passes > 0, left == 0 && passes == 0),
        };
        if passed && passes > 0 {
            self.passes.newest.take()
        } else if failed && failures > 0 {
            self.failures.newest.take()
        } else if left == 0 {
            self.inconclusive.newest.take()
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{Cause, Failure, Phase};

    fn outcome(letter: char) -> ProbeOutcome {
        let failure = |cause| Failure { phase: Phase::Command, cause };
        match letter {
            'p' => ProbeOutcome::Passed { latency: Duration::ZERO },
            'f' => ProbeOutcome::Failed(failure(Cause::Refused)),
            _ => ProbeOutcome::Inconclusive(failure(Cause::Local("-".to_owned()))),
        }
    }

    /// The verdict, and after how many probes.
    fn verdict(policy: Policy, outcomes: &str) -> (Verdict, usize) {
        let mut vote = Vote::new(policy, u32::try_from(outcomes.len()).unwrap());
        let mut counted = outcomes.chars().enumerate();
        let decided = counted.find_map(|(at, letter)| Some((vote.count(outcome(letter))?.verdict(), at + 1)));
        decided.expect("the last probe decides")
    }

    #[test]
    fn a_round_ends_as_soon_as_it_is_decided() {
        use Verdict::{Fail, Inconclusive, Pass};
        for (policy, outcomes, expected) in [
            (Policy::All, "ppp", (Pass, 3)),
            (Policy::All, "pfp", (Fail, 2)),
            (Policy::All, "p-p", (Pass, 3)),
            (Policy::All, "---", (Inconclusive, 3)),
            (Policy::Majority, "pp-", (Pass, 2)),
            (Policy::Majority, "ffp", (Fail, 2)),
            (Policy::Majority, "pfp", (Pass, 3)),
            (Policy::Majority, "pfpf", (Fail, 4)),
            (Policy::Majority, "ff--", (Fail, 2)),
            (Policy::Majority, "-p-", (Pass, 3)),
            (Policy::Majority, "-f-", (Fail, 2)),
            (Policy::Any, "ffp", (Pass, 3)),
            (Policy::Any, "pff", (Pass, 1)),
            (Policy::Any, "fff", (Fail, 3)),
            (Policy::Any, "f--", (Fail, 3)),
        ] {
            assert_eq!(verdict(policy, outcomes), expected, "{policy:?} {outcomes}");
        }
    }

    proptest! {
        /// Whoever waits for all probes, and then counts, comes to the same verdict.
        #[test]
        fn stopping_early_changes_nothing(outcomes in "[pf-]{1,8}") {
            let count = |letter| outcomes.chars().filter(|other| *other == letter).count();
            let (passes, failures) = (count('p'), count('f'));
            for policy in [Policy::All, Policy::Majority, Policy::Any] {
                let passed = match policy {
                    Policy::All => failures == 0,
                    Policy::Majority => passes > failures,
                    Policy::Any => passes > 0,
                };
                let expected = match (passes + failures, passed) {
                    (0, _) => Verdict::Inconclusive,
                    (_, true) => Verdict::Pass,
                    (_, false) => Verdict::Fail,
                };
                prop_assert_eq!(verdict(policy, &outcomes).0, expected);
            }
        }
    }
}
