//! Resets without waiting for a flow's next packet, for clients whose socket cannot be destroyed: the programs are asked
//! for them ([`redirector_common::inject`]).
//!
//! A request leaves by the VIP device, as the client's next packet would, and the program there makes two resets of it with
//! the flow's own numbers. That of the client enters the stack by the VIP device, where replies come from: masquerade,
//! forwarding and every check of reverse paths take it for one. That of the member goes the way of the flow's packets, past
//! netfilter, which knows nothing of this connection. The network stack in between sees neither.

use std::{
    ffi::CString,
    io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
    time::Duration,
};

use anyhow::{Context as _, Result};
use redirector_common::inject::{LONGEST, request};

use super::flows::Named;

/// Requests handed over with one system call.
const BATCH: usize = 128;

/// How long an uplink may take to send what is queued there, before a pass gives up and leaves the rest to the next one.
const PATIENCE: Duration = Duration::from_millis(100);

/// A packet socket that only sends.
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
        Ok(Self { socket, device })
    }

    /// Asks for both ends of each flow to be reset. Returns how many of them were asked for: the first ones.
    pub(super) fn reset(&self, flows: &[Named]) -> io::Result<usize> {
        // SAFETY: the name ends with NUL and lives until the call has returned.
        let device = unsafe { libc::if_nametoindex(self.device.as_ptr()) };
        if device == 0 {
            return Err(io::Error::last_os_error());
        }
        let mut asked = 0;
        while asked < flows.len() {
            let rest = &flows[asked..];
            match self.send(device, &rest[..rest.len().min(BATCH)]) {
                Ok(sent) => asked += sent,
                // A program took this one and sent nothing on: its flow had ended, or there is no way to its member. The kernel
                // tells that in the same way as a queue that is full.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => asked += 1,
                Err(error) if asked == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(asked)
    }

    fn send(&self, device: u32, flows: &[Named]) -> io::Result<usize> {
        let mut frames: Vec<([u8; LONGEST], usize)> =
            flows.iter().map(|flow| request(&flow.client_side, flow.incarnation)).collect();
        let mut addresses: Vec<_> = flows.iter().map(|flow| address(device, flow)).collect();
        let mut vectors: Vec<_> = frames
            .iter_mut()
            .map(|(frame, length)| libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: *length })
            .collect();
        let mut messages: Vec<_> = addresses
            .iter_mut()
            .zip(&mut vectors)
            .map(|(address, vector)| libc::mmsghdr {
                msg_hdr: libc::msghdr {
                    msg_name: ptr::from_mut(address).cast(),
                    msg_namelen: ADDRESS,
                    msg_iov: vector,
                    msg_iovlen: 1,
                    msg_control: ptr::null_mut(),
                    msg_controllen: 0,
                    msg_flags: 0,
                },
                msg_len: 0,
            })
            .collect();
        let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
        // SAFETY: every message leads to an address and a frame of the lengths that are given, and all of them live until
        // the call has returned.
        let sent = unsafe { libc::sendmmsg(self.socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

#[allow(clippy::cast_possible_truncation)] // 20.
const ADDRESS: libc::socklen_t = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;

/// Where a request goes: out of the device.
fn address(device: u32, flow: &Named) -> libc::sockaddr_ll {
    let protocol = if flow.client_side.near.is_v4() { libc::ETH_P_IP } else { libc::ETH_P_IPV6 };
    libc::sockaddr_ll {
        #[allow(clippy::cast_possible_truncation)] // 17.
        sll_family: libc::AF_PACKET as u16,
        #[allow(clippy::cast_possible_truncation)] // 16 bits by definition.
        sll_protocol: (protocol as u16).to_be(),
        sll_ifindex: device.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    }
}
