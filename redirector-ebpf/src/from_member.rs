//! From a member back to the client: what happens to a segment that an uplink received.
//!
//! [`carry_on`] is the way of a flow that lives; [`handle`] knows everything.

use redirector_common::{
    addr::Tuple,
    flow::{Flow, Step, on_member_segment},
    layout::Continuation,
    outcome::Outcome,
    packet::{Segment, translate},
};

use crate::{
    half_open,
    hook::{Hook, Verdict},
    kernel, maps, pulse,
    reset::{self, Sender},
    signal,
};

/// Carries a segment of a flow that lives, and leaves alone what is nobody's, as most of what comes by here is: it costs
/// one lookup. Everything else goes on in [`handle`], in a program of its own.
#[inline(always)]
pub fn carry_on<H: Hook>(hook: &mut H, segment: &Segment) -> Verdict<H> {
    let member_side = segment.ends.reversed();
    let Some(stub) = maps::stub(&member_side) else { return Verdict::leave(Outcome::NotOurs) };
    let client_side = stub.client_side;
    if !segment.flags.ends()
        && let Some(flow) = flow_of(&member_side, stub.incarnation, &client_side)
        && !flow.is_stale(&maps::standing(flow))
    {
        return carry(hook, segment, flow, &client_side, Outcome::Replied, false);
    }
    hook.continue_in(Continuation::FromMember)
}

/// The flow that a stub leads to, if the two belong together.
#[inline(always)]
pub fn flow_of(member_side: &Tuple, incarnation: u64, client_side: &Tuple) -> Option<&'static mut Flow> {
    // The port tells flows to one member apart: this stub may have been given to another one just now.
    maps::flow(client_side).filter(|flow| {
        flow.incarnation == incarnation
            && flow.member_side.near_port == member_side.near_port
            && flow.member_side.far.v4_word() == member_side.far.v4_word()
    })
}

/// Decides and applies.
#[inline(always)]
pub fn handle<H: Hook>(hook: &mut H, segment: &Segment) -> Verdict<H> {
    let member_side = segment.ends.reversed();
    let Some(stub) = maps::stub(&member_side) else { return Verdict::leave(Outcome::NotOurs) };
    let client_side = stub.client_side;
    let Some(flow) = flow_of(&member_side, stub.incarnation, &client_side) else {
        // A half without its other half carries nothing. The host's stack, which knows no such connection either,
        // answers the member with a reset. Where there is no entry at all, the flow may be one that is being opened.
        if maps::flow(&client_side).is_some() {
            maps::remove_stub(&member_side);
        }
        return Verdict::leave(Outcome::HalvesMismatched);
    };
    let stale = flow.is_stale(&maps::standing(flow));
    match on_member_segment(flow, segment, stale) {
        Step::ResetBoth => reset::both(hook, segment, &client_side, flow, Sender::Member),
        step => {
            if !stale && (step == Step::CarryLast || segment.flags.has_fin()) {
                signal::on_end(flow, &client_side, step == Step::CarryLast);
            }
            let outcome = if stale { Outcome::ResetPassed } else { Outcome::Replied };
            carry(hook, segment, flow, &client_side, outcome, step == Step::CarryLast)
        }
    }
}

/// Translates the segment and hands it to the stack as one that the VIP sent.
#[inline(always)]
fn carry<H: Hook>(
    hook: &mut H,
    segment: &Segment,
    flow: &mut Flow,
    client_side: &Tuple,
    outcome: Outcome,
    last: bool,
) -> Verdict<H> {
    let member = Some(flow.member);
    let delta = flow.delta.reversed();
    if !Flow::is_of(maps::incarnation_now(flow), client_side) {
        return Verdict::drop(Outcome::DroppedRace, member);
    }
    if translate(hook, segment, &client_side.reversed(), &delta).is_none() {
        return Verdict::drop(Outcome::DroppedKernel, member);
    }
    let now = kernel::ticks();
    pulse::heard_on(hook, flow, client_side, segment, now);
    flow.replies = flow.replies_after(segment, now);
    if last || (flow.replies.finished() && flow.has_ended()) {
        half_open::on_end(flow, client_side.near);
        maps::remove(client_side, &segment.ends.reversed(), flow.incarnation);
    }
    Verdict { outcome, member, action: hook.to_client() }
}
