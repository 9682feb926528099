//! The text is read as Prometheus reads it, and compared with what the families say.

use std::{
    collections::{BTreeMap, HashSet},
    time::SystemTime,
};

use prometheus_client::metrics::MetricType;

use super::*;
use crate::{
    model::{Cause, Failure, FlowPolicy, Phase, ProbeOutcome, SwitchKind},
    telemetry::{Event, Words, families::ALL},
};

/// A scrape of an agent that has seen everything once.
fn scrape() -> String {
    let metrics = Metrics::default();
    let directory = std::env::temp_dir().join(format!("redirector-exposition-{}", std::process::id()));
    let events = Events::open(&directory, metrics.clone());
    let mut check = metrics.check("orders", "paris", "ping");
    let passed = ProbeOutcome::Passed { latency: Duration::from_micros(300) };
    check.probed(Words::from(&passed), Duration::from_micros(300), 0);
    check.probed(Words::from(&passed), Duration::from_micros(300), 0);
    let failed = ProbeOutcome::Failed(Failure { phase: Phase::Connect, cause: Cause::Refused });
    check.probed(Words::from(&failed), Duration::from_micros(90), 1);
    metrics.detected(Duration::from_millis(51));
    metrics.stored(Duration::from_micros(3));
    metrics.reset(Duration::from_millis(2));
    metrics.late(Duration::from_micros(20));
    events.emit(Event::Switch {
        service: "orders".into(),
        from: Some("paris".into()),
        to: Some("dublin".into()),
        kind: SwitchKind::Failover,
        reason: "paris is down".into(),
        epoch: 8,
        policy: FlowPolicy::Reset,
        reset_over_ms: None,
        trouble: None,
        borne_ms: None,
        detected_in_ms: None,
        outage_at_most_ms: None,
    });
    events.emit(Event::FlowsReset {
        service: Some("orders".into()),
        member: Some("paris".into()),
        epoch: Some(8),
        reset: 12,
        waiting: 1,
        after_ms: 1.0,
    });
    let text = encode(sample(), &metrics, &events);
    drop(events);
    let _ = std::fs::remove_dir_all(directory);
    text
}

fn sample() -> Sample {
    let member = |name: &str, state: &str| {
        serde_json::json!({"name": name, "endpoint": "10.2.1.2:6379", "addresses": [], "weight": 100, "state": state,
            "reason": "", "checked_at": null, "eligible": state == "up", "eligible_reason": null, "flows": 12,
            "ready": (state == "up").then_some(false), "certificate_expires": "2026-11-21T20:00:00Z",
            "rtt_ms": 31.5, "rtt_min_ms": 30.25, "connect_ms": 31.0, "signals": {"retransmitted": 12, "refused": 0},
            "error_replies": {"loading": 3},
            "breaker": {"state": if state == "up" { "closed" } else { "half_open" }, "since": null, "attempts": 8,
                "failures": 2, "failure_rate": 25.0, "in_a_row": 1}})
    };
    let status = serde_json::json!({"version": 1, "services": [{"name": "orders", "vips": [], "state": "degraded",
        "active": "dublin", "epoch": 8, "since": null, "pinned": null, "paused": true, "last_switch": null,
        "members": [member("paris", "down"), member("dublin", "up")]}],
        "outcomes": {"carried": {"packets": 100, "bytes": 6400}}, "collected": {"stale": 3}});
    let status = serde_json::from_value(status).unwrap();
    let checks = vec![CheckSample {
        service: "orders".into(),
        member: "paris".into(),
        check: "ping".into(),
        states: vec![CheckState::Failing, CheckState::Passing, CheckState::Failing],
    }];
    Sample { status, checks, flows: 25, max_flows: 262_144, counted_in: Duration::from_millis(40) }
}

/// Name and labels of a series, with its value; and the family that it stands in.
struct Series<'a> {
    name: &'a str,
    labels: BTreeMap<&'a str, &'a str>,
    value: f64,
    family: &'a str,
}

/// Reads the text format, without escapes in labels.
fn parse(text: &str) -> Vec<Series<'_>> {
    let (body, rest) = text.split_once("# EOF\n").expect("it has an end");
    assert_eq!(rest, "");
    let mut family = "";
    let mut series = Vec::new();
    let mut declared = HashSet::new();
    let mut lines = body.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let kind = lines.next().and_then(|line| line.strip_prefix("# TYPE ")).expect("TYPE follows HELP");
            let ((name, words), (of, _)) = (help.split_once(' ').unwrap(), kind.split_once(' ').unwrap());
            assert!(name == of && words.ends_with('.'), "{help}");
            assert!(declared.insert(name), "{name} comes twice");
            family = name;
            continue;
        }
        let (left, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = left.split_once('{').unwrap_or((left, "\"}"));
        let labels = labels.strip_suffix("\"}").expect("closed").split("\",").filter(|pair| !pair.is_empty());
        let labels = labels.map(|pair| pair.split_once("=\"").expect("a pair"));
        series.push(Series { name, labels: labels.collect(), value: value.parse().unwrap(), family });
    }
    series
}

#[test]
fn the_text_is_what_the_families_say() {
    let text = scrape();
    let series = parse(&text);
    let mut seen = HashSet::new();
    for Series { name, labels, value, family } in &series {
        let declared = ALL.iter().find(|known| format!("{PREFIX}_{}", known.name) == **family);
        let declared = declared.unwrap_or_else(|| panic!("{family} is not in families.rs"));
        let suffixes: &[&str] = match declared.kind {
            MetricType::Counter => &["_total"],
            MetricType::Histogram => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{name} stands in {family}"));
        assert!(suffixes.contains(&suffix), "{name}");
        let mut expected: Vec<_> = declared.labels.to_vec();
        expected.extend((suffix == "_bucket").then_some("le"));
        expected.sort_unstable();
        assert_eq!(labels.keys().copied().collect::<Vec<_>>(), expected, "{name}");
        assert!(seen.insert((*name, labels.clone())), "{name} {labels:?} comes twice");
        assert!(value.is_finite() && *value >= 0.0, "{name} {value}");
    }
    for family in ALL {
        let name = format!("{PREFIX}_{}", family.name);
        assert!(series.iter().any(|series| series.family == name), "{name} has no series");
    }
}

#[test]
fn names_follow_the_rules() {
    for family in ALL {
        let name = family.full_name();
        assert!(name.starts_with("redirector_"), "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        assert_eq!(name.ends_with("_total"), matches!(family.kind, MetricType::Counter), "{name}");
        for unit in ["_ms", "milli", "micro", "_us", "_kib", "_percent"] {
            assert!(!name.contains(unit), "{name}: base units only");
        }
        if matches!(family.kind, MetricType::Histogram) {
            assert!(name.ends_with("_seconds"), "{name}");
        }
        assert!(family.help.ends_with('.'), "{name}");
    }
}

#[test]
fn values_are_those_of_the_sample_and_the_counters() {
    let text = scrape();
    let series = parse(&text);
    let value = |name: &str, labels: &[(&str, &str)]| {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        let found =
            series.iter().find(|series| series.name == format!("{PREFIX}_{name}") && series.labels == labels);
        found.unwrap_or_else(|| panic!("{name} {labels:?}:\n{text}")).value
    };
    let paris = [("service", "orders"), ("member", "paris")];
    let state = |state| value("member_state", &[paris[0], paris[1], ("state", state)]);
    assert_eq!(["unknown", "up", "down", "drained"].map(state), [0.0, 0.0, 1.0, 0.0]);
    assert_eq!(value("service_state", &[paris[0], ("state", "degraded")]), 1.0);
    assert_eq!(value("service_epoch", &[paris[0]]), 8.0);
    assert_eq!(value("member_active", &paris), 0.0);
    assert_eq!(value("member_active", &[paris[0], ("member", "dublin")]), 1.0);
    assert_eq!((value("member_flows", &paris), value("member_weight", &paris)), (12.0, 100.0));
    assert_eq!(value("member_ready", &[paris[0], ("member", "dublin")]), 0.0);
    let times = ["member_rtt_seconds", "member_rtt_min_seconds", "member_connect_seconds"];
    assert_eq!(times.map(|name| value(name, &paris)), [0.0315, 0.03025, 0.031]);
    assert_eq!(value("member_signals_total", &[paris[0], paris[1], ("signal", "retransmitted")]), 12.0);
    assert_eq!(value("member_error_replies_total", &[paris[0], paris[1], ("error", "loading")]), 3.0);
    let breaker = |state| value("member_breaker_state", &[paris[0], paris[1], ("state", state)]);
    assert_eq!(["closed", "open", "half_open"].map(breaker), [0.0, 0.0, 1.0]);
    let counts = ["attempts", "failures", "failure_ratio"];
    assert_eq!(counts.map(|name| value(&format!("member_breaker_{name}"), &paris)), [8.0, 2.0, 0.25]);
    let unknown =
        |series: &Series<'_>| series.name == "redirector_member_ready" && series.labels["member"] == "paris";
    assert!(!series.iter().any(unknown), "nobody knows");
    assert_eq!(value("member_certificate_expiry_timestamp_seconds", &paris), 1_795_291_200.0);
    assert_eq!((value("service_paused", &[paris[0]]), value("service_pinned", &[paris[0]])), (1.0, 0.0));
    let checks = |state| value("check_state", &[paris[0], paris[1], ("check", "ping"), ("state", state)]);
    assert_eq!(["unknown", "passing", "failing"].map(checks), [0.0, 1.0, 2.0]);
    let probes = |verdict, outcome, phase| {
        let words = [("verdict", verdict), ("outcome", outcome), ("phase", phase)];
        let of_check = [paris[0], paris[1], ("check", "ping")];
        value("probes_total", &[&of_check[..], &words].concat())
    };
    assert_eq!((probes("pass", "passed", ""), probes("fail", "refused", "connect")), (2.0, 1.0));
    assert_eq!(value("probe_seconds_count", &paris), 2.0);
    assert_eq!(value("probe_seconds_bucket", &[paris[0], paris[1], ("le", "0.0005")]), 2.0);
    assert_eq!(value("check_failed_in_a_row", &[paris[0], paris[1], ("check", "ping")]), 1.0);
    assert_eq!(value("switches_total", &[paris[0], ("kind", "failover")]), 1.0);
    assert_eq!(value("flows_reset_total", &[paris[0]]), 12.0);
    assert_eq!(value("detection_seconds_bucket", &[("le", "0.05")]), 0.0);
    assert_eq!(value("detection_seconds_bucket", &[("le", "0.1")]), 1.0);
    assert_eq!(value("detection_seconds_bucket", &[("le", "+Inf")]), 1.0);
    assert_eq!(value("packets_total", &[("outcome", "carried")]), 100.0);
    assert_eq!(value("packet_bytes_total", &[("outcome", "carried")]), 6400.0);
    assert_eq!((value("flows", &[]), value("flows_max", &[])), (25.0, 262_144.0));
    assert_eq!(value("flows_collected_total", &[("reason", "stale")]), 3.0);
    assert_eq!(value("events_total", &[("event", "switch")]), 1.0);
    assert_eq!(value("events_lost_total", &[("at", "disk")]), 0.0);
    let started = value("process_start_time_seconds", &[]);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - started).abs() < 60.0);
}

/// The page and the code say the same; a new metric has to be explained.
#[test]
fn every_metric_is_in_the_docs() {
    let page = include_str!("../../../../docs/telemetry.md");
    for family in ALL {
        let name = family.full_name();
        let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/telemetry.md has no row for {name}"));
        assert!(row.contains(family.kind.as_str()), "{name} is a {}: {row}", family.kind.as_str());
        for label in family.labels {
            assert!(row.contains(&format!("`{label}`")), "the row of {name} lacks the label {label}: {row}");
        }
    }
    for row in page.lines().filter(|line| line.starts_with("| `redirector_")) {
        let name = row.split('`').nth(1).unwrap();
        assert!(ALL.iter().any(|family| family.full_name() == name), "there is no metric {name}");
    }
}
