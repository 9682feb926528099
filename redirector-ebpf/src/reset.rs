//! Refusing a client, and ending a stale flow at both ends. Rare: none of this is on the way of a flow that lives.

use redirector_common::{addr::Tuple, flow::Flow, outcome::Outcome, packet::Segment, reset::Numbers};

use crate::{
    hook::{Hook, Verdict},
    log,
};

/// The resets that one packet is turned into.
pub struct Resets {
    /// What is counted.
    pub outcome: Outcome,
    /// The client's, from the VIP.
    pub client: Numbers,
    /// The member's, when the flow was carried so far.
    pub both: Option<(&'static Flow, Numbers)>,
}

/// Turns a packet into resets.
///
/// The entry of the flow stays: an end that did not believe its reset answers with a challenge ACK, and what answers
/// that one is exact.
#[inline(always)]
pub fn apply<H: Hook>(hook: &mut H, segment: &Segment, client_side: &Tuple, resets: &Resets) -> Verdict<H> {
    log::reset(hook.context(), client_side, resets.outcome);
    let outcome = resets.outcome;
    let member = resets.both.as_ref().map(|(flow, _)| flow.member);
    if hook.become_reset(segment, &client_side.reversed(), resets.client).is_none() {
        return Verdict::drop(Outcome::DroppedKernel, member);
    }
    let Some((flow, numbers)) = &resets.both else {
        return Verdict { outcome, member, action: hook.to_client() };
    };
    hook.copy_to_client();
    let action = match hook.route(&flow.member_side, segment.v6) {
        Some(route) if hook.become_reset(segment, &flow.member_side, *numbers).is_some() => {
            hook.to_member(&route)
        }
        // The member cannot be reached: the client's reset is all there is to send.
        _ => H::DROP,
    };
    Verdict { outcome, member, action }
}
