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
///
/// A byte is none: the compiler makes `start < end` out of the comparison that it lies within, from which the verifier
/// learns nothing when `start` is an offset that it does not know. Bytes are read with the word that they stand in.
pub trait Word: Copy {}
impl Word for u16 {}
impl Word for u32 {}
impl Word for [u32; 4] {}

/// How a hook reaches the bytes of a packet. Offsets count from where the device's frames start.
pub trait Packet {
    /// Where the IP header starts: behind the Ethernet header ([`ETHERNET`]), or at 0 on a device without one.
    const IP: usize;

    /// Reads the word at `offset` as it stands; `None` past the end of the packet.
    fn load<T: Word>(&self, offset: usize) -> Option<T>;

    /// Writes a word; `None` past the end of the packet. The caller mends the checksums.
    fn store<T: Word>(&mut self, offset: usize, value: T) -> Option<()>;

    /// Mends the TCP checksum at `offset` after a translation.
    fn adjust_tcp_checksum(&mut self, offset: usize, delta: &Delta, v6: bool) -> Option<()>;

    /// Length of the frame in bytes.
    fn length(&self) -> u32;

    /// The same number, of which the verifier knows nothing any more: what follows it verifies once, and not for every way
    /// that led to a number.
    #[inline(always)]
    fn forget(&self, number: usize) -> usize {
        number
    }
}

/// Length of an Ethernet header in bytes.
pub const ETHERNET: usize = 14;

const ETHERTYPE: usize = 12;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// A VLAN's tag comes first (IEEE 802.1Q), or a provider's (802.1ad).
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_PROVIDER: u16 = 0x88a8;

/// TCP (IANA protocol number).
pub const PROTOCOL_TCP: u8 = 6;
/// UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// ICMPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;

/// IPv6 extension header: options for every router.
pub const HOP_BY_HOP: u8 = 0;
/// IPv6 extension header: routing.
pub const ROUTING: u8 = 43;
/// IPv6 extension header: fragment.
pub const FRAGMENT: u8 = 44;
/// IPv6 extension header: options for the destination.
pub const DESTINATION: u8 = 60;

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
    /// IPv4: identification.
    pub const V4_ID: usize = 4;
    /// IPv4: flags and fragment offset.
    pub const V4_FRAGMENT: usize = 6;
    /// IPv4: time to live and protocol, then the header checksum.
    pub const V4_LIFE: usize = 8;
    /// IPv4: header checksum.
    pub const V4_CHECKSUM: usize = 10;
    /// IPv4: source address.
    pub const V4_SOURCE: usize = 12;
    /// IPv4: destination address.
    pub const V4_DESTINATION: usize = 16;
    /// IPv6: payload length, then next header and hop limit.
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
    /// What came so far is to be handed over; here only a mark of [`crate::inject`].
    pub const PSH: u8 = 0x08;
    /// Something is urgent; here only a mark of [`crate::inject`].
    pub const URG: u8 = 0x20;
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

    /// Is a SYN, or answers one.
    #[inline(always)]
    #[must_use]
    pub const fn has_syn(self) -> bool {
        self.0 & Self::SYN != 0
    }

    /// Ends its sender's half, or the connection.
    #[inline(always)]
    #[must_use]
    pub const fn ends(self) -> bool {
        self.0 & (Self::FIN | Self::RST) != 0
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
    /// Offset of the TCP header; the IP header starts at [`Packet::IP`].
    pub tcp_offset: u16,
    /// Of a fragment: how long it is, in bytes.
    pub length: u32,
    /// The packet is the first fragment of the segment, which reaches further than [`Segment::reach`]: offset of the word
    /// that says so. 0: it is whole.
    pub fragment: u16,
    /// Identification of the fragments, as it stands in the packet.
    pub id: u32,
}

impl Segment {
    /// Whether the packet is the first fragment of the segment.
    #[inline(always)]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        self.fragment != 0
    }

    /// The sequence number that its receiver will expect next.
    #[inline(always)]
    #[must_use]
    pub const fn next(&self) -> u32 {
        self.sequence.wrapping_add(self.reach)
    }

    /// Bytes of data.
    #[inline(always)]
    #[must_use]
    pub const fn data(&self) -> u32 {
        self.reach - self.flags.has_syn() as u32 - self.flags.has_fin() as u32
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
    /// Bytes from there on.
    pub length: u32,
}

/// A fragment of a TCP segment, but not the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Sender and receiver; a fragment has no ports.
    pub ends: Tuple,
    /// Identification that it shares with the first one.
    pub id: u32,
    /// Whether the addresses are IPv6.
    pub v6: bool,
    /// How far it reaches, in bytes from where the first one starts.
    pub end: u32,
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A TCP segment, or its first fragment.
    Segment(Segment),
    /// Another IP packet, no fragment.
    Datagram(Datagram),
    /// A fragment that follows another one.
    Fragment(Fragment),
}

/// What an IP header says.
#[derive(Clone, Copy)]
pub(crate) struct Header {
    pub(crate) protocol: u8,
    pub(crate) v6: bool,
    pub(crate) addresses: [Addr; 2],
    /// Offset of what follows.
    pub(crate) offset: usize,
    /// Length of what follows, in bytes.
    pub(crate) length: u32,
}

/// The IP version of a frame that is neither for a VLAN nor something else.
#[inline(always)]
pub(crate) fn version<P: Packet>(packet: &P) -> Result<u8, Outcome> {
    if P::IP == 0 {
        let [first, ..] = bytes(packet, 0)?;
        return match first >> 4 {
            version @ (4 | 6) => Ok(version),
            _ => Err(Outcome::NotIp),
        };
    }
    let ethertype: u16 = packet.load(ETHERTYPE).ok_or(Outcome::Malformed)?;
    match u16::from_be(ethertype) {
        ETHERTYPE_IPV4 => Ok(4),
        ETHERTYPE_IPV6 => Ok(6),
        ETHERTYPE_VLAN | ETHERTYPE_PROVIDER => Err(Outcome::Vlan),
        _ => Err(Outcome::NotIp),
    }
}

/// Four bytes of a header.
#[inline(always)]
pub(crate) fn bytes(packet: &impl Packet, start: usize) -> Result<[u8; 4], Outcome> {
    packet.load::<u32>(start).map(u32::to_ne_bytes).ok_or(Outcome::Malformed)
}

/// Reads a frame at a glance: a whole TCP segment right behind an IP header, or a datagram. Whatever is no whole IP packet has
/// an outcome and is to be left unchanged; but of [`Outcome::Fragment`], [`Outcome::NotCarried`] and [`Outcome::Malformed`]
/// [`crate::whole::parse`] may make more.
///
/// Lengths are taken from the IP header: the frame may be padded, and what it holds beyond is no data.
#[inline(always)]
pub fn parse(packet: &impl Packet) -> Result<Parsed, Outcome> {
    let header = match version(packet)? {
        4 => parse_v4(packet)?,
        _ => parse_v6(packet)?,
    };
    if header.v6 && is_extension(header.protocol) {
        return Err(Outcome::NotCarried);
    }
    parse_rest(packet, &header)
}

/// Reads what follows an IP header.
#[inline(always)]
pub(crate) fn parse_rest(packet: &impl Packet, header: &Header) -> Result<Parsed, Outcome> {
    if packet.length() < header.offset as u32 + header.length {
        return Err(Outcome::Malformed);
    }
    if header.protocol == PROTOCOL_TCP {
        return parse_tcp(packet, header).map(Parsed::Segment);
    }
    let [near, far] = header.addresses;
    Ok(Parsed::Datagram(Datagram {
        ends: Tuple { near, far, ..Tuple::default() },
        protocol: header.protocol,
        v6: header.v6,
        offset: header.offset as u16,
        length: header.length,
    }))
}

/// Whether an IPv6 header with this number stands between the IP header and what is carried (IANA "IPv6 Extension Header
/// Types"): hop-by-hop and destination options, routing, fragment. What is authenticated (51) or encrypted (50) is not read.
#[inline(always)]
#[must_use]
pub const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION)
}

#[inline(always)]
fn parse_v4<P: Packet>(packet: &P) -> Result<Header, Outcome> {
    let (header, fragment) = read_v4(packet, P::IP)?;
    // More-fragments flag and offset, not don't-fragment.
    if fragment & 0x3fff_u16.to_be() != 0 {
        return Err(Outcome::Fragment);
    }
    Ok(header)
}

/// Reads the IPv4 header at `start`, and its word about fragments as it stands in the packet.
#[inline(always)]
pub(crate) fn read_v4(packet: &impl Packet, start: usize) -> Result<(Header, u16), Outcome> {
    let at = |offset| start + offset;
    let [version, ..] = bytes(packet, start)?;
    let header = usize::from(version & 0x0f) * 4;
    if version >> 4 != 4 || header < IPV4 {
        return Err(Outcome::Malformed);
    }
    let [_, protocol, ..] = bytes(packet, at(field::V4_LIFE))?;
    let fragment: u16 = packet.load(at(field::V4_FRAGMENT)).ok_or(Outcome::Malformed)?;
    let length: u16 = packet.load(at(field::V4_LENGTH)).ok_or(Outcome::Malformed)?;
    let source: u32 = packet.load(at(field::V4_SOURCE)).ok_or(Outcome::Malformed)?;
    let destination: u32 = packet.load(at(field::V4_DESTINATION)).ok_or(Outcome::Malformed)?;
    let header = Header {
        protocol,
        v6: false,
        addresses: [Addr::from_v4_word(source), Addr::from_v4_word(destination)],
        offset: at(header),
        length: u32::from(u16::from_be(length)).checked_sub(header as u32).ok_or(Outcome::Malformed)?,
    };
    Ok((header, fragment))
}

#[inline(always)]
fn parse_v6<P: Packet>(packet: &P) -> Result<Header, Outcome> {
    read_v6(packet, P::IP)
}

/// Reads the IPv6 header at `start`; [`Header::protocol`] may be that of an extension header.
#[inline(always)]
pub(crate) fn read_v6(packet: &impl Packet, start: usize) -> Result<Header, Outcome> {
    let at = |offset| start + offset;
    let [version, ..] = bytes(packet, start)?;
    if version >> 4 != 6 {
        return Err(Outcome::Malformed);
    }
    let [a, b, protocol, _] = bytes(packet, at(field::V6_LENGTH))?;
    let source = packet.load(at(field::V6_SOURCE)).ok_or(Outcome::Malformed)?;
    let destination = packet.load(at(field::V6_DESTINATION)).ok_or(Outcome::Malformed)?;
    let addresses = [Addr(source), Addr(destination)];
    // No network carries mapped IPv4 addresses (RFC 4942 section 2.2): here they would be those of an IPv4 flow.
    if Addr::is_any_v4(&addresses) {
        return Err(Outcome::Malformed);
    }
    Ok(Header {
        protocol,
        v6: true,
        addresses,
        offset: at(IPV6),
        length: u32::from(u16::from_be_bytes([a, b])),
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
        length: 0,
        fragment: 0,
        id: 0,
    })
}

/// Gives a segment other ends: addresses, ports, and the checksums that cover them.
///
/// `delta` is [`Delta::between`] the segment's ends and `ends`. `None`: the packet could not be written, and may
/// be half changed.
#[inline(always)]
pub fn translate<P: Packet>(packet: &mut P, segment: &Segment, ends: &Tuple, delta: &Delta) -> Option<()> {
    if segment.v6 {
        packet.store(P::IP + field::V6_SOURCE, ends.near.0)?;
        packet.store(P::IP + field::V6_DESTINATION, ends.far.0)?;
    } else {
        readdress_v4(packet, P::IP, ends, delta)?;
    }
    let tcp = usize::from(segment.tcp_offset);
    packet.store(tcp + field::TCP_SOURCE, ends.near_port.wire())?;
    packet.store(tcp + field::TCP_DESTINATION, ends.far_port.wire())?;
    packet.adjust_tcp_checksum(tcp + field::TCP_CHECKSUM, delta, segment.v6)
}

/// Gives the IPv4 header at `start` other addresses, and mends its checksum.
#[inline(always)]
pub fn readdress_v4(packet: &mut impl Packet, start: usize, ends: &Tuple, delta: &Delta) -> Option<()> {
    let header: u16 = packet.load(start + field::V4_CHECKSUM)?;
    packet.store(start + field::V4_CHECKSUM, delta.addresses.applied_to(header))?;
    packet.store(start + field::V4_SOURCE, ends.near.v4_word())?;
    packet.store(start + field::V4_DESTINATION, ends.far.v4_word())
}
