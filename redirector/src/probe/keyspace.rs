//! `keyspace`: a value of its own is written to every shard of a member and read back.
//!
//! A server that has the Cluster API says which primary has which slots; each gets a key in one of its slots, at the
//! address that it announces, all at the same time. Without it, keys with hash tags that are spread over the slots
//! go to the endpoint, which leads them to its shards. `docs/checks/keyspace.md` says what that proves.
//!
//! What is known of the shards is learnt anew when it turns out to be wrong, and every so often.

use std::{
    future::{Future, pending, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use redis::Value;
use tokio::{
    net::lookup_host,
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
use crate::model::{
    Access, Cause, Check, Failure, Keyspace as Settings, Limits, Phase, ProbeOutcome, RedisErrorKind,
    ShardFailure, Verdict,
};

mod node;
mod topology;

/// After this, what is known of the shards is looked at again. What is wrong is learnt anew at once.
const LEARN_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Shards and nodes that one member can have. Each is a connection and two commands per probe.
const MOST_SHARDS: usize = 1000;

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
}

impl Keyspace {
    pub(super) fn new(address: SocketAddr, access: Access, settings: Settings, check: &Check) -> Self {
        Self {
            address,
            access: Arc::new(access),
            settings,
            counted: check.counted_errors.clone(),
            nonce: nonce(),
            probes: 0,
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
            None => self.learn(phase).await?,
        };
        let mut faults = map.probe(&round).await;
        if !is_new && faults.iter().any(Fault::may_be_of_the_map) {
            // What is found with the new one counts; without a new one, what was found with the old.
            if let Ok(Ok(learnt)) = timeout_at(round.deadline(), self.learn(phase)).await {
                let is_the_same = learnt.leads_as(&map);
                map = learnt.with_connections_of(map);
                if !is_the_same {
                    faults = map.probe(&round).await;
                }
            }
        }
        let Some((of_phase, cause)) = worst(faults, &self.counted) else {
            *phase = Phase::Command;
            if map.learnt.elapsed() > LEARN_AGAIN_AFTER {
                map = self.learn(phase).await?.with_connections_of(map);
            }
            self.map = Some(map);
            return Ok(());
        };
        self.map = Some(map);
        *phase = of_phase;
        Err(Stop::Answer(cause))
    }

    /// What the next probe has to begin with.
    pub(super) fn open(&self) -> Open {
        match &self.map {
            None => Open::Nothing,
            Some(map) if map.nodes.iter().all(|node| node.connection.is_some()) => Open::All,
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

    /// Asks the endpoint who has which slots.
    async fn learn(&mut self, phase: &mut Phase) -> Result<Map, Stop> {
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
            Some(shards) => self.nodes(shards).await?,
        };
        Ok(Map { nodes, faults, learnt: Instant::now() })
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

    /// One node for each address that is announced, and what cannot be probed at all.
    async fn nodes(&self, shards: Vec<Shard>) -> Result<(Vec<Node>, Vec<Fault>), Stop> {
        let (mut nodes, mut faults) = (Vec::<Node>::new(), Vec::new());
        let mut covered = Slots::default();
        for Shard { slots, primary } in shards {
            let (Some(first), Some(primary)) = (slots.first(), primary) else { continue };
            covered.join(&slots);
            let (address, access) = match self.locate(&primary).await {
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
        Ok((nodes, faults))
    }

    /// Where a node is, and by which name its certificate goes: the one that it announces; one that announces an address
    /// alone goes by the name of the member.
    async fn locate(&self, node: &Announced) -> Result<(SocketAddr, Arc<Access>), Cause> {
        let Some(host) = &node.host else {
            return Ok((SocketAddr::new(self.address.ip(), node.port), Arc::clone(&self.access)));
        };
        if let Ok(ip) = host.parse() {
            return Ok((SocketAddr::new(ip, node.port), Arc::clone(&self.access)));
        }
        let found: Vec<_> = lookup_host((host.as_str(), node.port))
            .await
            .map_err(|error| Cause::Local(format!("the announced name {host:?} does not resolve ({error})")))?
            .collect();
        let same_version = found.iter().find(|address| address.is_ipv4() == self.address.is_ipv4());
        let address = same_version.or(found.first()).copied();
        let address =
            address.ok_or_else(|| Cause::Local(format!("the announced name {host:?} has no address")))?;
        Ok((address, Arc::new(Access { host: host.clone(), ..(*self.access).clone() })))
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

    /// Takes over what an older one has open.
    fn with_connections_of(mut self, mut older: Self) -> Self {
        for node in &mut self.nodes {
            let same = older.nodes.iter_mut().find(|old| old.address == node.address && old.id == node.id);
            node.connection = same.and_then(|old| old.connection.take());
        }
        self
    }
}

impl Fault {
    /// Whether the slots may be somewhere else by now.
    fn may_be_of_the_map(&self) -> bool {
        match &self.cause {
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
