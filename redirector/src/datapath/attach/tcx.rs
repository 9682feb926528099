//! Programs on tcx hooks (Linux 6.6): a pinned link holds each.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya::{
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, LinkError, PinnedLink},
        tc::TcAttachOptions,
    },
    sys::SyscallError,
};

use super::{Hook, Place, name_of};
use crate::datapath::{links, pins::paths_in, programs::links_dir};

/// Where the link of a place is pinned. Not by the device's name: bpffs allows no dots.
fn pin(pin_dir: &Path, place: Place) -> PathBuf {
    let hook = match place.hook {
        Hook::Ingress => "ingress",
        Hook::Egress => "egress",
    };
    links_dir(pin_dir).join(format!("{hook}_{}", place.device))
}

/// Whether a link to this device is pinned. Not by the pin's name: a dead one's device may have had the index before.
pub(super) fn is_pinned(pin_dir: &Path, device: u32) -> bool {
    let pinned = paths_in(&links_dir(pin_dir)).unwrap_or_default();
    let mut links = pinned.iter().filter_map(|pin| links::look(pin).ok().flatten());
    links.any(|link| link.device == device && link.is_here().unwrap_or(false))
}

/// Lets a program run in the place of the one whose link is pinned, or behind all that are there.
pub(super) fn attach(program: &mut SchedClassifier, pin_dir: &Path, place: Place) -> Result<()> {
    let dir = links_dir(pin_dir);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let pin = pin(pin_dir, place);
    // Its device is gone, or it was moved: the index is another device's by now.
    if links::look(&pin).is_ok_and(|link| link.is_none_or(|link| link.device != place.device)) {
        fs::remove_file(&pin).with_context(|| format!("cannot remove the dead link {}", pin.display()))?;
        tracing::info!(link = %pin.display(), "removed the link of a device that is gone");
    }
    match PinnedLink::from_pin(&pin) {
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
                fs::remove_file(&pin)?;
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
    let hook = match place.hook {
        Hook::Ingress => TcAttachType::Ingress,
        Hook::Egress => TcAttachType::Egress,
    };
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    let link = program.attach_with_options(&name_of(place.device), hook, order)?;
    let link: FdLink = program.take_link(link)?.try_into()?;
    link.pin(&pin).with_context(|| format!("cannot pin the link at {}", pin.display()))?;
    Ok(())
}

/// The places of all pinned links that are attached.
pub(super) fn places(pin_dir: &Path) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    for path in paths_in(&links_dir(pin_dir))? {
        // A link of another kind than these is repaired elsewhere.
        let Ok(Some(link)) = links::look(&path) else { continue };
        for hook in [Hook::Ingress, Hook::Egress] {
            let place = Place { device: link.device, hook };
            if pin(pin_dir, place) == path {
                places.push(place);
            }
        }
    }
    Ok(places)
}

/// Removes the links to all places but these.
pub(super) fn remove_others(pin_dir: &Path, wanted: &[Place]) -> Result<()> {
    let wanted: Vec<_> = wanted.iter().map(|place| pin(pin_dir, *place)).collect();
    for path in paths_in(&links_dir(pin_dir))? {
        if !wanted.contains(&path) {
            // At once: the pin alone would keep it for a moment longer.
            if let Err(error) = links::detach(&path) {
                tracing::warn!("{} ends only when the kernel frees it: {error}", path.display());
            }
            fs::remove_file(&path)?;
            tracing::info!(link = %path.display(), "removed a link that is not used any more");
        }
    }
    Ok(())
}
