//! Says when something about the network may have changed. What it was, nobody asks here: whoever wants to know looks.

use std::{io, os::fd::OwnedFd};

use anyhow::{Context as _, Result};
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink},
};
use tokio::io::{Interest, unix::AsyncFd};

/// `enum rtnetlink_groups` (`include/uapi/linux/rtnetlink.h`): links, addresses, routes and rules of both IP versions,
/// per-device settings like `forwarding`, next-hop objects; and filters, which hold the programs where there is no tcx.
const GROUPS: [u32; 11] = [1, 4, 5, 7, 8, 9, 11, 19, 24, 25, 32];

/// A netlink socket that hears of changes.
#[derive(Debug)]
pub(super) struct Events {
    socket: AsyncFd<OwnedFd>,
}

impl Events {
    /// From now on no change is missed. Needs a tokio runtime.
    pub(super) fn open() -> Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            // The protocol with number 0, `NETLINK_ROUTE`.
            None,
        )
        .context("cannot open a netlink socket")?;
        let groups = GROUPS.iter().fold(0, |groups, group| groups | 1 << (group - 1));
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))
            .context("cannot subscribe to changes of links, addresses and routes")?;
        // SAFETY: an `OwnedFd` owns its descriptor, and lives as long as the registration.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE)? };
        Ok(Self { socket })
    }

    /// Waits until something has changed. Nothing is lost when the wait is dropped.
    pub(super) async fn wait(&mut self) -> io::Result<()> {
        let mut ready = self.socket.readable().await?;
        ready.retain_ready();
        Ok(())
    }

    /// Forgets what has changed up to now.
    pub(super) fn forget(&mut self) -> io::Result<()> {
        // Of each message its beginning, which takes it off the queue.
        let mut beginning = [0; 16];
        loop {
            let taken = self.socket.try_io(Interest::READABLE, |socket| {
                match rustix::net::recv(socket, &mut beginning[..], RecvFlags::DONTWAIT) {
                    // More changes than the socket holds: what was lost is to be looked at as well.
                    Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            });
            match taken {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
