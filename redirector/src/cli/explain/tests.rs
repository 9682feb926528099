//! What people see.

use crate::{
    control::{
        flows::{FlowState, FlowStatus},
        status::{MemberState, ServiceState, SwitchKind},
    },
    decide::{AddressExplanation, OrdersExplanation},
};

use super::*;

fn check(name: &str, state: &'static str, reason: &str) -> CheckExplanation {
    CheckExplanation {
        name: name.into(),
        effect: "count".into(),
        state: state.into(),
        reason: reason.into(),
        passes: 0,
        rise: 2,
        failures: 0,
        fall: 3,
        answered_ms_ago: Some(250),
        fails_in_ms: None,
    }
}

fn member(name: &str, state: MemberState, checks: Vec<CheckExplanation>) -> MemberExplanation {
    MemberExplanation {
        name: name.into(),
        state,
        checks_say: state,
        for_ms: 720_000,
        reason: checks[0].reason.clone(),
        weight: 100,
        configured_weight: None,
        drained: false,
        obstacle: None,
        gate: None,
        fresh: true,
        flap_score: 0.0,
        healthy_for_ms: 60_000,
        signals: Vec::new(),
        breaker: None,
        addresses: vec![AddressExplanation {
            address: "10.2.1.2:6379".parse().unwrap(),
            state,
            offered: true,
            checks,
        }],
    }
}

/// A failover ten minutes ago, to a member that somebody pinned since; the better one comes back.
fn orders() -> Explanation {
    let back = CheckExplanation { passes: 1, ..check("ping", "failing", "ping ok in 0.3 ms (1 of 2)") };
    let mut paris = member("paris", MemberState::Down, vec![back]);
    paris.obstacle = Some("down: ping: connection refused".into());
    paris.flap_score = 1.5;
    let slow = CheckExplanation {
        failures: 2,
        fails_in_ms: Some(400),
        ..check("ping", "passing", "ping: command timed out after 334ms (2 of 3)")
    };
    let lag = CheckExplanation {
        effect: "gate".into(),
        answered_ms_ago: None,
        ..check("lag", "unknown", "not probed yet")
    };
    let mut dublin = member("dublin", MemberState::Up, vec![slow, lag]);
    (dublin.weight, dublin.configured_weight, dublin.fresh) = (70, Some(50), false);
    dublin.gate = Some("lag: no answer yet".into());
    Explanation {
        service: "orders".into(),
        state: ServiceState::Degraded,
        active: Some("dublin".into()),
        epoch: 8,
        last_switch: Some(SwitchExplanation {
            from: Some("paris".into()),
            to: Some("dublin".into()),
            kind: SwitchKind::Failover,
            reason: "member \"paris\" down: ping: connection refused\n".into(),
            ago_ms: 600_000,
        }),
        rule: "dublin is up; no failback while a pin holds".into(),
        orders: OrdersExplanation {
            pinned: Some("dublin".into()),
            pin_left_ms: Some(3_000_000),
            against_checks: false,
            paused: true,
            switching_to: None,
        },
        suspicion: None,
        timers: vec![Timer {
            name: "pin".into(),
            member: Some("dublin".into()),
            left_ms: 3_000_000,
            then: "the pin ends".into(),
        }],
        would_change: vec!["nothing automatic: paused until `resume`".into()],
        members: vec![paris, dublin],
    }
}

#[test]
fn a_page_leads_from_the_decision_down_to_the_probes() {
    insta::assert_snapshot!(Page(&orders()));
}

#[test]
fn what_is_not_there_is_not_shown() {
    let explanation = Explanation {
        active: None,
        last_switch: None,
        orders: OrdersExplanation {
            pinned: None,
            pin_left_ms: None,
            against_checks: false,
            paused: false,
            switching_to: Some("paris".into()),
        },
        suspicion: Some("all members failed within 100ms".into()),
        timers: Vec::new(),
        ..orders()
    };
    insta::assert_snapshot!(Page(&explanation));
}

fn flow(member: &str, epoch: u32, stale: bool) -> FlowStatus {
    FlowStatus {
        service: Some("orders".into()),
        member: Some(member.into()),
        client: "10.1.0.2:40000".parse().unwrap(),
        vip: "10.255.0.1:6379".parse().unwrap(),
        source: "10.1.0.2:12345".parse().unwrap(),
        address: "10.2.1.2:6379".parse().unwrap(),
        state: FlowState::Established,
        stale,
        local: true,
        epoch,
        idle_ms: 1250,
        age_ms: 1_800_000,
    }
}

#[test]
fn a_flow_is_told_why_it_is_there_and_what_becomes_of_it() {
    let drain = Timer { name: "drain".into(), member: None, left_ms: 20_000, then: "flows are reset".into() };
    let draining = Explanation { timers: vec![drain], ..orders() };
    let why =
        "by the failback switch from dublin at 2026-11-21T19:00:00.000Z: member \"paris\" was up for 1m";
    let switches = flow::Switches::from([(7, why.to_owned())]);
    let told = [
        flow::told(flow("dublin", 8, false), &orders(), &switches),
        flow::told(flow("dublin", 5, false), &orders(), &switches),
        flow::told(flow("paris", 7, false), &draining, &switches),
        flow::told(flow("paris", 7, false), &orders(), &switches),
        flow::told(flow("paris", 7, true), &orders(), &switches),
    ];
    let pages: Vec<_> = told.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(pages.join("\n"));
}
