//! What `INFO` says, as far as readiness wants to know.

use redis::Value;

use super::Finding;
use crate::quote::quote;

/// Facts of one member that are compared with those of the others. `None`: not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// `redis_version`
    pub(super) version: Option<String>,
    /// In bytes; 0 is without a limit.
    pub(super) maxmemory: Option<u64>,
    pub(super) maxmemory_policy: Option<String>,
    /// Which Active-Active database; inner `None`: it is none.
    pub(super) crdt_guid: Option<Option<String>>,
    /// Whether the user of the applications may say `GET`.
    pub(super) may_get: Option<bool>,
}

/// The answer to `INFO`.
#[derive(Debug)]
pub(super) struct Info(String);

impl Info {
    /// `None`: it is no text.
    pub(super) fn of(answer: Value) -> Option<Self> {
        match answer {
            Value::BulkString(bytes) => Some(Self(String::from_utf8_lossy(&bytes).into_owned())),
            Value::VerbatimString { text, .. } | Value::SimpleString(text) => Some(Self(text)),
            _ => None,
        }
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.parse().ok()
    }

    /// Takes what is compared.
    pub(super) fn fill(&self, facts: &mut Facts) {
        facts.version = self.get("redis_version").map(quote);
        facts.maxmemory = self.number("maxmemory");
        facts.maxmemory_policy = self.get("maxmemory_policy").map(quote);
    }

    /// Whether the OSS Cluster API is on.
    pub(super) fn is_cluster(&self) -> bool {
        self.get("cluster_enabled") == Some("1")
    }

    /// Over nine tenths of the room for clients is taken. `maxclients` is there since Redis 6.2.
    pub(super) fn maxclients(&self) -> Option<Finding> {
        let (connected, most) = (self.number("connected_clients")?, self.number("maxclients")?);
        (connected.saturating_mul(10) > most.saturating_mul(9))
            .then_some(Finding::Maxclients { connected, most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(text: &str) -> Info {
        Info::of(Value::BulkString(text.as_bytes().to_vec())).unwrap()
    }

    #[test]
    fn facts_are_taken_by_their_whole_names() {
        let mut facts = Facts::default();
        let text = "# Server\r\nredis_version:7.2.4\r\n# Memory\r\nmaxmemory_human:1G\r\nmaxmemory:1073741824\r\n\
                    maxmemory_policy:allkeys-lru\r\n# Cluster\r\ncluster_enabled:1\r\n";
        info(text).fill(&mut facts);
        let expected = Facts {
            version: Some("7.2.4".to_owned()),
            maxmemory: Some(1 << 30),
            maxmemory_policy: Some("allkeys-lru".to_owned()),
            ..Facts::default()
        };
        assert_eq!(facts, expected);
        assert!(info(text).is_cluster() && !info("cluster_enabled:0\r\n").is_cluster());
    }

    #[test]
    fn room_for_clients_is_near_its_end_above_nine_tenths() {
        let of = |connected: u64, most: u64| {
            info(&format!("connected_clients:{connected}\r\nmaxclients:{most}\r\n")).maxclients()
        };
        assert_eq!(of(9, 10), None);
        assert_eq!(of(10, 10), Some(Finding::Maxclients { connected: 10, most: 10 }));
        assert_eq!(of(9001, 10_000), Some(Finding::Maxclients { connected: 9001, most: 10_000 }));
        assert_eq!(info("connected_clients:5\r\n").maxclients(), None);
    }
}
