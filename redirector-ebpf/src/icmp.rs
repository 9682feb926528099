//! ICMP errors about packets that were translated: they are translated back, for whoever sent the packet. Without this a
//! narrow path is a black hole.

use redirector_common::{
    addr::Tuple,
    flow::Flow,
    icmp::{Quote, is_unreachable, quote, translate},
    outcome::Outcome,
    packet::Datagram,
};

use crate::{
    from_member::flow_of,
    hook::{Hook, Verdict},
    maps, signal,
};

/// An error that an uplink received, about what a client sent.
#[inline(always)]
pub fn received<H: Hook>(hook: &mut H, error: &Datagram) -> Verdict<H> {
    let Some(quote) = quote(hook, error) else { return Verdict::leave(Outcome::NotTcp) };
    to_client(hook, error, &quote)
}

/// Whether an error that an uplink received is about what a client sent.
#[inline(always)]
pub fn is_for_a_client<H: Hook>(hook: &H, error: &Datagram) -> bool {
    quote(hook, error).is_some_and(|quote| maps::stub(&quote.ends).is_some())
}

/// An error that this host routed to a VIP: about what a member sent; or, when a member on this host refused it, about
/// what a client sent.
#[inline(always)]
pub fn routed<H: Hook>(hook: &mut H, error: &Datagram) -> Verdict<H> {
    let Some(quote) = quote(hook, error) else { return Verdict::leave(Outcome::NotTcp) };
    match maps::flow(&quote.ends.reversed()) {
        Some(flow) => to_member(hook, error, &quote, flow),
        None => to_client(hook, error, &quote),
    }
}

/// As from the VIP, as network address translation does: a client on another machine may be behind the very router that
/// the error comes from, which takes no packets from itself.
#[inline(always)]
fn to_client<H: Hook>(hook: &mut H, error: &Datagram, quote: &Quote) -> Verdict<H> {
    let Some(stub) = maps::stub(&quote.ends) else { return Verdict::leave(Outcome::NotTcp) };
    let client_side = stub.client_side;
    let Some(flow) = flow_of(&quote.ends, stub.incarnation, &client_side) else {
        return Verdict::leave(Outcome::NotTcp);
    };
    let member = Some(flow.member);
    if !flow.client_sent(quote.sequence) {
        return Verdict { outcome: Outcome::IcmpNotBelieved, member, action: H::LEAVE };
    }
    if is_unreachable(hook, error) {
        signal::on_unreachable(flow, &client_side);
    }
    let ends = Tuple { near: client_side.far, far: client_side.near, ..Tuple::default() };
    if translate(hook, error, &ends, quote, &client_side).is_none() {
        return Verdict::drop(Outcome::DroppedKernel, member);
    }
    Verdict { outcome: Outcome::IcmpToClient, member, action: hook.to_client() }
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
