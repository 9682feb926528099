//! Members with several addresses: which of them new flows may go to, and what becomes of the flows of the others.

use std::net::SocketAddr;

use super::world::*;
use crate::{
    decide::{Action, Core, Time},
    model::{Check, FlowPolicy, MemberState, Offer, Pace, Service, ServiceState, SwitchKind},
};

fn a(number: u8) -> SocketAddr {
    address(PARIS, number)
}

fn v6(last: u16) -> SocketAddr {
    ([0xfd00, 0, 0, 0, 0, 0, 0, last], 6379).into()
}

/// Paris has three addresses, all up, and is active; dublin has one.
fn three(service: Service) -> World {
    let mut world = World::new(service);
    world.has(PARIS, &[a(0), a(1), a(2)]).run(s(10)).assert_active(PARIS, ServiceState::Ok);
    world.done.clear();
    world
}

#[test]
fn an_address_that_fails_is_left_out_and_its_flows_are_reset_and_the_member_stays() {
    let mut world = three(orders());
    let crash = world.now;
    world.address_is(a(1), Dead).run(s(5)).assert_active(PARIS, ServiceState::Ok);
    assert_eq!(world.offered(PARIS), [a(0), a(2)]);
    assert_eq!(world.resets(), [(crash + ms(1100), a(1))], "as soon as a member would be left");
    world.assert_no_switch();
    world.assert_state(PARIS, MemberState::Up);
    let reason = world.member(PARIS).reason;
    assert!(
        reason.starts_with("2 of 3 addresses up; 192.0.2.11:6379: ping: connection refused ("),
        "{reason}"
    );

    world.address_is(a(1), Alive).run(s(5));
    assert_eq!(world.offered(PARIS), [a(0), a(1), a(2)]);
    assert_eq!(world.resets().len(), 1);
}

#[test]
fn it_comes_before_what_reports_on_it() {
    let mut world = three(orders());
    world.address_is(a(1), Dead).run(s(5));
    let story: Vec<_> = world.done.iter().map(|(_, action)| action).collect();
    let in_order = matches!(
        story[..],
        [
            Action::Ask { .. },
            Action::Ask { .. },
            Action::Pace { pace: Pace::Fast, .. },
            Action::Offer { .. },
            Action::ResetAddress { removed: false, .. },
            Action::AddressChanged { state: MemberState::Down, .. },
            Action::Pace { pace: Pace::Normal, .. }
        ]
    );
    assert!(in_order, "{story:#?}");
}

#[test]
fn a_drained_address_ends_at_its_deadline_unless_it_comes_back() {
    let draining = || Service { on_failover: FlowPolicy::Drain, drain_timeout: s(20), ..orders() };
    let mut world = three(draining());
    let crash = world.now;
    world.address_is(a(1), Dead).run(s(60));
    assert_eq!(world.resets(), [(crash + ms(1100) + s(20), a(1))]);

    let mut world = three(draining());
    world.address_is(a(1), Dead).run(s(10)).address_is(a(1), Alive).run(s(60));
    assert_eq!(world.resets(), []);

    let mut world = three(Service { on_failover: FlowPolicy::Keep, ..orders() });
    world.address_is(a(1), Dead).run(s(600));
    assert_eq!((world.resets(), world.offered(PARIS)), (vec![], vec![a(0), a(2)]));
}

/// It fails, and is removed from the name before its drain is over.
#[test]
fn an_address_that_is_left_twice_ends_at_the_earlier_deadline() {
    for (on_failback, after) in [(FlowPolicy::Drain, ms(1100) + s(20)), (FlowPolicy::Reset, s(10))] {
        let service =
            Service { on_failover: FlowPolicy::Drain, on_failback, drain_timeout: s(20), ..orders() };
        let mut world = three(service);
        let crash = world.now;
        world.address_is(a(1), Dead).run(s(10)).has(PARIS, &[a(0), a(2)]).run(s(60));
        assert_eq!(world.resets(), [(crash + after, a(1))], "{on_failback:?}");
    }
}

/// Whoever fails last is not taken out: the switch resets the flows of all, and with nobody to go to it is as good as any.
#[test]
fn when_all_fail_the_member_is_left_and_the_last_ones_stay_offered() {
    let mut world = three(orders());
    world.address_is(a(0), Dead).run(s(5)).is(PARIS, Dead);
    let crash = world.now;
    world.run(s(5)).assert_active(DUBLIN, ServiceState::Degraded);
    world.assert_switched(SwitchKind::Failover, DUBLIN, crash, ms(1100));
    let reason = &world.the_switch().reason;
    assert!(reason.starts_with("member \"paris\" down: 192.0.2.10:6379: connection refused ("), "{reason}");
    assert!(reason.ends_with(", and 2 more"), "{reason}");
    assert_eq!(world.offered(PARIS).len(), 1);
    assert_eq!(world.resets().len(), 1, "of those that fail together none is reset for itself");

    world.address_is(a(0), Alive).run(s(5));
    assert_eq!(world.offered(PARIS), [a(0)], "what is down goes as soon as one is up");
    assert_eq!(world.resets().len(), 3);
}

#[test]
fn one_verdict_each_is_enough_for_the_first_choice() {
    let mut world = World::new(orders());
    world.has(PARIS, &[a(0), a(1)]).probe(DUBLIN, &pass()).probe_address(PARIS, a(1), &pass());
    world.assert_active(PARIS, ServiceState::Ok);
    assert_eq!(world.member(PARIS).reason, "1 of 2 addresses up; 192.0.2.10:6379: no verdict yet");
}

#[test]
fn a_member_is_down_only_when_no_address_is_left_to_hope_for() {
    let mut world = World::new(orders());
    world.has(PARIS, &[a(0), a(1)]);
    world.fail_address(PARIS, a(0), 3);
    world.assert_state(PARIS, MemberState::Unknown);
    world.fail_address(PARIS, a(1), 3);
    world.assert_state(PARIS, MemberState::Down);
}

/// One resolver's answer must not send flows to a server that nobody has seen alive.
#[test]
fn a_new_address_gets_flows_when_it_has_passed() {
    let mut world = three(orders());
    world.has(PARIS, &[a(0), a(1), a(2), a(3)]).address_is(a(3), Dead);
    assert_eq!(world.offered(PARIS), [a(0), a(1), a(2)]);
    world.run(s(60));
    assert_eq!(world.offered(PARIS), [a(0), a(1), a(2)]);
    assert_eq!(world.address(PARIS, a(3)).state, MemberState::Down);
    world.address_is(a(3), Alive).run(s(5));
    assert_eq!(world.offered(PARIS), [a(0), a(1), a(2), a(3)]);
    world.assert_no_switch();
}

#[test]
fn a_removed_address_loses_its_flows_as_a_failback_does() {
    for (policy, after) in
        [(FlowPolicy::Reset, Some(s(0))), (FlowPolicy::Drain, Some(s(30))), (FlowPolicy::Keep, None)]
    {
        let mut world = three(Service { on_failback: policy, ..orders() });
        let removal = world.now;
        world.has(PARIS, &[a(0), a(2)]).run(s(600));
        assert_eq!(world.offered(PARIS), [a(0), a(2)]);
        let expected: Vec<_> = after.map(|after| (removal + after, a(1))).into_iter().collect();
        assert_eq!(world.resets(), expected, "{policy:?}");
        world.assert_no_switch();
    }
}

#[test]
fn a_removed_address_that_returns_in_time_keeps_its_flows_and_is_checked_anew() {
    let mut world = three(orders());
    world.has(PARIS, &[a(0), a(2)]).run(s(10)).has(PARIS, &[a(0), a(1), a(2)]);
    assert_eq!(world.offered(PARIS), [a(0), a(2)]);
    world.run(s(600));
    assert_eq!((world.offered(PARIS), world.resets()), (vec![a(0), a(1), a(2)], vec![]));
}

/// A cluster that moves: with nothing else known, the new address is offered before it has passed.
#[test]
fn the_only_address_is_replaced() {
    let mut world = three(orders());
    world.has(PARIS, &[a(0)]).run(s(60)).done.clear();
    world.has(PARIS, &[a(5)]);
    assert_eq!(world.offered(PARIS), [a(5)]);
    world.assert_state(PARIS, MemberState::Unknown);
    world.run(s(5)).assert_active(PARIS, ServiceState::Ok);
    world.assert_no_switch();
}

#[test]
fn a_member_whose_last_good_address_is_removed_is_left_at_once() {
    let mut world = three(orders());
    world.address_is(a(1), Dead).run(s(5)).has(PARIS, &[a(1)]);
    world.assert_active(DUBLIN, ServiceState::Degraded);
    assert_eq!(world.the_switch().kind, SwitchKind::Failover);
}

#[test]
fn a_report_of_an_address_that_was_removed_counts_no_more() {
    let mut world = three(orders());
    world.has(PARIS, &[a(0)]).done.clear();
    world.fail_address(PARIS, a(1), 5);
    assert_eq!(world.done, []);
}

/// Counted together, a member that IPv4 clients cannot reach any more would never be left.
#[test]
fn with_both_ip_versions_the_ipv4_addresses_say_how_the_member_is() {
    let mut world = World::new(orders());
    world.has(PARIS, &[a(0), a(1), v6(1), v6(2)]).run(s(10)).done.clear();
    world.address_is(v6(1), Dead).address_is(v6(2), Dead).run(s(10)).assert_no_switch();
    assert_eq!(world.offered(PARIS).iter().filter(|address| address.is_ipv6()).count(), 1, "one stays");
    world.address_is(v6(1), Alive).run(s(10)).address_is(a(0), Dead).address_is(a(1), Dead).run(s(10));
    world.assert_active(DUBLIN, ServiceState::Degraded);

    let mut world = World::new(orders());
    world.has(PARIS, &[v6(1), v6(2)]).run(s(10)).is(PARIS, Dead).run(s(10));
    world.assert_active(DUBLIN, ServiceState::Degraded);
}

/// What an earlier agent left: `a(0)` in use, `a(1)` left out, `a(2)` removed by now.
#[test]
fn a_restarted_agent_changes_no_offer_before_it_has_verdicts() {
    let offer = |address, offered| Offer { address, offered };
    let known =
        vec![vec![offer(a(0), true), offer(a(1), false), offer(a(2), true)], offered(&[address(DUBLIN, 0)])];
    let mut world = World::new(orders());
    world.core = Core::new(orders(), &known, None, world.now);
    world.has(PARIS, &[a(0), a(1), a(3)]).is(PARIS, NeverProbed).run(s(60));
    assert_eq!(world.offered(PARIS), [a(0)]);
    assert_eq!(world.resets().last(), Some(&(world.now.ago(s(30)), a(2))), "a drain that begins anew");
    world.is(PARIS, Alive).run(s(5));
    assert_eq!(world.offered(PARIS), [a(0), a(1), a(3)]);

    // Were its flows reset before? Nobody knows, so they are when it is known to be down.
    let mut world = World::new(orders());
    world.core = Core::new(orders(), &known, None, world.now);
    world.has(PARIS, &[a(0), a(1)]).address_is(a(1), Dead).run(s(5));
    assert_eq!(world.resets().first().map(|reset| reset.1), Some(a(1)));
}

/// When addresses were asked without their turn.
fn asked(world: &World) -> Vec<(Time, SocketAddr)> {
    let asked = |(at, action): &(Time, Action)| match action {
        Action::Ask { address, .. } => Some((*at, *address)),
        _ => None,
    };
    world.done.iter().filter_map(asked).collect()
}

/// What the timer says that keeps flows of an address waiting.
fn why_not(world: &World) -> Option<String> {
    let timers = world.core.explain(world.now).timers;
    timers.into_iter().find(|timer| timer.name == "doubt").map(|timer| timer.then)
}

/// There is nobody else.
fn paris_alone() -> Service {
    Service { members: vec![member("paris", 100)], ..orders() }
}

/// Paris alone, and its probers wait.
fn three_alone(service: Service) -> World {
    let mut world = three(service);
    world.is(PARIS, NeverProbed).sleep(ms(10));
    world
}

/// Of this host: each address fails, one of them first, and all come back.
#[test]
fn a_cut_of_this_host_resets_no_flow() {
    for length in [ms(20), ms(70), ms(150), ms(500), ms(1100), s(3), s(600)] {
        // At different moments between probes of different phases.
        for begins in 0..20 {
            let mut world = World::new(paris_alone());
            for number in 1..4 {
                world.has(PARIS, &[a(0), a(1), a(2)][..number]).run(ms(330));
            }
            world.run(s(90)).done.clear();
            world.run(ms(50 * begins)).is(PARIS, Dead).run(length);
            world.is(PARIS, Alive).run(s(60));
            assert_eq!(world.resets(), [], "a cut of {length:?} after {begins}");
            assert_eq!(world.offered(PARIS), [a(0), a(1), a(2)]);
        }
    }
}

#[test]
fn the_others_are_asked_when_an_address_begins_to_fail() {
    let mut world = three_alone(paris_alone());
    world.probe_address(PARIS, a(1), &fail());
    assert_eq!(asked(&world), [(world.now, a(0)), (world.now, a(2))]);
    world.fail_address(PARIS, a(1), 2);
    // New flows wait for nothing.
    assert_eq!((world.offered(PARIS), world.resets()), (vec![a(0), a(2)], vec![]));
    assert!(why_not(&world).is_some_and(|why| why.contains("no other address was heard")));
    // They fail as well, and all come back.
    world.fail_address(PARIS, a(0), 1);
    world.sleep(ms(300)).probe_address(PARIS, a(2), &pass());
    assert_eq!(asked(&world).last(), Some(&(world.now, a(1))));
    assert_eq!(world.resets(), []);
    world.is(PARIS, Alive).run(s(60));
    assert_eq!((world.offered(PARIS), world.resets()), (vec![a(0), a(1), a(2)], vec![]));
}

/// One probe was under way in the cut, and says so afterwards.
#[test]
fn the_last_probe_of_a_cut_resets_no_flow() {
    let mut world = three_alone(paris_alone());
    world.fail_address(PARIS, a(1), 2);
    world.sleep(ms(300)).probe_address(PARIS, a(0), &pass()).sleep(ms(1));
    world.probe_address(PARIS, a(1), &fail());
    assert_eq!(world.address(PARIS, a(1)).state, MemberState::Down);
    assert!(why_not(&world).is_some_and(|why| why.contains("another address is heard again")));
    assert_eq!(asked(&world).last(), Some(&(world.now, a(1))));
    world.probe_address(PARIS, a(1), &pass());
    assert!(why_not(&world).is_some_and(|why| why.contains("it answers again")));
    world.is(PARIS, Alive).run(s(60));
    assert_eq!(world.resets(), []);
}

/// A probe of another one that was answered before the cut, and is heard of in it.
#[test]
fn an_answer_from_before_a_cut_resets_no_flow() {
    let mut world = three_alone(paris_alone());
    world.fail_address(PARIS, a(1), 1);
    // This was asked before the cut.
    world.sleep(ms(1)).probe_address(PARIS, a(0), &pass());
    world.fail_address(PARIS, a(0), 1);
    world.fail_address(PARIS, a(2), 1);
    world.fail_address(PARIS, a(1), 1);
    world.sleep(ms(400)).probe_address(PARIS, a(0), &pass());
    world.fail_address(PARIS, a(1), 1);
    assert_eq!(world.address(PARIS, a(1)).state, MemberState::Down);
    assert_eq!(world.resets(), []);
    world.is(PARIS, Alive).run(s(60));
    assert_eq!(world.resets(), []);
}

#[test]
fn an_address_that_dies_while_the_others_are_far_away_waits_for_one_probe_more() {
    let mut world = three_alone(paris_alone());
    world.fail_address(PARIS, a(1), 3);
    assert_eq!(world.resets(), []);
    world.sleep(ms(80)).probe_address(PARIS, a(0), &pass());
    assert_eq!(world.resets(), []);
    // It is asked at once, and once more.
    world.address_is(a(1), Dead).run(ms(0));
    assert_eq!(world.resets(), [(world.now, a(1))]);
}

/// A prober that hangs costs a window, from when both were known.
#[test]
fn a_doubt_about_an_address_ends_after_a_window() {
    let mut world = three_alone(paris_alone());
    world.fail_address(PARIS, a(1), 3);
    let found = world.now;
    world.run(s(60));
    assert_eq!(world.resets(), [(found + s(2), a(1))]);

    // Where all are down nobody's flows are reset, and then it is heard of no more.
    let mut world = three_alone(paris_alone());
    world.is(PARIS, Dead).run(s(600)).is(PARIS, NeverProbed).probe_address(PARIS, a(0), &pass());
    assert_eq!(world.resets(), []);
    world.sleep(ms(50)).probe_address(PARIS, a(0), &pass());
    let up = world.now;
    world.run(s(60));
    assert_eq!(world.resets(), [(up + s(2), a(1)), (up + s(2), a(2))]);
}

/// Each loss of a packet there would put the end off.
#[test]
fn an_other_address_that_loses_probes_delays_nothing_while_a_third_lives() {
    let mut world = three_alone(paris_alone());
    world.fail_address(PARIS, a(1), 1);
    world.sleep(ms(1)).probe_address(PARIS, a(2), &pass());
    for _ in 0..2 {
        world.probe_address(PARIS, a(0), &fail()).probe_address(PARIS, a(0), &pass());
        world.fail_address(PARIS, a(1), 1);
    }
    assert_eq!(world.resets(), [(world.now, a(1))]);
}

#[test]
fn a_late_agent_does_not_believe_the_probe_of_an_address_that_was_under_way() {
    let one_is_enough = with_checks(paris_alone(), vec![Check { fall: 1, ..check() }]);
    let mut world = three_alone(one_is_enough);
    world.late(s(10)).probe_address(PARIS, a(0), &pass()).probe_address(PARIS, a(1), &fail());
    assert_eq!(world.address(PARIS, a(1)).state, MemberState::Down);
    world.probe_address(PARIS, a(0), &pass());
    assert_eq!(world.resets(), []);
    world.fail_address(PARIS, a(1), 2);
    assert_eq!(world.resets(), [(world.now, a(1))]);
}

/// The IPv6 network is cut off, and the IPv4 addresses say nothing of that.
#[test]
fn addresses_of_the_other_ip_version_are_no_others() {
    let mut world = World::new(orders());
    world.has(PARIS, &[a(0), v6(1), v6(2)]).run(s(10)).is(PARIS, NeverProbed).sleep(ms(10)).done.clear();
    world.fail_address(PARIS, v6(1), 1);
    assert_eq!(asked(&world), [(world.now, v6(2))]);
    world.fail_address(PARIS, v6(1), 2);
    world.probe_address(PARIS, a(0), &pass()).fail_address(PARIS, v6(1), 2);
    assert_eq!((world.offered(PARIS), world.resets()), (vec![a(0), v6(2)], vec![]));
}

#[test]
fn nobody_is_asked_for_nothing() {
    let mut world = World::settled(orders());
    world.is(PARIS, Dead).run(s(60)).is(PARIS, Alive).run(s(600));
    assert_eq!(asked(&world), []);
    // Nor does an address whose flows were reset, however often it fails again.
    let mut world = three(paris_alone());
    world.address_is(a(1), Dead).run(s(10)).address_is(a(1), NeverProbed).done.clear();
    for _ in 0..10 {
        world.probe_address(PARIS, a(1), &pass()).fail_address(PARIS, a(1), 1);
    }
    assert!(asked(&world).iter().all(|(_, address)| *address == a(1)), "{:?}", asked(&world));
    // Nor does a service that resets nothing.
    let mut world = three(Service { on_failover: FlowPolicy::Keep, ..orders() });
    world.address_is(a(1), Dead).run(s(60));
    assert_eq!(asked(&world), []);
}
