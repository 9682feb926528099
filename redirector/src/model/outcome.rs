//! What one probe found: never a boolean, always phase and cause.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{HeartbeatFault, RedisErrorKind, ShardFailure};

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
    /// Somebody who was asked about the member (its cluster's REST API, a command) says that it is not well.
    Reported(String),
    /// Somebody who was asked about the member has trouble of their own, or does not know.
    Witness(Witness, Box<Cause>),
    /// A part of the member failed, or several did.
    Shard(Box<ShardFailure>),
    /// Messages do not arrive, in words that name the members.
    Heartbeat(HeartbeatFault, String),
    /// Something on this host prevented the probe (out of file descriptors, permission).
    Local(String),
}

/// Kinds of failure that are borne for different times ([`Detect`](super::Detect)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Nothing came back, not even an answer to a SYN or to the question for an address; or the network says that there is no way.
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
    /// Of which kind it is. A time-out tells by its phase: a connection that was opened is a sign of life. A name that is not
    /// answered for is as one that does not resolve.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match (self.cause.inner(), self.phase) {
            (Cause::TimedOut(_), Phase::Resolve | Phase::Connect) | (Cause::Unreachable(_), _) => {
                FailureKind::Silence
            }
            (Cause::TimedOut(_), Phase::Tls | Phase::Authenticate | Phase::Command) => FailureKind::Stall,
            (Cause::Refused | Cause::Closed, _) => FailureKind::Refused,
            (Cause::Redis(kind, _), _) => FailureKind::Redis(*kind),
            _ => FailureKind::Other,
        }
    }

    /// How long the probe had waited when it gave up; zero when it was answered.
    #[must_use]
    pub fn waited(&self) -> Duration {
        match self.cause.inner() {
            Cause::TimedOut(after) => *after,
            _ => Duration::ZERO,
        }
    }
}

/// Who is asked about a member, and is not the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Witness {
    /// The REST API of its cluster.
    RestApi,
    /// A command of the operator's.
    Command,
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RestApi => "REST API",
            Self::Command => "command",
        })
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
    /// Of a part of a member, the cause there.
    #[must_use]
    pub fn inner(&self) -> &Self {
        match self {
            Self::Shard(failure) => failure.cause.inner(),
            cause => cause,
        }
    }

    /// Whether it can count against a member. Refused credentials of the probe and trouble on this host say nothing
    /// about it.
    #[must_use]
    pub fn is_about_the_member(&self) -> bool {
        match self.inner() {
            Self::Redis(kind, _) => !kind.is_about_credentials(),
            Self::Tls(fault, _) => *fault != TlsFault::Refused,
            Self::Heartbeat(HeartbeatFault::TooEarly | HeartbeatFault::Unknown, _)
            | Self::Local(_)
            | Self::Witness(..) => false,
            _ => true,
        }
    }

    /// The same when it was not the member that was probed, but `witness`. Only what that one reports is about the
    /// member then.
    #[must_use]
    pub fn of_witness(self, witness: Witness) -> Self {
        match self {
            Self::Reported(_) | Self::Witness(..) | Self::Local(_) => self,
            trouble => Self::Witness(witness, Box::new(trouble)),
        }
    }

    /// In words that name the phase where they need it.
    fn in_words(&self, phase: Phase) -> String {
        match self {
            Self::Refused => "connection refused".to_owned(),
            Self::Unreachable(why) => format!("unreachable: {why}"),
            Self::TimedOut(after) => {
                format!("{phase} timed out after {}", humantime::format_duration(*after))
            }
            Self::Closed => format!("connection closed during {phase}"),
            Self::Tls(_, text) => format!("TLS: {text}"),
            Self::Redis(_, text) => format!("Redis error: {text}"),
            Self::WrongAnswer(text) => format!("wrong answer: {text}"),
            Self::WrongRole(text) => format!("wrong role: {text}"),
            Self::Reported(text) => text.clone(),
            Self::Witness(who, cause) => format!("{who}: {}", cause.in_words(phase)),
            Self::Shard(failure) => {
                format!("{}: {}{}", failure.place, failure.cause.in_words(phase), failure.and_others())
            }
            Self::Heartbeat(_, text) => text.clone(),
            Self::Local(why) => format!("probe impossible: {why}"),
        }
    }
}

impl ProbeOutcome {
    /// A probe that did not pass, in a check that counts these Redis errors.
    #[must_use]
    pub fn of(failure: Failure, counted: &[RedisErrorKind]) -> Self {
        let counts = match failure.cause.inner() {
            Cause::Redis(kind, _) => counted.contains(kind),
            _ => true,
        };
        if counts && failure.cause.is_about_the_member() {
            Self::Failed(failure)
        } else {
            Self::Inconclusive(failure)
        }
    }

    /// How long the probe took, as far as the outcome tells: zero when an error ended it.
    #[must_use]
    pub fn took(&self) -> Duration {
        match self {
            Self::Passed { latency } => *latency,
            Self::Failed(failure) | Self::Inconclusive(failure) => failure.waited(),
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
        f.write_str(&self.cause.in_words(self.phase))
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
