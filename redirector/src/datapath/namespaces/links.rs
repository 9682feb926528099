//! What the routing socket of one network namespace says: which namespaces its links lead into, and its addresses.
//!
//! Asked in the calling thread, and answered at once: threads that enter namespaces have no runtime.

use std::{
    collections::HashSet,
    io,
    net::IpAddr,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use anyhow::{Context as _, Result};
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkMessage},
    nsid::{NsidAttribute, NsidMessage},
};

use super::super::netlink::Socket;

/// A routing socket of the network namespace that the thread is in.
pub(super) struct Links {
    socket: Socket,
}

impl Links {
    pub(super) fn open() -> Result<Self> {
        let socket = Socket::open().context("cannot open a netlink socket")?;
        Ok(Self { socket })
    }

    /// The numbers that this namespace has for those that its links lead into.
    pub(super) fn led_to(&self) -> Result<HashSet<i32>> {
        let links = self
            .list(&RouteNetlinkMessage::GetLink(LinkMessage::default()))
            .context("cannot list the links")?;
        let number = |attribute: LinkAttribute| match attribute {
            LinkAttribute::LinkNetNsId(number) if number >= 0 => Some(number),
            _ => None,
        };
        let numbers = |answer| match answer {
            RouteNetlinkMessage::NewLink(link) => link.attributes.into_iter().find_map(number),
            _ => None,
        };
        Ok(links.into_iter().filter_map(numbers).collect())
    }

    /// The number that this namespace has for another one; `None`: it has none for it.
    pub(super) fn number_of(&self, namespace: BorrowedFd<'_>) -> Result<Option<i32>> {
        let mut question = NsidMessage::default();
        question.attributes.push(NsidAttribute::Fd(namespace.as_raw_fd().cast_unsigned()));
        let answer = self
            .socket
            .ask(RouteNetlinkMessage::GetNsId(question))
            .context("cannot ask for the number of a network namespace")?;
        let number = |attribute: &NsidAttribute| match attribute {
            NsidAttribute::Id(number) if *number >= 0 => Some(*number),
            _ => None,
        };
        Ok(match answer {
            Some(RouteNetlinkMessage::NewNsId(message)) => message.attributes.iter().find_map(number),
            _ => None,
        })
    }

    /// The addresses in this namespace.
    pub(super) fn addresses(&self) -> Result<HashSet<IpAddr>> {
        let all = self
            .list(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))
            .context("cannot list the addresses of a network namespace")?;
        // On a point-to-point device one of the two is the other end's: it is no socket's own, and finds none.
        let address = |attribute| match attribute {
            AddressAttribute::Local(address) | AddressAttribute::Address(address) => Some(address),
            _ => None,
        };
        let addresses = |answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => message.attributes,
            _ => Vec::new(),
        };
        Ok(all.into_iter().flat_map(addresses).filter_map(address).collect())
    }

    fn list(&self, question: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let readable = |answer: Option<_>| answer.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData));
        self.socket.list(question)?.into_iter().map(readable).collect()
    }
}
