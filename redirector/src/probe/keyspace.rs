//! `keyspace`: a value of its own is written to every shard of a member and read back.
//!
//! A server that has the Cluster API says which primary has which slots; each gets a key in one of its slots, at the
//! address that it announces, all at the same time. Without it, keys with hash tags that are spread over the slots
//! go to the endpoint, which leads them to its shards. `docs/checks/keyspace.md` says what that proves.
//!
//! What is known of the shards is learnt anew when it turns out to be wrong, and every so often.

use std::{
    collections::{BTreeSet, HashMap},
    future::{Future, pending, poll_fn},
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use redis::Value;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use self::{
    node::{Fault, Key, Node, Round},
    topology::{Announced, Shard},
};
use super::{
    nonce::nonce,
    patience::Open,
    redis::{Connection, shown, wrong},
    slots::{Slots, spread_tags, tag_of},
    socket::SILENCE,
    stop::Stop,
};
use crate::{
    model::{
        Access, Cause, Check, Failure, Keyspace as Settings, Limits, Phase, ProbeOutcome, RedisErrorKind,
        ShardFailure, Verdict,
    },
    quote::quote,
    resolve::Resolver,
};

mod node;
mod topology;

/// After this, what is known of the shards is looked at again. What is wrong is learnt anew at once.
const LEARN_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Shards and nodes that one member can have. Each is a connection and two commands per probe.
const MOST_SHARDS: usize = 1000;

/// Names that are looked up at the same time.
const LOOK_UPS_AT_ONCE: usize = 16;

/// The state of a `keyspace` prober.
pub(super) struct Keyspace {
    address: SocketAddr,
    access: Arc<Access>,
    settings: Settings,
    /// Redis errors that count.
    counted: Vec<RedisErrorKind>,
    /// Makes keys and values this prober's own: others, on other hosts and for other members, probe the same database.
    nonce: String,
    probes: u64,
    /// For the names that nodes announce. The C library's has no time-out that would do, and a thread waits for it.
    resolver: Arc<Resolver>,
    map: Option<Map>,
    /// For questions about the shards.
    connection: Option<Connection>,
}

/// Who has which slots.
struct Map {
    nodes: Vec<Node>,
    /// What is wrong with the announcements themselves.
    faults: Vec<Fault>,
    learnt: Instant,
    /// Whether the endpoint did not answer in time when it was asked for a newer one.
    is_overdue: bool,
}

/// Addresses of the names that nodes announce, or why there are none.
type Names = HashMap<String, Result<Vec<IpAddr>, String>>;

impl Keyspace {
    pub(super) fn new(address: SocketAddr, access: Access, settings: Settings, check: &Check) -> Self {
        Self {
            address,
            access: Arc::new(access),
            settings,
            counted: check.counted_errors.clone(),
            nonce: nonce(),
            probes: 0,
            resolver: Arc::default(),
            map: None,
            connection: None,
        }
    }

    /// One probe of every shard. `phase` is that of the shard that is reported.
    pub(super) async fn probe(&mut self, phase: &mut Phase, limits: Limits) -> Result<(), Stop> {
        let round = self.round(limits);
        // Dropped half-way, the next probe begins from nothing.
        let known = self.map.take();
        let is_new = known.is_none();
        let mut map = match known {
            Some(map) => map,
            None => self.learn(None, &round, phase).await?,
        };
        let mut faults = map.probe(&round).await;
        if !is_new && faults.iter().any(Fault::may_be_of_the_map) {
            // What is found with the new one counts; without a new one, what was found with the old.
            if let Ok(Ok(learnt)) = timeout_at(round.deadline(), self.learn(Some(&map), &round, phase)).await
            {
                let is_the_same = learnt.leads_as(&map);
                map.replace(learnt);
                if !is_the_same {
                    faults = map.probe(&round).await;
                }
            }
        }
        let Some((of_phase, cause)) = worst(faults, &self.counted) else {
            *phase = Phase::Command;
            let asked = match map.learnt.elapsed() > LEARN_AGAIN_AFTER {
                true => self.learn_again(&mut map, &round, phase).await,
                false => Ok(()),
            };
            self.map = Some(map);
            return asked;
        };
        self.map = Some(map);
        *phase = of_phase;
        Err(Stop::Answer(cause))
    }

    /// What the next probe has to begin with.
    pub(super) fn open(&self) -> Open {
        match &self.map {
            None => Open::Nothing,
            Some(map) if map.faults.is_empty() && map.nodes.iter().all(|node| node.connection.is_some()) => {
                Open::All
            }
            Some(_) => Open::Part,
        }
    }

    /// The next probe begins from nothing.
    pub(super) fn disconnect(&mut self) {
        (self.map, self.connection) = (None, None);
    }

    /// Returns when one of the kept connections has ended (and drops it); never, when there is none.
    pub(super) async fn ended(&mut self) {
        // A closed connection for questions alone is no news.
        let Some(map) = &mut self.map else { return pending().await };
        let kept = map
            .nodes
            .iter_mut()
            .enumerate()
            .filter_map(|(number, node)| Some((number, node.connection.as_mut()?)));
        let ends = kept.map(|(number, connection)| async move {
            connection.ended().await;
            number
        });
        let number = first(ends.map(Box::pin).collect()).await;
        map.nodes[number].connection = None;
    }

    fn round(&mut self, limits: Limits) -> Round {
        self.probes += 1;
        Round {
            value: format!("{}-{}", self.nonce, self.probes),
            expiry: self.settings.expiry,
            started: Instant::now(),
            limits,
        }
    }

    /// What is known is right, and old. It stays until there is a newer one, for the endpoint alone has failed. What such a
    /// probe leaves of its time may not be enough, so it fails only when there was no answer to the probe before, either.
    async fn learn_again(&mut self, map: &mut Map, round: &Round, phase: &mut Phase) -> Result<(), Stop> {
        match timeout_at(round.deadline(), self.learn(Some(map), round, phase)).await {
            Ok(learnt) => {
                map.replace(learnt?);
                Ok(())
            }
            Err(_) if std::mem::replace(&mut map.is_overdue, true) => {
                Err(Stop::Answer(Cause::TimedOut(round.limits.answer)))
            }
            Err(_) => Ok(()),
        }
    }

    /// Asks the endpoint who has which slots. What is `known` already helps where a name is not answered for.
    async fn learn(&mut self, known: Option<&Map>, round: &Round, phase: &mut Phase) -> Result<Map, Stop> {
        let shards = match self.connection.take() {
            Some(mut kept) => match self.shards(&mut kept).await {
                Err(stop) if stop.is_closed() => self.shards_anew(phase).await?,
                shards => {
                    self.connection = shards.is_ok().then_some(kept);
                    shards?
                }
            },
            None => self.shards_anew(phase).await?,
        };
        let (nodes, faults) = match shards {
            None => (vec![self.endpoint_alone()], Vec::new()),
            Some(shards) => {
                let names = self.look_up(&shards, known, round).await;
                self.nodes(shards, &names)
            }
        };
        Ok(Map { nodes, faults, learnt: Instant::now(), is_overdue: false })
    }

    async fn shards_anew(&mut self, phase: &mut Phase) -> Result<Option<Vec<Shard>>, Stop> {
        let mut connection = Connection::open(self.address, &self.access, phase).await?;
        let shards = self.shards(&mut connection).await?;
        // Without the Cluster API there is nothing more to ask.
        self.connection = shards.is_some().then_some(connection);
        Ok(shards)
    }

    /// `None`: the server has no Cluster API. What else stops the question (loading, rights) stops the probe.
    async fn shards(&self, connection: &mut Connection) -> Result<Option<Vec<Shard>>, Stop> {
        for question in ["SHARDS", "SLOTS"] {
            let answer = match connection.ask(redis::cmd("CLUSTER").arg(question)).await {
                Err(Stop::Answer(Cause::Redis(RedisErrorKind::Other, _))) => continue,
                answer => answer?,
            };
            let shards = match question {
                "SHARDS" => topology::of_shards(&answer, self.access.tls.is_some()),
                _ => topology::of_slots(&answer),
            };
            let shards = shards.ok_or_else(|| unreadable(question, &answer))?;
            if shards.len() > MOST_SHARDS {
                let text =
                    format!("{} shards are announced, and at most {MOST_SHARDS} can be probed", shards.len());
                return Err(Stop::Answer(Cause::Local(text)));
            }
            return Ok(Some(shards));
        }
        Ok(None)
    }

    fn endpoint_alone(&self) -> Node {
        let key = |(slots, tag): (Slots, String)| Key { slots, name: self.key(&tag) };
        Node {
            address: self.address,
            access: Arc::clone(&self.access),
            id: None,
            keys: spread_tags(self.settings.tags).into_iter().map(key).collect(),
            connection: None,
        }
    }

    fn key(&self, tag: &str) -> String {
        format!("{}{{{tag}}}:{}", self.settings.prefix, self.nonce)
    }

    /// Looks up every name that is announced. All of it takes no longer than the probe has, whatever the servers do.
    async fn look_up(&self, shards: &[Shard], known: Option<&Map>, round: &Round) -> Names {
        let announced = shards.iter().filter_map(|shard| shard.primary.as_ref()?.host.as_ref());
        let hosts: BTreeSet<_> = announced.filter(|host| host.parse::<IpAddr>().is_err()).collect();
        let (mut names, mut running) = (Names::new(), JoinSet::new());
        let mut hosts = hosts.into_iter();
        loop {
            for host in hosts.by_ref().take(LOOK_UPS_AT_ONCE - running.len()) {
                let last = known.map(|map| map.addresses_of(host, &self.access)).unwrap_or_default();
                let (host, resolver, limit) = (host.clone(), Arc::clone(&self.resolver), round.last_call());
                running.spawn(async move {
                    let found = match timeout_at(limit, resolver.look_up_soon(&host)).await {
                        Ok(answer) => answer.after(&last),
                        Err(_) => Err("no server answered in time".to_owned()),
                    };
                    (host, found.or_else(|why| if last.is_empty() { Err(why) } else { Ok(last) }))
                });
            }
            match running.join_next().await {
                Some(Ok((host, found))) => names.insert(host, found),
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                None => return names,
            };
        }
    }

    /// One node for each address that is announced, and what cannot be probed at all.
    fn nodes(&self, shards: Vec<Shard>, names: &Names) -> (Vec<Node>, Vec<Fault>) {
        let (mut nodes, mut faults) = (Vec::<Node>::new(), Vec::new());
        let mut covered = Slots::default();
        for Shard { slots, primary } in shards {
            let (Some(first), Some(primary)) = (slots.first(), primary) else { continue };
            covered.join(&slots);
            let (address, access) = match self.locate(&primary, names) {
                Ok(found) => found,
                Err(cause) => {
                    faults.push(Fault { slots, address: None, phase: Phase::Resolve, cause });
                    continue;
                }
            };
            let key = Key { slots, name: self.key(&tag_of(first)) };
            if let Some(node) = nodes.iter_mut().find(|node| node.address == address) {
                node.keys.push(key);
                node.id = node.id.take().filter(|id| *id == primary.id);
            } else {
                let id = Some(primary.id).filter(|id| !id.is_empty());
                nodes.push(Node { address, access, id, keys: vec![key], connection: None });
            }
        }
        let uncovered = covered.missing();
        if uncovered.count() > 0 {
            let text = "no primary is announced for them".to_owned();
            let cause = Cause::Redis(RedisErrorKind::ClusterDown, text);
            faults.push(Fault { slots: uncovered, address: None, phase: Phase::Command, cause });
        }
        (nodes, faults)
    }

    /// Where a node is, and by which name its certificate goes: the one that it announces; one that announces an address
    /// alone goes by the name of the member.
    fn locate(&self, node: &Announced, names: &Names) -> Result<(SocketAddr, Arc<Access>), Cause> {
        let Some(host) = &node.host else {
            return Ok((SocketAddr::new(self.address.ip(), node.port), Arc::clone(&self.access)));
        };
        if let Ok(ip) = host.parse() {
            return Ok((SocketAddr::new(ip, node.port), Arc::clone(&self.access)));
        }
        let found = match names.get(host) {
            Some(Ok(found)) => found.as_slice(),
            Some(Err(why)) => {
                let text = format!("the announced name {:?} does not resolve ({why})", quote(host));
                return Err(Cause::Local(text));
            }
            None => &[],
        };
        let same_version = found.iter().find(|ip| ip.is_ipv4() == self.address.is_ipv4());
        let ip = same_version.or(found.first()).copied();
        let ip =
            ip.ok_or_else(|| Cause::Local(format!("the announced name {:?} has no address", quote(host))))?;
        let access = Access { host: host.clone(), ..(*self.access).clone() };
        Ok((SocketAddr::new(ip, node.port), Arc::new(access)))
    }
}

impl Map {
    /// Every node at the same time.
    async fn probe(&mut self, round: &Round) -> Vec<Fault> {
        let mut faults = self.faults.clone();
        let mut running = JoinSet::new();
        for (number, mut node) in self.nodes.drain(..).enumerate() {
            let round = round.clone();
            let silence = round.limits.silence;
            running.spawn(async move {
                let faults = SILENCE.scope(silence, node.probe(&round)).await;
                (number, node, faults)
            });
        }
        let mut probed = Vec::new();
        while let Some(ended) = running.join_next().await {
            match ended {
                Ok((number, node, found)) => {
                    faults.extend(found);
                    probed.push((number, node));
                }
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        probed.sort_by_key(|(number, _)| *number);
        self.nodes = probed.into_iter().map(|(_, node)| node).collect();
        faults
    }

    /// Whether every key goes where it goes with `other`.
    fn leads_as(&self, other: &Self) -> bool {
        let ways = |map: &Self| -> Vec<_> {
            let mut ways: Vec<_> = map
                .nodes
                .iter()
                .flat_map(|node| node.keys.iter().map(|key| (key.slots.to_string(), node.address)))
                .collect();
            ways.sort();
            ways
        };
        ways(self) == ways(other)
    }

    /// With a newer one, which takes over what is open.
    fn replace(&mut self, newer: Self) {
        let mut older = std::mem::replace(self, newer);
        for node in &mut self.nodes {
            let same = older.nodes.iter_mut().find(|old| old.address == node.address && old.id == node.id);
            node.connection = same.and_then(|old| old.connection.take());
        }
    }

    /// Where nodes are that announce this name. Those that announce none go by `own`.
    fn addresses_of(&self, host: &str, own: &Arc<Access>) -> Vec<IpAddr> {
        let by_name = |node: &&Node| node.access.host == host && !Arc::ptr_eq(&node.access, own);
        self.nodes.iter().filter(by_name).map(|node| node.address.ip()).collect()
    }
}

impl Fault {
    /// Whether the slots may be somewhere else by now.
    fn may_be_of_the_map(&self) -> bool {
        match &self.cause {
            // Asked again, the name may resolve.
            _ if self.phase == Phase::Resolve => true,
            Cause::Redis(kind, _) => {
                matches!(kind, RedisErrorKind::Moved | RedisErrorKind::ReadOnly | RedisErrorKind::ClusterDown)
            }
            Cause::Refused
            | Cause::Closed
            | Cause::Unreachable(_)
            | Cause::TimedOut(_)
            | Cause::WrongAnswer(_) => true,
            _ => false,
        }
    }

    /// A key that is nowhere, whatever is asked, is not only elsewhere.
    fn settled(mut self) -> Self {
        if let Cause::Redis(RedisErrorKind::Moved, text) = &self.cause {
            let text = format!(
                "{text}, where the cluster announces this node for it; is what it announces current?"
            );
            self.cause = Cause::WrongAnswer(text);
        }
        self
    }

    /// What it says of the member, and how directly: with one shard gone, the others answer `CLUSTERDOWN` because of it.
    fn rank(&self, counted: &[RedisErrorKind]) -> u8 {
        let failure = Failure { phase: self.phase, cause: self.cause.clone() };
        let counts = ProbeOutcome::of(failure, counted).verdict() == Verdict::Fail;
        match (counts, &self.cause) {
            (true, Cause::Redis(RedisErrorKind::ClusterDown, _)) if self.address.is_some() => 1,
            (true, _) => 0,
            (false, _) => 2,
        }
    }
}

/// The fault that says most, with all slots that have it; the others are counted.
fn worst(faults: Vec<Fault>, counted: &[RedisErrorKind]) -> Option<(Phase, Cause)> {
    let mut kinds: Vec<Fault> = Vec::new();
    for fault in faults.into_iter().map(Fault::settled) {
        let same = |known: &&mut Fault| {
            (known.address, known.phase, &known.cause) == (fault.address, fault.phase, &fault.cause)
        };
        match kinds.iter_mut().find(same) {
            Some(known) => known.slots.join(&fault.slots),
            None => kinds.push(fault),
        }
    }
    kinds.sort_by_key(|fault| (fault.rank(counted), fault.slots.first()));
    let others = kinds.len().saturating_sub(1);
    let Fault { slots, address, phase, cause } = kinds.into_iter().next()?;
    let place = match address {
        Some(address) => format!("{slots} at {address}"),
        None => slots.to_string(),
    };
    Some((phase, Cause::Shard(Box::new(ShardFailure { place, cause, others }))))
}

fn unreadable(question: &str, answer: &Value) -> Stop {
    wrong(format!("CLUSTER {question} answers {}", shown(answer)))
}

/// What the first of these returns that ends; never, if there is none.
async fn first<F: Future>(mut futures: Vec<Pin<Box<F>>>) -> F::Output {
    let any = poll_fn(|context| {
        for future in &mut futures {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(output);
            }
        }
        Poll::Pending
    });
    pin!(any).await
}

#[cfg(test)]
mod tests;
