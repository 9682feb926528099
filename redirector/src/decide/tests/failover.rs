//! Leaving a member that is down: to whom, how soon, and what happens when there is nobody to go to.

use super::world::*;
use crate::{
    decide::Action,
    model::{Epoch, FlowPolicy, MemberState, OnAllDown, Service, ServiceState, SwitchKind},
};

#[test]
fn the_active_member_crashes_and_the_other_one_takes_over() {
    let mut world = World::settled(orders());
    world.assert_active(PARIS, ServiceState::Ok);
    let crash = world.now;
    world.is(PARIS, Dead).run(s(5)).assert_active(DUBLIN, ServiceState::Degraded);

    // The next probe comes after one interval; two more, at the fast one, confirm it.
    world.assert_switched(SwitchKind::Failover, DUBLIN, crash, ms(1100));
    let switch = world.the_switch();
    assert_eq!((switch.from, switch.epoch, switch.policy), (Some(PARIS), Epoch(2), FlowPolicy::Reset));
    assert_eq!(switch.reason, r#"member "paris" down: connection refused (3 in a row)"#);
    let view = world.view();
    assert_eq!((view.epoch, view.since, view.last.as_ref()), (Epoch(2), Some(switch.at), Some(switch)));
}

#[test]
fn the_switch_comes_before_the_reports() {
    let mut world = World::settled(orders());
    world.is(PARIS, Dead).run(ms(1100));
    let last = &world.done[world.done.len() - 3..];
    let in_order =
        matches!(last, [(_, Action::Switch(_)), (_, Action::MemberChanged { .. }), (_, Action::Pace { .. })]);
    assert!(in_order, "{last:#?}");
}

#[test]
fn of_those_that_are_up_the_heaviest_takes_over() {
    let mut world = World::settled(with_oslo(70));
    world.is(PARIS, Dead).run(s(5)).assert_active(OSLO, ServiceState::Degraded);
    world.is(OSLO, Dead).run(s(5)).assert_active(DUBLIN, ServiceState::Degraded);
}

#[test]
fn of_equals_the_one_that_is_named_first_takes_over() {
    let mut world = World::settled(with_oslo(50));
    world.is(PARIS, Dead).run(s(5)).assert_active(DUBLIN, ServiceState::Degraded);
}

#[test]
fn an_equal_is_no_reason_to_move() {
    let mut world = World::settled(with_oslo(50));
    world.is(PARIS, Dead).is(DUBLIN, Dead).run(s(5)).assert_active(OSLO, ServiceState::Degraded);
    world.is(DUBLIN, Alive).run(s(600)).assert_active(OSLO, ServiceState::Degraded);
    assert!(world.member(DUBLIN).eligible, "it stands by");
}

#[test]
fn an_equal_of_the_best_is_the_best() {
    let mut world = World::settled(with_oslo(100));
    world.is(PARIS, Dead).run(s(5)).assert_active(OSLO, ServiceState::Ok);
    world.is(PARIS, Alive).run(s(600)).assert_active(OSLO, ServiceState::Ok);
}

#[test]
fn a_member_that_is_down_is_not_gone_to() {
    let mut world = World::settled(with_oslo(10));
    world.is(DUBLIN, Dead).run(s(5)).assert_no_switch();
    world.is(PARIS, Dead).run(s(5)).assert_active(OSLO, ServiceState::Degraded);
    let why = world.member(DUBLIN).eligible_reason;
    assert!(why.is_some_and(|why| why.starts_with("down: connection refused (")));
}

#[test]
fn the_death_of_a_member_that_is_not_active_moves_nothing() {
    let mut world = World::settled(orders());
    world.is(DUBLIN, Dead).run(s(600)).assert_active(PARIS, ServiceState::Ok);
    world.assert_no_switch();
}

#[test]
fn an_active_member_whose_probes_say_nothing_is_not_left() {
    let mut world = World::settled(orders());
    world.is(PARIS, WrongPassword).run(s(600)).assert_active(PARIS, ServiceState::Ok);
    world.is(PARIS, NeverProbed).run(s(600)).assert_no_switch();
}

#[test]
fn when_all_are_down_the_active_one_stays_by_default() {
    let mut world = World::settled(orders());
    world.is(DUBLIN, Dead).run(s(5)).is(PARIS, Dead).run(s(3600));
    world.assert_active(PARIS, ServiceState::Down);
    world.assert_no_switch();

    // The observer was cut off: all come back, nothing has happened.
    world.is(PARIS, Alive).is(DUBLIN, Alive).run(s(60)).assert_active(PARIS, ServiceState::Ok);
    world.assert_no_switch();
}

#[test]
fn with_all_down_the_first_other_one_that_comes_up_takes_over_at_once() {
    let mut world = World::settled(with_oslo(10));
    world.is(DUBLIN, Dead).is(OSLO, Dead).run(s(5)).is(PARIS, Dead).run(s(60)).assert_no_switch();
    let revival = world.now;
    world.is(OSLO, Alive).run(s(5)).assert_active(OSLO, ServiceState::Degraded);
    world.assert_switched(SwitchKind::Failover, OSLO, revival, ms(150));
    assert!(world.the_switch().reason.starts_with(r#"member "paris" down: connection refused ("#));
}

fn refusing() -> Service {
    Service { on_all_down: OnAllDown::Refuse, ..orders() }
}

#[test]
fn a_service_that_refuses_is_held_when_the_last_member_goes_down() {
    let mut world = World::settled(refusing());
    world.is(DUBLIN, Dead).run(s(5)).is(PARIS, Dead).run(s(60)).assert_held();
    let switch = world.the_switch();
    assert_eq!((switch.from, switch.to), (Some(PARIS), None));
    assert_eq!(
        (switch.kind, switch.epoch, switch.policy),
        (SwitchKind::Failover, Epoch(2), FlowPolicy::Reset)
    );
    let reason = r#"member "paris" down: connection refused (3 in a row), and no other member is up"#;
    assert_eq!(switch.reason, reason);
}

#[test]
fn a_held_service_takes_the_first_member_that_comes_up() {
    let mut world = World::settled(refusing());
    world.is(DUBLIN, Dead).run(s(5)).is(PARIS, Dead).run(s(5)).assert_held();
    world.done.clear();
    let revival = world.now;
    world.is(DUBLIN, Alive).run(s(5)).assert_active(DUBLIN, ServiceState::Degraded);
    // Probes at the full second, then one fast: no hold-down, no healthy_for.
    world.assert_switched(SwitchKind::Failover, DUBLIN, revival, ms(150));
    let switch = world.the_switch();
    assert_eq!((switch.from, switch.epoch), (None, Epoch(3)));
    assert_eq!(switch.policy, FlowPolicy::Keep, "there is nothing to leave");
    assert_eq!(switch.reason, r#"member "dublin" came up while no member was active"#);
}

#[test]
fn a_member_without_verdict_is_not_down_and_so_nothing_is_refused() {
    let mut world = World::new(refusing());
    world.is(DUBLIN, WrongPassword).run(s(10)).assert_active(PARIS, ServiceState::Ok);
    world.is(PARIS, Dead).run(s(600)).assert_active(PARIS, ServiceState::Down);
    world.assert_state(DUBLIN, MemberState::Unknown);
    world.is(DUBLIN, Dead).run(s(5)).assert_held();
}

#[test]
fn a_service_with_one_member_stays_or_is_held() {
    let mut one = orders();
    one.members.truncate(1);
    let mut world = World::settled(one.clone());
    world.is(PARIS, Dead).run(s(60)).assert_active(PARIS, ServiceState::Down);
    let mut world = World::settled(Service { on_all_down: OnAllDown::Refuse, ..one });
    world.is(PARIS, Dead).run(s(60)).assert_held();
    world.is(PARIS, Alive).run(s(60)).assert_active(PARIS, ServiceState::Ok);
}
