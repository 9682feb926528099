//! Messages to the kernel about single sockets, by tuple and cookie (`sock_diag(7)`), in batches.

use anyhow::{Context as _, Result};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
    netlink::{self, SocketAddrNetlink},
};

use super::{HEADER, MESSAGE, Victim, append};

/// A netlink socket for the sockets of this network namespace.
#[derive(Debug)]
pub(super) struct Diag {
    socket: rustix::fd::OwnedFd,
}

impl Diag {
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

    /// Sends `command` for each of `sockets`, `batch` of them with one system call. `answered` gets what came back as an
    /// error message: the place in `sockets`, and the negative error number, or 0.
    pub(super) fn ask(
        &self,
        command: u16,
        sockets: &[Victim],
        batch: usize,
        mut answered: impl FnMut(usize, i32),
    ) -> Result<()> {
        let kernel = SocketAddrNetlink::new(0, 0);
        for (turn, asked) in sockets.chunks(batch).enumerate() {
            let first = turn * batch;
            let mut bytes = Vec::with_capacity(asked.len() * MESSAGE);
            for (number, socket) in asked.iter().enumerate() {
                append(&mut bytes, command, first + number, socket);
            }
            rustix::net::sendto(&self.socket, &bytes, SendFlags::empty(), &kernel)?;
            self.read_answers(&mut answered)?;
        }
        Ok(())
    }

    /// Reads the answers that are there: the kernel has answered when `sendto` returns.
    fn read_answers(&self, answered: &mut impl FnMut(usize, i32)) -> Result<()> {
        const NLMSG_ERROR: u16 = 2;
        let mut buffer = [0; 16 * 1024];
        loop {
            let length = match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error).context("cannot read the answers"),
            };
            let mut rest = &buffer[..length];
            while rest.len() >= HEADER + 4 {
                let word = |at: usize| [rest[at], rest[at + 1], rest[at + 2], rest[at + 3]];
                let size = u32::from_ne_bytes(word(0)) as usize;
                let kind = u16::from_ne_bytes([rest[4], rest[5]]);
                if kind == NLMSG_ERROR {
                    answered(u32::from_ne_bytes(word(8)) as usize, i32::from_ne_bytes(word(16)));
                }
                rest = rest.get(size.max(HEADER).next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}
