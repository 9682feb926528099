//! Refusing a client, and ending a stale flow at both ends. Rare: none of this is on the way of a flow that lives.

use redirector_common::{
    addr::Tuple,
    flow::Flow,
    outcome::Outcome,
    packet::Segment,
    reset::{self, answer_to},
};

use crate::{
    hook::{Hook, Verdict},
    log,
};

/// Answers a client's segment with a reset.
#[inline(always)]
pub fn refuse<H: Hook>(hook: &mut H, segment: &Segment, outcome: Outcome) -> Verdict<H> {
    log::refused(hook.context(), segment, outcome);
    match hook.become_reset(segment, &segment.ends.reversed(), answer_to(segment)) {
        Some(()) => Verdict { outcome, member: None, action: hook.to_client() },
        None => Verdict::drop(Outcome::DroppedKernel, None),
    }
}

/// A client's segment on a stale flow: the client's reset answers it, the member's is worked out of the entry.
#[inline(always)]
pub fn both_from_client<H: Hook>(hook: &mut H, segment: &Segment, flow: &Flow) -> Verdict<H> {
    let client = reset::answer_to(segment);
    both(hook, segment, flow, &segment.ends, client, reset::for_member(flow))
}

/// A member's segment on a stale flow: the member's reset answers it, the client's is worked out of the entry.
#[inline(always)]
pub fn both_from_member<H: Hook>(
    hook: &mut H,
    segment: &Segment,
    flow: &Flow,
    client_side: &Tuple,
) -> Verdict<H> {
    let member = reset::answer_to(segment);
    both(hook, segment, flow, client_side, reset::for_client(flow), member)
}

/// Turns one packet into two resets. The entry stays: an end that did not believe its reset answers with a
/// challenge ACK, and what answers that one is exact.
#[inline(always)]
fn both<H: Hook>(
    hook: &mut H,
    segment: &Segment,
    flow: &Flow,
    client_side: &Tuple,
    client: reset::Numbers,
    member: reset::Numbers,
) -> Verdict<H> {
    log::reset(hook.context(), client_side, flow);
    let from_vip = client_side.reversed();
    if hook.become_reset(segment, &from_vip, client).is_none() {
        return Verdict::drop(Outcome::DroppedKernel, Some(flow.member));
    }
    hook.copy_to_client();
    let action = match hook.route(&flow.member_side) {
        Some(route) if hook.become_reset(segment, &flow.member_side, member).is_some() => {
            hook.to_member(&route)
        }
        // The member cannot be reached: the client's reset is all there is to send.
        _ => H::DROP,
    };
    Verdict { outcome: Outcome::ResetBoth, member: Some(flow.member), action }
}
