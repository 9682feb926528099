//! ICMP errors about packets that were translated: they are translated back, for whoever sent the packet. Without this a
//! narrow path is a black hole.

use redirector_common::{
    addr::Tuple,
    flow::Flow,
    icmp::{Quote, quote, translate},
    outcome::Outcome,
    packet::Datagram,
};

use crate::{
    from_member::flow_of,
    hook::{Hook, Verdict},
    maps,
};

/// An error that an uplink received, about what a client sent. It goes on to the host's stack there, which delivers or
/// forwards it: whoever sent it, a router or the member itself, is rightly expected at the uplink.
#[inline(always)]
pub fn received<H: Hook>(hook: &mut H, error: &Datagram) -> Verdict<H> {
    let Some(quote) = quote(hook, error) else { return Verdict::leave(Outcome::NotTcp) };
    to_client(hook, error, &quote, |_| H::LEAVE)
}

/// An error that this host routed to a VIP: about what a member sent; or, when a member on this host refused it, about
/// what a client sent.
#[inline(always)]
pub fn routed<H: Hook>(hook: &mut H, error: &Datagram) -> Verdict<H> {
    let Some(quote) = quote(hook, error) else { return Verdict::leave(Outcome::NotTcp) };
    match maps::flow(&quote.ends.reversed()) {
        Some(flow) => to_member(hook, error, &quote, flow),
        None => to_client(hook, error, &quote, H::to_client),
    }
}

#[inline(always)]
fn to_client<H: Hook>(
    hook: &mut H,
    error: &Datagram,
    quote: &Quote,
    leave: impl Fn(&mut H) -> H::Action,
) -> Verdict<H> {
    let Some(stub) = maps::stub(&quote.ends) else { return Verdict::leave(Outcome::NotTcp) };
    let client_side = stub.client_side;
    let Some(flow) = flow_of(&quote.ends, stub.incarnation, &client_side) else {
        return Verdict::leave(Outcome::NotTcp);
    };
    let member = Some(flow.member);
    if !flow.client_sent(quote.sequence) {
        return Verdict { outcome: Outcome::IcmpNotBelieved, member, action: H::LEAVE };
    }
    let ends = Tuple { far: client_side.near, ..error.ends };
    if translate(hook, error, &ends, quote, &client_side).is_none() {
        return Verdict::drop(Outcome::DroppedKernel, member);
    }
    Verdict { outcome: Outcome::IcmpToClient, member, action: leave(hook) }
}

/// As source address the error gets the one that the member knows this flow by.
#[inline(always)]
fn to_member<H: Hook>(hook: &mut H, error: &Datagram, quote: &Quote, flow: &Flow) -> Verdict<H> {
    let (member, member_side) = (Some(flow.member), flow.member_side);
    if !Flow::is_of(maps::incarnation_now(flow), &quote.ends.reversed()) {
        return Verdict::drop(Outcome::DroppedRace, member);
    }
    if !flow.member_sent(quote.sequence) {
        return Verdict { outcome: Outcome::IcmpNotBelieved, member, action: H::LEAVE };
    }
    let Some(route) = hook.route_of(flow, error.v6) else {
        return Verdict::drop(Outcome::DroppedNoRoute, member);
    };
    let ends = Tuple { near: member_side.near, far: member_side.far, ..Tuple::default() };
    if translate(hook, error, &ends, quote, &member_side.reversed()).is_none() {
        return Verdict::drop(Outcome::DroppedKernel, member);
    }
    Verdict { outcome: Outcome::IcmpToMember, member, action: hook.to_member(&route) }
}
