//! How long a probe waits before it gives up.
//!
//! A check that passes is in a hurry to notice trouble: its probes are cut short, so that `fall` of them fit into the
//! tolerance ([`Check::limits`]). But a member may be far away, or take its time with TLS and logins; a limit below what it
//! always needs would take it down for nothing, and keep it down. So the limits follow the quickest of the newest passes,
//! and where nothing passed yet, or the check fails already, a probe has its whole time-out. So it has in checks that do not
//! watch the member's own address: they would notice nothing sooner. A connection may end at any time, so nobody is in a
//! hurry before it is known what it takes to open all that there is to open: until then the connections are not kept.
//!
//! The first pass after trouble shows what the end of the trouble took (a frozen server that thaws answers after all). If
//! it were believed, the next trouble would be noticed late. A slow one is therefore measured twice: its connection is not
//! kept, so that the next probe shows what it takes to open one when nothing is wrong.

use std::time::Duration;

use crate::model::{Check, FailureKind, Limits, ProbeOutcome};

/// Passes that are remembered.
const REMEMBERED: usize = 8;

/// What a probe has to begin with, of the connections that it asks over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Open {
    /// All of them.
    All,
    /// Some: what such a probe takes is neither one measure nor the other.
    Part,
    /// None, nor anything else that it could have learnt.
    Nothing,
}

/// What one prober has learnt.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Of probes over connections that were open already.
    over_kept: Newest,
    /// Of probes that opened theirs.
    over_new: Newest,
}

impl Patience {
    /// For the next probe. `failures`: how many rounds have failed in a row.
    pub(super) fn limits(&self, check: &Check, failures: u32) -> Limits {
        let hurries = failures < check.fall && check.kind.sees(FailureKind::Silence);
        match self.over_new.shortest() {
            Some(whole) if hurries => check.limits(self.over_kept.shortest().unwrap_or(whole), whole),
            _ => check.patient_limits(),
        }
    }

    /// A probe has ended that began with `open`. Returns whether the connections that it leaves should not be kept.
    pub(super) fn learn(&mut self, check: &Check, failures: u32, outcome: &ProbeOutcome, open: Open) -> bool {
        let ProbeOutcome::Passed { latency } = outcome else {
            return false;
        };
        let was_patient = self.limits(check, failures).silence.is_none();
        if failures >= check.fall {
            // The way to the member may be another one now.
            *self = Self::default();
        }
        match open {
            Open::All => self.over_kept.push(*latency),
            Open::Part => {}
            Open::Nothing => self.over_new.push(*latency),
        }
        let answer = |whole| check.limits(Duration::ZERO, whole).answer;
        let is_slow = open == Open::Nothing && answer(*latency) > answer(Duration::ZERO);
        self.over_new.shortest().is_none() || was_patient && is_slow
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
        assert!(!patience.learn(&check, 0, &pass(1), Open::Nothing));
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
        assert!(patience.learn(&check, 0, &pass(900), Open::Nothing), "perhaps it was only slow this once");
        assert!(!patience.learn(&check, 0, &pass(880), Open::Nothing), "it was not");
        for _ in 0..100 {
            patience.learn(&check, 0, &pass(220), Open::All);
        }
        assert_eq!(patience.limits(&check, 0), Limits { silence: Some(ms(440)), answer: ms(1000) });
        // Another way is found, and it is a long one.
        patience.learn(&check, 3, &pass(990), Open::Nothing);
        assert_eq!(patience.limits(&check, 0), Limits { silence: Some(ms(500)), answer: ms(1000) });
    }

    /// The answer of a server that thaws is no measure of what it takes when it is well.
    #[test]
    fn the_end_of_trouble_is_not_what_the_next_trouble_is_measured_by() {
        let check = Check::of(CheckKind::Ping);
        let mut patience = Patience::default();
        patience.learn(&check, 0, &pass(1), Open::Nothing);
        assert!(patience.learn(&check, 3, &pass(800), Open::Nothing), "measure it once more");
        assert!(!patience.learn(&check, 0, &pass(1), Open::Nothing));
        patience.learn(&check, 0, &pass(300), Open::All);
        patience.learn(&check, 0, &pass(1), Open::All);
        assert_eq!(patience.limits(&check, 0), Limits { silence: Some(ms(75)), answer: ms(334) });
    }

    /// The limit follows what it takes to open everything, and nobody is in a hurry before that is known.
    #[test]
    fn a_connection_that_ends_may_be_opened_again() {
        let check = Check::of(CheckKind::Ping);
        let mut patience = Patience::default();
        patience.learn(&check, 0, &pass(450), Open::Nothing);
        for _ in 0..100 {
            patience.learn(&check, 0, &pass(90), Open::All);
            patience.learn(&check, 0, &pass(200), Open::Part);
        }
        let limits = Limits { silence: Some(ms(180)), answer: ms(900) };
        assert_eq!(patience.limits(&check, 0), limits);
        // It failed in the meantime, and the connection outlasted that (`BUSY`).
        assert!(patience.learn(&check, 3, &pass(90), Open::All), "open one again");
        assert_eq!(patience.limits(&check, 0), check.patient_limits());
        patience.learn(&check, 0, &pass(450), Open::Nothing);
        assert_eq!(patience.limits(&check, 0), limits);
    }
}
