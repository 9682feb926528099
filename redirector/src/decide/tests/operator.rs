//! What operators say: manual switches and pins, drains, pauses, weights.

use super::world::*;
use crate::{
    decide::{Accepted, Action, Command, Orders, Time},
    model::{
        Check, CheckId, CheckKind, Effect, FlowPolicy, MemberId, MemberState, OnAllDown, Service,
        ServiceState, SwitchKind,
    },
};

fn switch(to: MemberId) -> Command {
    Command::Switch { to, hold: None, reason: "test".to_owned(), force: false }
}

fn force(to: MemberId) -> Command {
    Command::Switch { to, hold: None, reason: String::new(), force: true }
}

fn hold(to: MemberId, seconds: u64) -> Command {
    Command::Switch { to, hold: Some(s(seconds)), reason: String::new(), force: false }
}

fn drain(member: MemberId) -> Command {
    Command::Drain { member, force: false }
}

#[track_caller]
fn refused(world: &mut World, command: &Command, why: &str) {
    let before = world.core.clone();
    let refused = world.order(command).expect_err("it should be refused");
    assert!(refused.to_string().contains(why), "{refused}");
    assert_eq!(world.core, before, "nothing has changed");
}

#[test]
fn a_switch_is_made_when_a_round_of_checks_has_passed_and_pins() {
    let mut world = World::settled(orders());
    assert_eq!(world.order(&switch(DUBLIN)), Ok(Accepted::Waits));
    assert_eq!(world.done.last(), Some(&(world.now, Action::Round { member: DUBLIN })));
    world.assert_active(PARIS, ServiceState::Ok);
    world.run(ms(0)).assert_active(DUBLIN, ServiceState::Degraded);
    let made = world.the_switch();
    assert_eq!((made.kind, made.policy), (SwitchKind::Manual, FlowPolicy::Drain));
    assert_eq!(made.reason, r#"switched to member "dublin" by an operator: test"#);
    assert_eq!(world.answers(), [Ok(())]);
    assert_eq!(world.view().pinned, Some(DUBLIN));

    // No failback while the pin holds.
    world.run(s(3600)).assert_active(DUBLIN, ServiceState::Degraded);
    let why = world.member(PARIS).eligible_reason;
    assert_eq!(why.as_deref(), Some(r#"an operator has pinned member "dublin""#));
    assert_eq!(world.order(&Command::Release), Ok(Accepted::Done));
    world.run(s(1)).assert_active(PARIS, ServiceState::Ok);
}

#[test]
fn a_failure_in_the_round_refuses_the_switch() {
    let mut world = World::settled(orders());
    world.is(DUBLIN, Dead);
    assert_eq!(world.order(&switch(DUBLIN)), Ok(Accepted::Waits));
    refused(&mut world, &switch(DUBLIN), "another switch waits for its round of checks; wait for its end");
    world.run(ms(0)).assert_no_switch();
    let answer = world.answers().remove(0).unwrap_err();
    let why = r#"no switch to member "dublin": its round of checks failed: ping at 192.0.2.20:6379: connection refused"#;
    assert_eq!(answer.reason, why);
}

#[test]
fn a_check_that_does_not_answer_in_time_refuses_the_switch() {
    let mut world = World::settled(orders());
    world.is(DUBLIN, NeverProbed);
    world.order(&switch(DUBLIN)).unwrap();
    world.run(s(5)).assert_no_switch();
    let answer = world.answers().remove(0).unwrap_err();
    assert!(answer.reason.ends_with("ping at 192.0.2.20:6379 did not answer within 2s"), "{answer}");
}

#[test]
fn a_probe_that_says_nothing_does_not_refuse_a_switch() {
    let mut world = World::settled(orders());
    world.is(DUBLIN, WrongPassword);
    world.order(&switch(DUBLIN)).unwrap();
    world.run(ms(0)).assert_active(DUBLIN, ServiceState::Degraded);
}

#[test]
fn what_cannot_be_switched_to_is_refused_with_the_reason() {
    let mut world = World::settled(with_oslo(10));
    refused(&mut world, &switch(MemberId(7)), "no such member; name one of paris, dublin, oslo");
    world.is(DUBLIN, Dead).run(s(5));
    refused(&mut world, &switch(DUBLIN), r#"member "dublin" is down: connection refused"#);
    world.order(&drain(OSLO)).unwrap();
    refused(&mut world, &switch(OSLO), r#"member "oslo" is drained; undrain it first"#);
    refused(&mut world, &force(OSLO), r#"member "oslo" is drained; undrain it first"#);
    let mut world = World::settled(orders());
    world.is(DUBLIN, WrongPassword);
    let mut world = World::new(orders());
    world.is(DUBLIN, WrongPassword).run(s(10));
    refused(&mut world, &switch(DUBLIN), r#"member "dublin" has no verdict yet"#);
    assert_eq!(world.core.try_operator(world.now, &force(DUBLIN)), Ok(Accepted::Done));
    world.assert_active(PARIS, ServiceState::Ok);
}

/// It was accepted, called off in the same call, and answered with "done".
#[test]
fn a_switch_to_a_member_that_is_down_by_now_is_refused() {
    let mut service = with_oslo(10);
    service.members.iter_mut().for_each(|member| member.checks[0].detect.refused_tolerance = s(5));
    let mut world = World::settled(service);
    world.is(DUBLIN, NeverProbed).probe(DUBLIN, &fail()).probe(DUBLIN, &fail()).probe(DUBLIN, &fail());
    world.sleep(s(5)).assert_state(DUBLIN, MemberState::Up);
    let refused = world.order(&switch(DUBLIN)).unwrap_err();
    assert!(refused.reason.starts_with(r#"member "dublin" is down: connection refused"#), "{refused}");
    assert_eq!(world.answers(), []);
}

#[test]
fn a_switch_does_not_wait_for_another_whose_round_was_not_answered_in_time() {
    let mut world = World::settled(orders());
    assert_eq!(world.is(DUBLIN, NeverProbed).order(&switch(DUBLIN)), Ok(Accepted::Waits));
    assert_eq!(world.sleep(s(5)).order(&switch(DUBLIN)), Ok(Accepted::Waits));
    assert_eq!(world.answers().len(), 1);
}

#[test]
fn a_switch_to_the_active_member_only_pins_it() {
    let mut world = World::settled(orders());
    assert_eq!(world.order(&hold(PARIS, 60)), Ok(Accepted::Done));
    assert_eq!(world.view().pinned, Some(PARIS));
    world.run(s(59)).assert_no_switch();
    assert_eq!(world.view().pinned, Some(PARIS));
    world.run(s(2));
    assert_eq!(world.view().pinned, None);
}

#[test]
fn a_pin_with_a_time_ends_by_itself_and_the_rules_go_on() {
    let mut world = World::settled(orders());
    world.order(&hold(DUBLIN, 3600)).unwrap();
    let begin = world.now;
    world.run(s(3700)).assert_active(PARIS, ServiceState::Ok);
    assert_eq!(world.the_last_switch().at, begin + s(3600));
}

#[test]
fn a_dead_pinned_member_is_left_at_once_and_the_pin_brings_no_return() {
    let mut world = World::settled(orders());
    world.order(&switch(PARIS)).unwrap();
    let crash = world.now;
    world.is(PARIS, Dead).run(s(5)).assert_active(DUBLIN, ServiceState::Degraded);
    world.assert_switched(SwitchKind::Failover, DUBLIN, crash, ms(1100));
    world.is(PARIS, Alive).run(s(3600)).assert_active(DUBLIN, ServiceState::Degraded);
    assert_eq!(world.view().pinned, Some(PARIS));
    // But where a choice has to be made, it is the pinned one.
    world.order(&Command::Release).unwrap();
    world.run(s(120)).assert_active(PARIS, ServiceState::Ok);
}

#[test]
fn of_several_that_are_up_the_pinned_one_takes_over() {
    let mut world = World::settled(with_oslo(10));
    world.order(&switch(OSLO)).unwrap();
    world.run(s(1)).is(OSLO, Dead).run(s(5)).assert_active(PARIS, ServiceState::Ok);
    world.is(OSLO, Alive).run(s(5)).is(PARIS, Dead).run(s(5)).assert_active(OSLO, ServiceState::Degraded);
}

#[test]
fn a_member_that_is_forced_while_it_is_down_stays_until_it_was_up_once() {
    let mut world = World::settled(orders());
    world.is(DUBLIN, Dead).run(s(5));
    assert_eq!(world.order(&force(DUBLIN)), Ok(Accepted::Done));
    world.assert_active(DUBLIN, ServiceState::Down);
    assert_eq!(world.the_switch().policy, FlowPolicy::Drain, "paris lives");
    world.run(s(600)).assert_active(DUBLIN, ServiceState::Down);
    world.is(DUBLIN, Alive).run(s(5)).assert_active(DUBLIN, ServiceState::Degraded);
    world.is(DUBLIN, Dead).run(s(5)).assert_active(PARIS, ServiceState::Ok);
    assert_eq!(world.the_last_switch().kind, SwitchKind::Failover);
}

#[test]
fn the_end_of_a_forced_pin_is_the_end_of_a_dead_member() {
    let mut world = World::settled(orders());
    world.is(DUBLIN, Dead).run(s(5));
    world.order(&force(DUBLIN)).unwrap();
    world.run(s(10));
    world.order(&Command::Release).unwrap();
    world.assert_active(PARIS, ServiceState::Ok);
}

#[test]
fn the_death_of_the_active_member_does_not_wait_for_a_round() {
    let mut service = with_oslo(10);
    // The round outlasts the failover.
    service.members[OSLO.0].checks[0].timeout = s(3);
    let mut world = World::settled(service);
    world.is(OSLO, NeverProbed);
    world.order(&switch(OSLO)).unwrap();
    let crash = world.now;
    world.is(PARIS, Dead).run(ms(1100)).assert_active(DUBLIN, ServiceState::Degraded);
    world.assert_switched(SwitchKind::Failover, DUBLIN, crash, ms(1100));
    // And goes to where the operator wants to be only when that member has answered.
    world.probe(OSLO, &pass()).assert_active(OSLO, ServiceState::Degraded);
    assert_eq!(world.answers(), [Ok(())]);
}

#[test]
fn a_drained_member_is_left_for_the_best_other_and_not_chosen() {
    let mut world = World::settled(with_oslo(10));
    assert_eq!(world.order(&drain(PARIS)), Ok(Accepted::Done));
    world.run(ms(0)).assert_active(DUBLIN, ServiceState::Degraded);
    let made = world.the_switch();
    assert_eq!((made.kind, made.policy), (SwitchKind::Manual, FlowPolicy::Drain));
    assert_eq!(made.reason, r#"member "paris" was drained by an operator"#);
    let view = world.member(PARIS);
    assert_eq!((view.state, view.checks), (MemberState::Drained, MemberState::Up));
    assert_eq!(view.eligible_reason.as_deref(), Some("taken out by an operator"));
    world.run(s(600)).is(DUBLIN, Dead).run(s(5)).assert_active(OSLO, ServiceState::Degraded);
    world.is(OSLO, Dead).run(s(60)).assert_active(OSLO, ServiceState::Down);
    // It was up all the time.
    world.order(&Command::Undrain { member: PARIS }).unwrap();
    world.assert_active(PARIS, ServiceState::Ok);
}

#[test]
fn the_last_member_that_is_up_is_not_drained_without_force() {
    let mut world = World::settled(orders());
    world.is(DUBLIN, Dead).run(s(5));
    refused(&mut world, &drain(PARIS), r#"no other member than "paris" is up"#);
    world.order(&Command::Drain { member: PARIS, force: true }).unwrap();
    world.run(s(60)).assert_active(PARIS, ServiceState::Ok);
    world.is(DUBLIN, Alive).run(s(5)).assert_active(DUBLIN, ServiceState::Degraded);
}

#[test]
fn flapping_while_drained_counts_for_nothing() {
    let mut world = World::settled(orders());
    world.order(&drain(DUBLIN)).unwrap();
    for _ in 0..5 {
        world.is(DUBLIN, Dead).run(s(5)).is(DUBLIN, Alive).run(s(5));
    }
    let explained = world.core.explain(world.now);
    assert!(explained.members[1].flap_score.abs() < f64::EPSILON);
}

#[test]
fn a_paused_service_moves_by_hand_only() {
    let mut world = World::settled(orders());
    world.order(&Command::Pause).unwrap();
    world.is(PARIS, Dead).run(s(600)).assert_active(PARIS, ServiceState::Down);
    world.assert_no_switch();
    assert!(world.view().paused);
    let why = world.member(DUBLIN).eligible_reason;
    assert_eq!(why.as_deref(), Some("automatic switches are paused by an operator"));
    world.order(&switch(DUBLIN)).unwrap();
    world.run(s(1)).assert_active(DUBLIN, ServiceState::Degraded);
    assert_eq!(world.the_switch().policy, FlowPolicy::Reset, "paris is dead");
    world.order(&Command::Release).unwrap();
    world.is(PARIS, Alive).run(s(600)).assert_active(DUBLIN, ServiceState::Degraded);
    world.order(&Command::Resume).unwrap();
    world.run(s(1)).assert_active(PARIS, ServiceState::Ok);
}

#[test]
fn resume_leaves_a_dead_member_in_that_very_call() {
    let mut world = World::settled(orders());
    world.order(&Command::Pause).unwrap();
    world.is(PARIS, Dead).run(s(60));
    world.order(&Command::Resume).unwrap();
    world.assert_switched(SwitchKind::Failover, DUBLIN, world.now, s(0));
}

#[test]
fn a_paused_service_that_refuses_is_not_held() {
    let mut world = World::settled(Service { on_all_down: OnAllDown::Refuse, ..orders() });
    world.order(&Command::Pause).unwrap();
    world.is(PARIS, Dead).is(DUBLIN, Dead).run(s(60)).assert_active(PARIS, ServiceState::Down);
}

#[test]
fn a_weight_holds_from_now_on() {
    let mut world = World::settled(orders());
    world.order(&Command::Weight { member: DUBLIN, weight: 200 }).unwrap();
    world.run(s(61)).assert_active(DUBLIN, ServiceState::Ok);
    assert_eq!(world.the_switch().kind, SwitchKind::Failback);
    assert_eq!(world.member(DUBLIN).weight, 200);
    refused(&mut world, &Command::Weight { member: DUBLIN, weight: 0 }, "a weight is at least 1; drain");
    world.order(&Command::Weight { member: DUBLIN, weight: 50 }).unwrap();
    assert_eq!(world.core.orders(), Orders::default(), "as the configuration says");
}

fn gated() -> Service {
    let gate = Check { name: "lag".to_owned(), effect: Effect::Gate, ..Check::of(CheckKind::Tcp) };
    with_checks(orders(), vec![check(), gate])
}

fn lag(world: &mut World, member: MemberId, outcome: &crate::model::ProbeOutcome) {
    for _ in 0..3 {
        world.core.on_probe(world.now, member, address(member, 0), CheckId(1), outcome);
    }
    world.run(ms(0));
}

#[test]
fn a_gate_bars_a_planned_switch_and_no_failover() {
    let mut world = World::settled(gated());
    lag(&mut world, DUBLIN, &fail());
    refused(
        &mut world,
        &switch(DUBLIN),
        r#"member "dublin" is up, but its gate fails: lag: connection refused"#,
    );
    refused(&mut world, &drain(PARIS), r#"the gate of every member that could take over from "paris" fails"#);
    for _ in 0..3 {
        world.core.on_probe(world.now, PARIS, address(PARIS, 0), CheckId(0), &fail());
    }
    world.run(ms(0)).assert_active(DUBLIN, ServiceState::Degraded);
}

#[test]
fn a_closed_gate_keeps_a_failback_until_it_opens() {
    let mut world = World::settled(gated());
    world.is(PARIS, Dead).run(s(5)).is(PARIS, Alive).run(s(5)).is(PARIS, NeverProbed);
    lag(&mut world, PARIS, &fail());
    world.run(s(120)).assert_active(DUBLIN, ServiceState::Degraded);
    let why = world.member(PARIS).eligible_reason.unwrap();
    assert!(why.starts_with("its gate fails: lag: connection refused"), "{why}");
    world.is(PARIS, Alive).run(s(5)).assert_active(PARIS, ServiceState::Ok);
}

#[test]
fn orders_are_said_once_each_and_hold_for_the_next_agent() {
    let mut world = World::settled(with_oslo(10));
    world.order(&hold(DUBLIN, 3600)).unwrap();
    world.run(s(1));
    world.order(&drain(OSLO)).unwrap();
    world.order(&drain(OSLO)).unwrap();
    world.order(&Command::Pause).unwrap();
    world.order(&Command::Weight { member: OSLO, weight: 7 }).unwrap();
    let said: Vec<_> = world
        .done
        .iter()
        .filter_map(|(_, action)| if let Action::Orders(orders) = action { Some(orders) } else { None })
        .collect();
    assert_eq!(said.len(), 4);
    let kept = world.core.orders();
    assert_eq!(said.last(), Some(&&kept));

    // Another configuration: oslo has another weight, which is newer than the order; and paris comes last.
    let mut service = with_oslo(20);
    service.members.rotate_left(1);
    let mut world = World::new(service);
    world.core.take_up(world.now, &kept);
    let view = world.view();
    assert_eq!((view.pinned, view.paused), (Some(MemberId(0)), true));
    assert_eq!((view.members[1].state, view.members[1].weight), (MemberState::Drained, 20));
    // The pin is the first choice too.
    world.order(&Command::Resume).unwrap();
    world.run(s(6)).assert_active(MemberId(0), ServiceState::Degraded);
    world.run(s(3700)).assert_active(MemberId(2), ServiceState::Ok);
}

#[test]
fn a_pin_that_ended_while_no_agent_ran_holds_no_more() {
    let mut world = World::settled(orders());
    world.order(&hold(DUBLIN, 60)).unwrap();
    world.run(s(1));
    let mut kept = world.core.orders();
    kept.pin.as_mut().unwrap().until = Some(Time::default());
    let mut world = World::new(orders());
    world.core.take_up(world.now, &kept);
    assert_eq!(world.view().pinned, None);
}

/// It stayed in the file, and a member that was given the name later was drained by it.
#[test]
fn an_order_about_a_member_that_is_gone_is_not_kept() {
    let mut world = World::settled(with_oslo(10));
    world.order(&drain(OSLO)).unwrap();
    let kept = world.core.orders();
    let mut core = World::settled(orders()).core;
    core.take_up(Time(s(7200)), &kept);
    assert_eq!(core.poll_action(), Some(Action::Orders(Orders::default())));
    assert_eq!(core.poll_action(), None);
}

#[test]
fn explain_tells_what_would_change_the_decision() {
    let mut world = World::settled(orders());
    world.is(PARIS, Dead).run(s(5)).is(PARIS, Alive).run(s(48)).run(ms(150));
    let explained = world.core.explain(world.now);
    assert_eq!(explained.active.as_deref(), Some("dublin"));
    let expected = ["failover to paris as soon as dublin is down", "failback to paris in 12s if it stays up"];
    assert_eq!(explained.would_change, expected);
    let timer = explained
        .timers
        .iter()
        .find(|timer| timer.name == "healthy_for" && timer.member.as_deref() == Some("paris"));
    assert_eq!(timer.map(|timer| timer.left_ms), Some(12_000));
    assert_eq!(explained.last_switch.as_ref().map(|last| last.kind), Some(SwitchKind::Failover));

    world.order(&hold(DUBLIN, 60)).unwrap();
    let explained = world.core.explain(world.now);
    assert_eq!(explained.would_change[1], "no failback: dublin is pinned for 1m more");
    assert_eq!(explained.rule, "dublin is up; no failback while a pin holds");
    let check = &explained.members[0].addresses[0].checks[0];
    assert_eq!(
        (check.state.as_ref(), check.effect.as_ref(), check.fall, check.rise),
        ("passing", "count", 3, 2)
    );
    let text = serde_json::to_string(&explained).unwrap();
    assert!(text.contains(r#""pin_left_ms":60000"#), "{text}");
}
