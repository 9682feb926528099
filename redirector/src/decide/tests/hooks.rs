//! Hooks before a switch: who waits for them, who does not, and what they can say.

use super::world::*;
use crate::{
    decide::{Accepted, Action, Command, record::Input},
    model::{Hook, HookFailure, HookRun, HookWhen, MemberId, Service, ServiceState, SwitchKind},
};

fn hooked(on_failure: HookFailure) -> Service {
    let hook = Hook {
        name: "/bin/ask".to_owned(),
        when: HookWhen::Before,
        kinds: vec![SwitchKind::Failback, SwitchKind::Manual],
        timeout: s(5),
        on_failure,
        run: HookRun::default(),
    };
    Service { hooks: vec![hook], ..orders() }
}

fn switch(force: bool) -> Command {
    Command::Switch { to: DUBLIN, hold: None, reason: String::new(), force }
}

/// The questions so far: number, member, kind.
fn asked(world: &World) -> Vec<(u64, MemberId, SwitchKind)> {
    let ask = |(_, action): &_| match action {
        Action::AskHooks { ask, to, kind, .. } => Some((*ask, *to, *kind)),
        _ => None,
    };
    world.done.iter().filter_map(ask).collect()
}

fn answer(world: &mut World, ask: u64, veto: Option<&str>) {
    let input = Input::Hooks(ask, veto.map(str::to_owned));
    let actions = world.core.replay(world.now, &input).unwrap();
    world.done.extend(actions.into_iter().map(|action| (world.now, action)));
}

/// An operator has asked for dublin, its round has passed, and the hook is asked.
fn waiting(on_failure: HookFailure) -> World {
    let mut world = World::settled(hooked(on_failure));
    assert_eq!(world.order(&switch(false)), Ok(Accepted::Waits));
    assert_eq!(asked(&world), []);
    world.run(ms(0));
    assert_eq!(asked(&world), [(1, DUBLIN, SwitchKind::Manual)]);
    world.assert_active(PARIS, ServiceState::Ok);
    world
}

#[test]
fn a_hook_that_agrees_lets_the_switch_be_made() {
    let mut world = waiting(HookFailure::Veto);
    world.run(s(2)).assert_active(PARIS, ServiceState::Ok);
    answer(&mut world, 7, None);
    world.assert_active(PARIS, ServiceState::Ok);
    answer(&mut world, 1, None);
    world.assert_active(DUBLIN, ServiceState::Degraded);
    assert_eq!(world.answers(), [Ok(())]);
}

#[test]
fn a_hook_that_vetoes_refuses_the_operator_with_its_words() {
    let mut world = waiting(HookFailure::GoOn);
    answer(&mut world, 1, Some("hook \"/bin/ask\" vetoed: frozen"));
    world.assert_active(PARIS, ServiceState::Ok);
    let refused = world.answers()[0].clone().unwrap_err();
    assert!(refused.reason.contains("hook \"/bin/ask\" vetoed: frozen"), "{refused}");
    // An operator may ask again at once, and so is the hook.
    assert_eq!(world.order(&switch(false)), Ok(Accepted::Waits));
    world.run(ms(0));
    assert_eq!(asked(&world).len(), 2);
    // What it said to the first question is too late for the second one.
    answer(&mut world, 1, None);
    world.assert_active(PARIS, ServiceState::Ok);
}

#[test]
fn a_hook_without_an_answer_means_what_it_is_told_to() {
    for (on_failure, goes) in [(HookFailure::GoOn, true), (HookFailure::Veto, false)] {
        let mut world = waiting(on_failure);
        world.run(ms(5999)).assert_active(PARIS, ServiceState::Ok);
        world.run(ms(2));
        assert_eq!(world.core.active() == Some(DUBLIN), goes, "{on_failure:?}");
        assert_eq!(world.answers()[0].is_ok(), goes);
    }
}

#[test]
fn a_failover_asks_no_hook_and_waits_for_none() {
    let mut world = World::settled(hooked(HookFailure::Veto));
    world.is(PARIS, Dead).run(s(5)).assert_active(DUBLIN, ServiceState::Degraded);
    assert_eq!(asked(&world), []);

    let mut world = waiting(HookFailure::Veto);
    world.is(PARIS, Dead).run(s(3)).assert_active(DUBLIN, ServiceState::Degraded);
    assert_eq!(world.the_switch().kind, SwitchKind::Failover);
}

#[test]
fn force_skips_hooks() {
    let mut world = World::settled(hooked(HookFailure::Veto));
    assert_eq!(world.order(&switch(true)), Ok(Accepted::Done));
    world.assert_active(DUBLIN, ServiceState::Degraded);
    assert_eq!(asked(&world), []);
}

#[test]
fn a_candidate_that_dies_while_its_hook_is_asked_is_not_gone_to() {
    let mut world = waiting(HookFailure::GoOn);
    world.is(DUBLIN, Dead).run(s(3));
    answer(&mut world, 1, None);
    world.assert_active(PARIS, ServiceState::Ok);
}

#[test]
fn a_failback_that_hooks_refuse_is_proposed_again_after_a_minute() {
    let mut world = World::settled(hooked(HookFailure::Veto));
    world.is(PARIS, Dead).run(s(5));
    world.is(PARIS, Alive);
    while asked(&world).is_empty() {
        world.run(ms(100));
    }
    assert_eq!(asked(&world), [(1, PARIS, SwitchKind::Failback)]);
    let reason = |world: &World| world.member(PARIS).eligible_reason.unwrap_or_default();
    assert!(reason(&world).contains("waits for hooks"), "{}", reason(&world));
    answer(&mut world, 1, Some("hook vetoed: frozen"));
    assert!(reason(&world).contains("hook vetoed: frozen; again in"), "{}", reason(&world));
    world.run(s(59));
    assert_eq!(asked(&world).len(), 1);
    world.run(s(2));
    assert_eq!(asked(&world).len(), 2);
    answer(&mut world, 2, None);
    world.assert_active(PARIS, ServiceState::Ok);
}
