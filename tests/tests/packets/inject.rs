//! Resets that the agent asks for: segments with SYN and RST that name flows by their incarnations.

use redirector_common::inject::{Home, MOST, Order};

use super::{
    bench::{Bench, Verdict},
    table::{Given, HANDSHAKE_ACK, LEFT_AND_RESET, REQUEST, RESPONSE, SYN, SYN_ACK},
};

/// What happens before, and what the two ends are sent then.
const ASKED: &[(&str, &[Given], &str, &str)] = &[
    (
        "both ends of an idle flow get the numbers that they expect next",
        &[SYN, SYN_ACK, HANDSHAKE_ACK, REQUEST, RESPONSE, LEFT_AND_RESET],
        "port > member RST ACK seq=131 ack=508",
        "vip > client RST ACK seq=508 ack=131",
    ),
    (
        "a client that still waits for the answer to its SYN is refused",
        &[SYN, LEFT_AND_RESET],
        "port > member RST seq=101",
        "vip > client RST ACK seq=0 ack=101",
    ),
    (
        "a flow that is not stale is reset too",
        &[SYN, SYN_ACK, HANDSHAKE_ACK],
        "port > member RST ACK seq=101 ack=501",
        "vip > client RST ACK seq=501 ack=101",
    ),
];

fn in_both_versions(work: impl Fn(&mut Bench)) {
    for v6 in [false, true] {
        work(&mut Bench::new(v6, 64, false));
    }
}

fn give(bench: &mut Bench, given: &[Given]) {
    for given in given {
        match given {
            Given::Sent(words) => drop(bench.sent(words)),
            Given::Came(words) => drop(bench.came(words)),
            Given::CameL3(words) => drop(bench.came_l3(words)),
            Given::Do(action) => action(bench),
        }
    }
}

#[test]
fn a_flow_that_is_asked_for_is_reset_at_both_ends_and_stays() {
    in_both_versions(|bench| {
        for (says, given, member, client) in ASKED {
            bench.renew();
            give(bench, given);
            for (order, outcome, packet) in
                [(Order::ResetClients, "reset_client", client), (Order::ResetMembers, "reset_member", member)]
            {
                let (packets, counted) = bench.asked_for(&[0], order);
                assert_eq!((packets, counted), (vec![(*packet).to_owned()], vec![(outcome, 1)]), "{says}");
            }
            assert_eq!(bench.entries(), (1, 1), "{says}");
        }
    });
}

/// One packet asks for many flows. Those that are gone are passed over, wherever they stand in the list.
#[test]
fn a_list_resets_everybody_in_it() {
    in_both_versions(|bench| {
        give(bench, &[SYN, SYN_ACK, HANDSHAKE_ACK, REQUEST, RESPONSE]);
        for list in LISTS {
            let gone = list.iter().filter(|wrong| **wrong == GONE).count();
            let reset = list.len() - gone;
            for (order, outcome, packet) in [
                (Order::ResetClients, "reset_client", "vip > client RST ACK seq=508 ack=131"),
                (Order::ResetMembers, "reset_member", "port > member RST ACK seq=131 ack=508"),
            ] {
                let (packets, counted) = bench.asked_for(list, order);
                assert_eq!(packets, vec![packet; reset], "{list:x?}");
                let mut wanted = vec![("reset_dropped", gone as u64), (outcome, reset as u64)];
                wanted.retain(|(_, count)| *count > 0);
                wanted.sort_unstable();
                assert_eq!(counted, wanted, "{list:x?}");
            }
        }
        assert_eq!(bench.entries(), (1, 1));
    });
}

const GONE: u64 = 1 << 40;
/// The only flow, or one that is gone, again and again.
const LISTS: &[&[u64]] = &[&[0, 0], &[GONE, 0], &[0, GONE], &[0, GONE, 0], &[GONE; 3], &[0; MOST]];

/// Nobody but the host answers to its member's next segment then, and that answer is as exact.
#[test]
fn a_flow_goes_with_its_member_when_its_client_has_no_socket_any_more() {
    for (home, is_beside) in [(Home::HERE, false), (Home::beside(0), true)] {
        in_both_versions(|bench| {
            let socket = if is_beside { bench.client_socket_beside() } else { bench.client_socket() };
            give(bench, &[SYN, SYN_ACK, HANDSHAKE_ACK]);
            assert_eq!(bench.asked_at(home, &[0], Order::ResetMembers).1, [("reset_member", 1)]);
            assert_eq!(bench.entries(), (1, 1), "its client did not believe its reset");
            drop(socket);
            let (packets, counted) = bench.asked_at(home, &[0, 0], Order::ResetMembers);
            assert_eq!(packets, ["port > member RST ACK seq=101 ack=501"]);
            assert_eq!(counted, [("forgotten", 1), ("reset_dropped", 1), ("reset_member", 1)]);
            assert_eq!(bench.entries(), (0, 0));
        });
    }
}

/// The member answers such a reset with a challenge ACK, and the flow is there to answer that one.
#[test]
fn a_flow_whose_reset_may_come_before_its_data_stays() {
    in_both_versions(|bench| {
        give(bench, &[SYN, SYN_ACK, HANDSHAKE_ACK, REQUEST]);
        assert_eq!(bench.asked_at(Home::HERE, &[0], Order::ResetMembers).1, [("reset_member", 1)]);
        assert_eq!(bench.entries(), (1, 1));
        give(bench, &[RESPONSE]);
        let counted = bench.asked_at(Home::HERE, &[0], Order::ResetMembers).1;
        assert_eq!(counted, [("forgotten", 1), ("reset_member", 1)]);
    });
}

/// It was reset, and connects again with the port of before, before its member was.
#[test]
fn a_client_that_takes_its_own_place_has_the_member_reset() {
    in_both_versions(|bench| {
        give(bench, &[SYN, SYN_ACK, HANDSHAKE_ACK, REQUEST, RESPONSE, LEFT_AND_RESET]);
        assert_eq!(bench.asked_for(&[0], Order::ResetClients).1, [("reset_client", 1)]);
        let seen = bench.sent("client > vip SYN seq=7000");
        assert_eq!((seen.verdict, seen.outcome), (Verdict::Redirect, "reset_member"));
        assert_eq!(seen.packet, "port > member RST ACK seq=131 ack=508");
        // It leaves by the VIP device once more, and meets no flow.
        assert_eq!(seen.copy.as_deref(), Some("client > vip SYN seq=7000"));
        assert_eq!(bench.entries(), (0, 0));
    });
}

#[test]
fn what_is_to_be_forgotten_goes_with_both_halves() {
    in_both_versions(|bench| {
        give(bench, &[SYN, SYN_ACK]);
        assert_eq!(bench.asked_for(&[GONE], Order::Forget), (vec![], vec![("reset_dropped", 1)]));
        assert_eq!(bench.entries(), (1, 1));
        assert_eq!(bench.asked_for(&[0], Order::Forget), (vec![], vec![("forgotten", 1)]));
        assert_eq!(bench.entries(), (0, 0));
    });
}

#[test]
fn a_member_without_a_route_is_not_reset_and_its_client_is() {
    in_both_versions(|bench| {
        give(bench, &[SYN, SYN_ACK, HANDSHAKE_ACK]);
        bench.remove_route();
        assert_eq!(bench.asked_for(&[0], Order::ResetClients).1, [("reset_client", 1)]);
        let asked = bench.asked_at(Home::HERE, &[0, 0], Order::ResetMembers);
        assert_eq!(asked, (vec![], vec![("dropped_no_route", 2)]));
        assert_eq!(bench.entries(), (1, 1));
    });
}

/// A copy goes to no neighbour that is not known; the last packet finds out who it is, and the next pass asks again.
#[test]
fn a_flow_stays_until_its_members_neighbour_is_known() {
    in_both_versions(|bench| {
        give(bench, &[SYN, SYN_ACK, HANDSHAKE_ACK]);
        bench.forget_gateways();
        let (packets, counted) = bench.asked_at(Home::HERE, &[0, 0], Order::ResetMembers);
        assert_eq!(packets, ["port > member RST ACK seq=101 ack=501"]);
        assert_eq!(counted, [("dropped_no_route", 1), ("reset_member", 1)]);
        assert_eq!(bench.entries(), (1, 1));
    });
}

/// There are no neighbours in a tunnel, and none is asked for.
#[test]
fn a_member_behind_a_tunnel_is_reset() {
    in_both_versions(|bench| {
        bench.forget_gateways();
        bench.lead_over_a_tunnel();
        give(bench, &[SYN, SYN_ACK, HANDSHAKE_ACK]);
        let (packets, counted) = bench.asked_for(&[0], Order::ResetMembers);
        assert_eq!(
            (packets, counted),
            (vec!["port > member RST ACK seq=101 ack=501".to_owned()], vec![("reset_member", 1)])
        );
    });
}

/// Whoever does not know the number, or is late, resets nothing: not even a stale flow.
#[test]
fn another_flow_with_the_same_tuple_is_not_touched() {
    in_both_versions(|bench| {
        give(bench, &[SYN, SYN_ACK, HANDSHAKE_ACK]);
        for stale in [false, true] {
            for bit in [1, 1 << 31, 1 << 32, 1 << 63] {
                for order in [Order::ResetClients, Order::ResetMembers, Order::Forget] {
                    let asked = bench.asked_at(Home::HERE, &[bit], order);
                    assert_eq!(asked, (vec![], vec![("reset_dropped", 1)]));
                }
            }
            if !stale {
                assert_eq!(bench.sent("client > vip PSH ACK seq=101 ack=501 len=30").outcome, "carried");
                give(bench, &[LEFT_AND_RESET]);
            }
        }
        assert_eq!(bench.entries(), (1, 1));
    });
}

/// An end that did not believe its reset says so, and gets an exact one.
#[test]
fn a_challenge_after_it_is_answered_exactly() {
    in_both_versions(|bench| {
        give(bench, &[SYN, SYN_ACK, HANDSHAKE_ACK, REQUEST, RESPONSE, LEFT_AND_RESET]);
        assert_eq!(bench.asked_for(&[0], Order::ResetMembers).1, [("reset_member", 1)]);
        // The response was lost on its way to the client.
        let seen = bench.sent("client > vip ACK seq=131 ack=501");
        assert_eq!((seen.outcome, seen.copy.as_deref()), ("reset_both", Some("vip > client RST seq=501")));
    });
}
