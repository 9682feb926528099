//! What one probe found: never a boolean, always phase and cause.

use std::{fmt, time::Duration};

/// The result of one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// The member answered as it should.
    Passed {
        /// From the start of the probe to the answer.
        latency: Duration,
    },
    /// It did not, or the probe could not find out.
    Failed(Failure),
}

/// Why a probe did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How far the probe came.
    pub phase: Phase,
    /// What stopped it.
    pub cause: Cause,
}

/// The steps of a probe, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Opening the TCP connection.
    Connect,
    /// Logging in.
    Authenticate,
    /// Sending the command and reading the answer.
    Command,
}

/// What stopped a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A reset answered the SYN.
    Refused,
    /// The network says that there is no way (no route, host or network unreachable).
    Unreachable(String),
    /// Nothing came within the check's time-out.
    TimedOut(Duration),
    /// The member closed or reset the connection.
    Closed,
    /// Redis answered with an error.
    Redis(RedisErrorKind, String),
    /// The answer is not the one that the command calls for.
    WrongAnswer(String),
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
            (Cause::TimedOut(_), Phase::Authenticate | Phase::Command) => FailureKind::Stall,
            (Cause::Refused | Cause::Closed, _) => FailureKind::Refused,
            (Cause::Redis(kind, _), _) => FailureKind::Redis(*kind),
            (Cause::WrongAnswer(_) | Cause::Local(_), _) => FailureKind::Other,
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

/// Redis's error replies, told apart by their first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisErrorKind {
    /// `LOADING`: reads its data set into memory.
    Loading,
    /// `BUSY`: runs a script that does not end.
    Busy,
    /// `MASTERDOWN`: a replica without its primary.
    MasterDown,
    /// `CLUSTERDOWN`: slots are not covered.
    ClusterDown,
    /// `READONLY`: a replica.
    ReadOnly,
    /// `MISCONF`: writes are stopped because the last save failed.
    Misconf,
    /// `NOAUTH`, `WRONGPASS`, `NOPERM`: the probe's own credentials.
    Credentials,
    /// Any other.
    Other,
}

impl RedisErrorKind {
    /// Reads the first word of an error reply.
    #[must_use]
    pub fn of(code: &str) -> Self {
        match code {
            "LOADING" => Self::Loading,
            "BUSY" => Self::Busy,
            "MASTERDOWN" => Self::MasterDown,
            "CLUSTERDOWN" => Self::ClusterDown,
            "READONLY" => Self::ReadOnly,
            "MISCONF" => Self::Misconf,
            "NOAUTH" | "WRONGPASS" | "NOPERM" => Self::Credentials,
            _ => Self::Other,
        }
    }
}

/// What an outcome says about the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Counts for it.
    Pass,
    /// Counts against it.
    Fail,
    /// Says nothing about it: reported, not counted.
    Inconclusive,
}

impl ProbeOutcome {
    /// What this outcome says about the member.
    ///
    /// Refused credentials of the probe and trouble on this host say nothing about the member.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Passed { .. } => Verdict::Pass,
            Self::Failed(failure) => match failure.cause {
                Cause::Redis(RedisErrorKind::Credentials, _) | Cause::Local(_) => Verdict::Inconclusive,
                _ => Verdict::Fail,
            },
        }
    }
}

impl fmt::Display for ProbeOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed { latency } => write!(f, "ok in {:.1} ms", latency.as_secs_f64() * 1e3),
            Self::Failed(failure) => failure.fmt(f),
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
            Cause::Redis(_, text) => write!(f, "Redis error: {text}"),
            Cause::WrongAnswer(text) => write!(f, "wrong answer: {text}"),
            Cause::Local(why) => write!(f, "probe impossible: {why}"),
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Authenticate => "authentication",
            Self::Command => "command",
        })
    }
}
