//! A Redis client that hides nothing: one blocking socket, no time-out and no reconnect of its own.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    mem,
    net::{SocketAddr, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::{
    io::dup,
    net::{
        AddressFamily, Shutdown, SocketFlags, SocketType, connect, shutdown, socket_with,
        sockopt::set_socket_linger,
    },
};

/// A reply (RESP2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `+OK`
    Status(String),
    /// `-ERR …`
    Error(String),
    /// `:1`
    Integer(i64),
    /// A string, or nil.
    Bulk(Option<Vec<u8>>),
    /// An array, or nil.
    Array(Option<Vec<Value>>),
}

impl Value {
    /// The text of a status, an error or a string.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Status(text) | Self::Error(text) => Some(text.clone()),
            Self::Bulk(Some(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Self::Integer(_) | Self::Bulk(None) | Self::Array(_) => None,
        }
    }
}

/// Ends the blocking calls of a connection from outside, also a `connect` that waits for a black hole.
#[derive(Clone, Debug, Default)]
pub struct Stopper {
    state: Arc<Mutex<(bool, Option<OwnedFd>)>>,
}

impl Stopper {
    /// Shuts the socket down; to be repeated until the client has ended, because a `connect` that is about to
    /// begin does not notice.
    pub fn stop(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = true;
        if let Some(socket) = &state.1 {
            // An error says that it is not connected, which is what is wanted.
            let _ = shutdown(socket, Shutdown::Both);
        }
    }

    /// Whether [`Stopper::stop`] was called.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn watch(&self, socket: &OwnedFd) -> io::Result<()> {
        let copy = dup(socket)?;
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = Some(copy);
        Ok(())
    }

    /// Lets go of the socket, so that dropping the connection closes it.
    fn forget(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = None;
    }
}

/// What two ends agree on by TCP options in their SYNs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// `TCPI_OPT_*` of `linux/tcp.h`: timestamps, selective acknowledgements, window scale.
    pub options: u8,
    /// The largest segment that this end sends, in bytes.
    pub send_segment: u32,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    stopper: Option<Stopper>,
}

impl Connection {
    /// Connects from the calling thread's namespace. `[::ffff:10.255.0.1]:6379` makes an IPv6 socket that speaks
    /// IPv4, as Java's do.
    ///
    /// # Errors
    /// Those of `connect(2)`.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        Self::open_watched(address, None)
    }

    /// The same; `stopper` ends its blocking calls.
    ///
    /// # Errors
    /// Those of `connect(2)`.
    pub fn open_stoppable(address: SocketAddr, stopper: &Stopper) -> io::Result<Self> {
        let opened = Self::open_watched(address, Some(stopper));
        if opened.is_err() {
            stopper.forget();
        }
        opened
    }

    fn open_watched(address: SocketAddr, stopper: Option<&Stopper>) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // Only then a second descriptor: tests open thousands of connections.
        if let Some(stopper) = stopper {
            stopper.watch(&socket)?;
        }
        connect(&socket, &address)?;
        Self::over(socket, stopper.cloned())
    }

    /// Over a socket that is connected.
    pub(crate) fn over(socket: OwnedFd, stopper: Option<Stopper>) -> io::Result<Self> {
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), stopper })
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// Ends it with a reset: the other side sees `ConnectionReset`, and the port is free at once.
    ///
    /// # Errors
    /// Those of `setsockopt(2)`.
    pub fn reset(self) -> io::Result<()> {
        Ok(set_socket_linger(self.socket(), Some(Duration::ZERO))?)
    }

    /// What both ends agreed on when they connected.
    ///
    /// # Errors
    /// Those of `getsockopt(2)`.
    pub fn agreed(&self) -> io::Result<Agreed> {
        // SAFETY: all bits 0 are a valid value of this struct of integers.
        let mut info: libc::tcp_info = unsafe { mem::zeroed() };
        let mut length = libc::socklen_t::try_from(size_of_val(&info)).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `length` bytes to `info`; both live until the call returns.
        let result = unsafe {
            libc::getsockopt(
                self.socket().as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info).cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Agreed { options: info.tcpi_options, send_segment: info.tcpi_snd_mss })
    }

    /// How long a read or write may block; `None`: for ever, which is the default.
    ///
    /// # Errors
    /// When `limit` is zero.
    pub fn set_time_limit(&self, limit: Option<Duration>) -> io::Result<()> {
        self.socket().set_read_timeout(limit)?;
        self.socket().set_write_timeout(limit)
    }

    /// Sends a command and waits for its reply.
    ///
    /// # Errors
    /// Those of the socket; `UnexpectedEof` when the other side closed, `InvalidData` when it speaks no RESP.
    pub fn command(&mut self, words: &[&str]) -> io::Result<Value> {
        self.send(words)?;
        self.receive()
    }

    /// The name of the server that answers (`GET whoami`).
    ///
    /// # Errors
    /// As [`Connection::command`]; `InvalidData` when it has no name.
    pub fn whoami(&mut self) -> io::Result<String> {
        let reply = self.command(&["GET", "whoami"])?;
        reply.text().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("whoami: {reply:?}")))
    }

    /// This client's address and port as the server sees them (`CLIENT INFO`): through a VIP, the translated ones.
    ///
    /// # Errors
    /// As [`Connection::command`]; `InvalidData` when the server says something else.
    pub fn seen_as(&mut self) -> io::Result<SocketAddr> {
        let reply = self.command(&["CLIENT", "INFO"])?;
        let text = reply.text().unwrap_or_default();
        let address = text.split_whitespace().find_map(|word| word.strip_prefix("addr="));
        let address = address.and_then(|address| address.parse().ok());
        address.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("CLIENT INFO: {reply:?}")))
    }

    /// Sends a command.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send(&mut self, words: &[&str]) -> io::Result<()> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.get_mut().write_all(request.as_bytes())
    }

    /// Waits for a reply.
    ///
    /// # Errors
    /// As [`Connection::command`].
    pub fn receive(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, format!("not RESP: {line:?}"));
        let body = line.strip_suffix("\r\n").ok_or_else(invalid)?;
        let (kind, body) = body.split_at_checked(1).ok_or_else(invalid)?;
        let number = || body.parse::<i64>().map_err(|_| invalid());
        Ok(match kind {
            "+" => Value::Status(body.to_owned()),
            "-" => Value::Error(body.to_owned()),
            ":" => Value::Integer(number()?),
            "$" => Value::Bulk(match usize::try_from(number()?) {
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    self.stream.read_exact(&mut bytes)?;
                    bytes.truncate(length);
                    Some(bytes)
                }
                Err(_) => None,
            }),
            "*" => Value::Array(match number()? {
                length if length >= 0 => {
                    Some((0..length).map(|_| self.receive()).collect::<io::Result<_>>()?)
                }
                _ => None,
            }),
            _ => return Err(invalid()),
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(stopper) = &self.stopper {
            stopper.forget();
        }
    }
}
