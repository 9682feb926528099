//! From a member back to the client: what happens to a segment that an uplink received.

use redirector_common::{
    addr::Tuple,
    flow::{Flow, Step, on_member_segment},
    outcome::Outcome,
    packet::{Segment, translate},
    reset::{answer_to, for_client},
};

use crate::{
    hook::{Hook, Verdict},
    maps,
    reset::{self, Resets},
};

/// Decides and applies. Most of what comes here is nobody's flow: it costs one lookup.
#[inline(always)]
pub fn handle<H: Hook>(hook: &mut H, segment: &Segment) -> Verdict<H> {
    let member_side = segment.ends.reversed();
    let Some(stub) = maps::stub(&member_side) else { return Verdict::leave(Outcome::NotOurs) };
    let client_side = stub.client_side;
    let flow = match maps::flow(&client_side) {
        // The port tells flows to one member apart: this stub may have been given to another one just now.
        Some(flow)
            if flow.incarnation == stub.incarnation
                && flow.member_side.near_port == member_side.near_port
                && flow.member_side.far.v4_word() == member_side.far.v4_word() =>
        {
            flow
        }
        _ => {
            // A half without its other half carries nothing. The host's stack, which knows no such connection
            // either, answers the member with a reset.
            maps::remove_stub(&member_side);
            return Verdict::leave(Outcome::HalvesMismatched);
        }
    };
    let stale = flow.is_stale(&maps::standing(flow));
    match on_member_segment(flow, segment, stale) {
        Step::ResetBoth => {
            let flow: &Flow = flow;
            let client = for_client(flow);
            let both = Some((flow, answer_to(segment)));
            reset::apply(hook, segment, &client_side, &Resets { outcome: Outcome::ResetBoth, client, both })
        }
        step => {
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
    flow.replies = flow.replies.after(segment);
    if last || (flow.replies.finished() && flow.has_ended()) {
        maps::remove(client_side, &segment.ends.reversed());
    }
    Verdict { outcome, member, action: hook.to_client() }
}
