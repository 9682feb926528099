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

/// IPv6 extension headers before TCP, with their numbers: hop-by-hop and destination options, routing, fragment, and
/// authentication, which is no more than passed by.
const EXTENSIONS: [(&str, u8); 5] = [("hop", 0), ("dest", 60), ("route", 43), ("whole", 44), ("auth", 51)];

/// What follows the IP header.
#[derive(Clone, Copy)]
enum Kind {
    Tcp,
    Udp,
    /// Whether it is the reply.
    Echo(bool),
    /// An ICMP error: which, and its second word.
    Error(usize, u32),
}

fn echo_type(v4: bool, reply: bool) -> u8 {
    match (v4, reply) {
        (true, false) => 8,
        (true, true) => 0,
        (false, false) => 128,
        (false, true) => 129,
    }
}

/// ICMP errors: type and code for IPv4, for IPv6.
const ERRORS: [(&str, [u8; 2], [u8; 2]); 5] = [
    ("too-big", [3, 4], [2, 0]),
    ("unreachable", [3, 1], [1, 3]),
    ("port-unreachable", [3, 3], [1, 4]),
    ("expired", [11, 0], [3, 0]),
    ("parameter-problem", [12, 0], [4, 0]),
];

fn error_of(name: &str) -> Option<usize> {
    ERRORS.iter().position(|(known, ..)| *known == name)
}

/// What a frame is to be.
struct Wanted {
    kind: Kind,
    flags: u8,
    sequence: u32,
    acknowledged: u32,
    payload: usize,
    /// The payload, if it is a text.
    text: String,
    tcp_options: usize,
    ip_options: usize,
    extensions: Vec<&'static str>,
    /// Only these bytes of what follows the IP header.
    part: Option<(usize, usize)>,
    /// Segments that the routing header has left.
    left: u8,
    id: u16,
    vlan: bool,
    qinq: bool,
    short: bool,
    padded: bool,
    cut: bool,
}

impl Wanted {
    fn parse(words: &str) -> Self {
        let mut wanted = Self {
            kind: Kind::Tcp,
            flags: 0,
            sequence: 0,
            acknowledged: 0,
            payload: 0,
            text: String::new(),
            tcp_options: 0,
            ip_options: 0,
            extensions: Vec::new(),
            part: None,
            left: 0,
            id: 0x1234,
            vlan: false,
            qinq: false,
            short: false,
            padded: false,
            cut: false,
        };
        for part in words.split_whitespace().skip(3) {
            if let Some((_, bit)) = FLAGS.iter().find(|(name, _)| *name == part) {
                wanted.flags |= bit;
                continue;
            }
            match part.split_once('=') {
                Some(("seq", number)) => wanted.sequence = number.parse().unwrap(),
                Some(("ack", number)) => wanted.acknowledged = number.parse().unwrap(),
                Some(("len", number)) => wanted.payload = number.parse().unwrap(),
                Some(("says", text)) => wanted.text = text.replace('_', " ") + "\r\n",
                Some(("tcpopt", number)) => wanted.tcp_options = number.parse().unwrap(),
                Some(("ipopt", number)) => wanted.ip_options = number.parse().unwrap(),
                Some(("id", number)) => wanted.id = number.parse().unwrap(),
                Some(("left", number)) => wanted.left = number.parse().unwrap(),
                Some(("frag", range)) => {
                    let (from, to) = range.split_once('-').unwrap();
                    wanted.part = Some((from.parse().unwrap(), to.parse().unwrap_or(usize::MAX)));
                }
                Some(("ext", list)) => {
                    let known = |name| EXTENSIONS.iter().find(|(known, _)| *known == name).unwrap().0;
                    wanted.extensions = list.split(',').map(known).collect();
                }
                Some((name, number)) if error_of(name).is_some() => {
                    wanted.kind = Kind::Error(error_of(name).unwrap(), number.parse().unwrap());
                }
                None if error_of(part).is_some() => wanted.kind = Kind::Error(error_of(part).unwrap(), 0),
                None if part == "vlan" => wanted.vlan = true,
                None if part == "qinq" => wanted.qinq = true,
                None if part == "short" => wanted.short = true,
                None if part == "padded" => wanted.padded = true,
                None if part == "cut" => wanted.cut = true,
                None if part == "udp" => wanted.kind = Kind::Udp,
                None if part == "echo" => wanted.kind = Kind::Echo(false),
                None if part == "echo-reply" => wanted.kind = Kind::Echo(true),
                _ => panic!("{part:?} in {words:?}"),
            }
        }
        wanted
    }

    /// What follows the IP header, and its protocol.
    fn body(&self, from: SocketAddr, to: SocketAddr, quoted: Option<&[u8]>) -> (Vec<u8>, u8) {
        let mut body = Vec::new();
        let (protocol, checksum_at) = match self.kind {
            Kind::Tcp => {
                body.extend(from.port().to_be_bytes());
                body.extend(to.port().to_be_bytes());
                body.extend(self.sequence.to_be_bytes());
                body.extend(self.acknowledged.to_be_bytes());
                body.extend([(u8::try_from(20 + self.tcp_options).unwrap() / 4) << 4, self.flags]);
                body.extend([0x20, 0x00, 0, 0, 0, 0]);
                body.extend(std::iter::repeat_n(1, self.tcp_options));
                (6, 16)
            }
            Kind::Udp => {
                body.extend(from.port().to_be_bytes());
                body.extend(to.port().to_be_bytes());
                body.extend((8 + self.payload as u16).to_be_bytes());
                body.extend([0, 0]);
                (17, 6)
            }
            Kind::Echo(reply) => {
                body.extend([echo_type(from.is_ipv4(), reply), 0, 0, 0, 0, 77]);
                body.extend((self.sequence as u16).to_be_bytes());
                (if from.is_ipv4() { 1 } else { 58 }, 2)
            }
            Kind::Error(number, word) => {
                let (_, v4, v6) = ERRORS[number];
                body.extend(if from.is_ipv4() { v4 } else { v6 });
                body.extend([0, 0]);
                body.extend(word.to_be_bytes());
                body.extend(quoted.unwrap_or_default());
                (if from.is_ipv4() { 1 } else { 58 }, 2)
            }
        };
        body.extend(self.text.bytes());
        body.extend((0..self.payload).map(|at: usize| at as u8));
        let sum = body_checksum(&body, from, to, protocol);
        body[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
        (body, protocol)
    }

    /// The headers of IPv6 between the first one and `protocol`, and the number of the first of them.
    fn extension_headers(&self, protocol: u8, more: bool, start: usize) -> (Vec<u8>, u8) {
        let mut kinds: Vec<_> = self
            .extensions
            .iter()
            .map(|name| EXTENSIONS.iter().find(|(known, _)| known == name).unwrap().1)
            .collect();
        if self.part.is_some() {
            kinds.push(44);
        }
        let mut headers = Vec::new();
        for (at, kind) in kinds.iter().enumerate() {
            let next = kinds.get(at + 1).copied().unwrap_or(protocol);
            match kind {
                44 => {
                    headers.extend([next, 0]);
                    headers.extend((start as u16 | u16::from(more)).to_be_bytes());
                    headers.extend(u32::from(self.id).to_be_bytes());
                }
                43 => headers.extend([next, 2, 4, self.left].into_iter().chain([0; 20])),
                51 => headers.extend([next, 1, 0, 0].into_iter().chain([0; 8])),
                // Padding of six bytes (RFC 8200 section 4.2).
                _ => headers.extend([next, 0, 1, 4, 0, 0, 0, 0]),
            }
        }
        (headers, kinds.first().copied().unwrap_or(protocol))
    }
}

/// Bytes of a frame that is described in words.
///
/// After `sender > receiver` come flags and `seq=`, `ack=`, `len=` (payload), `tcpopt=` (bytes of TCP options),
/// `ipopt=` (words of IPv4 options), `ext=` (IPv6 extension headers, by [`EXTENSIONS`]), `left=` (of the routing header),
/// `frag=` (only these bytes of what follows the IP header, with `id=`), `vlan`, `qinq`, `short`, `padded`;
/// `says=` (payload: a line, with `_` for each space);
/// `udp`, `echo`, `echo-reply`, or the name of an ICMP error (with `=` and a number: the MTU) for what is no TCP. An error
/// ends with `quoting` and the words of a packet; `cut` leaves 8 bytes of it after its IP header.
pub fn build(words: &str, names: &Names) -> Vec<u8> {
    let (words, quoted) = words.split_once(" quoting ").map_or((words, None), |(a, b)| (a, Some(b)));
    let mut ends = words.split_whitespace();
    let from = names[ends.next().unwrap()];
    assert_eq!(ends.next(), Some(">"), "{words}");
    let to = names[ends.next().unwrap()];
    let wanted = Wanted::parse(words);

    let quoted = quoted.map(|words| {
        let mut packet = build(words, names).split_off(14);
        if Wanted::parse(words).cut {
            let header = if packet[0] >> 4 == 4 { usize::from(packet[0] & 0xf) * 4 } else { 40 };
            packet.truncate(header + 8);
        }
        packet
    });
    let (body, protocol) = wanted.body(from, to, quoted.as_deref());
    let part = |(from, to): (usize, usize)| (from.min(body.len() & !7), to.min(body.len()));
    let (start, end) = wanted.part.map_or((0, body.len()), part);
    let more = end < body.len();
    let body = &body[start..end];

    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    if wanted.qinq {
        frame.extend([0x88, 0xa8, 0x00, 0x06]);
    }
    if wanted.vlan || wanted.qinq {
        frame.extend([0x81, 0x00, 0x00, 0x05]);
    }
    match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            frame.extend([0x08, 0x00]);
            let options = wanted.ip_options;
            let mut ip = vec![0x45 + options as u8, 0];
            ip.extend(((20 + options * 4 + body.len()) as u16).to_be_bytes());
            ip.extend(wanted.id.to_be_bytes());
            let dont_fragment = if wanted.part.is_some() { 0 } else { 0x4000 };
            ip.extend((dont_fragment | u16::from(more) << 13 | (start / 8) as u16).to_be_bytes());
            ip.extend([61, protocol, 0, 0]);
            ip.extend(from.ip().octets());
            ip.extend(to.ip().octets());
            // Router alert, which real hosts send, and padding.
            ip.extend([148, 4, 0, 0].repeat(options));
            let sum = checksum(&[&ip]);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(ip);
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            let (headers, next) = wanted.extension_headers(protocol, more, start);
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(((headers.len() + body.len()) as u16).to_be_bytes());
            frame.extend([next, 61]);
            frame.extend(from.ip().octets());
            frame.extend(to.ip().octets());
            frame.extend(headers);
        }
        _ => panic!("two families in {words:?}"),
    }
    frame.extend(body);
    if wanted.short {
        frame.truncate(frame.len() - 8);
    }
    if wanted.padded {
        frame.extend([0xee; 18]);
    }
    frame
}

/// Whether a frame holds TCP.
pub fn is_tcp(frame: &[u8]) -> bool {
    match frame[12..14] {
        [0x08, 0x00] => frame[14 + 9] == 6,
        [0x86, 0xdd] => describe(frame, &Names::new()).contains("seq="),
        _ => false,
    }
}

/// The words of a frame. A checksum that is wrong is said so, but that of a fragment, which covers what is not there.
pub fn describe(frame: &[u8], names: &Names) -> String {
    match frame[12..14] {
        [0x08, 0x00] | [0x86, 0xdd] => describe_ip(&frame[14..], names, false),
        _ => "no IP".into(),
    }
}

/// The same for an IP packet, or one that is quoted: of that one, the end may be missing.
pub fn describe_ip(ip: &[u8], names: &Names, quoted: bool) -> String {
    let v4 = ip[0] >> 4 == 4;
    let (mut header, length) = if v4 {
        (usize::from(ip[0] & 0xf) * 4, usize::from(u16::from_be_bytes([ip[2], ip[3]])))
    } else {
        (40, 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]])))
    };
    if length > ip.len() && !quoted {
        return format!("{length} bytes announced, {} there", ip.len());
    }
    let is_cut = length > ip.len();
    let ip = &ip[..length.min(ip.len())];
    let mut protocol = if v4 { ip[9] } else { ip[6] };
    let mut marks = String::new();
    let mut part = None;
    if v4 {
        let word = u16::from_be_bytes([ip[6], ip[7]]);
        part = (word & 0x3fff != 0).then_some((usize::from(word & 0x1fff) * 8, word & 0x2000 != 0));
        if header > 20 {
            write!(marks, " ipopt={}", (header - 20) / 4).unwrap();
        }
        if checksum(&[&ip[..header]]) != 0 {
            marks.push_str(" BAD-IP-CHECKSUM");
        }
    } else {
        let mut extensions = Vec::new();
        while let Some((name, _)) = EXTENSIONS.iter().find(|(_, kind)| *kind == protocol && protocol != 51) {
            let at = &ip[header..];
            if at.len() < 8 || part.is_some_and(|(start, _)| start != 0) {
                break;
            }
            let word = u16::from_be_bytes([at[2], at[3]]);
            if protocol == 44 && word != 0 {
                part = Some((usize::from(word & 0xfff8), word & 1 != 0));
            } else {
                extensions.push(*name);
            }
            header += if protocol == 44 { 8 } else { usize::from(at[1]) * 8 + 8 };
            protocol = at[0];
        }
        if !extensions.is_empty() {
            write!(marks, " ext={}", extensions.join(",")).unwrap();
        }
    }
    let body = &ip[header..];
    let address = |at: usize, port| -> SocketAddr {
        if v4 {
            let octets: [u8; 4] = ip[12 + at * 4..][..4].try_into().unwrap();
            SocketAddr::new(octets.into(), port)
        } else {
            let octets: [u8; 16] = ip[8 + at * 16..][..16].try_into().unwrap();
            SocketAddr::new(octets.into(), port)
        }
    };
    if let Some((start @ 1.., more)) = part {
        let ends = format!("{} > {}", name(address(0, 0), names), name(address(1, 0), names));
        let end = if more { (start + body.len()).to_string() } else { String::new() };
        return format!("{ends} frag={start}-{end}{marks}");
    }
    let mut words = match protocol {
        6 => {
            describe_tcp(body, |at| address(at, u16::from_be_bytes([body[at * 2], body[at * 2 + 1]])), names)
        }
        17 if quoted && body.len() >= 4 => {
            let end = |at: usize| address(at, u16::from_be_bytes([body[at * 2], body[at * 2 + 1]]));
            format!("{} > {} udp", name(end(0), names), name(end(1), names))
        }
        1 | 58 => describe_icmp(body, v4, |at| address(at, 0), names),
        other => format!("protocol {other}"),
    };
    if part.is_some() {
        write!(words, " frag=0-{}", body.len()).unwrap();
    }
    words.push_str(&marks);
    // A body with its checksum in place sums up to nothing.
    if part.is_none() && !is_cut && body_checksum(body, address(0, 0), address(1, 0), protocol) != 0 {
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
    if tcp.len() < 20 {
        write!(words, " seq={} cut", number(4)).unwrap();
        return words;
    }
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
    for (what, count) in [("len", tcp.len().saturating_sub(offset)), ("tcpopt", offset - 20)] {
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
    let Some((error, ..)) = ERRORS.iter().find(|(_, four, six)| kind == if v4 { *four } else { *six }) else {
        return format!("{ends} icmp {kind:?}");
    };
    let word = u32::from_be_bytes(icmp[4..8].try_into().unwrap());
    let word = if word == 0 { String::new() } else { format!("={word}") };
    format!("{ends} {error}{word} quoting {}", describe_ip(&icmp[8..], names, true))
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
pub fn checksum(parts: &[&[u8]]) -> u16 {
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
