//! The probers against real Redis servers, and against servers that are none.

use std::{net::SocketAddr, time::Duration};

use redirector::{
    model::{
        Access, Cause, Check, CheckKind, Failure, Login, Phase, ProbeOutcome, RedisErrorKind, Secret, Verdict,
    },
    probe::once,
};

mod certificates;
mod cluster;
mod credentials;
mod heartbeat;
mod keyspace;
mod kinds;
mod once;
mod proxy;
mod readiness;
mod run;
mod server;
#[path = "../support/temp.rs"]
mod temp;
mod tls;
mod waits;

/// A check that is patient in everything: each test shortens what it is about.
fn check(kind: CheckKind) -> Check {
    Check {
        interval: Duration::from_secs(3600),
        fast_interval: Duration::from_secs(3600),
        timeout: Duration::from_secs(10),
        jitter_percent: 0,
        fall: 1,
        rise: 1,
        ..Check::of(kind)
    }
}

/// In clear, with this login.
fn login(username: Option<&str>, password: Option<&str>) -> Access {
    let login = Login {
        username: username.map(str::to_owned),
        password: password.map(|text| Secret::new(text.to_owned())),
    };
    Access { login, ..Access::default() }
}

async fn ping(address: SocketAddr, access: &Access) -> ProbeOutcome {
    once(&check(CheckKind::Ping), address, access).await
}

fn failed(phase: Phase, cause: Cause) -> ProbeOutcome {
    ProbeOutcome::Failed(Failure { phase, cause })
}

/// Phase and kind of an error reply.
fn redis_error(outcome: &ProbeOutcome) -> Option<(Phase, RedisErrorKind)> {
    match outcome {
        ProbeOutcome::Failed(failure) | ProbeOutcome::Inconclusive(failure) => match failure.cause {
            Cause::Redis(kind, _) => Some((failure.phase, kind)),
            _ => None,
        },
        ProbeOutcome::Passed { .. } => None,
    }
}

/// What stopped it, and how far it came.
fn stopped(outcome: &ProbeOutcome) -> &Failure {
    match outcome {
        ProbeOutcome::Failed(failure) | ProbeOutcome::Inconclusive(failure) => failure,
        ProbeOutcome::Passed { .. } => panic!("passed"),
    }
}

fn passed(outcome: &ProbeOutcome) -> bool {
    outcome.verdict() == Verdict::Pass
}
