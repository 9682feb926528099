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

/// What follows the IP header.
#[derive(Clone, Copy)]
enum Kind {
    Tcp,
    Udp,
    /// Whether it is the reply.
    Echo(bool),
}

fn echo_type(v4: bool, reply: bool) -> u8 {
    match (v4, reply) {
        (true, false) => 8,
        (true, true) => 0,
        (false, false) => 128,
        (false, true) => 129,
    }
}

/// Bytes of a frame that is described in words.
///
/// After `sender > receiver` come flags and `seq=`, `ack=`, `len=` (payload), `tcpopt=` (bytes of TCP options),
/// `ipopt=` (words of IPv4 options), and `frag`, `vlan`, `short`, `padded`, and
/// `udp`, `echo`, `echo-reply` for what is no TCP.
pub fn build(words: &str, names: &Names) -> Vec<u8> {
    let mut parts = words.split_whitespace();
    let from = names[parts.next().unwrap()];
    assert_eq!(parts.next(), Some(">"), "{words}");
    let to = names[parts.next().unwrap()];

    let (mut flags, mut sequence, mut acknowledged, mut payload) = (0, 0_u32, 0_u32, 0);
    let (mut tcp_options, mut ip_options) = (0, 0);
    let (mut fragment, mut vlan, mut short, mut padded) = (false, false, false, false);
    let mut kind = Kind::Tcp;
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
            None if part == "udp" => kind = Kind::Udp,
            None if part == "echo" => kind = Kind::Echo(false),
            None if part == "echo-reply" => kind = Kind::Echo(true),
            _ => panic!("{part:?} in {words:?}"),
        }
    }

    let protocol = match kind {
        Kind::Tcp => 6,
        Kind::Udp => 17,
        Kind::Echo(_) if from.is_ipv4() => 1,
        Kind::Echo(_) => 58,
    };
    let mut body = Vec::new();
    let checksum_at = match kind {
        Kind::Tcp => {
            body.extend(from.port().to_be_bytes());
            body.extend(to.port().to_be_bytes());
            body.extend(sequence.to_be_bytes());
            body.extend(acknowledged.to_be_bytes());
            body.extend([(u8::try_from(20 + tcp_options).unwrap() / 4) << 4, flags]);
            body.extend([0x20, 0x00, 0, 0, 0, 0]);
            body.extend(std::iter::repeat_n(1, tcp_options));
            16
        }
        Kind::Udp => {
            body.extend(from.port().to_be_bytes());
            body.extend(to.port().to_be_bytes());
            body.extend((8 + payload as u16).to_be_bytes());
            body.extend([0, 0]);
            6
        }
        Kind::Echo(reply) => {
            body.extend([echo_type(from.is_ipv4(), reply), 0, 0, 0, 0, 77]);
            body.extend((sequence as u16).to_be_bytes());
            2
        }
    };
    body.extend((0..payload).map(|at: usize| at as u8));
    let sum = body_checksum(&body, from, to, protocol);
    body[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());

    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    if vlan {
        frame.extend([0x81, 0x00, 0x00, 0x05]);
    }
    match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            frame.extend([0x08, 0x00]);
            let mut ip = vec![0x45 + ip_options as u8, 0];
            ip.extend(((20 + ip_options * 4 + body.len()) as u16).to_be_bytes());
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
            frame.extend((body.len() as u16).to_be_bytes());
            frame.extend([if fragment { 44 } else { protocol }, 61]);
            frame.extend(from.ip().octets());
            frame.extend(to.ip().octets());
        }
        _ => panic!("two families in {words:?}"),
    }
    frame.extend(body);
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
    let body = &ip[header..length];
    let protocol = if v4 { ip[9] } else { ip[6] };
    let address = |at: usize, port| -> SocketAddr {
        if v4 {
            let octets: [u8; 4] = ip[12 + at * 4..][..4].try_into().unwrap();
            SocketAddr::new(octets.into(), port)
        } else {
            let octets: [u8; 16] = ip[8 + at * 16..][..16].try_into().unwrap();
            SocketAddr::new(octets.into(), port)
        }
    };
    let mut words = match protocol {
        6 => {
            describe_tcp(body, |at| address(at, u16::from_be_bytes([body[at * 2], body[at * 2 + 1]])), names)
        }
        1 | 58 => describe_icmp(body, v4, |at| address(at, 0), names),
        other => format!("protocol {other}"),
    };
    if v4 && header > 20 {
        write!(words, " ipopt={}", (header - 20) / 4).unwrap();
    }
    if v4 && checksum(&[&ip[..header]]) != 0 {
        words.push_str(" BAD-IP-CHECKSUM");
    }
    // A body with its checksum in place sums up to nothing.
    if body_checksum(body, address(0, 0), address(1, 0), protocol) != 0 {
        words.push_str(" BAD-CHECKSUM");
    }
    words
}

/// The name of a socket; one without a port has the name of the first socket with its address.
fn name(address: SocketAddr, names: &Names) -> String {
    let fits = |known: &SocketAddr| match address.port() {
        0 => known.ip() == address.ip(),
        _ => *known == address,
    };
    let mut fitting: Vec<_> = names.iter().filter(|(_, known)| fits(known)).map(|(name, _)| *name).collect();
    fitting.sort_unstable();
    fitting.first().map_or(address.to_string(), |name| (*name).into())
}

fn describe_tcp(tcp: &[u8], end: impl Fn(usize) -> SocketAddr, names: &Names) -> String {
    let number = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
    let mut words = format!("{} > {}", name(end(0), names), name(end(1), names));
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
    for (what, count) in [("len", tcp.len() - offset), ("tcpopt", offset - 20)] {
        if count != 0 {
            write!(words, " {what}={count}").unwrap();
        }
    }
    words
}

fn describe_icmp(icmp: &[u8], v4: bool, end: impl Fn(usize) -> SocketAddr, names: &Names) -> String {
    let ends = format!("{} > {}", name(end(0), names), name(end(1), names));
    let kind = [icmp[0], icmp[1]];
    if kind == [echo_type(v4, true), 0] {
        let sequence = u16::from_be_bytes([icmp[6], icmp[7]]);
        return format!("{ends} echo-reply seq={sequence} len={}", icmp.len() - 8);
    }
    if kind == if v4 { [3, 3] } else { [1, 4] } {
        let quote = &icmp[8..];
        let (addresses, ports) =
            if v4 { (&quote[12..20], &quote[20..24]) } else { (&quote[8..40], &quote[40..44]) };
        let socket = |at: usize| -> SocketAddr {
            let port = u16::from_be_bytes([ports[at * 2], ports[at * 2 + 1]]);
            if v4 {
                let octets: [u8; 4] = addresses[at * 4..][..4].try_into().unwrap();
                SocketAddr::new(octets.into(), port)
            } else {
                let octets: [u8; 16] = addresses[at * 16..][..16].try_into().unwrap();
                SocketAddr::new(octets.into(), port)
            }
        };
        let protocol = if quote[if v4 { 9 } else { 6 }] == 17 { "udp" } else { "another protocol" };
        let quoted = format!("{} > {} {protocol}", name(socket(0), names), name(socket(1), names));
        return format!("{ends} port-unreachable quoting {quoted}");
    }
    format!("{ends} icmp {kind:?}")
}

/// RFC 9293 section 3.1, RFC 768, RFC 4443 section 2.3; ICMP for IPv4 has no pseudo-header (RFC 792).
fn body_checksum(body: &[u8], from: SocketAddr, to: SocketAddr, protocol: u8) -> u16 {
    let octets = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => v4.ip().octets().to_vec(),
        SocketAddr::V6(v6) => v6.ip().octets().to_vec(),
    };
    if protocol == 1 {
        return checksum(&[body]);
    }
    let length = (body.len() as u32).to_be_bytes();
    checksum(&[&octets(from), &octets(to), &[0, 0, 0, protocol], &length, body])
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
