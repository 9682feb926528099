//! The remaining map values, and the sizes and names of all maps.
//!
//! | map | key → value |
//! |---|---|
//! | `vips` | [`VipKey`] → service id |
//! | `vip_addresses` | [`crate::addr::Addr`] → 1 |
//! | `decisions` | service id → [`crate::decision::Decision`] as a word; mapped into the agent |
//! | `services` | service id → [`Service`] |
//! | `floors` | member id → the epoch below which its flows are stale; mapped into the agent |
//! | `slots` | member · [`SLOTS`] + slot → [`Slot`] |
//! | `flows` | client-side [`crate::addr::Tuple`] → [`crate::flow::Flow`] |
//! | `replies` | member-side [`crate::addr::Tuple`] → [`crate::flow::Stub`] |
//! | `half_open` | [`SourceKey`] → flows that are not established yet, of clients without a socket on this host |
//! | `half_open_sums` | service id → the same, of all sources; mapped into the agent |
//! | `fragments` | [`FragmentKey`] → [`Fragments`]; the longest unused one makes room |
//! | `l3_devices` | interface index of a device without Ethernet header → 1 |
//! | `continuations` | [`Continuation`] → program |
//! | `outcomes` | [`crate::outcome::counter_index`] → [`crate::outcome::Count`], per processor |
//! | `pulses` | member id → [`crate::signal::Pulse`]; mapped into the agent |
//! | `answers` | member id → replies that were looked at for an error, per processor |
//! | `signals` | ring buffer of [`crate::signal::Report`] |
//! | `opens` | service id → when the next connection would come if all kept the [`crate::rate::Rate`] |
//! | `names` | services first, then members → [`Name`]; for the next agent, not for programs |
//! | `meta` | 0 → [`Meta`]; what a starting agent reads first |

use core::net::{IpAddr, SocketAddr};

use crate::{
    addr::{Addr, Port, Tuple},
    rate::Rate,
};

/// Version of everything in this crate that a pinned map holds. Part of every map's name.
pub const VERSION: u32 = 4;

/// Services of one host.
pub const MAX_SERVICES: u32 = 1024;
/// Members of all services together.
pub const MAX_MEMBERS: u32 = 4096;
/// VIPs of all services together, and addresses that they have.
pub const MAX_VIPS: u32 = 4096;
/// Addresses of one member, IPv4 and IPv6 together.
pub const SLOTS: u32 = 16;
/// Source addresses of one slot.
pub const MAX_SOURCES: usize = 8;

/// Where a slot stands in its map.
#[inline(always)]
#[must_use]
pub const fn slot_index(member: u16, slot: u32) -> u32 {
    member as u32 * SLOTS + slot
}

/// Sources whose half-open flows are counted apart; further ones count for their service only.
pub const MAX_HALF_OPEN_SOURCES: u32 = 16_384;

/// Programs that the programs at the hooks hand a packet on to: whatever is not the way of a flow that lives. Each has a
/// stack of its own, and is verified by itself.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuation {
    /// What was routed to a VIP: ends, resets.
    FromClient = 0,
    /// What belongs to a member's side of a flow: ends, resets.
    FromMember = 1,
    /// What asks for a connection: opens a flow.
    Open = 2,
    /// What is answered with a reset; the outcome to be counted comes along.
    Refuse = 3,
    /// What cannot be read at a glance: fragments, extension headers, headers that lie out of reach. The [`Side`] comes
    /// along.
    Unread = 4,
    /// ICMP errors that were routed to a VIP.
    Icmp = 5,
    /// ICMP errors that an uplink received.
    IcmpIn = 6,
    /// The same on an uplink without Ethernet header.
    IcmpInL3 = 7,
    /// What the agent asks for: lists of flows that are to be reset or forgotten.
    Inject = 8,
}

impl Continuation {
    /// All of them, by their place in `continuations`, with the names of their programs.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::FromClient, "redirector_from_client"),
        (Self::FromMember, "redirector_from_member"),
        (Self::Open, "redirector_open"),
        (Self::Refuse, "redirector_refuse"),
        (Self::Unread, "redirector_unread"),
        (Self::Icmp, "redirector_icmp"),
        (Self::IcmpIn, "redirector_icmp_in"),
        (Self::IcmpInL3, "redirector_icmp_in_l3"),
        (Self::Inject, "redirector_inject"),
    ];
}

/// Where a packet came from, for the program that it is handed on to.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// This host routed it to the VIP device.
    Host = 0,
    /// An uplink received it.
    Uplink = 1,
}

/// Segments in fragments whose first one was carried a moment ago; the longest unused one makes room.
pub const MAX_FRAGMENTS: u32 = 4096;

/// What the fragments of a segment have in common.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Sender.
    pub near: Addr,
    /// Receiver.
    pub far: Addr,
    /// Identification, as it stands in the packet.
    pub id: u32,
}

/// What the first fragment of a segment said.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragments {
    /// As in [`crate::flow::Flow::incarnation`].
    pub incarnation: u64,
    /// Key of the flow.
    pub client_side: Tuple,
    /// A fragment that ends `n` bytes after the start of the first one reaches this plus `n` in sequence space.
    pub start: u32,
    /// 1: towards the member; 0: back.
    pub to_member: u32,
    /// Fills the word.
    pub reserved: u32,
}

/// A VIP.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VipKey {
    /// Its address.
    pub address: Addr,
    /// Its port.
    pub port: Port,
    /// Transport protocol; always [`VipKey::TCP`] so far.
    pub protocol: u16,
}

impl VipKey {
    /// IANA protocol number of TCP.
    pub const TCP: u16 = 6;
}

/// What programs know of a service besides its decision.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// After this the service is held; nanoseconds of `CLOCK_BOOTTIME`, 0: never.
    pub deadline: u64,
    /// The cap on new connections: nanoseconds from one to the next, 0: none. See [`Rate`].
    pub opens_interval_ns: u64,
    /// How far connections may come ahead of that, in nanoseconds.
    pub opens_burst_ns: u64,
}

impl Service {
    /// The cap on new connections.
    #[inline(always)]
    #[must_use]
    pub const fn rate(&self) -> Rate {
        Rate { interval: self.opens_interval_ns, burst: self.opens_burst_ns }
    }

    /// The same service with this cap.
    #[must_use]
    pub const fn with_rate(self, rate: Rate) -> Self {
        Self { opens_interval_ns: rate.interval, opens_burst_ns: rate.burst, ..self }
    }
}

/// One address of a member.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Where the member is; unset: the slot is empty.
    pub address: Addr,
    /// Changes when the address is taken out or replaced, so that flows to what was there before are told apart.
    pub generation: u32,
    /// The member's port.
    pub port: Port,
    /// [`Slot::OFFERED`], [`Slot::LOCAL`].
    pub flags: u16,
    /// How many of [`Slot::sources`] are filled in; 0: the client's own address is kept.
    pub source_count: u32,
    /// Fills the word.
    pub reserved: u32,
    /// Source addresses of translated flows: first what the route to the member prefers.
    pub sources: [Addr; MAX_SOURCES],
}

impl Slot {
    /// New flows may go there.
    pub const OFFERED: u16 = 1;
    /// The address is one of this host's own: no device leads there.
    pub const LOCAL: u16 = 2;
    /// The address is an IPv6 one.
    const V6: u16 = 4;

    /// A slot of generation 0 with these flags; the first [`MAX_SOURCES`] of `sources` are taken.
    #[must_use]
    pub fn new(address: SocketAddr, sources: &[IpAddr], flags: u16) -> Self {
        let mut slot = Self {
            address: address.ip().into(),
            port: Port::new(address.port()),
            flags: flags | if address.is_ipv6() { Self::V6 } else { 0 },
            ..Self::default()
        };
        for (to, from) in slot.sources.iter_mut().zip(sources) {
            *to = (*from).into();
            slot.source_count += 1;
        }
        slot
    }

    /// Whether a new flow of this IP version may go there.
    #[inline(always)]
    #[must_use]
    pub const fn is_offered(&self, v6: bool) -> bool {
        // One comparison: each one more multiplies what the verifier follows through a loop over slots.
        self.flags & (Self::OFFERED | Self::V6) == Self::OFFERED | (v6 as u16 * Self::V6)
    }

    /// Whether the address is one of this host's own.
    #[inline(always)]
    #[must_use]
    pub const fn is_local(&self) -> bool {
        self.flags & Self::LOCAL != 0
    }
}

/// Whose half-open flows are counted together.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceKey {
    /// Address of the clients.
    pub address: Addr,
    /// Service id.
    pub service: u32,
}

/// A name of a service or a member, so that ids keep their meaning over a restart. Padded with zeros.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// UTF-8; empty: the id is free.
    pub text: [u8; 64],
    /// For a member: the id of its service.
    pub service: u32,
}

/// Whose maps these are.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// [`VERSION`]; 0: the maps are new.
    pub version: u32,
    /// Fills the word.
    pub reserved: u32,
    /// Cookie (`SO_NETNS_COOKIE`, Linux 5.14) of the network namespace that the programs are attached in. An inode number may be
    /// given again to another one within a boot, a cookie never.
    pub namespace: u64,
    /// `/proc/sys/kernel/random/boot_id`, text of 36 bytes.
    pub boot_id: [u8; 40],
}

/// Lets userspace maps hold these types.
#[cfg(feature = "user")]
mod pod {
    use super::{FragmentKey, Fragments, Meta, Name, Service, Slot, SourceKey, VipKey};
    use crate::{
        addr::{Addr, Tuple},
        flow::{Flow, Stub},
        outcome::Count,
        signal::{Pulse, Report},
    };

    macro_rules! plain_data {
        ($($type:ty),+) => { $(
            // SAFETY: the type is `repr(C)`, `Copy`, made of integers only and without padding (asserted below).
            unsafe impl aya::Pod for $type {}
        )+ };
    }
    plain_data!(
        Addr,
        Tuple,
        Flow,
        Stub,
        Count,
        VipKey,
        Service,
        Slot,
        SourceKey,
        FragmentKey,
        Fragments,
        Name,
        Meta,
        Pulse,
        Report
    );
}

/// Padding would be uninitialised memory in a map key, and a key that differs from itself.
const _: () = {
    use core::mem::offset_of;

    use crate::flow::{Flow, Half, Stub};
    assert!(size_of::<Tuple>() == 36);
    assert!(size_of::<Half>() == 16);
    assert!(size_of::<Flow>() == 40 + 3 * 64);
    assert!(offset_of!(Flow, member_side) == 40);
    assert!(offset_of!(Flow, client) == 40 + 64);
    assert!(offset_of!(Flow, replies) == 40 + 2 * 64);
    assert!(size_of::<Stub>() == 8 + 36 + 4);
    assert!(size_of::<VipKey>() == 20);
    assert!(size_of::<SourceKey>() == 20);
    assert!(size_of::<FragmentKey>() == 36);
    assert!(size_of::<Fragments>() == 56);
    assert!(size_of::<Service>() == 24);
    assert!(size_of::<Slot>() == 32 + 16 * MAX_SOURCES);
    assert!(size_of::<Name>() == 68);
    assert!(size_of::<Meta>() == 56);
};
