//! When a member is up, down or unknown, how often it is asked, and what is said of it.

use proptest::prelude::*;

use super::world::*;
use crate::{
    decide::Action,
    model::{Check, CheckId, CheckKind, MemberState, Pace, Service},
};

#[test]
fn one_pass_ends_the_doubt_of_the_start() {
    let mut world = World::new(orders());
    world.assert_state(PARIS, MemberState::Unknown);
    assert_eq!(world.member(PARIS).reason, "no verdict yet");
    world.probe(PARIS, &pass()).assert_state(PARIS, MemberState::Up);
    assert_eq!(world.member(PARIS).reason, "ping ok in 0.3 ms");
    assert_eq!(world.member(PARIS).checked_at, Some(world.now));
    assert_eq!(world.member(DUBLIN).checked_at, None);
}

#[test]
fn a_single_failure_at_the_start_says_nothing() {
    let mut world = World::new(orders());
    world.probe(PARIS, &fail()).probe(PARIS, &fail()).assert_state(PARIS, MemberState::Unknown);
    assert_eq!(world.member(PARIS).reason, "ping: connection refused (2 of 3)");
    world.probe(PARIS, &fail()).assert_state(PARIS, MemberState::Down);
    assert_eq!(world.member(PARIS).reason, "ping: connection refused (3 in a row)");
}

#[test]
fn failures_must_be_consecutive_to_take_a_member_down() {
    let mut world = World::settled(orders());
    for _ in 0..10 {
        world.probe(PARIS, &fail()).probe(PARIS, &fail()).probe(PARIS, &pass());
        world.assert_state(PARIS, MemberState::Up);
    }
    world.probe(PARIS, &fail()).probe(PARIS, &fail()).probe(PARIS, &fail());
    world.assert_state(PARIS, MemberState::Down);
}

#[test]
fn passes_must_be_consecutive_to_bring_it_back() {
    let mut world = World::settled(orders());
    world.is(DUBLIN, Dead).run(s(5)).assert_state(DUBLIN, MemberState::Down);
    for _ in 0..10 {
        world.probe(DUBLIN, &pass()).probe(DUBLIN, &fail()).assert_state(DUBLIN, MemberState::Down);
    }
    world.probe(DUBLIN, &pass()).assert_state(DUBLIN, MemberState::Down);
    assert_eq!(world.member(DUBLIN).reason, "ping ok in 0.3 ms (1 of 2)");
    let because = "down: connection refused (1 of 2 passes since)";
    assert_eq!(world.member(DUBLIN).eligible_reason.as_deref(), Some(because));
    world.probe(DUBLIN, &pass()).assert_state(DUBLIN, MemberState::Up);
}

#[test]
fn inconclusive_outcomes_are_shown_but_neither_count_nor_break_a_count() {
    let mut world = World::settled(orders());
    world.probe(PARIS, &fail()).probe(PARIS, &inconclusive()).probe(PARIS, &fail());
    world.assert_state(PARIS, MemberState::Up);
    world.probe(PARIS, &inconclusive());
    assert!(world.member(PARIS).reason.starts_with("ping: Redis error: WRONGPASS"));
    world.probe(PARIS, &fail()).assert_state(PARIS, MemberState::Down);
    world.probe(PARIS, &pass()).probe(PARIS, &inconclusive()).probe(PARIS, &pass());
    world.assert_state(PARIS, MemberState::Up);
}

#[test]
fn a_member_that_is_down_stays_down_for_its_failure_whatever_came_after() {
    let mut world = World::settled(orders());
    world.is(DUBLIN, Dead).run(ms(1100)).probe(DUBLIN, &inconclusive());
    let because = "down: connection refused (3 in a row)";
    assert_eq!(world.member(DUBLIN).eligible_reason.as_deref(), Some(because));
    assert!(world.member(DUBLIN).reason.starts_with("ping: Redis error: WRONGPASS"));
}

#[test]
fn every_change_of_state_is_told_once_with_its_reason() {
    let mut world = World::settled(orders());
    world.is(DUBLIN, Dead).run(s(60)).is(DUBLIN, Alive).run(s(60));
    let changed = world.done.iter().filter_map(|(_, action)| match action {
        Action::MemberChanged { member: DUBLIN, state, reason, .. } => Some((*state, reason.as_str())),
        _ => None,
    });
    let expected = [
        (MemberState::Down, "ping: connection refused (3 in a row)"),
        (MemberState::Up, "ping ok in 0.3 ms"),
    ];
    assert_eq!(changed.collect::<Vec<_>>(), expected);
}

/// A service whose members are checked twice: `tcp` (two failures, one pass), then `ping`.
fn checked_twice() -> Service {
    let tcp = Check { fall: 2, rise: 1, ..Check::of(CheckKind::Tcp) };
    with_checks(orders(), vec![tcp, check()])
}

const TCP: CheckId = CheckId(0);
const PING: CheckId = CheckId(1);

#[test]
fn a_member_is_up_when_every_check_passes_and_down_when_any_fails() {
    let mut world = World::new(checked_twice());
    let mut probe = |check, outcome| {
        world.core.on_probe(world.now, PARIS, address(PARIS, 0), check, &outcome);
        let member = world.core.view(world.now).members[0].clone();
        (member.state, member.reason)
    };
    assert_eq!(probe(TCP, pass()), (MemberState::Unknown, "no verdict yet".to_owned()));
    assert_eq!(probe(PING, pass()), (MemberState::Up, "tcp ok in 0.3 ms".to_owned()));
    assert_eq!(probe(PING, fail()), (MemberState::Up, "ping: connection refused (1 of 3)".to_owned()));
    probe(PING, fail());
    assert_eq!(probe(PING, fail()), (MemberState::Down, "ping: connection refused (3 in a row)".to_owned()));
    assert_eq!(probe(TCP, pass()).0, MemberState::Down);
    assert_eq!(probe(TCP, fail()).0, MemberState::Down);
    assert_eq!(probe(PING, pass()).0, MemberState::Down);
    assert_eq!(probe(PING, pass()), (MemberState::Up, "tcp: connection refused (1 of 2)".to_owned()));
}

#[test]
fn members_are_probed_fast_while_in_doubt_only() {
    let mut world = World::new(orders());
    assert_eq!(world.pace(PARIS), Pace::Fast, "unknown");
    world.probe(PARIS, &pass());
    assert_eq!(world.pace(PARIS), Pace::Normal, "up");
    world.probe(PARIS, &fail());
    assert_eq!(world.pace(PARIS), Pace::Fast, "failing");
    world.probe(PARIS, &pass());
    assert_eq!(world.pace(PARIS), Pace::Normal, "it was nothing");
    world.probe(PARIS, &fail()).probe(PARIS, &fail());
    assert_eq!(world.pace(PARIS), Pace::Fast, "failing again");
    world.probe(PARIS, &fail());
    assert_eq!(world.pace(PARIS), Pace::Normal, "steadily down");
    world.probe(PARIS, &pass());
    assert_eq!(world.pace(PARIS), Pace::Fast, "rising");
    world.probe(PARIS, &pass());
    assert_eq!(world.pace(PARIS), Pace::Normal, "up again");
}

#[test]
fn a_refused_password_is_not_tried_twenty_times_a_second() {
    let mut world = World::new(orders());
    world.probe(PARIS, &inconclusive()).assert_state(PARIS, MemberState::Unknown);
    assert_eq!(world.pace(PARIS), Pace::Normal);
    world.probe(PARIS, &fail()).probe(PARIS, &inconclusive());
    assert_eq!(world.pace(PARIS), Pace::Fast, "a failure that counted is still in doubt");
}

proptest! {
    /// Health as a look back over the whole history, instead of a state machine: the newest run of `fall`
    /// failures decides, unless a run of `rise` passes came after it.
    #[test]
    fn counting_equals_a_look_back_over_the_history(
        fall in 1_u32..5,
        rise in 1_u32..5,
        history in prop::collection::vec(any::<bool>(), 0..60),
    ) {
        let checks = vec![Check { fall, rise, ..check() }];
        let mut world = World::new(with_checks(orders(), checks));
        for passed in &history {
            world.probe(PARIS, &if *passed { pass() } else { fail() });
        }
        let newest_run = |kind: bool, length: u32| {
            history.windows(length as usize).rposition(|run| run.iter().all(|passed| *passed == kind))
        };
        let expected = match (newest_run(false, fall), newest_run(true, rise)) {
            (Some(fell), Some(rose)) if rose > fell => MemberState::Up,
            (Some(_), _) => MemberState::Down,
            (None, _) if history.contains(&true) => MemberState::Up,
            (None, _) => MemberState::Unknown,
        };
        prop_assert_eq!(world.member(PARIS).state, expected);
    }
}
