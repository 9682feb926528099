//! `status -o json`. A promise to scripts: fields may be added, none changes its meaning.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::readiness::Readiness;

pub use crate::{
    model::{MemberState, ServiceState, SwitchKind},
    readiness::Severity,
};

/// Version of every JSON document that the command line prints.
pub const VERSION: u32 = 1;

/// The whole answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`VERSION`].
    pub version: u32,
    /// In the order of the configuration.
    pub services: Vec<ServiceStatus>,
    /// What became of packets, by outcome, since the maps were made (`docs/datapath.md` lists the outcomes).
    #[serde(default)]
    pub outcomes: BTreeMap<String, OutcomeStatus>,
    /// Flows that were collected since the agent started, by the reason: `opening`, `established`, `closing` (idle for longer
    /// than its state allows), `stale` (its member was left, and nobody sent on it), `halves` (its other half was lost).
    #[serde(default)]
    pub collected: BTreeMap<String, u64>,
    /// Which clients are reset at a switch without waiting for their next packet (`docs/resets.md`).
    #[serde(default)]
    pub resets: ResetsStatus,
}

/// The ways to reset a client; tried when the agent started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetsStatus {
    /// The sockets of local clients are destroyed.
    pub sockets: bool,
    /// So are those in network namespaces beside the agent's.
    pub namespaces: bool,
    /// All others are sent resets.
    pub requests: bool,
    /// What is not possible, why, and what happens instead, in words.
    pub problems: Vec<String>,
}

/// Packets of one outcome. A large segment before segmentation counts as one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeStatus {
    /// Packets.
    pub packets: u64,
    /// Bytes with all headers.
    pub bytes: u64,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// `address:port`, IPv6 in brackets.
    pub vips: Vec<String>,
    /// How it is.
    pub state: ServiceState,
    /// Name of the active member; `None`: new connections are refused.
    pub active: Option<String>,
    /// Grows by one with each switch.
    pub epoch: u32,
    /// Since when the active member is active (RFC 3339, UTC); `None`: nothing was chosen yet.
    pub since: Option<String>,
    /// Name of the member that an operator pinned.
    pub pinned: Option<String>,
    /// Whether an operator stopped automatic switching.
    pub paused: bool,
    /// The newest switch.
    pub last_switch: Option<SwitchStatus>,
    /// In the order of the configuration.
    pub members: Vec<MemberStatus>,
}

/// One switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchStatus {
    /// Member that was left; `None`: there was none.
    pub from: Option<String>,
    /// Member that was chosen; `None`: the service is held.
    pub to: Option<String>,
    /// Why the agent moved.
    pub kind: SwitchKind,
    /// In words.
    pub reason: String,
    /// RFC 3339, UTC.
    pub at: String,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// As configured.
    pub endpoint: String,
    /// What the endpoint resolves to.
    pub addresses: Vec<String>,
    /// The healthy member with the highest weight is active.
    pub weight: u32,
    /// What the checks say.
    pub state: MemberState,
    /// Why, in words: `ping ok in 0.3 ms`.
    pub reason: String,
    /// When the newest probe ended (RFC 3339, UTC).
    pub checked_at: Option<String>,
    /// Whether it could become active now.
    pub eligible: bool,
    /// Why not.
    pub eligible_reason: Option<String>,
    /// Flows that it carries.
    pub flows: u64,
    /// What is known of each of [`Self::addresses`], in the same order.
    #[serde(default)]
    pub address_states: Vec<AddressStatus>,
    /// Its breaker; `null`: the service has none (`docs/decisions.md`).
    #[serde(default)]
    pub breaker: Option<BreakerStatus>,
    /// How ready it is for applications, whatever its state (`docs/readiness.md`).
    #[serde(flatten)]
    pub readiness: ReadinessStatus,
    /// What its traffic shows (`docs/signals.md`).
    #[serde(flatten)]
    pub vitals: VitalsStatus,
}

/// The breaker of a member: what clients have met there within its window, and what follows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BreakerStatus {
    /// `closed`, `open` or `half_open`: the member is down for it, and its checks must pass anew.
    pub state: String,
    /// Since when it is not closed (RFC 3339, UTC).
    pub since: Option<String>,
    /// Attempts within the window: connections, and replies that were looked at. None are counted while the member is down.
    pub attempts: u64,
    /// How many of them failed.
    pub failures: u64,
    /// In percent of the attempts, as the configuration's; `null`: there were none.
    pub failure_rate: Option<f64>,
    /// Failures in a row, at least; these have no window.
    pub in_a_row: u32,
}

/// What the kernel programs see of a member's traffic, over all processes of this host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VitalsStatus {
    /// Smoothed round-trip time in milliseconds, of data and its acknowledgement; `null`: there were none.
    #[serde(default)]
    pub rtt_ms: Option<f64>,
    /// The shortest one that was seen.
    #[serde(default)]
    pub rtt_min_ms: Option<f64>,
    /// Smoothed time from a SYN to its answer, in milliseconds.
    #[serde(default)]
    pub connect_ms: Option<f64>,
    /// How often each signal was seen, since the maps were made.
    #[serde(default)]
    pub signals: BTreeMap<String, u64>,
    /// Error replies that mean trouble, by the error (`loading`), as far as replies were looked at. Those that were seen.
    #[serde(default)]
    pub error_replies: BTreeMap<String, u64>,
}

/// How ready a member is for applications. Never changes its state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadinessStatus {
    /// `false`: applications are sure to fail there. `true`: nothing of that kind was seen. `null`: nobody has looked yet, or
    /// could.
    #[serde(default)]
    pub ready: Option<bool>,
    /// What would hurt; problems first.
    #[serde(default)]
    pub findings: Vec<FindingStatus>,
    /// What could not be looked at, and why, in words.
    #[serde(default)]
    pub ready_unknown: Vec<String>,
    /// When the newest look ended (RFC 3339, UTC).
    #[serde(default)]
    pub looked_at: Option<String>,
    /// When the first certificate that it showed expires (RFC 3339, UTC).
    #[serde(default)]
    pub certificate_expires: Option<String>,
}

/// Something that would hurt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingStatus {
    /// One word for programs: `certificate_name`.
    pub kind: String,
    /// How much.
    pub severity: Severity,
    /// What, and what to do.
    pub text: String,
}

impl From<&Readiness> for ReadinessStatus {
    fn from(readiness: &Readiness) -> Self {
        let findings = readiness.findings.iter().map(|found| FindingStatus {
            kind: found.finding.kind().to_owned(),
            severity: found.finding.severity(),
            text: found.to_string(),
        });
        let date = |time| humantime::format_rfc3339_seconds(time).to_string();
        Self {
            ready: readiness.ready,
            findings: findings.collect(),
            ready_unknown: readiness.unknown.clone(),
            looked_at: readiness.looked_at.map(date),
            certificate_expires: readiness.certificate_expires.map(date),
        }
    }
}

/// One address of a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AddressStatus {
    /// `address:port`, IPv6 in brackets.
    pub address: String,
    /// What the checks say.
    pub state: MemberState,
    /// Why, in words: `ping ok in 0.3 ms`.
    pub reason: String,
    /// When the newest probe ended (RFC 3339, UTC).
    pub checked_at: Option<String>,
    /// Whether new flows may go there.
    pub offered: bool,
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// The sample of the contract, to the letter.
    const SAMPLE: &str = r#"
{"version": 1, "services": [{"name": "orders", "vips": ["10.255.0.1:6379"], "state": "ok", "active": "paris", "epoch": 7,
  "since": "2026-11-21T20:00:00Z", "pinned": null, "paused": false,
  "last_switch": {"from": "dublin", "to": "paris", "kind": "failback", "reason": "...", "at": "2026-11-21T20:00:00Z"},
  "members": [{"name": "paris", "endpoint": "10.2.1.2:6379", "addresses": ["10.2.1.2:6379"], "weight": 100, "state": "up",
    "reason": "ping ok in 0.3 ms", "eligible": true, "eligible_reason": null, "flows": 12}]}]}
"#;

    #[test]
    fn the_contract_s_sample_survives_a_round_trip() {
        let status: Status = serde_json::from_str(SAMPLE).unwrap();
        let mut written = serde_json::to_value(&status).unwrap();
        // Fields may be added; these are so far.
        assert_eq!(
            written.as_object_mut().unwrap().remove("outcomes"),
            Some(Value::Object(Default::default()))
        );
        assert_eq!(
            written.as_object_mut().unwrap().remove("collected"),
            Some(Value::Object(Default::default()))
        );
        assert!(written.as_object_mut().unwrap().remove("resets").is_some());
        let member = written["services"][0]["members"][0].as_object_mut().unwrap();
        assert_eq!(member.remove("checked_at"), Some(Value::Null));
        for list in ["address_states", "findings", "ready_unknown"] {
            assert_eq!(member.remove(list), Some(Value::Array(Vec::new())), "{list}");
        }
        let nothing =
            ["ready", "looked_at", "certificate_expires", "rtt_ms", "rtt_min_ms", "connect_ms", "breaker"];
        for nothing in nothing {
            assert_eq!(member.remove(nothing), Some(Value::Null), "{nothing}");
        }
        for counts in ["signals", "error_replies"] {
            assert_eq!(member.remove(counts), Some(Value::Object(Default::default())), "{counts}");
        }
        assert_eq!(written, serde_json::from_str::<Value>(SAMPLE).unwrap());
    }

    #[test]
    fn states_are_written_and_shown_in_the_contract_s_words() {
        fn word<T: Serialize + ToString>(state: &T) -> String {
            assert_eq!(serde_json::to_value(state).unwrap(), Value::String(state.to_string()));
            state.to_string()
        }
        use {MemberState as M, ServiceState as S, SwitchKind as K};
        assert_eq!(
            [S::Ok, S::Degraded, S::Down, S::Held].each_ref().map(word),
            ["ok", "degraded", "down", "held"]
        );
        assert_eq!(
            [M::Unknown, M::Up, M::Down, M::Drained].each_ref().map(word),
            ["unknown", "up", "down", "drained"]
        );
        let kinds = [K::Initial, K::Failover, K::Failback, K::Manual].each_ref().map(word);
        assert_eq!(kinds, ["initial", "failover", "failback", "manual"]);
    }
}
