//! What is counted as it happens. What can be looked up instead (states, flows, packets) is looked up for a scrape:
//! [`super::exposition`].
//!
//! Counting costs the agent's loop some atomic additions and uncontended locks; a scrape holds none of them for long.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, SystemTime},
};

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};

use super::{event::Event, words::Words};

/// Labels with their values.
pub(super) type Labels<const N: usize> = [(&'static str, String); N];

type Seconds = Gauge<f64, AtomicU64>;

/// All counters. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Metrics(pub(super) Arc<Live>);

/// What is counted.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) probes: Family<Labels<6>, Counter>,
    pub(super) probe_seconds: Family<Labels<2>, Histogram, fn() -> Histogram>,
    pub(super) last_seconds: Family<Labels<3>, Seconds>,
    pub(super) last_at: Family<Labels<3>, Seconds>,
    pub(super) failures: Family<Labels<3>, Gauge>,
    pub(super) switches: Family<Labels<2>, Counter>,
    pub(super) detection: Histogram,
    pub(super) store: Histogram,
    pub(super) reset: Histogram,
    pub(super) flows_reset: Family<Labels<1>, Counter>,
    pub(super) events: Family<Labels<1>, Counter>,
    pub(super) late: Histogram,
    /// When counting began.
    pub(super) started: SystemTime,
}

impl Default for Metrics {
    fn default() -> Self {
        Self(Arc::new(Live {
            probes: Family::default(),
            probe_seconds: Family::new_with_constructor(probe_seconds),
            last_seconds: Family::default(),
            last_at: Family::default(),
            failures: Family::default(),
            switches: Family::default(),
            detection: Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]),
            store: Histogram::new([5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 1e-2, 0.1]),
            reset: Histogram::new([2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0]),
            flows_reset: Family::default(),
            events: Family::default(),
            late: Histogram::new([1e-4, 5e-4, 1e-3, 5e-3, 0.01, 0.05, 0.1, 0.25, 1.0]),
            started: SystemTime::now(),
        }))
    }
}

/// Members of the same site answer within a part of a millisecond, those at the other side of the earth within 300.
fn probe_seconds() -> Histogram {
    Histogram::new([5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0])
}

impl Metrics {
    /// What is counted of one check of one member. Looks its series up: to be kept.
    #[must_use]
    pub fn check(&self, service: &str, member: &str, check: &str) -> CheckMetrics {
        let labels = labels([("service", service), ("member", member), ("check", check)]);
        let of_member = [labels[0].clone(), labels[1].clone()];
        CheckMetrics {
            probes: Vec::new(),
            seconds: self.0.probe_seconds.get_or_create_owned(&of_member),
            last_seconds: self.0.last_seconds.get_or_create_owned(&labels),
            last_at: self.0.last_at.get_or_create_owned(&labels),
            failures: self.0.failures.get_or_create_owned(&labels),
            live: Arc::clone(&self.0),
            labels,
        }
    }

    /// The figures of checks are forgotten, but for what only grows: members may be gone.
    pub fn forget_checks(&self) {
        self.0.last_seconds.clear();
        self.0.last_at.clear();
        self.0.failures.clear();
        self.0.probe_seconds.clear();
    }

    /// From the start of the first failed probe to the switch.
    pub fn detected(&self, time: Duration) {
        self.0.detection.observe(time.as_secs_f64());
    }

    /// From the decision until new connections went elsewhere.
    pub fn stored(&self, time: Duration) {
        self.0.store.observe(time.as_secs_f64());
    }

    /// From then until the sockets of this host were destroyed.
    pub fn reset(&self, time: Duration) {
        self.0.reset.observe(time.as_secs_f64());
    }

    /// From the end of a probe until the loop had its report.
    pub fn late(&self, time: Duration) {
        self.0.late.observe(time.as_secs_f64());
    }

    /// Counts an event.
    pub(super) fn happened(&self, event: &Event) {
        self.0.events.get_or_create(&labels([("event", event.name())])).inc();
        match event {
            Event::Switch { service, kind, .. } => {
                let labels = labels([("service", service), ("kind", &kind.to_string())]);
                self.0.switches.get_or_create(&labels).inc();
            }
            Event::FlowsReset { service, reset, .. } => {
                let service = service.as_deref().unwrap_or_default();
                self.0.flows_reset.get_or_create(&labels([("service", service)])).inc_by(*reset);
            }
            _ => {}
        }
    }
}

/// What is counted of one check of one member, all addresses together.
#[derive(Debug)]
pub struct CheckMetrics {
    /// Those outcomes that were seen.
    probes: Vec<(Words, Counter)>,
    seconds: Histogram,
    last_seconds: Seconds,
    last_at: Seconds,
    failures: Gauge,
    live: Arc<Live>,
    labels: Labels<3>,
}

impl CheckMetrics {
    /// A probe has ended. `in_a_row` are the failed ones up to now.
    pub fn probed(&mut self, words: Words, took: Duration, in_a_row: u32) {
        let seconds = took.as_secs_f64();
        if words.verdict == "pass" {
            self.seconds.observe(seconds);
        }
        self.last_seconds.set(seconds);
        self.last_at.set(seconds_of(SystemTime::now()));
        self.failures.set(in_a_row.into());
        if let Some((_, counter)) = self.probes.iter().find(|(known, _)| *known == words) {
            counter.inc();
            return;
        }
        let [service, member, check] = self.labels.clone();
        let [verdict, outcome, phase] =
            labels([("verdict", words.verdict), ("outcome", words.outcome), ("phase", words.phase)]);
        let labels = [service, member, check, verdict, outcome, phase];
        let counter = self.live.probes.get_or_create_owned(&labels);
        counter.inc();
        self.probes.push((words, counter));
    }
}

/// Seconds since 1970.
pub(super) fn seconds_of(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn labels<const N: usize>(labels: [(&'static str, &str); N]) -> Labels<N> {
    labels.map(|(name, value)| (name, value.to_owned()))
}
