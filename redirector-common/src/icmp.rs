//! ICMP errors (RFC 792, RFC 4443) about a translated packet. Such an error quotes the packet as it was when something went
//! wrong, so it is about addresses and ports that its receiver never used: the quote must be translated back (RFC 5508
//! section 7).
//!
//! Of a quoted segment no more is certain than 8 bytes: the ports and the sequence number.
//!
//! All words are changed in place, and every change is covered by a checksum that makes up for it within the packet: the
//! sum of the whole packet stays, so that of a `CHECKSUM_COMPLETE` one does too.

use core::hint::black_box;

use crate::{
    addr::{Port, Tuple},
    checksum::Delta,
    packet::{Datagram, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, Packet, field, read_v4, readdress_v4},
    whole::quoted_tcp_v6,
};

/// Length of an ICMP error's own header, in bytes.
const HEADER: usize = 8;
/// Offset of the checksum within it.
const CHECKSUM: usize = 2;

/// Whether an ICMP message of this type is an error that quotes a packet: destination unreachable (fragmentation needed
/// among them), packet too big, time exceeded, parameter problem. A redirect is for the host that it is sent to.
#[inline(always)]
#[must_use]
pub const fn is_error(protocol: u8, kind: u8) -> bool {
    match protocol {
        PROTOCOL_ICMP => matches!(kind, 3 | 11 | 12),
        PROTOCOL_ICMPV6 => matches!(kind, 1..=4),
        _ => false,
    }
}

/// Whether an ICMP error says that its receiver's packet did not arrive, and that no smaller one would: destination
/// unreachable, but for fragmentation needed.
#[inline(always)]
pub fn is_unreachable(packet: &impl Packet, error: &Datagram) -> bool {
    const FRAGMENTATION_NEEDED: u8 = 4;
    packet.load::<u32>(usize::from(error.offset)).is_some_and(|word| match word.to_ne_bytes() {
        [kind, ..] if error.v6 => kind == 1,
        [kind, code, ..] => kind == 3 && code != FRAGMENTATION_NEEDED,
    })
}

/// The TCP segment that an ICMP error quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Its sender and receiver.
    pub ends: Tuple,
    /// Its sequence number.
    pub sequence: u32,
    /// Offset of its IP header.
    pub ip_offset: u16,
    /// Offset of its TCP header.
    pub tcp_offset: u16,
    /// Whether the TCP checksum is quoted as well.
    pub has_checksum: bool,
}

/// Reads what an ICMP error quotes. `None`: no TCP, too little of it, or what the receiver of the error has not sent.
#[inline(always)]
pub fn quote(packet: &impl Packet, error: &Datagram) -> Option<Quote> {
    // The compiler knows bounds that the verifier does not: with them it would check one pointer and use another.
    let ip_offset = black_box(usize::from(error.offset) + HEADER);
    let (ends, tcp_offset) = if error.v6 {
        quoted_tcp_v6(packet, ip_offset)?
    } else {
        let (header, fragment) = read_v4(packet, ip_offset).ok()?;
        let is_first = fragment & 0x1fff_u16.to_be() == 0;
        if header.protocol != PROTOCOL_TCP || !is_first {
            return None;
        }
        let [near, far] = header.addresses;
        (Tuple { near, far, ..Tuple::default() }, header.offset)
    };
    let end = u32::from(error.offset) + error.length;
    if (tcp_offset + 8) as u32 > end || ends.near != error.ends.far {
        return None;
    }
    let [a, b, c, d] = packet.load::<u32>(tcp_offset)?.to_ne_bytes();
    Some(Quote {
        ends: Tuple {
            near_port: Port::from_wire(u16::from_ne_bytes([a, b])),
            far_port: Port::from_wire(u16::from_ne_bytes([c, d])),
            ..ends
        },
        sequence: u32::from_be(packet.load(tcp_offset + 4)?),
        ip_offset: ip_offset as u16,
        tcp_offset: tcp_offset as u16,
        has_checksum: (tcp_offset + field::TCP_CHECKSUM + 2) as u32 <= end,
    })
}

/// Gives an error other ends, and what it quotes too.
///
/// `None`: the packet could not be written, and may be half changed.
#[inline(always)]
pub fn translate<P: Packet>(
    packet: &mut P,
    error: &Datagram,
    ends: &Tuple,
    quote: &Quote,
    quoted: &Tuple,
) -> Option<()> {
    let outer = Delta::between(&error.ends, ends);
    let inner = Delta::between(&quote.ends, quoted);
    let (ip, tcp) = (usize::from(quote.ip_offset), usize::from(quote.tcp_offset));
    // By how much the sum of what the ICMP checksum covers changes.
    let mut change = inner.ports;
    if error.v6 {
        store_addresses_v6(packet, P::IP, ends)?;
        store_addresses_v6(packet, ip, quoted)?;
        change = change.add(inner.addresses.0).add(outer.addresses.0);
    } else {
        readdress_v4(packet, P::IP, ends, &outer)?;
        // The checksum of the quoted header makes up for its addresses, unless a router spoilt it: then it stays as wrong.
        readdress_v4(packet, ip, quoted, &inner)?;
    }
    packet.store(tcp + field::TCP_SOURCE, quoted.near_port.wire())?;
    packet.store(tcp + field::TCP_DESTINATION, quoted.far_port.wire())?;
    if quote.has_checksum {
        let old: u16 = packet.load(tcp + field::TCP_CHECKSUM)?;
        let new = inner.ports.applied_to(inner.addresses.applied_to(old));
        packet.store(tcp + field::TCP_CHECKSUM, new)?;
        change = change.add(u32::from(!old)).add(u32::from(new));
    }
    let at = usize::from(error.offset) + CHECKSUM;
    let checksum: u16 = packet.load(at)?;
    packet.store(at, change.applied_to(checksum))
}

#[inline(always)]
fn store_addresses_v6(packet: &mut impl Packet, start: usize, ends: &Tuple) -> Option<()> {
    packet.store(start + field::V6_SOURCE, ends.near.0)?;
    packet.store(start + field::V6_DESTINATION, ends.far.0)
}
