//! Requests over a socket of one's own, one at a time and answered before the call returns.

use std::{io, thread};

use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage},
    packet_route::RouteNetlinkMessage,
};
use rustix::{
    fd::OwnedFd,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink},
};

use super::{Heard, PAUSE, TRIES, hear, restless};

/// More than the kernel puts into one message of a list.
const BUFFER: usize = 64 * 1024;

/// Route netlink of the calling thread's network namespace.
#[derive(Debug)]
pub(in super::super) struct Socket(OwnedFd);

impl Socket {
    pub(in super::super) fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE
            None,
        );
        Ok(Self(socket?))
    }

    /// Asks for a change.
    pub(in super::super) fn change(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_ACK | flags)?;
        self.receive(|_| ()).map(drop)
    }

    /// Asks for one thing.
    pub(in super::super) fn ask(
        &self,
        message: RouteNetlinkMessage,
    ) -> io::Result<Option<RouteNetlinkMessage>> {
        let mut answer = None;
        self.send(message, NLM_F_ACK)?;
        self.receive(|message| answer = message)?;
        Ok(answer)
    }

    /// Asks for a list. `None` is what cannot be read: somebody's filter of a kind that nobody here knows.
    pub(in super::super) fn list(
        &self,
        message: &RouteNetlinkMessage,
    ) -> io::Result<Vec<Option<RouteNetlinkMessage>>> {
        for _ in 0..TRIES {
            let mut found = Vec::new();
            self.send(message.clone(), NLM_F_DUMP)?;
            if self.receive(|message| found.push(message))? {
                return Ok(found);
            }
            thread::sleep(PAUSE);
        }
        Err(restless())
    }

    fn send(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.0, &bytes, SendFlags::empty(), &kernel)?;
        Ok(())
    }

    /// Reads until the end of the answer. Whether it is whole.
    fn receive(&self, mut each: impl FnMut(Option<RouteNetlinkMessage>)) -> io::Result<bool> {
        let mut buffer = vec![0; BUFFER];
        let mut whole = true;
        loop {
            let (length, _) = rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Ok(header) = NetlinkBuffer::new_checked(rest) {
                let size = header.length() as usize;
                whole &= header.flags() & NLM_F_DUMP_INTR == 0;
                match NetlinkMessage::deserialize(rest).map(|message| message.payload) {
                    Ok(payload) => match hear(payload)? {
                        Heard::Item(item) => each(Some(item)),
                        Heard::End => return Ok(whole),
                        Heard::Nothing => {}
                    },
                    Err(_) => each(None),
                }
                rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}
