//! A cap on flows that are not established yet, per source and per service, so that one client's SYN flood refuses
//! nobody else.
//!
//! Only clients without a socket on this host are counted: a local process is bounded by its files, and thousands of
//! them open at once after a switch. Counts go up when a flow is opened and down when it is established or ends. What
//! the agent deletes it takes off itself, and what drifts (two processors that end one flow in the same moment) it
//! puts right each time it collects.

use redirector_common::{addr::Addr, flow::Flow, layout::SourceKey, packet::Segment};

use crate::{maps, maps::Counter, settings};

/// Counts one more flow, unless there are too many.
#[inline(always)]
pub fn admit(key: &SourceKey) -> bool {
    let Some(sum) = maps::half_open_sum(key.service) else { return false };
    if is_at(sum, settings::HALF_OPEN_PER_SERVICE.load()) {
        return false;
    }
    if let Some(count) = maps::half_open(key) {
        if is_at(count, settings::HALF_OPEN_PER_SOURCE.load()) {
            return false;
        }
        count.add(1);
    } else {
        // Without room for one more source it counts for its service only.
        maps::insert_half_open(key);
    }
    sum.add(1);
    true
}

/// Takes a flow off that is established now: the client has heard the member.
#[inline(always)]
pub fn on_client_segment(flow: &mut Flow, segment: &Segment) {
    if flow.half_open != 0 && flow.is_confirmed_by(segment) {
        take_off(flow, segment.ends.near);
    }
}

/// Takes a flow off that ends.
#[inline(always)]
pub fn on_end(flow: &mut Flow, client: Addr) {
    if flow.half_open != 0 {
        take_off(flow, client);
    }
}

#[inline(always)]
fn take_off(flow: &mut Flow, client: Addr) {
    flow.half_open = 0;
    let key = SourceKey { address: client, service: u32::from(flow.service) };
    for count in [maps::half_open(&key), maps::half_open_sum(key.service)].into_iter().flatten() {
        count.add(-1);
    }
}

/// Whether a count has reached its limit. It may be below 0 for a while, when the agent counted anew in between.
#[inline(always)]
fn is_at(count: Counter, limit: u32) -> bool {
    count.get() >= i64::from(limit)
}
