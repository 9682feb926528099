//! Addresses, ports and tuples as maps hold them: one form for IPv4 and IPv6, in network byte order.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An address in 16 bytes; IPv4 is mapped (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2).
///
/// Held as four words in network byte order, because that is how packets are read and sums are built.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Addr(pub [u32; 4]);

impl Addr {
    /// The word before an IPv4 address: `0000:ffff` in network byte order.
    const MAPPED: u32 = 0xffff_u32.to_be();

    /// An IPv4 address, given as the word that a packet holds.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4_word(word: u32) -> Self {
        Self([0, 0, Self::MAPPED, word])
    }

    /// Whether this is a mapped IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == Self::MAPPED
    }

    /// Whether one of two is a mapped IPv4 address. With a single branch, for both ways of each are followed by the verifier through
    /// all that comes after.
    #[inline(always)]
    #[must_use]
    pub const fn is_any_v4([one, other]: &[Self; 2]) -> bool {
        one.differs_from_v4() as u64 * other.differs_from_v4() as u64 == 0
    }

    /// 0: it is a mapped IPv4 address.
    #[inline(always)]
    const fn differs_from_v4(&self) -> u32 {
        self.0[0] | self.0[1] | (self.0[2] ^ Self::MAPPED)
    }

    /// Whether it is `::1`.
    #[inline(always)]
    #[must_use]
    pub const fn is_v6_loopback(&self) -> bool {
        (self.0[0] | self.0[1] | self.0[2]) == 0 && self.0[3] == 1_u32.to_be()
    }

    /// The IPv4 address as the word that a packet holds; meaningless for IPv6.
    #[inline(always)]
    #[must_use]
    pub const fn v4_word(&self) -> u32 {
        self.0[3]
    }

    /// Whether nothing was filled in.
    #[inline(always)]
    #[must_use]
    pub const fn is_unset(&self) -> bool {
        (self.0[0] | self.0[1] | self.0[2] | self.0[3]) == 0
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        let octets = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(octets.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Self(words)
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        if addr.is_v4() {
            return Self::V4(Ipv4Addr::from(u32::from_be(addr.v4_word())));
        }
        let mut octets = [0; 16];
        for (bytes, word) in octets.chunks_exact_mut(4).zip(addr.0) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        Self::V6(Ipv6Addr::from(octets))
    }
}

/// A port in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Port(u16);

impl Port {
    /// From the two bytes that a packet holds, read as they stand.
    #[inline(always)]
    #[must_use]
    pub const fn from_wire(raw: u16) -> Self {
        Self(raw)
    }

    /// As [`Port::from_wire`] took it.
    #[inline(always)]
    #[must_use]
    pub const fn wire(self) -> u16 {
        self.0
    }

    /// From a number.
    #[inline(always)]
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Self(number.to_be())
    }

    /// As a number.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// Both ends of a TCP connection, seen from this host.
///
/// The client side of a flow has the client as `near` and the VIP as `far`; the member side has the translated
/// source as `near` and the member's address as `far`. A segment from near to far travels towards the member.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Address of the end that opened the connection.
    pub near: Addr,
    /// Address of the end that accepted it.
    pub far: Addr,
    /// Port of the end that opened the connection.
    pub near_port: Port,
    /// Port of the end that accepted it.
    pub far_port: Port,
}

impl Tuple {
    /// The same connection seen from the other end.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self { near: self.far, far: self.near, near_port: self.far_port, far_port: self.near_port }
    }

    /// A mix of all words, to tell tuples apart that are not the same by chance.
    #[inline(always)]
    #[must_use]
    pub const fn fingerprint(&self) -> u32 {
        let [a, b, c, d] = self.near.0;
        let [e, f, g, h] = self.far.0;
        let ports = (self.near_port.wire() as u32) << 16 | self.far_port.wire() as u32;
        let near = (a ^ b.rotate_left(7) ^ c.rotate_left(13)) ^ d.rotate_left(19);
        let far = (e ^ f.rotate_left(7) ^ g.rotate_left(13)) ^ h.rotate_left(19);
        (near ^ far.rotate_left(11) ^ ports).wrapping_mul(0x9e37_79b1)
    }

    /// The near end.
    #[must_use]
    pub fn near_socket(&self) -> SocketAddr {
        SocketAddr::new(self.near.into(), self.near_port.number())
    }

    /// The far end.
    #[must_use]
    pub fn far_socket(&self) -> SocketAddr {
        SocketAddr::new(self.far.into(), self.far_port.number())
    }

    /// From two sockets.
    #[must_use]
    pub fn between(near: SocketAddr, far: SocketAddr) -> Self {
        Self {
            near: near.ip().into(),
            far: far.ip().into(),
            near_port: Port::new(near.port()),
            far_port: Port::new(far.port()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_into_a_map_and_back() {
        for text in ["10.255.0.1", "fd00:255::1", "::1", "255.255.255.255"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Addr::from(ip)), ip);
            assert_eq!(Addr::from(ip).is_v4(), ip.is_ipv4());
            let v6 = Addr([1, 0, Addr::MAPPED, 1]);
            for pair in [[Addr::from(ip), v6], [v6, Addr::from(ip)]] {
                assert_eq!(Addr::is_any_v4(&pair), ip.is_ipv4());
            }
        }
    }

    #[test]
    fn an_ipv4_address_is_the_word_that_a_packet_holds() {
        let addr = Addr::from(IpAddr::from([10, 255, 0, 1]));
        assert_eq!(addr.v4_word().to_ne_bytes(), [10, 255, 0, 1]);
        assert_eq!(addr, Addr::from_v4_word(u32::from_ne_bytes([10, 255, 0, 1])));
    }
}
