//! Resets that the agent asks for, for flows whose next packet it does not wait for.
//!
//! [`redirector_common::inject`] says how it asks. What either end gets is what the next packet of a stale flow would bring
//! about ([`crate::reset::both`]), with the numbers that the flow has now; and challenge ACKs are answered as always.

use core::hint::black_box;

use redirector_common::{
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

/// A list that is being worked off. The packet that brought it becomes one reset after the other, and a copy of each is sent.
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
            let member = flow.member;
            forget(target, flow);
            Verdict::drop(Outcome::Forgotten, Some(member))
        }
        Some(flow) if list.order == Order::ResetClients as u32 => client(hook, &packet, target, flow),
        Some(flow) => member(hook, &packet, target, flow),
    };
    if is_last {
        return verdict;
    }
    maps::count(verdict.outcome, verdict.member, hook.length());
    hook.continue_in(Continuation::Inject)
}

/// Sends the client its reset.
#[inline(always)]
fn client<H: Hook>(hook: &mut H, packet: &Segment, target: &Target, flow: &Flow) -> Verdict<H> {
    let (ends, member) = (&target.client_side, Some(flow.member));
    log::reset(hook.context(), ends, Outcome::ResetClient);
    if hook.become_reset(packet, &ends.reversed(), for_client(flow)).is_none() {
        return Verdict::drop(Outcome::DroppedKernel, member);
    }
    hook.copy_to_client();
    Verdict::drop(Outcome::ResetClient, member)
}

/// Sends the member its reset. If the client's socket is gone, nobody needs the flow any more.
#[inline(always)]
fn member<H: Hook>(hook: &mut H, packet: &Segment, target: &Target, flow: &mut Flow) -> Verdict<H> {
    let (member, member_side) = (Some(flow.member), flow.member_side);
    log::reset(hook.context(), &target.client_side, Outcome::ResetMember);
    let (numbers, next) = (for_member(flow), hook.next_of(flow, packet.v6));
    let outcome = match next {
        None => Outcome::DroppedNoRoute,
        Some(next) => match hook.become_reset(packet, &member_side, numbers) {
            None => Outcome::DroppedKernel,
            Some(()) => {
                hook.copy_to_member(&next);
                Outcome::ResetMember
            }
        },
    };
    let home = target.home.number();
    if home.is_some_and(|home| !hook.has_socket(&target.client_side, packet.v6, home)) {
        forget(target, flow);
        maps::count(Outcome::Forgotten, member, hook.length());
    }
    Verdict::drop(outcome, member)
}

#[inline(always)]
fn forget(target: &Target, flow: &mut Flow) {
    let member_side = flow.member_side;
    half_open::on_end(flow, target.client_side.near);
    maps::remove(&target.client_side, &member_side, target.incarnation());
}
