//! One's complement sums (RFC 1071) and their incremental update (RFC 1624).
//!
//! Words are taken as they stand in memory: the sum does not depend on byte order as long as what goes in and
//! what comes out have the same one (RFC 1071 section 2).

use crate::addr::{Addr, Port, Tuple};

/// A one's complement sum that is still open: 32 bits with end-around carry.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(pub u32);

impl Sum {
    /// Adds a word.
    #[inline(always)]
    #[must_use]
    pub const fn add(self, word: u32) -> Self {
        let (sum, carry) = self.0.overflowing_add(word);
        Self(sum + carry as u32)
    }

    /// Adds an address. The mapped prefix of an IPv4 address counts: use it only where it cancels out, or
    /// [`Sum::pseudo_header`].
    #[inline(always)]
    #[must_use]
    const fn add_addr(self, addr: &Addr) -> Self {
        self.add(addr.0[0]).add(addr.0[1]).add(addr.0[2]).add(addr.0[3])
    }

    /// Adds many words.
    #[inline(always)]
    #[must_use]
    pub const fn add_all<const N: usize>(mut self, words: &[u32; N]) -> Self {
        let mut at = 0;
        while at < N {
            self = self.add(words[at]);
            at += 1;
        }
        self
    }

    /// What takes this sum away again.
    #[inline(always)]
    #[must_use]
    pub const fn negated(self) -> Self {
        Self(!self.0)
    }

    /// Folded to 16 bits, not complemented: what a `CHECKSUM_PARTIAL` packet holds.
    #[inline(always)]
    #[must_use]
    pub const fn folded(self) -> u16 {
        let once = (self.0 & 0xffff) + (self.0 >> 16);
        ((once & 0xffff) + (once >> 16)) as u16
    }

    /// Folded and complemented: what a checksum field holds.
    #[inline(always)]
    #[must_use]
    pub const fn finished(self) -> u16 {
        !self.folded()
    }

    /// A pseudo-header: both addresses, the protocol and the length of header and payload in bytes (RFC 9293
    /// section 3.1; RFC 8200 section 8.1).
    #[inline(always)]
    #[must_use]
    pub const fn pseudo_header(tuple: &Tuple, v6: bool, protocol: u8, length: u16) -> Self {
        let addresses = if v6 {
            Self(0).add_addr(&tuple.near).add_addr(&tuple.far)
        } else {
            Self(tuple.near.v4_word()).add(tuple.far.v4_word())
        };
        addresses.add((protocol as u16).to_be() as u32).add(length.to_be() as u32)
    }

    /// A checksum field after the summed data changed by this difference (RFC 1624, equation 3).
    #[inline(always)]
    #[must_use]
    pub const fn applied_to(self, field: u16) -> u16 {
        self.add(!field as u32).finished()
    }
}

/// How the sums change when a segment is translated. Constant over the life of a flow, so it is worked out once.
///
/// The two parts are kept apart because a packet whose checksum the device is still to finish
/// (`CHECKSUM_PARTIAL`) carries the sum of the pseudo-header only: addresses touch it, ports do not.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Addresses: IPv4 header checksum, and the pseudo-header of TCP.
    pub addresses: Sum,
    /// Ports: TCP checksum.
    pub ports: Sum,
}

impl Delta {
    /// From one pair of ends to another one of the same family.
    #[inline(always)]
    #[must_use]
    pub const fn between(old: &Tuple, new: &Tuple) -> Self {
        let without = Sum(0).add_addr(&old.near).add_addr(&old.far).negated();
        Self {
            addresses: without.add_addr(&new.near).add_addr(&new.far),
            ports: Sum(!(ports(old.near_port, old.far_port))).add(ports(new.near_port, new.far_port)),
        }
    }

    /// The way back.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { addresses: self.addresses.negated(), ports: self.ports.negated() }
    }
}

#[inline(always)]
const fn ports(a: Port, b: Port) -> u32 {
    a.wire() as u32 + b.wire() as u32
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    fn from_scratch(bytes: &[u8]) -> u16 {
        let mut sum = 0u64;
        for pair in bytes.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    fn wire(tuple: &Tuple) -> Vec<u8> {
        let mut bytes = Vec::new();
        for addr in [tuple.near, tuple.far] {
            let words = if addr.is_v4() { &addr.0[3..] } else { &addr.0[..] };
            words.iter().for_each(|w| bytes.extend(w.to_ne_bytes()));
        }
        for port in [tuple.near_port, tuple.far_port] {
            bytes.extend(port.wire().to_ne_bytes());
        }
        bytes
    }

    fn tuples(v6: bool) -> impl Strategy<Value = Tuple> {
        (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<u16>(), any::<u16>()).prop_map(move |(a, b, p, q)| {
            let ip = |x: [u8; 16]| -> std::net::IpAddr {
                if v6 { x.into() } else { [x[0], x[1], x[2], x[3]].into() }
            };
            Tuple::between(SocketAddr::new(ip(a), p), SocketAddr::new(ip(b), q))
        })
    }

    proptest! {
        #[test]
        fn a_delta_gives_what_a_sum_from_scratch_gives(
            (old, new) in prop_oneof![(tuples(false), tuples(false)), (tuples(true), tuples(true))],
        ) {
            let field = from_scratch(&wire(&old));
            let delta = Delta::between(&old, &new);
            let there = delta.ports.applied_to(delta.addresses.applied_to(field.to_be()));
            // 0 and 0xffff are the same number in one's complement.
            prop_assert_eq!(u16::from_be(there) % 0xffff, from_scratch(&wire(&new)) % 0xffff);
            let back = delta.reversed();
            let home = back.ports.applied_to(back.addresses.applied_to(there));
            prop_assert_eq!(u16::from_be(home) % 0xffff, field % 0xffff);
        }
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let words = [[0x00, 0x01, 0xf2, 0x03], [0xf4, 0xf5, 0xf6, 0xf7]];
        let sum = words.iter().fold(Sum(0), |sum, word| sum.add(u32::from_ne_bytes(*word)));
        assert_eq!(u16::from_be(sum.folded()), 0xddf2);
    }
}
