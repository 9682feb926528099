//! Probers: each executes one check against one address of one member, over and over, and reports typed outcomes.
//!
//! A prober decides when to probe and what a probe found; what that means for the member is for `decide`. It
//! dials the member's own address, never a VIP, and binds no port, so its traffic does not meet the redirect.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    time::{sleep_until, timeout},
};

use crate::model::{
    Cause, Check, CheckId, CheckKind, Failure, Login, MemberId, Pace, Phase, ProbeOutcome, ServiceId,
};
use ping::Ping;
use stop::Stop;

mod ping;
mod socket;
mod stop;
mod tcp;

/// What one prober needs to know.
#[derive(Clone, Debug)]
pub struct Target {
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
    /// How to log in.
    pub login: Login,
}

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
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
/// The first probe starts at once. The next one starts an interval after the *start* of the one before, or when
/// that one has ended, whichever is later: a probe never overlaps itself. `pace` says which interval holds; a
/// change takes effect at once, also in the middle of a wait. Dropping the sender of `pace` keeps its last value.
///
/// When a kept connection ends between two probes, the next one starts at once: a crash is seen when it happens,
/// not an interval later. A probe that was started so does not start another one in the same way, so a member that
/// closes every connection after one answer is probed at most twice an interval.
pub async fn run(target: Target, mut pace: watch::Receiver<Pace>, reports: mpsc::Sender<Report>) {
    let Target { service, member, check_id, check, address, login } = target;
    let mut prober = Prober::new(&check.kind, address, login);
    let mut early = false;
    loop {
        let started = Instant::now();
        let outcome = prober.probe(check.timeout).await;
        let report =
            Report { service, member, address, check: check_id, outcome, started, at: Instant::now() };
        if reports.send(report).await.is_err() {
            return;
        }
        early = rest(&mut prober, started, &check, &mut pace, !early).await;
    }
}

/// One probe on a fresh connection.
pub async fn once(check: &Check, address: SocketAddr, login: &Login) -> ProbeOutcome {
    Prober::new(&check.kind, address, login.clone()).probe(check.timeout).await
}

/// Waits until the next probe is due. Whether the end of the connection cut the wait short (only if it `may`).
async fn rest(
    prober: &mut Prober,
    started: Instant,
    check: &Check,
    pace: &mut watch::Receiver<Pace>,
    may: bool,
) -> bool {
    loop {
        let interval = match *pace.borrow_and_update() {
            Pace::Normal => check.interval,
            Pace::Fast => check.fast_interval,
        };
        tokio::select! {
            biased;
            () = prober.ended() => if may { return true },
            () = sleep_until((started + interval).into()) => return false,
            // When the sender is gone the pattern does not match, and the other branches go on.
            Ok(()) = pace.changed() => {}
        }
    }
}

/// One kind of check with what it keeps between probes.
enum Prober {
    Tcp(SocketAddr),
    Ping(Ping),
}

impl Prober {
    fn new(kind: &CheckKind, address: SocketAddr, login: Login) -> Self {
        match kind {
            CheckKind::Tcp => Self::Tcp(address),
            CheckKind::Ping => Self::Ping(Ping::new(address, login)),
        }
    }

    /// One probe; all its phases together take at most `limit`.
    async fn probe(&mut self, limit: Duration) -> ProbeOutcome {
        let started = Instant::now();
        let mut phase = Phase::Connect;
        let address = self.address();
        let ended = timeout(limit, self.attempt(&mut phase)).await;
        let latency = started.elapsed();
        let cause = match ended {
            Ok(Ok(())) => return ProbeOutcome::Passed { latency },
            Ok(Err(Stop::Answer(cause))) => cause,
            Ok(Err(Stop::Io(error))) => stop::cause(&error, address, latency),
            Err(_) => Cause::TimedOut(limit),
        };
        ProbeOutcome::Failed(Failure { phase, cause })
    }

    /// `phase` tells how far it came, also when it is dropped half-way.
    async fn attempt(&mut self, phase: &mut Phase) -> Result<(), Stop> {
        match self {
            Self::Tcp(address) => tcp::probe(*address).await,
            Self::Ping(ping) => ping.probe(phase).await,
        }
    }

    /// Returns when the connection that is kept between probes has ended; never, when there is none.
    async fn ended(&mut self) {
        match self {
            Self::Tcp(_) => std::future::pending().await,
            Self::Ping(ping) => ping.ended().await,
        }
    }

    fn address(&self) -> SocketAddr {
        match self {
            Self::Tcp(address) => *address,
            Self::Ping(ping) => ping.address(),
        }
    }
}
