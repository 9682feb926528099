//! `[[service]]` and everything below it.

use std::{net::SocketAddr, time::Duration};

use super::{
    address,
    error::Complaint,
    login::{self, Credentials},
    read::{Section, Written},
};
use crate::model::{
    Check, CheckKind, Endpoint, Failback, FailbackMode, FlowPolicy, Initial, Member, OnAllDown, Service,
};

/// The shortest time between two probes, and for one: below it a host only probes.
const SHORTEST_PROBE: Duration = Duration::from_millis(1);

/// A service and where its parts stand, for the comparisons that [`super::conflict`] makes.
pub(super) struct Draft<'a> {
    pub(super) section: Section<'a>,
    pub(super) name: Option<Written<String>>,
    pub(super) vips: Vec<Written<SocketAddr>>,
    pub(super) members: Vec<MemberDraft<'a>>,
    /// Complete only if the document has no fault.
    pub(super) service: Service,
}

/// A member and where its parts stand.
pub(super) struct MemberDraft<'a> {
    pub(super) section: Section<'a>,
    pub(super) name: Option<Written<String>>,
    pub(super) endpoint: Option<Written<Endpoint>>,
}

pub(super) fn read(section: Section<'_>) -> Draft<'_> {
    let name = section.required("name", address::name);
    if !section.has("vips") {
        section.missing("vips");
    }
    let vips = section.texts("vips", address::vip).unwrap_or_default();
    let credentials = login::read(&section.sub("redis"));
    let (members, drafts) =
        section.list("member").into_iter().map(|section| member(section, &credentials)).unzip();
    if !section.has("member") {
        section.missing("member");
    }
    // The profile that exists has the defaults below.
    section.word("profile", &[("balanced", ())], &["fast", "patient"]);
    let service = Service {
        name: name.as_ref().map_or_else(String::new, |name| name.value.clone()),
        vips: vips.iter().map(|vip| vip.value).collect(),
        on_failover: flow_policy(&section, "on_failover").unwrap_or(FlowPolicy::Reset),
        on_failback: flow_policy(&section, "on_failback").unwrap_or(FlowPolicy::Drain),
        drain_timeout: time(&section, "drain_timeout", Duration::from_millis(1), Duration::from_secs(30)),
        on_all_down: section
            .word("on_all_down", &[("stay", OnAllDown::Stay), ("refuse", OnAllDown::Refuse)], &[])
            .unwrap_or(OnAllDown::Stay),
        initial: section
            .word(
                "initial",
                &[("any", Initial::Any), ("majority", Initial::Majority), ("all", Initial::All)],
                &[],
            )
            .unwrap_or(Initial::Any),
        initial_timeout: time(&section, "initial_timeout", Duration::from_millis(1), Duration::from_secs(5)),
        failback: failback(&section.sub("failback")),
        checks: checks(&section),
        members,
    };
    Draft { section, name, vips, members: drafts, service }
}

fn failback(section: &Section<'_>) -> Failback {
    let modes =
        [("auto", FailbackMode::Auto), ("manual", FailbackMode::Manual), ("never", FailbackMode::Never)];
    Failback {
        mode: section.word("mode", &modes, &[]).unwrap_or(FailbackMode::Auto),
        healthy_for: time(section, "healthy_for", Duration::ZERO, Duration::from_secs(60)),
        hold_down: time(section, "hold_down", Duration::ZERO, Duration::from_secs(30)),
    }
}

/// Without any, one ping with the defaults.
fn checks(service: &Section<'_>) -> Vec<Check> {
    let written: Vec<Check> = service.list("check").iter().map(check).collect();
    if written.is_empty() { vec![DEFAULT_CHECK] } else { written }
}

const DEFAULT_CHECK: Check = Check {
    kind: CheckKind::Ping,
    interval: Duration::from_secs(1),
    fast_interval: Duration::from_millis(50),
    timeout: Duration::from_secs(1),
    fall: 3,
    rise: 2,
};

fn check(section: &Section<'_>) -> Check {
    let later = ["echo", "set_get", "keyspace", "lag", "heartbeat", "http", "exec"];
    let kinds = [CheckKind::Tcp, CheckKind::Ping].map(|kind| (kind.name(), kind));
    let interval = section.time("interval", SHORTEST_PROBE);
    Check {
        kind: section.word("kind", &kinds, &later).unwrap_or(DEFAULT_CHECK.kind),
        fast_interval: fast_interval(section, interval),
        interval: interval.map_or(DEFAULT_CHECK.interval, |interval| interval.value),
        timeout: time(section, "timeout", SHORTEST_PROBE, DEFAULT_CHECK.timeout),
        fall: section.number("fall", 1..=1000).unwrap_or(DEFAULT_CHECK.fall),
        rise: section.number("rise", 1..=1000).unwrap_or(DEFAULT_CHECK.rise),
    }
}

/// Never longer than `interval`: when it is not written, a short interval shortens it.
fn fast_interval(section: &Section<'_>, interval: Option<Written<Duration>>) -> Duration {
    let limit = interval.map_or(DEFAULT_CHECK.interval, |interval| interval.value);
    let Some(fast) = section.time("fast_interval", SHORTEST_PROBE) else {
        return DEFAULT_CHECK.fast_interval.min(limit);
    };
    // An interval that is written but could not be read is no measure.
    let limit_is_known = interval.is_some() || !section.has("interval");
    if limit_is_known && fast.value > limit {
        let [shown, limit] = [fast.value, limit].map(humantime::format_duration);
        let cause = format!("`fast_interval` ({shown}) is longer than `interval` ({limit})");
        section.fault(fast.at, Complaint::new(cause, "shorten it, or remove it"));
    }
    fast.value
}

fn member<'a>(section: Section<'a>, service: &Credentials) -> (Member, MemberDraft<'a>) {
    let name = section.required("name", address::name);
    let endpoint = section.required("endpoint", address::endpoint);
    let redis = section.sub("redis");
    let member = Member {
        name: name.as_ref().map_or_else(String::new, |name| name.value.clone()),
        endpoint: endpoint
            .as_ref()
            .map_or_else(|| Endpoint { host: String::new(), port: 0 }, |endpoint| endpoint.value.clone()),
        weight: section.number("weight", 1..=u32::MAX).unwrap_or(100),
        login: login::read(&redis).within(service, &redis),
    };
    (member, MemberDraft { section, name, endpoint })
}

fn flow_policy(section: &Section<'_>, key: &str) -> Option<FlowPolicy> {
    let policies = [("reset", FlowPolicy::Reset), ("drain", FlowPolicy::Drain), ("keep", FlowPolicy::Keep)];
    section.word(key, &policies, &[])
}

fn time(section: &Section<'_>, key: &str, shortest: Duration, default: Duration) -> Duration {
    section.time(key, shortest).map_or(default, |time| time.value)
}
