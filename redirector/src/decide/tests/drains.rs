//! A member goes down while it is drained: nobody waits for it until the end of the drain.

use super::world::*;
use crate::{
    decide::{Action, Command, Resumed, ResumedSwitch, Time},
    model::{Check, Epoch, FlowPolicy, MemberId, MemberState, Service, ServiceState, SwitchKind},
};

fn switch(to: MemberId) -> Command {
    Command::Switch { to, hold: None, reason: String::new(), force: true }
}

/// Paris was left while it lived, and has just begun to drain.
fn left(service: Service) -> World {
    let mut world = World::settled(service);
    world.order(&switch(DUBLIN)).unwrap();
    world
}

/// Drains that ended for the death of their member.
fn ended(world: &World) -> Vec<(Time, MemberId, Epoch)> {
    let ended = |(at, action): &(Time, Action)| match action {
        Action::EndDrain { member, epoch, .. } => Some((*at, *member, *epoch)),
        _ => None,
    };
    world.done.iter().filter_map(ended).collect()
}

/// When a member was first said to be down.
fn down(world: &World, of: MemberId) -> Time {
    let is_down = |(_, action): &&(Time, Action)| matches!(action, Action::MemberChanged { member, state: MemberState::Down, .. } if *member == of);
    world.done.iter().find(is_down).expect("it goes down").0
}

/// When a member was last said to be up.
fn up(world: &World, of: MemberId) -> Time {
    let is_up = |(_, action): &&(Time, Action)| matches!(action, Action::MemberChanged { member, state: MemberState::Up, .. } if *member == of);
    world.done.iter().rev().find(is_up).expect("it comes up").0
}

/// What the timer says that keeps the end of a drain waiting.
fn why_not(world: &World) -> Option<String> {
    let timers = world.core.explain(world.now).timers;
    timers.into_iter().find(|timer| timer.name == "doubt").map(|timer| timer.then)
}

#[test]
fn its_flows_end_when_it_is_found_down() {
    let mut world = left(orders());
    let (since, epoch) = (world.now, world.core.epoch());
    world.run(s(5)).is(PARIS, Dead).run(s(60));
    let found = down(&world, PARIS);
    assert_eq!(ended(&world), [(found, PARIS, epoch)]);
    assert!(found.since(since) < ms(6200), "{:?}", found.since(since));
    // Nothing is left to end.
    assert!(world.floors().is_empty());
    let why = world.done.iter().find_map(|(_, action)| match action {
        Action::EndDrain { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    assert!(why.is_some_and(|why| why.contains("connection refused")));
}

#[test]
fn who_recovers_in_time_loses_nothing() {
    let mut world = left(orders());
    let (since, epoch) = (world.now, world.core.epoch());
    world.probe(PARIS, &fail()).probe(PARIS, &fail()).run(s(60));
    assert!(ended(&world).is_empty());
    assert_eq!(world.floors(), [(since + s(30), epoch)]);
}

#[test]
fn resets_that_are_spread_come_at_once() {
    let spread = Service { reset_over: s(2), on_failback: FlowPolicy::Reset, ..orders() };
    let mut world = left(spread);
    let epoch = world.core.epoch();
    world.is(PARIS, Dead).run(s(60));
    assert_eq!(ended(&world), [(down(&world, PARIS), PARIS, epoch)]);
    assert!(world.floors().is_empty());
}

#[test]
fn so_do_those_at_the_end_of_a_drain() {
    let mut world = left(Service { drain_timeout: s(5), reset_over: s(10), ..orders() });
    let epoch = world.core.epoch();
    world.run(s(6)).is(PARIS, Dead).run(s(60));
    assert_eq!(ended(&world), [(down(&world, PARIS), PARIS, epoch)]);
    assert!(world.floors().is_empty());
}

/// Paris, which was left first, lives: its flows go on for as long as they were told.
#[test]
fn the_drains_of_others_go_on() {
    let mut world = left(with_oslo(10));
    let first = (world.now + s(30), world.core.epoch());
    world.run(s(10)).order(&switch(OSLO)).unwrap();
    let second = (world.now + s(30), world.core.epoch());
    world.is(DUBLIN, Dead).run(s(60));
    assert_eq!(ended(&world), [(down(&world, DUBLIN), DUBLIN, second.1)]);
    // The newer floor is raised for what others may have that is older.
    assert_eq!(world.floors(), [first, second]);
}

/// It was left twice: one floor is enough.
#[test]
fn all_drains_of_the_member_end() {
    let mut world = left(with_oslo(10));
    world.order(&switch(PARIS)).unwrap();
    world.order(&switch(OSLO)).unwrap();
    let epoch = world.core.epoch();
    world.is(PARIS, Dead).run(s(20));
    assert_eq!(ended(&world), [(down(&world, PARIS), PARIS, epoch)]);
}

/// What is to become of flows on a member that is down, an operator has said.
#[test]
fn a_service_that_does_not_reset_at_a_failover_does_not_here() {
    for on_failover in [FlowPolicy::Drain, FlowPolicy::Keep] {
        let mut world = left(Service { on_failover, ..orders() });
        let (since, epoch) = (world.now, world.core.epoch());
        world.is(PARIS, Dead).run(s(60));
        assert!(ended(&world).is_empty(), "{on_failover:?}");
        assert_eq!(world.floors(), [(since + s(30), epoch)]);
    }
}

/// A failover with `drain` has left it, and it was down before: that is what was asked for, until a reload asks for something else.
#[test]
fn a_reload_that_resets_ends_what_a_failover_drains() {
    let mut world = World::settled(Service { on_failover: FlowPolicy::Drain, ..orders() });
    world.is(PARIS, Dead).run(s(10));
    let epoch = world.the_switch().epoch;
    assert!(ended(&world).is_empty());
    world.reload(orders(), &[Some(PARIS), Some(DUBLIN)]);
    assert_eq!(ended(&world), [(world.now, PARIS, epoch)]);
}

#[test]
fn while_this_host_is_suspected_nobody_is_reset() {
    let one_is_enough = with_checks(orders(), vec![Check { fall: 1, ..check() }]);
    let mut world = left(one_is_enough);
    let epoch = world.core.epoch();
    world.late(ms(400)).is(PARIS, NeverProbed).probe(PARIS, &fail());
    let found = world.now;
    assert_eq!(ended(&world), []);
    let timers = world.core.explain(world.now).timers;
    assert!(timers.iter().any(|timer| timer.name == "doubt" && timer.member.as_deref() == Some("paris")));
    // Nothing more is heard of it: the suspicion ends after a window.
    world.run(s(60));
    assert_eq!(ended(&world), [(found + s(2), PARIS, epoch)]);
}

#[test]
fn an_active_member_that_fails_too_is_no_place_to_go_to() {
    let mut world = left(Service { drain_timeout: s(600), ..orders() });
    let epoch = world.core.epoch();
    world.is(PARIS, Dead).is(DUBLIN, Dead).run(s(60));
    assert_eq!(ended(&world), []);
    world.is(DUBLIN, Alive).run(s(60));
    let [(at, PARIS, of)] = ended(&world)[..] else { panic!("{:?}", ended(&world)) };
    assert_eq!(of, epoch);
    assert!(at >= up(&world, DUBLIN) && at.since(up(&world, DUBLIN)) <= s(1));
}

/// Of this host: all fail at the same moment, and the active member is the first that is heard again.
#[test]
fn a_cut_of_this_host_ends_no_drain_if_the_active_member_is_heard_first() {
    let mut world = left(Service { drain_timeout: s(600), ..orders() });
    world.is(PARIS, Dead).is(DUBLIN, Dead).run(s(5)).is(PARIS, NeverProbed).is(DUBLIN, NeverProbed);
    world.probe(DUBLIN, &pass());
    // The other one is asked at once.
    assert_eq!(world.rounds().last(), Some(&(world.now, PARIS)));
    world.probe(DUBLIN, &pass());
    world.assert_active(DUBLIN, ServiceState::Degraded);
    world.assert_state(PARIS, MemberState::Down);
    assert!(why_not(&world).is_some_and(|why| why.contains("the active member is heard again")));
    // One probe was under way during the cut; the next one passes.
    world.probe(PARIS, &fail()).sleep(ms(100)).probe(PARIS, &pass());
    assert_eq!(ended(&world), []);
    world.is(PARIS, Alive).is(DUBLIN, Alive).run(s(60));
    world.assert_state(PARIS, MemberState::Up);
    assert_eq!(ended(&world), []);
}

#[test]
fn a_cut_of_this_host_ends_no_drain_if_the_drained_member_is_heard_first() {
    let mut world = left(Service { drain_timeout: s(600), ..orders() });
    world.is(PARIS, Dead).is(DUBLIN, Dead).run(s(5)).is(PARIS, NeverProbed).is(DUBLIN, NeverProbed);
    // Once: that is not enough to be up, and the active one is up before it.
    world.probe(PARIS, &pass()).sleep(ms(10)).probe(DUBLIN, &pass()).probe(DUBLIN, &pass());
    assert_eq!((world.member(PARIS).state, world.member(DUBLIN).state), (MemberState::Down, MemberState::Up));
    assert_eq!(ended(&world), []);
    world.is(PARIS, Alive).is(DUBLIN, Alive).run(s(60));
    assert_eq!(ended(&world), []);
}

/// The active one has missed a probe or two only, and was up all the time.
#[test]
fn a_cut_that_only_the_drained_member_has_failed_in_ends_no_drain() {
    let mut world = left(Service { drain_timeout: s(600), ..orders() });
    world.is(PARIS, NeverProbed).is(DUBLIN, NeverProbed).probe(DUBLIN, &fail()).probe(DUBLIN, &fail());
    world.probe(PARIS, &fail()).probe(PARIS, &fail()).probe(PARIS, &fail());
    world.assert_state(PARIS, MemberState::Down);
    world.sleep(ms(100)).probe(DUBLIN, &pass());
    assert_eq!(ended(&world), []);
    world.is(PARIS, Alive).is(DUBLIN, Alive).run(s(60));
    assert_eq!(ended(&world), []);
}

/// The same, and the last of its failures comes when the active one is well again.
#[test]
fn a_probe_that_was_under_way_in_a_cut_ends_no_drain() {
    let mut world = left(Service { drain_timeout: s(600), ..orders() });
    world.is(PARIS, NeverProbed).is(DUBLIN, NeverProbed).probe(DUBLIN, &fail());
    world.probe(PARIS, &fail()).probe(PARIS, &fail()).sleep(ms(100)).probe(DUBLIN, &pass());
    world.probe(PARIS, &fail());
    world.assert_state(PARIS, MemberState::Down);
    assert_eq!(ended(&world), []);
    world.is(PARIS, Alive).is(DUBLIN, Alive).run(s(60));
    assert_eq!(ended(&world), []);
}

/// It was down for a reason of its own before the cut.
#[test]
fn a_cut_while_the_active_member_is_down_ends_no_drain() {
    let mut world = World::settled(Service { drain_timeout: s(600), ..orders() });
    world.order(&Command::Drain { member: PARIS, force: true }).unwrap();
    world.is(DUBLIN, Dead).run(s(60)).is(PARIS, Dead).run(s(5));
    world.is(PARIS, NeverProbed).is(DUBLIN, NeverProbed).probe(DUBLIN, &pass()).probe(DUBLIN, &pass());
    world.assert_active(DUBLIN, ServiceState::Degraded);
    assert_eq!(ended(&world), []);
    world.is(PARIS, Alive).is(DUBLIN, Alive).run(s(60));
    assert_eq!(ended(&world), []);
}

/// Its probes come round first; the active one was not asked since, and would not be for a while.
#[test]
fn a_cut_that_the_active_member_was_not_asked_in_ends_no_drain() {
    let mut world = left(Service { drain_timeout: s(600), ..orders() });
    world.is(PARIS, NeverProbed).is(DUBLIN, NeverProbed).sleep(ms(10)).probe(PARIS, &fail());
    assert_eq!(world.rounds(), [(world.now, DUBLIN)]);
    world.probe(PARIS, &fail()).probe(PARIS, &fail());
    world.assert_state(PARIS, MemberState::Down);
    assert_eq!(ended(&world), []);
    // It fails as well, and both come back.
    world.probe(DUBLIN, &fail()).sleep(ms(300)).probe(DUBLIN, &pass());
    assert_eq!(ended(&world), []);
    world.is(PARIS, Alive).is(DUBLIN, Alive).run(s(60));
    assert_eq!(ended(&world), []);
}

/// A probe of the active one was under way over its kept connection, and is answered when the cut is over.
#[test]
fn an_answer_that_a_cut_has_put_off_ends_no_drain() {
    let one_is_enough = with_checks(orders(), vec![Check { fall: 1, ..check() }]);
    let mut world = left(Service { drain_timeout: s(600), ..one_is_enough });
    world.is(PARIS, NeverProbed).is(DUBLIN, NeverProbed).sleep(ms(10)).probe(PARIS, &fail());
    world.assert_state(PARIS, MemberState::Down);
    world.sleep(ms(300)).probe(DUBLIN, &pass());
    assert_eq!(ended(&world), []);
    assert_eq!(world.rounds().last(), Some(&(world.now, PARIS)));
    // One probe was under way during the cut; the next one passes.
    world.probe(PARIS, &fail()).sleep(ms(1)).probe(PARIS, &pass());
    world.is(PARIS, Alive).is(DUBLIN, Alive).run(s(60));
    assert_eq!(ended(&world), []);
}

/// The same, and the drained one goes down only with the probe that was under way too.
#[test]
fn the_last_probe_of_a_cut_ends_no_drain() {
    let mut world = left(Service { drain_timeout: s(600), ..orders() });
    world.is(PARIS, NeverProbed).is(DUBLIN, NeverProbed).sleep(ms(10)).probe(PARIS, &fail());
    world.probe(PARIS, &fail()).sleep(ms(300)).probe(DUBLIN, &pass()).sleep(ms(1)).probe(PARIS, &fail());
    world.assert_state(PARIS, MemberState::Down);
    assert_eq!(ended(&world), []);
    assert_eq!(world.rounds().last(), Some(&(world.now, PARIS)));
    world.probe(PARIS, &pass()).is(PARIS, Alive).is(DUBLIN, Alive).run(s(60));
    assert_eq!(ended(&world), []);
}

/// It is down before the active one has answered, which may be far away: its next probe must fail, and nobody waits for its turn.
#[test]
fn a_dead_member_loses_its_flows_when_it_fails_after_the_active_one_has_answered() {
    let mut world = left(orders());
    let epoch = world.core.epoch();
    world.is(PARIS, NeverProbed).is(DUBLIN, NeverProbed).sleep(ms(10));
    world.probe(PARIS, &fail()).probe(PARIS, &fail()).probe(PARIS, &fail()).sleep(ms(2));
    assert_eq!(ended(&world), []);
    world.probe(DUBLIN, &pass());
    assert_eq!(ended(&world), []);
    world.is(PARIS, Dead).run(ms(0));
    assert_eq!(ended(&world), [(world.now, PARIS, epoch)]);
}

/// It has died in the cut, or the cut was its death: it fails twice more, and a prober that hangs has a window.
#[test]
fn a_member_that_stays_dead_after_a_cut_loses_its_flows_after_two_probes_more_or_a_window() {
    for is_heard in [true, false] {
        let mut world = left(Service { drain_timeout: s(600), ..orders() });
        let epoch = world.core.epoch();
        world.is(PARIS, Dead).is(DUBLIN, Dead).run(s(5)).is(DUBLIN, Alive);
        world.is(PARIS, if is_heard { Dead } else { NeverProbed });
        let before = ended(&world).len();
        world.run(s(60));
        let up = up(&world, DUBLIN);
        let [(at, PARIS, of)] = ended(&world)[..] else { panic!("{:?}", ended(&world)) };
        assert_eq!((before, of), (0, epoch));
        if is_heard {
            assert!(at.since(up) <= s(1), "{:?}", at.since(up));
        } else {
            assert_eq!(at, up + s(2));
        }
    }
}

/// Each loss of a packet there would put the end off, if it began with that of the member that died.
#[test]
fn an_active_member_that_loses_probes_delays_the_end_by_a_window_at_most() {
    let mut world = left(Service { drain_timeout: s(600), ..orders() });
    let epoch = world.core.epoch();
    world.is(PARIS, NeverProbed).is(DUBLIN, NeverProbed).probe(DUBLIN, &fail());
    world.probe(PARIS, &fail()).probe(PARIS, &fail()).probe(PARIS, &fail());
    let found = world.now;
    world.sleep(ms(1));
    for _ in 0..30 {
        world.probe(DUBLIN, &pass()).probe(DUBLIN, &fail()).run(ms(100));
    }
    assert_eq!(ended(&world), [(found + s(2), PARIS, epoch)]);
}

/// Whoever is on it stays, and ends with the next failover as everybody does.
#[test]
fn a_member_that_is_active_again_is_left_by_a_failover() {
    let mut world = left(orders());
    world.run(s(5)).order(&switch(PARIS)).unwrap();
    world.done.clear();
    // The pin goes with its member.
    world.order(&Command::Release).unwrap();
    world.is(PARIS, Dead).run(s(60));
    assert_eq!(world.the_switch().kind, SwitchKind::Failover);
    assert_eq!(ended(&world), []);
    assert!(world.floors().is_empty());
}

#[test]
fn the_next_agent_ends_it_too() {
    let last = ResumedSwitch {
        from: Some(PARIS),
        kind: SwitchKind::Failback,
        policy: None,
        reason: String::new(),
        age: s(1),
        drains: None,
        is_older: false,
    };
    let resumed = Resumed { active: Some(DUBLIN), epoch: Epoch(7), floor: Epoch(6), last: Some(last) };
    let service = Service { drain_timeout: s(600), ..orders() };
    let mut world = World::resumed(service, Some(resumed));
    world.is(PARIS, Dead).run(s(60));
    assert_eq!(ended(&world), [(down(&world, PARIS), PARIS, Epoch(7))]);
    assert!(world.floors().is_empty());
}
