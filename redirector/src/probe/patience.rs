//! How long a probe waits before it gives up.
//!
//! A check that passes is in a hurry to notice trouble: its probes are cut short, so that `fall` of them fit into the
//! tolerance ([`Check::limits`]). But a member may be far away, or take its time with TLS and logins; a limit below what it
//! always needs would take it down for nothing, and keep it down. So the limits follow the quickest of the newest passes,
//! and where nothing passed yet, or the check fails already, a probe has its whole time-out. So it has in checks that do not
//! watch the member's own address: they would notice nothing sooner.
//!
//! The first pass after trouble shows what the end of the trouble took (a frozen server that thaws answers after all). If
//! it were believed, the next trouble would be noticed late. A slow one is therefore measured twice: its connection is not
//! kept, so that the next probe shows what it takes to open one when nothing is wrong.

use std::time::Duration;

use crate::model::{Check, FailureKind, Limits, ProbeOutcome};

/// Passes that are remembered.
const REMEMBERED: usize = 8;

/// What one prober has learnt.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Of probes over a connection that was open already.
    over_kept: Newest,
    /// Of probes that opened theirs.
    over_new: Newest,
}

impl Patience {
    /// For the next probe. `failures`: how many rounds have failed in a row.
    pub(super) fn limits(&self, check: &Check, failures: u32) -> Limits {
        let hurries = failures < check.fall && check.kind.sees(FailureKind::Silence);
        let (kept, new) = (self.over_kept.shortest(), self.over_new.shortest());
        match kept.or(new) {
            Some(round_trip) if hurries => check.limits(round_trip, new.unwrap_or(round_trip)),
            _ => check.patient_limits(),
        }
    }

    /// A probe has ended. `kept`: it had a connection to begin with. Returns whether the connection that it leaves should not be
    /// kept.
    pub(super) fn learn(&mut self, check: &Check, failures: u32, outcome: &ProbeOutcome, kept: bool) -> bool {
        let ProbeOutcome::Passed { latency } = outcome else {
            return false;
        };
        let was_patient = self.limits(check, failures).silence.is_none();
        if failures >= check.fall {
            // The way to the member may be another one now.
            *self = Self::default();
        }
        let newest = if kept { &mut self.over_kept } else { &mut self.over_new };
        newest.push(*latency);
        let answer = |whole| check.limits(Duration::ZERO, whole).answer;
        was_patient && !kept && answer(*latency) > answer(Duration::ZERO)
    }
}

/// The newest durations.
#[derive(Debug, Default)]
struct Newest {
    durations: [Option<Duration>; REMEMBERED],
    next: usize,
}

impl Newest {
    fn push(&mut self, duration: Duration) {
        self.durations[self.next] = Some(duration);
        self.next = (self.next + 1) % REMEMBERED;
    }

    fn shortest(&self) -> Option<Duration> {
        self.durations.iter().flatten().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CheckKind;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn pass(latency: u64) -> ProbeOutcome {
        ProbeOutcome::Passed { latency: ms(latency) }
    }

    #[test]
    fn probes_are_cut_short_between_the_first_pass_and_the_last_failure_that_matters() {
        let check = Check::of(CheckKind::Ping);
        let mut patience = Patience::default();
        let (patient, hasty) = (check.patient_limits(), Limits { silence: Some(ms(75)), answer: ms(334) });
        assert_eq!(patience.limits(&check, 0), patient);
        assert!(!patience.learn(&check, 0, &pass(1), false));
        for failures in 0..3 {
            assert_eq!(patience.limits(&check, failures), hasty);
        }
        assert_eq!(patience.limits(&check, 3), patient);
    }

    /// A limit of 75 ms for the handshake would take a member on another continent down, and keep it down.
    #[test]
    fn a_member_that_is_far_away_is_given_more_time() {
        let check = Check::of(CheckKind::Ping);
        let mut patience = Patience::default();
        assert!(patience.learn(&check, 0, &pass(900), false), "perhaps it was only slow this once");
        assert!(!patience.learn(&check, 0, &pass(880), false), "it was not");
        for _ in 0..100 {
            patience.learn(&check, 0, &pass(220), true);
        }
        assert_eq!(patience.limits(&check, 0), Limits { silence: Some(ms(440)), answer: ms(1000) });
        // Another way is found, and it is a long one.
        patience.learn(&check, 3, &pass(990), false);
        assert_eq!(patience.limits(&check, 0), Limits { silence: Some(ms(500)), answer: ms(1000) });
    }

    /// The answer of a server that thaws is no measure of what it takes when it is well.
    #[test]
    fn the_end_of_trouble_is_not_what_the_next_trouble_is_measured_by() {
        let check = Check::of(CheckKind::Ping);
        let mut patience = Patience::default();
        patience.learn(&check, 0, &pass(1), false);
        assert!(patience.learn(&check, 3, &pass(800), false), "measure it once more");
        assert!(!patience.learn(&check, 0, &pass(1), false));
        patience.learn(&check, 0, &pass(300), true);
        patience.learn(&check, 0, &pass(1), true);
        assert_eq!(patience.limits(&check, 0), Limits { silence: Some(ms(75)), answer: ms(334) });
    }
}
