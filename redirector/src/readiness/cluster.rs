//! The OSS Cluster API: where its clients are sent.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use redis::Value;

use super::Finding;
use crate::quote::quote;

/// So many addresses are named.
const SHOWN: usize = 3;

/// What the answer to `CLUSTER SLOTS` means for clients that came by one of these VIPs; `Err`: it is no such answer.
///
/// Replicas are part of it, because clients read from them.
pub(super) fn around(answer: &Value, vips: &[SocketAddr]) -> Result<Option<Finding>, ()> {
    let Value::Array(ranges) = answer else { return Err(()) };
    let (mut primaries, mut names) = (BTreeSet::new(), BTreeSet::new());
    for range in ranges {
        let Value::Array(parts) = range else { return Err(()) };
        for (number, node) in parts.iter().skip(2).enumerate() {
            let Value::Array(node) = node else { return Err(()) };
            let place = Place::of(node).ok_or(())?;
            if !place.is_behind(vips) {
                names.insert(place.to_string());
            }
            if number == 0 {
                primaries.insert(place.to_string());
            }
        }
    }
    if names.is_empty() {
        return Ok(None);
    }
    let more = names.len().saturating_sub(SHOWN);
    let mut around: Vec<_> = names.into_iter().take(SHOWN).collect();
    if more > 0 {
        around.push(format!("{more} more"));
    }
    Ok(Some(Finding::ClusterApi { primaries: primaries.len(), around }))
}

/// Where a client looks for a node. No host means: where it asked (Redis's `cluster-preferred-endpoint-type`).
struct Place {
    host: Option<String>,
    port: u16,
}

impl Place {
    fn of(node: &[Value]) -> Option<Self> {
        let host = match node.first()? {
            Value::Nil => None,
            Value::BulkString(bytes) if bytes.is_empty() => None,
            Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Value::SimpleString(text) => Some(text.clone()),
            _ => return None,
        };
        let Value::Int(port) = node.get(1)? else { return None };
        // "?" is a node that nobody named.
        Some(Self { host: host.filter(|host| host != "?"), port: u16::try_from(*port).ok()? })
    }

    fn is_behind(&self, vips: &[SocketAddr]) -> bool {
        let ip = match &self.host {
            None => return vips.iter().any(|vip| vip.port() == self.port),
            Some(host) => host.parse::<IpAddr>(),
        };
        // A name is not looked up: which resolver the clients have nobody knows here. So it is shown.
        ip.is_ok_and(|ip| vips.contains(&SocketAddr::new(ip, self.port)))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = self.host.as_deref().unwrap_or("the VIP");
        match host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, self.port).fmt(f),
            Err(_) => write!(f, "{} port {}", quote(host), self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(reply: &str) -> Result<Option<Finding>, ()> {
        let answer = redis::parse_redis_value(reply.as_bytes()).unwrap();
        around(&answer, &["10.255.0.1:6379".parse().unwrap()])
    }

    /// One range of slots for each node.
    fn slots(nodes: &[&str]) -> String {
        let ranges: String =
            nodes.iter().map(|node| format!("*3\r\n:0\r\n:1\r\n*3\r\n{node}$2\r\nid\r\n")).collect();
        format!("*{}\r\n{ranges}", nodes.len())
    }

    #[test]
    fn only_what_is_no_vip_leads_around_it() {
        assert_eq!(of(&slots(&["$10\r\n10.255.0.1\r\n:6379\r\n"])), Ok(None));
        assert_eq!(of(&slots(&["$-1\r\n:6379\r\n", "$0\r\n\r\n:6379\r\n"])), Ok(None));
        let one = Finding::ClusterApi { primaries: 1, around: vec!["192.0.2.9:7000".to_owned()] };
        assert_eq!(of(&slots(&["$9\r\n192.0.2.9\r\n:7000\r\n"])), Ok(Some(one)));
        let port = Finding::ClusterApi { primaries: 1, around: vec!["the VIP port 7001".to_owned()] };
        assert_eq!(of(&slots(&["$-1\r\n:7001\r\n"])), Ok(Some(port)));
        assert_eq!(of("*0\r\n"), Ok(None));
    }

    #[test]
    fn many_are_counted() {
        let nodes: Vec<_> = (1..=5).map(|n| format!("$9\r\n192.0.2.{n}\r\n:7000\r\n")).collect();
        let found = of(&slots(&nodes.iter().map(String::as_str).collect::<Vec<_>>())).unwrap().unwrap();
        let Finding::ClusterApi { primaries, around } = &found else { panic!("{found:?}") };
        assert_eq!((*primaries, around.last().map(String::as_str)), (5, Some("2 more")));
        assert!(found.to_string().contains("(MOVED)"), "{found}");
    }

    #[test]
    fn other_answers_are_none() {
        for reply in ["+OK\r\n", "*1\r\n+OK\r\n", "*1\r\n*3\r\n:0\r\n:1\r\n+x\r\n"] {
            assert_eq!(of(reply), Err(()), "{reply:?}");
        }
    }
}
