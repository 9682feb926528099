//! What the routing socket of one network namespace says: which namespaces its links lead into, and its addresses.
//!
//! Asked in the calling thread, and answered at once: threads that enter namespaces have no runtime.

use std::{
    collections::HashSet,
    net::IpAddr,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use anyhow::{Context as _, Result, bail};
use rtnetlink::{
    packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{LinkAttribute, LinkMessage},
        nsid::{NsidAttribute, NsidMessage},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

/// A routing socket of the network namespace that the thread is in.
pub(super) struct Links {
    socket: Socket,
}

impl Links {
    pub(super) fn open() -> Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE).context("cannot open a netlink socket")?;
        Ok(Self { socket })
    }

    /// The numbers that this namespace has for those that its links lead into.
    pub(super) fn led_to(&mut self) -> Result<HashSet<i32>> {
        let mut numbers = HashSet::new();
        self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP, |answer| {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                numbers.extend(link.attributes.iter().filter_map(|attribute| match attribute {
                    LinkAttribute::LinkNetNsId(number) if *number >= 0 => Some(*number),
                    _ => None,
                }));
            }
        })
        .context("cannot list the links")?;
        Ok(numbers)
    }

    /// The number that this namespace has for another one; `None`: it has none for it.
    pub(super) fn number_of(&mut self, namespace: BorrowedFd<'_>) -> Result<Option<i32>> {
        let mut question = NsidMessage::default();
        question.attributes.push(NsidAttribute::Fd(namespace.as_raw_fd().cast_unsigned()));
        let mut number = None;
        self.ask(RouteNetlinkMessage::GetNsId(question), 0, |answer| {
            if let RouteNetlinkMessage::NewNsId(message) = answer {
                number = message.attributes.iter().find_map(|attribute| match attribute {
                    NsidAttribute::Id(number) if *number >= 0 => Some(*number),
                    _ => None,
                });
            }
        })
        .context("cannot ask for the number of a network namespace")?;
        Ok(number)
    }

    /// The addresses in this namespace.
    pub(super) fn addresses(&mut self) -> Result<HashSet<IpAddr>> {
        let mut addresses = HashSet::new();
        self.ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP, |answer| {
            if let RouteNetlinkMessage::NewAddress(message) = answer {
                // On a point-to-point device one of the two is the other end's: it is no socket's own, and finds none.
                addresses.extend(message.attributes.iter().filter_map(|attribute| match attribute {
                    AddressAttribute::Local(address) | AddressAttribute::Address(address) => Some(*address),
                    _ => None,
                }));
            }
        })
        .context("cannot list the addresses of a network namespace")?;
        Ok(addresses)
    }

    /// Asks, and calls `each` for every message of the answer.
    fn ask(
        &mut self,
        question: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> Result<()> {
        let mut message = NetlinkMessage::from(question);
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        loop {
            let (answer, _) = self.socket.recv_from_full()?;
            let mut rest = &answer[..];
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)?;
                let length = (message.header.length as usize).max(1).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => each(answer),
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) if error.code.is_some() => bail!(error.to_io()),
                    _ => {}
                }
            }
            if flags & NLM_F_DUMP == 0 {
                return Ok(());
            }
        }
    }
}
