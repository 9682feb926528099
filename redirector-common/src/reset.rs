//! A correct RST: its numbers (RFC 9293 section 3.10.7, RFC 5961 section 3) and its TCP header.
//!
//! A wrong number is not a detail: a reset that misses the expected sequence number is answered with a challenge
//! ACK or ignored, and one that does not acknowledge a SYN leaves the client waiting for minutes.

use crate::{
    addr::Tuple,
    flow::Flow,
    packet::{Flags, Segment, TCP},
};

/// The numbers of a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// What the receiver expects next.
    pub sequence: u32,
    /// Acknowledges what the receiver sent; `None`: no ACK flag.
    pub acknowledged: Option<u32>,
}

/// The reset that answers a segment: what a host without that connection would send (RFC 9293 section 3.10.7.1).
#[inline(always)]
#[must_use]
pub const fn answer_to(segment: &Segment) -> Numbers {
    if segment.flags.has_ack() {
        Numbers { sequence: segment.acknowledged, acknowledged: None }
    } else {
        Numbers { sequence: 0, acknowledged: Some(segment.next()) }
    }
}

/// The reset that the client of a flow believes, worked out of what was carried so far.
#[inline(always)]
#[must_use]
pub const fn for_client(flow: &Flow) -> Numbers {
    // A client that still waits for its SYN to be answered looks at the acknowledgement only.
    Numbers { sequence: flow.replies.next, acknowledged: Some(flow.client.next) }
}

/// The reset that the member of a flow believes, worked out of what was carried so far.
#[inline(always)]
#[must_use]
pub const fn for_member(flow: &Flow) -> Numbers {
    Numbers {
        sequence: flow.client.next,
        acknowledged: if flow.replies.started() { Some(flow.replies.next) } else { None },
    }
}

/// A TCP header of 20 bytes that resets, checksum 0, as words in network byte order.
#[inline(always)]
#[must_use]
pub const fn header(ends: &Tuple, numbers: Numbers) -> [u32; 5] {
    let (acknowledged, flags) = match numbers.acknowledged {
        Some(number) => (number, Flags::RST | Flags::ACK),
        None => (0, Flags::RST),
    };
    let source = ends.near_port.wire().to_ne_bytes();
    let destination = ends.far_port.wire().to_ne_bytes();
    [
        u32::from_ne_bytes([source[0], source[1], destination[0], destination[1]]),
        numbers.sequence.to_be(),
        acknowledged.to_be(),
        u32::from_ne_bytes([(TCP as u8 / 4) << 4, flags, 0, 0]),
        0,
    ]
}

/// Length of a reset after its IP header, in bytes.
pub const LENGTH: u16 = TCP as u16;
