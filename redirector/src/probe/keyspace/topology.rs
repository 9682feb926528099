//! Which primary has which slots: the answers to `CLUSTER SHARDS` (since Redis 7.0) and `CLUSTER SLOTS` (before, and what
//! Redis Software has).
//!
//! Both commands are described at redis.io/commands. A node announces where clients find it; a host that is unknown (`?`,
//! empty, or null) stands for the address that was asked.

use redis::Value;

use super::super::slots::{SLOTS, Slots};

/// Slots and who has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shard {
    pub(super) slots: Slots,
    /// `None`: no primary is announced for them.
    pub(super) primary: Option<Announced>,
}

/// A node as it announces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    /// Its name in the cluster.
    pub(super) id: String,
    /// Address or name; `None`: the one that was asked.
    pub(super) host: Option<String>,
    pub(super) port: u16,
}

/// Reads the answer to `CLUSTER SHARDS`. Shards without slots are left out. `None`: it is no such answer.
pub(super) fn of_shards(answer: &Value, tls: bool) -> Option<Vec<Shard>> {
    let mut shards = Vec::new();
    for shard in list(answer)? {
        let slots = slots(list(&field(shard, "slots")?)?)?;
        if slots.count() == 0 {
            continue;
        }
        let nodes = field(shard, "nodes")?;
        let primaries: Vec<_> = list(&nodes)?
            .iter()
            .filter(|node| field(node, "role").and_then(|role| text(&role)).as_deref() == Some("master"))
            .collect();
        // After an election the one that was voted out may still be listed as one.
        let is_online = |node: &&&Value| {
            field(node, "health").and_then(|health| text(&health)).as_deref() == Some("online")
        };
        let primary = primaries.iter().find(is_online).or(primaries.first());
        let primary = match primary {
            Some(node) => Some(announced(node, tls)?),
            None => None,
        };
        shards.push(Shard { slots, primary });
    }
    Some(shards)
}

fn announced(node: &Value, tls: bool) -> Option<Announced> {
    let port = |key: &str| field(node, key).and_then(|port| number(&port));
    let host = |key: &str| field(node, key).and_then(|host| known_host(&host));
    Some(Announced {
        id: text(&field(node, "id")?)?,
        host: host("endpoint").or_else(|| host("ip")),
        // A node without TLS has no `tls-port`, and one with TLS alone no `port`.
        port: if tls {
            port("tls-port").or_else(|| port("port"))
        } else {
            port("port").or_else(|| port("tls-port"))
        }?,
    })
}

fn slots(bounds: &[Value]) -> Option<Slots> {
    let mut slots = Slots::default();
    for range in bounds.chunks(2) {
        let [first, last] = range else { return None };
        add(&mut slots, number(first)?, number(last)?)?;
    }
    Some(slots)
}

/// Reads the answer to `CLUSTER SLOTS`: ranges, each with its primary first. `None`: it is no such answer.
pub(super) fn of_slots(answer: &Value) -> Option<Vec<Shard>> {
    let mut shards: Vec<Shard> = Vec::new();
    for range in list(answer)? {
        let [first, last, primary @ ..] = list(range)? else { return None };
        let primary = match primary.first() {
            Some(node) => Some(announced_in_slots(node)?),
            None => None,
        };
        let known = shards.iter_mut().find(|shard| shard.primary == primary);
        let shard = match known {
            Some(shard) => shard,
            None => {
                shards.push(Shard { slots: Slots::default(), primary });
                shards.last_mut()?
            }
        };
        add(&mut shard.slots, number(first)?, number(last)?)?;
    }
    Some(shards)
}

fn announced_in_slots(node: &Value) -> Option<Announced> {
    let [host, port, rest @ ..] = list(node)? else { return None };
    // Before Redis 4.0 there is no name.
    let id = rest.first().and_then(text).unwrap_or_default();
    Some(Announced { id, host: known_host(host), port: number(port)? })
}

fn add(slots: &mut Slots, first: u16, last: u16) -> Option<()> {
    let is_range = first <= last && last < SLOTS;
    is_range.then(|| slots.add(first, last))
}

fn known_host(host: &Value) -> Option<String> {
    text(host).filter(|host| !host.is_empty() && host != "?")
}

/// The value of `key` in a map, or in the list of keys and values that RESP2 makes of it.
fn field(map: &Value, key: &str) -> Option<Value> {
    match map {
        Value::Map(pairs) => {
            pairs.iter().find(|(name, _)| text(name).as_deref() == Some(key)).map(|pair| pair.1.clone())
        }
        Value::Array(list) => list
            .chunks_exact(2)
            .find(|pair| text(&pair[0]).as_deref() == Some(key))
            .map(|pair| pair[1].clone()),
        _ => None,
    }
}

fn list(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(list) | Value::Set(list) => Some(list),
        _ => None,
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        Value::Okay => Some("OK".to_owned()),
        _ => None,
    }
}

fn number(value: &Value) -> Option<u16> {
    match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
