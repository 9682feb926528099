//! The network namespaces beside the agent's: those that a link of its own leads into, as a veth pair of a container does.
//!
//! No other namespace is ever looked into: an address means something on this host's network only. A client that is not
//! found there is reached in another way.

mod links;

use std::{
    collections::{BTreeSet, HashSet},
    fs::{self, File},
    net::IpAddr,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::PathBuf,
    thread,
};

use anyhow::{Context as _, Result};
use redirector_common::inject::Home;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use self::links::Links;
use super::sweep::Crew;

/// A network namespace that clients are in.
#[derive(Debug)]
pub(super) struct Namespace {
    /// What programs know it by.
    pub(super) home: Home,
    /// Its addresses.
    pub(super) addresses: HashSet<IpAddr>,
    /// For the sockets in it. As long as it is open the namespace cannot go: not to be kept.
    pub(super) crew: Crew,
}

/// The namespaces beside this one that have one of these addresses.
pub(super) fn beside(addresses: &HashSet<IpAddr>) -> Result<Vec<Namespace>> {
    let here = Links::open()?;
    let mut numbers = here.led_to()?;
    if addresses.is_empty() || numbers.is_empty() {
        return Ok(Vec::new());
    }
    let mut entrances = Vec::new();
    let mut seen = HashSet::new();
    for path in entrances_of_this_host() {
        if numbers.is_empty() {
            break;
        }
        // Processes end, and some may not be looked at.
        let Ok(file) = File::open(&path) else { continue };
        let Ok(inode) = file.metadata().map(|data| (data.dev(), data.ino())) else { continue };
        if seen.insert(inode)
            // What is left of a container that is gone is a file like any other.
            && let Ok(Some(number)) = here.number_of(file.as_fd())
            && numbers.remove(&number)
        {
            entrances.push((Home::beside(number), file));
        }
    }
    let entered = thread::Builder::new().name("namespaces".into()).spawn({
        let addresses = addresses.clone();
        // The thread ends in the last namespace that it entered.
        move || {
            entrances.iter().filter_map(|(home, entrance)| try_enter(*home, entrance, &addresses)).collect()
        }
    });
    let entered = entered.context("cannot start a thread; check the limits on processes and memory")?;
    Ok(entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// One that cannot be entered does not bar the others.
fn try_enter(home: Home, entrance: &File, addresses: &HashSet<IpAddr>) -> Option<Namespace> {
    enter(home, entrance, addresses).unwrap_or_else(|error| {
        tracing::warn!("clients in another network namespace are sent resets instead: {error:#}");
        None
    })
}

/// Moves this thread into a namespace; `None`: none of the addresses is in it.
fn enter(home: Home, entrance: &File, addresses: &HashSet<IpAddr>) -> Result<Option<Namespace>> {
    move_into_link_name_space(entrance.as_fd(), Some(LinkNameSpaceType::Network))
        .context("cannot enter a network namespace (CAP_SYS_ADMIN)")?;
    let inside = Links::open()?.addresses()?;
    if inside.is_disjoint(addresses) {
        return Ok(None);
    }
    Ok(Some(Namespace { home, addresses: inside, crew: Crew::open()? }))
}

/// Files that may stand for network namespaces: those that were given names, and those of processes.
fn entrances_of_this_host() -> impl Iterator<Item = PathBuf> {
    const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];
    let list = |directory: &str| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<BTreeSet<_>>()
    };
    let named = NAMED.into_iter().flat_map(list);
    let of_processes = list("/proc").into_iter().filter(|path| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
    });
    named.chain(of_processes.map(|process| process.join("ns/net")))
}
