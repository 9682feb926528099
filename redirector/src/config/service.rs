//! `[[service]]` and everything below it.

use std::{net::SocketAddr, time::Duration};

use super::{
    address, application, check, detect, hook,
    login::{self, Credentials},
    read::{Section, Written},
    rest, traffic,
    witness::{self, Of},
};
use crate::model::{
    Check, Endpoint, Failback, FailbackMode, FlowPolicy, Initial, Member, OnAllDown, Profile, Service,
};

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
    let profile = section.word("profile", &Profile::WORDS, &[]).unwrap_or_default();
    let defaults = profile.defaults();
    let checks = check::read(&section, profile, detect::read(&section.sub("detect"), profile));
    let service_name = name.as_ref().map_or("", |name| &name.value);
    let (members, drafts): (Vec<_>, _) = section
        .list("member")
        .into_iter()
        .map(|section| member(section, service_name, &credentials, &checks))
        .unzip();
    if !section.has("member") {
        section.missing("member");
    }
    let signals = traffic::signals(&section);
    let service = Service {
        name: name.as_ref().map_or_else(String::new, |name| name.value.clone()),
        vips: vips.iter().map(|vip| vip.value).collect(),
        on_failover: flow_policy(&section, "on_failover").unwrap_or(FlowPolicy::Reset),
        on_failback: flow_policy(&section, "on_failback").unwrap_or(FlowPolicy::Drain),
        drain_timeout: time(&section, "drain_timeout", Duration::from_millis(1), defaults.drain_timeout),
        reset_over: time(&section, "reset_over", Duration::ZERO, Duration::ZERO),
        signals,
        breaker: traffic::breaker(&section, signals),
        limit: traffic::limit(&section),
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
        initial_timeout: time(
            &section,
            "initial_timeout",
            Duration::from_millis(1),
            defaults.initial_timeout,
        ),
        failback: failback(&section.sub("failback"), profile),
        profile,
        combine: detect::combine(&section, &checks),
        checks,
        hooks: hook::read(&section),
        application: application::read(&section.sub("application"), &members),
        members,
    };
    Draft { section, name, vips, members: drafts, service }
}

fn failback(section: &Section<'_>, profile: Profile) -> Failback {
    let defaults = profile.defaults();
    let modes =
        [("auto", FailbackMode::Auto), ("manual", FailbackMode::Manual), ("never", FailbackMode::Never)];
    Failback {
        mode: section.word("mode", &modes, &[]).unwrap_or(FailbackMode::Auto),
        healthy_for: time(section, "healthy_for", Duration::ZERO, defaults.healthy_for),
        hold_down: time(section, "hold_down", Duration::ZERO, defaults.hold_down),
        flap_half_life: time(section, "flap_half_life", Duration::ZERO, Duration::from_secs(600)),
    }
}

fn member<'a>(
    section: Section<'a>,
    service: &str,
    credentials: &Credentials,
    checks: &[Check],
) -> (Member, MemberDraft<'a>) {
    let name = section.required("name", address::name);
    let endpoint = section.required("endpoint", address::endpoint);
    let redis = section.sub("redis");
    let of = Of {
        service,
        member: name.as_ref().map_or("", |name| &name.value),
        endpoint: endpoint.as_ref(),
        rest: rest::read(&section),
    };
    let member = Member {
        name: of.member.to_owned(),
        endpoint: endpoint
            .as_ref()
            .map_or_else(|| Endpoint { host: String::new(), port: 0 }, |endpoint| endpoint.value.clone()),
        weight: section.number("weight", 1..=u32::MAX).unwrap_or(100),
        access: login::read(&redis).within(credentials, &redis, endpoint.as_ref()),
        checks: witness::bind(check::of_member(&section, checks), &section, &of),
        rest: of.rest,
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
