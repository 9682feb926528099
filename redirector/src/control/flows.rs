//! `flows -o json`: what is asked, and what is answered. A promise to scripts: fields may be added, none changes its meaning.
//!
//! A list comes as lines of JSON: a [`FlowStatus`] each, and [`ListEnd`] as the last one. The agent writes them while it
//! reads the flow table, so that it never holds more than a few hundred of them.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// How far a flow is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum FlowState {
    /// The member has not answered, or the client has not confirmed the answer
    Opening,
    /// Both ends have heard each other
    Established,
    /// At least one end sent its FIN
    Closing,
}

impl fmt::Display for FlowState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
        })
    }
}

impl FromStr for FlowState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Opening, Self::Established, Self::Closing]
            .into_iter()
            .find(|state| state.to_string() == text)
            .ok_or_else(|| format!("{text:?} is no state of a flow"))
    }
}

/// One flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowStatus {
    /// Name of its service; `None`: the configuration does not have it any more.
    pub service: Option<String>,
    /// Name of its member; the same.
    pub member: Option<String>,
    /// The client side: who connected.
    pub client: SocketAddr,
    /// And to what.
    pub vip: SocketAddr,
    /// The member side: the translated source.
    pub source: SocketAddr,
    /// And the member's address.
    pub address: SocketAddr,
    /// How far it is.
    pub state: FlowState,
    /// Whether its member was left, or its address taken away: it is reset with its next packet.
    pub stale: bool,
    /// Whether the client is a socket in the agent's network namespace.
    pub local: bool,
    /// Epoch of the decision that chose the member.
    pub epoch: u32,
    /// Milliseconds since the last segment.
    pub idle_ms: u64,
    /// Milliseconds since the flow was opened; begins anew after some weeks (49 days where the kernel has 1000 ticks a
    /// second).
    pub age_ms: u64,
}

/// The last line of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListEnd {
    /// How many flows match; the list may be shorter.
    pub matched: u64,
}

/// `flows --totals`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// [`super::status::VERSION`].
    pub version: u32,
    /// All flows that match.
    pub flows: u64,
    /// By service, member and state; in this order, without those that have none.
    pub totals: Vec<Total>,
}

/// Flows of one service, member and state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Total {
    /// Name of the service; `None`: the configuration does not have it any more.
    pub service: Option<String>,
    /// Name of the member; the same.
    pub member: Option<String>,
    /// How far they are.
    pub state: FlowState,
    /// All of them.
    pub flows: u64,
    /// Those of them that are stale.
    pub stale: u64,
    /// Those of them whose client is a socket in the agent's network namespace.
    pub local: u64,
}

/// Which flows are meant. What is not said does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Name of the service.
    pub service: Option<String>,
    /// Name of the member, of whatever service.
    pub member: Option<String>,
    /// Where the client is.
    pub client: Option<Clients>,
    /// How far they are.
    pub state: Option<FlowState>,
    /// Idle for longer than this.
    pub idle_over: Option<Duration>,
    /// Stale ones only.
    pub stale: bool,
}

impl Filter {
    /// As the query of a URL, without `?`. [`Filter::from_query`] reads it.
    #[must_use]
    pub fn to_query(&self) -> String {
        let pairs = [
            ("service", self.service.clone()),
            ("member", self.member.clone()),
            ("client", self.client.map(|clients| clients.to_string())),
            ("state", self.state.map(|state| state.to_string())),
            ("idle_over_ms", self.idle_over.map(|time| time.as_millis().to_string())),
            ("stale", self.stale.then(|| "true".to_owned())),
        ];
        let pairs: Vec<_> =
            pairs.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?))).collect();
        pairs.join("&")
    }

    /// Reads `key=value` pairs; what it does not know goes to `other`, which says whether it knows it.
    ///
    /// # Errors
    /// The first pair that is wrong, in words.
    pub fn from_query(
        query: &str,
        mut other: impl FnMut(&str, &str) -> Result<bool, String>,
    ) -> Result<Self, String> {
        let mut filter = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "service" => filter.service = Some(value.to_owned()),
                "member" => filter.member = Some(value.to_owned()),
                "client" => filter.client = Some(value.parse()?),
                "state" => filter.state = Some(value.parse()?),
                "idle_over_ms" => {
                    let time = value.parse().map_err(|_| format!("idle_over_ms={value} is no number"))?;
                    filter.idle_over = Some(Duration::from_millis(time));
                }
                "stale" => filter.stale = value == "true",
                _ if other(key, value)? => {}
                _ => return Err(format!("there is no parameter {key:?}")),
            }
        }
        Ok(filter)
    }
}

/// Some addresses, on all ports or on one: `ADDR`, `ADDR/LEN`, `ADDR:PORT`, `ADDR/LEN:PORT`, an IPv6 address before a
/// port in brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clients {
    address: IpAddr,
    length: u8,
    port: Option<u16>,
}

impl Clients {
    /// Whether a client is one of them.
    #[must_use]
    pub fn contain(&self, client: SocketAddr) -> bool {
        let ip = match (self.address, client.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => differ_from(32, (a.to_bits() ^ b.to_bits()).leading_zeros()),
            (IpAddr::V6(a), IpAddr::V6(b)) => differ_from(128, (a.to_bits() ^ b.to_bits()).leading_zeros()),
            _ => return false,
        };
        ip >= self.length && self.port.is_none_or(|port| port == client.port())
    }
}

impl Clients {
    /// What else may have been meant by one IPv6 address: with the digits behind its last colon as a port.
    #[must_use]
    pub fn with_a_port(&self) -> Option<String> {
        let Self { address: IpAddr::V6(whole), length: 128, port: None } = self else { return None };
        let text = whole.to_string();
        let (address, port) = text.rsplit_once(':')?;
        let (address, port) = (address.parse::<Ipv6Addr>().ok()?, port.parse::<u16>().ok()?);
        Some(format!("[{address}]:{port}"))
    }
}

/// How many leading bits are equal.
fn differ_from(bits: u8, equal: u32) -> u8 {
    u8::try_from(equal).unwrap_or(bits)
}

impl FromStr for Clients {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no address; write ADDR, ADDR/LENGTH, ADDR:PORT or ADDR/LENGTH:PORT, and [ADDR]:PORT or \
                 [ADDR/LENGTH]:PORT for IPv6"
            )
        };
        let (prefix, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (prefix, port) = rest.split_once(']').ok_or_else(wrong)?;
                (prefix, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(wrong)?) })
            }
            // More than one colon: an IPv6 address without a port.
            None => match text.split_once(':') {
                Some((prefix, port)) if !port.contains(':') => (prefix, Some(port)),
                _ => (text, None),
            },
        };
        let (address, length) = match prefix.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (prefix, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(longest), |length| length.parse().map_err(|_| wrong()))?;
        if length > longest {
            return Err(format!("{text:?}: an address of this IP version has {longest} bits"));
        }
        let port = port.map(|port| port.parse().map_err(|_| wrong())).transpose()?;
        Ok(Self { address, length, port })
    }
}

impl fmt::Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.port) {
            (address, None) => write!(f, "{address}/{}", self.length),
            (IpAddr::V4(address), Some(port)) => write!(f, "{address}/{}:{port}", self.length),
            (IpAddr::V6(address), Some(port)) => write!(f, "[{address}/{}]:{port}", self.length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found in use: `--client fd00::1:6379` is an address, and nothing matched it.
    #[test]
    fn an_address_may_have_been_meant_with_a_port() {
        let meant = |text: &str| text.parse::<Clients>().unwrap().with_a_port();
        assert_eq!(meant("fd00::1:6379").as_deref(), Some("[fd00::1]:6379"));
        for text in
            ["fd00::1:a1", "fd00::1", "fd00:1:2:3:4:5:6:6379", "fd00::/64", "[fd00::1]:6379", "10.0.0.1"]
        {
            assert_eq!(meant(text), None, "{text}");
        }
    }

    #[test]
    fn clients_are_an_address_a_prefix_and_a_port() {
        for (text, within, without) in [
            ("10.30.0.2", "10.30.0.2:7", "10.30.0.3:7"),
            ("10.30.0.0/16", "10.30.255.3:7", "10.31.0.1:7"),
            ("10.30.0.2:443", "10.30.0.2:443", "10.30.0.2:444"),
            ("10.0.0.0/8:443", "10.30.0.2:443", "10.30.0.2:444"),
            ("0.0.0.0/0", "10.30.0.2:443", "[fd00::1]:443"),
            ("fd30::2", "[fd30::2]:1", "[fd30::3]:1"),
            ("fd30::/16", "[fd30:1::2]:1", "[fd31::2]:1"),
            ("[fd30::2]:443", "[fd30::2]:443", "[fd30::2]:1"),
            ("[fd30::/64]:443", "[fd30::9]:443", "[fd30:0:0:1::9]:443"),
        ] {
            let clients: Clients = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert!(clients.contain(within.parse().unwrap()), "{text} {within}");
            assert!(!clients.contain(without.parse().unwrap()), "{text} {without}");
            assert_eq!(clients.to_string().parse(), Ok(clients), "{text}");
        }
        for text in
            ["", "10.0.0", "10.0.0.0/33", "10.0.0.1:", "10.0.0.1:65536", "[fd00::1", "[fd00::1]7", "a:1"]
        {
            text.parse::<Clients>().expect_err(text);
        }
    }

    #[test]
    fn a_filter_survives_a_url() {
        let full = Filter {
            service: Some("orders".into()),
            member: Some("paris".into()),
            client: Some("[fd30::/64]:443".parse().unwrap()),
            state: Some(FlowState::Closing),
            idle_over: Some(Duration::from_secs(600)),
            stale: true,
        };
        for filter in [full, Filter::default()] {
            assert_eq!(Filter::from_query(&filter.to_query(), |_, _| Ok(false)), Ok(filter));
        }
        for wrong in ["state=open", "client=a", "idle_over_ms=x", "what=1"] {
            Filter::from_query(wrong, |_, _| Ok(false)).expect_err(wrong);
        }
    }
}
