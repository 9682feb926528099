//! Ending local sockets: `SOCK_DESTROY` by tuple and cookie, in batches, without a dump (Linux 4.5,
//! `CONFIG_INET_DIAG_DESTROY`).
//!
//! The application's blocked call returns at once with `ECONNABORTED`. The reset that the kernel sends on behalf of
//! the socket leaves through the flow, which frees the member's side.

mod diag;
mod find;

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use aya::util::KernelVersion;
use redirector_common::{addr::Tuple, flow::Flow};

use self::diag::Diag;
pub(super) use self::find::Finder;

/// Messages sent with one system call; the errors of all of them fit into a socket's receive buffer.
pub(super) const BATCH: usize = 128;

const HEADER: usize = 16;
const REQUEST: usize = 56;
const MESSAGE: usize = HEADER + REQUEST;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;

/// A netlink socket for destroying the sockets of the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Destroyer {
    diag: Diag,
    /// Whether the kernel destroys sockets without an owner properly.
    orphans: bool,
}

/// A local socket that is to be looked up or destroyed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Victim {
    /// The client side of a flow.
    pub(super) client_side: Tuple,
    /// To the kernel the socket is gone when the one with this tuple has another cookie by now.
    pub(super) cookie: u64,
}

impl Victim {
    /// The cookie of whichever socket has the tuple (`INET_DIAG_NOCOOKIE`, twice).
    pub(super) const ANY: u64 = u64::MAX;
}

impl Destroyer {
    /// For the network namespace that the thread is in now.
    pub(super) fn open() -> Result<Self> {
        let kernel = KernelVersion::current().context("the kernel's version cannot be read")?;
        Ok(Self { diag: Diag::open()?, orphans: kernel >= KernelVersion::new(6, 11, 0) })
    }

    /// Whether the socket of a flow may be destroyed. Before Linux 6.11 destroying one that its application closed
    /// already leaks it (kernel commit bac76cf89816); the kernel takes no list of states for this command.
    pub(super) fn may_destroy(&self, flow: &Flow) -> bool {
        self.orphans || !flow.client.finished()
    }

    /// Destroys an own connection over the loopback device, which must be up.
    pub(super) fn works(&self) -> Result<()> {
        /// The kernel has answered by then; a client that is not woken waits for ever.
        const PATIENCE: Duration = Duration::from_secs(1);

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
        let mut client =
            TcpStream::connect(listener.local_addr()?).context("cannot connect over loopback")?;
        let _server = listener.accept()?;
        let victim = Victim {
            client_side: Tuple::between(client.local_addr()?, client.peer_addr()?),
            cookie: rustix::net::sockopt::socket_cookie(&client)?,
        };
        if let Some((_, error)) = self.destroy(&[victim])?.into_iter().next() {
            return Err(error).context("the kernel refuses to destroy a socket (CONFIG_INET_DIAG_DESTROY)");
        }
        client.set_read_timeout(Some(PATIENCE))?;
        match client.read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(()),
            other => bail!("a destroyed socket still answers: {other:?}"),
        }
    }

    /// Destroys the sockets that still exist. Returns which ones the kernel refused, by their place in `victims`; one
    /// that is gone already is not refused.
    pub(super) fn destroy(&self, victims: &[Victim]) -> Result<Vec<(usize, io::Error)>> {
        let mut refused = Vec::new();
        let answered = |number: usize, error: i32| {
            if error != 0 && error != -libc::ENOENT {
                refused.push((number, io::Error::from_raw_os_error(-error)));
            }
        };
        self.diag
            .ask(SOCK_DESTROY, victims, BATCH, answered)
            .context("cannot ask for sockets to be destroyed")?;
        Ok(refused)
    }
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2` (`include/uapi/linux/inet_diag.h`).
fn append(bytes: &mut Vec<u8>, command: u16, number: usize, victim: &Victim) {
    const NLM_F_REQUEST: u16 = 1;
    const IPPROTO_TCP: u8 = 6;
    const ALL_STATES: u32 = u32::MAX;

    let tuple = &victim.client_side;
    let v4 = tuple.near.is_v4();
    let start = bytes.len();
    // The header; length, kind, flags, sequence, port id.
    #[allow(clippy::cast_possible_truncation)] // A constant of 72.
    bytes.extend((MESSAGE as u32).to_ne_bytes());
    bytes.extend(command.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    bytes.extend(u32::try_from(number).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend([0; 4]);
    // An IPv6 socket with IPv4-mapped addresses is found as an IPv4 one.
    #[allow(clippy::cast_possible_truncation)] // 2 and 10.
    bytes.push(if v4 { libc::AF_INET } else { libc::AF_INET6 } as u8);
    bytes.extend([IPPROTO_TCP, 0, 0]);
    bytes.extend(ALL_STATES.to_ne_bytes());
    // `struct inet_diag_sockid`: ports, addresses, interface, cookie.
    bytes.extend(tuple.near_port.wire().to_ne_bytes());
    bytes.extend(tuple.far_port.wire().to_ne_bytes());
    for address in [tuple.near, tuple.far] {
        let words = if v4 { [address.v4_word(), 0, 0, 0] } else { address.0 };
        words.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
    }
    bytes.extend([0; 4]);
    #[allow(clippy::cast_possible_truncation)] // Low word first, then the high one.
    bytes.extend((victim.cookie as u32).to_ne_bytes());
    bytes.extend(((victim.cookie >> 32) as u32).to_ne_bytes());
    debug_assert_eq!(bytes.len() - start, MESSAGE);
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    fn cookie_of(stream: &TcpStream) -> u64 {
        rustix::net::sockopt::socket_cookie(stream.as_fd()).unwrap()
    }

    /// An own connection over loopback, both ends.
    fn pair(address: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(address).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn it_works() {
        Destroyer::open().unwrap().works().unwrap();
    }

    #[test]
    fn a_blocked_reader_is_woken_and_a_socket_with_another_cookie_is_not() {
        let destroyer = Destroyer::open().unwrap();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (mut client, _server) = pair(address);
            let client_side = Tuple::between(client.local_addr().unwrap(), client.peer_addr().unwrap());
            let cookie = cookie_of(&client);

            let other = Victim { client_side, cookie: cookie + 1 };
            assert!(destroyer.destroy(&[other]).unwrap().is_empty(), "to the kernel it is gone already");
            client.set_nonblocking(true).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            client.set_nonblocking(false).unwrap();

            let reader = std::thread::spawn(move || client.read(&mut [0]).unwrap_err().kind());
            std::thread::sleep(std::time::Duration::from_millis(20));
            let mine = Victim { client_side, cookie };
            assert!(destroyer.destroy(&[mine]).unwrap().is_empty());
            assert!(destroyer.destroy(&[mine]).unwrap().is_empty(), "gone already");
            assert_eq!(reader.join().unwrap(), io::ErrorKind::ConnectionAborted);
        }
    }
}
