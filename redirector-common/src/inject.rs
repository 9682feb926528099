//! How the agent asks the programs to reset a flow whose next packet it does not wait for.
//!
//! The agent sends a segment of the flow's client out of the VIP device, where the programs take it like any other. Its
//! control bits are SYN and RST at once: no host sends that, it has no meaning in RFC 9293, and netfilter takes it for
//! invalid. Sequence and acknowledgement number are the two halves of [`Flow::incarnation`], which names one entry: the
//! flow that took its place meanwhile is not touched. Half of that is a random number that nobody but this host knows, as
//! with the sequence numbers of a reset: who can send such a segment and does not know it resets nothing.
//!
//! [`Flow::incarnation`]: crate::flow::Flow::incarnation

use crate::{
    addr::Tuple,
    build,
    packet::{ETHERNET, Flags, IPV4, IPV6, PROTOCOL_TCP, Segment, TCP},
    reset,
};

const ASKS: u8 = Flags::SYN | Flags::RST;

/// The incarnation of the flow that a segment asks to be reset; `None`: it is an ordinary segment.
#[inline(always)]
#[must_use]
pub const fn asked_for(segment: &Segment) -> Option<u64> {
    if segment.flags.0 & (ASKS | Flags::ACK | Flags::FIN) == ASKS {
        Some((segment.acknowledged as u64) << 32 | segment.sequence as u64)
    } else {
        None
    }
}

/// Bytes that a request takes at most.
pub const LONGEST: usize = ETHERNET + IPV6 + TCP;

/// The frame that asks for the flow with this client side and incarnation to be reset, and how many bytes it has.
#[must_use]
pub fn request(client_side: &Tuple, incarnation: u64) -> ([u8; LONGEST], usize) {
    let mut frame = [0; LONGEST];
    let mut at = ETHERNET;
    let mut put = |words: &[u32]| {
        for word in words {
            frame[at..at + 4].copy_from_slice(&word.to_ne_bytes());
            at += 4;
        }
    };
    let v4 = client_side.near.is_v4();
    if v4 {
        put(&build::ipv4_header(client_side, 0, PROTOCOL_TCP, reset::LENGTH)[..IPV4 / 4]);
    } else {
        put(&build::ipv6_header(client_side, PROTOCOL_TCP, reset::LENGTH));
    }
    let numbers = reset::Numbers { sequence: incarnation as u32, acknowledged: None };
    let mut segment = reset::header(client_side, numbers);
    segment[2] = ((incarnation >> 32) as u32).to_be();
    segment[3] |= u32::from_ne_bytes([0, Flags::SYN, 0, 0]);
    put(&segment);
    // The addresses of the link layer are nobody's: the frame goes no further than to the program.
    frame[12..ETHERNET].copy_from_slice(&if v4 { [0x08, 0x00] } else { [0x86, 0xdd] });
    (frame, at)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    const INCARNATION: u64 = 0x0123_4567_89ab_cdef;

    #[test]
    fn a_request_carries_the_tuple_and_the_incarnation() {
        let ends: [(SocketAddr, SocketAddr, usize); 2] = [
            (([10, 1, 0, 2], 40_000).into(), ([10, 255, 0, 1], 6379).into(), IPV4),
            (
                ([0xfd01, 0, 0, 0, 0, 0, 0, 2], 40_000).into(),
                ([0xfd00, 0, 0, 0, 0, 0, 0, 1], 6379).into(),
                IPV6,
            ),
        ];
        for (near, far, header) in ends {
            let (frame, length) = request(&Tuple::between(near, far), INCARNATION);
            assert_eq!(length, ETHERNET + header + TCP);
            let tcp = &frame[ETHERNET + header..length];
            assert_eq!(tcp[..4], [0x9c, 0x40, 0x18, 0xeb], "40000 to 6379");
            assert_eq!(tcp[4..12], [0x89, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67]);
            assert_eq!(tcp[12..14], [0x50, Flags::SYN | Flags::RST]);
        }
    }

    #[test]
    fn nothing_that_a_host_sends_is_a_request() {
        let segment = |flags| Segment {
            ends: Tuple::default(),
            sequence: INCARNATION as u32,
            acknowledged: (INCARNATION >> 32) as u32,
            reach: 0,
            flags: Flags(flags),
            v6: false,
            tcp_offset: 34,
            length: 0,
            fragment: 0,
            id: 0,
        };
        assert_eq!(asked_for(&segment(ASKS)), Some(INCARNATION));
        assert!(Flags(ASKS).is_reset() && !Flags(ASKS).is_open(), "it goes the way of rare segments");
        let (syn, rst, ack, fin) = (Flags::SYN, Flags::RST, Flags::ACK, Flags::FIN);
        for flags in [syn, rst, ack, syn | ack, rst | ack, fin | ack, ASKS | ack, ASKS | fin] {
            assert_eq!(asked_for(&segment(flags)), None, "{flags:#x}");
        }
    }
}
