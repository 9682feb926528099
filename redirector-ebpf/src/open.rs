//! Opening a flow: the choice of the member, a source port towards it, and both halves of the entry.

use redirector_common::{
    addr::{Port, Tuple},
    checksum::Delta,
    flow::{Flow, Half, Stub, route_clock},
    layout::{Slot, slot_of},
    outcome::Outcome,
    packet::Segment,
};

use crate::{
    hook::Hook,
    kernel, log,
    maps::{self, Draft, Refused},
    settings,
};

/// How many source ports are tried. With nine of ten ports taken, 64 random ones fail once in a thousand times.
const PORT_TRIES: u32 = 64;

/// How often the choice is made anew because a switch came in between. More than one is an operator's doing.
const CHOICES: u32 = 2;

/// Makes the entry of a new flow; on failure the outcome that the client is refused with.
#[inline(always)]
pub fn flow<H: Hook>(hook: &mut H, segment: &Segment, service: u16) -> Result<&'static mut Flow, Outcome> {
    let draft = maps::draft().ok_or(Outcome::RefusedTableFull)?;
    for _ in 0..CHOICES {
        let decision = maps::decision(service);
        let member = decision.active.ok_or(Outcome::RefusedNoMember)?;
        let deadline = maps::deadline(service);
        if deadline != 0 && kernel::boot_now() > deadline {
            return Err(Outcome::RefusedNoMember);
        }
        let slot_number = slot_of(segment.v6);
        let slot = maps::slot(member, slot_number).ok_or(Outcome::RefusedNoMember)?;

        prepare(draft, segment, slot);
        draft.flow.service = service;
        draft.flow.member = member;
        draft.flow.slot = slot_number;
        draft.flow.epoch = decision.epoch;
        draft.flow.cookie = hook.socket_cookie();
        draft.flow.route = hook.route(&draft.flow.member_side, segment.v6).ok_or(Outcome::RefusedNoRoute)?;
        take_port(draft, segment.ends.near_port)?;
        draft.flow.delta = Delta::between(&segment.ends, &draft.flow.member_side);

        if let Err(refused) = maps::insert_flow(&segment.ends, &draft.flow) {
            maps::remove_stub(&draft.flow.member_side);
            return Err(match refused {
                Refused::Exists => Outcome::DroppedRace,
                Refused::Full => Outcome::RefusedTableFull,
            });
        }
        // A switch may have come between the choice and the entry, and its sweep may be over already; or the slot
        // was changed while it was read.
        if maps::decision(service) == decision
            && maps::slot(member, slot_number).is_some_and(|slot| slot.generation == draft.flow.generation)
        {
            log::opened(hook.context(), segment, &draft.flow);
            return maps::flow(&segment.ends).ok_or(Outcome::DroppedRace);
        }
        maps::remove(&segment.ends, &draft.flow.member_side);
    }
    Err(Outcome::RefusedNoMember)
}

/// Fills in what does not depend on the source port.
#[inline(always)]
fn prepare(draft: &mut Draft, segment: &Segment, slot: &Slot) {
    let incarnation = maps::new_incarnation(&segment.ends);
    let flow = &mut draft.flow;
    flow.incarnation = incarnation;
    flow.generation = slot.generation;
    flow.member_side = Tuple {
        near: if slot.source.is_unset() { segment.ends.near } else { slot.source },
        far: slot.address,
        near_port: segment.ends.near_port,
        far_port: slot.port,
    };
    flow.routed_at = route_clock(kernel::coarse_now());
    flow.client = Half::default();
    flow.replies = Half::default();
    draft.stub = Stub { incarnation, client_side: segment.ends, reserved: 0 };
}

/// Takes a source port of the range, or, when that is used up, the client's own.
///
/// The range lies outside of the one that the host's own connections get their ports from. With the client's
/// port, the host could give the same one to a connection that it makes to the member itself.
#[inline(always)]
fn take_port(draft: &mut Draft, own: Port) -> Result<(), Outcome> {
    let (first, count) = (settings::PORT_FIRST.load(), settings::PORT_COUNT.load());
    let start = kernel::random();
    for step in 0..PORT_TRIES {
        if count == 0 {
            break;
        }
        let port = first + start.wrapping_add(step.wrapping_mul(0x9e37_79b1)) % count;
        draft.flow.member_side.near_port = Port::new(port as u16);
        match maps::insert_stub(&draft.flow.member_side, &draft.stub) {
            Ok(()) => return Ok(()),
            Err(Refused::Exists) => {}
            Err(Refused::Full) => return Err(Outcome::RefusedTableFull),
        }
    }
    draft.flow.member_side.near_port = own;
    maps::insert_stub(&draft.flow.member_side, &draft.stub).map_err(|refused| match refused {
        Refused::Exists => Outcome::RefusedNoPort,
        Refused::Full => Outcome::RefusedTableFull,
    })
}
