//! Between two deadlines nothing happens by itself: what follows from a call follows in that call, or at the next deadline. Every
//! story here once went on with whichever call came next, due or not, and so was another one when it was replayed.
//! ([`assert_at_rest`] looks after each call of every story.)

use super::world::*;
use crate::{
    decide::Command,
    model::{Check, MemberId, Service, ServiceState, SwitchKind},
};

/// Oslo is active, and has nothing to wait for when a better one is well.
fn undamped(healthy_for: u64) -> Service {
    let mut service = with_oslo(10);
    (service.failback.healthy_for, service.failback.hold_down) = (s(healthy_for), s(0));
    service
}

fn one_failure_is_enough(mut service: Service) -> Service {
    let checks = vec![Check { fall: 1, ..check() }];
    service.members.iter_mut().for_each(|member| member.checks.clone_from(&checks));
    Service { checks, ..service }
}

fn switch(to: MemberId, force: bool) -> Command {
    Command::Switch { to, hold: None, reason: String::new(), force }
}

#[test]
fn the_round_for_a_better_member_begins_with_the_failover_that_was_in_a_hurry() {
    let mut world = World::settled(undamped(0));
    // Nothing was heard of dublin for a while, so oslo takes over although it is lighter.
    world.is(DUBLIN, NeverProbed).run(s(10)).is(PARIS, Dead).run(s(5));
    world.assert_active(OSLO, ServiceState::Degraded);
    let switched = world.the_switch().at;
    assert_eq!(world.rounds().first(), Some(&(switched, DUBLIN)));
}

#[test]
fn the_age_of_its_answers_does_not_end_the_round_of_a_member_that_is_asked() {
    let mut world = World::settled(undamped(60));
    world.is(PARIS, Dead).is(DUBLIN, Dead).run(s(5)).assert_active(OSLO, ServiceState::Degraded);
    world.is(PARIS, Alive).is(DUBLIN, Alive).run(s(60));
    world.done.clear();
    // Both may be returned to at the same moment. Paris does not answer, and its last answer gets old meanwhile.
    world.is(PARIS, NeverProbed).run(s(5)).assert_active(DUBLIN, ServiceState::Degraded);
    let [(began, PARIS), (after, DUBLIN), ..] = world.rounds()[..] else {
        panic!("{:?}", world.rounds());
    };
    assert_eq!(after.since(began), s(2), "its time-out, and room for the way");
}

#[test]
fn while_the_death_of_a_drained_member_is_doubted_the_next_question_is_not_forgotten() {
    let mut world = World::settled(one_failure_is_enough(orders()));
    world.is(DUBLIN, NeverProbed);
    world.order(&Command::Drain { member: PARIS, force: false }).unwrap();
    world.run(s(2)).assert_no_switch();
    let failed = world.now;
    world.is(PARIS, NeverProbed).late(ms(0)).probe(PARIS, &fail()).is(DUBLIN, Alive);
    // The doubt lasts for two seconds, the pause after a round for one.
    assert_eq!(world.core.next_deadline(), Some(failed + s(1)));
    world.done.clear();
    world.run(s(1));
    assert!(world.rounds().contains(&(failed + s(1), DUBLIN)));
    world.assert_switched(SwitchKind::Manual, DUBLIN, failed, s(1));
}

#[test]
fn a_forced_switch_among_dead_members_is_suspected_in_the_same_call() {
    let mut world = World::settled(orders());
    world.is(PARIS, Dead).is(DUBLIN, Dead).run(s(5));
    world.order(&switch(DUBLIN, true)).unwrap();
    world.assert_active(DUBLIN, ServiceState::Down);
    assert!(world.view().suspicion.is_some_and(|why| why.starts_with("every member failed at once")));
}

/// The failover came first, and the switch that the operator waited for with the call after it.
#[test]
fn a_round_that_passes_with_the_end_of_the_active_member_makes_one_switch_of_two() {
    let mut service = one_failure_is_enough(with_oslo(10));
    service.members[OSLO.0].checks[0].timeout = s(3);
    let mut world = World::settled(service);
    world.is(PARIS, NeverProbed).is(OSLO, NeverProbed).late(s(10)).probe(PARIS, &fail());
    let end_of_doubt = world.core.next_deadline().unwrap();
    world.order(&switch(OSLO, false)).unwrap();
    // The answer and the deadline are heard of together.
    world.sleep(end_of_doubt.since(world.now)).probe(OSLO, &pass());
    world.assert_active(OSLO, ServiceState::Degraded);
    world.assert_switched(SwitchKind::Manual, OSLO, end_of_doubt, s(0));
    assert_eq!(world.answers(), [Ok(())]);
}

/// It passed over what had become due meanwhile.
#[test]
fn a_reload_that_is_refused_leaves_what_was_due_to_its_own_call() {
    let mut world = World::settled(orders());
    world.is(DUBLIN, Dead).run(s(5)).sleep(s(60));
    let before = world.core.clone();
    world.core.leave_removed(world.now, &[None], false).unwrap_err();
    assert!(world.core == before);
}
