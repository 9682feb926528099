//! Several checks: which of them make an address up or down, and what gates and observed checks are for.

use proptest::prelude::*;

use super::world::*;
use crate::{
    decide::{Time, health::Health},
    model::{Check, CheckId, Combine, Effect, MemberState, Pace, ProbeOutcome, Service},
};

fn checks(effects: &[Effect]) -> Vec<Check> {
    let check = |(number, effect): (usize, &Effect)| Check {
        name: format!("c{number}"),
        effect: *effect,
        fall: 1,
        rise: 1,
        ..check()
    };
    effects.iter().enumerate().map(check).collect()
}

/// An address after one outcome of each check, or none.
fn health(effects: &[Effect], combine: Combine, outcomes: &[Option<ProbeOutcome>]) -> Health {
    let mut health = Health::unknown(&checks(effects), combine);
    for (number, outcome) in outcomes.iter().enumerate() {
        if let Some(outcome) = outcome {
            let _ = health.on_outcome(Time::default(), CheckId(number), outcome);
        }
    }
    health
}

fn outcome(letter: char) -> Option<ProbeOutcome> {
    match letter {
        'p' => Some(pass()),
        'f' => Some(fail()),
        'i' => Some(inconclusive()),
        _ => None,
    }
}

fn state(effects: &[Effect], combine: Combine, letters: &str) -> MemberState {
    health(effects, combine, &letters.chars().map(outcome).collect::<Vec<_>>()).state()
}

#[test]
fn as_many_as_are_asked_for_must_pass() {
    use MemberState::{Down, Unknown, Up};
    let three = [Effect::Count; 3];
    for (combine, letters, expected) in [
        (Combine::All, "ppp", Up),
        (Combine::All, "pp-", Unknown),
        (Combine::All, "pf-", Down),
        (Combine::Any, "--p", Up),
        (Combine::Any, "ffp", Up),
        (Combine::Any, "ff-", Unknown),
        (Combine::Any, "fff", Down),
        (Combine::AtLeast(2), "pp-", Up),
        (Combine::AtLeast(2), "pfp", Up),
        (Combine::AtLeast(2), "p--", Unknown),
        (Combine::AtLeast(2), "f--", Unknown),
        (Combine::AtLeast(2), "ff-", Down),
        (Combine::Any, "ffi", Unknown),
    ] {
        assert_eq!(state(&three, combine, letters), expected, "{combine:?} {letters}");
    }
}

#[test]
fn a_veto_must_pass_whatever_the_others_say() {
    use MemberState::{Down, Unknown, Up};
    let effects = [Effect::Count, Effect::Count, Effect::Veto];
    for (letters, expected) in
        [("ppp", Up), ("ppf", Down), ("pp-", Unknown), ("--f", Down), ("fpp", Up), ("ffp", Down)]
    {
        assert_eq!(state(&effects, Combine::Any, letters), expected, "{letters}");
    }
    assert_eq!(state(&[Effect::Veto], Combine::All, "p"), Up);
    assert_eq!(state(&[Effect::Veto], Combine::All, "-"), Unknown);
}

fn any_effect() -> impl Strategy<Value = Effect> {
    prop::sample::select(vec![Effect::Count, Effect::Count, Effect::Veto, Effect::Gate, Effect::Observe])
}

proptest! {
    /// Unknown means exactly this: it could still become either, whatever is known by now.
    #[test]
    fn unknown_is_what_may_go_either_way(
        effects in prop::collection::vec(any_effect(), 1..6),
        letters in "[pf-]{6}",
        at_least in 1_u32..4,
    ) {
        prop_assume!(effects.iter().any(|effect| effect.decides()));
        let letters = &letters[..effects.len()];
        let open: Vec<_> = letters.char_indices().filter(|(_, letter)| *letter == '-').map(|(at, _)| at).collect();
        for combine in [Combine::All, Combine::Any, Combine::AtLeast(at_least)] {
            let mut seen = Vec::new();
            for bits in 0..1_usize << open.len() {
                let mut complete: Vec<char> = letters.chars().collect();
                for (bit, at) in open.iter().enumerate() {
                    complete[*at] = if bits >> bit & 1 == 1 { 'p' } else { 'f' };
                }
                let complete: String = complete.into_iter().collect();
                let state = state(&effects, combine, &complete);
                prop_assert_ne!(state, MemberState::Unknown, "{} is known", complete);
                let vetoed = effects.iter().zip(complete.chars())
                    .any(|(effect, letter)| *effect == Effect::Veto && letter == 'f');
                prop_assert!(!vetoed || state == MemberState::Down);
                seen.push(state);
            }
            let certain = seen.iter().all(|state| *state == seen[0]);
            let expected = if certain { seen[0] } else { MemberState::Unknown };
            prop_assert_eq!(state(&effects, combine, letters), expected, "{:?} {}", combine, letters);
        }
    }
}

#[test]
fn gates_and_observed_checks_make_nothing_up_or_down_but_are_shown() {
    let effects = [Effect::Count, Effect::Gate, Effect::Observe];
    assert_eq!(state(&effects, Combine::All, "p--"), MemberState::Up);
    assert_eq!(state(&effects, Combine::All, "pff"), MemberState::Up);
    assert_eq!(state(&effects, Combine::All, "-pp"), MemberState::Unknown);
    assert_eq!(state(&effects, Combine::All, "fpp"), MemberState::Down);
    let reason = health(&effects, Combine::All, &[Some(pass()), Some(fail()), Some(fail())]).reason();
    assert_eq!(reason, "c0 ok in 0.3 ms; gate c1: connection refused; observe c2: connection refused");
}

#[test]
fn a_gate_bars_while_it_fails_and_until_its_first_verdict_but_not_when_its_probes_say_nothing() {
    let gate = |letters: &str| {
        let outcomes: Vec<_> = letters.chars().map(outcome).collect();
        health(&[Effect::Count, Effect::Gate], Combine::All, &outcomes).gate()
    };
    assert_eq!(gate("pp"), None);
    assert_eq!(gate("pf").as_deref(), Some("c1: connection refused"));
    assert_eq!(gate("p-").as_deref(), Some("c1: no verdict yet"));
    assert_eq!(gate("pi"), None, "a REST API that is gone bars nobody");
    let ungated = health(&[Effect::Count, Effect::Observe], Combine::All, &[Some(pass()), Some(fail())]);
    assert_eq!(ungated.gate(), None);

    // Its first failures are being counted.
    let mut checks = checks(&[Effect::Count, Effect::Gate]);
    checks[1].fall = 2;
    let mut health = Health::unknown(&checks, Combine::All);
    let _ = health.on_outcome(Time::default(), CheckId(1), &fail());
    assert_eq!(health.gate().as_deref(), Some("c1: connection refused (1 of 2)"));
}

/// Paris is up again, and would be returned to but for its gate, which has failed.
fn barred(failures: u32) -> World {
    let mut checks = checks(&[Effect::Count, Effect::Gate]);
    checks[1].fall = 3;
    let mut world = World::settled(with_checks(orders(), checks));
    world.is(PARIS, Dead).run(s(5)).is(PARIS, NeverProbed).probe_check(PARIS, CheckId(0), &pass());
    world.probe_check(PARIS, CheckId(1), &pass());
    for _ in 0..failures {
        world.probe_check(PARIS, CheckId(1), &fail());
    }
    world.sleep(s(300));
    world
}

fn is_barred(world: &World) -> bool {
    world.member(PARIS).eligible_reason.is_some_and(|why| why.starts_with("its gate fails"))
}

/// The member was rebuilt, say, and its REST API is gone: it was never returned to.
#[test]
fn a_gate_that_failed_and_then_says_nothing_bars_for_healthy_for() {
    let mut world = barred(3);
    for _ in 0..6 {
        world.probe_check(PARIS, CheckId(1), &inconclusive());
        assert!(is_barred(&world), "one time-out opens no gate");
        world.sleep(s(10));
    }
    world.probe_check(PARIS, CheckId(1), &inconclusive());
    assert!(!is_barred(&world));
    assert_eq!(world.rounds().last(), Some(&(world.now, PARIS)));
    world.probe_check(PARIS, CheckId(0), &pass()).probe_check(PARIS, CheckId(1), &inconclusive());
    assert_eq!(world.view().active, Some(PARIS));
}

#[test]
fn a_gate_that_failed_needs_fall_answers_in_a_row_that_say_nothing() {
    let mut world = barred(3);
    world.probe_check(PARIS, CheckId(1), &inconclusive()).sleep(s(600));
    world.probe_check(PARIS, CheckId(1), &inconclusive());
    assert!(is_barred(&world));
    world.probe_check(PARIS, CheckId(1), &fail()).probe_check(PARIS, CheckId(1), &inconclusive());
    assert!(is_barred(&world), "a failure begins the count anew");
}

/// A member that is down cannot say how far behind it is, and is as far behind as before when it comes back.
#[test]
fn a_gate_that_failed_bars_a_member_that_comes_back() {
    let mut world = barred(3);
    world.probe_check(PARIS, CheckId(0), &fail()).sleep(s(1));
    for _ in 0..3 {
        world.probe_check(PARIS, CheckId(0), &fail());
    }
    for _ in 0..10 {
        world.probe_check(PARIS, CheckId(1), &inconclusive()).sleep(s(60));
    }
    for _ in 0..3 {
        world.probe_check(PARIS, CheckId(0), &pass());
    }
    world.sleep(s(59)).probe_check(PARIS, CheckId(1), &inconclusive());
    assert_eq!(world.member(PARIS).state, MemberState::Up);
    assert!(is_barred(&world), "{:?}", world.member(PARIS));
}

/// It had not failed yet, and bars all the same.
#[test]
fn a_gate_whose_first_failures_are_counted_and_that_then_says_nothing_does_not_bar_for_ever() {
    let mut checks = checks(&[Effect::Count, Effect::Gate]);
    checks[1].fall = 3;
    let mut health = Health::unknown(&checks, Combine::All);
    let at = |seconds| Time(s(seconds));
    for check in [CheckId(0), CheckId(0), CheckId(0)] {
        let _ = health.on_outcome(at(0), check, &pass());
    }
    let _ = health.on_outcome(at(0), CheckId(1), &fail());
    for seconds in [1, 30, 61] {
        assert!(health.gate().is_some());
        let _ = health.on_outcome(at(seconds), CheckId(1), &inconclusive());
        health.forget_silent_gates(at(seconds), s(60));
    }
    assert_eq!(health.gate(), None);
}

/// Asked twenty times a second because it is down, the API of a gate would be the first to suffer.
#[test]
fn doubt_about_a_gate_makes_nobody_probe_fast() {
    let effects = [Effect::Count, Effect::Gate];
    let mut health = Health::unknown(&checks(&effects), Combine::All);
    assert_eq!(health.on_outcome(Time::default(), CheckId(0), &pass()).pace, Some(Pace::Normal));
    assert_eq!(health.on_outcome(Time::default(), CheckId(1), &fail()).pace, None);
}

#[test]
fn an_address_that_is_down_for_long_is_probed_at_another_interval() {
    let slow = vec![Check { down_interval: s(10), ..check() }];
    let mut world = World::settled(with_checks(orders(), slow));
    world.is(DUBLIN, Dead).run(s(5)).assert_state(DUBLIN, MemberState::Down);
    assert_eq!(world.pace(DUBLIN), Pace::Normal, "it may be back in a moment");
    world.run(s(10));
    assert_eq!(world.pace(DUBLIN), Pace::Down);
    world.is(DUBLIN, Alive).run(s(11)).assert_state(DUBLIN, MemberState::Up);
    assert_eq!(world.pace(DUBLIN), Pace::Normal);
}

/// Two checks of which one is enough: the member is left when the last one fails.
#[test]
fn any_is_down_when_the_last_check_fails() {
    let service = with_checks(Service { combine: Combine::Any, ..orders() }, checks(&[Effect::Count; 2]));
    let mut world = World::settled(service);
    let paris = address(PARIS, 0);
    world.core.on_probe(world.now, PARIS, paris, CheckId(0), &fail());
    assert_eq!(world.view().active, Some(PARIS));
    assert!(world.member(PARIS).reason.starts_with("c0: connection refused"));
    world.core.on_probe(world.now, PARIS, paris, CheckId(1), &fail());
    assert_eq!(world.view().active, Some(DUBLIN));
}
