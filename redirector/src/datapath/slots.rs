//! The addresses of members in the kernel: which slot holds which, and which of them new flows may go to.
//!
//! `plan` says what has to change, this module changes it. It has a lock of its own: a change of addresses does not wait
//! for somebody who reads the flow table, and so never delays a switch that comes after it.

mod plan;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::Result;
use aya::maps::{Array, MapData};
use redirector_common::layout::{SLOTS, Slot, slot_index};

use self::plan::{Held, Step, plan};
use crate::model::{MAX_ADDRESSES, Offer};

const _: () = assert!(MAX_ADDRESSES == SLOTS as usize);

/// What the routes to an address say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Way {
    /// Source addresses of flows to it; the first 8 are taken.
    pub(super) sources: Vec<IpAddr>,
    /// It is one of this host's own.
    pub(super) local: bool,
}

/// All slots of all members.
pub(super) struct Slots {
    map: Mutex<Array<MapData, Slot>>,
    /// Of every slot, so that a sweep asks the kernel for none.
    generations: Vec<AtomicU32>,
}

impl Slots {
    pub(super) fn new(map: Array<MapData, Slot>) -> Result<Self> {
        let generations =
            map.iter().map(|slot| Ok(AtomicU32::new(slot?.generation))).collect::<Result<_>>()?;
        Ok(Self { map: Mutex::new(map), generations })
    }

    /// The generation of a slot now.
    pub(super) fn generation(&self, member: u16, slot: u32) -> u32 {
        self.generations[slot_index(member, slot) as usize].load(Ordering::Acquire)
    }

    /// The addresses that the slots of a member hold, those that leave among them.
    pub(super) fn held(&self, member: u16) -> Result<Vec<Offer>> {
        Ok(self.lock().held(member)?.into_iter().flatten().collect())
    }

    /// Makes these the addresses of a member. Those that are gone keep their slots, without being offered, until
    /// [`Self::reset`] or until their room is needed; whether flows became stale by that is what is returned.
    ///
    /// `way` says how an address is reached, `flows` how many flows each slot has.
    pub(super) fn offer(
        &self,
        member: u16,
        wanted: &[Offer],
        way: impl Fn(SocketAddr) -> Way,
        flows: impl FnOnce() -> Result<[u64; MAX_ADDRESSES]>,
    ) -> Result<bool> {
        let mut table = self.lock();
        let held = table.held(member)?;
        let mut replaced = false;
        for step in plan(&held, wanted, flows)? {
            match step {
                Step::Put { slot, offer } => {
                    replaced |= held[slot].is_some();
                    table.replace(member, slot, filled(offer, &way(offer.address)))?;
                }
                Step::Offer { slot, offered } => {
                    let old = table.get(member, slot)?;
                    table.write(member, slot, with_flag(old, Slot::OFFERED, offered))?;
                }
            }
        }
        Ok(replaced)
    }

    /// Makes all flows to an address of a member stale. Its slot is emptied if it was `removed`.
    pub(super) fn reset(&self, member: u16, address: SocketAddr, removed: bool) -> Result<()> {
        let mut table = self.lock();
        for (slot, held) in table.held(member)?.into_iter().enumerate() {
            if held.is_some_and(|held| held.address == address) {
                let new = if removed { Slot::default() } else { table.get(member, slot)? };
                table.replace(member, slot, new)?;
            }
        }
        Ok(())
    }

    /// The addresses of these members are reached as `way` says, where it knows. Flows go on, but for those of an address
    /// that became this host's own or is no more: they would need another source. Whether there are such is returned.
    pub(super) fn reroute(
        &self,
        members: impl IntoIterator<Item = u16>,
        way: impl Fn(SocketAddr) -> Option<Way>,
    ) -> Result<bool> {
        let mut table = self.lock();
        let mut replaced = false;
        for member in members {
            replaced |= table.reroute(member, &way)?;
        }
        Ok(replaced)
    }

    /// No new flow goes to a member; those that it has go on.
    pub(super) fn withdraw(&self, member: u16) -> Result<()> {
        let mut table = self.lock();
        (0..MAX_ADDRESSES).try_for_each(|slot| match table.get(member, slot)? {
            old if old.flags & Slot::OFFERED == 0 => Ok(()),
            old => table.write(member, slot, with_flag(old, Slot::OFFERED, false)),
        })
    }

    /// Takes a member out: all flows to it become stale.
    pub(super) fn empty(&self, member: u16) -> Result<()> {
        let mut table = self.lock();
        (0..MAX_ADDRESSES).try_for_each(|slot| match table.get(member, slot)? {
            Slot { address, .. } if address.is_unset() => Ok(()),
            _ => table.replace(member, slot, Slot::default()),
        })
    }

    fn lock(&self) -> Table<'_> {
        // A panic while it was held left no half-written slot behind: every write is one system call.
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        Table { map, generations: &self.generations }
    }
}

/// The slots, while nobody else changes them.
struct Table<'a> {
    map: MutexGuard<'a, Array<MapData, Slot>>,
    generations: &'a [AtomicU32],
}

impl Table<'_> {
    fn get(&self, member: u16, slot: usize) -> Result<Slot> {
        Ok(self.map.get(&index(member, slot), 0)?)
    }

    fn held(&self, member: u16) -> Result<[Held; MAX_ADDRESSES]> {
        let mut all = [None; MAX_ADDRESSES];
        for (number, held) in all.iter_mut().enumerate() {
            let slot = self.get(member, number)?;
            let address = SocketAddr::new(slot.address.into(), slot.port.number());
            *held = (!slot.address.is_unset())
                .then_some(Offer { address, offered: slot.flags & Slot::OFFERED != 0 });
        }
        Ok(all)
    }

    /// Fills or empties a slot, with a generation that no flow has. In two steps: a program may read in between, and must
    /// not take an old address for one of the new generation.
    fn replace(&mut self, member: u16, slot: usize, new: Slot) -> Result<()> {
        let generation = self.get(member, slot)?.generation.wrapping_add(1);
        self.write(member, slot, Slot { generation, ..Slot::default() })?;
        if new.address.is_unset() {
            return Ok(());
        }
        self.write(member, slot, Slot { generation: generation.wrapping_add(1), ..new })
    }

    fn reroute(&mut self, member: u16, way: impl Fn(SocketAddr) -> Option<Way>) -> Result<bool> {
        let mut replaced = false;
        for (slot, held) in self.held(member)?.into_iter().enumerate() {
            let Some((held, way)) = held.and_then(|held| Some((held, way(held.address)?))) else { continue };
            let (old, new) = (self.get(member, slot)?, filled(held, &way));
            if old.is_local() != new.is_local() {
                self.replace(member, slot, new)?;
                replaced = true;
            } else if (Slot { generation: old.generation, ..new }) != old {
                self.write(member, slot, Slot { generation: old.generation, ..new })?;
            }
        }
        Ok(replaced)
    }

    fn write(&mut self, member: u16, slot: usize, value: Slot) -> Result<()> {
        self.map.set(index(member, slot), value, 0)?;
        self.generations[index(member, slot) as usize].store(value.generation, Ordering::Release);
        Ok(())
    }
}

/// As the map holds it, of generation 0.
fn filled(offer: Offer, way: &Way) -> Slot {
    let flags = u16::from(offer.offered) * Slot::OFFERED + u16::from(way.local) * Slot::LOCAL;
    Slot::new(offer.address, &way.sources, flags)
}

fn with_flag(slot: Slot, flag: u16, on: bool) -> Slot {
    Slot { flags: if on { slot.flags | flag } else { slot.flags & !flag }, ..slot }
}

#[allow(clippy::cast_possible_truncation)] // At most 15.
fn index(member: u16, slot: usize) -> u32 {
    slot_index(member, slot as u32)
}
