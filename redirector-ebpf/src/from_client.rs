//! From a client towards a member: what happens to a segment that was routed to a VIP.

use redirector_common::{
    flow::{Flow, ROUTE_LIFE, Step, on_client_segment, route_clock},
    layout::VipKey,
    outcome::Outcome,
    packet::{Segment, translate},
    reset::{answer_to, for_member},
};

use crate::{
    hook::{Hook, Verdict},
    kernel, maps, open,
    reset::{self, Resets},
};

/// What is to be done with a segment.
enum Plan {
    Leave(Outcome),
    Drop(Outcome),
    /// Carry it to the flow's member; `last`: and forget the flow.
    Carry {
        flow: &'static mut Flow,
        outcome: Outcome,
        last: bool,
    },
    /// Answer with a reset.
    Refuse(Outcome),
    /// Answer with a reset to both ends.
    ResetBoth(&'static Flow),
}

/// Decides and applies.
#[inline(always)]
pub fn handle<H: Hook>(hook: &mut H, segment: &Segment) -> Verdict<H> {
    let resets = match decide(hook, segment) {
        Plan::Leave(outcome) => return Verdict::leave(outcome),
        Plan::Drop(outcome) => return Verdict::drop(outcome, None),
        Plan::Carry { flow, outcome, last } => return carry(hook, segment, flow, outcome, last),
        Plan::Refuse(outcome) => Resets { outcome, client: answer_to(segment), both: None },
        Plan::ResetBoth(flow) => Resets {
            outcome: Outcome::ResetBoth,
            client: answer_to(segment),
            both: Some((flow, for_member(flow))),
        },
    };
    reset::apply(hook, segment, &segment.ends, &resets)
}

#[inline(always)]
fn decide<H: Hook>(hook: &mut H, segment: &Segment) -> Plan {
    if let Some(flow) = maps::flow(&segment.ends) {
        let stale = flow.is_stale(&maps::standing(flow));
        let mut step = on_client_segment(flow, segment, stale);
        // What is sent again was perhaps answered, and the answer lost with the other half. Only then it is looked
        // for: a flow that runs well pays nothing.
        if step == Step::Carry
            && flow.is_repeated(segment)
            && !maps::has_stub(&flow.member_side, flow.incarnation)
        {
            step = if segment.flags.is_open() { Step::OpenAnew } else { Step::ResetBoth };
        }
        let carried = if stale { Outcome::ResetPassed } else { Outcome::Carried };
        match step {
            Step::Carry => return Plan::Carry { flow, outcome: carried, last: false },
            Step::CarryLast => return Plan::Carry { flow, outcome: carried, last: true },
            Step::ResetBoth => return Plan::ResetBoth(flow),
            Step::OpenAnew => maps::remove(&segment.ends, &flow.member_side),
        }
    }
    let opens = segment.flags.is_open();
    if opens {
        let vip = VipKey { address: segment.ends.far, port: segment.ends.far_port, protocol: VipKey::TCP };
        if let Some(service) = maps::service_of(&vip) {
            return match open::flow(hook, segment, service) {
                Ok(flow) => Plan::Carry { flow, outcome: Outcome::Opened, last: false },
                Err(Outcome::DroppedRace) => Plan::Drop(Outcome::DroppedRace),
                Err(outcome) => Plan::Refuse(outcome),
            };
        }
    }
    if !maps::is_vip_address(&segment.ends.far) {
        Plan::Leave(Outcome::NotOurs)
    } else if segment.flags.is_reset() {
        Plan::Drop(Outcome::ResetDropped)
    } else {
        Plan::Refuse(if opens { Outcome::RefusedNoService } else { Outcome::RefusedUnknownFlow })
    }
}

/// Translates the segment and sends it to the flow's member.
#[inline(always)]
fn carry<H: Hook>(
    hook: &mut H,
    segment: &Segment,
    flow: &mut Flow,
    outcome: Outcome,
    last: bool,
) -> Verdict<H> {
    let member = Some(flow.member);
    let (member_side, delta) = (flow.member_side, flow.delta);
    if !Flow::is_of(maps::incarnation_now(flow), &segment.ends) {
        return Verdict::drop(Outcome::DroppedRace, member);
    }
    let now = kernel::coarse_now();
    if route_clock(now).wrapping_sub(flow.routed_at) > ROUTE_LIFE {
        let Some(route) = hook.route(&member_side, segment.v6) else {
            return Verdict::drop(Outcome::DroppedNoRoute, member);
        };
        flow.route = route;
        flow.routed_at = route_clock(now);
    }
    if translate(hook, segment, &member_side, &delta).is_none() {
        return Verdict::drop(Outcome::DroppedKernel, member);
    }
    flow.client = flow.client_after(segment);
    if last || (flow.client.finished() && flow.has_ended()) {
        maps::remove(&segment.ends, &member_side);
    }
    Verdict { outcome, member, action: hook.to_member(&flow.route) }
}
