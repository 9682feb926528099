//! Programs on hooks without links: filters of the queueing discipline `clsact` (Linux 4.5), for kernels before 6.6.
//!
//! A filter stays until somebody removes it; nothing of it is pinned, and nothing about it is written down. What an agent
//! needs to know is in the kernel:
//!
//! * **Which filters are its own?** Those that run a program over the maps of its pin directory.
//! * **Where are they?** At [`PRIORITY`], behind whatever the kernel numbers by itself (49152 and below), so that the
//!   filters of others keep their place. Agents with other pin directories share the priority: handles tell them apart.
//! * **Who made the queueing discipline?** An agent, where the handle says so ([`MADE_QDISC`]). The agent that removes
//!   such a filter removes the queueing discipline with it, unless another filter is there.
//!
//! A program is replaced in place, by priority and handle: one assignment in the kernel (`cls_bpf_change`), so that no
//! packet meets none or two. Programs return -1 for what they leave alone, which is `TC_ACT_UNSPEC` here: the next filter.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result, bail};
use aya::programs::SchedClassifier;
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        RouteNetlinkMessage,
        tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption},
    },
};

use super::{super::netlink::Socket, Hook, Place};

/// Priority of every filter of Redirector's.
const PRIORITY: u16 = 50_000;

/// Handles of Redirector's filters begin here: "RD".
const FIRST_HANDLE: u32 = 0x5244_0001;

/// In a handle: the agent that made the filter also made the queueing discipline.
const MADE_QDISC: u32 = 0x8000;

/// `ETH_P_ALL` in network byte order: packets of all protocols.
const ALL_PROTOCOLS: u16 = 3_u16.to_be();

/// Both hooks of a device.
fn places(device: u32) -> [Place; 2] {
    [Place { device, hook: Hook::Ingress }, Place { device, hook: Hook::Egress }]
}

/// The class of `clsact` that a hook is.
fn parent(hook: Hook) -> TcHandle {
    let minor = match hook {
        Hook::Ingress => TcHandle::MIN_INGRESS,
        Hook::Egress => TcHandle::MIN_EGRESS,
    };
    TcHandle { major: u16::MAX, minor }
}

/// A filter at [`PRIORITY`], an agent's, though not necessarily this one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) place: Place,
    handle: u32,
    /// The program's number, which the kernel gives once in a boot.
    pub(super) program: u32,
}

impl Filter {
    fn header(&self) -> TcHeader {
        let info = u32::from(PRIORITY) << 16 | u32::from(ALL_PROTOCOLS);
        TcHeader { handle: self.handle.into(), info, ..at(self.place) }
    }
}

/// Traffic control of this network namespace.
#[derive(Debug)]
pub(super) struct Control {
    socket: Socket,
}

impl Control {
    pub(super) fn open() -> Result<Self> {
        Ok(Self { socket: Socket::open().context("cannot open a netlink socket")? })
    }

    /// Lets `program` run on a hook: in the place of the first of `own` filters that is there, or at the end of all.
    pub(super) fn attach(
        &self,
        program: &SchedClassifier,
        name: &str,
        place: Place,
        own: &[Filter],
    ) -> Result<()> {
        let mut there = own.iter().filter(|filter| filter.place == place);
        match there.next() {
            Some(filter) => self.set(program, name, filter, 0).context("cannot replace the filter")?,
            None => self.add(program, name, place)?,
        }
        // There is one; whatever made a second one is no reason to keep it.
        there.try_for_each(|filter| self.remove(filter))
    }

    fn add(&self, program: &SchedClassifier, name: &str, place: Place) -> Result<()> {
        let made = if self.ensure_qdisc(place.device)? { MADE_QDISC } else { 0 };
        loop {
            let taken = self.filters(place)?;
            let is_free = |handle: &u32| taken.iter().all(|filter| filter.handle & !MADE_QDISC != *handle);
            let handle = (FIRST_HANDLE..).find(is_free).unwrap_or(FIRST_HANDLE) | made;
            match self.set(program, name, &Filter { place, handle, program: 0 }, NLM_F_CREATE | NLM_F_EXCL) {
                // Another agent took the handle in between.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other.context("cannot make a filter"),
            }
        }
    }

    /// Makes a filter, or changes what it runs.
    fn set(&self, program: &SchedClassifier, name: &str, filter: &Filter, flags: u16) -> io::Result<()> {
        let program = program.fd().map_err(io::Error::other)?;
        let descriptor = program.as_fd().as_raw_fd().cast_unsigned();
        let options = vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(descriptor)),
            TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned())),
            // What the program returns is what becomes of the packet.
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ];
        let attributes = vec![TcAttribute::Kind("bpf".into()), TcAttribute::Options(options)];
        let message = message(filter.header(), attributes);
        self.socket.change(RouteNetlinkMessage::NewTrafficFilter(message), flags)
    }

    /// Removes a filter, and the queueing discipline if an agent made it and no other filter is there. One that is gone
    /// is no error.
    pub(super) fn remove(&self, filter: &Filter) -> Result<()> {
        let Filter { place: Place { device, .. }, handle, .. } = *filter;
        let attributes = vec![TcAttribute::Kind("bpf".into())];
        let message = message(filter.header(), attributes);
        gone_is_fine(self.socket.change(RouteNetlinkMessage::DelTrafficFilter(message), 0))
            .with_context(|| format!("cannot remove the filter {handle:#x} of priority {PRIORITY}"))?;
        if handle & MADE_QDISC != 0 && !self.is_used(device)? {
            let qdisc = self::message(qdisc_header(device), Vec::new());
            gone_is_fine(self.socket.change(RouteNetlinkMessage::DelQueueDiscipline(qdisc), 0))
                .with_context(|| format!("cannot remove clsact of the device with index {device}"))?;
        }
        Ok(())
    }

    /// The filters of all agents, on all devices.
    pub(super) fn all_filters(&self) -> Result<Vec<Filter>> {
        let mut found = Vec::new();
        for device in self.devices()? {
            for place in places(device) {
                found.extend(self.filters(place)?);
            }
        }
        Ok(found)
    }

    /// The filters of all agents on one hook.
    pub(super) fn filters(&self, place: Place) -> Result<Vec<Filter>> {
        Ok(self.list(place)?.iter().filter_map(|message| filter_of(message, place)).collect())
    }

    /// The filters of everybody on one hook.
    fn list(&self, place: Place) -> Result<Vec<TcMessage>> {
        self.ask_for_list(&RouteNetlinkMessage::GetTrafficFilter(message(at(place), Vec::new())))
    }

    /// A device that is gone has nothing on it. What cannot be read stands there as a message that says nothing.
    fn ask_for_list(&self, question: &RouteNetlinkMessage) -> Result<Vec<TcMessage>> {
        let listed = match self.socket.list(question) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Vec::new(),
            listed => listed.context("cannot list what traffic control has")?,
        };
        let of_control = |message| match message {
            Some(RouteNetlinkMessage::NewQueueDiscipline(tc) | RouteNetlinkMessage::NewTrafficFilter(tc)) => {
                Some(tc)
            }
            Some(_) => None,
            None => Some(TcMessage::default()),
        };
        Ok(listed.into_iter().filter_map(of_control).collect())
    }

    /// Whether any filter is on the device.
    fn is_used(&self, device: u32) -> Result<bool> {
        for place in places(device) {
            if !self.list(place)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Devices that have `clsact`, or `ingress`, its older form for one direction.
    fn devices(&self) -> Result<Vec<u32>> {
        let all = self.ask_for_list(&RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()))?;
        let takes_filters = |message: &&TcMessage| {
            message.attributes.iter().any(
                |attribute| matches!(attribute, TcAttribute::Kind(kind) if kind == "clsact" || kind == "ingress"),
            )
        };
        Ok(all.iter().filter(takes_filters).map(|message| message.header.index.cast_unsigned()).collect())
    }

    /// Makes `clsact` where it is missing. Whether it was.
    fn ensure_qdisc(&self, device: u32) -> Result<bool> {
        if self.devices()?.contains(&device) {
            return Ok(false);
        }
        let qdisc = message(qdisc_header(device), vec![TcAttribute::Kind("clsact".into())]);
        let made =
            self.socket.change(RouteNetlinkMessage::NewQueueDiscipline(qdisc), NLM_F_CREATE | NLM_F_EXCL);
        match made {
            Ok(()) => Ok(true),
            // Somebody was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => bail!(
                "the kernel knows no clsact; load its modules sch_ingress and cls_bpf (CONFIG_NET_SCH_INGRESS, \
                 CONFIG_NET_CLS_BPF)"
            ),
            Err(error) => Err(error).context("cannot make clsact"),
        }
    }
}

/// A filter of a list, if it is at [`PRIORITY`] and runs a program.
fn filter_of(message: &TcMessage, place: Place) -> Option<Filter> {
    if message.header.info >> 16 != u32::from(PRIORITY) {
        return None;
    }
    let options = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    let program = options.iter().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
        _ => None,
    })?;
    Some(Filter { place, handle: message.header.handle.into(), program })
}

fn gone_is_fine(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        // No such device; no such queueing discipline, then no such priority; no such handle.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::ENOENT)) => {
            Ok(())
        }
        other => other,
    }
}

fn at(place: Place) -> TcHeader {
    TcHeader { index: place.device.cast_signed(), parent: parent(place.hook), ..TcHeader::default() }
}

fn qdisc_header(device: u32) -> TcHeader {
    let handle = TcHandle { major: u16::MAX, minor: 0 };
    TcHeader { index: device.cast_signed(), handle, parent: TcHandle::CLSACT, ..TcHeader::default() }
}

fn message(header: TcHeader, attributes: Vec<TcAttribute>) -> TcMessage {
    let mut message = TcMessage::default();
    message.header = header;
    message.attributes = attributes;
    message
}
