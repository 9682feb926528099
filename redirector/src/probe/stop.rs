//! What stops a probe, and how the kernel's words for it become the model's.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use libc::{
    EACCES, ECONNABORTED, ECONNREFUSED, ECONNRESET, EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH, EPIPE,
};

use crate::{model::Cause, tls};

/// Why a probe ended without passing.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The kernel said so.
    Io(io::Error),
    /// What the member answered.
    Answer(Cause),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Stop {
    /// Whether the connection ended under the probe.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Io(error) => is_closed(error),
            Self::Answer(_) => false,
        }
    }
}

/// Whether the other side ended the connection, in order or by a reset.
pub(super) fn is_closed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof || matches!(error.raw_os_error(), Some(ECONNRESET | EPIPE))
}

/// The cause behind an error of a probe of `address` that ran for `elapsed`.
pub(crate) fn cause(error: &io::Error, address: SocketAddr, elapsed: Duration) -> Cause {
    if is_closed(error) {
        return Cause::Closed;
    }
    if error.kind() == io::ErrorKind::TimedOut {
        // Whole milliseconds, as the limits are.
        return Cause::TimedOut(Duration::from_millis(
            u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        ));
    }
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return Cause::Refused;
    }
    if let Some((fault, text)) = tls::fault(error) {
        return Cause::Tls(fault, text);
    }
    match error.raw_os_error() {
        Some(ECONNREFUSED) => Cause::Refused,
        Some(EHOSTUNREACH | ENETUNREACH | EHOSTDOWN | ENETDOWN) => Cause::Unreachable(error.to_string()),
        // An ICMPv6 "administratively prohibited" or "reject route" from the network arrives as EACCES
        // (net/ipv6/icmp.c, tab_unreach); IPv4's arrives as EHOSTUNREACH.
        Some(EACCES) if is_ipv6(address) => Cause::Unreachable(error.to_string()),
        // Linux says this of a TCP socket that SOCK_DESTROY ended: somebody on this host.
        Some(ECONNABORTED) => Cause::Local("the probe's socket was destroyed on this host".to_owned()),
        _ => Cause::Local(error.to_string()),
    }
}

fn is_ipv6(address: SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.to_ipv4_mapped().is_none(),
    }
}

#[cfg(test)]
mod tests {
    use libc::{EADDRNOTAVAIL, EMFILE, ENFILE, EPERM, ETIMEDOUT};

    use super::*;

    fn of(errno: i32, address: &str) -> Cause {
        cause(&io::Error::from_raw_os_error(errno), address.parse().unwrap(), Duration::from_secs(1))
    }

    #[test]
    fn each_errno_has_its_cause() {
        let v4 = "192.0.2.1:6379";
        assert_eq!(of(ECONNREFUSED, v4), Cause::Refused);
        assert_eq!(of(ECONNRESET, v4), Cause::Closed);
        assert_eq!(of(EPIPE, v4), Cause::Closed);
        assert_eq!(of(ETIMEDOUT, v4), Cause::TimedOut(Duration::from_secs(1)));
        for errno in [EHOSTUNREACH, ENETUNREACH, EHOSTDOWN, ENETDOWN] {
            assert!(matches!(of(errno, v4), Cause::Unreachable(_)), "{errno}");
        }
        for errno in [EMFILE, ENFILE, EACCES, EPERM, EADDRNOTAVAIL, ECONNABORTED] {
            assert!(matches!(of(errno, v4), Cause::Local(_)), "{errno}");
        }
    }

    #[test]
    fn a_router_that_prohibits_ipv6_is_not_trouble_of_this_host() {
        assert!(matches!(of(EACCES, "[2001:db8::1]:6379"), Cause::Unreachable(_)));
        assert!(matches!(of(EACCES, "[::ffff:192.0.2.1]:6379"), Cause::Local(_)));
    }
}
