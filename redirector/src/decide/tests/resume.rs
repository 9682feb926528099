//! An agent that starts where another one stopped.

use std::time::Duration;

use super::world::*;
use crate::{
    decide::{Action, Command, Drain, Draining, Resumed, ResumedSwitch, Spread, Time},
    model::{
        Epoch, FailbackMode, FlowPolicy, MemberId, MemberState, OnAllDown, Service, ServiceState, SwitchKind,
    },
};

/// Dublin was active at epoch 6, by a switch that finished.
fn on_dublin() -> Resumed {
    Resumed { active: Some(DUBLIN), epoch: Epoch(6), floor: Epoch(6), last: None }
}

/// The same, with what a version that did not write down drains has left of the switch.
fn after(kind: SwitchKind, age: Duration, floor: u32) -> Resumed {
    let reason = "as it was".to_owned();
    let last =
        ResumedSwitch { from: Some(PARIS), kind, policy: None, reason, age, drains: None, is_older: false };
    Resumed { floor: Epoch(floor), last: Some(last), ..on_dublin() }
}

/// The same, with these drains under way: when they end, in seconds after the start of the world.
fn draining(floor: u32, drains: &[(u32, Option<MemberId>, u64, Spread)]) -> Resumed {
    let draining = |(epoch, from, left, spread): &(u32, Option<MemberId>, u64, Spread)| Draining {
        deadline: Time(s(3600)) + s(*left),
        drain: Drain { epoch: Epoch(*epoch), from: *from, spread: *spread },
    };
    let mut resumed = after(SwitchKind::Manual, s(5), floor);
    let last = resumed.last.as_mut().unwrap();
    last.drains = Some(drains.iter().map(draining).collect());
    resumed
}

/// What was last said to be kept for the next agent.
fn kept(world: &World) -> Option<Vec<u32>> {
    let epochs = |drains: &Vec<Draining>| drains.iter().map(|draining| draining.drain.epoch.0).collect();
    world.done.iter().rev().find_map(|(_, action)| match action {
        Action::Drains(drains) => Some(epochs(drains)),
        _ => None,
    })
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

/// Only the newest was on record: what the others had left was kept for ever.
#[test]
fn all_drains_go_on_to_their_deadlines() {
    let drains = [(5, Some(OSLO), 8, Spread::No), (6, Some(PARIS), 20, Spread::No)];
    let mut world = World::resumed(with_oslo(10), Some(draining(0, &drains)));
    let start = world.now;
    assert_eq!((world.floors(), kept(&world)), (vec![], None), "as it was");
    world.is(PARIS, NeverProbed).run(s(60));
    assert_eq!(world.floors(), [(start + s(8), Epoch(5)), (start + s(20), Epoch(6))]);
    assert_eq!(kept(&world), Some(vec![]));
}

#[test]
fn drains_that_ended_meanwhile_end_at_once_and_the_others_go_on() {
    let drains =
        [(4, Some(OSLO), 0, Spread::No), (5, Some(DUBLIN), 0, Spread::No), (6, None, 20, Spread::No)];
    let mut world = World::resumed(with_oslo(10), Some(draining(0, &drains)));
    let start = world.now;
    assert_eq!((world.floors(), kept(&world)), (vec![(start, Epoch(5))], Some(vec![6])));
    world.is(PARIS, NeverProbed).run(s(60));
    assert_eq!(world.floors(), [(start, Epoch(5)), (start + s(20), Epoch(6))]);
}

/// One that kept or reset leaves what is on record, and nothing else. A reload that changes policies touches no drain; nor does a
/// restart.
#[test]
fn what_drains_does_not_hang_on_the_newest_switch() {
    let drains = [(5, Some(OSLO), 8, Spread::No)];
    let service = Service { on_failback: FlowPolicy::Reset, drain_timeout: s(1), ..with_oslo(10) };
    let mut world = World::resumed(service, Some(draining(0, &drains)));
    let start = world.now;
    world.is(PARIS, NeverProbed).run(s(60));
    assert_eq!(world.floors(), [(start + s(8), Epoch(5))]);
}

#[test]
fn drains_below_the_floor_are_over() {
    let drains = [(4, Some(OSLO), 8, Spread::No), (5, None, 9, Spread::No), (6, None, 20, Spread::No)];
    let mut world = World::resumed(with_oslo(10), Some(draining(5, &drains)));
    let start = world.now;
    assert_eq!(kept(&world), Some(vec![6]));
    world.is(PARIS, NeverProbed).run(s(60));
    assert_eq!(world.floors(), [(start + s(20), Epoch(6))]);
}

/// Its active member is gone, and the start has held it with the next epoch. The switch on record is not the one to that.
#[test]
fn the_drains_of_the_switch_before_go_on_and_nothing_else_of_it() {
    let mut resumed = draining(0, &[(4, Some(PARIS), 8, Spread::No), (5, None, 20, Spread::No)]);
    let last = resumed.last.as_mut().unwrap();
    (last.kind, last.age, last.is_older) = (SwitchKind::Failover, s(1), true);
    let mut world = World::resumed(orders(), Some(Resumed { active: None, ..resumed }));
    let start = world.now;
    assert_eq!((world.view().last, world.floors()), (None, vec![]));
    world.run(s(60));
    assert_eq!(world.floors(), [(start + s(8), Epoch(4)), (start + s(20), Epoch(5))]);
    assert_eq!(world.the_switch().epoch, Epoch(7));
}

/// The floor is that of the other, which has died since: the one that is active got none.
#[test]
fn the_drain_of_a_member_that_is_active_again_goes_on_below_the_floor_of_others() {
    let mut world = World::resumed(orders(), Some(draining(6, &[(5, Some(DUBLIN), 8, Spread::No)])));
    let start = world.now;
    world.is(PARIS, NeverProbed).run(s(60));
    assert_eq!(world.floors(), [(start + s(8), Epoch(5))]);
}

/// Those at the end of one drain have begun, those of the next one are to come; nothing ends before its time for the other.
#[test]
fn spread_resets_go_on_with_what_is_left_of_them() {
    let service = Service { reset_over: s(10), ..with_oslo(10) };
    let drains = [(5, Some(OSLO), 6, Spread::UnderWay), (6, Some(PARIS), 4, Spread::AtEnd)];
    let mut world = World::resumed(service, Some(draining(0, &drains)));
    let start = world.now;
    world.run(s(60));
    let spread = |from, epoch, over| Action::Spread { from, epoch: Epoch(epoch), over };
    let spreads: Vec<_> =
        world.done.iter().filter(|(_, action)| matches!(action, Action::Spread { .. })).cloned().collect();
    let (first, second) = (spread(OSLO, 5, s(6)), spread(PARIS, 6, s(10)));
    assert_eq!(world.done[0], (start, first.clone()), "before all else");
    assert_eq!(spreads, [(start, first), (start + s(6), second)]);
    assert_eq!(world.floors(), [(start + s(6), Epoch(5)), (start + s(16), Epoch(6))]);
}

/// Whoever is active has nothing to end: its flows go on, and the drain for those that others have of that time.
#[test]
fn a_member_that_is_active_again_is_not_spread() {
    let service = Service { reset_over: s(10), ..orders() };
    let drains = [(4, Some(DUBLIN), 3, Spread::UnderWay), (6, Some(PARIS), 20, Spread::No)];
    let mut world = World::resumed(service, Some(draining(0, &drains)));
    let start = world.now;
    world.is(PARIS, NeverProbed).run(s(60));
    assert!(!world.done.iter().any(|(_, action)| matches!(action, Action::Spread { .. })));
    assert_eq!(world.floors(), [(start + s(3), Epoch(4)), (start + s(20), Epoch(6))]);
}

#[test]
fn members_that_are_down_end_their_drains_whoever_began_them() {
    let drains = [(5, Some(OSLO), 600, Spread::No), (6, Some(PARIS), 600, Spread::No)];
    let mut world = World::resumed(with_oslo(10), Some(draining(0, &drains)));
    world.is(PARIS, Dead).is(OSLO, Dead).run(s(60));
    let ended: Vec<_> = (world.done.iter())
        .filter_map(|(_, action)| match action {
            Action::EndDrain { member, epoch, .. } => Some((*member, *epoch)),
            _ => None,
        })
        .collect();
    assert_eq!(ended.len(), 2);
    assert!(ended.contains(&(OSLO, Epoch(5))) && ended.contains(&(PARIS, Epoch(6))), "{ended:?}");
}

#[test]
fn what_an_earlier_version_left_is_kept_in_full_from_now_on() {
    let mut world = World::resumed(orders(), Some(after(SwitchKind::Failback, s(10), 5)));
    assert_eq!(kept(&world), Some(vec![6]));
    world.is(PARIS, NeverProbed).run(s(60));
    assert_eq!(kept(&world), Some(vec![]));
}

/// An agent after the other, in the middle of whatever is under way.
#[test]
fn two_switches_and_a_restart_end_as_without_it() {
    let switch = |to| Command::Switch { to, hold: None, reason: String::new(), force: true };
    let mut world = World::settled(with_oslo(10));
    let begun = world.core.epoch().0;
    world.order(&switch(DUBLIN)).unwrap();
    let first = world.now + s(30);
    world.run(s(10)).order(&switch(OSLO)).unwrap();
    let second = world.now + s(30);
    world.run(s(5));
    let drains = world.done.iter().rev().find_map(|(_, action)| match action {
        Action::Drains(drains) => Some(drains.clone()),
        _ => None,
    });
    let last = ResumedSwitch {
        from: Some(DUBLIN),
        kind: SwitchKind::Manual,
        policy: Some(FlowPolicy::Drain),
        reason: String::new(),
        age: s(5),
        drains,
        is_older: false,
    };
    let (active, epoch) = (world.core.active(), world.core.epoch());
    let resumed = Resumed { active, epoch, floor: Epoch(begun - 1), last: Some(last) };
    let mut next = World::resumed_at(world.now, with_oslo(10), Some(resumed));
    next.is(PARIS, NeverProbed).is(DUBLIN, NeverProbed).run(s(60));
    assert_eq!(next.floors(), [(first, Epoch(begun + 1)), (second, Epoch(begun + 2))]);
}
