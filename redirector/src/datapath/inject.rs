//! Resets without waiting for a flow's next packet: the programs are asked for them ([`redirector_common::inject`]).
//!
//! A request leaves by the VIP device, as the client's next packet would, and the program there makes resets of it with
//! the flows' own numbers. That of a client enters the stack by the VIP device, where replies come from: masquerade,
//! forwarding and every check of reverse paths take it for one. That of a member goes the way of the flow's packets, past
//! netfilter, which knows nothing of this connection. The network stack in between sees neither.

use std::{
    ffi::CString,
    io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
    time::Duration,
};

use anyhow::{Context as _, Result};
use redirector_common::inject::{Ends, Frame, MOST, Target, for_all};

use super::flows::Named;

/// Lists handed over with one system call.
const BATCH: usize = 4;

/// How long an uplink may take to send what is queued there, before a pass gives up and leaves the rest to the next one.
const PATIENCE: Duration = Duration::from_millis(100);

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
        Ok(Self { socket, device })
    }

    /// Asks for one end of flows to be reset. Returns how many of them were asked for: the first ones. A list has one version of
    /// IP: where the other one begins, a new list does.
    pub(super) fn reset(&self, flows: &[Named], ends: Ends) -> io::Result<usize> {
        let versions = flows.chunk_by(|a, b| a.client_side.near.is_v4() == b.client_side.near.is_v4());
        let lists: Vec<_> = versions.flat_map(|version| version.chunks(MOST)).collect();
        let frame = |list: &&[Named]| for_all(&list.iter().map(target).collect::<Vec<_>>(), ends);
        // SAFETY: the name ends with NUL and lives until the call has returned.
        let device = unsafe { libc::if_nametoindex(self.device.as_ptr()) };
        if device == 0 {
            return Err(io::Error::last_os_error());
        }
        let mut sent = 0;
        while sent < lists.len() {
            let mut frames: Vec<_> = lists[sent..].iter().take(BATCH).map(frame).collect();
            match self.send(device, &mut frames) {
                Ok(more) => sent += more,
                // A program took this one and sent nothing on: its flow had ended, or there is no way to its member. The kernel
                // tells that in the same way as a queue that is full.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => sent += 1,
                Err(error) if sent == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(lists[..sent].iter().map(|list| list.len()).sum())
    }

    fn send<const N: usize>(&self, device: u32, frames: &mut [Frame<N>]) -> io::Result<usize> {
        let mut addresses: Vec<_> = frames.iter().map(|(frame, _)| address(device, frame)).collect();
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

const fn target(flow: &Named) -> Target {
    Target::new(flow.client_side, flow.incarnation)
}

#[allow(clippy::cast_possible_truncation)] // 20.
const ADDRESS: libc::socklen_t = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;

/// Where a frame goes: out of the device.
fn address<const N: usize>(device: u32, frame: &[u8; N]) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        #[allow(clippy::cast_possible_truncation)] // 17.
        sll_family: libc::AF_PACKET as u16,
        // As it stands there, in network byte order.
        sll_protocol: u16::from_ne_bytes([frame[12], frame[13]]),
        sll_ifindex: device.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    }
}
