//! The first choice of a service: nothing is decided before enough is known or the time is up.

use super::world::*;
use crate::model::{Epoch, FlowPolicy, Initial, Service, ServiceState, SwitchKind};

fn initially(initial: Initial) -> Service {
    Service { initial, ..with_oslo(10) }
}

#[test]
fn with_every_member_up_the_best_is_taken_at_once() {
    for initial in [Initial::Any, Initial::Majority, Initial::All] {
        let mut world = World::new(initially(initial));
        let start = world.now;
        world.assert_held();
        world.run(s(1)).assert_active(PARIS, ServiceState::Ok);
        world.assert_switched(SwitchKind::Initial, PARIS, start, s(0));
        let switch = world.the_switch();
        assert_eq!((switch.from, switch.epoch, switch.policy), (None, Epoch(1), FlowPolicy::Keep));
        let reason =
            r#"first choice: member "paris" has weight 100 and is the best of 3 up, 0 down, 0 unknown"#;
        assert_eq!(switch.reason, reason);
    }
}

#[test]
fn a_member_without_verdict_is_waited_for() {
    let mut world = World::new(orders());
    world.probe(PARIS, &pass()).assert_no_switch();
    assert_eq!(world.view().since, None);
    let why = world.member(PARIS).eligible_reason;
    assert_eq!(why.as_deref(), Some("the first choice waits for other members, at most 5s more"));
    assert_eq!(world.member(DUBLIN).eligible_reason.as_deref(), Some("no verdict yet"));
    world.probe(DUBLIN, &pass()).assert_active(PARIS, ServiceState::Ok);
}

#[test]
fn but_not_longer_than_the_initial_timeout() {
    let mut world = World::new(orders());
    let start = world.now;
    world.is(PARIS, NeverProbed).run(s(60)).assert_active(DUBLIN, ServiceState::Degraded);
    world.assert_switched(SwitchKind::Initial, DUBLIN, start, s(5));
    let reason = r#"first choice: member "dublin" has weight 50 and is the best of 1 up, 0 down, 1 unknown"#;
    assert_eq!(world.the_switch().reason, reason);
}

#[test]
fn any_takes_the_only_one_that_is_up_once_the_others_are_known_to_be_down() {
    let mut world = World::new(initially(Initial::Any));
    let start = world.now;
    world.is(PARIS, Dead).is(DUBLIN, Dead).run(s(5)).assert_active(OSLO, ServiceState::Degraded);
    world.assert_switched(SwitchKind::Initial, OSLO, start, ms(100));
}

#[test]
fn majority_takes_the_best_of_two_out_of_three() {
    let mut world = World::new(initially(Initial::Majority));
    let start = world.now;
    world.is(PARIS, Dead).run(s(4)).assert_active(DUBLIN, ServiceState::Degraded);
    world.assert_switched(SwitchKind::Initial, DUBLIN, start, ms(100));
}

#[test]
fn majority_waits_for_the_timeout_with_one_out_of_three_and_with_one_out_of_two() {
    let one_of_two = Service { initial: Initial::Majority, ..orders() };
    for service in [initially(Initial::Majority), one_of_two] {
        let mut world = World::new(service);
        let start = world.now;
        world.is(DUBLIN, Dead);
        if world.view().members.len() > 2 {
            world.is(OSLO, Dead);
        }
        world.run(ms(4999)).assert_held();
        world.run(ms(1)).assert_active(PARIS, ServiceState::Ok);
        world.assert_switched(SwitchKind::Initial, PARIS, start, s(5));
    }
}

#[test]
fn all_waits_for_the_last_one_or_the_timeout() {
    let mut world = World::new(initially(Initial::All));
    world.is(OSLO, Dead).run(s(3)).assert_held();
    world.is(OSLO, Alive).run(s(1)).assert_active(PARIS, ServiceState::Ok);

    let mut world = World::new(initially(Initial::All));
    world.is(OSLO, Dead).run(ms(4999)).assert_held();
    world.run(ms(1)).assert_active(PARIS, ServiceState::Ok);
}

#[test]
fn with_nobody_up_at_the_timeout_the_first_one_that_comes_up_is_taken() {
    let mut world = World::new(initially(Initial::All));
    world.is(PARIS, Dead).is(DUBLIN, Dead).is(OSLO, NeverProbed).run(s(600)).assert_held();
    world.assert_no_switch();
    assert_eq!(world.core.next_deadline(), None, "there is nothing to wake up for");
    world.is(DUBLIN, Alive).run(s(5)).assert_active(DUBLIN, ServiceState::Degraded);
    assert_eq!(world.the_switch().kind, SwitchKind::Initial);
}

#[test]
fn a_probe_after_the_timeout_decides_even_if_the_deadline_was_missed() {
    let mut world = World::new(orders());
    world.sleep(s(6)).probe(DUBLIN, &pass()).assert_active(DUBLIN, ServiceState::Degraded);
}
