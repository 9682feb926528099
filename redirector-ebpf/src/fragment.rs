//! Fragments of a segment. The first one has the ports: it is carried as any other segment is, and what it said is
//! remembered for those that follow, which have none.
//!
//! TCP's checksum covers all fragments, so mending it in the first one is enough. Later ones get other addresses, no more.

use redirector_common::{
    addr::Tuple,
    flow::{Flow, Half, is_after},
    layout::{FragmentKey, Fragments, Side},
    outcome::Outcome,
    packet::{Fragment, Segment},
};

use crate::{
    hook::{Hook, Verdict},
    kernel, maps, pulse,
};

/// Remembers whose the fragments are that follow this one. Those of a SYN that opens its flow are not: the SYN is sent
/// again.
#[inline(always)]
pub fn remember(first: &Segment, side: Side) {
    let key = FragmentKey { near: first.ends.near, far: first.ends.far, id: first.id };
    let (incarnation, client_side, to_member) = match maps::flow(&first.ends) {
        Some(flow) if side == Side::Host => (flow.incarnation, first.ends, 1),
        _ => match maps::stub(&first.ends.reversed()) {
            Some(stub) => (stub.incarnation, stub.client_side, 0),
            None => return,
        },
    };
    let start = first.next().wrapping_sub(first.length);
    maps::set_fragments(&key, &Fragments { incarnation, client_side, start, to_member, reserved: 0 });
}

/// What the first fragment said, and the flow that it is of. A client's is on its way to the VIP device when an uplink
/// receives it.
#[inline(always)]
pub fn flow_of(fragment: &Fragment, side: Side) -> Option<(Fragments, &'static mut Flow)> {
    let Tuple { near, far, .. } = fragment.ends;
    let known = maps::fragments(&FragmentKey { near, far, id: fragment.id })?;
    if side == Side::Uplink && known.to_member != 0 {
        return None;
    }
    let flow = maps::flow(&known.client_side).filter(|flow| flow.incarnation == known.incarnation)?;
    // A flow with one half only carries nothing back.
    if known.to_member == 0 && !maps::has_stub(&flow.member_side, known.incarnation) {
        return None;
    }
    Some((known, flow))
}

/// Carries a fragment that is not the first one.
#[inline(always)]
pub fn carry<H: Hook>(hook: &mut H, fragment: &Fragment, side: Side) -> Verdict<H> {
    let Some((known, flow)) = flow_of(fragment, side) else {
        let is_ours = side == Side::Host && maps::is_vip_address(&fragment.ends.far);
        return if is_ours {
            Verdict::drop(Outcome::FragmentUnknown, None)
        } else {
            Verdict::leave(Outcome::Fragment)
        };
    };
    let (member, delta, member_side) = (Some(flow.member), flow.delta, flow.member_side);
    // The first one of a stale flow became a reset: what it began goes nowhere.
    if maps::incarnation_now(flow) != known.incarnation || flow.is_stale(&maps::standing(flow)) {
        return Verdict::drop(Outcome::FragmentUnknown, member);
    }
    let end = known.start.wrapping_add(fragment.end);
    let (outcome, ends, delta) = if known.to_member != 0 {
        extend(&mut flow.client, end);
        (Outcome::Carried, member_side, delta)
    } else {
        pulse::heard(flow.member, true, kernel::ticks());
        extend(&mut flow.replies, end);
        (Outcome::Replied, known.client_side.reversed(), delta.reversed())
    };
    if hook.readdress(&ends, &delta, fragment.v6).is_none() {
        return Verdict::drop(Outcome::DroppedKernel, member);
    }
    let action = if known.to_member != 0 { hook.to_member(&flow.route) } else { hook.to_client() };
    Verdict { outcome, member, action }
}

/// What the first fragment did not say: how far the segment reaches.
#[inline(always)]
fn extend(half: &mut Half, end: u32) {
    if is_after(end, half.next) {
        half.next = end;
    }
    half.at = kernel::ticks();
}
