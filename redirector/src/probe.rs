//! Probers: each executes one check against one address of one member, over and over, and reports typed outcomes.
//!
//! A prober decides when to probe and what a probe found; what that means for the member is for `decide`. It
//! dials the member's own address, never a VIP, and binds no port, so its traffic does not meet the redirect.

use std::{net::SocketAddr, time::Instant};

use tokio::{
    sync::{mpsc, watch},
    time::{sleep_until, timeout},
};

use crate::model::{
    Access, Cause, Check, CheckId, CheckKind, Failure, Limits, MemberId, Pace, Phase, ProbeOutcome,
    RedisErrorKind, ServiceId, Verdict, Witness,
};
use echo::Echo;
use exec::Exec;
use http::Http;
use kept::Kept;
use keyspace::Keyspace;
use lag::Lag;
use patience::{Open, Patience};
use ping::Ping;
use rhythm::Rhythm;
use set_get::SetGet;
use stop::Stop;
use vote::Vote;

mod base64;
mod echo;
mod exec;
pub mod heartbeat;
mod http;
pub(crate) mod http_client;
mod kept;
mod keyspace;
pub(crate) mod lag;
mod nonce;
mod patience;
mod ping;
pub(crate) mod redis;
mod resp;
mod rhythm;
mod role;
mod set_get;
mod slots;
pub(crate) mod socket;
pub(crate) mod stop;
mod tcp;
mod vote;

/// Tells probers apart. Services, members and checks may get other numbers while a prober runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProberId(pub u64);

/// What one prober needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Which prober this is.
    pub prober: ProberId,
    /// Service that the member belongs to.
    pub service: ServiceId,
    /// Member that is probed.
    pub member: MemberId,
    /// Which of the service's checks this is.
    pub check_id: CheckId,
    /// The check itself.
    pub check: Check,
    /// One of the member's own addresses.
    pub address: SocketAddr,
    /// How to reach and enter it.
    pub access: Access,
}

/// What a prober is told while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Which interval holds.
    pub pace: Pace,
    /// Grows by one whenever a round is wanted at once. A number, so that a change of the pace that comes with it hides it
    /// from nobody: only the newest value is seen.
    pub asked: u64,
    /// The same of a signal: checks that notice nothing sooner by it go on as they were ([`Check::follows_signals`]).
    pub looks: u64,
}

impl Told {
    /// How often a round was wanted of the prober of this check.
    fn wanted(&self, check: &Check) -> u64 {
        self.asked + if check.follows_signals() { self.looks } else { 0 }
    }
}

impl From<Pace> for Told {
    /// Nothing was asked for.
    fn from(pace: Pace) -> Self {
        Self { pace, asked: 0, looks: 0 }
    }
}

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// From [`Target::prober`]. What the other numbers meant when it was started, they may not mean any more.
    pub prober: ProberId,
    /// From [`Target::service`].
    pub service: ServiceId,
    /// From [`Target::member`].
    pub member: MemberId,
    /// From [`Target::address`].
    pub address: SocketAddr,
    /// From [`Target::check_id`].
    pub check: CheckId,
    /// What the probe found.
    pub outcome: ProbeOutcome,
    /// When the probe began.
    pub started: Instant,
    /// When it ended.
    pub at: Instant,
}

/// Probes until it is dropped or nobody receives its reports.
///
/// A round is [`Check::probes`] probes that make one verdict, mostly one. The first round starts at once. The next one
/// starts an interval after the *start* of the one before, or when that one has ended, whichever is later: a probe never
/// overlaps itself. `told` says which interval holds ([`Rhythm`]); a change takes effect at once, also in the middle of a
/// wait; and whether a round is wanted now. Dropping the sender of `told` keeps its last value.
///
/// When a kept connection ends between two rounds, the next one starts at once: a crash is seen when it happens,
/// not an interval later. A round that was started so does not start another one in the same way, so a member that
/// closes every connection after one answer is probed at most twice an interval.
pub async fn run(target: Target, mut told: watch::Receiver<Told>, reports: mpsc::Sender<Report>) {
    let Target { prober: id, service, member, check_id, check, address, access } = target;
    let mut prober = Prober::new(&check, address, access);
    let (mut patience, mut rhythm) = (Patience::default(), Rhythm::new());
    let mut early = false;
    let mut failures: u32 = 0;
    loop {
        let wanted = told.borrow().wanted(&check);
        let started = Instant::now();
        let outcome = round(&mut prober, &check, &mut patience, failures).await;
        failures = match outcome.verdict() {
            Verdict::Pass => 0,
            Verdict::Fail => failures.saturating_add(1),
            Verdict::Inconclusive => failures,
        };
        rhythm.ended(&check, &outcome, failures);
        let report = Report {
            prober: id,
            service,
            member,
            address,
            check: check_id,
            outcome,
            started,
            at: Instant::now(),
        };
        if reports.send(report).await.is_err() {
            return;
        }
        early = rest(&mut prober, (started, wanted), (&check, &mut rhythm), &mut told, !early).await;
    }
}

/// One round on a fresh connection, in which every probe has its whole time-out.
pub async fn once(check: &Check, address: SocketAddr, access: &Access) -> ProbeOutcome {
    let mut prober = Prober::new(check, address, access.clone());
    round(&mut prober, check, &mut Patience::default(), check.fall).await
}

/// Probes until the verdict is certain. `failures`: how many rounds before this one failed in a row.
async fn round(prober: &mut Prober, check: &Check, patience: &mut Patience, failures: u32) -> ProbeOutcome {
    let mut vote = Vote::new(check.policy, check.probes);
    loop {
        let started = Instant::now();
        let open = prober.open();
        let outcome = prober.probe(patience.limits(check, failures)).await;
        if patience.learn(check, failures, &outcome, open) {
            prober.disconnect();
        }
        if let Some(decisive) = vote.count(outcome) {
            return decisive;
        }
        sleep_until((started + check.probe_delay).into()).await;
    }
}

/// Waits until the next round is due. Whether the end of the connection cut the wait short (only if it `may`). `wanted`: what was
/// wanted when the last round started; who wants one while it is under way asks for an answer that is newer.
async fn rest(
    prober: &mut Prober,
    (started, wanted): (Instant, u64),
    (check, rhythm): (&Check, &mut Rhythm),
    told: &mut watch::Receiver<Told>,
    may: bool,
) -> bool {
    loop {
        let now = *told.borrow_and_update();
        if now.wanted(check) != wanted {
            return false;
        }
        let pace = now.pace;
        tokio::select! {
            biased;
            () = prober.ended() => if may { return true },
            () = sleep_until((started + rhythm.interval(check, pace)).into()) => {
                rhythm.rested(pace);
                return false;
            }
            // When the sender is gone the pattern does not match, and the other branches go on.
            Ok(()) = told.changed() => {}
        }
    }
}

/// A check of one address, with what it keeps between probes.
struct Prober {
    address: SocketAddr,
    /// From [`Check::counted_errors`].
    counted: Vec<RedisErrorKind>,
    kind: Kind,
}

/// What each kind of check keeps.
enum Kind {
    Tcp,
    Ping(Kept<Ping>),
    Echo(Kept<Echo>),
    SetGet(Kept<SetGet>),
    Lag(Box<Lag>),
    Http(Box<Http>),
    Exec(Box<Exec>),
    /// A check of a service, and of none of its members: there is nobody to probe.
    OfNobody,
    Keyspace(Box<Keyspace>),
}

impl Prober {
    fn new(check: &Check, address: SocketAddr, access: Access) -> Self {
        let role = check.role;
        let kind = match &check.kind {
            CheckKind::Tcp => Kind::Tcp,
            CheckKind::Ping => Kind::Ping(Kept::new(address, access, Ping { role })),
            CheckKind::Echo => Kind::Echo(Kept::new(address, access, Echo { role })),
            CheckKind::SetGet { prefix, expiry } => {
                Kind::SetGet(Kept::new(address, access, SetGet::new(prefix, *expiry)))
            }
            CheckKind::Lag(lag) => match &lag.of {
                Some(of) => Kind::Lag(Box::new(Lag::new(lag, of))),
                None => Kind::OfNobody,
            },
            CheckKind::Http(http) => Kind::Http(Box::new(Http::new(http, &access.host, address))),
            CheckKind::Exec(exec) => match &exec.of {
                Some(of) => Kind::Exec(Box::new(Exec::new(exec, of, address, check.timeout))),
                None => Kind::OfNobody,
            },
            CheckKind::Keyspace(settings) => {
                Kind::Keyspace(Box::new(Keyspace::new(address, access, settings.clone(), check)))
            }
            // It is one for all members: see `heartbeat`.
            CheckKind::Heartbeat(_) => Kind::OfNobody,
        };
        Self { address, counted: check.counted_errors.clone(), kind }
    }

    /// One probe within these limits.
    ///
    /// When a kept connection gets no answer, the probe asks again over a new one before it gives up: that tells a silent
    /// network, where nobody answers the SYN, from a member that is stalled, whose host does. It costs nothing but
    /// the connection: an answer over the new one is a pass.
    async fn probe(&mut self, limits: Limits) -> ProbeOutcome {
        let started = Instant::now();
        let mut phase = Phase::Connect;
        let mut ended = None;
        if self.is_connected() {
            ended = timeout(limits.kept(), self.attempt(&mut phase, limits)).await.ok();
        }
        if ended.is_none() {
            phase = Phase::Connect;
            let left = limits.answer.saturating_sub(started.elapsed());
            let attempt = socket::SILENCE.scope(limits.silence, self.attempt(&mut phase, limits));
            ended = timeout(left, attempt).await.ok();
        }
        let latency = started.elapsed();
        let cause = match ended {
            Some(Ok(())) => return ProbeOutcome::Passed { latency },
            Some(Err(Stop::Answer(cause))) => cause,
            Some(Err(Stop::Io(error))) => stop::cause(&error, self.address, latency),
            None => Cause::TimedOut(limits.answer),
        };
        // A member that speaks TLS 1.3 judges a client certificate after the client has seen the end of the handshake.
        let phase = if matches!(cause, Cause::Tls(..)) { Phase::Tls } else { phase };
        let cause =
            if matches!(self.kind, Kind::Lag(_)) { cause.of_witness(Witness::RestApi) } else { cause };
        ProbeOutcome::of(Failure { phase, cause }, &self.counted)
    }

    /// `phase` tells how far it came, also when it is dropped half-way. What holds several connections keeps to `limits` with
    /// each of them; for the others the caller does.
    async fn attempt(&mut self, phase: &mut Phase, limits: Limits) -> Result<(), Stop> {
        match &mut self.kind {
            Kind::Tcp => tcp::probe(self.address).await,
            Kind::Ping(kept) => kept.probe(phase).await,
            Kind::Echo(kept) => kept.probe(phase).await,
            Kind::SetGet(kept) => kept.probe(phase).await,
            Kind::Keyspace(keyspace) => keyspace.probe(phase, limits).await,
            Kind::Lag(lag) => lag.probe(phase).await,
            Kind::Http(http) => http.probe(phase).await,
            Kind::Exec(exec) => exec.probe(phase).await,
            Kind::OfNobody => Err(Stop::Answer(Cause::Local("the check is of no member".to_owned()))),
        }
    }

    /// Returns when the connection that is kept between probes has ended; never, when there is none.
    async fn ended(&mut self) {
        match &mut self.kind {
            Kind::Tcp | Kind::Lag(_) | Kind::Http(_) | Kind::Exec(_) | Kind::OfNobody => {
                std::future::pending::<()>().await;
            }
            Kind::Ping(kept) => kept.ended().await,
            Kind::Echo(kept) => kept.ended().await,
            Kind::SetGet(kept) => kept.ended().await,
            Kind::Keyspace(keyspace) => keyspace.ended().await,
        }
    }

    /// What the next probe has to begin with.
    fn open(&self) -> Open {
        match &self.kind {
            Kind::Keyspace(keyspace) => keyspace.open(),
            _ if self.is_connected() => Open::All,
            _ => Open::Nothing,
        }
    }

    /// Whether there is one connection to ask over, and it is kept now.
    fn is_connected(&self) -> bool {
        match &self.kind {
            Kind::Tcp | Kind::Keyspace(_) | Kind::Lag(_) | Kind::Http(_) | Kind::Exec(_) | Kind::OfNobody => {
                false
            }
            Kind::Ping(kept) => kept.is_connected(),
            Kind::Echo(kept) => kept.is_connected(),
            Kind::SetGet(kept) => kept.is_connected(),
        }
    }

    /// Lets go of the connections that are kept, if there are any.
    fn disconnect(&mut self) {
        match &mut self.kind {
            Kind::Tcp | Kind::Lag(_) | Kind::Http(_) | Kind::Exec(_) | Kind::OfNobody => {}
            Kind::Keyspace(keyspace) => keyspace.disconnect(),
            Kind::Ping(kept) => kept.disconnect(),
            Kind::Echo(kept) => kept.disconnect(),
            Kind::SetGet(kept) => kept.disconnect(),
        }
    }
}
