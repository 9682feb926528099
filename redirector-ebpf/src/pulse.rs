//! What the traffic of a member shows of it: when it was asked, when it answered, and how long that takes.
//!
//! [`sent`] and [`heard`] are on the way of every segment, and touch lines that hardly anybody writes. What costs more is looked
//! at [`closely`], in few segments of a flow.

use redirector_common::{
    addr::Tuple,
    flow::Flow,
    packet::{Flags, Segment},
    sample::Sample,
    signal::{ErrorReply, Signal, is_first, is_long_ago, smoothed},
};

use crate::{hook::Hook, kernel, maps, settings, signal};

/// A segment of a client goes to its member, for the first time.
#[inline(always)]
pub fn sent(flow: &mut Flow, segment: &Segment, now: u32) {
    // Nothing answers an acknowledgement.
    if segment.reach == 0 {
        return;
    }
    if let Some(pulse) = maps::pulse(flow.member) {
        let (sent, asked) = (pulse.sent(), pulse.asked());
        // In this order: the line of what was heard is read only when this tick has written nothing yet.
        if sent.get() != now && is_first(sent.get(), pulse.heard().get()) {
            sent.set(now);
        }
        // Nor does data answer the end of a stream.
        if segment.data() != 0 && asked.get() != now && is_first(asked.get(), pulse.answered().get()) {
            asked.set(now);
        }
    }
    let stretch = stretch_of(now);
    if flow.sample.stretch != stretch {
        flow.sample = Sample { end: segment.next(), stretch, at: kernel::monotonic_now() };
    }
}

/// Something comes from a member.
#[inline(always)]
pub fn heard(member: u16, has_data: bool, now: u32) {
    if let Some(pulse) = maps::pulse(member) {
        pulse.heard().change(now);
        if has_data {
            pulse.answered().change(now);
        }
    }
}

/// A segment of a member of a flow that lives, before the flow knows of it.
#[inline(always)]
pub fn heard_on<H: Hook>(hook: &H, flow: &mut Flow, client_side: &Tuple, segment: &Segment, now: u32) {
    let has_data = segment.data() != 0;
    heard(flow.member, has_data, now);
    if flow.looked.stretch != stretch_of(now) || (has_data && flow.answered_at != now) {
        let note = Note::of(segment, has_data);
        let error = closely(hook.again(), flow, segment.acknowledged, note);
        if error != NO_ERROR {
            signal::raise(flow, client_side, Signal::ErrorReply, now, error);
        }
    }
}

/// The time of a member begins a tick before its first flow, or the first after a long while: otherwise nothing could be later
/// than what was never heard, or so long ago that it counts as still to come.
#[inline(always)]
pub fn begin(member: u16, now: u32) {
    if let Some(pulse) = maps::pulse(member)
        && is_long_ago(pulse.heard().get(), now)
    {
        for word in [pulse.sent(), pulse.asked(), pulse.answered(), pulse.heard()] {
            word.set(now.wrapping_sub(1));
        }
    }
}

/// The stretch of time in which a round trip of each flow is measured.
#[inline(always)]
pub fn stretch_of(now: u32) -> u32 {
    now >> settings::SAMPLE_SHIFT.load()
}

/// What [`closely`] needs to know of a segment, in one word: a function of the kernel's takes five.
#[derive(Clone, Copy)]
struct Note(u32);

impl Note {
    const DATA: u32 = 1 << 8;

    #[inline(always)]
    fn of(segment: &Segment, has_data: bool) -> Self {
        let data = if has_data { Self::DATA } else { 0 };
        Self(u32::from(segment.tcp_offset) << 16 | data | u32::from(segment.flags.0))
    }

    #[inline(always)]
    fn has_data(self) -> bool {
        self.0 & Self::DATA != 0
    }

    #[inline(always)]
    fn flags(self) -> Flags {
        Flags(self.0 as u8)
    }

    #[inline(always)]
    fn tcp_offset(self) -> usize {
        (self.0 >> 16) as usize
    }
}

/// What [`closely`] says when there is no error.
const NO_ERROR: u32 = u32::MAX;

/// Looks for what is worth knowing in a few segments of a flow: a round trip in each stretch of time, and an error in the first
/// reply of a tick to what the client sent since the last one, whose number is returned.
///
/// It raises no signal itself: kernels before 6.6 have no room on the stack for a third function in a row.
#[inline(never)]
#[expect(clippy::needless_pass_by_value, reason = "a reference would keep the caller's packet on its stack")]
fn closely<H: Hook>(packet: H, flow: &mut Flow, acknowledged: u32, note: Note) -> u32 {
    let now = kernel::ticks();
    let stretch = stretch_of(now);
    if flow.looked.stretch != stretch {
        let measured = measure(flow, acknowledged, note.flags());
        flow.looked = flow.looked.after(stretch, measured);
    }
    if note.has_data() && flow.answered_at != now {
        flow.answered_at = now;
        // In the middle of a long reply stands what clients have stored.
        if flow.answered_for == flow.client.next {
            return NO_ERROR;
        }
        flow.answered_for = flow.client.next;
        maps::count_answer(flow.member);
        if let Some(error) = error_in(&packet, note.tcp_offset()) {
            if let Some(pulse) = maps::pulse(flow.member) {
                pulse.errors(error).add(1);
            }
            return error as u32;
        }
    }
    NO_ERROR
}

/// The time that the client's sample took, if this segment ends it. Returns whether it does.
#[inline(always)]
fn measure(flow: &Flow, acknowledged: u32, flags: Flags) -> bool {
    let Some(pulse) = maps::pulse(flow.member) else { return true };
    let accepts = flags.has_syn() && !flow.replies.started() && acknowledged == flow.client.next;
    if accepts {
        pulse.connected().add(1);
        pulse.failed_in_a_row().change(0);
    }
    let Some(nanoseconds) = flow.round_trip(acknowledged, kernel::monotonic_now()) else { return false };
    let took = (nanoseconds / 1000) as u32;
    // Without a lock: of two processors in the same moment one is not heard, which a mean survives.
    if accepts {
        pulse.connect_us().set(smoothed(pulse.connect_us().get(), took));
        return true;
    }
    pulse.rtt_us().set(smoothed(pulse.rtt_us().get(), took));
    let (shortest, took) = (pulse.rtt_min_us().get(), took.max(1));
    if shortest == 0 || took < shortest {
        pulse.rtt_min_us().set(took);
    }
    pulse.samples().set(pulse.samples().get().wrapping_add(1));
    true
}

/// The error that a reply begins with.
#[inline(always)]
fn error_in<H: Hook>(packet: &H, tcp: usize) -> Option<ErrorReply> {
    let [length, ..] = packet.load::<u32>(tcp + 12)?.to_ne_bytes();
    let start = tcp + usize::from(length >> 4) * 4;
    let first = packet.data(start)?;
    if first.to_ne_bytes()[0] != b'-' {
        return None;
    }
    ErrorReply::of([first, packet.data(start + 4)?, packet.data(start + 8)?])
}
