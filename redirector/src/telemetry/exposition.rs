//! Metrics as text, in the format of OpenMetrics 1.0, which Prometheus reads since 2.5.

use std::{
    collections::BTreeMap,
    fmt::Error,
    time::{Duration, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet, text,
    },
    registry::Registry,
};

use super::{
    events::Events,
    families::{self as f, Family, PREFIX},
    metrics::{Metrics, seconds_of},
    process::Process,
};
use crate::{
    control::status::{
        BreakerStatus, MemberState, MemberStatus, ReadinessStatus, ServiceState, ServiceStatus, Status,
        VitalsStatus,
    },
    decide::CheckState,
};

/// What goes with the text as its media type.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What was looked up for a scrape.
#[derive(Clone, Debug)]
pub struct Sample {
    /// States, flows and packets.
    pub status: Status,
    /// What the checks of each service say.
    pub checks: Vec<CheckSample>,
    /// Entries of the flow table, whoever's.
    pub flows: u64,
    /// Entries that there is room for.
    pub max_flows: u64,
    /// How long counting the flows took.
    pub counted_in: Duration,
}

/// What one check says of the addresses of one member.
#[derive(Clone, Debug)]
pub struct CheckSample {
    /// Name of the service.
    pub service: String,
    /// Name of the member.
    pub member: String,
    /// Name of the check.
    pub check: String,
    /// Of each address.
    pub states: Vec<CheckState>,
}

/// Everything, as text.
#[must_use]
pub fn encode(sample: Sample, metrics: &Metrics, events: &Events) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    let lost = events.lost();
    registry.register_collector(Box::new(Exposition {
        sample,
        metrics: metrics.clone(),
        lost,
        process: Process::now(),
    }));
    let mut text = String::new();
    // Into memory: it cannot fail.
    let _never: Result<(), Error> = text::encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Exposition {
    sample: Sample,
    metrics: Metrics,
    lost: [(&'static str, u64); 2],
    process: Process,
}

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), Error> {
        let mut out = Out(encoder);
        out.gauge(&f::BUILD_INFO, [([("version", env!("CARGO_PKG_VERSION"))], 1)])?;
        self.services(&mut out)?;
        self.members(&mut out)?;
        self.vitals(&mut out)?;
        self.breakers(&mut out)?;
        self.checks(&mut out)?;
        self.switches(&mut out)?;
        self.flows(&mut out)?;
        self.agent(&mut out)
    }
}

impl Exposition {
    fn services(&self, out: &mut Out<'_>) -> Result<(), Error> {
        use ServiceState::{Degraded, Down, Held, Ok};

        let services = &self.sample.status.services;
        let states = services.iter().flat_map(|service| {
            [Ok, Degraded, Down, Held].map(|state| {
                let labels = [("service", service.name.clone()), ("state", state.to_string())];
                (labels, u64::from(service.state == state))
            })
        });
        out.gauge(&f::SERVICE_STATE, states)?;
        let epochs = services.iter().map(|service| ([("service", &*service.name)], service.epoch.into()));
        out.gauge(&f::SERVICE_EPOCH, epochs)?;
        let each = |value: fn(&ServiceStatus) -> bool| {
            services.iter().map(move |service| ([("service", &*service.name)], u64::from(value(service))))
        };
        out.gauge(&f::SERVICE_PAUSED, each(|service| service.paused))?;
        out.gauge(&f::SERVICE_PINNED, each(|service| service.pinned.is_some()))
    }

    fn members(&self, out: &mut Out<'_>) -> Result<(), Error> {
        use MemberState::{Down, Drained, Unknown, Up};

        let members = || {
            let services = self.sample.status.services.iter();
            services.flat_map(|service| service.members.iter().map(move |member| (service, member)))
        };
        let each = |value: fn(&ServiceStatus, &MemberStatus) -> u64| {
            members().map(move |(service, member)| {
                ([("service", &*service.name), ("member", &*member.name)], value(service, member))
            })
        };
        out.gauge(
            &f::MEMBER_ACTIVE,
            each(|service, member| u64::from(service.active.as_ref() == Some(&member.name))),
        )?;
        let states = members().flat_map(|(service, member)| {
            [Unknown, Up, Down, Drained].map(|state| {
                let labels = [
                    ("service", service.name.clone()),
                    ("member", member.name.clone()),
                    ("state", state.to_string()),
                ];
                (labels, u64::from(member.state == state))
            })
        });
        out.gauge(&f::MEMBER_STATE, states)?;
        out.gauge(&f::MEMBER_WEIGHT, each(|_, member| member.weight.into()))?;
        out.gauge(&f::MEMBER_ELIGIBLE, each(|_, member| u64::from(member.eligible)))?;
        out.gauge(&f::MEMBER_FLOWS, each(|_, member| member.flows))?;
        // Where nobody knows there is no series.
        let known = |value: fn(&ReadinessStatus) -> Option<u64>| {
            members().filter_map(move |(service, member)| {
                Some(([("service", &*service.name), ("member", &*member.name)], value(&member.readiness)?))
            })
        };
        out.gauge(&f::MEMBER_READY, known(|readiness| readiness.ready.map(u64::from)))?;
        out.gauge(&f::MEMBER_CERTIFICATE_EXPIRY, known(expiry))
    }

    fn vitals(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let members = || {
            let services = self.sample.status.services.iter();
            services.flat_map(|service| service.members.iter().map(move |member| (service, member)))
        };
        let times = |time: fn(&VitalsStatus) -> Option<f64>| {
            members().filter_map(move |(service, member)| {
                let seconds = time(&member.vitals)? / 1e3;
                Some(([("service", &*service.name), ("member", &*member.name)], seconds))
            })
        };
        out.real_gauge(&f::MEMBER_RTT, times(|vitals| vitals.rtt_ms))?;
        out.real_gauge(&f::MEMBER_RTT_MIN, times(|vitals| vitals.rtt_min_ms))?;
        out.real_gauge(&f::MEMBER_CONNECT, times(|vitals| vitals.connect_ms))?;
        let counts = |label: &'static str, counts: fn(&VitalsStatus) -> &BTreeMap<String, u64>| {
            members().flat_map(move |(service, member)| {
                counts(&member.vitals).iter().map(move |(name, count)| {
                    ([("service", &*service.name), ("member", &*member.name), (label, &**name)], *count)
                })
            })
        };
        out.counter(&f::MEMBER_SIGNALS, counts("signal", |vitals| &vitals.signals))?;
        out.counter(&f::MEMBER_ERROR_REPLIES, counts("error", |vitals| &vitals.error_replies))
    }

    fn breakers(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let breakers = || {
            let services = self.sample.status.services.iter();
            let members = services
                .flat_map(|service| service.members.iter().map(move |member| (&*service.name, member)));
            members.filter_map(|(service, member)| Some((service, &*member.name, member.breaker.as_ref()?)))
        };
        let states = breakers().flat_map(|(service, member, breaker)| {
            ["closed", "open", "half_open"].map(|state| {
                let labels = [("service", service), ("member", member), ("state", state)];
                (labels, u64::from(breaker.state == state))
            })
        });
        out.gauge(&f::MEMBER_BREAKER_STATE, states)?;
        let each = |value: fn(&BreakerStatus) -> u64| {
            breakers().map(move |(service, member, breaker)| {
                ([("service", service), ("member", member)], value(breaker))
            })
        };
        out.gauge(&f::MEMBER_BREAKER_ATTEMPTS, each(|breaker| breaker.attempts))?;
        out.gauge(&f::MEMBER_BREAKER_FAILURES, each(|breaker| breaker.failures))?;
        let ratios = breakers().filter_map(|(service, member, breaker)| {
            Some(([("service", service), ("member", member)], breaker.failure_rate? / 100.0))
        });
        out.real_gauge(&f::MEMBER_BREAKER_FAILURE_RATIO, ratios)
    }

    fn checks(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let words = [
            (CheckState::Unknown, "unknown"),
            (CheckState::Passing, "passing"),
            (CheckState::Failing, "failing"),
        ];
        let states = self.sample.checks.iter().flat_map(|check| {
            words.map(|(state, word)| {
                let labels = [
                    ("service", &*check.service),
                    ("member", &*check.member),
                    ("check", &*check.check),
                    ("state", word),
                ];
                (labels, check.states.iter().filter(|of| **of == state).count() as u64)
            })
        });
        out.gauge(&f::CHECK_STATE, states)?;
        let live = &self.metrics.0;
        out.live(&f::PROBES, &live.probes)?;
        out.live(&f::PROBE_SECONDS, &live.probe_seconds)?;
        out.live(&f::CHECK_LAST_SECONDS, &live.last_seconds)?;
        out.live(&f::CHECK_LAST_AT, &live.last_at)?;
        out.live(&f::CHECK_FAILURES, &live.failures)
    }

    fn switches(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let live = &self.metrics.0;
        out.live(&f::SWITCHES, &live.switches)?;
        out.live(&f::DETECTION_SECONDS, &live.detection)?;
        out.live(&f::SWITCH_STORE_SECONDS, &live.store)?;
        out.live(&f::SWITCH_RESET_SECONDS, &live.reset)?;
        out.live(&f::FLOWS_RESET, &live.flows_reset)
    }

    fn flows(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let Sample { status, flows, max_flows, counted_in, .. } = &self.sample;
        let outcomes = || status.outcomes.iter().map(|(outcome, count)| ([("outcome", &**outcome)], count));
        out.counter(&f::PACKETS, outcomes().map(|(labels, count)| (labels, count.packets)))?;
        out.counter(&f::PACKET_BYTES, outcomes().map(|(labels, count)| (labels, count.bytes)))?;
        out.one(&f::FLOWS, *flows)?;
        out.one(&f::FLOWS_MAX, *max_flows)?;
        let collected = status.collected.iter().map(|(reason, flows)| ([("reason", &**reason)], *flows));
        out.counter(&f::FLOWS_COLLECTED, collected)?;
        out.one_real(&f::FLOW_COUNT_SECONDS, counted_in.as_secs_f64())
    }

    fn agent(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let live = &self.metrics.0;
        out.live(&f::EVENTS, &live.events)?;
        out.counter(&f::EVENTS_LOST, self.lost.map(|(at, events)| ([("at", at)], events)))?;
        out.live(&f::LOOP_LATE_SECONDS, &live.late)?;
        let cpu = out.family(&f::CPU_SECONDS)?;
        counted(cpu, &self.process.cpu_seconds)?;
        out.one(&f::MEMORY, self.process.memory_bytes)?;
        out.one(&f::OPEN_FDS, self.process.open_fds)?;
        out.one_real(&f::START_TIME, seconds_of(live.started))
    }
}

/// Since 1970.
fn expiry(readiness: &ReadinessStatus) -> Option<u64> {
    let time = humantime::parse_rfc3339(readiness.certificate_expires.as_deref()?).ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// Where metrics are written to, a family at a time.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn family(&mut self, family: &'static Family) -> Result<MetricEncoder<'_>, Error> {
        self.0.encode_descriptor(family.name, family.help, None, family.kind)
    }

    fn gauge<L: EncodeLabelSet>(
        &mut self,
        family: &'static Family,
        series: impl IntoIterator<Item = (L, u64)>,
    ) -> Result<(), Error> {
        let mut encoder = self.family(family)?;
        series
            .into_iter()
            .try_for_each(|(labels, value)| encoder.encode_family(&labels)?.encode_gauge(&value))
    }

    fn real_gauge<L: EncodeLabelSet>(
        &mut self,
        family: &'static Family,
        series: impl IntoIterator<Item = (L, f64)>,
    ) -> Result<(), Error> {
        let mut encoder = self.family(family)?;
        series
            .into_iter()
            .try_for_each(|(labels, value)| encoder.encode_family(&labels)?.encode_gauge(&value))
    }

    fn counter<L: EncodeLabelSet>(
        &mut self,
        family: &'static Family,
        series: impl IntoIterator<Item = (L, u64)>,
    ) -> Result<(), Error> {
        let mut encoder = self.family(family)?;
        series.into_iter().try_for_each(|(labels, value)| counted(encoder.encode_family(&labels)?, &value))
    }

    /// One gauge without labels.
    fn one(&mut self, family: &'static Family, value: u64) -> Result<(), Error> {
        self.family(family)?.encode_gauge(&value)
    }

    fn one_real(&mut self, family: &'static Family, value: f64) -> Result<(), Error> {
        self.family(family)?.encode_gauge(&value)
    }

    /// What is counted as it happens.
    fn live(&mut self, family: &'static Family, metric: &impl EncodeMetric) -> Result<(), Error> {
        metric.encode(self.family(family)?)
    }
}

fn counted(mut encoder: MetricEncoder<'_>, value: &impl EncodeCounterValue) -> Result<(), Error> {
    encoder.encode_counter::<NoLabelSet, _, u64>(value, None)
}

#[cfg(test)]
mod tests;
