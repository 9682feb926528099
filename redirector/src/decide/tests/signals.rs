//! Signals: when probers look, what is told of it, and what a signal cannot do.

use std::time::Duration;

use super::world::*;
use crate::{
    decide::Action,
    model::{
        Borne, Cause, Check, CheckId, CheckKind, Combine, Effect, Failure, Lag, MemberId, MemberState, Phase,
        ProbeOutcome, RedisErrorKind, ServiceState, Signal, SignalKind, Signals, SwitchKind, TroubleKind,
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
    // Far from the next look at that kind.
    let last = *world.looks(PARIS).last().expect("there were some");
    world.run(ms(100).saturating_sub(world.now.since(last)));
    let before = world.looks(PARIS).len();
    world.signal(PARIS, SignalKind::Silent);
    assert_eq!(world.looks(PARIS).len(), before + 1, "another kind is believed at once");
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

/// One of two addresses is dead for good: that is no news, and noise is not believed again with each of its probes.
#[test]
fn what_fails_steadily_makes_nothing_believed() {
    let mut world = with(Signals::Act);
    let dead = address(PARIS, 1);
    world.has(PARIS, &[address(PARIS, 0), dead]).address_is(dead, Dead).run(s(30));
    world.done.clear();
    for _ in 0..6000 {
        world.run(ms(10)).signal(PARIS, SignalKind::Retransmitted);
    }
    let looks = world.looks(PARIS).len();
    assert!((55..=68).contains(&looks), "{looks} looks");
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

/// A burst of one look: a crash ends a hundred connections, and the first of them is an event. The others used to be told
/// with the next crash.
#[test]
fn the_end_of_a_row_is_told_when_its_time_comes() {
    let mut world = with(Signals::Act);
    for _ in 0..5 {
        world.signal(PARIS, SignalKind::Closed);
    }
    world.run(s(9));
    assert_eq!(told(&world), [(SignalKind::Closed, 1, true)]);
    world.run(s(2));
    assert_eq!(told(&world), [(SignalKind::Closed, 1, true), (SignalKind::Closed, 4, true)]);
    let ago = world.done.iter().filter_map(|(_, action)| match action {
        Action::Signal { signal, .. } => Some(signal.ago),
        _ => None,
    });
    assert_eq!(ago.max(), Some(s(10)), "when it was seen, not when it is told");
}

#[test]
fn the_end_of_a_row_is_told_of_a_member_that_went_down_too() {
    let mut world = with(Signals::Act);
    world.is(PARIS, Dead);
    for _ in 0..5 {
        world.signal(PARIS, SignalKind::Closed);
    }
    world.run(s(1)).assert_state(PARIS, MemberState::Down);
    // What is refused while it is down is no news.
    world.signal(PARIS, SignalKind::Closed).signal(PARIS, SignalKind::Refused).run(s(30));
    assert_eq!(told(&world), [(SignalKind::Closed, 1, true), (SignalKind::Closed, 4, true)]);
}

#[test]
fn each_error_is_a_kind_of_its_own() {
    let mut world = with(Signals::Act);
    let [read_only, loading] =
        [RedisErrorKind::ReadOnly, RedisErrorKind::Loading].map(SignalKind::ErrorReply);
    world.signal(PARIS, read_only).run(ms(200)).signal(PARIS, loading).signal(PARIS, read_only).run(s(5));
    assert_eq!(told(&world), [(read_only, 1, true), (loading, 1, true)]);
    assert_eq!(world.looks(PARIS).len(), 3);
    let explained = world.core.explain(world.now).members[PARIS.0].signals.clone();
    let explained: Vec<_> = explained.iter().map(|kind| (kind.signal.as_str(), kind.count)).collect();
    assert_eq!(explained, [("error_reply LOADING", 1), ("error_reply READONLY", 2)]);
}

/// Minutes of refusals used to be looked at when the member was back, and named when it failed again.
#[test]
fn what_was_seen_while_a_member_was_down_has_nothing_to_do_with_what_follows() {
    let mut world = with(Signals::Act);
    world.is(DUBLIN, Dead).run(s(5)).assert_state(DUBLIN, MemberState::Down);
    for _ in 0..600 {
        world.run(ms(100)).signal(DUBLIN, SignalKind::Refused);
    }
    world.is(DUBLIN, Alive).run(s(3)).assert_state(DUBLIN, MemberState::Up);
    assert!(world.looks(DUBLIN).is_empty() && told(&world).is_empty());
    world.done.clear();
    world.is(DUBLIN, Dead).run(s(5));
    assert_eq!(borne(&world, DUBLIN).signal, None);
    let seen = &world.core.explain(world.now).members[DUBLIN.0].signals[0];
    assert_eq!((seen.signal.as_str(), seen.count), ("refused", 600), "it is counted all the same");
}

/// What waited to be looked at when the member went down used to be looked at when it was back.
#[test]
fn what_waits_when_a_member_goes_down_waits_no_more() {
    let mut world = with(Signals::Act);
    world.signal(DUBLIN, SignalKind::Closed).signal(DUBLIN, SignalKind::Refused);
    for _ in 0..3 {
        world.probe(DUBLIN, &fail());
    }
    world.is(DUBLIN, Dead).assert_state(DUBLIN, MemberState::Down);
    let before = world.looks(DUBLIN).len();
    world.run(s(20)).is(DUBLIN, Alive).run(s(5)).assert_state(DUBLIN, MemberState::Up);
    assert_eq!(world.looks(DUBLIN).len(), before);
}

/// Of two checks one fails for good, and any of them is enough: the signal of a lost segment used to be named for whatever came
/// hours later.
#[test]
fn a_check_that_fails_for_good_keeps_no_alarm() {
    let [one, other] = ["one", "other"].map(|name| crate::model::Check { name: name.to_owned(), ..check() });
    let service = with_checks(crate::model::Service { combine: Combine::Any, ..orders() }, vec![one, other]);
    assert!(service.checks.iter().all(|check| check.effect == Effect::Count));
    let mut world = World::settled(service);
    world.is(PARIS, NeverProbed);
    for second in 0..60 {
        if second == 10 {
            world.signal(PARIS, SignalKind::Retransmitted);
        }
        for (check, outcome) in [pass(), fail()].iter().enumerate() {
            let (now, address) = (world.now, address(PARIS, 0));
            world.core.on_probe(now, PARIS, address, crate::model::CheckId(check), outcome);
        }
        world.run(s(1)).assert_state(PARIS, MemberState::Up);
    }
    world.is(PARIS, Dead).run(s(5));
    assert_eq!(borne(&world, PARIS).signal, None);
}

/// A kind that cries wolf is looked at up to an interval later. A probe that passed meanwhile has looked already.
#[test]
fn what_a_probe_has_answered_is_not_named_later() {
    let mut world = with(Signals::Act);
    for _ in 0..500 {
        world.run(ms(10)).signal(PARIS, SignalKind::Retransmitted);
    }
    let waits = world.core.next_deadline().unwrap().since(world.now);
    assert!(waits > ms(10), "{waits:?}");
    world.run(ms(1)).probe(PARIS, &pass()).is(PARIS, Dead).run(s(5));
    assert_eq!(borne(&world, PARIS).signal, None);
}

/// Nobody is probed but by the test, and `checks` are the members'.
fn by_hand(checks: Vec<Check>) -> World {
    let mut world = World::settled(with_checks(orders(), checks));
    for member in [PARIS, DUBLIN] {
        world.is(member, NeverProbed);
        (0..world.core.service.checks.len()).for_each(|check| at(&mut world, member, 0, check, &pass()));
    }
    world.assert_state(PARIS, MemberState::Up);
    world.run(s(1));
    world
}

/// A probe of an address ends now.
fn at(world: &mut World, member: MemberId, number: u8, check: usize, outcome: &ProbeOutcome) {
    let (now, address) = (world.now, address(member, number));
    world.core.on_probe(now, member, address, CheckId(check), outcome);
    world.drain_actions();
}

fn took(latency: Duration) -> ProbeOutcome {
    ProbeOutcome::Passed { latency }
}

fn check_of(kind: CheckKind, name: &str) -> Check {
    Check { name: name.to_owned(), ..Check::of(kind) }
}

/// The kernel of a frozen server goes on accepting connections: that used to clear the alarm.
#[test]
fn a_check_that_cannot_tell_does_not_clear_the_alarm() {
    let mut world = by_hand(vec![check_of(CheckKind::Ping, "ping"), check_of(CheckKind::Tcp, "tcp")]);
    world.signal(PARIS, SignalKind::Stalled).run(ms(1));
    at(&mut world, PARIS, 0, 1, &pass());
    let after = s(1);
    let stalled = ProbeOutcome::Failed(Failure { phase: Phase::Command, cause: Cause::TimedOut(after) });
    for _ in 0..3 {
        world.run(after);
        at(&mut world, PARIS, 0, 0, &stalled);
        at(&mut world, PARIS, 0, 1, &pass());
    }
    let borne = borne(&world, PARIS);
    assert_eq!((borne.trouble, borne.signal), (TroubleKind::Stall, Some(SignalKind::Stalled)));
}

/// It was restarted with another password: its probes say nothing from then on.
#[test]
fn a_failure_before_probes_that_say_nothing_keeps_no_alarm() {
    let mut world = by_hand(vec![check()]);
    world.signal(PARIS, SignalKind::Refused).run(ms(1));
    at(&mut world, PARIS, 0, 0, &fail());
    world.run(ms(100));
    at(&mut world, PARIS, 0, 0, &inconclusive());
    world.run(s(60));
    (0..3).for_each(|_| at(&mut world, PARIS, 0, 0, &fail()));
    assert_eq!(borne(&world, PARIS).signal, None);
}

/// What asks somebody else about the member says nothing of its traffic, and is not waited for.
#[test]
fn a_check_that_follows_no_signal_neither_clears_the_alarm_nor_keeps_it() {
    let lag = CheckKind::Lag(Lag { tolerance: ms(100), extended: true, of: None });
    let lag = Check { effect: Effect::Gate, ..check_of(lag, "lag") };
    let http = Check { kind: lag.kind.clone(), ..check_of(CheckKind::Tcp, "http") };
    let checks = vec![check_of(CheckKind::Ping, "ping"), lag, http];
    for answers in [true, false] {
        let mut world = by_hand(checks.clone());
        world.signal(PARIS, SignalKind::Reset).run(ms(1));
        for check in if answers { 0..1 } else { 1..3 } {
            at(&mut world, PARIS, 0, check, &pass());
        }
        world.run(s(1));
        (0..3).for_each(|_| at(&mut world, PARIS, 0, 0, &fail()));
        assert_eq!(borne(&world, PARIS).signal, (!answers).then_some(SignalKind::Reset));
    }
}

/// A long way: what was asked before the member died is answered after the kernel has seen it die.
#[test]
fn a_probe_that_began_before_the_signal_does_not_clear_the_alarm() {
    for (began_before, named) in [(ms(50), Some(SignalKind::Silent)), (ms(5), None)] {
        let mut world = by_hand(vec![check()]);
        world.signal(PARIS, SignalKind::Silent).run(ms(10));
        at(&mut world, PARIS, 0, 0, &took(began_before));
        world.run(ms(100));
        (0..3).for_each(|_| at(&mut world, PARIS, 0, 0, &fail()));
        assert_eq!(borne(&world, PARIS).signal, named, "{began_before:?}");
    }
}

/// The other address of the same member answers first.
#[test]
fn one_address_does_not_answer_for_another() {
    let mut world = by_hand(vec![check()]);
    world.has(PARIS, &[address(PARIS, 0), address(PARIS, 1)]).is(PARIS, NeverProbed);
    (0..2).for_each(|number| at(&mut world, PARIS, number, 0, &pass()));
    world.run(s(1)).signal(PARIS, SignalKind::Unreachable).run(ms(1));
    at(&mut world, PARIS, 1, 0, &pass());
    for _ in 0..3 {
        world.run(ms(50));
        (0..2).for_each(|number| at(&mut world, PARIS, number, 0, &fail()));
    }
    assert_eq!(borne(&world, PARIS).signal, Some(SignalKind::Unreachable));
}

/// Two kinds that waited are looked at together: the one that saw the trouble first is named.
#[test]
fn of_several_signals_the_one_whose_trouble_began_first_is_named() {
    let mut world = by_hand(vec![check()]);
    world.signal(PARIS, SignalKind::Retransmitted);
    at(&mut world, PARIS, 0, 0, &took(Duration::ZERO));
    world.run(ms(1));
    for (kind, ago) in [(SignalKind::Refused, ms(5)), (SignalKind::Silent, ms(100))] {
        let now = world.now;
        world.core.on_signal(now, PARIS, &Signal { kind, ago, count: 1 });
    }
    world.run(ms(100));
    assert_eq!(world.looks(PARIS).len(), 2, "each was looked at by itself");
    (0..3).for_each(|_| at(&mut world, PARIS, 0, 0, &fail()));
    let borne = borne(&world, PARIS);
    assert_eq!((borne.signal, borne.signalled), (Some(SignalKind::Silent), Some(ms(200))));
}

#[test]
fn a_reload_that_says_otherwise_forgets_what_waits() {
    let mut world = with(Signals::Observe);
    world.signal(PARIS, SignalKind::Closed).signal(PARIS, SignalKind::Closed);
    assert_eq!(told(&world).len(), 1);
    world.reload(crate::model::Service { signals: Signals::Act, ..orders() }, &[Some(PARIS), Some(DUBLIN)]);
    world.run(s(20));
    assert!(world.looks(PARIS).is_empty());
    assert_eq!(told(&world).len(), 1);
}
