//! The keys of `keyspace` and `heartbeat`.

use std::fmt::Write as _;

use super::*;
use crate::model::{Effect, Heartbeat, Keyspace, RedisErrorKind};

const SHARDS: &str = include_str!("shards.toml");

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn every_key_reaches_the_model() {
    let keyspace = Keyspace { prefix: "health:".to_owned(), expiry: seconds(20), tags: 48 };
    let heartbeat = Heartbeat { channel: "health".to_owned(), tolerance: seconds(12), tags: Some(8) };
    let of_service = [
        Check {
            counted_errors: vec![RedisErrorKind::ClusterDown],
            ..Check::of(CheckKind::Keyspace(keyspace))
        },
        Check {
            interval: seconds(3),
            down_interval: seconds(3),
            effect: Effect::Gate,
            ..Check::of(CheckKind::Heartbeat(heartbeat))
        },
        Check {
            name: "whole".to_owned(),
            effect: Effect::Observe,
            ..Check::of(CheckKind::Heartbeat(Heartbeat::default()))
        },
    ];
    let mut of_member = of_service.clone();
    of_member[0].timeout = seconds(3);
    of_member[1].fall = 7;
    let config = Directory::new().parse(SHARDS).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.services[0].checks, of_service);
    assert_eq!(config.services[0].members[0].checks, of_member);
}

#[test]
fn what_is_not_said_has_its_default() {
    let text = format!(
        "{MINIMAL}[[service.check]]\nkind = \"keyspace\"\n[[service.check]]\nkind = \"heartbeat\"\n\
         [[service.check]]\nname = \"each\"\nkind = \"heartbeat\"\nper_shard = true\n"
    );
    let config = Directory::new().parse(&text).unwrap_or_else(|error| panic!("{error}"));
    let [keyspace, whole, each] = config.services[0].checks.as_slice() else { panic!("three checks") };
    let prefix = "redirector:probe:".to_owned();
    assert_eq!(keyspace.kind, CheckKind::Keyspace(Keyspace { prefix, expiry: seconds(60), tags: 16 }));
    assert_eq!((keyspace.effect, keyspace.timeout), (Effect::Count, seconds(1)));
    let heartbeat = |tags| {
        let (channel, tolerance) = ("redirector:heartbeat".to_owned(), seconds(5));
        CheckKind::Heartbeat(Heartbeat { channel, tolerance, tags })
    };
    assert_eq!((&whole.kind, &each.kind), (&heartbeat(None), &heartbeat(Some(16))));
    // Evidence of replication bars no failover, whatever the profile.
    for profile in ["fast", "balanced", "patient"] {
        let text =
            text.replacen("name = \"orders\"", &format!("name = \"orders\"\nprofile = {profile:?}"), 1);
        let config = Directory::new().parse(&text).unwrap_or_else(|error| panic!("{error}"));
        let heartbeat = &config.services[0].checks[1];
        assert_eq!((heartbeat.effect, heartbeat.interval), (Effect::Gate, seconds(1)), "{profile}");
    }
}

#[test]
fn wrong_values() {
    let changes = [
        ("prefix with braces", "prefix = \"health:\"", "prefix = \"{health}:\""),
        ("empty prefix", "prefix = \"health:\"", "prefix = \"\""),
        ("expiry within a probe", "expiry = \"20s\"", "expiry = \"1s\""),
        ("expiry within a probe of one member", "timeout = \"3s\"", "timeout = \"20s\""),
        ("no tags", "tags = 48", "tags = 0"),
        ("too many tags", "tags = 48", "tags = 1025"),
        ("tags in words", "tags = 48", "tags = \"many\""),
        ("credentials that count", "counted_errors = [\"CLUSTERDOWN\"]", "counted_errors = [\"NOPERM\"]"),
        ("key of another kind", "tags = 48", "tags = 48\ntolerance = \"1s\""),
        ("empty channel", "channel = \"health\"", "channel = \"\""),
        ("channel with braces", "channel = \"health\"", "channel = \"{health}\""),
        ("channel with a line end", "channel = \"health\"", "channel = \"a\\nb\""),
        ("tolerance that is too short", "tolerance = \"12s\"", "tolerance = \"99ms\""),
        ("tolerance within the interval", "tolerance = \"12s\"", "tolerance = \"3s\""),
        ("per_shard that is a number", "per_shard = true", "per_shard = 1"),
        ("tags of one channel", "per_shard = true", "per_shard = false"),
        ("expiry of a heartbeat", "per_shard = true", "per_shard = true\nexpiry = \"20s\""),
        ("rounds of a heartbeat", "per_shard = true", "per_shard = true\nprobes = 3\ndown_interval = \"9s\""),
        ("a beat of one member", "fall = 7", "interval = \"1s\"\nfast_interval = \"1s\"\ntimeout = \"2s\""),
    ];
    let directory = Directory::new();
    let mut table = String::new();
    for (title, line, written) in changes {
        assert!(SHARDS.contains(&format!("{line}\n")), "{title}: {line:?} is no line of the legal file");
        let text = SHARDS.replacen(&format!("{line}\n"), &format!("{written}\n"), 1);
        let shown = written.replace('\n', "\n    ");
        write!(table, "{title}\n    {shown}\n{}\n\n", directory.message(&text)).unwrap();
    }
    insta::assert_snapshot!(table);
}
