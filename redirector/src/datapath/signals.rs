//! What the kernel programs report on the traffic of members, out of their ring buffer.
//!
//! The ring buffer is the queue: the programs report each signal of a member at most once in 10 ms and count the rest, and what
//! finds no room stays counted in the member's pulse. So a reader that is late loses no more than the details.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, RingBuf};
use redirector_common::{
    flow::since,
    signal::{ErrorReply, Report, Signal},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::clock::Clock;
use crate::model::{self, RedisErrorKind, SignalKind};

/// Reports that are read together, at most: then others have their turn.
const BATCH: usize = 1024;

/// A signal, and the kernel's id of the member that it is about.
pub type OfMember = (u16, model::Signal);

/// Reads what the programs report.
pub struct Signals {
    reports: AsyncFd<RingBuf<MapData>>,
    clock: Clock,
}

impl Signals {
    /// Takes the map. What was reported while no agent read is thrown away: it is about then.
    pub(super) fn new(map: Map, clock: Clock) -> Result<Self> {
        let mut ring = RingBuf::try_from(map).context("the map of signals is no ring buffer")?;
        while ring.next().is_some() {}
        // SAFETY: the ring buffer owns its descriptor, gives no other one, and lives as long as the registration.
        let reports = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .context("cannot wait for what the kernel programs report")?;
        Ok(Self { reports, clock })
    }

    /// Waits until there is something, and reads it: one signal of each kind and member. Nothing is lost when the wait is dropped.
    ///
    /// # Errors
    /// When the kernel's clock cannot be read, or its ring buffer not be waited for.
    pub async fn next(&mut self) -> Result<Vec<OfMember>> {
        let mut ready = self.reports.readable_mut().await?;
        let ring = ready.get_inner_mut();
        let mut gathered = Gathered::default();
        let mut left = BATCH;
        let empty = loop {
            let Some(bytes) = (left > 0).then(|| ring.next()) else { break false };
            let Some(bytes) = bytes else { break true };
            left -= 1;
            gathered.extend(read(&bytes));
        };
        // With more to read the next call returns at once.
        if empty {
            ready.clear_ready();
        }
        Ok(gathered.told(self.clock.now()?, |ticks| self.clock.duration(ticks)))
    }
}

/// A report as it lies in the ring buffer; `None`: it has another size than this version's.
fn read(bytes: &[u8]) -> Option<Report> {
    if bytes.len() != size_of::<Report>() {
        return None;
    }
    // SAFETY: it is as long as a report, which is made of integers only; it may lie anywhere.
    Some(unsafe { bytes.as_ptr().cast::<Report>().read_unaligned() })
}

/// Signals of one kind and member as one.
#[derive(Debug, Default)]
struct Gathered {
    /// In the order in which they came first.
    order: Vec<(u16, SignalKind)>,
    reports: HashMap<(u16, SignalKind), (u32, u32)>,
}

impl Extend<Report> for Gathered {
    fn extend<I: IntoIterator<Item = Report>>(&mut self, reports: I) {
        for report in reports {
            let Some(kind) = kind_of(&report) else { continue };
            let key = (report.member, kind);
            let entry = self.reports.entry(key).or_insert_with(|| {
                self.order.push(key);
                (report.since, 0)
            });
            entry.1 = entry.1.saturating_add(report.count);
        }
    }
}

impl Gathered {
    fn told(&self, now: u32, duration: impl Fn(u32) -> Duration) -> Vec<OfMember> {
        let told = |key: &(u16, SignalKind)| {
            let (began, count) = self.reports[key];
            let ago = duration(since(began, now));
            (key.0, model::Signal { kind: key.1, ago, count: count.max(1) })
        };
        self.order.iter().map(told).collect()
    }
}

/// The same in the words of the agent; `None`: this version does not know it.
fn kind_of(report: &Report) -> Option<SignalKind> {
    Some(match report.kind()? {
        Signal::Refused => SignalKind::Refused,
        Signal::Unanswered => SignalKind::Unanswered,
        Signal::Reset => SignalKind::Reset,
        Signal::Closed => SignalKind::Closed,
        Signal::Retransmitted => SignalKind::Retransmitted,
        Signal::Silent => SignalKind::Silent,
        Signal::Unreachable => SignalKind::Unreachable,
        Signal::ErrorReply => SignalKind::ErrorReply(error_of(report.error_reply()?)),
    })
}

/// The same error as a probe meets it.
fn error_of(error: ErrorReply) -> RedisErrorKind {
    match error {
        ErrorReply::Loading => RedisErrorKind::Loading,
        ErrorReply::MasterDown => RedisErrorKind::MasterDown,
        ErrorReply::ClusterDown => RedisErrorKind::ClusterDown,
        ErrorReply::ReadOnly => RedisErrorKind::ReadOnly,
        ErrorReply::Busy => RedisErrorKind::Busy,
        ErrorReply::Misconf => RedisErrorKind::Misconf,
        ErrorReply::OutOfMemory => RedisErrorKind::OutOfMemory,
        ErrorReply::TryAgain => RedisErrorKind::TryAgain,
        ErrorReply::NoReplicas => RedisErrorKind::NoReplicas,
        ErrorReply::MaxClients => RedisErrorKind::MaxClients,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(member: u16, signal: Signal, since: u32, count: u32) -> Report {
        Report { member, signal: signal as u32, since, at: since, count, ..Report::default() }
    }

    #[test]
    fn reports_of_one_kind_and_member_are_one_signal_with_the_oldest_beginning() {
        let mut gathered = Gathered::default();
        gathered.extend([
            report(3, Signal::Silent, 90, 1),
            report(2, Signal::Silent, 95, 1),
            report(3, Signal::Silent, 97, 4),
            report(3, Signal::Refused, 99, 0),
        ]);
        gathered.extend([
            Report { signal: 99, ..Report::default() },
            Report { error: 99, ..report(3, Signal::ErrorReply, 99, 1) },
            Report { error: ErrorReply::Busy as u32, ..report(3, Signal::ErrorReply, 99, 1) },
        ]);
        let told = gathered.told(100, |ticks| Duration::from_millis(ticks.into()));
        let signal = |kind, ago, count| model::Signal { kind, ago: Duration::from_millis(ago), count };
        assert_eq!(
            told,
            [
                (3, signal(SignalKind::Silent, 10, 5)),
                (2, signal(SignalKind::Silent, 5, 1)),
                (3, signal(SignalKind::Refused, 1, 1)),
                (3, signal(SignalKind::ErrorReply(RedisErrorKind::Busy), 1, 1)),
            ]
        );
    }

    #[test]
    fn what_is_no_report_is_left_alone() {
        assert_eq!(read(&[0; 63]), None);
        assert_eq!(read(&[0; 64]), Some(Report::default()));
    }

    /// The names that metrics have for what the kernel counts are those that events have.
    #[test]
    fn both_sides_have_one_word_for_a_signal() {
        for signal in Signal::ALL {
            let kind = kind_of(&report(0, signal, 0, 1)).unwrap();
            assert_eq!(kind.name(), signal.name());
        }
    }
}
