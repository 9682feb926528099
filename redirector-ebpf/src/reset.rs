//! Refusing a client, and ending a stale flow at both ends. Rare: none of this is on the way of a flow that lives.

use redirector_common::{
    addr::Tuple,
    flow::Flow,
    outcome::Outcome,
    packet::Segment,
    reset::{answer_to, for_client, for_member},
};

use crate::{
    half_open,
    hook::{Hook, Verdict},
    log, maps,
};

/// Which end sent the segment that is turned into resets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    Client,
    Member,
}

/// Answers a segment of a client with a reset.
#[inline(always)]
pub fn refuse<H: Hook>(hook: &mut H, segment: &Segment, outcome: Outcome) -> Verdict<H> {
    log::reset(hook.context(), &segment.ends, outcome);
    if hook.become_reset(segment, &segment.ends.reversed(), answer_to(segment)).is_none() {
        return Verdict::drop(Outcome::DroppedKernel, None);
    }
    Verdict { outcome, member: None, action: hook.to_client() }
}

/// Turns a segment of a stale flow into a reset for both its ends.
///
/// The entry of the flow stays: an end that did not believe its reset answers with a challenge ACK, and what answers
/// that one is exact.
#[inline(always)]
pub fn both<H: Hook>(
    hook: &mut H,
    segment: &Segment,
    client_side: &Tuple,
    flow: &Flow,
    sender: Sender,
) -> Verdict<H> {
    let (outcome, member) = (Outcome::ResetBoth, Some(flow.member));
    log::reset(hook.context(), client_side, outcome);
    let (to_client, to_member) = match sender {
        Sender::Client => (answer_to(segment), for_member(flow)),
        Sender::Member => (for_client(flow), answer_to(segment)),
    };
    if hook.become_reset(segment, &client_side.reversed(), to_client).is_none() {
        return Verdict::drop(Outcome::DroppedKernel, member);
    }
    let _lost_like_any_packet = hook.copy_to_client();
    let action = match hook.route_of(flow, segment.v6) {
        Some(route) if hook.become_reset(segment, &flow.member_side, to_member).is_some() => {
            hook.to_member(&route)
        }
        // The member cannot be reached: the client's reset is all there is to send.
        _ => H::DROP,
    };
    Verdict { outcome, member, action }
}

/// A client connects anew with the port of a stale flow: perhaps it was reset a moment ago, and the agent has not come to its
/// member yet. The SYN goes on as a copy, and the packet becomes the member's reset. (The copy belongs to no socket: the new flow
/// looks like that of a client elsewhere.)
#[inline(always)]
pub fn replaced<H: Hook>(hook: &mut H, segment: &Segment, flow: &mut Flow) -> Verdict<H> {
    let (member, member_side, incarnation) = (flow.member, flow.member_side, flow.incarnation);
    let (numbers, route) = (for_member(flow), hook.route_of(flow, segment.v6));
    if !Flow::is_of(maps::incarnation_now(flow), &segment.ends) {
        return Verdict::drop(Outcome::DroppedRace, None);
    }
    half_open::on_end(flow, segment.ends.near);
    maps::remove(&segment.ends, &member_side, incarnation);
    hook.copy_to_vip();
    let (outcome, member) = (Outcome::ResetMember, Some(member));
    match route {
        Some(route) if hook.become_reset(segment, &member_side, numbers).is_some() => {
            Verdict { outcome, member, action: hook.to_member(&route) }
        }
        // The member cannot be reached.
        _ => Verdict::drop(outcome, member),
    }
}
