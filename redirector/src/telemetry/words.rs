//! Outcomes of probes in a word each: labels of metrics, and what events say.

use crate::model::{Cause, Phase, ProbeOutcome, RedisErrorKind};

/// The outcome, and the phase in which it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Words {
    /// `passed`, or what stopped the probe.
    pub outcome: &'static str,
    /// How far the probe came; empty if it passed.
    pub phase: &'static str,
}

impl Words {
    /// The outcome of a probe that passed.
    pub const PASSED: &str = "passed";
}

impl From<&ProbeOutcome> for Words {
    fn from(outcome: &ProbeOutcome) -> Self {
        match outcome {
            ProbeOutcome::Passed { .. } => Self { outcome: Self::PASSED, phase: "" },
            ProbeOutcome::Failed(failure) => {
                Self { outcome: cause(&failure.cause), phase: phase(failure.phase) }
            }
        }
    }
}

fn cause(cause: &Cause) -> &'static str {
    match cause {
        Cause::Refused => "refused",
        Cause::Unreachable(_) => "unreachable",
        Cause::TimedOut(_) => "timed_out",
        Cause::Closed => "closed",
        Cause::Redis(kind, _) => redis(*kind),
        Cause::WrongAnswer(_) => "wrong_answer",
        Cause::Local(_) => "local",
    }
}

fn redis(kind: RedisErrorKind) -> &'static str {
    match kind {
        RedisErrorKind::Loading => "redis_loading",
        RedisErrorKind::Busy => "redis_busy",
        RedisErrorKind::MasterDown => "redis_masterdown",
        RedisErrorKind::ClusterDown => "redis_clusterdown",
        RedisErrorKind::ReadOnly => "redis_readonly",
        RedisErrorKind::Misconf => "redis_misconf",
        RedisErrorKind::Credentials => "credentials",
        RedisErrorKind::Other => "redis_other",
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Connect => "connect",
        Phase::Authenticate => "authenticate",
        Phase::Command => "command",
    }
}
