//! How the agent asks the programs to reset flows whose next packet it does not wait for.
//!
//! The agent sends a segment of a flow's client out of the VIP device, where the programs take it like any other. Its
//! control bits are SYN and RST at once: no host sends that, it has no meaning in RFC 9293, and netfilter takes it for
//! invalid. Its data is a list of [`Target`]s for an [`Order`]: many flows in one packet, because a switch makes a hundred
//! thousand of them wait.
//!
//! [`Flow::incarnation`] names one entry: the flow that took its place meanwhile is not touched. Half of that is a random
//! number that nobody but this host knows, as with the sequence numbers of a reset: who can send such a segment and does not
//! know it resets nothing.
//!
//! [`Flow::incarnation`]: crate::flow::Flow::incarnation

use crate::{
    addr::Tuple,
    build,
    packet::{ETHERNET, Flags, IPV4, IPV6, PROTOCOL_TCP, Segment, TCP},
    reset,
};

const ASKS: u8 = Flags::SYN | Flags::RST;

/// What is to be done with the flows of a list.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Reset their clients. No further control bit stands for it.
    ResetClients = 0,
    /// Reset their members, and remove each whose client is known to have no socket any more: PSH.
    ResetMembers = 1,
    /// Remove them, both halves: URG.
    Forget = 2,
}

impl Order {
    const fn of(flags: u8) -> Self {
        match flags & (Flags::PSH | Flags::URG) {
            0 => Self::ResetClients,
            Flags::PSH => Self::ResetMembers,
            _ => Self::Forget,
        }
    }

    const fn flags(self) -> u8 {
        match self {
            Self::ResetClients => 0,
            Self::ResetMembers => Flags::PSH,
            Self::Forget => Flags::URG,
        }
    }
}

/// What a segment asks for; `None`: it is an ordinary one.
#[inline(always)]
#[must_use]
pub const fn asked_for(segment: &Segment) -> Option<Order> {
    if segment.flags.0 & (ASKS | Flags::ACK | Flags::FIN) == ASKS && segment.data() > 0 {
        Some(Order::of(segment.flags.0))
    } else {
        None
    }
}

/// One flow of a list.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Its key.
    pub client_side: Tuple,
    /// Its incarnation, the low half first.
    pub incarnation: [u32; 2],
    /// Where its client's socket is, if it is there.
    pub home: Home,
}

impl Target {
    /// A flow by what names exactly one.
    #[must_use]
    pub const fn new(client_side: Tuple, incarnation: u64, home: Home) -> Self {
        Self { client_side, incarnation: [incarnation as u32, (incarnation >> 32) as u32], home }
    }

    /// As the flow table has it.
    #[inline(always)]
    #[must_use]
    pub const fn incarnation(&self) -> u64 {
        let [low, high] = self.incarnation;
        (high as u64) << 32 | low as u64
    }
}

/// The network namespace that a client's socket is in, as `bpf_skc_lookup_tcp` wants it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home(i32);

impl Home {
    /// The agent's own.
    pub const HERE: Self = Self(-1);
    /// On another machine, or behind a translation: who asks for its socket learns nothing.
    pub const UNKNOWN: Self = Self(i32::MIN);

    /// The one that the agent's has this number for (`RTM_GETNSID`); it is not negative.
    #[must_use]
    pub const fn beside(number: i32) -> Self {
        Self(number)
    }

    /// For the kernel; `None`: unknown.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> Option<i32> {
        if self.0 == Self::UNKNOWN.0 { None } else { Some(self.0) }
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::UNKNOWN
    }
}

/// Flows of one list at most. A program handles one and hands the packet on to itself for the next, which the kernel allows
/// 33 times (`MAX_TAIL_CALL_CNT`), the way there included.
pub const MOST: usize = 28;

/// Bytes of headers at most.
const HEADERS: usize = ETHERNET + IPV6 + TCP;
/// Bytes of one flow in a list.
pub const TARGET: usize = size_of::<Target>();

/// A frame and its length.
pub type Frame = ([u8; HEADERS + MOST * TARGET], usize);

/// The frame that gives an order for these flows: at least one, and at most [`MOST`], all with the first one's version of IP.
#[must_use]
pub fn for_all(flows: &[Target], order: Order) -> Frame {
    debug_assert!(!flows.is_empty() && flows.len() <= MOST);
    let ends = &flows[0].client_side;
    let v4 = ends.near.is_v4();
    let mut tcp = reset::header(ends, reset::Numbers { sequence: 0, acknowledged: None });
    tcp[3] |= u32::from_ne_bytes([0, Flags::SYN | order.flags(), 0, 0]);
    let length = reset::LENGTH + (flows.len() * TARGET) as u16;
    let mut frame = [0; HEADERS + MOST * TARGET];
    // The addresses of the link layer are nobody's: the frame goes no further than to the program.
    frame[12..ETHERNET].copy_from_slice(&if v4 { [0x08, 0x00] } else { [0x86, 0xdd] });
    let mut at = ETHERNET;
    let mut put = |words: &[u32]| {
        for word in words {
            frame[at..at + 4].copy_from_slice(&word.to_ne_bytes());
            at += 4;
        }
    };
    if v4 {
        put(&build::ipv4_header(ends, 0, PROTOCOL_TCP, length)[..IPV4 / 4]);
    } else {
        put(&build::ipv6_header(ends, PROTOCOL_TCP, length));
    }
    put(&tcp);
    for Target { client_side: Tuple { near, far, near_port, far_port }, incarnation, home } in flows {
        let [[a, b], [c, d]] = [near_port, far_port].map(|port| port.wire().to_ne_bytes());
        put(&near.0);
        put(&far.0);
        put(&[u32::from_ne_bytes([a, b, c, d]), incarnation[0], incarnation[1], home.0.cast_unsigned()]);
    }
    (frame, at)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    const INCARNATION: u64 = 0x0123_4567_89ab_cdef;

    /// One of each version, with the length of its IP header.
    fn targets() -> [(Target, usize); 2] {
        let ends: [(SocketAddr, SocketAddr, usize); 2] = [
            (([10, 1, 0, 2], 40_000).into(), ([10, 255, 0, 1], 6379).into(), IPV4),
            (
                ([0xfd01, 0, 0, 0, 0, 0, 0, 2], 40_000).into(),
                ([0xfd00, 0, 0, 0, 0, 0, 0, 1], 6379).into(),
                IPV6,
            ),
        ];
        ends.map(|(near, far, header)| {
            (Target::new(Tuple::between(near, far), INCARNATION, Home::beside(5)), header)
        })
    }

    #[test]
    fn a_list_carries_them_as_the_programs_have_them_in_memory() {
        for (target, header) in targets() {
            for count in [1, 2, MOST] {
                let (frame, length) = for_all(&[target; MOST][..count], Order::ResetClients);
                let data = &frame[ETHERNET + header + TCP..length];
                assert_eq!(data.len(), count * TARGET);
                for target in data.chunks(TARGET) {
                    assert_eq!(target[32..36], [0x9c, 0x40, 0x18, 0xeb], "the ports, as a packet has them");
                    assert_eq!(target[36..44], INCARNATION.to_ne_bytes());
                    assert_eq!(target[44..], 5_i32.to_ne_bytes());
                }
                let total = u16::from_be_bytes(if target.client_side.near.is_v4() {
                    [frame[ETHERNET + 2], frame[ETHERNET + 3]]
                } else {
                    [frame[ETHERNET + 4], frame[ETHERNET + 5]]
                });
                let headers = if target.client_side.near.is_v4() { IPV4 + TCP } else { TCP };
                assert_eq!(usize::from(total), headers + count * TARGET);
            }
        }
    }

    #[test]
    fn nothing_that_a_host_sends_is_a_request() {
        let segment = |flags, data| Segment {
            ends: Tuple::default(),
            sequence: INCARNATION as u32,
            acknowledged: (INCARNATION >> 32) as u32,
            reach: data + u32::from(flags & Flags::SYN != 0) + u32::from(flags & Flags::FIN != 0),
            flags: Flags(flags),
            v6: false,
            tcp_offset: 34,
            length: 0,
            fragment: 0,
            id: 0,
        };
        for order in [Order::ResetClients, Order::ResetMembers, Order::Forget] {
            assert_eq!(asked_for(&segment(ASKS | order.flags(), TARGET as u32)), Some(order));
        }
        assert_eq!(asked_for(&segment(ASKS, 0)), None, "a list of nothing");
        assert!(Flags(ASKS).is_reset() && !Flags(ASKS).is_open(), "it goes the way of rare segments");
        let (syn, rst, ack, fin) = (Flags::SYN, Flags::RST, Flags::ACK, Flags::FIN);
        for flags in [syn, rst, ack, syn | ack, rst | ack, fin | ack, ASKS | ack, ASKS | fin] {
            assert_eq!(asked_for(&segment(flags, 44)), None, "{flags:#x}");
        }
    }
}
