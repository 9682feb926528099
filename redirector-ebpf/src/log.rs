//! The slow path's log, behind a switch that is off by default: then the verifier removes the calls.

use aya_ebpf::EbpfContext;
use aya_log_ebpf::info;
use redirector_common::{addr::Tuple, flow::Flow, outcome::Outcome, packet::Segment};

use crate::settings;

/// A flow was opened.
#[inline(always)]
pub fn opened(ctx: &impl EbpfContext, segment: &Segment, flow: &Flow) {
    if settings::LOG.load() != 0 {
        info!(
            ctx,
            "flow opened: client port {} service {} member {} source port {}",
            segment.ends.near_port.number(),
            flow.service,
            flow.member,
            flow.member_side.near_port.number()
        );
    }
}

/// A client was refused.
#[inline(always)]
pub fn refused(ctx: &impl EbpfContext, segment: &Segment, outcome: Outcome) {
    if settings::LOG.load() != 0 {
        info!(
            ctx,
            "refused: client port {} VIP port {} outcome {}",
            segment.ends.near_port.number(),
            segment.ends.far_port.number(),
            outcome as u32
        );
    }
}

/// Both ends of a stale flow were reset.
#[inline(always)]
pub fn reset(ctx: &impl EbpfContext, client_side: &Tuple, flow: &Flow) {
    if settings::LOG.load() != 0 {
        info!(
            ctx,
            "reset both ends: client port {} service {} member {} source port {}",
            client_side.near_port.number(),
            flow.service,
            flow.member,
            flow.member_side.near_port.number()
        );
    }
}
