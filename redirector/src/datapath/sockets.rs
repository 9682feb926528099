//! Ending local sockets: `SOCK_DESTROY` by tuple and cookie, in batches, without a dump (Linux 4.5,
//! `CONFIG_INET_DIAG_DESTROY`).
//!
//! The application's blocked call returns at once with `ECONNABORTED`. The reset that the kernel sends on behalf of
//! the socket leaves through the flow, which frees the member's side.

use std::io;

use anyhow::{Context as _, Result};
use redirector_common::addr::Tuple;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
    netlink::{self, SocketAddrNetlink},
};

/// Messages sent with one system call.
const BATCH: usize = 256;

const HEADER: usize = 16;
const REQUEST: usize = 56;
const MESSAGE: usize = HEADER + REQUEST;

/// A netlink socket for destroying the sockets of this network namespace.
#[derive(Debug)]
pub(super) struct Destroyer {
    socket: rustix::fd::OwnedFd,
}

/// A local socket that is to be destroyed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Victim {
    /// The client side of a flow.
    pub(super) client_side: Tuple,
    /// The kernel refuses when the socket with this tuple has another one by now.
    pub(super) cookie: u64,
}

impl Destroyer {
    pub(super) fn open() -> Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )
        .context("cannot open a socket-diagnosis socket")?;
        Ok(Self { socket })
    }

    /// Destroys the sockets that still exist. Returns how many errors other than "gone already" there were, and the
    /// last of them.
    pub(super) fn destroy(&self, victims: &[Victim]) -> Result<Option<io::Error>> {
        let mut refused = None;
        for batch in victims.chunks(BATCH) {
            let mut bytes = Vec::with_capacity(batch.len() * MESSAGE);
            for victim in batch {
                append(&mut bytes, victim);
            }
            let kernel = SocketAddrNetlink::new(0, 0);
            rustix::net::sendto(&self.socket, &bytes, SendFlags::empty(), &kernel)
                .context("cannot ask for sockets to be destroyed")?;
            refused = self.errors()?.or(refused);
        }
        Ok(refused)
    }

    /// Reads the answers that are there: the kernel has answered when `sendto` returns, and only errors are.
    fn errors(&self) -> Result<Option<io::Error>> {
        const NLMSG_ERROR: u16 = 2;
        let mut refused = None;
        let mut buffer = [0; 16 * 1024];
        loop {
            let length = match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(rustix::io::Errno::AGAIN) => return Ok(refused),
                // More errors than the socket's buffer holds; they say the same.
                Err(rustix::io::Errno::NOBUFS) => continue,
                Err(error) => return Err(error).context("cannot read what became of the sockets"),
            };
            let mut rest = &buffer[..length];
            while rest.len() >= HEADER + 4 {
                let size = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                let kind = u16::from_ne_bytes([rest[4], rest[5]]);
                let errno = i32::from_ne_bytes([rest[16], rest[17], rest[18], rest[19]]);
                if kind == NLMSG_ERROR && errno != 0 && errno != -libc::ENOENT {
                    refused = Some(io::Error::from_raw_os_error(-errno));
                }
                rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2` (`include/uapi/linux/inet_diag.h`).
fn append(bytes: &mut Vec<u8>, victim: &Victim) {
    const SOCK_DESTROY: u16 = 21;
    const NLM_F_REQUEST: u16 = 1;
    const IPPROTO_TCP: u8 = 6;
    const ALL_STATES: u32 = u32::MAX;

    let tuple = &victim.client_side;
    let v4 = tuple.near.is_v4();
    let start = bytes.len();
    // The header; length, kind, flags, sequence, port id.
    #[allow(clippy::cast_possible_truncation)] // A constant of 72.
    bytes.extend((MESSAGE as u32).to_ne_bytes());
    bytes.extend(SOCK_DESTROY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    bytes.extend([0; 8]);
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
    use std::{
        io::Read as _,
        net::{TcpListener, TcpStream},
        os::fd::AsFd as _,
    };

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
    fn a_blocked_reader_is_woken_and_a_socket_with_another_cookie_is_not() {
        let destroyer = Destroyer::open().unwrap();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (mut client, _server) = pair(address);
            let client_side = Tuple::between(client.local_addr().unwrap(), client.peer_addr().unwrap());
            let cookie = cookie_of(&client);

            let other = Victim { client_side, cookie: cookie + 1 };
            // As if it were gone (ENOENT on Linux 6.18): what counts is that this one lives on.
            assert!(destroyer.destroy(&[other]).unwrap().is_none());
            client.set_nonblocking(true).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            client.set_nonblocking(false).unwrap();

            let reader = std::thread::spawn(move || client.read(&mut [0]).unwrap_err().kind());
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(destroyer.destroy(&[Victim { client_side, cookie }]).unwrap().is_none());
            assert_eq!(reader.join().unwrap(), io::ErrorKind::ConnectionAborted);
        }
    }
}
