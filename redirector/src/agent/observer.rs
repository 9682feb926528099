//! Watches the agent at work: turns what it does into events and measures it. It decides nothing.
//!
//! **Detection time** is what a failover can be measured by from within: from the *start* of the first failed probe of the run of
//! failures that made the check fail, to the switch. The outage itself began before that probe, and after the last one that
//! passed. The run is that of the check whose report brought the switch about. A switch that a deadline brought about is
//! measured from the newest run of the member that is left; one that had to wait for a member to go to is not measured.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    datapath::Swept,
    decide::Switch,
    model::{
        Borne, CheckId, Config, FlowPolicy, MemberId, MemberState, ProbeOutcome, Service, ServiceId, Signal,
        SwitchKind, Verdict,
    },
    probe::Report,
    telemetry::{CheckMetrics, Event, Events, Metrics, Words},
};

/// A report that comes to the loop so late is worth a word: probes are late too then.
const LATE: Duration = Duration::from_millis(250);

/// But not more often than this.
const LATE_AGAIN: Duration = Duration::from_secs(10);

type Key = (ServiceId, MemberId, SocketAddr, CheckId);

/// Events and metrics of a running agent.
#[derive(Debug)]
pub(super) struct Observer {
    pub(super) events: Events,
    pub(super) metrics: Metrics,
    checks: HashMap<Key, Watched>,
    /// What is carried out now.
    cause: Cause,
    /// Switches whose flows are being reset, and when new connections went elsewhere.
    resetting: Vec<Instant>,
    /// When the loop was called late for the last time, and how often it was since without a word.
    told_late: Option<(Instant, u64)>,
}

/// What made the agent do what it does now.
#[derive(Clone, Copy, Debug)]
struct Cause {
    /// When it came.
    at: Instant,
    /// The probe whose report it was.
    report: Option<Key>,
}

/// One check of one address.
#[derive(Debug)]
struct Watched {
    metrics: CheckMetrics,
    /// Start of the first failed probe since one passed.
    failing_since: Option<Instant>,
    failures: u32,
    /// End of the newest probe that passed.
    passed_at: Option<Instant>,
    inconclusive: bool,
}

/// How long a failover took to be decided.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Detected {
    /// From the start of the first failed probe.
    within: Duration,
    /// From the end of the last one that passed.
    at_most: Option<Duration>,
}

impl Observer {
    pub(super) fn new(events: Events, metrics: Metrics) -> Self {
        let cause = Cause { at: Instant::now(), report: None };
        Self { events, metrics, checks: HashMap::new(), cause, resetting: Vec::new(), told_late: None }
    }

    /// Something else than a report is to be dealt with now.
    pub(super) fn takes_up(&mut self) {
        self.cause = Cause { at: Instant::now(), report: None };
    }

    /// A probe's report is to be dealt with now.
    pub(super) fn takes_up_report(&mut self, config: &Config, report: &Report) {
        let now = Instant::now();
        let key = (report.service, report.member, report.address, report.check);
        self.cause = Cause { at: now, report: Some(key) };
        let late = now.saturating_duration_since(report.at);
        self.metrics.late(late);
        if late >= LATE {
            self.late(late);
        }

        let service = &config.services[report.service.0];
        let member = &service.members[report.member.0];
        let (check, address) = (&member.checks[report.check.0].name, report.address);
        let watched = self.checks.entry(key).or_insert_with(|| Watched {
            metrics: self.metrics.check(&service.name, &member.name, check),
            failing_since: None,
            failures: 0,
            passed_at: None,
            inconclusive: false,
        });
        let verdict = watched.count(report);
        let is_inconclusive = verdict == Verdict::Inconclusive;
        if is_inconclusive == watched.inconclusive {
            return;
        }
        watched.inconclusive = is_inconclusive;
        let (service, member, check) = (service.name.clone(), member.name.clone(), check.clone());
        let (outcome, reason) = (Words::from(&report.outcome).outcome.to_owned(), report.outcome.to_string());
        self.events.emit(if is_inconclusive {
            Event::CheckInconclusive { service, member, address, check, outcome, reason }
        } else {
            Event::CheckConclusive { service, member, address, check, reason }
        });
    }

    /// These are the addresses of a member now.
    pub(super) fn addresses(&mut self, service: ServiceId, member: MemberId, addresses: &[SocketAddr]) {
        self.checks.retain(|(of_service, of_member, address, _), _| {
            (*of_service, *of_member) != (service, member) || addresses.contains(address)
        });
    }

    /// Services, members or checks are others now, and so may be what their ids mean.
    pub(super) fn forget(&mut self) {
        self.checks.clear();
        self.metrics.forget_checks();
    }

    /// A switch was made; new connections go elsewhere since `stored`.
    pub(super) fn switched(&mut self, id: ServiceId, service: &Service, switch: &Switch, stored: Instant) {
        self.metrics.stored(stored.saturating_duration_since(self.cause.at));
        if switch.policy == FlowPolicy::Reset && switch.over.is_zero() {
            self.resetting.push(stored);
        }
        let detected = match (switch.kind, switch.from) {
            (SwitchKind::Failover, Some(left)) => self.detected(id, left, stored),
            _ => None,
        };
        if let Some(detected) = detected {
            self.metrics.detected(detected.within);
        }
        let name = |member: Option<MemberId>| member.map(|member| service.members[member.0].name.clone());
        self.events.emit(Event::Switch {
            service: service.name.clone(),
            from: name(switch.from),
            to: name(switch.to),
            kind: switch.kind,
            reason: switch.reason.clone(),
            epoch: switch.epoch.0,
            policy: switch.policy,
            reset_over_ms: (!switch.over.is_zero()).then(|| milliseconds(switch.over)),
            trouble: switch.borne.map(|borne| borne.trouble),
            borne_ms: switch.borne.map(|borne| milliseconds(borne.lasted)),
            detected_in_ms: detected.map(|detected| milliseconds(detected.within)),
            outage_at_most_ms: detected.and_then(|detected| detected.at_most).map(milliseconds),
        });
        if let (FlowPolicy::Drain, Some(member)) = (switch.policy, name(switch.from)) {
            self.events.emit(Event::DrainBegan {
                service: service.name.clone(),
                member,
                epoch: switch.epoch.0,
                lasts_ms: u64::try_from(service.drain_timeout.as_millis()).unwrap_or(u64::MAX),
            });
        }
    }

    /// A member's state is another one.
    pub(super) fn member_changed(
        &mut self,
        service: String,
        member: String,
        state: MemberState,
        reason: String,
        borne: Option<Borne>,
    ) {
        self.events.emit(Event::MemberChanged {
            service,
            member,
            state,
            reason,
            trouble: borne.map(|borne| borne.trouble),
            borne_ms: borne.map(|borne| milliseconds(borne.lasted)),
            signal: borne.and_then(|borne| borne.signal).map(|kind| kind.to_string()),
            signalled_ms: borne.and_then(|borne| borne.signalled).map(milliseconds),
        });
    }

    /// Traffic has shown something.
    pub(super) fn signal(&mut self, service: String, member: String, signal: &Signal, looked: bool) {
        let (kind, count, began_ms) = (signal.kind.to_string(), signal.count, milliseconds(signal.ago));
        self.events.emit(Event::Signal { service, member, signal: kind, count, began_ms, looked });
    }

    fn detected(&self, service: ServiceId, left: MemberId, now: Instant) -> Option<Detected> {
        let watched = match self.cause.report {
            Some(key) if (key.0, key.1) == (service, left) => self.checks.get(&key)?,
            // Somebody to go to has come up: the member was down already.
            Some(_) => return None,
            None => {
                let of_member = self.checks.iter().filter(|(key, _)| (key.0, key.1) == (service, left));
                of_member.map(|(_, watched)| watched).max_by_key(|watched| watched.failing_since)?
            }
        };
        Some(Detected {
            within: now.saturating_duration_since(watched.failing_since?),
            at_most: watched.passed_at.map(|passed| now.saturating_duration_since(passed)),
        })
    }

    /// A pass over the flow table has reset what was stale. `names` finds service, member and newest epoch.
    pub(super) fn swept(&mut self, swept: &Swept, names: impl Fn(u16) -> Option<(String, String, u32)>) {
        // A switch that came after the pass had begun waits for the next one.
        self.resetting.retain(|stored| {
            let is_over = *stored <= swept.requested;
            if is_over {
                self.metrics.reset(swept.ended.saturating_duration_since(*stored));
            }
            !is_over
        });
        for (member, counts) in &swept.members {
            let names = names(*member);
            let (service, member, epoch) = match names {
                Some((service, member, epoch)) => (Some(service), Some(member), Some(epoch)),
                None => (None, None, None),
            };
            self.events.emit(Event::FlowsReset {
                service,
                member,
                epoch,
                reset: counts.reset,
                waiting: counts.waiting,
                after_ms: milliseconds(swept.ended.saturating_duration_since(swept.requested)),
            });
        }
    }

    /// The loop came round late: nobody looked at the members in that time.
    pub(super) fn late(&mut self, late: Duration) {
        let now = Instant::now();
        match &mut self.told_late {
            Some((told, more)) if now.saturating_duration_since(*told) < LATE_AGAIN => *more += 1,
            before => {
                let more = before.map_or(0, |(_, more)| more);
                *before = Some((now, 0));
                self.events.emit(Event::Late { late_ms: milliseconds(late), more });
            }
        }
    }
}

impl Watched {
    /// Takes a probe's report into account. What it says about the member is returned.
    fn count(&mut self, report: &Report) -> Verdict {
        let verdict = report.outcome.verdict();
        match verdict {
            Verdict::Pass => {
                (self.failing_since, self.failures) = (None, 0);
                self.passed_at = Some(report.at);
            }
            Verdict::Fail => {
                self.failing_since.get_or_insert(report.started);
                self.failures = self.failures.saturating_add(1);
            }
            Verdict::Inconclusive => {}
        }
        let took = match report.outcome {
            ProbeOutcome::Passed { latency } => latency,
            ProbeOutcome::Failed(_) | ProbeOutcome::Inconclusive(_) => {
                report.at.saturating_duration_since(report.started)
            }
        };
        self.metrics.probed(Words::from(&report.outcome), took, self.failures);
        verdict
    }
}

/// With microseconds, and not more digits than that.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
#[path = "observer/tests.rs"]
mod tests;
