//! From a client towards a member: what happens to a segment that was routed to a VIP.

use redirector_common::{
    flow::{Flow, Step, on_client_segment},
    layout::VipKey,
    outcome::Outcome,
    packet::{Segment, translate},
};

use crate::{
    hook::{Hook, Verdict},
    kernel, maps, open, reset,
};

/// Decides and applies.
#[inline(always)]
pub fn handle<H: Hook>(hook: &mut H, segment: &Segment) -> Verdict<H> {
    let Some(flow) = maps::flow(&segment.ends) else { return on_unknown(hook, segment) };
    let stale = flow.is_stale(&maps::standing(flow));
    match on_client_segment(flow, segment.flags, stale) {
        Step::Carry => carry(hook, segment, flow, Outcome::Carried),
        Step::CarryLast => {
            let outcome = if stale { Outcome::ResetPassed } else { Outcome::Carried };
            let member_side = flow.member_side;
            let verdict = carry(hook, segment, flow, outcome);
            maps::remove(&segment.ends, &member_side);
            verdict
        }
        Step::OpenAnew => {
            maps::remove(&segment.ends, &flow.member_side);
            on_unknown(hook, segment)
        }
        Step::ResetBoth => reset::both_from_client(hook, segment, flow),
    }
}

/// A segment of no known flow.
#[inline(always)]
fn on_unknown<H: Hook>(hook: &mut H, segment: &Segment) -> Verdict<H> {
    if segment.flags.is_open() {
        let vip = VipKey {
            address: segment.ends.far,
            port: segment.ends.far_port,
            protocol: VipKey::TCP,
        };
        if let Some(service) = maps::service_of(&vip) {
            return match open::flow(hook, segment, service) {
                Ok(flow) => carry(hook, segment, flow, Outcome::Opened),
                Err(Outcome::DroppedRace) => Verdict::drop(Outcome::DroppedRace, None),
                Err(outcome) => reset::refuse(hook, segment, outcome),
            };
        }
    }
    if !maps::is_vip_address(&segment.ends.far) {
        Verdict::leave(Outcome::NotOurs)
    } else if segment.flags.is_reset() {
        Verdict::drop(Outcome::ResetDropped, None)
    } else if segment.flags.is_open() {
        reset::refuse(hook, segment, Outcome::RefusedNoService)
    } else {
        reset::refuse(hook, segment, Outcome::RefusedUnknownFlow)
    }
}

/// Translates the segment and sends it to the flow's member.
#[inline(always)]
fn carry<H: Hook>(hook: &mut H, segment: &Segment, flow: &mut Flow, outcome: Outcome) -> Verdict<H> {
    let member = Some(flow.member);
    let Some(route) = hook.route(&flow.member_side) else {
        return Verdict::drop(Outcome::DroppedNoRoute, member);
    };
    if translate(hook, segment, &flow.member_side, &flow.delta).is_none() {
        return Verdict::drop(Outcome::DroppedKernel, member);
    }
    flow.client = flow.client.after(segment);
    flow.last_seen = kernel::coarse_now();
    if flow.client.finished() && flow.has_ended() {
        maps::remove(&segment.ends, &flow.member_side);
    }
    Verdict { outcome, member, action: hook.to_member(&route) }
}
