//! Ending flows at both ends, in this order: the programs are asked to reset the clients, then the members, and then the
//! clients' sockets are destroyed, in this network namespace or in another one, if they did not believe their reset.
//!
//! Where the programs could not be asked, a destroyed socket's own reset frees the member and takes the flow along.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use anyhow::Result;
use redirector_common::{
    addr::Tuple,
    flow::Flow,
    inject::{Home, Order, Target},
};

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

/// Flows that are asked for first, so that the first few hear of it at once.
const FIRST_BITE: usize = 128;

/// Flows that are asked for together from then on: enough for several threads.
const BITE: usize = 8192;

/// A flow that is to be ended: what is needed of it, as it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doomed {
    pub(super) name: Named,
    pub(super) member: u16,
    /// Cookie of the client's socket; 0: it is not in this network namespace.
    cookie: u64,
    /// Where that socket is, as far as is known.
    home: Home,
    /// Whether the client's socket may be destroyed, wherever it is.
    destroyable: bool,
}

/// What was done, by member.
pub(super) type Pass = BTreeMap<u16, SweptFlows>;

/// Which flows stay, though both their ends were reset: they are stale, and an end that did not believe its reset answers, and hears
/// an exact one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Those whose clients still have their sockets, and those whose clients cannot be looked at.
    Stay,
    /// The latter. The others' sockets are destroyed, and take their flows along.
    Unseen,
    /// None: nothing makes them stale, or they had their time.
    Go,
}

/// Ends flows.
#[derive(Debug)]
pub(super) struct Ender {
    here: Crew,
    /// `None`: this process may not send packets. Then flows are reset with their next packet.
    injector: Option<Injector>,
    /// Incarnations of flows whose both ends were reset, and whose clients cannot be looked at.
    unseen: HashSet<u64>,
    /// Incarnations of flows whose clients' sockets were destroyed, if they were there.
    made_sure: HashSet<u64>,
}

/// The flows of one pass.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Those whose clients are to be asked for next.
    bite: Vec<Doomed>,
    /// Those whose clients were asked for in this pass.
    asked: Vec<Doomed>,
    /// Those that nobody could be asked for.
    unasked: Vec<Doomed>,
    /// Those whose both ends were reset in an earlier pass, and whose clients cannot be looked at.
    earlier: Vec<Doomed>,
}

impl Ender {
    /// With the VIP device of this name.
    pub(super) fn open(device: &str) -> Result<Self> {
        // What follows from that, `ResetWays` says.
        let injector = Injector::open(device).ok();
        Ok(Self { here: Crew::open()?, injector, unseen: HashSet::new(), made_sure: HashSet::new() })
    }

    /// What is needed of a flow to end it.
    pub(super) fn doom(&self, client_side: &Tuple, flow: &Flow) -> Doomed {
        Doomed {
            name: Named { client_side: *client_side, incarnation: flow.incarnation },
            member: flow.member,
            cookie: flow.cookie,
            home: if flow.cookie == 0 { Home::UNKNOWN } else { Home::HERE },
            destroyable: self.here.one().may_destroy(flow),
        }
    }

    /// Takes a flow into a pass. Clients are asked for meanwhile, some at a time.
    pub(super) fn take(&self, turn: &mut Turn, flow: Doomed) -> Result<()> {
        if self.unseen.contains(&flow.name.incarnation) {
            turn.earlier.push(flow);
            return Ok(());
        }
        turn.bite.push(flow);
        let is_first = turn.asked.is_empty() && turn.unasked.is_empty();
        if turn.bite.len() == if is_first { FIRST_BITE } else { BITE } { self.bite(turn) } else { Ok(()) }
    }

    /// Asks for the clients that were taken in since the last time.
    fn bite(&self, turn: &mut Turn) -> Result<()> {
        let unasked = self.order(turn.bite.iter(), Order::ResetClients)?;
        turn.unasked.extend(turn.bite.extract_if(.., |flow| unasked.contains(&flow.name.incarnation)));
        turn.asked.append(&mut turn.bite);
        Ok(())
    }

    /// Ends the flows of a pass. `beside` finds the network namespaces of clients; it is asked at most once.
    pub(super) fn end<B: AsRef<[Namespace]>>(
        &mut self,
        flows: &Flows,
        mut turn: Turn,
        then: Left,
        beside: impl FnOnce(&[&Doomed]) -> B,
        found: &mut Pass,
    ) -> Result<()> {
        self.bite(&mut turn)?;
        // After all clients, for this takes a while.
        let namespaces = turn.locate(beside);
        let Turn { mut asked, mut unasked, earlier, .. } = turn;
        // After all clients: they wait, members do not. One that connects again meanwhile, with the port of before, has its
        // member reset by the program. Flows whose clients are seen to be gone go with it.
        let too = self.order(asked.iter(), Order::ResetMembers)?;
        unasked.extend(asked.extract_if(.., |flow| too.contains(&flow.name.incarnation)));
        let mut doubted = Vec::new();
        for flow in &asked {
            let is_within_reach = flow.home != Home::UNKNOWN;
            if then != Left::Go && !is_within_reach {
                self.unseen.insert(flow.name.incarnation);
            }
            let is_looked_at = then == Left::Go || (then == Left::Unseen && is_within_reach);
            if is_looked_at && flows.has(&flow.name)? {
                doubted.push(*flow);
            }
        }
        let unsure = unasked.iter().chain(&earlier).chain(&doubted);
        let gone = self.make_sure(flows, unsure, namespaces.as_ref().map_or(&[], |known| known.as_ref()))?;
        let mut waiting: Vec<_> = unasked.iter().collect();
        if then == Left::Go {
            // A reset may be lost, so those that were reset in an earlier pass are reset once more before they go.
            let again: Vec<_> =
                earlier.iter().filter(|flow| !gone.contains(&flow.name.incarnation)).collect();
            let mut stay = self.order(again.iter().copied(), Order::ResetClients)?;
            stay.extend(self.order(again.into_iter(), Order::ResetMembers)?);
            let stays = |flow: &&Doomed| stay.contains(&flow.name.incarnation);
            waiting.extend(earlier.iter().filter(stays));
            let over: Vec<_> = earlier.iter().chain(&doubted).filter(|flow| !stays(flow)).collect();
            let left = self.order(over.iter().copied(), Order::Forget)?;
            for flow in over.into_iter().filter(|flow| left.contains(&flow.name.incarnation)) {
                flows.remove(&flow.name)?;
            }
        }

        for flow in &asked {
            found.entry(flow.member).or_default().reset += 1;
        }
        for flow in waiting {
            let of_member = found.entry(flow.member).or_default();
            // A destroyed socket's own reset took the flow along.
            let waits = flows.has(&flow.name)?;
            *(if waits { &mut of_member.waiting } else { &mut of_member.reset }) += 1;
        }
        Ok(())
    }

    /// Gives the programs an order for flows. Returns the incarnations of those that they were not given it for.
    fn order<'a>(&self, flows: impl Iterator<Item = &'a Doomed>, order: Order) -> Result<HashSet<u64>> {
        let Some(injector) = &self.injector else {
            return Ok(flows.map(|flow| flow.name.incarnation).collect());
        };
        let mut targets: Vec<_> = flows.map(Doomed::target).collect();
        // A list has one version of IP. Clients of one network namespace, and mostly of one process, come one after the other: what
        // they share is at hand then, and a process is woken once for more of them.
        targets.sort_unstable_by_key(|Target { client_side: Tuple { near, near_port, .. }, .. }| {
            (near.is_v4(), near.0, near_port.number())
        });
        let send = |_: &Destroyer, part: &[Target]| {
            let sent = injector.send(part, order).unwrap_or_else(|error| {
                tracing::warn!(
                    "cannot send resets by the VIP device: {error}; flows are reset with their next packet"
                );
                0
            });
            Ok(part[sent..].iter().map(Target::incarnation).collect::<Vec<_>>())
        };
        Ok(self.here.share(&targets, send)?.into_iter().flatten().collect())
    }

    /// Destroys the sockets of clients that may still have them, once: by the next pass a port may be somebody else's. Returns the
    /// incarnations of flows whose clients are not there any more.
    fn make_sure<'a>(
        &mut self,
        flows: &Flows,
        unsure: impl Iterator<Item = &'a Doomed>,
        beside: &[Namespace],
    ) -> Result<HashSet<u64>> {
        let is_new = |flow: &&Doomed| flow.destroyable && self.made_sure.insert(flow.name.incarnation);
        let (local, others): (Vec<_>, Vec<_>) = unsure.filter(is_new).partition(|flow| flow.is_local());
        let mut refused = self.here.share(&local, destroy)?.concat();
        if !refused.is_empty() {
            tracing::warn!(
                sockets = refused.len(),
                "the kernel refused to destroy sockets; they are sent resets only. A kernel without \
                 CONFIG_INET_DIAG_DESTROY refuses all of them"
            );
        }
        let mut gone: HashSet<_> = local.iter().map(|flow| flow.name.incarnation).collect();
        for namespace in beside {
            let is_inside = |flow: &&&Doomed| namespace.addresses.contains(&flow.client());
            let inside: Vec<_> = others.iter().filter(is_inside).copied().collect();
            let destroy = |destroyer: &Destroyer, part: &[&Doomed]| destroy_in(destroyer, flows, part);
            match namespace.crew.share(&inside, destroy) {
                Ok(more) => refused.extend(more.concat()),
                Err(error) => {
                    tracing::warn!("clients in another network namespace are sent resets only: {error:#}");
                    continue;
                }
            }
            gone.extend(inside.iter().map(|flow| flow.name.incarnation));
        }
        for incarnation in refused {
            gone.remove(&incarnation);
        }
        Ok(gone)
    }

    /// Forgets what it knows of flows: none of them is there any more.
    pub(super) fn forget(&mut self) {
        (self.unseen, self.made_sure) = (HashSet::new(), HashSet::new());
    }

    /// Whether the programs can be asked at all.
    pub(super) const fn asks(&self) -> bool {
        self.injector.is_some()
    }
}

impl Doomed {
    /// Whether the client's socket is one of this network namespace that may be destroyed.
    fn is_local(&self) -> bool {
        self.cookie != 0 && self.destroyable
    }

    fn target(&self) -> Target {
        Target::new(self.name.client_side, self.name.incarnation, self.home)
    }

    fn client(&self) -> IpAddr {
        self.name.client_side.near.into()
    }
}

impl Turn {
    /// Finds out where clients are that are not in this network namespace.
    fn locate<B: AsRef<[Namespace]>>(&mut self, beside: impl FnOnce(&[&Doomed]) -> B) -> Option<B> {
        let all = || self.asked.iter().chain(&self.unasked).chain(&self.earlier);
        let others: Vec<_> = all().filter(|flow| flow.home == Home::UNKNOWN).collect();
        if others.is_empty() {
            return None;
        }
        let namespaces = beside(&others);
        let mut homes = HashMap::new();
        for namespace in namespaces.as_ref() {
            for address in &namespace.addresses {
                // An address of two networks tells neither.
                homes.entry(*address).and_modify(|home| *home = Home::UNKNOWN).or_insert(namespace.home);
            }
        }
        for flow in self.asked.iter_mut().chain(&mut self.unasked).chain(&mut self.earlier) {
            if flow.home == Home::UNKNOWN {
                flow.home = homes.get(&flow.client()).copied().unwrap_or_default();
            }
        }
        Some(namespaces)
    }
}

/// The network namespaces beside this one that clients of these flows are in.
pub(super) fn look_beside(others: &[&Doomed]) -> Vec<Namespace> {
    let wanted: HashSet<_> = others.iter().map(|flow| flow.client()).collect();
    // Whoever cannot be reached in this way is sent a reset.
    namespaces::beside(&wanted).unwrap_or_else(|error| {
        tracing::warn!("cannot look into the network namespaces beside this one: {error:#}");
        Vec::new()
    })
}

/// Destroys the sockets of local clients. Returns the incarnations of the flows of those that the kernel refused to destroy.
fn destroy(destroyer: &Destroyer, local: &[&Doomed]) -> Result<Vec<u64>> {
    let victim = |flow: &&Doomed| Victim { client_side: flow.name.client_side, cookie: flow.cookie };
    let refused = destroyer.destroy(&local.iter().map(victim).collect::<Vec<_>>())?;
    Ok(refused.into_iter().map(|(number, _)| local[number].name.incarnation).collect())
}

/// Destroys the sockets of clients in another network namespace. They are named by their tuple only, so each flow is
/// looked at just before: the tuple may have a new owner. Returns the incarnations of the flows of those that the kernel
/// refused to destroy.
fn destroy_in(destroyer: &Destroyer, flows: &Flows, inside: &[&Doomed]) -> Result<Vec<u64>> {
    let mut all_refused = Vec::new();
    for batch in inside.chunks(BATCH) {
        let mut there = Vec::with_capacity(BATCH);
        for flow in batch {
            if flows.has(&flow.name)? {
                there.push(flow.name);
            }
        }
        let victim = |name: &Named| Victim { client_side: name.client_side, cookie: Victim::ANY };
        let refused = destroyer.destroy(&there.iter().map(victim).collect::<Vec<_>>())?;
        all_refused.extend(refused.into_iter().map(|(number, _)| there[number].incarnation));
    }
    Ok(all_refused)
}
