//! From a client towards a member: what happens to a segment that was routed to a VIP.
//!
//! [`carry_on`] is the way of a flow that lives, and knows nothing else; [`handle`] knows everything.

use redirector_common::{
    flow::{Flow, Step, Way, on_client_segment},
    inject::{Order, asked_for},
    layout::Continuation,
    outcome::Outcome,
    packet::{Segment, translate},
};

use crate::{
    half_open,
    hook::{Hook, Verdict},
    inject, kernel, maps, pulse,
    reset::{self, Sender},
    settings, signal,
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
    /// It is another program's: it opens a flow, or comes from a member on this host.
    Continue(Continuation),
    /// Answer with a reset.
    Refuse(Outcome),
    /// Answer with a reset to both ends.
    ResetBoth(&'static Flow),
    /// Do what the agent asks for.
    Inject(Order),
    /// Open a flow in the place of a stale one.
    Replace(&'static mut Flow),
}

/// Carries a segment of a flow that lives. Everything else goes on in [`handle`], in a program of its own.
#[inline(always)]
pub fn carry_on<H: Hook>(hook: &mut H, segment: &Segment) -> Verdict<H> {
    if !segment.flags.is_open()
        && !segment.flags.is_reset()
        && let Some(flow) = maps::flow(&segment.ends)
        && !flow.is_stale(&maps::standing(flow))
        && !flow.is_repeated(segment)
    {
        return carry(hook, segment, flow, Outcome::Carried, false, false);
    }
    hook.continue_in(Continuation::FromClient)
}

/// Decides and applies.
#[inline(always)]
pub fn handle<H: Hook>(hook: &mut H, segment: &Segment) -> Verdict<H> {
    match decide(hook, segment) {
        Plan::Continue(program) => hook.continue_in(program),
        Plan::Leave(outcome) => Verdict::leave(outcome),
        Plan::Drop(outcome) => Verdict::drop(outcome, None),
        Plan::Carry { flow, outcome, last } => {
            let again = flow.is_repeated(segment);
            if again && !last {
                signal::on_repeated(flow, segment);
            }
            carry(hook, segment, flow, outcome, last, again)
        }
        Plan::Refuse(outcome) => hook.refuse(outcome),
        Plan::ResetBoth(flow) => reset::both(hook, segment, &segment.ends, flow, Sender::Client),
        Plan::Replace(flow) => reset::replaced(hook, segment, flow),
        Plan::Inject(order) => inject::take(hook, segment, order),
    }
}

#[inline(always)]
fn decide<H: Hook>(hook: &H, segment: &Segment) -> Plan {
    if let Some(order) = asked_for(segment).filter(|_| hook.is_of_this_host()) {
        return Plan::Inject(order);
    }
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
        // Not sent again, but another socket's, which got the port of one that gave up: what is known of that one is wrong for it.
        if step == Step::Carry
            && segment.flags.is_open()
            && !flow.replies.started()
            && flow.cookie != hook.socket_cookie()
        {
            step = Step::OpenAnew;
        }
        let carried = match (stale, flow.client.started()) {
            (true, _) => Outcome::ResetPassed,
            (false, true) => Outcome::Carried,
            (false, false) => Outcome::Opened,
        };
        match step {
            Step::Carry => return Plan::Carry { flow, outcome: carried, last: false },
            Step::CarryLast => return Plan::Carry { flow, outcome: carried, last: true },
            Step::ResetBoth => return Plan::ResetBoth(flow),
            Step::OpenAnew if stale && flow.replies.started() => return Plan::Replace(flow),
            Step::OpenAnew => {
                let (member_side, incarnation) = (flow.member_side, flow.incarnation);
                if !Flow::is_of(maps::incarnation_now(flow), &segment.ends) {
                    return Plan::Drop(Outcome::DroppedRace);
                }
                half_open::on_end(flow, segment.ends.near);
                maps::remove(&segment.ends, &member_side, incarnation);
            }
        }
    }
    // A member on this host answers to the VIP, which its flows come from.
    if maps::stub(&segment.ends.reversed()).is_some() {
        return Plan::Continue(Continuation::FromMember);
    }
    if segment.flags.is_open() {
        return Plan::Continue(Continuation::Open);
    }
    if !maps::is_vip_address(&segment.ends.far) {
        Plan::Leave(Outcome::NotOurs)
    } else if segment.flags.is_reset() {
        Plan::Drop(Outcome::ResetDropped)
    } else {
        Plan::Refuse(Outcome::RefusedUnknownFlow)
    }
}

/// Translates the segment and sends it to the flow's member; `last`: and forgets the flow; `again`: it was sent before.
#[inline(always)]
fn carry<H: Hook>(
    hook: &mut H,
    segment: &Segment,
    flow: &mut Flow,
    outcome: Outcome,
    last: bool,
    again: bool,
) -> Verdict<H> {
    let member = Some(flow.member);
    let (member_side, delta) = (flow.member_side, flow.delta);
    if !Flow::is_of(maps::incarnation_now(flow), &segment.ends) {
        return Verdict::drop(Outcome::DroppedRace, member);
    }
    let now = kernel::ticks();
    if flow.route.way() != Way::Local && now.wrapping_sub(flow.routed_at) > settings::ROUTE_LIFE.load() {
        let Some(route) = hook.route(&member_side, segment.v6) else {
            return Verdict::drop(Outcome::DroppedNoRoute, member);
        };
        flow.route = route;
        flow.routed_at = now;
    }
    if translate(hook, segment, &member_side, &delta).is_none() {
        return Verdict::drop(Outcome::DroppedKernel, member);
    }
    half_open::on_client_segment(flow, segment);
    if !again {
        pulse::sent(flow, segment, now);
    }
    flow.client = flow.client_after(segment, now);
    // Before the entry may be another flow's.
    let action = hook.to_member(&flow.route);
    if last || (flow.client.finished() && flow.has_ended()) {
        half_open::on_end(flow, segment.ends.near);
        maps::remove(&segment.ends, &member_side, flow.incarnation);
    }
    Verdict { outcome, member, action }
}
