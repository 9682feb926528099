//! What clients saw, and when: the evidence of every test on failover.

use std::{
    fmt, io,
    sync::Arc,
    time::{Duration, Instant},
};

/// Why a client was not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection.
    Connect(io::ErrorKind),
    /// The connection ended under a command, or while waiting.
    Command(io::ErrorKind),
    /// Redis answered something else than a value.
    Reply(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(kind) => write!(f, "connect: {kind}"),
            Self::Command(kind) => write!(f, "command: {kind}"),
            Self::Reply(text) => write!(f, "reply: {text}"),
        }
    }
}

/// What happened to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A new connection is open.
    Connected,
    /// A command was answered by the member of this name.
    Served(Arc<str>),
    /// It was not.
    Failed(Failure),
}

/// One line of a timeline.
#[derive(Clone, Debug)]
pub struct Event {
    /// When the client knew.
    pub at: Instant,
    /// Which worker, from 0.
    pub worker: usize,
    /// What it saw.
    pub what: What,
}

/// All that a group of workers saw.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// When the first worker was started.
    pub start: Instant,
    /// When this copy was taken.
    pub taken: Instant,
    /// Number of workers.
    pub workers: usize,
    /// In order of time for each worker.
    pub events: Vec<Event>,
}

impl Timeline {
    /// From `since` until the last worker had its first answer of `member`; `None`: not all have one.
    #[must_use]
    pub fn all_served_by(&self, member: &str, since: Instant) -> Option<Duration> {
        first_answers(&self.events, self.workers, member, since)
            .into_iter()
            .collect::<Option<Vec<_>>>()?
            .into_iter()
            .max()
            .map(|last| last.saturating_duration_since(since))
    }

    /// Failures at or after `since`.
    #[must_use]
    pub fn failures_since(&self, since: Instant) -> Vec<&Event> {
        self.events
            .iter()
            .filter(|event| event.at >= since && matches!(event.what, What::Failed(_)))
            .collect()
    }

    /// Failures of workers that `member` had served already after `since`.
    #[must_use]
    pub fn failures_after(&self, member: &str, since: Instant) -> Vec<&Event> {
        let served = first_answers(&self.events, self.workers, member, since);
        let failed = |event: &&Event| matches!(event.what, What::Failed(_));
        let later = |event: &&Event| served[event.worker].is_some_and(|first| event.at > first);
        self.events.iter().filter(failed).filter(later).collect()
    }

    /// How often workers connected.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.events.iter().filter(|event| event.what == What::Connected).count()
    }

    /// Answers.
    #[must_use]
    pub fn answers(&self) -> usize {
        self.events.iter().filter(|event| matches!(event.what, What::Served(_))).count()
    }

    /// The longest time that any worker went without an answer, counted from its last one before `since`, to the
    /// time when the timeline was taken.
    #[must_use]
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let mut last = vec![self.start; self.workers];
        let mut longest = Duration::ZERO;
        let ends = (0..self.workers).map(|worker| (worker, self.taken));
        let answers = self.events.iter().filter(|event| matches!(event.what, What::Served(_)));
        for (worker, at) in answers.map(|event| (event.worker, event.at)).chain(ends) {
            if at >= since {
                longest = longest.max(at.saturating_duration_since(last[worker]));
            }
            last[worker] = at;
        }
        longest
    }
}

/// The first answer of `member` to each worker, at or after `since`.
pub(crate) fn first_answers(
    events: &[Event],
    workers: usize,
    member: &str,
    since: Instant,
) -> Vec<Option<Instant>> {
    let mut first = vec![None; workers];
    // From the end, and no further back than asked for: timelines are long and waits poll.
    for event in events.iter().rev().take_while(|event| event.at >= since) {
        if matches!(&event.what, What::Served(by) if by.as_ref() == member) {
            first[event.worker] = Some(event.at);
        }
    }
    first
}

/// Equal neighbours are one line; at most the first few workers and lines are shown.
impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WORKERS: usize = 4;
        const LINES: usize = 40;
        writeln!(f, "--- timeline of {} workers (seconds since start) ---", self.workers)?;
        for worker in 0..self.workers.min(WORKERS) {
            let mut lines: Vec<(Instant, Instant, &What, usize)> = Vec::new();
            for event in self.events.iter().filter(|event| event.worker == worker) {
                match lines.last_mut() {
                    Some((_, to, what, count)) if **what == event.what => {
                        (*to, *count) = (event.at, *count + 1);
                    }
                    _ => lines.push((event.at, event.at, &event.what, 1)),
                }
            }
            let second = |at: Instant| at.saturating_duration_since(self.start).as_secs_f64();
            for (from, to, what, count) in lines.iter().skip(lines.len().saturating_sub(LINES)) {
                let what = match what {
                    What::Connected => "connected".to_owned(),
                    What::Served(by) => format!("served by {by}"),
                    What::Failed(failure) => failure.to_string(),
                };
                writeln!(
                    f,
                    "worker {worker}: {:8.4} to {:8.4}  {what} ({count})",
                    second(*from),
                    second(*to)
                )?;
            }
        }
        writeln!(f, "taken at {:.4}", self.taken.saturating_duration_since(self.start).as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    /// Two workers; m1 fails at 100 ms. Worker 1 is slower, and is reset once more at m2.
    fn outage() -> (Timeline, Instant) {
        let start = Instant::now();
        let served = |by: &str| What::Served(by.into());
        let reset = || What::Failed(Failure::Command(io::ErrorKind::ConnectionReset));
        let events = [
            (0, 0, What::Connected),
            (1, 1, What::Connected),
            (90, 0, served("m1")),
            (95, 1, served("m1")),
            (130, 0, reset()),
            (131, 0, What::Connected),
            (132, 0, served("m2")),
            (140, 1, reset()),
            (150, 1, served("m2")),
            (160, 1, reset()),
            (170, 0, served("m2")),
            (171, 1, served("m2")),
        ];
        let event = |(at, worker, what)| Event { at: start + ms(at), worker, what };
        let events = events.map(event).to_vec();
        (Timeline { start, taken: start + ms(180), workers: 2, events }, start + ms(100))
    }

    #[test]
    fn the_slowest_worker_counts() {
        let (timeline, fault) = outage();
        assert_eq!(timeline.all_served_by("m2", fault), Some(ms(50)));
        assert_eq!(timeline.all_served_by("m1", timeline.start), Some(ms(95)));
        assert_eq!(timeline.all_served_by("m1", fault), None);
        assert_eq!(timeline.all_served_by("m2", fault + ms(71)), None, "worker 0 has no answer since then");
    }

    #[test]
    fn failures_are_told_apart_by_what_came_before() {
        let (timeline, fault) = outage();
        assert_eq!(timeline.failures_since(fault).len(), 3);
        assert_eq!(timeline.failures_since(timeline.start + ms(141)).len(), 1);
        let later = timeline.failures_after("m2", fault);
        assert_eq!(later.iter().map(|event| event.worker).collect::<Vec<_>>(), [1]);
        assert_eq!((timeline.connections(), timeline.answers()), (3, 6));
    }

    #[test]
    fn a_gap_is_counted_from_the_last_answer_and_may_be_open() {
        let (mut timeline, fault) = outage();
        assert_eq!(timeline.longest_gap(fault), ms(55), "worker 1: 95 to 150");
        timeline.taken = timeline.start + ms(1000);
        assert_eq!(timeline.longest_gap(fault), ms(830), "worker 0: nothing since 170");
        assert_eq!(timeline.longest_gap(timeline.start + ms(1001)), Duration::ZERO);
    }
}
