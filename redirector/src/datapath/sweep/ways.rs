//! Which clients can be reset without waiting for their next packet: found out at the start, by doing it.

use std::{fs::File, os::fd::AsFd as _, thread};

use anyhow::{Context as _, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::super::{inject::Injector, sockets::Destroyer};

/// The ways to reset a client, and why one of them is closed; `None`: it is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResetWays {
    /// The sockets of local clients are destroyed (`CONFIG_INET_DIAG_DESTROY`).
    pub sockets: Option<String>,
    /// Network namespaces beside this one are entered (`CAP_SYS_ADMIN`).
    pub namespaces: Option<String>,
    /// The programs are asked to reset both ends (`CAP_NET_RAW`).
    pub requests: Option<String>,
}

impl ResetWays {
    /// Tries all of them; an own connection over the loopback device is destroyed. `device`: the name of the VIP device.
    pub(super) fn try_all(device: &str) -> Self {
        let why = |tried: Result<()>| tried.err().map(|error| format!("{error:#}"));
        let ways = Self {
            sockets: why(Destroyer::open().and_then(|destroyer| destroyer.works())),
            namespaces: why(enter_a_namespace()),
            requests: why(Injector::open(device).map(drop)),
        };
        for problem in ways.problems() {
            tracing::warn!("{problem}");
        }
        ways
    }

    /// What it means that ways are closed, in sentences.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let consequences = [
            (&self.sockets, "local clients are sent resets"),
            (&self.namespaces, "clients in other network namespaces are sent resets"),
            (
                &self.requests,
                "clients whose sockets cannot be destroyed are reset with their next packet only",
            ),
        ];
        let sentence =
            |(why, then): (&Option<String>, &str)| why.as_ref().map(|why| format!("{then}: {why}"));
        consequences.into_iter().filter_map(sentence).collect()
    }
}

/// This one, on a thread of its own: the kernel asks for the same privilege.
pub(in super::super) fn enter_a_namespace() -> Result<()> {
    let thread = thread::Builder::new().name("namespaces".into()).spawn(|| {
        let own = File::open("/proc/thread-self/ns/net").context("cannot open the own network namespace")?;
        move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))
            .context("cannot enter a network namespace (CAP_SYS_ADMIN)")
    });
    let thread = thread.context("cannot start a thread; check the limits on processes and memory")?;
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
