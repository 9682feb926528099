//! Signals: when probers look, what is told of it, and what a signal cannot do.

use super::world::*;
use crate::{
    decide::Action,
    model::{
        Borne, MemberId, MemberState, ServiceState, Signal, SignalKind, Signals, SwitchKind, TroubleKind,
    },
};

fn with(signals: Signals) -> World {
    World::settled(crate::model::Service { signals, ..orders() })
}

fn told(world: &World) -> Vec<(SignalKind, u32, bool)> {
    let told = |(_, action): &(_, Action)| match action {
        Action::Signal { signal: Signal { kind, count, .. }, looked, .. } => Some((*kind, *count, *looked)),
        _ => None,
    };
    world.done.iter().filter_map(told).collect()
}

fn borne(world: &World, member: MemberId) -> Borne {
    let borne = |(_, action): &(_, Action)| match action {
        Action::MemberChanged { member: of, state: MemberState::Down, borne, .. } if *of == member => *borne,
        _ => None,
    };
    world.done.iter().find_map(borne).expect("it went down, and that was said")
}

#[test]
fn a_signal_takes_away_the_wait_for_the_next_probe() {
    let mut world = with(Signals::Act);
    world.run(ms(300)).is(PARIS, Dead);
    let crashed = world.now;
    world.run(ms(2)).signal(PARIS, SignalKind::Closed).run(ms(200));
    // Three refusals in a row, the first one at once.
    world.assert_switched(SwitchKind::Failover, DUBLIN, crashed, ms(2) + ms(50) * 2);
    let borne = borne(&world, PARIS);
    assert_eq!((borne.trouble, borne.lasted), (TroubleKind::Refused, ms(100)));
    assert_eq!((borne.signal, borne.signalled), (Some(SignalKind::Closed), Some(ms(100))));
    assert_eq!(world.the_switch().borne, Some(borne));
}

#[test]
fn without_a_signal_none_is_named() {
    let mut world = with(Signals::Act);
    // Looked at, and nothing found.
    world.signal(PARIS, SignalKind::Retransmitted).run(s(1));
    world.is(PARIS, Dead).run(s(2));
    let borne = borne(&world, PARIS);
    assert_eq!((borne.trouble, borne.signal, borne.signalled), (TroubleKind::Refused, None, None));
}

/// A firewall that rejects one container's packets with resets: the probes of this host pass.
#[test]
fn a_signal_proves_nothing() {
    let mut world = with(Signals::Act);
    for _ in 0..600 {
        world.run(ms(100)).signal(PARIS, SignalKind::Refused).signal(PARIS, SignalKind::Reset);
    }
    world.assert_no_switch();
    world.assert_active(PARIS, ServiceState::Ok);
}

#[test]
fn what_comes_too_early_is_looked_at_a_little_later() {
    let mut world = with(Signals::Act);
    let first = world.now;
    world.signal(PARIS, SignalKind::Closed).run(ms(20)).signal(PARIS, SignalKind::Refused);
    assert_eq!(world.looks(PARIS), [first]);
    assert_eq!(world.core.next_deadline(), Some(first + ms(50)));
    world.run(ms(100));
    assert_eq!(world.looks(PARIS), [first, first + ms(50)]);
    assert!(world.looks(DUBLIN).is_empty());
}

#[test]
fn a_kind_that_cries_wolf_is_believed_less_often_and_no_other() {
    let mut world = with(Signals::Act);
    for _ in 0..6000 {
        world.run(ms(10)).signal(PARIS, SignalKind::Retransmitted);
    }
    // In a minute, of 6000 signals: one for each interval, and the first few.
    let looks = world.looks(PARIS).len();
    assert!((55..=68).contains(&looks), "{looks} looks");
    world.signal(PARIS, SignalKind::Silent);
    let found = world.looks(PARIS).last().map(|last| world.now.since(*last) <= ms(50));
    world.run(ms(50));
    assert!(found == Some(true) || world.now.since(*world.looks(PARIS).last().unwrap()) <= ms(50));
}

#[test]
fn after_a_quiet_while_a_kind_is_believed_again() {
    let mut world = with(Signals::Act);
    for _ in 0..500 {
        world.run(ms(10)).signal(PARIS, SignalKind::Retransmitted);
    }
    world.run(s(3));
    let before = world.looks(PARIS).len();
    world.signal(PARIS, SignalKind::Retransmitted).run(ms(50)).signal(PARIS, SignalKind::Retransmitted);
    assert_eq!(world.looks(PARIS).len(), before + 2);
}

#[test]
fn a_probe_that_fails_makes_every_kind_believed() {
    let mut world = with(Signals::Act);
    for _ in 0..1000 {
        world.run(ms(10)).signal(PARIS, SignalKind::Closed);
    }
    let before = world.looks(PARIS).len();
    world.probe(PARIS, &fail()).run(ms(50)).signal(PARIS, SignalKind::Closed);
    assert!(world.looks(PARIS).len() > before, "it waits");
}

#[test]
fn a_member_that_is_down_is_not_looked_at() {
    let mut world = with(Signals::Act);
    world.is(DUBLIN, Dead).run(s(5)).assert_state(DUBLIN, MemberState::Down);
    world.signal(DUBLIN, SignalKind::Refused).run(s(5));
    assert!(world.looks(DUBLIN).is_empty() && told(&world).is_empty());
}

#[test]
fn observing_tells_and_does_not_look() {
    let mut world = with(Signals::Observe);
    world.signal(PARIS, SignalKind::Silent).run(s(1));
    assert_eq!(told(&world), [(SignalKind::Silent, 1, false)]);
    assert!(world.looks(PARIS).is_empty());
    assert_eq!(world.core.explain(world.now).members[PARIS.0].signals[0].signal, "silent");
}

#[test]
fn off_is_off() {
    let mut world = with(Signals::Off);
    world.signal(PARIS, SignalKind::Silent).run(s(1));
    assert!(world.done.is_empty());
    assert!(world.core.explain(world.now).members[PARIS.0].signals.is_empty());
}

/// Ten thousand signals are few events, and each of them is counted in one.
#[test]
fn a_kind_is_an_event_once_in_ten_seconds() {
    let mut world = with(Signals::Act);
    for _ in 0..10_000 {
        world.run(ms(10)).signal(PARIS, SignalKind::Retransmitted);
    }
    let told = told(&world);
    assert!((9..=11).contains(&told.len()), "{told:?}");
    assert!(told.iter().map(|(_, count, _)| count).sum::<u32>() > 9000);
}
