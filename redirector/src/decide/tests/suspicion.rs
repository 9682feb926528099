//! When everything fails at once, the observer is suspected first; and damping of members that flap.

use super::world::*;
use crate::{
    decide::{Action, Command},
    model::{
        Check, CheckId, Combine, FlowPolicy, MemberId, MemberState, OnAllDown, Pace, Service, ServiceState,
        SwitchKind,
    },
};

fn refusing() -> Service {
    Service { on_all_down: OnAllDown::Refuse, ..orders() }
}

#[test]
fn a_member_that_fails_with_the_active_one_is_not_fled_to() {
    let mut world = World::settled(orders());
    // This host is cut off; dublin has failed twice when paris is down.
    world.probe(DUBLIN, &fail()).probe(DUBLIN, &fail()).probe(PARIS, &fail());
    world.probe(PARIS, &fail()).probe(PARIS, &fail()).assert_no_switch();
    assert!(world.view().suspicion.is_some());
    world.probe(DUBLIN, &fail()).assert_no_switch();
    world.assert_active(PARIS, ServiceState::Down);
}

#[test]
fn one_lost_probe_of_the_other_member_delays_a_failover_by_one_probe() {
    let mut world = World::settled(orders());
    world.probe(DUBLIN, &fail());
    let lost = world.now;
    world.probe(PARIS, &fail()).probe(PARIS, &fail()).probe(PARIS, &fail()).assert_no_switch();
    world.sleep(ms(50)).probe(DUBLIN, &pass()).assert_switched(SwitchKind::Failover, DUBLIN, lost, ms(50));
}

#[test]
fn a_doubt_ends_after_a_window_even_if_nothing_is_heard() {
    let mut world = World::settled(orders());
    world.is(PARIS, NeverProbed).is(DUBLIN, NeverProbed).probe(DUBLIN, &fail());
    let lost = world.now;
    world.probe(PARIS, &fail()).probe(PARIS, &fail()).probe(PARIS, &fail());
    world.run(s(60)).assert_switched(SwitchKind::Failover, DUBLIN, lost, s(2));
}

#[test]
fn a_trouble_that_is_old_makes_no_doubt() {
    let mut world = World::settled(with_oslo(10));
    world.is(DUBLIN, Dead).is(OSLO, Dead).run(s(60));
    // Oslo comes up, and its third probe fails; paris has been well until now.
    world.probe(OSLO, &pass()).probe(OSLO, &pass());
    let crash = world.now;
    world.is(OSLO, Alive).is(PARIS, Dead).run(s(5)).assert_switched(
        SwitchKind::Failover,
        OSLO,
        crash,
        ms(1100),
    );
}

#[test]
fn after_a_cut_the_active_member_is_asked_before_it_is_left() {
    let mut world = World::settled(orders());
    world.is(PARIS, Dead).is(DUBLIN, Dead).run(s(600)).assert_active(PARIS, ServiceState::Down);
    // Both come back, and dublin's probes are the first to see it.
    world.is(PARIS, NeverProbed).is(DUBLIN, NeverProbed);
    world.probe(DUBLIN, &pass()).probe(DUBLIN, &pass()).assert_no_switch();
    let asked = |(_, action): &(_, Action)| *action == Action::Round { member: PARIS };
    assert!(world.done.iter().any(asked));
    world.probe(PARIS, &pass()).probe(PARIS, &pass()).run(s(60));
    world.assert_no_switch();
    world.assert_active(PARIS, ServiceState::Ok);
}

#[test]
fn after_a_cut_a_member_that_stays_dead_is_left_after_two_probes_more() {
    let mut world = World::settled(orders());
    world.is(PARIS, Dead).is(DUBLIN, Dead).run(s(600)).is(PARIS, NeverProbed).is(DUBLIN, NeverProbed);
    world.probe(DUBLIN, &pass()).probe(DUBLIN, &pass());
    world.probe(PARIS, &fail()).assert_no_switch();
    world.probe(PARIS, &fail()).assert_active(DUBLIN, ServiceState::Degraded);
}

#[test]
fn after_a_cut_a_member_that_is_not_heard_of_is_left_after_a_window() {
    let mut world = World::settled(orders());
    world.is(PARIS, Dead).is(DUBLIN, Dead).run(s(600)).is(PARIS, NeverProbed).is(DUBLIN, Alive);
    let revival = world.now;
    world.run(s(60)).assert_switched(SwitchKind::Failover, DUBLIN, revival, ms(2150));
}

/// The second of the two came a minute after the first, and a window was a minute longer too.
#[test]
fn after_a_cut_a_member_that_is_seldom_asked_is_left_as_soon() {
    let seldom = Check { down_interval: s(60), ..check() };
    let cut = |condition| {
        let mut world = World::settled(with_checks(orders(), vec![seldom.clone()]));
        world.is(PARIS, Dead).is(DUBLIN, Dead).run(s(600)).is(PARIS, condition).is(DUBLIN, NeverProbed);
        assert_eq!(world.pace(PARIS), Pace::Down);
        world.probe(DUBLIN, &pass()).probe(DUBLIN, &pass()).assert_no_switch();
        world
    };
    let mut world = cut(Dead);
    let revival = world.now;
    world.run(s(60)).assert_switched(SwitchKind::Failover, DUBLIN, revival, ms(0));
    let asked = world.rounds().iter().filter(|(at, member)| (*at, *member) == (revival, PARIS)).count();
    assert_eq!(asked, 2, "no more often than is needed");
    let mut world = cut(NeverProbed);
    let revival = world.now;
    world.run(s(60)).assert_switched(SwitchKind::Failover, DUBLIN, revival, s(2));
}

#[test]
fn a_service_that_refuses_is_held_when_all_have_failed_once_more() {
    let mut world = World::settled(refusing());
    let cut = world.now;
    world.is(PARIS, Dead).is(DUBLIN, Dead).run(ms(1150)).assert_active(PARIS, ServiceState::Down);
    world.run(s(5)).assert_held();
    // Down after 1.1 s; of the two failures after that, the second comes two intervals later at the latest.
    let after = world.the_switch().at.since(cut);
    assert!(after >= ms(2100) && after <= ms(3200), "{after:?}");
}

#[test]
fn a_blackout_of_a_second_holds_nothing() {
    let mut world = World::settled(refusing());
    world.is(PARIS, Dead).is(DUBLIN, Dead).run(ms(1200)).is(PARIS, Alive).is(DUBLIN, Alive).run(s(60));
    world.assert_no_switch();
    world.assert_active(PARIS, ServiceState::Ok);
}

/// The only other member is drained. A hold would have reset its flows too, in the middle of the drain.
#[test]
fn a_blackout_of_a_second_holds_nothing_while_a_member_is_drained() {
    let mut world = World::settled(refusing());
    world.order(&Command::Drain { member: PARIS, force: true }).unwrap();
    world.assert_active(DUBLIN, ServiceState::Degraded);
    world.done.clear();
    world.is(PARIS, Dead).is(DUBLIN, Dead).run(ms(1200)).assert_active(DUBLIN, ServiceState::Down);
    world.is(PARIS, Alive).is(DUBLIN, Alive).run(s(20)).assert_no_switch();
    world.assert_active(DUBLIN, ServiceState::Degraded);
    let resets =
        |(_, action): &(_, Action)| matches!(action, Action::EndDrain { .. } | Action::RaiseFloor { .. });
    assert!(!world.done.iter().any(resets));
    // One that is down for an operator's reasons says nothing of this host.
    world.is(PARIS, Dead).run(s(60)).is(DUBLIN, Dead).run(ms(1200)).assert_held();
}

/// Each began to fail within a window of the active one, the first and the last did not.
#[test]
fn members_that_fail_one_after_the_other_are_no_blackout() {
    let mut world = World::settled(Service { on_all_down: OnAllDown::Refuse, ..with_oslo(10) });
    world.is(PARIS, NeverProbed).is(DUBLIN, NeverProbed).is(OSLO, NeverProbed);
    world.probe(DUBLIN, &fail()).probe(DUBLIN, &fail()).probe(DUBLIN, &fail()).sleep(ms(1900));
    world.probe(PARIS, &fail()).sleep(ms(1900));
    world.probe(OSLO, &fail()).probe(OSLO, &fail()).probe(OSLO, &fail()).assert_no_switch();
    world.probe(PARIS, &fail()).probe(PARIS, &fail()).assert_held();
}

const PING: CheckId = CheckId(0);
const HTTP: CheckId = CheckId(1);

/// One of two checks is enough, and the web server that all members have in common has just died.
fn without_the_web_server(service: Service) -> World {
    let named = |name: &str| Check { name: name.to_owned(), ..check() };
    let checks = vec![named("ping"), named("http")];
    let mut world = World::settled(with_checks(Service { combine: Combine::Any, ..service }, checks));
    for member in [PARIS, DUBLIN] {
        world.is(member, NeverProbed);
        fail_one(&mut world, member, HTTP);
    }
    world.assert_active(PARIS, ServiceState::Ok);
    world
}

fn fail_one(world: &mut World, member: MemberId, check: CheckId) {
    for _ in 0..3 {
        world.probe_check(member, check, &fail());
    }
}

/// It failed since the web server had died, it seemed, and so did the other one: a failover waited for the end of the window.
#[test]
fn what_failed_long_ago_and_was_borne_makes_no_doubt() {
    let mut world = without_the_web_server(orders());
    world.sleep(s(3600)).probe_check(DUBLIN, PING, &pass());
    fail_one(&mut world, PARIS, PING);
    world.assert_active(DUBLIN, ServiceState::Degraded);
}

#[test]
fn what_failed_together_long_ago_and_was_borne_makes_no_blackout() {
    let mut world = without_the_web_server(refusing());
    world.sleep(s(3600));
    fail_one(&mut world, DUBLIN, PING);
    world.sleep(s(10));
    fail_one(&mut world, PARIS, PING);
    world.assert_held();
}

/// Which it does all the time: it took paris down a second time, and said nothing of it.
#[test]
fn what_fails_anyway_confirms_nothing_after_a_cut() {
    let mut world = without_the_web_server(orders());
    for member in [DUBLIN, PARIS] {
        fail_one(&mut world, member, PING);
    }
    world.sleep(s(60)).probe_check(DUBLIN, PING, &pass()).probe_check(DUBLIN, PING, &pass());
    world.done.clear();
    for _ in 0..3 {
        world.probe_check(PARIS, HTTP, &fail());
    }
    assert_eq!(world.rounds().len(), 1, "it has had its say");
    world.probe_check(PARIS, PING, &pass()).assert_no_switch();
    world.probe_check(PARIS, PING, &pass()).assert_active(PARIS, ServiceState::Ok);
}

#[test]
fn a_blackout_is_no_flapping() {
    let mut world = World::settled(orders());
    for _ in 0..5 {
        world.is(PARIS, Dead).is(DUBLIN, Dead).run(s(5)).is(PARIS, Alive).is(DUBLIN, Alive).run(s(5));
    }
    let scores = world.core.explain(world.now).members.iter().map(|member| member.flap_score).sum::<f64>();
    assert!(scores.abs() < f64::EPSILON, "{scores}");
    world.assert_no_switch();
}

fn one_failure_is_enough() -> Service {
    let check = Check { fall: 1, ..check() };
    with_checks(orders(), vec![check])
}

#[test]
fn a_late_agent_does_not_believe_the_probes_that_were_under_way() {
    let mut world = World::settled(one_failure_is_enough());
    world.late(s(10)).probe(PARIS, &fail()).assert_no_switch();
    world.assert_state(PARIS, MemberState::Down);
    assert!(world.view().suspicion.unwrap().starts_with("the agent was late by 10s"));
    world.probe(PARIS, &pass()).probe(PARIS, &pass()).run(s(60)).assert_no_switch();
}

#[test]
fn a_late_agent_leaves_a_dead_member_after_one_more_probe_or_a_window() {
    let mut world = World::settled(one_failure_is_enough());
    world
        .late(s(10))
        .probe(PARIS, &fail())
        .probe(PARIS, &fail())
        .assert_active(DUBLIN, ServiceState::Degraded);
    let mut world = World::settled(one_failure_is_enough());
    world.late(s(10)).is(PARIS, NeverProbed).probe(PARIS, &fail());
    let late = world.now;
    world.run(s(60)).assert_switched(SwitchKind::Failover, DUBLIN, late, s(2));
}

/// Paris has refused three times and would be left in five seconds, but the agent is stopped for eight.
fn stopped_in_a_tolerance() -> World {
    let mut check = check();
    check.detect.refused_tolerance = s(5);
    let mut world = World::settled(with_checks(orders(), vec![check]));
    world.is(PARIS, NeverProbed).probe(PARIS, &fail()).probe(PARIS, &fail()).probe(PARIS, &fail());
    world.late(s(8));
    world
}

/// It was as good as dead for whoever had not looked: the end of a tolerance needs a look.
#[test]
fn a_tolerance_that_ended_unseen_takes_nobody_down_who_answers_first() {
    let mut world = stopped_in_a_tolerance();
    world.probe(PARIS, &pass()).assert_state(PARIS, MemberState::Up);
    world.is(PARIS, Alive).run(s(60)).assert_no_switch();
}

#[test]
fn a_member_is_not_left_for_a_tolerance_that_ended_unseen() {
    let mut world = stopped_in_a_tolerance();
    world.run(ms(0)).assert_state(PARIS, MemberState::Down);
    world.assert_no_switch();
    world.probe(PARIS, &pass()).probe(PARIS, &pass()).is(PARIS, Alive).run(s(60)).assert_no_switch();
    world.assert_active(PARIS, ServiceState::Ok);
}

#[test]
fn a_member_that_still_fails_after_a_tolerance_that_ended_unseen_is_left() {
    let mut world = stopped_in_a_tolerance();
    world.probe(PARIS, &fail()).assert_no_switch();
    world.probe(PARIS, &fail()).assert_active(DUBLIN, ServiceState::Degraded);
    let mut world = stopped_in_a_tolerance();
    let thaw = world.now;
    world.run(s(60)).assert_switched(SwitchKind::Failover, DUBLIN, thaw, s(2));
}

/// Each lateness began the window anew: a starved agent would have stayed for ever. And the second one ended the first.
#[test]
fn an_agent_that_is_late_again_and_again_leaves_a_dead_member_after_one_window() {
    let mut world = World::settled(one_failure_is_enough());
    world.late(s(10)).is(PARIS, NeverProbed).probe(PARIS, &fail());
    let late = world.now;
    for _ in 0..3 {
        world.late(ms(400)).run(ms(100)).assert_no_switch();
    }
    world.run(s(60)).assert_switched(SwitchKind::Failover, DUBLIN, late, s(2));
}

#[test]
fn lateness_keeps_nobody_who_was_dead_before() {
    let mut world = World::settled(orders());
    world.is(DUBLIN, Dead).run(s(5)).is(PARIS, Dead).run(s(60)).late(s(10));
    world.probe(DUBLIN, &pass()).probe(DUBLIN, &pass()).assert_active(DUBLIN, ServiceState::Degraded);
}

#[test]
fn a_member_that_flaps_every_two_seconds_for_ten_minutes_makes_two_switches_at_most() {
    // Also where it need not be well for a minute before a failback.
    for healthy_for in [60, 5, 1, 0] {
        let mut service = orders();
        (service.failback.healthy_for, service.failback.hold_down) = (s(healthy_for), s(30));
        let mut world = World::settled(service);
        for _ in 0..150 {
            world.is(PARIS, Dead).run(s(2)).is(PARIS, Alive).run(s(2));
        }
        let switches = world.switches().len();
        assert!((1..=2).contains(&switches), "{switches} switches with healthy_for = {healthy_for}s");
    }
}

#[test]
fn a_dead_member_is_left_at_once_whatever_its_score() {
    let mut world = World::settled(orders());
    for _ in 0..50 {
        world.is(DUBLIN, Dead).run(s(3)).is(DUBLIN, Alive).run(s(3));
    }
    // Dublin's score is high, and it takes over all the same; and it is left in the same way.
    let crash = world.now;
    world.is(PARIS, Dead).run(s(5)).assert_switched(SwitchKind::Failover, DUBLIN, crash, ms(1100));
    world.is(PARIS, Alive).run(s(5));
    let crash = world.now;
    world.is(DUBLIN, Dead).run(s(5)).assert_active(PARIS, ServiceState::Ok);
    assert!(world.the_last_switch().at.since(crash) <= ms(1100));
}

#[test]
fn a_member_that_went_down_often_must_prove_itself_for_longer() {
    let mut world = World::settled(orders());
    for _ in 0..3 {
        world.is(PARIS, Dead).run(s(5)).is(PARIS, Alive).run(s(5));
    }
    let up = world.now;
    world.run(s(3600)).assert_active(PARIS, ServiceState::Ok);
    let waited = world.the_last_switch().at.since(up);
    // Three times down within 25 s: nearly three minutes.
    assert!(waited > s(165) && waited < s(180), "{waited:?}");
}

#[test]
fn a_failover_prefers_a_fresh_verdict_and_takes_a_stale_one_if_there_is_no_other() {
    let mut world = World::settled(with_oslo(10));
    world
        .is(DUBLIN, NeverProbed)
        .run(s(10))
        .is(PARIS, Dead)
        .run(s(5))
        .assert_active(OSLO, ServiceState::Degraded);
    let asked = |(_, action): &(_, Action)| matches!(action, Action::Round { .. });
    assert!(!world.done.iter().any(asked), "a failover costs no round");
    let mut world = World::settled(orders());
    world
        .is(DUBLIN, NeverProbed)
        .run(s(10))
        .is(PARIS, Dead)
        .run(s(5))
        .assert_active(DUBLIN, ServiceState::Degraded);
    assert_eq!(world.the_switch().policy, FlowPolicy::Reset);
}
