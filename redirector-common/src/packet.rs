//! Parsing a frame into what decisions need: a TCP segment between two ends, or something else.
//!
//! Hooks differ in how they reach the bytes of a packet and how they mend its checksums; [`Packet`] is that
//! difference, and all other packet code is written over it.

use crate::{
    addr::{Addr, Port, Tuple},
    checksum::Delta,
    outcome::Outcome,
};

/// A word that may be read from and written to a packet.
pub trait Word: Copy {}
impl Word for u8 {}
impl Word for u16 {}
impl Word for u32 {}
impl Word for [u32; 4] {}

/// How a hook reaches the bytes of a packet. Offsets count from the Ethernet header.
pub trait Packet {
    /// Reads the word at `offset` as it stands; `None` past the end of the packet.
    fn load<T: Word>(&self, offset: usize) -> Option<T>;

    /// Writes a word; `None` past the end of the packet. The caller mends the checksums.
    fn store<T: Word>(&mut self, offset: usize, value: T) -> Option<()>;

    /// Mends the TCP checksum at `offset` after a translation.
    fn adjust_tcp_checksum(&mut self, offset: usize, delta: &Delta, v6: bool) -> Option<()>;

    /// Length of the frame in bytes.
    fn length(&self) -> u32;
}

/// Length of an Ethernet header in bytes.
pub const ETHERNET: usize = 14;

const ETHERTYPE: usize = 12;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// TCP (IANA protocol number).
pub const PROTOCOL_TCP: u8 = 6;
/// UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// ICMPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;

/// Length of an IPv4 header without options, in bytes.
pub const IPV4: usize = 20;
/// Length of an IPv6 header without extensions, in bytes.
pub const IPV6: usize = 40;
/// Length of a TCP header without options, in bytes.
pub const TCP: usize = 20;

/// Offsets of fields within their headers.
pub mod field {
    /// IPv4: total length.
    pub const V4_LENGTH: usize = 2;
    /// IPv4: header checksum.
    pub const V4_CHECKSUM: usize = 10;
    /// IPv4: source address.
    pub const V4_SOURCE: usize = 12;
    /// IPv4: destination address.
    pub const V4_DESTINATION: usize = 16;
    /// IPv6: payload length.
    pub const V6_LENGTH: usize = 4;
    /// IPv6: source address.
    pub const V6_SOURCE: usize = 8;
    /// IPv6: destination address.
    pub const V6_DESTINATION: usize = 24;
    /// TCP: source port.
    pub const TCP_SOURCE: usize = 0;
    /// TCP: destination port.
    pub const TCP_DESTINATION: usize = 2;
    /// TCP: checksum.
    pub const TCP_CHECKSUM: usize = 16;
}

/// TCP's control bits that decisions look at (RFC 9293 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;

    /// Ends its connection at once.
    #[inline(always)]
    #[must_use]
    pub const fn is_reset(self) -> bool {
        self.0 & Self::RST != 0
    }

    /// Asks for a connection: SYN without ACK and without RST.
    #[inline(always)]
    #[must_use]
    pub const fn is_open(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST) == Self::SYN
    }

    /// Carries an acknowledgement.
    #[inline(always)]
    #[must_use]
    pub const fn has_ack(self) -> bool {
        self.0 & Self::ACK != 0
    }

    /// Ends its sender's half.
    #[inline(always)]
    #[must_use]
    pub const fn has_fin(self) -> bool {
        self.0 & Self::FIN != 0
    }
}

/// A TCP segment as it came: `near` is its sender, `far` its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Sender and receiver.
    pub ends: Tuple,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number; meaningless without [`Flags::ACK`].
    pub acknowledged: u32,
    /// How far the segment reaches in sequence space: payload, and one each for SYN and FIN.
    pub reach: u32,
    /// Control bits.
    pub flags: Flags,
    /// Whether the addresses are IPv6.
    pub v6: bool,
    /// Offset of the TCP header; the IP header starts at [`ETHERNET`].
    pub tcp_offset: u16,
}

impl Segment {
    /// The sequence number that its receiver will expect next.
    #[inline(always)]
    #[must_use]
    pub const fn next(&self) -> u32 {
        self.sequence.wrapping_add(self.reach)
    }
}

/// An IP packet that is not TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Sender and receiver; their ports are not read.
    pub ends: Tuple,
    /// Transport protocol (IANA number).
    pub protocol: u8,
    /// Whether the addresses are IPv6.
    pub v6: bool,
    /// Offset of what follows the IP header.
    pub offset: u16,
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A whole TCP segment.
    Segment(Segment),
    /// Another IP packet, no fragment.
    Datagram(Datagram),
}

/// What an IP header says.
struct Header {
    protocol: u8,
    v6: bool,
    addresses: [Addr; 2],
    /// Offset of what follows.
    offset: usize,
    /// Length of what follows, in bytes.
    length: u32,
}

/// Reads a frame. Whatever is no whole IP packet has an outcome and is to be left unchanged.
///
/// Lengths are taken from the IP header: the frame may be padded, and what it holds beyond is no data.
#[inline(always)]
pub fn parse(packet: &impl Packet) -> Result<Parsed, Outcome> {
    let ethertype: u16 = packet.load(ETHERTYPE).ok_or(Outcome::Malformed)?;
    let header = match u16::from_be(ethertype) {
        ETHERTYPE_IPV4 => parse_v4(packet)?,
        ETHERTYPE_IPV6 => parse_v6(packet)?,
        _ => return Err(Outcome::NotIp),
    };
    if packet.length() < header.offset as u32 + header.length {
        return Err(Outcome::Malformed);
    }
    if header.protocol == PROTOCOL_TCP {
        return parse_tcp(packet, &header).map(Parsed::Segment);
    }
    let [near, far] = header.addresses;
    Ok(Parsed::Datagram(Datagram {
        ends: Tuple { near, far, ..Tuple::default() },
        protocol: header.protocol,
        v6: header.v6,
        offset: header.offset as u16,
    }))
}

#[inline(always)]
fn parse_v4(packet: &impl Packet) -> Result<Header, Outcome> {
    const FRAGMENT: u16 = 0x3fff_u16.to_be(); // More-fragments flag and offset, not don't-fragment.

    let at = |offset| ETHERNET + offset;
    let version: u8 = packet.load(at(0)).ok_or(Outcome::Malformed)?;
    let header = usize::from(version & 0x0f) * 4;
    if version >> 4 != 4 || header < IPV4 {
        return Err(Outcome::Malformed);
    }
    let protocol: u8 = packet.load(at(9)).ok_or(Outcome::Malformed)?;
    let fragment: u16 = packet.load(at(6)).ok_or(Outcome::Malformed)?;
    if fragment & FRAGMENT != 0 {
        return Err(Outcome::Fragment);
    }
    let length: u16 = packet.load(at(field::V4_LENGTH)).ok_or(Outcome::Malformed)?;
    let source: u32 = packet.load(at(field::V4_SOURCE)).ok_or(Outcome::Malformed)?;
    let destination: u32 = packet.load(at(field::V4_DESTINATION)).ok_or(Outcome::Malformed)?;
    Ok(Header {
        protocol,
        v6: false,
        addresses: [Addr::from_v4_word(source), Addr::from_v4_word(destination)],
        offset: ETHERNET + header,
        length: u32::from(u16::from_be(length)).checked_sub(header as u32).ok_or(Outcome::Malformed)?,
    })
}

#[inline(always)]
fn parse_v6(packet: &impl Packet) -> Result<Header, Outcome> {
    const NEXT_HEADER: usize = 6;
    const FRAGMENT_HEADER: u8 = 44;

    let at = |offset| ETHERNET + offset;
    let version: u8 = packet.load(at(0)).ok_or(Outcome::Malformed)?;
    if version >> 4 != 6 {
        return Err(Outcome::Malformed);
    }
    let protocol = packet.load::<u8>(at(NEXT_HEADER)).ok_or(Outcome::Malformed)?;
    if protocol == FRAGMENT_HEADER {
        return Err(Outcome::Fragment);
    }
    let length: u16 = packet.load(at(field::V6_LENGTH)).ok_or(Outcome::Malformed)?;
    let source = packet.load(at(field::V6_SOURCE)).ok_or(Outcome::Malformed)?;
    let destination = packet.load(at(field::V6_DESTINATION)).ok_or(Outcome::Malformed)?;
    Ok(Header {
        protocol,
        v6: true,
        addresses: [Addr(source), Addr(destination)],
        offset: ETHERNET + IPV6,
        length: u32::from(u16::from_be(length)),
    })
}

#[inline(always)]
fn parse_tcp(packet: &impl Packet, ip: &Header) -> Result<Segment, Outcome> {
    let word = |at| packet.load::<u32>(ip.offset + at).ok_or(Outcome::Malformed);
    let ports: u32 = word(0)?;
    let sequence = u32::from_be(word(4)?);
    let acknowledged = u32::from_be(word(8)?);
    let [data_offset, bits, ..] = word(12)?.to_ne_bytes();
    word(16)?; // Checksum and urgent pointer: the header is whole.

    let header = u32::from(data_offset >> 4) * 4;
    if header < TCP as u32 || header > ip.length {
        return Err(Outcome::Malformed);
    }
    let [a, b, c, d] = ports.to_ne_bytes();
    let [near, far] = ip.addresses;
    Ok(Segment {
        ends: Tuple {
            near,
            far,
            near_port: Port::from_wire(u16::from_ne_bytes([a, b])),
            far_port: Port::from_wire(u16::from_ne_bytes([c, d])),
        },
        sequence,
        acknowledged,
        reach: ip.length - header + u32::from(bits & Flags::SYN != 0) + u32::from(bits & Flags::FIN != 0),
        flags: Flags(bits),
        v6: ip.v6,
        tcp_offset: ip.offset as u16,
    })
}

/// Gives a segment other ends: addresses, ports, and the checksums that cover them.
///
/// `delta` is [`Delta::between`] the segment's ends and `ends`. `None`: the packet could not be written, and may
/// be half changed.
#[inline(always)]
pub fn translate(packet: &mut impl Packet, segment: &Segment, ends: &Tuple, delta: &Delta) -> Option<()> {
    if segment.v6 {
        packet.store(ETHERNET + field::V6_SOURCE, ends.near.0)?;
        packet.store(ETHERNET + field::V6_DESTINATION, ends.far.0)?;
    } else {
        let header: u16 = packet.load(ETHERNET + field::V4_CHECKSUM)?;
        packet.store(ETHERNET + field::V4_CHECKSUM, delta.addresses.applied_to(header))?;
        packet.store(ETHERNET + field::V4_SOURCE, ends.near.v4_word())?;
        packet.store(ETHERNET + field::V4_DESTINATION, ends.far.v4_word())?;
    }
    let tcp = usize::from(segment.tcp_offset);
    packet.store(tcp + field::TCP_SOURCE, ends.near_port.wire())?;
    packet.store(tcp + field::TCP_DESTINATION, ends.far_port.wire())?;
    packet.adjust_tcp_checksum(tcp + field::TCP_CHECKSUM, delta, segment.v6)
}
