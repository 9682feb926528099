//! Requests of traffic control over route netlink, one at a time and answered before the call returns.
//!
//! Not through the agent's own netlink connection: giving a claim back and removing pins are no asynchronous work.

use std::io;

use anyhow::{Context as _, Result, anyhow};
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload},
    packet_route::{RouteNetlinkMessage, tc::TcMessage},
};
use rustix::{
    fd::OwnedFd,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink},
};

/// More than the kernel puts into one message of a dump.
const BUFFER: usize = 64 * 1024;

/// Route netlink of the calling thread's network namespace.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl Socket {
    pub(super) fn open() -> Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE
            None,
        );
        Ok(Self(socket.context("cannot open a netlink socket")?))
    }

    /// Asks for a change.
    pub(super) fn change(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_ACK | flags)?;
        self.receive(|_| ())
    }

    /// Asks for a list. A device that is gone has nothing on it. What cannot be read stands there as a message that says
    /// nothing: somebody's filter of a kind that nobody here knows.
    pub(super) fn list(&self, message: RouteNetlinkMessage) -> Result<Vec<TcMessage>> {
        let mut found = Vec::new();
        let listed = self.send(message, NLM_F_DUMP).and_then(|()| {
            self.receive(|message| match message {
                Some(
                    RouteNetlinkMessage::NewQueueDiscipline(tc) | RouteNetlinkMessage::NewTrafficFilter(tc),
                ) => found.push(tc),
                Some(_) => {}
                None => found.push(TcMessage::default()),
            })
        });
        match listed {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(Vec::new()),
            Err(error) => Err(anyhow!(error)).context("cannot list what traffic control has"),
            Ok(()) => Ok(found),
        }
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

    /// Reads until the end of the answer.
    fn receive(&self, mut each: impl FnMut(Option<RouteNetlinkMessage>)) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let (length, _) = rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Ok(header) = NetlinkBuffer::new_checked(rest) {
                let size = header.length() as usize;
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest);
                match message.map(|message| message.payload) {
                    Ok(NetlinkPayload::InnerMessage(inner)) => each(Some(inner)),
                    Ok(NetlinkPayload::Error(error)) if error.code.is_some() => return Err(error.to_io()),
                    // The acknowledgement of a change, and the end of a list.
                    Ok(NetlinkPayload::Error(_) | NetlinkPayload::Done(_)) => return Ok(()),
                    Ok(_) => {}
                    Err(_) => each(None),
                }
                rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}
