//! Ending flows at both ends: the programs are asked to reset them, and then the client's socket is destroyed, in this
//! network namespace or in another one, if it did not believe its reset.
//!
//! Where the programs could not be asked, a destroyed socket's own reset frees the member and takes the flow along. What is
//! left of those had nothing to reset: a connection that was still opening, or a socket that is gone.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    net::IpAddr,
};

use anyhow::Result;
use redirector_common::{addr::Tuple, flow::Flow};

use super::{
    super::{
        flows::{Flows, Named},
        inject::Injector,
        namespaces::{self, Namespace},
        notice::SweptFlows,
        sockets::{BATCH, Destroyer, Victim},
    },
    crew::Crew,
};

/// A flow that is to be ended: what is needed of it, as it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doomed {
    pub(super) name: Named,
    pub(super) member: u16,
    /// Cookie of the client's socket; 0: it is not in this network namespace.
    cookie: u64,
    /// Whether the client's socket may be destroyed, wherever it is.
    destroyable: bool,
}

/// What was done, by member.
pub(super) type Pass = BTreeMap<u16, SweptFlows>;

/// Whether flows stay that are still there when both their ends were reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// They are stale: an end that did not believe its reset answers, and hears an exact one.
    Stay,
    /// They go: nothing makes them stale, or they had their time.
    Go,
}

/// Ends flows.
#[derive(Debug)]
pub(super) struct Ender {
    here: Crew,
    /// `None`: this process may not send packets. Then flows are reset with their next packet.
    injector: Option<Injector>,
    /// Incarnations of flows whose both ends were reset, and which stayed.
    reset: HashSet<u64>,
}

impl Ender {
    /// With the VIP device of this name.
    pub(super) fn open(device: &str) -> Result<Self> {
        // What follows from that, `ResetWays` says.
        let injector = Injector::open(device).ok();
        Ok(Self { here: Crew::open()?, injector, reset: HashSet::new() })
    }

    /// What is needed of a flow to end it.
    pub(super) fn doom(&self, client_side: &Tuple, flow: &Flow) -> Doomed {
        Doomed {
            name: Named { client_side: *client_side, incarnation: flow.incarnation },
            member: flow.member,
            cookie: flow.cookie,
            destroyable: self.here.one().may_destroy(flow),
        }
    }

    /// Destroys the sockets of local clients, and forgets their flows. Returns those whose sockets the kernel refused to
    /// destroy.
    pub(super) fn end_local(&self, flows: &Flows, local: &[Doomed], found: &mut Pass) -> Result<Vec<Doomed>> {
        // A reset is what every library takes for a lost connection. At the ECONNABORTED of a destroyed socket some end,
        // redis-cli for one: that is for those that do not believe their reset.
        let names: Vec<_> = local.iter().map(|flow| flow.name).collect();
        let asked = self.inject(&names);
        let parts = self.here.share(local, |destroyer, part| destroy(destroyer, flows, part))?;
        let (refused, left): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        let refused: Vec<_> = refused.into_iter().flatten().collect();
        if let Some((_, error)) = refused.first() {
            tracing::warn!(
                sockets = refused.len(),
                "the kernel refused to destroy sockets ({error}); they are sent resets instead. A kernel without \
                 CONFIG_INET_DIAG_DESTROY refuses all of them"
            );
        }
        local.iter().for_each(|flow| found.entry(flow.member).or_default().reset += 1);
        refused.iter().for_each(|(flow, _)| found.entry(flow.member).or_default().reset -= 1);
        let left = left.concat();
        // For the member's sake only: the client's socket is gone.
        if asked < names.len() {
            self.inject(&left);
        }
        left.iter().try_for_each(|flow| flows.remove(flow))?;
        Ok(refused.into_iter().map(|(flow, _)| flow).collect())
    }

    /// The network namespaces beside this one that clients of these flows are in.
    pub(super) fn look_beside(&self, others: &[Doomed]) -> Vec<Namespace> {
        let wanted: HashSet<_> = others.iter().filter(|flow| flow.destroyable).map(Doomed::client).collect();
        // Whoever cannot be reached in this way is sent a reset.
        namespaces::beside(&wanted).unwrap_or_else(|error| {
            tracing::warn!("cannot look into the network namespaces beside this one: {error:#}");
            Vec::new()
        })
    }

    /// Ends the flows of clients that have no socket here.
    pub(super) fn end_others(
        &mut self,
        flows: &Flows,
        beside: &[Namespace],
        others: &[Doomed],
        then: Left,
        found: &mut Pass,
    ) -> Result<()> {
        // Those that were reset before are reset once more before they go: a reset may be lost.
        let is_due = |flow: &&Doomed| then == Left::Go || !self.reset.contains(&flow.name.incarnation);
        let due: Vec<_> = others.iter().filter(is_due).collect();
        let names: Vec<_> = due.iter().map(|flow| flow.name).collect();
        let asked = self.inject(&names);
        // Only once: by the next pass the port may be somebody else's.
        let is_new = |flow: &&Doomed| !self.reset.contains(&flow.name.incarnation);
        let new: Vec<_> = due.iter().copied().filter(is_new).collect();
        for namespace in beside {
            destroy_in(namespace, flows, &new)?;
        }
        let injected = &names[..asked];
        let waiting = still_there(flows, due[asked..].iter().copied())?;
        let waiting: HashSet<_> = waiting.iter().map(|flow| flow.incarnation).collect();
        for flow in &due {
            let of_member = found.entry(flow.member).or_default();
            if waiting.contains(&flow.name.incarnation) {
                of_member.waiting += 1;
            } else if self.reset.insert(flow.name.incarnation) {
                of_member.reset += 1;
            }
        }
        if then == Left::Go {
            injected.iter().try_for_each(|flow| flows.remove(flow))?;
            for flow in &due {
                self.reset.remove(&flow.name.incarnation);
            }
        }
        Ok(())
    }

    /// Forgets which flows were reset: none of them is there any more.
    pub(super) fn forget(&mut self) {
        self.reset = HashSet::new();
    }

    /// Asks the programs to reset both ends. Returns how many they were asked for: the first ones.
    fn inject(&self, flows: &[Named]) -> usize {
        let Some(injector) = self.injector.as_ref().filter(|_| !flows.is_empty()) else { return 0 };
        injector.reset(flows).unwrap_or_else(|error| {
            tracing::warn!(
                "cannot send resets by the VIP device: {error}; flows are reset with their next packet"
            );
            0
        })
    }
}

impl Doomed {
    /// Whether the client's socket is one of this network namespace that may be destroyed.
    pub(super) fn is_local(&self) -> bool {
        self.cookie != 0 && self.destroyable
    }

    fn client(&self) -> IpAddr {
        self.name.client_side.near.into()
    }
}

/// A flow whose socket the kernel did not destroy, and what it said.
type Refusal = (Doomed, io::Error);

/// Destroys the sockets of local clients. Returns those that the kernel refused to destroy, and the flows that are left of the
/// others.
fn destroy(destroyer: &Destroyer, flows: &Flows, local: &[Doomed]) -> Result<(Vec<Refusal>, Vec<Named>)> {
    let victim = |flow: &Doomed| Victim { client_side: flow.name.client_side, cookie: flow.cookie };
    let victims: Vec<_> = local.iter().map(victim).collect();
    let refused = destroyer.destroy(&victims)?;
    let numbers: HashSet<_> = refused.iter().map(|(number, _)| *number).collect();
    let destroyed = local.iter().enumerate().filter(|(number, _)| !numbers.contains(number));
    let left = still_there(flows, destroyed.map(|(_, flow)| flow))?;
    Ok((refused.into_iter().map(|(number, error)| (local[number], error)).collect(), left))
}

/// The flows of these that are there.
fn still_there<'a>(flows: &Flows, these: impl Iterator<Item = &'a Doomed>) -> Result<Vec<Named>> {
    let mut there = Vec::new();
    for flow in these {
        if flows.has(&flow.name)? {
            there.push(flow.name);
        }
    }
    Ok(there)
}

/// Destroys the sockets of clients in another network namespace. They are named by their tuple only, so each flow is
/// looked at just before: the tuple may have a new owner. Who is refused, or not there, is sent a reset like all others.
fn destroy_in(namespace: &Namespace, flows: &Flows, doomed: &[&Doomed]) -> Result<()> {
    let is_inside = |flow: &&&Doomed| flow.destroyable && namespace.addresses.contains(&flow.client());
    let inside: Vec<_> = doomed.iter().filter(is_inside).copied().collect();
    let destroy = |destroyer: &Destroyer, part: &[&Doomed]| -> Result<()> {
        for batch in part.chunks(BATCH) {
            let there = still_there(flows, batch.iter().copied())?;
            let victim = |flow: &Named| Victim { client_side: flow.client_side, cookie: Victim::ANY };
            let _sent_a_reset = destroyer.destroy(&there.iter().map(victim).collect::<Vec<_>>())?;
        }
        Ok(())
    };
    namespace.crew.share(&inside, destroy).map(drop)
}
