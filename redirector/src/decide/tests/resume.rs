//! An agent that starts where another one stopped.

use std::time::Duration;

use super::world::*;
use crate::{
    decide::{Resumed, ResumedSwitch, Time},
    model::{Epoch, FailbackMode, FlowPolicy, MemberState, OnAllDown, Service, ServiceState, SwitchKind},
};

/// Dublin was active at epoch 6, by a switch that finished.
fn on_dublin() -> Resumed {
    Resumed { active: Some(DUBLIN), epoch: Epoch(6), floor: Epoch(6), last: None }
}

/// The same, with what is on disk of the switch.
fn after(kind: SwitchKind, age: Duration, floor: u32) -> Resumed {
    let reason = "as it was".to_owned();
    let last = ResumedSwitch { from: Some(PARIS), kind, policy: None, reason, age };
    Resumed { floor: Epoch(floor), last: Some(last), ..on_dublin() }
}

#[test]
fn nothing_changes_until_there_are_verdicts() {
    let mut world = World::resumed(orders(), Some(on_dublin()));
    world.is(PARIS, NeverProbed).is(DUBLIN, NeverProbed).run(s(3600));
    world.assert_active(DUBLIN, ServiceState::Degraded);
    assert_eq!(world.done, []);
    assert_eq!((world.view().epoch, world.view().since), (Epoch(6), None));
}

#[test]
fn a_better_member_is_not_gone_to_while_the_active_one_has_no_verdict() {
    let mut world = World::resumed(orders(), Some(on_dublin()));
    world.is(DUBLIN, NeverProbed).run(s(3600)).assert_no_switch();
    let why = r#"the active member "dublin" has no verdict yet"#;
    assert_eq!(world.member(PARIS).eligible_reason.as_deref(), Some(why));
    world.is(DUBLIN, Alive).run(s(5)).assert_active(PARIS, ServiceState::Ok);
}

#[test]
fn a_better_member_must_be_seen_healthy_by_this_agent() {
    let mut world = World::resumed(orders(), Some(on_dublin()));
    let start = world.now;
    world.run(s(120)).assert_active(PARIS, ServiceState::Ok);
    world.assert_switched(SwitchKind::Failback, PARIS, start, s(60));
    assert_eq!(world.the_switch().epoch, Epoch(7));
}

#[test]
fn a_resumed_member_that_died_meanwhile_is_left_after_fall_failures() {
    let mut world = World::resumed(orders(), Some(on_dublin()));
    let start = world.now;
    world.is(DUBLIN, Dead).run(s(5)).assert_active(PARIS, ServiceState::Ok);
    world.assert_switched(SwitchKind::Failover, PARIS, start, ms(100));
}

#[test]
fn hold_down_goes_on() {
    let mut service = orders();
    service.failback.healthy_for = s(0);
    let mut world = World::resumed(service.clone(), Some(after(SwitchKind::Failover, s(10), 6)));
    let start = world.now;
    world.run(s(60));
    world.assert_switched(SwitchKind::Failback, PARIS, start, s(20));

    // An operator's switch is not automatic.
    let mut world = World::resumed(service, Some(after(SwitchKind::Manual, s(10), 6)));
    world.run(s(60)).assert_switched(SwitchKind::Failback, PARIS, start, s(0));
}

#[test]
fn the_last_switch_is_remembered() {
    let world = World::resumed(orders(), Some(after(SwitchKind::Failover, s(600), 6)));
    let view = world.view();
    let last = view.last.unwrap();
    assert_eq!((view.since, last.at), (Some(world.now.ago(s(600))), world.now.ago(s(600))));
    assert_eq!((last.from, last.to, last.epoch), (Some(PARIS), Some(DUBLIN), Epoch(6)));
    assert_eq!((last.kind, last.reason.as_str()), (SwitchKind::Failover, "as it was"));
}

#[test]
fn a_switch_before_the_origin_of_time_is_shown_at_it_and_its_deadlines_stay_right() {
    let age = s(7200);
    let mut service = Service { on_failover: FlowPolicy::Drain, drain_timeout: age + s(10), ..orders() };
    service.failback.mode = FailbackMode::Never;
    let mut world = World::resumed(service, Some(after(SwitchKind::Failover, age, 5)));
    let start = world.now;
    assert_eq!(world.view().since, Some(Time::default()));
    world.run(s(60));
    assert_eq!(world.floors(), [(start + s(10), Epoch(6))]);
}

#[test]
fn a_drain_goes_on_to_its_deadline() {
    let mut world = World::resumed(orders(), Some(after(SwitchKind::Failback, s(10), 5)));
    let start = world.now;
    world.is(PARIS, NeverProbed).run(s(60));
    assert_eq!(world.floors(), [(start + s(20), Epoch(6))]);
}

#[test]
fn a_drain_that_ended_meanwhile_ends_at_once() {
    let world = World::resumed(orders(), Some(after(SwitchKind::Failback, s(31), 5)));
    assert_eq!(world.floors(), [(world.now, Epoch(6))]);
}

#[test]
fn a_drain_that_had_ended_does_not_end_again() {
    let mut world = World::resumed(orders(), Some(after(SwitchKind::Failback, s(10), 6)));
    assert_eq!(world.is(PARIS, NeverProbed).run(s(60)).floors(), []);
}

#[test]
fn a_reset_that_was_cut_short_is_finished_at_once() {
    let world = World::resumed(orders(), Some(after(SwitchKind::Failover, s(10), 5)));
    assert_eq!(world.floors(), [(world.now, Epoch(6))]);
}

#[test]
fn a_switch_that_kept_its_flows_still_keeps_them() {
    let service = Service { on_failback: FlowPolicy::Keep, ..orders() };
    let mut world = World::resumed(service, Some(after(SwitchKind::Failback, s(10), 2)));
    assert_eq!(world.is(PARIS, NeverProbed).run(s(60)).floors(), []);
    let mut world = World::resumed(orders(), Some(after(SwitchKind::Initial, s(10), 0)));
    assert_eq!(world.is(PARIS, NeverProbed).run(s(60)).floors(), []);
}

/// The operator wants something else from the next switch on, and a member that was down when it was left by hand may live by now.
#[test]
fn what_the_switch_did_to_its_flows_goes_on_whatever_the_next_one_would_do() {
    let left_by_hand = |policy| {
        let mut resumed = after(SwitchKind::Manual, s(10), 2);
        resumed.last.as_mut().unwrap().policy = Some(policy);
        resumed
    };
    let resets = Service { on_failback: FlowPolicy::Reset, ..orders() };
    let mut world = World::resumed(resets.clone(), Some(left_by_hand(FlowPolicy::Keep)));
    assert_eq!(world.is(PARIS, NeverProbed).run(s(60)).floors(), []);
    let mut world = World::resumed(resets, Some(left_by_hand(FlowPolicy::Drain)));
    let start = world.now;
    assert_eq!(world.is(PARIS, NeverProbed).run(s(60)).floors(), [(start + s(20), Epoch(6))]);
    // Nothing would ever end them.
    let keeps = Service { on_failback: FlowPolicy::Keep, ..orders() };
    let mut world = World::resumed(keeps, Some(left_by_hand(FlowPolicy::Drain)));
    assert_eq!(world.is(PARIS, NeverProbed).run(s(60)).floors(), [(start + s(20), Epoch(6))]);
}

#[test]
fn without_a_record_of_the_switch_no_floor_is_raised() {
    let mut world = World::resumed(orders(), Some(Resumed { floor: Epoch(2), ..on_dublin() }));
    assert_eq!(world.is(PARIS, NeverProbed).run(s(60)).floors(), []);
}

#[test]
fn a_held_service_chooses_anew_with_the_next_epoch() {
    let held = Resumed { active: None, ..on_dublin() };
    let mut world = World::resumed(orders(), Some(held));
    world.probe(DUBLIN, &pass()).assert_held();
    world.probe(PARIS, &pass()).assert_active(PARIS, ServiceState::Ok);
    let switch = world.the_switch();
    assert_eq!((switch.kind, switch.epoch), (SwitchKind::Initial, Epoch(7)));
}

#[test]
fn a_resumed_service_refuses_only_when_all_are_known_to_be_down() {
    let service = Service { on_all_down: OnAllDown::Refuse, ..orders() };
    let mut world = World::resumed(service, Some(on_dublin()));
    world.is(DUBLIN, Dead).is(PARIS, NeverProbed).run(s(60)).assert_active(DUBLIN, ServiceState::Down);
    world.assert_state(PARIS, MemberState::Unknown);
    world.is(PARIS, Dead).run(s(5)).assert_held();
}
