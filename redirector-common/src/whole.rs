//! Reading what [`packet::parse`](crate::packet::parse) leaves out because it is rare: fragments (RFC 791, RFC 8200 section
//! 4.5) and IPv6 extension headers before TCP.
//!
//! Extension headers are passed over and stay where they are. At most [`MAX_EXTENSIONS`] are, and only where their end lies
//! within reach ([`REACH`]).

use crate::{
    addr::Tuple,
    outcome::Outcome,
    packet::{
        FRAGMENT, Fragment, Header, PROTOCOL_TCP, Packet, Parsed, ROUTING, TCP, bytes, field, is_extension,
        parse_rest, read_v4, read_v6, version,
    },
};

/// Extension headers of one packet. RFC 8200 section 4.1 names seven, two of which are not read.
pub const MAX_EXTENSIONS: usize = 6;

/// Headers end before this offset, so that a program reads them with offsets of one byte.
pub const REACH: usize = 0xff;

/// What is known of fragmentation.
#[derive(Clone, Copy)]
struct Part {
    id: u32,
    /// Where it starts within the whole, in bytes.
    start: u32,
    /// How long it is, in bytes.
    length: u32,
    /// Offset of the word that says that it is a fragment; 0: it is none.
    word_at: usize,
}

impl Part {
    const WHOLE: Self = Self { id: 0, start: 0, length: 0, word_at: 0 };

    /// Of `length` bytes, out of 13 bits of offset and one that says that more follow.
    #[inline(always)]
    const fn new(id: u32, units: u16, more: bool, length: u32, word_at: usize) -> Self {
        let word_at = if more || units != 0 { word_at } else { 0 };
        Self { id, start: units as u32 * 8, length, word_at }
    }
}

/// As [`packet::parse`](crate::packet::parse), and further.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P) -> Result<Parsed, Outcome> {
    let (mut header, part) = if version(packet)? == 4 {
        let (header, word) = read_v4(packet, P::IP)?;
        let id: u16 = packet.load(P::IP + field::V4_ID).ok_or(Outcome::Malformed)?;
        let word = u16::from_be(word);
        let at = P::IP + field::V4_FRAGMENT;
        (header, Part::new(u32::from(id), word & 0x1fff, word & 0x2000 != 0, header.length, at))
    } else {
        walk(packet, read_v6(packet, P::IP)?)?
    };
    header.offset = packet.forget(header.offset);
    if part.start == 0 {
        if part.word_at != 0 && header.protocol != PROTOCOL_TCP {
            return Err(Outcome::Fragment);
        }
        let mut parsed = parse_rest(packet, &header);
        if let Ok(Parsed::Segment(segment)) = &mut parsed {
            segment.fragment = packet.forget(part.word_at) as u16;
            segment.id = part.id;
            segment.length = part.length;
        }
        return parsed;
    }
    // In the first one, TCP may come after extension headers.
    if header.protocol != PROTOCOL_TCP && !(header.v6 && is_extension(header.protocol)) {
        return Err(Outcome::Fragment);
    }
    if packet.length() < header.offset as u32 + header.length {
        return Err(Outcome::Malformed);
    }
    let [near, far] = header.addresses;
    Ok(Parsed::Fragment(Fragment {
        ends: Tuple { near, far, ..Tuple::default() },
        id: part.id,
        v6: header.v6,
        end: part.start + part.length,
    }))
}

/// Passes over extension headers, up to what is none.
#[inline(always)]
fn walk(packet: &impl Packet, mut header: Header) -> Result<(Header, Part), Outcome> {
    let mut part = Part::WHOLE;
    for _ in 0..MAX_EXTENSIONS {
        if !is_extension(header.protocol) || part.start != 0 {
            return Ok((header, part));
        }
        let at = header.offset;
        let kind = header.protocol;
        let [next, units, c, d] = bytes(packet, at)?;
        // A fragment header has no length of its own.
        let length = if kind == FRAGMENT { 8 } else { usize::from(units) * 8 + 8 };
        header.protocol = next;
        header.offset = at + length;
        header.length = header.length.checked_sub(length as u32).ok_or(Outcome::Malformed)?;
        if kind == FRAGMENT {
            let id: u32 = packet.load(at + 4).ok_or(Outcome::Malformed)?;
            let word = u16::from_be_bytes([c, d]);
            part = Part::new(id, word >> 3, word & 1 != 0, header.length, at + 2);
        }
        // A routing header with segments left: this is not where it ends.
        if header.offset > REACH - TCP || kind == ROUTING && d != 0 {
            return Err(Outcome::NotCarried);
        }
        // The compiler would leave out the bound that each access has; the verifier of Linux 6.1 needs it.
        header.offset = packet.forget(header.offset);
    }
    if is_extension(header.protocol) { Err(Outcome::NotCarried) } else { Ok((header, part)) }
}

/// Where TCP starts behind the IPv6 header at `start`, for a packet that is quoted: lengths are not checked against what is
/// there. `None`: it does not, or this is a fragment other than the first.
#[inline(always)]
pub fn quoted_tcp_v6(packet: &impl Packet, start: usize) -> Option<(Tuple, usize)> {
    let header = read_v6(packet, start).ok()?;
    let [near, far] = header.addresses;
    let (header, part) = walk(packet, header).ok()?;
    (header.protocol == PROTOCOL_TCP && part.start == 0)
        .then(|| (Tuple { near, far, ..Tuple::default() }, packet.forget(header.offset)))
}
