//! Resets that the agent asks for: flows whose client it can reach in no other way.
//!
//! [`redirector_common::inject`] says how it asks. What follows is what the next packet of a stale flow would bring about
//! ([`crate::reset::both`]), with the numbers that the flow has now; and challenge ACKs are answered as always.

use redirector_common::{flow::Flow, packet::Segment};

use crate::maps;

/// The flow that is meant, if it is still there.
#[inline(always)]
pub fn flow_of(request: &Segment, incarnation: u64) -> Option<&'static mut Flow> {
    maps::flow(&request.ends).filter(|flow| flow.incarnation == incarnation)
}
