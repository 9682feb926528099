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
//! | `outcomes` | [`crate::outcome::counter_index`] → [`crate::outcome::Count`], per processor |
//! | `names` | services first, then members → [`Name`]; for the next agent, not for programs |
//! | `meta` | 0 → [`Meta`]; what a starting agent reads first |

use crate::addr::{Addr, Port};

/// Version of everything in this crate that a pinned map holds. Part of every map's name.
pub const VERSION: u32 = 1;

/// Services of one host.
pub const MAX_SERVICES: u32 = 256;
/// Members of all services together.
pub const MAX_MEMBERS: u32 = 1024;
/// Addresses of one member: the first IPv4 and the first IPv6 address.
pub const SLOTS: u32 = 2;

/// The slot that holds a member's address of one family.
#[inline(always)]
#[must_use]
pub const fn slot_of(v6: bool) -> u32 {
    v6 as u32
}

/// Where a slot stands in its map.
#[inline(always)]
#[must_use]
pub const fn slot_index(member: u16, slot: u32) -> u32 {
    member as u32 * SLOTS + slot
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
}

/// One address of a member.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Where the member is; unset: the slot is empty.
    pub address: Addr,
    /// Source of translated flows: what the route to the member prefers.
    pub source: Addr,
    /// Changes when the address is taken out or replaced, so that flows to what was there before are told apart.
    pub generation: u32,
    /// The member's port.
    pub port: Port,
    /// Fills the word.
    pub reserved: u16,
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
    /// Inode of the network namespace that the programs are attached in.
    pub namespace: u64,
    /// `/proc/sys/kernel/random/boot_id`, text of 36 bytes.
    pub boot_id: [u8; 40],
}

/// Lets userspace maps hold these types.
#[cfg(feature = "user")]
mod pod {
    use super::{Meta, Name, Service, Slot, VipKey};
    use crate::{
        addr::{Addr, Tuple},
        flow::{Flow, Stub},
        outcome::Count,
    };

    macro_rules! plain_data {
        ($($type:ty),+) => { $(
            // SAFETY: the type is `repr(C)`, `Copy`, made of integers only and without padding (asserted below).
            unsafe impl aya::Pod for $type {}
        )+ };
    }
    plain_data!(Addr, Tuple, Flow, Stub, Count, VipKey, Service, Slot, Name, Meta);
}

/// Padding would be uninitialised memory in a map key, and a key that differs from itself.
const _: () = {
    use core::mem::offset_of;

    use crate::{
        addr::Tuple,
        flow::{Flow, Half, Stub},
    };
    assert!(size_of::<Tuple>() == 36);
    assert!(size_of::<Half>() == 12);
    assert!(size_of::<Flow>() == 40 + 3 * 64);
    assert!(offset_of!(Flow, member_side) == 40);
    assert!(offset_of!(Flow, client) == 40 + 64);
    assert!(offset_of!(Flow, replies) == 40 + 2 * 64);
    assert!(size_of::<Stub>() == 8 + 36 + 4);
    assert!(size_of::<VipKey>() == 20);
    assert!(size_of::<Service>() == 8);
    assert!(size_of::<Slot>() == 40);
    assert!(size_of::<Name>() == 68);
    assert!(size_of::<Meta>() == 56);
};
