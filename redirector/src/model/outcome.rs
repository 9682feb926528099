//! What one probe found: never a boolean, always phase and cause.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::RedisErrorKind;

/// The result of one probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeOutcome {
    /// The member answered as it should.
    Passed {
        /// From the start of the probe to the answer.
        latency: Duration,
    },
    /// It did not, which counts against it.
    Failed(Failure),
    /// It did not pass, and that says nothing about the member: the probe's own trouble, or an error that this check
    /// does not count. Shown, not counted.
    Inconclusive(Failure),
}

/// Why a probe did not pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// How far the probe came.
    pub phase: Phase,
    /// What stopped it.
    pub cause: Cause,
}

/// The steps of a probe, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Looking a name up.
    Resolve,
    /// Opening the TCP connection.
    Connect,
    /// Agreeing on TLS, and believing the certificate.
    Tls,
    /// Logging in.
    Authenticate,
    /// Sending the command and reading the answer.
    Command,
}

/// What stopped a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A reset answered the SYN.
    Refused,
    /// The network says that there is no way (no route, host or network unreachable).
    Unreachable(String),
    /// Nothing came within the check's time-out.
    TimedOut(Duration),
    /// The member closed or reset the connection.
    Closed,
    /// TLS found fault, with what to do about it.
    Tls(TlsFault, String),
    /// Redis answered with an error.
    Redis(RedisErrorKind, String),
    /// The answer is not the one that the command calls for.
    WrongAnswer(String),
    /// It answers well, and is not the primary that the check asks for.
    WrongRole(String),
    /// Something on this host prevented the probe (out of file descriptors, permission).
    Local(String),
}

/// Kinds of failure that are borne for different times ([`Detect`](super::Detect)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Nothing came back, not even an answer to a SYN; or the network says that there is no way.
    Silence,
    /// The host answers, Redis does not: a fork, a slow script, or frozen.
    Stall,
    /// The connection was refused, closed or reset.
    Refused,
    /// Redis answered with an error.
    Redis(RedisErrorKind),
    /// Anything else, such as a wrong answer.
    Other,
}

impl Failure {
    /// Of which kind it is. A time-out tells by its phase: a connection that was opened is a sign of life.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match (&self.cause, self.phase) {
            (Cause::TimedOut(_), Phase::Connect) | (Cause::Unreachable(_), _) => FailureKind::Silence,
            (Cause::TimedOut(_), Phase::Tls | Phase::Authenticate | Phase::Command) => FailureKind::Stall,
            (Cause::Refused | Cause::Closed, _) => FailureKind::Refused,
            (Cause::Redis(kind, _), _) => FailureKind::Redis(*kind),
            _ => FailureKind::Other,
        }
    }

    /// How long the probe had waited when it gave up; zero when it was answered.
    #[must_use]
    pub fn waited(&self) -> Duration {
        match self.cause {
            Cause::TimedOut(after) => after,
            _ => Duration::ZERO,
        }
    }
}

/// What can be wrong with TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsFault {
    /// The member's certificate has expired.
    Expired,
    /// It is not valid yet.
    NotYetValid,
    /// It is for another name.
    WrongName,
    /// It comes from nobody that the check believes.
    UnknownIssuer,
    /// The member does not accept the check's own certificate, or misses one.
    Refused,
    /// What answers is not TLS.
    NotTls,
    /// Anything else: no common version or cipher, a certificate that is no server's, a broken record.
    Handshake,
}

/// What an outcome says about the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Counts for it.
    Pass,
    /// Counts against it.
    Fail,
    /// Says nothing about it: reported, not counted.
    Inconclusive,
}

impl Cause {
    /// Whether it can count against a member. Refused credentials of the probe and trouble on this host say nothing
    /// about it.
    #[must_use]
    pub fn is_about_the_member(&self) -> bool {
        match self {
            Self::Redis(kind, _) => !kind.is_about_credentials(),
            Self::Tls(fault, _) => *fault != TlsFault::Refused,
            Self::Local(_) => false,
            _ => true,
        }
    }
}

impl ProbeOutcome {
    /// A probe that did not pass, in a check that counts these Redis errors.
    #[must_use]
    pub fn of(failure: Failure, counted: &[RedisErrorKind]) -> Self {
        let counts = match &failure.cause {
            Cause::Redis(kind, _) => counted.contains(kind),
            _ => true,
        };
        if counts && failure.cause.is_about_the_member() {
            Self::Failed(failure)
        } else {
            Self::Inconclusive(failure)
        }
    }

    /// What this outcome says about the member.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Passed { .. } => Verdict::Pass,
            Self::Failed(_) => Verdict::Fail,
            Self::Inconclusive(_) => Verdict::Inconclusive,
        }
    }
}

impl fmt::Display for ProbeOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed { latency } => write!(f, "ok in {:.1} ms", latency.as_secs_f64() * 1e3),
            Self::Failed(failure) => failure.fmt(f),
            Self::Inconclusive(failure) => write!(f, "{failure} (not counted)"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Refused => f.write_str("connection refused"),
            Cause::Unreachable(why) => write!(f, "unreachable: {why}"),
            Cause::TimedOut(after) => {
                write!(f, "{} timed out after {}", self.phase, humantime::format_duration(*after))
            }
            Cause::Closed => write!(f, "connection closed during {}", self.phase),
            Cause::Tls(_, text) => write!(f, "TLS: {text}"),
            Cause::Redis(_, text) => write!(f, "Redis error: {text}"),
            Cause::WrongAnswer(text) => write!(f, "wrong answer: {text}"),
            Cause::WrongRole(text) => write!(f, "wrong role: {text}"),
            Cause::Local(why) => write!(f, "probe impossible: {why}"),
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "name look-up",
            Self::Connect => "connect",
            Self::Tls => "TLS handshake",
            Self::Authenticate => "authentication",
            Self::Command => "command",
        })
    }
}
