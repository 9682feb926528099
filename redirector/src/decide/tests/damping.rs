//! Failback: only to a better member, only after `healthy_for` and `hold_down`. And drains, which a failback
//! begins by default.

use super::world::*;
use crate::model::{
    Epoch, Failback, FailbackMode, FlowPolicy, MemberState, OnAllDown, Service, ServiceState, SwitchKind,
};

/// Paris has died and dublin has taken over.
fn failed_over(service: Service) -> World {
    let mut world = World::settled(service);
    world.is(PARIS, Dead).run(s(5)).assert_active(DUBLIN, ServiceState::Degraded);
    world.done.clear();
    world
}

fn failback(healthy_for: u64, hold_down: u64) -> Service {
    let failback = Failback {
        mode: FailbackMode::Auto,
        healthy_for: s(healthy_for),
        hold_down: s(hold_down),
        flap_half_life: s(0),
    };
    Service { failback, ..orders() }
}

#[test]
fn a_better_member_is_returned_to_after_healthy_for() {
    let mut world = failed_over(orders());
    let revival = world.now;
    world.is(PARIS, Alive).run(s(120)).assert_active(PARIS, ServiceState::Ok);
    // Two passes bring it up, the second at the fast interval; then sixty seconds.
    world.assert_switched(SwitchKind::Failback, PARIS, revival, ms(60_150));
    let switch = world.the_switch();
    assert_eq!((switch.from, switch.epoch, switch.policy), (Some(DUBLIN), Epoch(3), FlowPolicy::Drain));
    assert_eq!(switch.reason, r#"member "paris" has weight 100 over 50 and was up for 1m"#);
}

#[test]
fn a_break_begins_healthy_for_anew() {
    let mut world = failed_over(failback(60, 30));
    world.is(PARIS, Alive).run(s(50)).is(PARIS, Dead).run(s(2)).assert_state(PARIS, MemberState::Down);
    let revival = world.now;
    world.is(PARIS, Alive).run(s(120));
    world.assert_switched(SwitchKind::Failback, PARIS, revival, ms(60_300));
}

/// It was up for five seconds when the agent was stopped, and for more than a minute when that went on; who knows?
#[test]
fn what_was_missed_must_be_seen_before_a_failback() {
    let mut world = failed_over(orders());
    world.is(PARIS, Alive).run(s(5)).late(s(120));
    let thaw = world.now;
    world.run(s(1));
    let why = world.member(PARIS).eligible_reason;
    assert_eq!(why.as_deref(), Some("the agent was late, and must see it up for 59s more"));
    world.run(s(120)).assert_switched(SwitchKind::Failback, PARIS, thaw, s(60));
    // No longer than it was late.
    let mut world = failed_over(orders());
    world.is(PARIS, Alive).run(s(59)).late(s(10));
    let thaw = world.now;
    world.run(s(120)).assert_switched(SwitchKind::Failback, PARIS, thaw, s(10));
}

#[test]
fn a_lost_probe_is_no_break() {
    let mut world = failed_over(orders());
    let revival = world.now;
    world.is(PARIS, Alive).run(s(30)).probe(PARIS, &fail()).run(s(60));
    world.assert_switched(SwitchKind::Failback, PARIS, revival, ms(60_150));
}

#[test]
fn status_says_what_the_failback_waits_for() {
    let why = |world: &World| world.member(PARIS).eligible_reason;
    let mut world = failed_over(failback(20, 120));
    assert!(why(&world).is_some_and(|why| why.starts_with("down: connection refused (")));
    world.is(PARIS, Alive).run(ms(12_150));
    assert_eq!(why(&world).as_deref(), Some("healthy for 12s of 20s"));
    world.run(s(48));
    let left = "hold-down for 55s more";
    assert_eq!(why(&world).as_deref(), Some(left));
    assert!(!world.member(PARIS).eligible);
    assert!(world.member(DUBLIN).eligible, "it is active and up");
    world.run(s(56)).assert_active(PARIS, ServiceState::Ok);
    assert_eq!(why(&world), None);
    assert!(world.member(DUBLIN).eligible, "it stands by");
}

#[test]
fn hold_down_counts_from_the_last_automatic_switch() {
    let mut world = failed_over(failback(0, 30));
    let failover = world.view().since.unwrap();
    world.is(PARIS, Alive).run(s(60));
    world.assert_switched(SwitchKind::Failback, PARIS, failover, s(30));
}

#[test]
fn hold_down_counts_from_the_first_choice_too() {
    let mut world = World::new(failback(0, 30));
    let start = world.now;
    world.is(PARIS, NeverProbed).run(s(6)).assert_active(DUBLIN, ServiceState::Degraded);
    world.done.clear();
    world.is(PARIS, Alive).run(s(60));
    world.assert_switched(SwitchKind::Failback, PARIS, start, s(35));
}

#[test]
fn hold_down_never_delays_leaving_a_dead_member() {
    let mut world = failed_over(failback(0, 3600));
    world.is(PARIS, Alive).run(s(5)).assert_active(DUBLIN, ServiceState::Degraded);
    let crash = world.now;
    world.is(DUBLIN, Dead).run(s(5)).assert_active(PARIS, ServiceState::Ok);
    assert_eq!(world.the_switch().kind, SwitchKind::Failover);
    assert!(world.the_switch().at.since(crash) <= ms(1100));
    world.is(PARIS, Dead).is(DUBLIN, Alive).run(s(5)).assert_active(DUBLIN, ServiceState::Degraded);
}

#[test]
fn healthy_for_never_delays_leaving_a_dead_member() {
    let mut world = failed_over(failback(3600, 0));
    world.is(PARIS, Alive).run(s(5)).is(DUBLIN, Dead).run(s(5)).assert_active(PARIS, ServiceState::Ok);
}

#[test]
fn a_flapping_member_is_left_once_and_not_returned_to() {
    let mut world = World::settled(orders());
    for _ in 0..60 {
        world.is(PARIS, Dead).run(s(10)).is(PARIS, Alive).run(s(50));
    }
    world.assert_active(DUBLIN, ServiceState::Degraded);
    assert_eq!(world.the_switch().kind, SwitchKind::Failover);
}

#[test]
fn without_damping_a_flapping_member_is_followed() {
    let mut world = World::settled(failback(0, 0));
    for _ in 0..10 {
        world.is(PARIS, Dead).run(s(10)).assert_active(DUBLIN, ServiceState::Degraded);
        world.is(PARIS, Alive).run(s(10)).assert_active(PARIS, ServiceState::Ok);
    }
    assert_eq!(world.view().epoch, Epoch(21));
}

#[test]
fn manual_and_never_do_not_fail_back_but_do_fail_over() {
    let cases = [
        (FailbackMode::Manual, "failback is left to an operator"),
        (FailbackMode::Never, "failback is switched off"),
    ];
    for (mode, why) in cases {
        let mut service = orders();
        service.failback.mode = mode;
        let mut world = failed_over(service);
        world.is(PARIS, Alive).run(s(3600)).assert_no_switch();
        assert_eq!(world.member(PARIS).eligible_reason.as_deref(), Some(why));
        assert_eq!(world.core.next_deadline(), None);
        world.is(DUBLIN, Dead).run(s(5)).assert_active(PARIS, ServiceState::Ok);
    }
}

#[test]
fn the_best_of_those_that_were_up_long_enough_is_returned_to_then_the_better_one() {
    let mut service = with_oslo(10);
    service.failback.hold_down = s(0);
    let mut world = World::settled(service);
    world.is(DUBLIN, Dead).run(s(5)).is(PARIS, Dead).run(s(5)).assert_active(OSLO, ServiceState::Degraded);
    world.is(DUBLIN, Alive).run(s(30)).is(PARIS, Alive).run(s(35));
    world.assert_active(DUBLIN, ServiceState::Degraded);
    world.run(s(30)).assert_active(PARIS, ServiceState::Ok);
    assert_eq!(world.view().epoch, Epoch(4));
}

#[test]
fn a_deadline_that_comes_late_after_bad_news_does_not_fail_back() {
    let mut world = failed_over(orders());
    world.is(PARIS, Alive).run(s(59)).is(PARIS, NeverProbed).is(DUBLIN, NeverProbed);
    world.probe(PARIS, &fail()).probe(PARIS, &fail());
    // The agent was not scheduled for a while: the failback was due, but the next it hears is a failure.
    world.sleep(s(10)).probe(PARIS, &fail()).run(s(600)).assert_no_switch();
}

#[test]
fn a_drain_ends_in_one_floor_at_its_deadline() {
    let mut world = failed_over(orders());
    world.is(PARIS, Alive).run(s(200));
    let failback = world.the_switch();
    assert_eq!(failback.policy, FlowPolicy::Drain);
    assert_eq!(world.floors(), [(failback.at + s(30), Epoch(3))]);
}

#[test]
fn a_later_reset_ends_a_drain_by_itself() {
    let mut world = failed_over(orders());
    world.is(PARIS, Alive).run(s(70)).assert_active(PARIS, ServiceState::Ok);
    world.is(PARIS, Dead).run(s(200)).assert_active(DUBLIN, ServiceState::Degraded);
    assert_eq!(world.floors(), []);
}

#[test]
fn later_drains_and_keeps_leave_an_earlier_drain_its_deadline() {
    let drain = FlowPolicy::Drain;
    let mut service = Service { on_failover: drain, drain_timeout: s(100), ..failback(10, 0) };
    for (on_failback, keeps) in [(drain, false), (FlowPolicy::Keep, true)] {
        service.on_failback = on_failback;
        let mut world = World::settled(service.clone());
        world.is(PARIS, Dead).run(s(20)).is(PARIS, Alive).run(s(20)).is(PARIS, Dead).run(s(300));
        let ends = |switch: &&crate::decide::Switch| (switch.at + s(100), switch.epoch);
        let mut expected: Vec<_> = world.switches().iter().map(ends).collect();
        assert_eq!(expected.len(), 3, "failover, failback, failover");
        if keeps {
            expected.remove(1);
        }
        assert_eq!(world.floors(), expected);
    }
}

#[test]
fn drains_that_ended_while_the_agent_slept_raise_the_floor_once_to_the_newest() {
    let service =
        Service { on_failover: FlowPolicy::Drain, on_all_down: OnAllDown::Refuse, ..failback(0, 0) };
    let mut world = World::settled(service);
    world.is(PARIS, Dead).run(s(5)).is(PARIS, Alive).run(s(5)).assert_active(PARIS, ServiceState::Ok);
    world.sleep(s(3600)).run(s(0));
    assert_eq!(world.floors(), [(world.now, Epoch(3))]);
}

/// Its deadline is the moment of the switch: handed out as the next one, it made the agent spin.
#[test]
fn a_drain_that_takes_no_time_ends_with_its_switch() {
    let service = Service { on_failover: FlowPolicy::Drain, drain_timeout: s(0), ..orders() };
    let mut world = World::settled(service);
    world.is(PARIS, Dead).run(s(5));
    let switch = world.the_switch();
    assert_eq!(world.floors(), [(switch.at, switch.epoch)]);
}
