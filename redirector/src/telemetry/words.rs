//! Outcomes of probes in a word each: labels of metrics, and what events say.

use crate::model::{Cause, Phase, ProbeOutcome, RedisErrorKind, TlsFault, Verdict, Witness};

/// What it says about the member, the outcome, and the phase in which it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Words {
    /// `pass`, `fail` or `inconclusive`.
    pub verdict: &'static str,
    /// `passed`, or what stopped the probe.
    pub outcome: &'static str,
    /// How far the probe came; empty if it passed.
    pub phase: &'static str,
}

impl From<&ProbeOutcome> for Words {
    fn from(outcome: &ProbeOutcome) -> Self {
        let verdict = match outcome.verdict() {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::Inconclusive => "inconclusive",
        };
        match outcome {
            ProbeOutcome::Passed { .. } => Self { verdict, outcome: "passed", phase: "" },
            ProbeOutcome::Failed(failure) | ProbeOutcome::Inconclusive(failure) => {
                Self { verdict, outcome: cause(&failure.cause), phase: phase(failure.phase) }
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
        Cause::Tls(fault, _) => tls(*fault),
        Cause::Redis(kind, _) => redis(*kind),
        Cause::WrongAnswer(_) => "wrong_answer",
        Cause::WrongRole(_) => "wrong_role",
        Cause::Reported(_) => "reported",
        Cause::Witness(Witness::RestApi, _) => "rest_api",
        Cause::Witness(Witness::Command, _) => "command",
        Cause::Shard(_) => "shard",
        Cause::Heartbeat(..) => "heartbeat",
        Cause::Local(_) => "local",
    }
}

fn tls(fault: TlsFault) -> &'static str {
    match fault {
        TlsFault::Expired => "tls_expired",
        TlsFault::NotYetValid => "tls_not_yet_valid",
        TlsFault::WrongName => "tls_wrong_name",
        TlsFault::UnknownIssuer => "tls_unknown_issuer",
        TlsFault::Refused => "tls_refused",
        TlsFault::NotTls => "tls_not_tls",
        TlsFault::Handshake => "tls_handshake",
    }
}

fn redis(kind: RedisErrorKind) -> &'static str {
    match kind {
        RedisErrorKind::Loading => "redis_loading",
        RedisErrorKind::Busy => "redis_busy",
        RedisErrorKind::ReadOnly => "redis_readonly",
        RedisErrorKind::MasterDown => "redis_masterdown",
        RedisErrorKind::ClusterDown => "redis_clusterdown",
        RedisErrorKind::Misconf => "redis_misconf",
        RedisErrorKind::OutOfMemory => "redis_oom",
        RedisErrorKind::NoReplicas => "redis_noreplicas",
        RedisErrorKind::MaxClients => "redis_maxclients",
        RedisErrorKind::Denied => "redis_denied",
        RedisErrorKind::NoAuth => "redis_noauth",
        RedisErrorKind::WrongPass => "redis_wrongpass",
        RedisErrorKind::NoPerm => "redis_noperm",
        RedisErrorKind::TryAgain => "redis_tryagain",
        RedisErrorKind::Moved => "redis_moved",
        RedisErrorKind::Ask => "redis_ask",
        RedisErrorKind::Other => "redis_other",
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Resolve => "resolve",
        Phase::Connect => "connect",
        Phase::Tls => "tls",
        Phase::Authenticate => "authenticate",
        Phase::Command => "command",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The word of the configuration and the label are one.
    #[test]
    fn errors_of_redis_have_the_names_that_the_configuration_has() {
        for (word, kind) in RedisErrorKind::WORDS {
            assert_eq!(redis(kind), format!("redis_{}", word.to_lowercase()));
        }
    }
}
