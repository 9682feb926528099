//! Opening a flow: the choice of the member, a source port towards it, and both halves of the entry.

use core::hint::black_box;

use redirector_common::{
    addr::{Addr, Port, Tuple},
    checksum::Delta,
    flow::{Flow, Half, Route, Stub, rank},
    layout::{Continuation, MAX_SOURCES, SLOTS, Slot, SourceKey, VipKey},
    outcome::Outcome,
    packet::Segment,
    sample::{Looked, Sample},
};

use crate::{
    half_open,
    hook::{Hook, Verdict},
    kernel, log,
    maps::{self, Draft, Refused},
    pulse, rate, settings,
};

/// How many source ports are tried. With nine of ten ports taken, 64 random ones fail once in a thousand times.
const PORT_TRIES: u32 = 64;

/// What [`take_port`] says when it has taken one; no outcome has this number.
const TAKEN: u32 = u32::MAX;

/// How often the choice is made anew because a switch came in between. More than one is an operator's doing.
const CHOICES: u32 = 2;

/// Opens a flow, or refuses.
#[inline(always)]
pub fn handle<H: Hook>(hook: &mut H, segment: &Segment) -> Verdict<H> {
    let vip = VipKey { address: segment.ends.far, port: segment.ends.far_port, protocol: VipKey::TCP };
    let opened = match maps::service_of(&vip) {
        Some(service) => flow(hook, segment, service),
        None if maps::is_vip_address(&segment.ends.far) => Err(Outcome::RefusedNoService),
        None => return Verdict::leave(Outcome::NotOurs),
    };
    match opened {
        // The segment is the first one of a known flow now.
        Ok(()) => hook.continue_in(Continuation::FromClient),
        Err(Outcome::DroppedRace) => Verdict::drop(Outcome::DroppedRace, None),
        Err(outcome) => hook.refuse(outcome),
    }
}

/// Makes the entry of a new flow; on failure the outcome that the client is refused with.
#[inline(always)]
fn flow<H: Hook>(hook: &mut H, segment: &Segment, service: u16) -> Result<(), Outcome> {
    let draft = maps::draft().ok_or(Outcome::RefusedTableFull)?;
    for _ in 0..CHOICES {
        // Pointers to its fields would be worked out before the loop, and kept on the stack, where kernels before 6.6 have
        // no room for them (see `take_port`).
        let draft = black_box(&mut *draft);
        let decision = maps::decision(service);
        let member = decision.active.ok_or(Outcome::RefusedNoMember)?;
        let deadline = maps::deadline(service);
        if deadline != 0 && kernel::boot_now() > deadline {
            return Err(Outcome::RefusedNoMember);
        }
        let slot_number = choose_slot(member, segment).ok_or(Outcome::RefusedNoMember)?;
        let slot = maps::slot(member, slot_number).ok_or(Outcome::RefusedNoMember)?;

        prepare(draft, segment, slot);
        // It may have been emptied, or left out, since it was chosen.
        if !slot.is_offered(segment.v6) {
            continue;
        }
        draft.flow.service = service;
        draft.flow.member = member;
        draft.flow.slot = slot_number;
        draft.flow.epoch = decision.epoch;
        draft.flow.cookie = hook.socket_cookie();
        // Before anything is taken: whoever floods shall cost little. It is counted when it is open: else a flood that is
        // refused for another reason, as half open, would use up what everybody else may have.
        if rate::keeps_rate(u32::from(service)) == 0 {
            return Err(Outcome::RefusedRate);
        }
        if draft.flow.cookie == 0 {
            let key = SourceKey { address: segment.ends.near, service: u32::from(service) };
            if !half_open::admit(&key) {
                return Err(Outcome::RefusedHalfOpen);
            }
            draft.flow.half_open = 1;
        }
        match take_port(u32::from(member), slot_number) {
            TAKEN => {}
            refused => {
                half_open::on_end(&mut draft.flow, segment.ends.near);
                return Err(if refused == Outcome::RefusedNoPort as u32 {
                    Outcome::RefusedNoPort
                } else {
                    Outcome::RefusedTableFull
                });
            }
        }
        // The route may depend on source address and port: equal-cost paths are spread by them.
        let route = if slot.is_local() {
            Some(Route::own(&slot.address))
        } else {
            hook.route(&draft.flow.member_side, segment.v6)
        };
        let Some(route) = route else { return undo(draft, Outcome::RefusedNoRoute) };
        draft.flow.route = route;
        draft.flow.delta = Delta::between(&segment.ends, &draft.flow.member_side);
        if let Err(refused) = maps::insert_flow(&segment.ends, &draft.flow) {
            return undo(
                draft,
                match refused {
                    Refused::Exists => Outcome::DroppedRace,
                    Refused::Full => Outcome::RefusedTableFull,
                },
            );
        }
        // A switch may have come between the choice and the entry, and its sweep may be over already; or the slot
        // was changed while it was read.
        if maps::decision(service) == decision
            && maps::slot(member, slot_number).is_some_and(|slot| slot.generation == draft.flow.generation)
        {
            rate::count_opened(u32::from(service));
            pulse::begin(member, draft.flow.opened_at);
            log::opened(hook.context(), segment, &draft.flow);
            return Ok(());
        }
        half_open::on_end(&mut draft.flow, segment.ends.near);
        maps::remove(&segment.ends, &draft.flow.member_side, draft.flow.incarnation);
    }
    Err(Outcome::RefusedNoMember)
}

/// Gives back what was taken for a flow that is not to be.
#[inline(always)]
fn undo<T>(draft: &mut Draft, outcome: Outcome) -> Result<T, Outcome> {
    half_open::on_end(&mut draft.flow, draft.stub.client_side.near);
    maps::remove_stub(&draft.flow.member_side);
    Err(outcome)
}

/// The number of the address of a member that suits a flow best, among those that are offered; `None`: there is none.
#[inline(always)]
fn choose_slot(member: u16, segment: &Segment) -> Option<u32> {
    let (member, fingerprint) = (u32::from(member), segment.ends.fingerprint());
    let half = |first| best_slot(member, fingerprint, u32::from(segment.v6), first);
    let best = half(0).max(half(HALF_OF_SLOTS));
    (best != 0).then_some(best as u32 & 0xff)
}

/// How many slots one call of [`best_slot`] looks at. The verifier follows a loop of 16 turns five times as far as two of 8.
const HALF_OF_SLOTS: u32 = SLOTS / 2;

/// Rank and number, in one word that compares by rank, of the best of the slots from `first`; 0: none is offered.
///
/// This and [`take_port`] are functions of their own to the kernel, which verifies them once and takes only their word:
/// inlined, each turn of their loops would be followed by everything that comes after.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn best_slot(member: u32, fingerprint: u32, v6: u32, first: u32) -> u64 {
    /// Above every rank: tells the lowest one from none.
    const FOUND: u64 = 1 << 40;

    // The turn's end is a jump back, for which Linux 6.1 asks: to it, an instruction that falls into the head of a loop that
    // was entered there makes the loop endless ("back-edge").
    let (mut best, mut step) = (0, 0);
    loop {
        let number = (first + step) % SLOTS;
        if let Some(slot) = maps::slot(member as u16, number)
            && slot.is_offered(v6 != 0)
        {
            let rank = u64::from(rank(fingerprint, &slot.address, slot.port));
            best = best.max(FOUND | rank << 8 | u64::from(number));
        }
        step += 1;
        if step == HALF_OF_SLOTS {
            return best;
        }
    }
}

/// Fills in what does not depend on the source port.
#[inline(always)]
fn prepare(draft: &mut Draft, segment: &Segment, slot: &Slot) {
    let incarnation = maps::new_incarnation(&segment.ends);
    let flow = &mut draft.flow;
    flow.incarnation = incarnation;
    flow.generation = slot.generation;
    flow.member_side = Tuple {
        // `take_port` chooses the near end.
        near: segment.ends.near,
        far: slot.address,
        near_port: segment.ends.near_port,
        far_port: slot.port,
    };
    flow.opened_at = kernel::ticks();
    flow.routed_at = flow.opened_at;
    flow.half_open = 0;
    flow.client = Half::default();
    flow.replies = Half::default();
    // The stretch before: the SYN and its answer are measured.
    let stretch = pulse::stretch_of(flow.opened_at).wrapping_sub(1);
    flow.sample = Sample { stretch, ..Sample::default() };
    flow.looked = Looked { stretch, segments: 0 };
    flow.answered_at = flow.opened_at.wrapping_sub(1);
    flow.failed = 0;
    draft.stub = Stub { incarnation, client_side: segment.ends, reserved: 0 };
}

/// Takes a source port of the range at one of the slot's source addresses, or, when that is used up, the client's own, for
/// the flow in the draft. [`TAKEN`], or the outcome that the client is refused with.
///
/// A member on this host sees the VIP as its client: so its answers are routed to the VIP device, and come by here.
///
/// The range lies outside of the one that the host's own connections get their ports from. With the client's
/// port, the host could give the same one to a connection that it makes to the member itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take_port(member: u32, slot: u32) -> u32 {
    let (Some(draft), Some(slot)) = (maps::draft(), maps::slot(member as u16, slot % SLOTS)) else {
        return Outcome::RefusedNoMember as u32;
    };
    let (first, count) = (settings::PORT_FIRST.load(), settings::PORT_COUNT.load());
    let Draft { flow: Flow { member_side, .. }, stub } = draft;
    let client_side = &stub.client_side;
    let start = kernel::random();
    // Each port is tried at every address before the next port. If one number chose both, an even port would always go
    // with the same one of two addresses: half of the pairs would never be used.
    let sources = if slot.source_count == 0 { 1 } else { slot.source_count };
    for step in 0..PORT_TRIES {
        if count == 0 {
            break;
        }
        // Word by word: as one the compiler would call memmove, and three frames are more stack than kernels before 6.6
        // allow, which round each up to 32 bytes.
        member_side.near =
            Addr(source_of(slot, client_side, (start >> 16).wrapping_add(step)).0.map(black_box));
        let turn = step / sources;
        let port = first + start.wrapping_add(turn.wrapping_mul(0x9e37_79b1)) % count;
        member_side.near_port = Port::new(port as u16);
        match maps::insert_stub(member_side, stub) {
            Ok(()) => return TAKEN,
            Err(Refused::Exists) => {}
            Err(Refused::Full) => return Outcome::RefusedTableFull as u32,
        }
    }
    member_side.near_port = client_side.near_port;
    match maps::insert_stub(member_side, stub) {
        Ok(()) => TAKEN,
        Err(Refused::Exists) => Outcome::RefusedNoPort as u32,
        Err(Refused::Full) => Outcome::RefusedTableFull as u32,
    }
}

/// One of the source addresses for a flow.
#[inline(always)]
fn source_of<'a>(slot: &'a Slot, client_side: &'a Tuple, number: u32) -> &'a Addr {
    if slot.is_local() {
        return &client_side.far;
    }
    match slot.source_count {
        0 => &client_side.near,
        count => &slot.sources[(number % count) as usize % MAX_SOURCES],
    }
}
