//! Resets without waiting for a flow's next packet: the programs are asked for them ([`redirector_common::inject`]).
//!
//! A request lists flows and leaves by the VIP device, as a client's next packet would, and the program there makes resets of
//! it with the flows' own numbers. That of a client enters the stack by the VIP device, where replies come from: masquerade,
//! forwarding and every check of reverse paths take it for one. That of a member goes the way of the flow's packets, past
//! netfilter, which knows nothing of this connection. The network stack in between sees neither.

use std::{
    ffi::CString,
    io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, Result};
use redirector_common::inject::{MOST, Order, Target, for_all};

/// How long an uplink may take to send what is queued there, before a pass gives up and leaves the rest to the next one.
const PATIENCE: Duration = Duration::from_millis(100);

/// What may be on its way at once, in bytes; the kernel doubles it. Some 14 lists, whose copies wait in the queue of an uplink, which
/// holds 1000 packets by default and tells nobody when it drops one.
const ROOM: usize = 16 * 1024;

/// A packet socket that only sends, for any number of threads.
#[derive(Debug)]
pub(super) struct Injector {
    socket: OwnedFd,
    /// Of the VIP device, whose index may change.
    device: CString,
}

impl Injector {
    /// Sends by the VIP device with this name.
    pub(super) fn open(device: &str) -> Result<Self> {
        let device = CString::new(device).context("the VIP device's name contains NUL")?;
        // Protocol 0: it receives nothing.
        // SAFETY: no pointer is involved.
        let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if socket < 0 {
            return Err(io::Error::last_os_error()).context(
                "cannot open a packet socket, by which resets are sent (CAP_NET_RAW, CONFIG_PACKET)",
            );
        }
        // SAFETY: the kernel has just given this descriptor, to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Send,
            Some(PATIENCE),
        )?;
        rustix::net::sockopt::set_socket_send_buffer_size(&socket, ROOM)?;
        Ok(Self { socket, device })
    }

    /// Gives the programs an order for flows. Returns how many of them they were given: the first ones. A list has one version of
    /// IP: where the other one begins, a new list does.
    pub(super) fn send(&self, flows: &[Target], order: Order) -> io::Result<usize> {
        // SAFETY: the name ends with NUL and lives until the call has returned.
        let device = unsafe { libc::if_nametoindex(self.device.as_ptr()) };
        if device == 0 {
            return Err(io::Error::last_os_error());
        }
        let versions = flows.chunk_by(|a, b| a.client_side.near.is_v4() == b.client_side.near.is_v4());
        let mut sent = 0;
        for list in versions.flat_map(|version| version.chunks(MOST)) {
            let (frame, length) = for_all(list, order);
            match self.send_frame(device, &frame[..length]) {
                Ok(()) => sent += list.len(),
                Err(error) if sent == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(sent)
    }

    fn send_frame(&self, device: u32, frame: &[u8]) -> io::Result<()> {
        let address = libc::sockaddr_ll {
            #[allow(clippy::cast_possible_truncation)] // 17.
            sll_family: libc::AF_PACKET as u16,
            // As it stands there, in network byte order.
            sll_protocol: u16::from_ne_bytes([frame[12], frame[13]]),
            sll_ifindex: device.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [0; 8],
        };
        // SAFETY: frame and address have the lengths that are given, and live until the call has returned.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                ADDRESS,
            )
        };
        let error = io::Error::last_os_error();
        // A program took it and sent nothing on, or not at the end: the last flow had ended, or was to be forgotten. The kernel
        // tells that in the same way as a queue that is full.
        if sent >= 0 || error.raw_os_error() == Some(libc::ENOBUFS) { Ok(()) } else { Err(error) }
    }
}

#[allow(clippy::cast_possible_truncation)] // 20.
const ADDRESS: libc::socklen_t = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
