//! The agent's side of the maps. `redirector-common` documents their layout.
//!
//! The agent writes decisions, floors and tables. It never writes a flow: see [`super::flows`].

use std::{
    collections::{self, HashSet},
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
};
use redirector_common::{
    addr::{Addr, Port},
    decision::Decision,
    flow::{Flow, Standing},
    layout::{MAX_MEMBERS, MAX_SERVICES, MAX_VIPS, Meta, Name, Service, VipKey},
    outcome::{Count, Outcome, counter_index},
};
use rustix::mm::{MapFlags, ProtFlags};

use super::{collect::HalfOpen, flows::Flows, programs::maps_dir, pulses::Pulses, slots::Slots};

/// An array map of 64-bit words, mapped into the agent: writing is one store, no system call.
#[derive(Debug)]
pub(super) struct Words {
    base: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the mapping is shared memory that is only touched through atomics and lives until `drop`.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    fn map(fd: BorrowedFd<'_>, count: usize) -> Result<Self> {
        let length = count * size_of::<u64>();
        // SAFETY: a fresh mapping at an address that the kernel chooses aliases nothing.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                0,
            )
        }
        .context("cannot map an array map into memory")?;
        let base = NonNull::new(base.cast()).context("an array map was mapped at address 0")?;
        Ok(Self { base, count })
    }

    pub(super) fn get(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.count, "word {index} of {}", self.count);
        // SAFETY: the index is within the mapping, which is page aligned and lives as long as `self`.
        unsafe { self.base.add(index).as_ref() }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` mapped; no reference outlives `self`.
        let _nothing_to_do_about_it =
            unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.count * size_of::<u64>()) };
    }
}

/// Decisions and floors: where new flows go, and which old ones may stay.
#[derive(Debug)]
pub(super) struct Steering {
    decisions: Words,
    floors: Words,
}

impl Steering {
    /// Where new flows of a service go.
    pub(super) fn decision(&self, service: u16) -> Decision {
        Decision::from_word(self.decisions.get(usize::from(service)).load(Ordering::Acquire))
    }

    /// A switch: one store, for all VIPs of the service together.
    pub(super) fn set_decision(&self, service: u16, decision: Decision) {
        self.decisions.get(usize::from(service)).store(decision.word(), Ordering::Release);
    }

    /// Refuses new connections. The epoch goes on, so that a later choice is told apart.
    pub(super) fn hold(&self, service: u16) {
        let epoch = self.decision(service).epoch.wrapping_add(1);
        self.set_decision(service, Decision { active: None, epoch });
    }

    /// Flows to a member with a lower epoch are stale.
    pub(super) fn floor(&self, member: u16) -> u64 {
        self.floors.get(usize::from(member)).load(Ordering::Acquire)
    }

    /// Raises the floor of a member; a lower one than there is changes nothing.
    pub(super) fn raise_floor(&self, member: u16, epoch: u64) {
        self.floors.get(usize::from(member)).fetch_max(epoch, Ordering::AcqRel);
    }

    /// A new member has no stale flows: its id may have been another one's, with other epochs.
    pub(super) fn reset_floor(&self, member: u16) {
        self.floors.get(usize::from(member)).store(0, Ordering::Release);
    }
}

/// The service id of every VIP.
pub(super) type Vips = collections::HashMap<SocketAddr, u16>;

/// All maps that the agent reads and writes.
pub(super) struct Maps {
    pub(super) steering: Arc<Steering>,
    pub(super) flows: Flows,
    /// How many flows are not established yet.
    pub(super) half_open: HalfOpen,
    /// Size of the flow table.
    pub(super) max_flows: u32,
    vips: HashMap<MapData, VipKey, u32>,
    vip_addresses: HashMap<MapData, Addr, u32>,
    pub(super) slots: Arc<Slots>,
    l3_devices: HashMap<MapData, u32, u32>,
    services: Array<MapData, Service>,
    /// When each service would admit the next connection, if it had no burst.
    opens: Array<MapData, u64>,
    names: Array<MapData, Name>,
    meta: Array<MapData, Meta>,
    outcomes: Arc<Outcomes>,
    pub(super) pulses: Arc<Pulses>,
    /// What programs report; `None`: somebody reads it.
    pub(super) signals: Option<Map>,
}

impl Maps {
    /// Takes the maps out of the loaded object.
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self> {
        Self::from(|name| programs.take_map(name).with_context(|| format!("the object has no map {name}")))
    }

    /// Opens what an earlier agent pinned.
    pub(super) fn open(pin_dir: &Path) -> Result<Self> {
        let dir = maps_dir(pin_dir);
        Self::from(|name| Ok(Map::from_map_data(MapData::from_pin(dir.join(name))?)?))
    }

    fn from(mut map: impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        let decisions = map("decisions_v4")?;
        let floors = map("floors_v4")?;
        let flows = map("flows_v4")?;
        Ok(Self {
            steering: Arc::new(Steering {
                decisions: Words::map(data_of(&decisions)?.fd().as_fd(), MAX_SERVICES as usize)?,
                floors: Words::map(data_of(&floors)?.fd().as_fd(), MAX_MEMBERS as usize)?,
            }),
            max_flows: data_of(&flows)?.info()?.max_entries(),
            flows: Flows::new(data_of(&flows)?.fd().as_fd(), data_of(&map("replies_v4")?)?.fd().as_fd())?,
            half_open: HalfOpen::new(
                data_of(&map("half_open_v4")?)?.fd().as_fd(),
                Words::map(data_of(&map("half_open_sums_v4")?)?.fd().as_fd(), MAX_SERVICES as usize)?,
            )?,
            vips: map("vips_v4")?.try_into()?,
            vip_addresses: map("vip_addrs_v4")?.try_into()?,
            slots: Arc::new(Slots::new(map("slots_v4")?.try_into()?)?),
            l3_devices: map("l3_devices_v4")?.try_into()?,
            services: map("services_v4")?.try_into()?,
            opens: map("opens_v4")?.try_into()?,
            names: map("names_v4")?.try_into()?,
            meta: map("meta_v4")?.try_into()?,
            outcomes: Arc::new(Outcomes(map("outcomes_v4")?.try_into()?)),
            pulses: Arc::new(Pulses::map(
                data_of(&map("pulses_v4")?)?.fd().as_fd(),
                map("answers_v4")?.try_into()?,
            )?),
            signals: Some(map("signals_v4")?),
        })
    }

    /// Whose maps these are.
    pub(super) fn meta(&self) -> Result<Meta> {
        Ok(self.meta.get(&0, 0)?)
    }

    /// Says whose maps these are.
    pub(super) fn set_meta(&mut self, meta: Meta) -> Result<()> {
        Ok(self.meta.set(0, meta, 0)?)
    }

    /// Which id belongs to which name.
    pub(super) fn names(&self) -> Result<Vec<Name>> {
        self.names.iter().map(|name| Ok(name?)).collect()
    }

    /// Gives an id a name.
    pub(super) fn set_name(&mut self, index: u32, name: Name) -> Result<()> {
        Ok(self.names.set(index, name, 0)?)
    }

    /// What programs know of a service besides its decision.
    pub(super) fn set_service(&mut self, service: u16, known: Service) -> Result<()> {
        let index = u32::from(service);
        if self.services.get(&index, 0)? != known {
            self.services.set(index, known, 0)?;
            // How long others have to wait was worked out for another rate: with this one it might be for minutes.
            self.opens.set(index, 0, 0)?;
        }
        Ok(())
    }

    /// Refuses VIPs that there is no room for, those that are there now among them.
    pub(super) fn check_vips(&self, wanted: &Vips) -> Result<()> {
        let known = self.vips.keys().filter_map(Result::ok);
        let keys: HashSet<_> = known.chain(wanted.keys().map(|vip| key_of(*vip))).collect();
        if keys.len() > MAX_VIPS as usize {
            bail!(
                "there is room for {MAX_VIPS} VIPs, those that go among them; configure fewer, or change them in steps"
            );
        }
        Ok(())
    }

    /// Makes `wanted` the VIPs, without a moment in which one that stays is missing. Addresses that are not wanted any
    /// more stay those of VIPs, of which every port is refused, until [`Self::forget_vip_addresses`].
    pub(super) fn set_vips(&mut self, wanted: &Vips) -> Result<()> {
        let mut keys = HashSet::new();
        for (vip, service) in wanted {
            let key = key_of(*vip);
            self.vip_addresses.insert(key.address, 1, 0).context("too many VIP addresses")?;
            self.vips.insert(key, u32::from(*service), 0).context("too many VIPs")?;
            keys.insert(key);
        }
        let surplus: Vec<_> =
            self.vips.keys().filter_map(Result::ok).filter(|key| !keys.contains(key)).collect();
        surplus.iter().try_for_each(|key| Ok(self.vips.remove(key)?))
    }

    /// Packets to addresses that are not of these VIPs are nobody's from now on: nothing is routed here for them any more.
    pub(super) fn forget_vip_addresses(&mut self, vips: &Vips) -> Result<()> {
        let addresses: HashSet<_> = vips.keys().map(|vip| Addr::from(vip.ip())).collect();
        let known = self.vip_addresses.keys().filter_map(Result::ok);
        let surplus: Vec<_> = known.filter(|address| !addresses.contains(address)).collect();
        surplus.iter().try_for_each(|address| Ok(self.vip_addresses.remove(address)?))
    }

    /// Says that these devices have no Ethernet header. To one of them packets leave without one.
    pub(super) fn add_l3_devices(&mut self, wanted: &HashSet<u32>) -> Result<()> {
        wanted.iter().try_for_each(|device| {
            self.l3_devices.insert(device, 1, 0).context("too many devices without Ethernet header")
        })
    }

    /// Says which devices have no Ethernet header.
    pub(super) fn set_l3_devices(&mut self, wanted: &HashSet<u32>) -> Result<()> {
        self.add_l3_devices(wanted)?;
        let surplus: Vec<_> =
            self.l3_devices.keys().filter_map(Result::ok).filter(|device| !wanted.contains(device)).collect();
        surplus.iter().try_for_each(|device| Ok(self.l3_devices.remove(device)?))
    }

    /// Packets and bytes by outcome, for somebody who reads many of them and keeps nobody waiting meanwhile.
    pub(super) fn outcomes(&self) -> Arc<Outcomes> {
        Arc::clone(&self.outcomes)
    }

    /// What decides whether flows are stale, for somebody who reads many of them and keeps nobody waiting meanwhile.
    pub(super) fn standings(&self) -> Standings {
        Standings { steering: Arc::clone(&self.steering), slots: Arc::clone(&self.slots) }
    }
}

/// What became of packets, since the maps were made.
pub(super) struct Outcomes(PerCpuArray<MapData, Count>);

impl Outcomes {
    /// Packets and bytes of an outcome, over all processors.
    pub(super) fn count(&self, outcome: Outcome, member: Option<u16>) -> Result<Count> {
        let per_cpu = self.0.get(&counter_index(outcome, member), 0)?;
        Ok(per_cpu.iter().fold(Count::default(), |sum, count| Count {
            packets: sum.packets + count.packets,
            bytes: sum.bytes + count.bytes,
        }))
    }
}

/// A VIP as the programs look it up.
fn key_of(vip: SocketAddr) -> VipKey {
    VipKey { address: vip.ip().into(), port: Port::new(vip.port()), protocol: VipKey::TCP }
}

/// What decides whether flows are stale.
pub(super) struct Standings {
    steering: Arc<Steering>,
    slots: Arc<Slots>,
}

impl Standings {
    /// Whether a flow's member was left, or its address taken away.
    pub(super) fn is_stale(&self, flow: &Flow) -> bool {
        let floor = self.steering.floor(flow.member);
        flow.is_stale(&Standing { floor, generation: self.slots.generation(flow.member, flow.slot) })
    }
}

/// aya's typed maps do not show what they are made of.
fn data_of(map: &Map) -> Result<&MapData> {
    match map {
        Map::Array(data) | Map::HashMap(data) => Ok(data),
        _ => bail!("neither an array nor a hash map"),
    }
}
