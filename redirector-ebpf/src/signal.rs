//! Signals: what is odd in the traffic of a member is counted, and reported to the agent now and then.
//!
//! None of this is on the way of a segment of a flow that is well.

use redirector_common::{
    addr::Tuple,
    flow::{Flow, is_after},
    packet::Segment,
    signal::{Report, Signal},
};

use crate::{kernel, maps, settings};

/// Counts a signal, and reports it unless one of this kind and member (of error replies: the same error) was reported a moment ago:
/// then the next one says how many there were.
#[inline(never)]
pub fn raise(flow: &Flow, client_side: &Tuple, signal: Signal, since: u32, error: u32) {
    let Some(pulse) = maps::pulse(flow.member) else { return };
    let now = kernel::ticks();
    let (reported_at, unreported) = (pulse.reported_at(signal), pulse.unreported(signal));
    pulse.counts(signal).add(1);
    let is_recent = now.wrapping_sub(reported_at.get()) < settings::REPORT_EVERY.load();
    let is_told = match signal {
        Signal::ErrorReply => {
            // Another error is other news.
            let (reported, this) = (pulse.errors_reported(), 1 << (error & 31));
            let told = if is_recent { reported.get() } else { 0 };
            reported.set(told | this);
            told & this != 0
        }
        _ => is_recent,
    };
    if is_told {
        unreported.add(1);
        return;
    }
    // Two processors in the same moment report twice; no count is lost but what one adds right now.
    let mut count = 1;
    if !is_recent {
        reported_at.set(now);
        count = unreported.get().wrapping_add(1);
        unreported.set(0);
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
