//! Resets that the agent asks for, for flows whose next packet it does not wait for.
//!
//! [`redirector_common::inject`] says how it asks. What either end gets is what the next packet of a stale flow would bring
//! about ([`crate::reset::both`]), with the numbers that the flow has now; and challenge ACKs are answered as always.

use core::hint::black_box;

use redirector_common::{
    addr::Tuple,
    flow::Flow,
    inject::{MOST, Order, TARGET, Target},
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

/// Takes a list out of its packet, and hands that on to the program that works it off.
#[inline(always)]
pub fn take<H: Hook>(hook: &mut H, request: &Segment, order: Order) -> Verdict<H> {
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
    let of_this_version = target.client_side.near.is_v4() != packet.v6;
    let flow = maps::flow(&target.client_side)
        .filter(|flow| of_this_version && flow.incarnation == target.incarnation());
    let verdict = match flow {
        None => Verdict::drop(Outcome::ResetDropped, None),
        Some(flow) if list.order == Order::Forget as u32 => {
            let (member, member_side) = (flow.member, flow.member_side);
            forget(target, flow, &member_side);
            Verdict::drop(Outcome::Forgotten, Some(member))
        }
        Some(flow) if list.order == Order::ResetClients as u32 => {
            client(hook, &packet, target, flow, is_last)
        }
        Some(flow) => member(hook, &packet, target, flow, is_last),
    };
    if is_last {
        return verdict;
    }
    maps::count(verdict.outcome, verdict.member, hook.length());
    hook.continue_in(Continuation::Inject)
}

/// Sends the client its reset: a copy of the packet, or the last one the packet itself. That one belongs to the agent's socket until it
/// has arrived, so that the agent waits when nothing moves on.
#[inline(always)]
fn client<H: Hook>(
    hook: &mut H,
    packet: &Segment,
    target: &Target,
    flow: &Flow,
    is_last: bool,
) -> Verdict<H> {
    let (ends, member, numbers) = (&target.client_side, Some(flow.member), for_client(flow));
    if maps::incarnation_now(flow) != target.incarnation() {
        return Verdict::drop(Outcome::ResetDropped, None);
    }
    log::reset(hook.context(), ends, Outcome::ResetClient);
    if hook.become_reset(packet, &ends.reversed(), numbers).is_none() {
        return Verdict::drop(Outcome::DroppedKernel, member);
    }
    if is_last {
        Verdict { outcome: Outcome::ResetClient, member, action: hook.to_client() }
    } else if hook.copy_to_client().is_some() {
        Verdict::drop(Outcome::ResetClient, member)
    } else {
        Verdict::drop(Outcome::DroppedKernel, member)
    }
}

/// Sends the member its reset, as [`client`] does; the last one finds out who the neighbour is, too. Nobody needs the flow any more if
/// its client's socket is gone, unless the reset may overtake what the client sent: then the member does not believe it and asks
/// again (RFC 5961).
#[inline(always)]
fn member<H: Hook>(
    hook: &mut H,
    packet: &Segment,
    target: &Target,
    flow: &mut Flow,
    is_last: bool,
) -> Verdict<H> {
    let (member, member_side) = (Some(flow.member), flow.member_side);
    let (numbers, is_believed) = (for_member(flow), flow.has_all_arrived());
    let next = hook.next_of(flow, packet.v6);
    if maps::incarnation_now(flow) != target.incarnation() {
        return Verdict::drop(Outcome::ResetDropped, None);
    }
    log::reset(hook.context(), &target.client_side, Outcome::ResetMember);
    let Some(next) = next.filter(|next| is_last || next.link.is_some()) else {
        return Verdict::drop(Outcome::DroppedNoRoute, member);
    };
    if hook.become_reset(packet, &member_side, numbers).is_none()
        || (!is_last && hook.copy_to_member(&next).is_none())
    {
        return Verdict::drop(Outcome::DroppedKernel, member);
    }
    let home = target.home.number().filter(|_| is_believed && next.link.is_some());
    if home.is_some_and(|home| !hook.has_socket(&target.client_side, packet.v6, home)) {
        forget(target, flow, &member_side);
        maps::count(Outcome::Forgotten, member, hook.length());
    }
    let action = if is_last { hook.to_member(&next.route) } else { H::DROP };
    Verdict { outcome: Outcome::ResetMember, member, action }
}

/// `member_side`: read when the entry was this flow's.
#[inline(always)]
fn forget(target: &Target, flow: &mut Flow, member_side: &Tuple) {
    if maps::incarnation_now(flow) == target.incarnation() {
        half_open::on_end(flow, target.client_side.near);
        maps::remove(&target.client_side, member_side, target.incarnation());
    }
}
