//! Resets that the agent asks for, for flows whose next packet it does not wait for.
//!
//! [`redirector_common::inject`] says how it asks. What either end gets is what the next packet of a stale flow would bring
//! about ([`crate::reset::both`]), with the numbers that the flow has now; and challenge ACKs are answered as always.

use core::hint::black_box;

use redirector_common::{
    addr::Tuple,
    flow::Flow,
    inject::{MOST, Order, TARGET, Target, header},
    layout::Continuation,
    outcome::Outcome,
    packet::{Parsed, Segment, TCP},
    reset::{for_client, for_member},
    whole,
};

use crate::{
    half_open,
    hook::{Hook, Verdict},
    log, maps,
};

/// A list that is being worked off. The packet that brought it becomes one reset after the other.
#[repr(C)]
pub struct List {
    targets: [Target; MOST],
    /// The [`Order`].
    order: u32,
    count: u32,
    /// How many of them are over.
    done: u32,
}

/// Turns a request into the reset of a flow's member.
#[inline(always)]
pub fn member<H: Hook>(hook: &mut H, request: &Segment, incarnation: u64) -> Verdict<H> {
    let Some(flow) = maps::flow(&request.ends).filter(|flow| flow.incarnation == incarnation) else {
        return Verdict::drop(Outcome::ResetDropped, None);
    };
    let member = Some(flow.member);
    let Some(route) = hook.route_of(flow, request.v6) else {
        return Verdict::drop(Outcome::DroppedNoRoute, member);
    };
    log::reset(hook.context(), &request.ends, Outcome::ResetMember);
    match hook.become_reset(request, &flow.member_side, for_member(flow)) {
        Some(()) => Verdict { outcome: Outcome::ResetMember, member, action: hook.to_member(&route) },
        None => Verdict::drop(Outcome::DroppedKernel, member),
    }
}

/// Takes a list out of its packet, and hands that on to the program that works it off.
#[inline(always)]
pub fn all<H: Hook>(hook: &mut H, request: &Segment, order: Order) -> Verdict<H> {
    let Some(list) = maps::list() else { return Verdict::drop(Outcome::DroppedKernel, None) };
    // One less than there are: from "not none" Linux 6.1 does not learn "at least one". The compiler knows these bounds, and would
    // not say them to the verifier.
    let more = black_box(((request.data() as usize / TARGET) as u32).wrapping_sub(1));
    if more >= MOST as u32 {
        return Verdict::drop(Outcome::ResetDropped, None);
    }
    let data = u32::from(request.tcp_offset) + TCP as u32;
    if hook.copy(data, &mut list.targets, more).is_none() {
        return Verdict::drop(Outcome::DroppedKernel, None);
    }
    (list.order, list.count, list.done) = (order as u32, more + 1, 0);
    hook.continue_in(Continuation::Inject)
}

/// Does what is to be done with the next flow of a list.
#[inline(always)]
pub fn next<H: Hook>(hook: &mut H) -> Verdict<H> {
    let (Some(list), Ok(Parsed::Segment(packet))) = (maps::list(), whole::parse(hook)) else {
        return Verdict::drop(Outcome::DroppedKernel, None);
    };
    let number = list.done;
    let Some(target) = list.targets.get(number as usize) else {
        return Verdict::drop(Outcome::DroppedKernel, None);
    };
    let is_last = number + 1 >= list.count;
    list.done = number + 1;
    let ends = &target.client_side;
    let of_this_version = ends.near.is_v4() != packet.v6;
    let flow = maps::flow(ends).filter(|flow| of_this_version && flow.incarnation == target.incarnation());
    let verdict = match flow {
        None => Verdict::drop(Outcome::ResetDropped, None),
        Some(flow) if list.order == Order::Forget as u32 => forget(target, flow),
        Some(flow) if list.order == Order::ResetClients as u32 => client(hook, &packet, ends, flow, is_last),
        Some(_) => {
            // A request for this one, which goes the way of all packets to the VIP from the start: a program can send a copy to
            // a device, but to no neighbour.
            if hook.become_segment(&packet, ends, &header(target)).is_none() {
                Verdict::drop(Outcome::DroppedKernel, None)
            } else if is_last {
                return hook.continue_in(Continuation::FromClient);
            } else {
                hook.copy_to_vip();
                // Counted there.
                return hook.continue_in(Continuation::Inject);
            }
        }
    };
    if is_last {
        return verdict;
    }
    maps::count(verdict.outcome, verdict.member, hook.length());
    hook.continue_in(Continuation::Inject)
}

#[inline(always)]
fn forget<H: Hook>(target: &Target, flow: &mut Flow) -> Verdict<H> {
    let (member, member_side) = (flow.member, flow.member_side);
    half_open::on_end(flow, target.client_side.near);
    maps::remove(&target.client_side, &member_side, target.incarnation());
    Verdict::drop(Outcome::Forgotten, Some(member))
}

/// Sends the client its reset: a copy of the packet, or the last one the packet itself.
#[inline(always)]
fn client<H: Hook>(hook: &mut H, packet: &Segment, ends: &Tuple, flow: &Flow, is_last: bool) -> Verdict<H> {
    let member = Some(flow.member);
    log::reset(hook.context(), ends, Outcome::ResetClient);
    if hook.become_reset(packet, &ends.reversed(), for_client(flow)).is_none() {
        return Verdict::drop(Outcome::DroppedKernel, member);
    }
    let action = if is_last {
        hook.to_client()
    } else {
        hook.copy_to_client();
        H::DROP
    };
    Verdict { outcome: Outcome::ResetClient, member, action }
}
