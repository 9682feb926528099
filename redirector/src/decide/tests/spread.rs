//! `reset_over`: a planned switch resets little by little, and ends as a drain does.

use super::world::*;
use crate::{
    decide::{Action, Command, Core, Resumed, ResumedSwitch, Time},
    model::{Epoch, FlowPolicy, Service, SwitchKind},
};

fn paced() -> Service {
    Service { reset_over: s(2), on_failback: FlowPolicy::Reset, ..orders() }
}

fn spreads(actions: &[(Time, Action)]) -> Vec<(Time, Action)> {
    let spreads = actions.iter().filter(|(_, action)| matches!(action, Action::Spread { .. }));
    spreads.cloned().collect()
}

#[test]
fn a_planned_switch_spreads_its_resets_and_ends_them() {
    let mut world = World::settled(paced());
    let switch = Command::Switch { to: DUBLIN, hold: None, reason: String::new(), force: true };
    world.order(&switch).unwrap();
    let (at, epoch) = (world.now, world.core.epoch());
    assert_eq!((world.the_switch().policy, world.the_switch().over), (FlowPolicy::Reset, s(2)));
    assert_eq!(spreads(&world.done), [(at, Action::Spread { from: PARIS, epoch, over: s(2) })]);
    assert!(world.floors().is_empty());
    world.run(s(10));
    assert_eq!(world.floors(), [(at + s(2), epoch)]);
}

/// A dead member keeps its clients waiting: they are reset at once.
#[test]
fn a_failover_resets_at_once() {
    let mut world = World::settled(paced());
    world.is(PARIS, Dead).run(s(5));
    assert_eq!((world.the_switch().policy, world.the_switch().over), (FlowPolicy::Reset, s(0)));
    assert!(spreads(&world.done).is_empty() && world.floors().is_empty());
}

#[test]
fn a_failover_in_the_middle_ends_it() {
    let mut world = World::settled(paced());
    let switch = Command::Switch { to: DUBLIN, hold: None, reason: String::new(), force: true };
    world.order(&switch).unwrap();
    world.is(DUBLIN, Dead).run(s(10));
    assert_eq!(world.the_last_switch().kind, SwitchKind::Failover);
    // The switch itself raised the floor above it.
    assert_eq!((world.the_last_switch().over, world.floors()), (s(0), Vec::new()));
}

#[test]
fn the_next_agent_goes_on_with_what_is_left_of_it() {
    let last = ResumedSwitch {
        from: Some(PARIS),
        kind: SwitchKind::Manual,
        policy: None,
        reason: String::new(),
        age: ms(500),
        drains: None,
        is_older: false,
    };
    let resumed = Resumed { active: Some(DUBLIN), epoch: Epoch(7), floor: Epoch(6), last: Some(last) };
    let start = Time(s(3600));
    let known = [offered(&[address(PARIS, 0)]), offered(&[address(DUBLIN, 0)])];
    let mut core = Core::new(paced(), &known, Some(resumed), start);
    let first = core.poll_action();
    assert_eq!(first, Some(Action::Spread { from: PARIS, epoch: Epoch(7), over: ms(1500) }));
    core.on_deadline(start + ms(1500));
    let raised = std::iter::from_fn(|| core.poll_action())
        .any(|action| action == Action::RaiseFloor { epoch: Epoch(7) });
    assert!(raised);
}

/// Else all that are left at the end of a drain would come at once.
#[test]
fn the_end_of_a_drain_is_spread_too() {
    let mut world =
        World::settled(Service { on_failback: FlowPolicy::Drain, drain_timeout: s(5), ..paced() });
    let switch = Command::Switch { to: DUBLIN, hold: None, reason: String::new(), force: true };
    world.order(&switch).unwrap();
    let (at, epoch) = (world.now, world.core.epoch());
    assert_eq!((world.the_switch().policy, world.the_switch().over), (FlowPolicy::Drain, s(0)));
    assert!(spreads(&world.done).is_empty());
    world.run(s(10));
    assert_eq!(spreads(&world.done), [(at + s(5), Action::Spread { from: PARIS, epoch, over: s(2) })]);
    assert_eq!(world.floors(), [(at + s(7), epoch)]);
}

/// Where its death alone did not end it.
#[test]
fn the_end_of_a_drain_is_not_spread_over_a_member_that_died_meanwhile() {
    let drains = Service { on_failback: FlowPolicy::Drain, drain_timeout: s(5), ..paced() };
    let mut world = World::settled(Service { on_failover: FlowPolicy::Keep, ..drains });
    let switch = Command::Switch { to: DUBLIN, hold: None, reason: String::new(), force: true };
    world.order(&switch).unwrap();
    let (at, epoch) = (world.now, world.core.epoch());
    world.is(PARIS, Dead).run(s(10));
    assert!(spreads(&world.done).is_empty());
    assert_eq!(world.floors(), [(at + s(5), epoch)]);
}
