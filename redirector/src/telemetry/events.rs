//! [`Events::emit`]: one call gives the line of the log, the entry in the ring of recent events, and the stream.
//!
//! # Invariants
//!
//! * Nobody who reads makes the one who emits wait. A follower that is too slow loses events, and is told how many.
//! * Between the ring and the stream no event is missing and none comes twice.
//! * The sequence grows by one with each event, over restarts too.

use std::{
    collections::VecDeque,
    path::Path,
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use tokio::sync::broadcast;

use super::{
    event::{Event, Record},
    kept::{self, Writer},
    log,
    metrics::Metrics,
};

/// How many recent events are at hand, and on disk.
pub const RECENT: usize = 4096;

/// How many events a follower may be behind.
pub const BEHIND: usize = 1024;

const FILE: &str = "events.jsonl";

/// An event as it is kept and sent.
#[derive(Debug)]
pub struct Line {
    sequence: u64,
    at: SystemTime,
    service: Option<String>,
    text: String,
}

impl Line {
    fn new(record: &Record, at: SystemTime) -> Self {
        // A structure of strings and numbers: it cannot fail.
        let text = serde_json::to_string(record).unwrap_or_default();
        Self { sequence: record.sequence, at, service: record.event.service().map(str::to_owned), text }
    }

    /// Reads what an agent wrote, perhaps of another release: what it says besides does not matter here.
    pub(super) fn parse(text: String) -> Option<Self> {
        #[derive(Deserialize)]
        struct Head {
            sequence: u64,
            at: String,
            service: Option<String>,
        }

        let Head { sequence, at, service } = serde_json::from_str(&text).ok()?;
        let at = humantime::parse_rfc3339(&at).ok()?;
        Some(Self { sequence, at, service, text })
    }

    /// A document of JSON without an end of line.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its place in the order of events.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// From when on events are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// So long ago.
    Ago(Duration),
    /// A time of day.
    At(SystemTime),
}

impl Since {
    /// The moment.
    #[must_use]
    pub fn moment(self) -> SystemTime {
        match self {
            Self::Ago(time) => SystemTime::now().checked_sub(time).unwrap_or(SystemTime::UNIX_EPOCH),
            Self::At(moment) => moment,
        }
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = humantime::parse_duration(text) {
            return Ok(Self::Ago(time));
        }
        humantime::parse_rfc3339_weak(text).map(Self::At).map_err(|_| {
            format!("{text:?} is no time; write how long ago, like 10m, or a moment in UTC, like 2026-11-21T20:00:00Z")
        })
    }
}

/// Which events are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Not those before it. `None`: all that are kept; when following, only what comes.
    pub since: Option<Since>,
    /// Only those about this service.
    pub service: Option<String>,
    /// What comes from now on too, without an end.
    pub follow: bool,
}

impl Selection {
    /// As the query of a URL, without `?`.
    #[must_use]
    pub fn to_query(&self) -> String {
        let since = self.since.map(|since| match since {
            Since::Ago(time) => format!("{}ms", time.as_millis()),
            Since::At(moment) => humantime::format_rfc3339_millis(moment).to_string(),
        });
        let follow = self.follow.then(|| "true".to_owned());
        let pairs = [("since", since), ("service", self.service.clone()), ("follow", follow)];
        let pairs = pairs.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?)));
        pairs.collect::<Vec<_>>().join("&")
    }

    fn has(&self, line: &Line) -> bool {
        self.service.is_none() || line.service == self.service
    }
}

/// Where events go. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Events(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ring: Mutex<Ring>,
    stream: broadcast::Sender<Arc<Line>>,
    writer: Writer,
    /// Events that followers did not get.
    lost: Arc<AtomicU64>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Ring {
    recent: VecDeque<Arc<Line>>,
    /// Of the next event.
    sequence: u64,
}

impl Events {
    /// Goes on where an earlier agent stopped. Reads a file: to be called before the agent's loop begins.
    #[must_use]
    pub fn open(state_dir: &Path, metrics: Metrics) -> Self {
        let file = state_dir.join(FILE);
        let recent: VecDeque<_> = kept::read(&file, RECENT).into();
        let newest = recent.iter().map(|line| line.sequence).max().unwrap_or(0);
        Self(Arc::new(Shared {
            ring: Mutex::new(Ring { recent, sequence: newest + 1 }),
            stream: broadcast::Sender::new(BEHIND),
            writer: Writer::new(&file, RECENT),
            lost: Arc::default(),
            metrics,
        }))
    }

    /// Something happened now.
    pub fn emit(&self, event: Event) {
        log::write(&event);
        self.0.metrics.happened(&event);
        let at = SystemTime::now();
        // All three in one order.
        let mut ring = self.ring();
        let line = Arc::new(Line::new(&Record::new(ring.sequence, at, event), at));
        ring.sequence += 1;
        if ring.recent.len() == RECENT {
            ring.recent.pop_front();
        }
        ring.recent.push_back(Arc::clone(&line));
        self.0.writer.write(&line);
        // Nobody may follow.
        let _followers = self.0.stream.send(line);
    }

    /// The recent events that are meant, and what comes.
    #[must_use]
    pub fn subscribe(&self, selection: Selection) -> Subscription {
        let ring = self.ring();
        // With the ring held: what is not in it comes.
        let live = selection.follow.then(|| self.0.stream.subscribe());
        let since = match selection.since {
            Some(since) => Some(since.moment()),
            None => (!selection.follow).then_some(SystemTime::UNIX_EPOCH),
        };
        let meant = |line: &&Arc<Line>| since.is_some_and(|since| line.at >= since) && selection.has(line);
        let recent = ring.recent.iter().filter(meant).cloned().collect();
        Subscription { recent, live, late: None, lost: Arc::clone(&self.0.lost), selection }
    }

    /// Whether a recent event is about this service.
    #[must_use]
    pub fn know(&self, service: &str) -> bool {
        self.ring().recent.iter().any(|line| line.service.as_deref() == Some(service))
    }

    /// Events that followers did not get because they were too slow, and that are not on disk because it was.
    #[must_use]
    pub fn lost(&self) -> [(&'static str, u64); 2] {
        [("follower", self.0.lost.load(Ordering::Relaxed)), ("disk", self.0.writer.lost())]
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Whoever panicked while holding it left a whole ring behind.
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Events on their way to a reader.
#[derive(Debug)]
pub struct Subscription {
    recent: VecDeque<Arc<Line>>,
    /// `None`: nothing comes after the recent ones.
    live: Option<broadcast::Receiver<Arc<Line>>>,
    /// Comes after the word of what was lost before it.
    late: Option<Arc<Line>>,
    lost: Arc<AtomicU64>,
    selection: Selection,
}

impl Subscription {
    /// All recent events that are left, without waiting.
    pub fn take_recent(&mut self) -> VecDeque<Arc<Line>> {
        std::mem::take(&mut self.recent)
    }

    /// The next event; waits for it when following. `None`: there will be none. Nothing is lost when the wait is dropped.
    pub async fn next(&mut self) -> Option<Arc<Line>> {
        if let Some(line) = self.recent.pop_front() {
            return Some(line);
        }
        loop {
            let line = match self.late.take() {
                Some(line) => line,
                None => self.receive().await?,
            };
            // Word of what was lost is for everybody.
            if self.late.is_some() || self.selection.has(&line) {
                return Some(line);
            }
        }
    }

    /// What comes next in the stream; word of what was lost comes in its place.
    async fn receive(&mut self) -> Option<Arc<Line>> {
        let live = self.live.as_mut()?;
        let mut events = match live.recv().await {
            Ok(line) => return Some(line),
            Err(broadcast::error::RecvError::Closed) => return None,
            Err(broadcast::error::RecvError::Lagged(events)) => events,
        };
        // There is at least one: it is what pushed the others out.
        let next = loop {
            match live.try_recv() {
                Ok(next) => break next,
                // More came meanwhile.
                Err(broadcast::error::TryRecvError::Lagged(more)) => events += more,
                Err(_) => return None,
            }
        };
        self.lost.fetch_add(events, Ordering::Relaxed);
        let record = Record::new(next.sequence - 1, next.at, Event::Lost { events });
        let lost = Arc::new(Line::new(&record, next.at));
        self.late = Some(next);
        Some(lost)
    }
}

#[cfg(test)]
#[path = "events/tests.rs"]
mod tests;
