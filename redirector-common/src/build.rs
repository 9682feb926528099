//! Headers of packets that programs make themselves: resets, and what answers a stray datagram.
//!
//! All words are in network byte order, as they stand in a packet.

use crate::{
    addr::Tuple,
    checksum::Sum,
    packet::{IPV4, IPV6, PROTOCOL_ICMP, PROTOCOL_ICMPV6},
};

const HOP_LIMIT: u8 = 64;

/// Four IPv4 options that say nothing (RFC 791 section 3.1, type 1).
const BLANK_OPTIONS: u32 = 0x0101_0101;

/// An IPv4 header, checksum filled in, before `length` bytes of `protocol`.
///
/// `options` is the number of option words: they stay where they were and are blanked. The header takes the first
/// `5 + options` words.
#[inline(always)]
#[must_use]
pub const fn ipv4_header(ends: &Tuple, options: usize, protocol: u8, length: u16) -> [u32; 15] {
    const DONT_FRAGMENT: u8 = 0x40;
    let total = ((IPV4 + options * 4) as u16 + length).to_be_bytes();
    let first = u32::from_ne_bytes([0x45 + options as u8, 0, total[0], total[1]]);
    let second = u32::from_ne_bytes([0, 0, DONT_FRAGMENT, 0]);
    let third = u32::from_ne_bytes([HOP_LIMIT, protocol, 0, 0]);
    let checksum = Sum(0)
        .add_all(&[first, second, third, ends.near.v4_word(), ends.far.v4_word()])
        // At most ten words: no carry.
        .add(BLANK_OPTIONS * options as u32)
        .finished()
        .to_ne_bytes();
    let mut header = [BLANK_OPTIONS; 15];
    header[0] = first;
    header[1] = second;
    header[2] = u32::from_ne_bytes([HOP_LIMIT, protocol, checksum[0], checksum[1]]);
    header[3] = ends.near.v4_word();
    header[4] = ends.far.v4_word();
    header
}

/// An IPv6 header before `length` bytes of `protocol`.
#[inline(always)]
#[must_use]
pub const fn ipv6_header(ends: &Tuple, protocol: u8, length: u16) -> [u32; 10] {
    let length = length.to_be_bytes();
    let [a, b, c, d] = ends.near.0;
    let [e, f, g, h] = ends.far.0;
    [
        u32::from_ne_bytes([0x60, 0, 0, 0]),
        u32::from_ne_bytes([length[0], length[1], protocol, HOP_LIMIT]),
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
    ]
}

/// Words of a datagram that an ICMP error quotes: its IPv4 header and 8 bytes (RFC 792).
pub const QUOTE_V4: usize = (IPV4 + 8) / 4;
/// The same for IPv6 (RFC 4443 section 3.1 asks for more where it fits; receivers need no more).
pub const QUOTE_V6: usize = (IPV6 + 8) / 4;

/// The ICMP header of "port unreachable" (RFC 792) before a quote.
#[inline(always)]
#[must_use]
pub const fn port_unreachable_v4(quote: &[u32; QUOTE_V4]) -> [u32; 2] {
    const TYPE_AND_CODE: [u8; 2] = [3, 3];
    icmp_header(TYPE_AND_CODE, Sum(0).add_all(quote))
}

/// The ICMPv6 header of "port unreachable" (RFC 4443 section 3.1) before a quote; `ends` are those of the error.
#[inline(always)]
#[must_use]
pub const fn port_unreachable_v6(ends: &Tuple, quote: &[u32; QUOTE_V6]) -> [u32; 2] {
    const TYPE_AND_CODE: [u8; 2] = [1, 4];
    let pseudo = Sum::pseudo_header(ends, true, PROTOCOL_ICMPV6, (8 + QUOTE_V6 * 4) as u16);
    icmp_header(TYPE_AND_CODE, pseudo.add_all(quote))
}

#[inline(always)]
const fn icmp_header(start: [u8; 2], rest: Sum) -> [u32; 2] {
    let first = u32::from_ne_bytes([start[0], start[1], 0, 0]);
    let checksum = rest.add(first).finished().to_ne_bytes();
    [u32::from_ne_bytes([start[0], start[1], checksum[0], checksum[1]]), 0]
}

/// An echo request's first word (type, code, checksum) as that of the reply; `None`: it is no echo request.
#[inline(always)]
#[must_use]
pub const fn echo_reply(word: u32, protocol: u8) -> Option<u32> {
    let (request, reply) = match protocol {
        PROTOCOL_ICMP => (8, 0),
        PROTOCOL_ICMPV6 => (128, 129),
        _ => return None,
    };
    let [kind, code, a, b] = word.to_ne_bytes();
    if kind != request || code != 0 {
        return None;
    }
    // Swapped addresses leave the pseudo-header of ICMPv6 as it was: only the type changes.
    let difference =
        Sum(!(u16::from_ne_bytes([request, 0]) as u32)).add(u16::from_ne_bytes([reply, 0]) as u32);
    let checksum = difference.applied_to(u16::from_ne_bytes([a, b])).to_ne_bytes();
    Some(u32::from_ne_bytes([reply, 0, checksum[0], checksum[1]]))
}
