//! A reload in the middle of the story: what is known is carried over.

use super::world::*;
use crate::{
    decide::{Action, Command},
    model::{Check, CheckKind, Epoch, FlowPolicy, MemberId, MemberState, ServiceState, SwitchKind},
};

#[test]
fn a_reload_that_changes_nothing_changes_nothing() {
    let mut world = World::settled(orders());
    world.is(PARIS, Dead).run(s(5)).is(PARIS, Alive).run(s(30));
    let before = world.core.clone();
    world.done.clear();
    world.reload(orders(), &[Some(PARIS), Some(DUBLIN)]);
    assert_eq!(world.done, []);
    assert_eq!(world.core, before);
    // And healthy_for goes on.
    world.run(s(31)).assert_active(PARIS, ServiceState::Ok);
}

#[test]
fn members_keep_what_is_known_of_them_under_other_numbers() {
    let mut world = World::settled(orders());
    world.order(&Command::Switch { to: DUBLIN, hold: None, reason: String::new(), force: false }).unwrap();
    world.run(s(1)).done.clear();
    let mut service = orders();
    service.members.reverse();
    world.reload(service, &[Some(DUBLIN), Some(PARIS)]);
    assert_eq!(world.done, [], "by name nothing is new");
    let view = world.view();
    assert_eq!((view.active, view.pinned, view.epoch), (Some(MemberId(0)), Some(MemberId(0)), Epoch(2)));
    assert!(view.members.iter().all(|member| member.state == MemberState::Up));
}

#[test]
fn a_member_that_is_new_has_to_be_seen_first() {
    let mut world = World::settled(orders());
    let service = with_oslo(300);
    world.reload(service, &[Some(PARIS), Some(DUBLIN), None]).has(OSLO, &[address(OSLO, 0)]);
    let start = world.now;
    world.assert_state(OSLO, MemberState::Unknown);
    world.run(s(120)).assert_switched(SwitchKind::Failback, OSLO, start, s(60));
}

#[test]
fn an_active_member_that_is_removed_is_left_first() {
    let mut world = World::settled(orders());
    let mut service = orders();
    service.members.remove(0);
    let origins = [Some(DUBLIN)];
    world.core.leave_removed(world.now, &origins, false).unwrap();
    let Some(Action::Switch(left)) = world.core.poll_action() else { panic!("it should be left") };
    assert_eq!((left.from, left.to, left.policy), (Some(PARIS), Some(DUBLIN), FlowPolicy::Drain));
    assert_eq!(left.reason, r#"member "paris" is removed from the configuration"#);
    world.reload(service, &origins).assert_active(MemberId(0), ServiceState::Ok);
    assert_eq!(world.view().epoch, Epoch(2));
}

#[test]
fn without_a_member_to_go_to_the_removal_is_refused_or_forced() {
    let mut world = World::settled(orders());
    world.is(DUBLIN, Dead).run(s(5));
    let before = world.core.clone();
    let refused = world.core.leave_removed(world.now, &[Some(DUBLIN)], false).unwrap_err();
    assert_eq!(refused.reason, r#"member "paris" is active, and no member that stays is up"#);
    assert_eq!(world.core, before);
    world.core.leave_removed(world.now, &[Some(DUBLIN)], true).unwrap();
    let mut service = orders();
    service.members.remove(0);
    world.reload(service, &[Some(DUBLIN)]).assert_held();
    world.is(MemberId(0), Alive).run(s(5)).assert_active(MemberId(0), ServiceState::Ok);
    assert_eq!(world.view().epoch, Epoch(2));
}

#[test]
fn an_unchanged_check_goes_on_counting_with_other_thresholds() {
    let mut world = World::settled(orders());
    world.probe(PARIS, &fail()).probe(PARIS, &fail());
    let service = with_checks(orders(), vec![Check { fall: 5, ..check() }]);
    world.reload(service, &[Some(PARIS), Some(DUBLIN)]);
    assert_eq!(world.member(PARIS).reason, "ping: connection refused (2 of 5)");
    world.probe(PARIS, &fail()).probe(PARIS, &fail()).assert_no_switch();
    world.probe(PARIS, &fail()).assert_active(DUBLIN, ServiceState::Degraded);
}

#[test]
fn a_new_check_makes_its_members_unknown_and_moves_nothing() {
    let mut world = World::settled(orders());
    let tcp = Check { name: "tcp".to_owned(), ..Check::of(CheckKind::Tcp) };
    let service = with_checks(orders(), vec![tcp, check()]);
    world.reload(service, &[Some(PARIS), Some(DUBLIN)]).assert_state(PARIS, MemberState::Unknown);
    world.run(s(10)).assert_active(PARIS, ServiceState::Ok);
    world.assert_no_switch();
    world.assert_state(DUBLIN, MemberState::Up);
}

#[test]
fn another_hold_down_holds_for_the_switch_that_was() {
    let mut service = orders();
    service.failback.healthy_for = s(1);
    let mut world = World::settled(service.clone());
    world.is(PARIS, Dead).run(s(5));
    let failover = world.the_switch().at;
    world.is(PARIS, Alive).run(s(5));
    service.failback.hold_down = s(20);
    world.reload(service, &[Some(PARIS), Some(DUBLIN)]).run(s(60));
    assert_eq!(world.the_last_switch().at.since(failover), s(20));
}

#[test]
fn what_was_said_of_a_member_ends_with_it_and_a_weight_with_a_newer_one() {
    let mut world = World::settled(with_oslo(10));
    world.order(&Command::Drain { member: OSLO, force: false }).unwrap();
    world.order(&Command::Weight { member: DUBLIN, weight: 60 }).unwrap();
    world.done.clear();
    world.reload(orders(), &[Some(PARIS), Some(DUBLIN)]);
    let kept = world.core.orders();
    assert!(kept.drained.is_empty() && kept.weights.contains_key("dublin"));
    assert_eq!(world.member(DUBLIN).weight, 60);
    assert!(world.done.contains(&(world.now, Action::Orders(kept))));
    let mut service = orders();
    service.members[1].weight = 70;
    world.reload(service, &[Some(PARIS), Some(DUBLIN)]);
    assert_eq!(world.member(DUBLIN).weight, 70);
    assert!(world.core.orders().weights.is_empty());
}
