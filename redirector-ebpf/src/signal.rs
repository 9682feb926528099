//! Signals: what is odd in the traffic of a member is counted, and reported to the agent now and then.
//!
//! None of this is on the way of a segment of a flow that is well.

use redirector_common::{
    addr::Tuple,
    flow::{Flow, is_after},
    packet::Segment,
    signal::{Report, Signal},
};

use crate::{
    kernel,
    maps::{self, Words},
    settings,
};

/// Counts a signal, and reports it unless one of this kind and member (of error replies: the same error) was reported a moment ago:
/// then the next one says how many there were.
#[inline(never)]
pub fn raise(flow: &Flow, client_side: &Tuple, signal: Signal, since: u32, error: u32) {
    let Some(pulse) = maps::pulse(flow.member) else { return };
    let now = kernel::ticks();
    let reported_at = pulse.reported_at(signal);
    pulse.counts(signal).add(1);
    let is_recent = now.wrapping_sub(reported_at.get()) < settings::REPORT_EVERY.load();
    let count = match signal {
        Signal::ErrorReply => errors_to_tell(pulse, error, is_recent),
        _ => signals_to_tell(pulse, signal, is_recent),
    };
    if count == 0 {
        return;
    }
    // Two processors in the same moment report twice.
    if !is_recent {
        reported_at.set(now);
    }
    maps::report(|| Report {
        client_side: *client_side,
        at: now,
        since,
        member: flow.member,
        service: flow.service,
        slot: flow.slot,
        signal: signal as u32,
        count,
        error,
    });
}

/// How many signals of a kind are told now, with this one; 0: the next report does. No count is lost but what another processor
/// adds right now.
#[inline(always)]
fn signals_to_tell(pulse: Words, signal: Signal, is_recent: bool) -> u32 {
    let unreported = pulse.unreported(signal);
    if is_recent {
        unreported.add(1);
        return 0;
    }
    let count = unreported.get().wrapping_add(1);
    unreported.set(0);
    count
}

/// The same of an error: another one than those that were reported is other news, and each is counted for itself.
#[inline(always)]
fn errors_to_tell(pulse: Words, error: u32, is_recent: bool) -> u32 {
    let (reported, this) = (pulse.errors_reported(), 1 << (error & 31));
    let told = if is_recent { reported.get() } else { 0 };
    reported.set(told | this);
    // For the verifier: there is no other number.
    let Some(unreported) = pulse.errors_unreported(error) else { return 1 };
    let count = unreported.get();
    if told & this != 0 {
        unreported.set(count.saturating_add(1));
        return 0;
    }
    unreported.set(0);
    u32::from(count) + 1
}

/// A client sends something again that was carried before.
#[inline(always)]
pub fn on_repeated(flow: &mut Flow, segment: &Segment) {
    // Nobody can tell which of the two is acknowledged.
    flow.sample.at = 0;
    if segment.flags.is_open() {
        // A network may carry one packet twice; and a client that resets an earlier connection, which the member has kept, sends
        // its SYN again at once.
        let is_copy = kernel::ticks().wrapping_sub(flow.client.at) < settings::SYN_AGAIN_AFTER.load();
        if !flow.replies.started() && segment.next() == flow.client.next && !is_copy {
            failed(flow);
            raise(flow, &segment.ends, Signal::Unanswered, flow.opened_at, 0);
        }
    } else if flow.is_missing(segment) {
        let (since, silent) = silence(flow);
        let signal = if silent { Signal::Silent } else { Signal::Retransmitted };
        raise(flow, &segment.ends, signal, since, 0);
    }
}

/// Since when nothing was heard from the member, and whether so: since the first segment that waits for it; or at least since
/// the last one of this flow, in whose tick something may have been heard just before.
#[inline(always)]
fn silence(flow: &Flow) -> (u32, bool) {
    let now = kernel::ticks();
    let Some(pulse) = maps::pulse(flow.member) else { return (now, false) };
    let (sent, heard, last) = (pulse.sent().get(), pulse.heard().get(), flow.client.at);
    if is_after(sent, heard) {
        (sent, true)
    } else if last != now && !is_after(heard, last) {
        (last, true)
    } else {
        (now, false)
    }
}

/// A member ends a flow that lives, by a reset that the client believes or by a FIN.
#[inline(always)]
pub fn on_end(flow: &mut Flow, client_side: &Tuple, is_reset: bool) {
    let now = kernel::ticks();
    if !flow.replies.started() {
        if is_reset {
            failed(flow);
            raise(flow, client_side, Signal::Refused, now, 0);
        }
    } else if !flow.client.finished() && !flow.replies.finished() {
        raise(flow, client_side, if is_reset { Signal::Reset } else { Signal::Closed }, now, 0);
    }
}

/// Somebody says that a segment did not reach the member.
#[inline(always)]
pub fn on_unreachable(flow: &mut Flow, client_side: &Tuple) {
    if !flow.replies.started() {
        failed(flow);
    }
    raise(flow, client_side, Signal::Unreachable, kernel::ticks(), 0);
}

/// Counts a connection that failed, once.
#[inline(always)]
fn failed(flow: &mut Flow) {
    if flow.failed != 0 {
        return;
    }
    flow.failed = 1;
    if let Some(pulse) = maps::pulse(flow.member) {
        pulse.failed().add(1);
        pulse.failed_in_a_row().add(1);
    }
}
