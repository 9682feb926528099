//! Where the programs run, and how they stay there when the agent goes.
//!
//! | way | Linux | what keeps a program on its hook | how it is replaced |
//! |---|---|---|---|
//! | [`Way::Tcx`] | 6.6 | a link, pinned below the pin directory | `BPF_LINK_UPDATE` |
//! | [`Way::Clsact`] | 4.5 | a filter of the queueing discipline `clsact` | the filter, in place |
//!
//! Either way it is one step: no packet passes without a program, and there is never a second copy on a hook. Both put
//! the programs behind those of others that are there already. A start that goes the other way than the agent before
//! attaches first and detaches then: in between both run, and the second one finds nothing to do.

mod clsact;
mod tcx;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf,
    maps::MapData,
    programs::{ProgramError, ProgramInfo, SchedClassifier, TcAttachType, loaded_programs},
    sys::SyscallError,
};

use self::clsact::{Control, Filter};
use super::{
    pins::paths_in,
    programs::{EGRESS, INGRESS, INGRESS_L3, classifier, maps_dir},
};
use crate::model::Attach;

/// A device that replies come in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Interface index.
    pub index: u32,
    /// Its packets have a link-layer header; those of a tunnel have none.
    pub ethernet: bool,
}

/// A hook of a device of this network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Index of the device.
    device: u32,
    hook: Hook,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Ingress,
    Egress,
}

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By pinned links.
    Tcx,
    /// By filters.
    Clsact,
}

impl Way {
    /// What the configuration wants, if this kernel and this process can do it.
    pub(super) fn choose(wanted: Attach) -> Result<Self> {
        let way = match wanted {
            Attach::Tcx if !has_tcx()? => bail!(
                "this kernel has no tcx, which came with Linux 6.6; use attach = \"auto\" or \"clsact\" in [datapath]"
            ),
            Attach::Clsact => Self::Clsact,
            Attach::Auto if !has_tcx()? => Self::Clsact,
            Attach::Auto | Attach::Tcx => Self::Tcx,
        };
        if way == Self::Clsact {
            // Asked now: without it the next start would find its own filters no more.
            programs_over(&HashSet::new())?;
        }
        Ok(way)
    }
}

/// Lets the programs run at the VIP device and at the uplinks, in the place of an earlier agent's where there are some,
/// and nowhere else any more.
pub fn attach(programs: &mut Ebpf, pin_dir: &Path, way: Way, device: u32, uplinks: &[Uplink]) -> Result<()> {
    // The way back is there before the way out is used.
    let received = uplinks.iter().map(|uplink| {
        let program = if uplink.ethernet { INGRESS } else { INGRESS_L3 };
        (Place { device: uplink.index, hook: Hook::Ingress }, program)
    });
    let programs_at: Vec<_> = received.chain([(Place { device, hook: Hook::Egress }, EGRESS)]).collect();
    let places: Vec<_> = programs_at.iter().map(|(place, _)| *place).collect();
    let control = Control::open()?;
    let own = own_filters(&control, pin_dir)?;
    for (place, name) in &programs_at {
        let program = classifier(programs, name)?;
        match way {
            Way::Tcx => tcx::attach(program, pin_dir, *place),
            Way::Clsact => control.attach(program, name, *place, &own),
        }
        .with_context(|| format!("cannot attach {name} to {}", name_of(place.device)))?;
    }
    tcx::remove_others(pin_dir, if way == Way::Tcx { &places } else { &[] })?;
    for filter in own {
        if way == Way::Tcx || !places.contains(&filter.place) {
            control.remove(&filter)?;
            tracing::info!(
                "removed the filter of {}, which is not used any more",
                name_of(filter.place.device)
            );
        }
    }
    Ok(())
}

/// The devices whose ingress runs the program of this pin directory, by index.
pub(super) fn uplinks(pin_dir: &Path) -> Result<Vec<u32>> {
    let filters = own_filters(&Control::open()?, pin_dir)?;
    let by_filter = filters.iter().map(|filter| filter.place);
    let places = tcx::places(pin_dir)?.into_iter().chain(by_filter);
    Ok(places.filter(|place| place.hook == Hook::Ingress).map(|place| place.device).collect())
}

/// Whether the programs of this pin directory run at the VIP device and all these uplinks.
pub(super) fn run_at(pin_dir: &Path, device: u32, uplinks: &[u32]) -> Result<bool> {
    let filters = own_filters(&Control::open()?, pin_dir)?;
    let by_filter = filters.iter().map(|filter| filter.place);
    let places: Vec<_> = tcx::places(pin_dir)?.into_iter().chain(by_filter).collect();
    let mut wanted = uplinks.iter().map(|uplink| Place { device: *uplink, hook: Hook::Ingress });
    Ok(places.contains(&Place { device, hook: Hook::Egress }) && wanted.all(|place| places.contains(&place)))
}

/// Refuses a device that runs programs of an agent with another pin directory. Programs of others are welcome.
pub(super) fn refuse_foreign(pin_dir: &Path, device: &str, index: u32) -> Result<()> {
    let place = Place { device: index, hook: Hook::Egress };
    if tcx::is_pinned(pin_dir, index) {
        return Ok(());
    }
    let control = Control::open()?;
    let filters = control.filters(place)?;
    if !runs_by_tcx(device)? && (filters.is_empty() || !own_filters(&control, pin_dir)?.is_empty()) {
        return Ok(());
    }
    bail!(
        "the device {device} belongs to an agent with another pin_dir than {}; give this one a device of its own in \
         [datapath], or uninstall the other one with its own configuration",
        pin_dir.display()
    )
}

/// Whether an agent's program runs on the egress of a device by tcx.
fn runs_by_tcx(device: &str) -> Result<bool> {
    match SchedClassifier::query_tcx(device, TcAttachType::Egress) {
        Ok((_, found)) => Ok(found.iter().any(is_an_agents)),
        Err(error) => match errno(&error) {
            // There are programs, and without CAP_SYS_ADMIN one may not look at them.
            Some(libc::EPERM) => Ok(true),
            // The kernel has no tcx.
            Some(libc::EINVAL) => Ok(false),
            _ => Err(error).with_context(|| format!("cannot ask what runs on {device}")),
        },
    }
}

/// Whether a program is one of an agent's, by its name; of that the kernel keeps 15 bytes.
pub(super) fn is_an_agents(program: &ProgramInfo) -> bool {
    [EGRESS, INGRESS]
        .iter()
        .any(|name| name.as_bytes().starts_with(program.name()) && program.name().len() == 15)
}

/// Removes the filters that run programs over the maps of this pin directory, in this network namespace. Links go with
/// their pins.
pub(super) fn remove_filters(pin_dir: &Path) -> Result<()> {
    let control = Control::open()?;
    own_filters(&control, pin_dir)?.iter().try_for_each(|filter| control.remove(filter))
}

/// Programs that use the maps of this pin directory without a pinned link of it, and whether all of them run in this
/// network namespace. Filters keep them, wherever they are.
pub(super) fn without_links(pin_dir: &Path, linked: &HashSet<u32>) -> Result<(usize, bool)> {
    let here = own_filters(&Control::open()?, pin_dir)?;
    let running = match programs_over(&map_ids(pin_dir)?) {
        Ok(running) => running,
        // Then there are no filters either: see `Way::choose`.
        Err(_) if has_tcx()? && here.is_empty() => return Ok((0, true)),
        Err(error) => return Err(error),
    };
    let unlinked: Vec<_> = running.difference(linked).collect();
    let all_here = unlinked.iter().all(|program| here.iter().any(|filter| filter.program == **program));
    Ok((unlinked.len(), all_here))
}

/// The filters of this network namespace that run programs over the maps of this pin directory.
fn own_filters(control: &Control, pin_dir: &Path) -> Result<Vec<Filter>> {
    let mut found = control.all_filters()?;
    // Nobody is asked about programs where there is no filter of an agent.
    if !found.is_empty() {
        let own = programs_over(&map_ids(pin_dir)?)?;
        found.retain(|filter| own.contains(&filter.program));
    }
    Ok(found)
}

/// Numbers of the maps that are pinned in this pin directory.
fn map_ids(pin_dir: &Path) -> Result<HashSet<u32>> {
    // What is no map there has no number.
    let id = |pin: PathBuf| MapData::from_pin(pin).ok()?.info().ok().map(|info| info.id());
    Ok(paths_in(&maps_dir(pin_dir))?.into_iter().filter_map(id).collect())
}

/// Numbers of the programs for hooks that use one of these maps. Those that they hand packets on to run on none.
fn programs_over(maps: &HashSet<u32>) -> Result<HashSet<u32>> {
    let mut found = HashSet::new();
    for program in loaded_programs() {
        let uses = program.and_then(|program| {
            let used = if is_an_agents(&program) { program.map_ids()? } else { None };
            let used = used.unwrap_or_default();
            Ok(used.iter().any(|map| maps.contains(map)).then_some(program.id()))
        });
        match uses {
            Ok(id) => found.extend(id),
            Err(error) if errno(&error) == Some(libc::EPERM) => bail!(
                "this process lacks CAP_SYS_ADMIN, and without it cannot tell its own programs from those of others on \
                 the hook clsact; run it as root"
            ),
            // It was unloaded in between.
            Err(error) if errno(&error) == Some(libc::ENOENT) => {}
            Err(error) => return Err(anyhow!(error)).context("cannot list the programs of the kernel"),
        }
    }
    Ok(found)
}

/// Whether the kernel has tcx hooks: Linux 6.6, unless it was built without.
fn has_tcx() -> Result<bool> {
    // Every network namespace has this device.
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Ok(true),
        Err(error) => match errno(&error) {
            Some(libc::EINVAL) => Ok(false),
            // There are programs, and without CAP_SYS_ADMIN one may not look at them.
            Some(libc::EPERM) => Ok(true),
            _ => Err(error).context("cannot ask whether the kernel has tcx"),
        },
    }
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(SyscallError { io_error, .. }) => io_error.raw_os_error(),
        _ => None,
    }
}

/// A device as people call it.
fn name_of(device: u32) -> String {
    rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)
        .and_then(|socket| rustix::net::netdevice::index_to_name(socket, device))
        .unwrap_or_else(|_| format!("the device with index {device}"))
}
