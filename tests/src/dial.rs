//! A client connection with a source of its choice and options of its choice on the socket.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, connect, socket_with,
    sockopt::{Timeout, set_socket_reuseaddr, set_socket_timeout},
};

use crate::{Connection, Host};

/// A connection in the making; see [`Host::dial`].
#[derive(Clone, Debug)]
pub struct Dial {
    host: Host,
    to: SocketAddr,
    from: Option<SocketAddr>,
    options: Vec<(i32, i32, Vec<u8>)>,
    limit: Duration,
}

impl Host {
    /// A connection to `to`, of which nothing is chosen yet.
    #[must_use]
    pub fn dial(&self, to: impl Into<SocketAddr>) -> Dial {
        let limit = Duration::from_secs(5);
        Dial { host: self.clone(), to: to.into(), from: None, options: Vec::new(), limit }
    }
}

impl Dial {
    /// Source address and port; port 0: the kernel chooses it. The port may be one that was used a moment ago
    /// (`SO_REUSEADDR`).
    #[must_use]
    pub fn from(mut self, from: impl Into<SocketAddr>) -> Self {
        self.from = Some(from.into());
        self
    }

    /// An option of the socket, set before it connects: `option(libc::IPPROTO_IP, libc::IP_TTL, &1_i32.to_ne_bytes())`.
    #[must_use]
    pub fn option(mut self, level: i32, name: i32, value: &[u8]) -> Self {
        self.options.push((level, name, value.to_vec()));
        self
    }

    /// How long connecting, and later each read and write, may take; five seconds when not called.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Connects, on a thread in the host.
    ///
    /// # Errors
    /// Those of the socket; `WouldBlock` or `InProgress` after the limit.
    pub fn connect(&self) -> io::Result<Connection> {
        self.host.run(|| {
            let family = if self.to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            for (level, name, value) in &self.options {
                set_option(&socket, *level, *name, value)?;
            }
            if let Some(from) = self.from {
                set_socket_reuseaddr(&socket, true)?;
                bind(&socket, &from)?;
            }
            set_socket_timeout(&socket, Timeout::Send, Some(self.limit))?;
            connect(&socket, &self.to)?;
            let connection = Connection::over(socket, None)?;
            connection.set_time_limit(Some(self.limit))?;
            Ok(connection)
        })
    }
}

fn set_option(socket: &OwnedFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `length` bytes of `value`, which lives until the call returns.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
