//! Settings of the checks that ask somebody else about a member: `lag`, `http` and `exec`.

use std::{fmt, net::Ipv6Addr, ops::RangeInclusive, time::Duration};

use super::{Endpoint, Login, Tls};

/// An HTTP URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// `https`.
    pub is_https: bool,
    /// A name or an address, without brackets.
    pub host: String,
    /// Not 0; that of the scheme (80, 443) when none is written.
    pub port: u16,
    /// Path and query as they are sent; begins with `/`.
    pub path: String,
}

impl Url {
    /// `host:port` as it stands in a `Host` header (RFC 9110, 7.2): without the port of the scheme.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = match self.host.parse::<Ipv6Addr>() {
            Ok(ip) => format!("[{ip}]"),
            Err(_) => self.host.clone(),
        };
        let usual = if self.is_https { 443 } else { 80 };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

/// `[service.member.rest]`: the REST API of the Redis Software cluster that a member is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Where it listens; the path is `/`.
    pub url: Url,
    /// Who asks, by HTTP's Basic authentication.
    pub login: Login,
    /// Some exactly if the URL is `https`.
    pub tls: Option<Tls>,
    /// The database's number in that cluster; `None`: looked up by the member's endpoint.
    pub uid: Option<u32>,
}

/// What a `lag` check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lag {
    /// How far the member may be behind the others; whole milliseconds.
    pub tolerance: Duration,
    /// Whether it asks for the lag at all: without, for availability alone.
    pub extended: bool,
    /// Some in every [`Member::checks`](super::Member::checks); a service's own list has none.
    pub of: Option<LagOf>,
}

/// The member that a `lag` check asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LagOf {
    /// Who is asked.
    pub rest: Rest,
    /// The member's, by which its database is looked up.
    pub endpoint: Endpoint,
}

/// What an `http` check asks, and the answer that passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// What is asked for.
    pub target: HttpTarget,
    /// For `https`: whom to believe.
    pub tls: Option<Tls>,
    /// At least one range of status codes, of which one must hold the answer's.
    pub status: Vec<RangeInclusive<u16>>,
    /// Text that the first 64 KiB of the body must have; `None`: any body will do.
    pub contains: Option<String>,
}

/// What an `http` check asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpTarget {
    /// The same for every address of the member.
    Url(Url),
    /// A path on each of the member's addresses.
    Path {
        /// Path and query; begins with `/`.
        path: String,
        /// `None`: that of the endpoint.
        port: Option<u16>,
    },
}

impl fmt::Display for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => url.fmt(f),
            Self::Path { path, port: Some(port) } => write!(f, "{path} at port {port}"),
            Self::Path { path, port: None } => f.write_str(path),
        }
    }
}

/// What an `exec` check runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// The program, an absolute path, and its arguments. No shell sees them.
    pub command: Vec<String>,
    /// Who runs it.
    pub user: User,
    /// Some in every [`Member::checks`](super::Member::checks); a service's own list has none.
    pub of: Option<ExecOf>,
}

/// The member that an `exec` check runs for, as its environment says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOf {
    /// `REDIRECTOR_SERVICE`.
    pub service: String,
    /// `REDIRECTOR_MEMBER`.
    pub member: String,
    /// `REDIRECTOR_ENDPOINT`.
    pub endpoint: Endpoint,
}

/// A user of this host; never root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// As written.
    pub name: String,
    /// Not 0.
    pub uid: u32,
    /// The user's own group; not 0.
    pub gid: u32,
}
