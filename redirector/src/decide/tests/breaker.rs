//! The breaker: it takes a member down for what clients meet, and only checks bring it back.

use super::world::*;
use crate::{
    decide::Action,
    model::{Breaker, MemberState, Service, ServiceState, Signals, SwitchKind, Traffic, TroubleKind},
};

const OK: Traffic = Traffic { connected: 1, failed: 0, answered: 999, errors: 0 };
const BAD: Traffic = Traffic { connected: 0, failed: 0, answered: 0, errors: 100 };

fn with(breaker: Breaker) -> World {
    World::settled(Service { breaker: Some(breaker), ..orders() })
}

/// As long as `open_for` is, and two passes at an interval of a second.
fn usual() -> Breaker {
    Breaker { in_a_row: 0, ..Breaker::default() }
}

/// Traffic that goes on for `looks` looks, ten in a second.
fn goes_on(world: &mut World, looks: u32, traffic: Traffic) {
    for _ in 0..looks {
        world.run(ms(100)).traffic(PARIS, traffic);
    }
}

#[test]
fn clients_that_fail_open_it_although_the_checks_pass() {
    let mut world = with(usual());
    goes_on(&mut world, 9, BAD);
    world.assert_no_switch();
    goes_on(&mut world, 1, BAD);
    let switch = world.the_switch();
    assert_eq!((switch.kind, switch.to), (SwitchKind::Failover, Some(DUBLIN)));
    assert_eq!(
        switch.reason,
        "member \"paris\" down: breaker open: 1000 of 1000 attempts of clients failed within 2s"
    );
    assert_eq!(switch.borne.unwrap().trouble, TroubleKind::Breaker);
    world.assert_state(PARIS, MemberState::Down);
}

/// redis-py and Jedis: both must be reached.
#[test]
fn a_thousand_failures_of_a_hundred_thousand_attempts_are_not_enough() {
    let mut world = with(usual());
    goes_on(&mut world, 100, Traffic { answered: 9000, ..BAD });
    world.assert_no_switch();
}

#[test]
fn what_is_seldom_used_is_left_for_failures_in_a_row() {
    let mut world = with(Breaker::default());
    let one = Traffic { failed: 1, connected: 0, answered: 0, errors: 0 };
    for _ in 0..19 {
        world.run(s(7)).traffic(PARIS, one);
    }
    world.run(s(1)).traffic(PARIS, Traffic { connected: 1, failed: 0, answered: 0, errors: 0 });
    for _ in 0..19 {
        world.run(s(7)).traffic(PARIS, one);
    }
    world.assert_no_switch();
    world.traffic(PARIS, one);
    assert!(world.the_switch().reason.ends_with("breaker open: 20 attempts of clients failed in a row"));
}

#[test]
fn it_is_closed_by_checks_alone_when_its_time_is_over() {
    let mut world = with(Breaker { open_for: s(20), ..usual() });
    goes_on(&mut world, 10, BAD);
    let opened = world.now;
    // Its checks pass all the time, and clients that are left are no proof.
    world.run(ms(19_900)).traffic(PARIS, OK).assert_state(PARIS, MemberState::Down);
    assert!(world.member(PARIS).reason.starts_with("breaker open"), "{}", world.member(PARIS).reason);
    world.run(ms(200)).traffic(PARIS, OK).assert_state(PARIS, MemberState::Down);
    assert!(world.member(PARIS).reason.starts_with("breaker half open"));
    world.run(s(2)).assert_state(PARIS, MemberState::Up);
    let up = world.now;
    // `rise` passes after that, an interval apart.
    assert!(up.since(opened) >= s(21));
    // From then on as any member that has come back.
    world.run(s(61)).assert_active(PARIS, ServiceState::Ok);
    assert_eq!(world.the_last_switch().kind, SwitchKind::Failback);
}

#[test]
fn half_open_a_failure_begins_the_passes_anew() {
    let mut world = with(Breaker { open_for: s(20), ..usual() });
    goes_on(&mut world, 10, BAD);
    world.is(PARIS, NeverProbed).run(s(21));
    world.probe(PARIS, &pass()).probe(PARIS, &fail()).probe(PARIS, &pass());
    world.assert_state(PARIS, MemberState::Down);
    world.probe(PARIS, &pass()).assert_state(PARIS, MemberState::Up);
}

#[test]
fn closed_it_counts_from_zero() {
    let mut world = with(Breaker { open_for: s(1), ..usual() });
    goes_on(&mut world, 10, BAD);
    world.run(s(5)).assert_state(PARIS, MemberState::Up);
    world.traffic(PARIS, BAD).assert_state(PARIS, MemberState::Up);
}

/// What fails while the member is down anyway is no reason to go down again when it is back.
#[test]
fn failures_of_a_member_that_is_down_are_not_counted() {
    let mut world = with(usual());
    world.is(PARIS, Dead).run(s(5));
    goes_on(&mut world, 12, BAD);
    // Back within the window.
    world.is(PARIS, Alive).run(ms(1100)).assert_state(PARIS, MemberState::Up);
    world.traffic(PARIS, BAD).assert_state(PARIS, MemberState::Up);
}

#[test]
fn with_nobody_to_go_to_the_active_member_stays() {
    let mut world = with(usual());
    world.is(DUBLIN, Dead).run(s(5));
    goes_on(&mut world, 30, BAD);
    world.assert_no_switch();
    world.assert_active(PARIS, ServiceState::Down);
}

#[test]
fn without_a_breaker_or_with_signals_off_traffic_decides_nothing() {
    let off = Service { breaker: Some(usual()), signals: Signals::Off, ..orders() };
    for service in [orders(), off] {
        let mut world = World::settled(service);
        goes_on(&mut world, 100, BAD);
        assert!(world.done.is_empty());
    }
}

#[test]
fn a_reload_without_a_breaker_closes_it() {
    let mut world = with(usual());
    goes_on(&mut world, 10, BAD);
    let both = [Some(PARIS), Some(DUBLIN)];
    world.reload(Service { breaker: Some(usual()), ..orders() }, &both);
    world.assert_state(PARIS, MemberState::Down);
    world.reload(orders(), &both).assert_state(PARIS, MemberState::Up);
}

/// It used to apply to the next time that the breaker opened.
#[test]
fn a_reload_applies_its_open_for_to_a_breaker_that_is_open() {
    let both = [Some(PARIS), Some(DUBLIN)];
    let open_for = |open_for| Service { breaker: Some(Breaker { open_for, ..usual() }), ..orders() };
    for (now, then_half_open_after) in [(s(20), s(20)), (s(1), s(5)), (s(90), s(90))] {
        let mut world = World::settled(open_for(s(60)));
        goes_on(&mut world, 10, BAD);
        let opened = world.now;
        let is_half_open = |world: &World| world.member(PARIS).reason.starts_with("breaker half open");
        world.is(PARIS, NeverProbed).run(s(5)).reload(open_for(now), &both);
        if then_half_open_after > s(5) {
            world.run(then_half_open_after.saturating_sub(ms(100)).saturating_sub(world.now.since(opened)));
            assert!(!is_half_open(&world), "{now:?}");
            world.run(ms(200));
        }
        assert!(is_half_open(&world), "{now:?}: {}", world.member(PARIS).reason);
    }
}

#[test]
fn observing_it_counts_and_never_opens() {
    let observed = Service { breaker: Some(Breaker::default()), signals: Signals::Observe, ..orders() };
    let mut world = World::settled(observed.clone());
    goes_on(&mut world, 30, BAD);
    world.assert_no_switch();
    let counted = world.core.explain(world.now).members[PARIS.0].breaker.clone().unwrap();
    assert_eq!((counted.state.as_ref(), counted.failures, counted.in_a_row), ("closed", 2100, 3000));
    // What was counted to be shown opens nothing.
    let both = [Some(PARIS), Some(DUBLIN)];
    let acting = Service { signals: Signals::Act, ..observed.clone() };
    world.reload(acting, &both).traffic(PARIS, Traffic { errors: 1, ..Traffic::default() });
    world.assert_no_switch();
    goes_on(&mut world, 1, BAD);
    world.assert_state(PARIS, MemberState::Down);
    world.reload(observed, &both).assert_state(PARIS, MemberState::Up);
}

#[test]
fn explain_says_what_was_counted_and_what_it_waits_for() {
    let mut world = with(usual());
    goes_on(&mut world, 3, BAD);
    world.traffic(PARIS, OK);
    let explained = world.core.explain(world.now).members[PARIS.0].breaker.clone().unwrap();
    assert_eq!((explained.state.as_ref(), explained.attempts, explained.failures), ("closed", 1300, 300));
    let shown = world.member(PARIS).breaker.unwrap();
    assert_eq!((shown.state, shown.since, shown.attempts, shown.failures), ("closed", None, 1300, 300));
    goes_on(&mut world, 10, BAD);
    let shown = world.member(PARIS).breaker.unwrap();
    assert_eq!((shown.state, shown.attempts), ("open", 0));
    assert!(shown.since.is_some());
    assert_eq!(World::settled(orders()).member(PARIS).breaker, None);
    let explanation = world.core.explain(world.now);
    assert_eq!(explanation.members[PARIS.0].breaker.as_ref().unwrap().state, "open");
    assert!(explanation.timers.iter().any(|timer| timer.name == "breaker"), "{:?}", explanation.timers);
    assert!(world.done.iter().any(|(_, action)| matches!(action, Action::MemberChanged { .. })));
}
