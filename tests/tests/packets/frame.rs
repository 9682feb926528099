//! Frames in words: `client > vip SYN seq=100` becomes bytes, and bytes become words, with every checksum worked out
//! from scratch.

use std::{collections::HashMap, fmt::Write as _, net::SocketAddr};

/// Who is who in the words of a table; `port` is the translated source, known once a flow is open.
pub type Names = HashMap<&'static str, SocketAddr>;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const FLAGS: [(&str, u8); 5] = [("FIN", FIN), ("SYN", SYN), ("RST", RST), ("PSH", PSH), ("ACK", ACK)];

/// Bytes of a frame that is described in words.
///
/// After `sender > receiver` come flags and `seq=`, `ack=`, `len=` (payload), `tcpopt=` (bytes of TCP options),
/// `ipopt=` (words of IPv4 options), and `frag`, `vlan`, `udp`, `short`, `padded`.
pub fn build(words: &str, names: &Names) -> Vec<u8> {
    let mut parts = words.split_whitespace();
    let from = names[parts.next().unwrap()];
    assert_eq!(parts.next(), Some(">"), "{words}");
    let to = names[parts.next().unwrap()];

    let (mut flags, mut sequence, mut acknowledged, mut payload) = (0, 0_u32, 0_u32, 0);
    let (mut tcp_options, mut ip_options) = (0, 0);
    let (mut fragment, mut vlan, mut short, mut padded, mut protocol) = (false, false, false, false, 6_u8);
    for part in parts {
        if let Some((_, bit)) = FLAGS.iter().find(|(name, _)| *name == part) {
            flags |= bit;
            continue;
        }
        match part.split_once('=') {
            Some(("seq", number)) => sequence = number.parse().unwrap(),
            Some(("ack", number)) => acknowledged = number.parse().unwrap(),
            Some(("len", number)) => payload = number.parse().unwrap(),
            Some(("tcpopt", number)) => tcp_options = number.parse().unwrap(),
            Some(("ipopt", number)) => ip_options = number.parse().unwrap(),
            None if part == "frag" => fragment = true,
            None if part == "vlan" => vlan = true,
            None if part == "short" => short = true,
            None if part == "padded" => padded = true,
            None if part == "udp" => protocol = 17,
            _ => panic!("{part:?} in {words:?}"),
        }
    }

    let mut tcp = Vec::new();
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(sequence.to_be_bytes());
    tcp.extend(acknowledged.to_be_bytes());
    tcp.extend([(u8::try_from(20 + tcp_options).unwrap() / 4) << 4, flags]);
    tcp.extend([0x20, 0x00, 0, 0, 0, 0]);
    tcp.extend(std::iter::repeat_n(1, tcp_options));
    tcp.extend((0..payload).map(|at: usize| at as u8));
    let sum = tcp_checksum(&tcp, from, to, protocol);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());

    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    if vlan {
        frame.extend([0x81, 0x00, 0x00, 0x05]);
    }
    match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            frame.extend([0x08, 0x00]);
            let mut ip = vec![0x45 + ip_options as u8, 0];
            ip.extend(((20 + ip_options * 4 + tcp.len()) as u16).to_be_bytes());
            ip.extend([0x12, 0x34, if fragment { 0x20 } else { 0x40 }, 0, 61, protocol, 0, 0]);
            ip.extend(from.ip().octets());
            ip.extend(to.ip().octets());
            // Router alert, which real hosts send, and padding.
            ip.extend([148, 4, 0, 0].repeat(ip_options));
            let sum = checksum(&[&ip]);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(ip);
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((tcp.len() as u16).to_be_bytes());
            frame.extend([if fragment { 44 } else { protocol }, 61]);
            frame.extend(from.ip().octets());
            frame.extend(to.ip().octets());
        }
        _ => panic!("two families in {words:?}"),
    }
    frame.extend(tcp);
    if short {
        frame.truncate(frame.len() - 8);
    }
    if padded {
        frame.extend([0xee; 18]);
    }
    frame
}

/// Whether a frame holds TCP right after its IP header's fixed part.
pub fn is_tcp(frame: &[u8]) -> bool {
    match frame[12..14] {
        [0x08, 0x00] => frame[14 + 9] == 6,
        [0x86, 0xdd] => frame[14 + 6] == 6,
        _ => false,
    }
}

/// The words of a frame. A checksum that is wrong is said so.
pub fn describe(frame: &[u8], names: &Names) -> String {
    let v4 = match frame[12..14] {
        [0x08, 0x00] => true,
        [0x86, 0xdd] => false,
        _ => return "no IP".into(),
    };
    let ip = &frame[14..];
    let (header, length) = if v4 {
        (usize::from(ip[0] & 0xf) * 4, usize::from(u16::from_be_bytes([ip[2], ip[3]])))
    } else {
        (40, 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]])))
    };
    if length > ip.len() {
        return format!("{length} bytes announced, {} there", ip.len());
    }
    let tcp = &ip[header..length];
    let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    let number = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
    let address = |at: usize, port| -> SocketAddr {
        if v4 {
            let octets: [u8; 4] = ip[12 + at * 4..][..4].try_into().unwrap();
            SocketAddr::new(octets.into(), port)
        } else {
            let octets: [u8; 16] = ip[8 + at * 16..][..16].try_into().unwrap();
            SocketAddr::new(octets.into(), port)
        }
    };
    let (from, to) = (address(0, port(0)), address(1, port(2)));
    let name = |address: SocketAddr| {
        names
            .iter()
            .find(|(_, known)| **known == address)
            .map_or(address.to_string(), |(name, _)| (*name).into())
    };

    let mut words = format!("{} > {}", name(from), name(to));
    for (flag, bit) in FLAGS {
        if tcp[13] & bit != 0 {
            write!(words, " {flag}").unwrap();
        }
    }
    write!(words, " seq={}", number(4)).unwrap();
    if tcp[13] & ACK != 0 {
        write!(words, " ack={}", number(8)).unwrap();
    }
    let offset = usize::from(tcp[12] >> 4) * 4;
    for (what, count) in [
        ("len", tcp.len() - offset),
        ("tcpopt", offset - 20),
        ("ipopt", (header - if v4 { 20 } else { 40 }) / 4),
    ] {
        if count != 0 {
            write!(words, " {what}={count}").unwrap();
        }
    }
    if v4 && checksum(&[&ip[..header]]) != 0 {
        words.push_str(" BAD-IP-CHECKSUM");
    }
    let mut without = tcp.to_vec();
    without[16..18].fill(0);
    if port(16) != tcp_checksum(&without, from, to, 6) {
        words.push_str(" BAD-TCP-CHECKSUM");
    }
    words
}

/// RFC 9293 section 3.1; the checksum field of `tcp` is 0.
fn tcp_checksum(tcp: &[u8], from: SocketAddr, to: SocketAddr, protocol: u8) -> u16 {
    let octets = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => v4.ip().octets().to_vec(),
        SocketAddr::V6(v6) => v6.ip().octets().to_vec(),
    };
    let length = (tcp.len() as u32).to_be_bytes();
    checksum(&[&octets(from), &octets(to), &[0, 0, 0, protocol], &length, tcp])
}

/// RFC 1071, a byte pair at a time.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
