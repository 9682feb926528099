//! Loading the kernel programs over maps that outlive the agent, and removing what is pinned.
//!
//! Maps are pinned from the start. A starting agent takes the pinned maps and loads its own programs over them;
//! `attach` lets them run.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::{Ebpf, EbpfLoader, maps::ProgramArray, programs::SchedClassifier, util::KernelVersion};

use redirector_common::layout::Continuation;
use tokio::task::JoinHandle;

use super::{attach, links, network::Device};
use crate::model::{Datapath, PortRange};

/// The kernel programs, built by the build script.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/redirector-ebpf"));

/// Maps that live as long as the pin directory does.
pub(super) const PINNED: [&str; 20] = [
    "vips_v4",
    "vip_addrs_v4",
    "decisions_v4",
    "services_v4",
    "floors_v4",
    "slots_v4",
    "flows_v4",
    "replies_v4",
    "continuations_v4",
    "fragments_v4",
    "l3_devices_v4",
    "outcomes_v4",
    "half_open_v4",
    "half_open_sums_v4",
    "pulses_v4",
    "answers_v4",
    "signals_v4",
    "opens_v4",
    "names_v4",
    META,
];

/// The one of them that says whose they are.
pub(super) const META: &str = "meta_v4";

/// Maps whose size the configuration sets.
pub(super) const SIZED: [&str; 2] = ["flows_v4", "replies_v4"];

/// Caps on flows that are not established yet, of clients without a socket on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    // Flags that older kernels refuse: see `settings.rs` of the kernel programs.
    /// Linux 6.16.
    const BPF_F_IPV6: u32 = 1 << 7;
    /// Linux 6.3.
    const BPF_FIB_LOOKUP_SKIP_NEIGH: u32 = 1 << 2;

    let mac = settings.device.mac;
    let words = [0, 2, 4].map(|at| u16::from_ne_bytes([mac[at], mac[at + 1]]));
    let first = u32::from(settings.port_range.first);
    let count = u32::from(settings.port_range.last) - first + 1;
    let kernel = KernelVersion::current().context("the kernel's version cannot be read")?;
    let since = |version, flag| if kernel >= version { flag } else { 0 };
    let ipv6_checksum_flag = since(KernelVersion::new(6, 16, 0), BPF_F_IPV6);
    let fib_lookup_flag = since(KernelVersion::new(6, 3, 0), BPF_FIB_LOOKUP_SKIP_NEIGH);
    let log = u32::from(settings.log);
    // A route is believed for 100 ms.
    let route_life = ticks_per_second() / 10;
    // A round trip of each flow is measured in about 128 ms, and a signal of a member reported in 10 ms.
    let sample_shift = (ticks_per_second() / 8).max(1).ilog2();
    let report_every = ticks_per_second().div_ceil(100);
    // Linux sends a SYN again after a second (TCP_TIMEOUT_INIT), and nobody data before 200 ms (TCP_RTO_MIN).
    let syn_again_after = ticks_per_second() / 10;

    let mut loader = EbpfLoader::new();
    loader
        .override_global("VIP_DEVICE", &settings.device.index, true)
        .override_global("VIP_DEVICE_MAC", &words[..], true)
        .override_global("PORT_FIRST", &first, true)
        .override_global("PORT_COUNT", &count, true)
        .override_global("IPV6_CHECKSUM_FLAG", &ipv6_checksum_flag, true)
        .override_global("FIB_LOOKUP_FLAG", &fib_lookup_flag, true)
        .override_global("HALF_OPEN_PER_SOURCE", &settings.half_open.per_source, true)
        .override_global("HALF_OPEN_PER_SERVICE", &settings.half_open.per_service, true)
        .override_global("ROUTE_LIFE", &route_life, true)
        .override_global("SAMPLE_SHIFT", &sample_shift, true)
        .override_global("REPORT_EVERY", &report_every, true)
        .override_global("SYN_AGAIN_AFTER", &syn_again_after, true)
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
pub(super) fn set_continuations(programs: &mut Ebpf) -> Result<()> {
    for (place, name) in Continuation::ALL {
        let program = classifier(programs, name)?.fd()?.try_clone()?;
        let map = programs.map_mut("continuations_v4").context("the object has no map continuations_v4")?;
        ProgramArray::try_from(map)?.set(place as u32, &program, 0)?;
    }
    Ok(())
}

/// Hands what the programs log to the agent's own log, until the task ends.
pub(super) fn forward_log(programs: &mut Ebpf) -> Result<JoinHandle<()>> {
    use tokio::io::{Interest, unix::AsyncFd};

    let logger = aya_log::EbpfLogger::init(programs).context("cannot read the programs' log")?;
    // SAFETY: the logger owns its descriptor and lives as long as the registration.
    let mut logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE)? };
    Ok(tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }))
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
    // Filters and links first: programs stop before their maps go, and maps tell whose a filter is.
    attach::remove_filters(pin_dir)?;
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
