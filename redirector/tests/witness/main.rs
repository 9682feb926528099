//! Checks that ask somebody else about the member, `lag`, `http` and `exec`: against real servers, and with real commands.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use redirector::{
    model::{
        Access, Authorities, Cause, Check, CheckId, CheckKind, Failure, MemberId, Pace, Phase, ProbeOutcome,
        ServiceId, Tls, Trust, Verdict,
    },
    probe::{ProberId, Report, Target, Told, run},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

mod certificate;
mod exec;
mod http;
mod lag;
mod rest_api;
#[path = "../support/temp.rs"]
mod temp;

/// A check that is patient in everything: each test shortens what it is about.
fn check(kind: CheckKind) -> Check {
    Check {
        interval: Duration::from_secs(3600),
        fast_interval: Duration::from_secs(3600),
        timeout: Duration::from_secs(10),
        ..Check::of(kind)
    }
}

/// Whom a client believes that has this certificate in its `ca_file`.
fn trust(pem: &str, server_name: Option<&str>) -> Tls {
    let trust = Trust { authorities: Authorities::Pem(pem.to_owned()), identity: None };
    Tls { server_name: server_name.map(str::to_owned), trust: Arc::new(trust) }
}

/// A member's address, where nobody listens: none of these checks goes there of itself.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound socket has an address")
}

/// A prober that goes on. It ends with its guard.
struct Prober {
    reports: mpsc::Receiver<Report>,
    _guard: JoinSet<()>,
    _pace: watch::Sender<Told>,
}

impl Prober {
    fn start(check: Check, address: SocketAddr) -> Self {
        let (sender, reports) = mpsc::channel(1);
        let (pace, paces) = watch::channel(Pace::Normal.into());
        let (service, member, check_id) = (ServiceId(0), MemberId(0), CheckId(0));
        let prober = ProberId::default();
        let target = Target { prober, service, member, check_id, check, address, access: Access::default() };
        let mut guard = JoinSet::new();
        guard.spawn(run(target, paces, sender));
        Self { reports, _guard: guard, _pace: pace }
    }

    async fn outcome(&mut self) -> ProbeOutcome {
        let report = tokio::time::timeout(Duration::from_secs(20), self.reports.recv()).await;
        report.expect("a report in time").expect("the prober goes on").outcome
    }

    /// The first outcome with this verdict, of a few.
    async fn until(&mut self, verdict: Verdict) -> ProbeOutcome {
        for _ in 0..200 {
            let outcome = self.outcome().await;
            if outcome.verdict() == verdict {
                return outcome;
            }
        }
        panic!("{verdict:?} does not come");
    }
}

/// Phase and cause of a probe that says nothing about the member.
fn trouble(outcome: &ProbeOutcome) -> (Phase, &Cause) {
    match outcome {
        ProbeOutcome::Inconclusive(Failure { phase, cause: Cause::Witness(_, cause) }) => (*phase, cause),
        outcome => panic!("{outcome:?}"),
    }
}
