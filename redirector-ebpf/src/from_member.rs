//! From a member back to the client: what happens to a segment that an uplink received.

use redirector_common::{
    flow::{Flow, Step, on_member_segment},
    outcome::Outcome,
    packet::{Segment, translate},
};

use crate::{
    hook::{Hook, Verdict},
    kernel, maps, reset,
};

/// Decides and applies. Most of what comes here is nobody's flow: it costs one lookup.
#[inline(always)]
pub fn handle<H: Hook>(hook: &mut H, segment: &Segment) -> Verdict<H> {
    let member_side = segment.ends.reversed();
    let Some(stub) = maps::stub(&member_side) else { return Verdict::leave(Outcome::NotOurs) };
    let flow = match maps::flow(&stub.client_side) {
        Some(flow) if flow.incarnation == stub.incarnation => flow,
        _ => {
            // A half without its other half carries nothing. The host's stack, which knows no such connection
            // either, answers the member with a reset.
            maps::remove_stub(&member_side);
            return Verdict::leave(Outcome::HalvesMismatched);
        }
    };
    let stale = flow.is_stale(&maps::standing(flow));
    match on_member_segment(segment.flags, stale) {
        Step::CarryLast => {
            let outcome = if stale { Outcome::ResetPassed } else { Outcome::Replied };
            let client_side = stub.client_side;
            let verdict = carry(hook, segment, flow, &client_side.reversed(), outcome);
            maps::remove(&client_side, &member_side);
            verdict
        }
        Step::ResetBoth => reset::both_from_member(hook, segment, flow, &stub.client_side),
        Step::Carry | Step::OpenAnew => {
            carry(hook, segment, flow, &stub.client_side.reversed(), Outcome::Replied)
        }
    }
}

/// Translates the segment and hands it to the stack as one that the VIP sent.
#[inline(always)]
fn carry<H: Hook>(
    hook: &mut H,
    segment: &Segment,
    flow: &mut Flow,
    ends: &redirector_common::addr::Tuple,
    outcome: Outcome,
) -> Verdict<H> {
    let member = Some(flow.member);
    if translate(hook, segment, ends, &flow.delta.reversed()).is_none() {
        return Verdict::drop(Outcome::DroppedKernel, member);
    }
    flow.replies = flow.replies.after(segment);
    flow.last_seen = kernel::coarse_now();
    if flow.replies.finished() && flow.has_ended() {
        maps::remove(&ends.reversed(), &flow.member_side);
    }
    Verdict { outcome, member, action: hook.to_client() }
}
