//! Loading the kernel programs, and attaching them through links that outlive the agent.
//!
//! Maps and links are pinned from the start. A starting agent takes the pinned maps, loads its own programs over
//! them, and replaces what each pinned link runs in one step: no packet passes without a program, and there is
//! never a second copy on a hook.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::ProgramArray,
    programs::{
        LinkOrder, ProgramError, ProgramInfo, SchedClassifier, TcAttachType,
        links::{FdLink, LinkError, PinnedLink},
        tc::TcAttachOptions,
    },
    sys::SyscallError,
    util::KernelVersion,
};

use redirector_common::layout::Continuation;

use super::{links, network::Device};
use crate::model::{Datapath, PortRange};

/// The kernel programs, built by the build script.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/redirector-ebpf"));

/// Maps that live as long as the pin directory does.
pub(super) const PINNED: [&str; 16] = [
    "vips_v2",
    "vip_addrs_v2",
    "decisions_v2",
    "services_v2",
    "floors_v2",
    "slots_v2",
    "flows_v2",
    "replies_v2",
    "continuations_v2",
    "fragments_v2",
    "l3_devices_v2",
    "outcomes_v2",
    "half_open_v2",
    "half_open_sums_v2",
    "names_v2",
    META,
];

/// The one of them that says whose they are.
pub(super) const META: &str = "meta_v2";

/// Maps whose size the configuration sets.
pub(super) const SIZED: [&str; 2] = ["flows_v2", "replies_v2"];

/// Caps on flows that are not established yet, of clients without a socket on this host.
#[derive(Clone, Copy, Debug)]
pub struct HalfOpen {
    /// Of one source address, with one service.
    pub per_source: u32,
    /// Of all sources, with one service.
    pub per_service: u32,
}

impl HalfOpen {
    /// For a source an eighth of the flow table or a quarter of the source ports, for a service half of either; whichever
    /// is less. With one source address all flows to one member address share the ports: a flood that took them all
    /// would refuse everybody else as a full table does.
    #[must_use]
    pub fn of(max_flows: u32, ports: PortRange) -> Self {
        let ports = u32::from(ports.last - ports.first) + 1;
        Self {
            per_source: (max_flows / 8).min(ports / 4).max(1),
            per_service: (max_flows / 2).min(ports / 2).max(1),
        }
    }

    /// What the configuration says, or else the fractions.
    #[must_use]
    pub fn new(config: &Datapath) -> Self {
        let fractions = Self::of(config.max_flows, config.port_range);
        Self {
            per_source: config.half_open_per_source.unwrap_or(fractions.per_source),
            per_service: config.half_open_per_service.unwrap_or(fractions.per_service),
        }
    }
}

/// What programs are told when they are loaded.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The VIP device.
    pub device: Device,
    /// Source ports of the member side.
    pub port_range: PortRange,
    /// Size of the flow table, unless it is pinned already.
    pub max_flows: u32,
    /// Caps on flows that are not established yet.
    pub half_open: HalfOpen,
    /// Whether the slow path logs through aya-log.
    pub log: bool,
}

impl Settings {
    /// Out of the configuration.
    #[must_use]
    pub fn new(config: &Datapath, device: Device, log: bool) -> Self {
        let half_open = HalfOpen::new(config);
        Self { device, port_range: config.port_range, max_flows: config.max_flows, half_open, log }
    }
}

/// Where maps are pinned.
#[must_use]
pub fn maps_dir(pin_dir: &Path) -> PathBuf {
    pin_dir.join("maps")
}

/// Where links are pinned.
#[must_use]
pub fn links_dir(pin_dir: &Path) -> PathBuf {
    pin_dir.join("links")
}

/// Loads both programs. With a pin directory, maps that are pinned there are taken and the others are pinned.
pub fn load(settings: &Settings, pin_dir: Option<&Path>) -> Result<Ebpf> {
    /// `BPF_F_IPV6` (Linux 6.16): see `settings.rs` of the kernel programs.
    const BPF_F_IPV6: u32 = 1 << 7;

    let mac = settings.device.mac;
    let words = [0, 2, 4].map(|at| u16::from_ne_bytes([mac[at], mac[at + 1]]));
    let first = u32::from(settings.port_range.first);
    let count = u32::from(settings.port_range.last) - first + 1;
    let kernel = KernelVersion::current().context("the kernel's version cannot be read")?;
    let flag = if kernel >= KernelVersion::new(6, 16, 0) { BPF_F_IPV6 } else { 0 };
    let log = u32::from(settings.log);
    // A route is believed for 100 ms.
    let route_life = ticks_per_second() / 10;

    let mut loader = EbpfLoader::new();
    loader
        .override_global("VIP_DEVICE", &settings.device.index, true)
        .override_global("VIP_DEVICE_MAC", &words[..], true)
        .override_global("PORT_FIRST", &first, true)
        .override_global("PORT_COUNT", &count, true)
        .override_global("IPV6_CHECKSUM_FLAG", &flag, true)
        .override_global("HALF_OPEN_PER_SOURCE", &settings.half_open.per_source, true)
        .override_global("HALF_OPEN_PER_SERVICE", &settings.half_open.per_service, true)
        .override_global("ROUTE_LIFE", &route_life, true)
        .override_global("LOG", &log, true);
    for name in SIZED {
        loader.map_max_entries(name, settings.max_flows);
    }
    if let Some(pin_dir) = pin_dir {
        let dir = maps_dir(pin_dir);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        for name in PINNED {
            loader.map_pin_path(name, dir.join(name));
        }
    }
    let mut programs = loader.load(OBJECT).context("the kernel programs or their maps do not load")?;
    let hooks = [EGRESS, INGRESS, INGRESS_L3, CLOCK];
    for name in hooks.into_iter().chain(Continuation::ALL.map(|(_, name)| name)) {
        classifier(&mut programs, name)?
            .load()
            .with_context(|| format!("the kernel refuses the program {name}"))?;
    }
    set_continuations(&mut programs)?;
    Ok(programs)
}

/// Programs at the hooks hand packets on to these. Those of an earlier agent may do so as well from here on: what is
/// handed on is the packet as it came, and nothing else.
fn set_continuations(programs: &mut Ebpf) -> Result<()> {
    for (place, name) in Continuation::ALL {
        let program = classifier(programs, name)?.fd()?.try_clone()?;
        let map = programs.map_mut("continuations_v2").context("the object has no map continuations_v2")?;
        ProgramArray::try_from(map)?.set(place as u32, &program, 0)?;
    }
    Ok(())
}

/// How many ticks (jiffies) the kernel counts in a second: the resolution of its coarse clock.
pub(super) fn ticks_per_second() -> u32 {
    let tick = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
    u32::try_from(1_000_000_000 / tick.tv_nsec.max(1)).unwrap_or(u32::MAX)
}

/// Runs on egress of the VIP device.
pub const EGRESS: &str = "redirector_egress";
/// Runs when the agent asks it for the time.
pub const CLOCK: &str = "redirector_clock";
/// Runs on ingress of the uplinks.
pub const INGRESS: &str = "redirector_ingress";
/// Runs on ingress of uplinks without Ethernet header.
pub const INGRESS_L3: &str = "redirector_ingress_l3";

/// One of the two programs.
pub fn classifier<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = programs.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    Ok(program.try_into()?)
}

/// A device that replies come in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uplink {
    /// Interface index.
    pub index: u32,
    /// Its packets have Ethernet headers; those of a tunnel have none.
    pub ethernet: bool,
}

/// Attaches the programs to the VIP device and to the uplinks, over the links of an earlier agent where there are
/// some, and removes links to devices that are no uplinks any more.
pub fn attach(programs: &mut Ebpf, pin_dir: &Path, device: u32, uplinks: &[Uplink]) -> Result<()> {
    let dir = links_dir(pin_dir);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;

    let mut wanted = HashSet::new();
    // The way back is there before the way out is used.
    for uplink in uplinks {
        // Not the device's name: bpffs allows no dots.
        let pin = format!("ingress_{}", uplink.index);
        let name = if uplink.ethernet { INGRESS } else { INGRESS_L3 };
        attach_one(classifier(programs, name)?, &dir.join(&pin), uplink.index, TcAttachType::Ingress)?;
        wanted.insert(pin);
    }
    let pin = egress_pin(device);
    attach_one(classifier(programs, EGRESS)?, &dir.join(&pin), device, TcAttachType::Egress)?;
    wanted.insert(pin);

    for entry in fs::read_dir(&dir)? {
        let entry = entry?;
        if !wanted.contains(&*entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path())?;
            tracing::info!(link = %entry.path().display(), "removed the link to a device that is not used any more");
        }
    }
    Ok(())
}

/// Refuses a device that runs programs of an agent with another pin directory. Programs of others are welcome.
pub(super) fn refuse_foreign(pin_dir: &Path, device: &str, index: u32) -> Result<()> {
    // Not by the pin's name: a dead one's device may have had the index before.
    let ours = fs::read_dir(links_dir(pin_dir)).into_iter().flatten().flatten();
    let mut ours = ours.filter_map(|pin| links::look(&pin.path()).ok().flatten());
    if ours.any(|link| link.device == index && link.is_here().unwrap_or(false)) {
        return Ok(());
    }
    match SchedClassifier::query_tcx(device, TcAttachType::Egress) {
        Ok((_, found)) if !found.iter().any(is_ours) => return Ok(()),
        Ok(_) => {}
        // There are programs, and without CAP_SYS_ADMIN one may not look at them.
        Err(ProgramError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::PermissionDenied => {}
        Err(error) => return Err(error).with_context(|| format!("cannot ask what runs on {device}")),
    }
    bail!(
        "the device {device} belongs to an agent with another pin_dir than {}; give this one a device of its own in \
         [datapath], or uninstall the other one with its own configuration",
        pin_dir.display()
    )
}

/// Whether a program is one of an agent's, by its name; of that the kernel keeps 15 bytes.
pub(super) fn is_ours(program: &ProgramInfo) -> bool {
    [EGRESS, INGRESS]
        .iter()
        .any(|name| name.as_bytes().starts_with(program.name()) && program.name().len() == 15)
}

/// Name of the link's pin at the VIP device.
fn egress_pin(device: u32) -> String {
    format!("egress_{device}")
}

fn attach_one(program: &mut SchedClassifier, pin: &Path, device: u32, direction: TcAttachType) -> Result<()> {
    // Its device is gone, or it was moved: the index is another device's by now.
    if links::look(pin).is_ok_and(|link| link.is_none_or(|link| link.device != device)) {
        fs::remove_file(pin).with_context(|| format!("cannot remove the dead link {}", pin.display()))?;
        tracing::info!(link = %pin.display(), "removed the link of a device that is gone");
    }
    match PinnedLink::from_pin(pin) {
        Ok(pinned) => match program.attach_to_link(FdLink::from(pinned).try_into()?) {
            Ok(link) => {
                // The pin holds the link; this handle may go.
                drop(program.take_link(link)?);
                return Ok(());
            }
            // The device went away and its index was given anew: the link is dead.
            Err(ProgramError::SyscallError(SyscallError { io_error, .. }))
                if io_error.raw_os_error() == Some(libc::ENOLINK) =>
            {
                fs::remove_file(pin)?;
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot replace the program of {}", pin.display()));
            }
        },
        Err(LinkError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot open the link {}", pin.display())),
    }
    let name = rustix::net::netdevice::index_to_name(
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?,
        device,
    )
    .with_context(|| format!("there is no device with index {device}"))?;
    let link = program
        .attach_with_options(&name, direction, TcAttachOptions::TcxOrder(LinkOrder::default()))
        .with_context(|| format!("cannot attach to {direction:?} of {name}"))?;
    let link: FdLink = program.take_link(link)?.try_into()?;
    link.pin(pin).with_context(|| format!("cannot pin the link of {name} at {}", pin.display()))?;
    Ok(())
}

/// Removes every pin, and with it links, programs and maps; then the directory. Nothing to remove is no error, and what
/// is not Redirector's stays.
pub(super) fn remove_pins(pin_dir: &Path) -> Result<()> {
    remove_contents(pin_dir)?;
    match fs::remove_dir(pin_dir) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => bail!(
            "everything of Redirector's is removed, but not the pin directory {}: there is something else in it; \
             remove that",
            pin_dir.display()
        ),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove the pin directory {}", pin_dir.display()))
        }
        _ => Ok(()),
    }
}

/// The same, and the directory stays.
pub(super) fn remove_contents(pin_dir: &Path) -> Result<()> {
    // Links first: programs stop before their maps go.
    for dir in [links_dir(pin_dir), maps_dir(pin_dir)] {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", dir.display())),
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                bail!("{} is not Redirector's: remove it, then uninstall again", path.display());
            }
            if dir == links_dir(pin_dir)
                && let Err(error) = links::detach(&path)
            {
                tracing::warn!("{} ends only when the kernel frees it: {error}", path.display());
            }
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        fs::remove_dir(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    Ok(())
}

/// Whether this kernel has links for `tc` programs, so that pins tell which ones are attached: Linux 6.6.
pub(super) fn keeps_links() -> Result<bool> {
    let kernel = KernelVersion::current().context("the kernel's version cannot be read")?;
    Ok(kernel >= KernelVersion::new(6, 6, 0))
}
