//! A correct RST: its numbers (RFC 9293 section 3.10.7, RFC 5961 section 3) and its bytes.
//!
//! A wrong number is not a detail: a reset that misses the expected sequence number is answered with a challenge
//! ACK or ignored, and one that does not acknowledge a SYN leaves the client waiting for minutes.

use crate::{
    addr::Tuple,
    checksum::Sum,
    flow::Flow,
    packet::{Flags, IPV4, Segment, TCP},
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

/// The sum over a header made by [`header`], without the pseudo-header.
#[inline(always)]
#[must_use]
pub const fn header_sum(header: &[u32; 5]) -> Sum {
    Sum(header[0]).add(header[1]).add(header[2]).add(header[3]).add(header[4])
}

/// An IPv4 header for a reset, as words in network byte order, checksum filled in.
///
/// `options` is the number of option words: they stay where they were and are blanked. The header takes the first
/// `5 + options` words.
#[inline(always)]
#[must_use]
pub const fn ipv4_header(ends: &Tuple, options: usize) -> [u32; 15] {
    const TTL: u8 = 64;
    const DONT_FRAGMENT: u8 = 0x40;
    let length = ((IPV4 + options * 4 + TCP) as u16).to_be_bytes();
    let words = [
        u32::from_ne_bytes([0x45 + options as u8, 0, length[0], length[1]]),
        u32::from_ne_bytes([0, 0, DONT_FRAGMENT, 0]),
        u32::from_ne_bytes([TTL, 6, 0, 0]),
        ends.near.v4_word(),
        ends.far.v4_word(),
    ];
    // At most ten blank words: no carry.
    let sum = header_sum(&words).add(BLANK_OPTIONS * options as u32);
    let checksum = sum.finished().to_ne_bytes();
    let mut header = [BLANK_OPTIONS; 15];
    header[0] = words[0];
    header[1] = words[1];
    header[2] = u32::from_ne_bytes([TTL, 6, checksum[0], checksum[1]]);
    header[3] = words[3];
    header[4] = words[4];
    header
}

/// Four IPv4 options that say nothing (RFC 791 section 3.1, type 1).
const BLANK_OPTIONS: u32 = 0x0101_0101;

/// The first two words of an IPv6 header for a reset; the addresses follow.
#[inline(always)]
#[must_use]
pub const fn ipv6_start() -> [u32; 2] {
    const HOP_LIMIT: u8 = 64;
    let length = (TCP as u16).to_be_bytes();
    [u32::from_ne_bytes([0x60, 0, 0, 0]), u32::from_ne_bytes([length[0], length[1], 6, HOP_LIMIT])]
}
