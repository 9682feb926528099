//! Answers as servers give them.

use super::*;

/// RESP2 text of a nested list: `"text"` stands for a bulk string, numbers for integers, `nil` for a null.
fn answer(json: &str) -> Value {
    fn value(json: &serde_json::Value) -> Value {
        match json {
            serde_json::Value::String(text) => Value::BulkString(text.clone().into_bytes()),
            serde_json::Value::Number(number) => Value::Int(number.as_i64().unwrap()),
            serde_json::Value::Array(list) => Value::Array(list.iter().map(value).collect()),
            _ => Value::Nil,
        }
    }
    value(&serde_json::from_str(json).unwrap())
}

fn shown(shards: Option<Vec<Shard>>) -> Vec<String> {
    let shard = |shard: Shard| match shard.primary {
        Some(node) => format!("{}: {} {:?} {}", shard.slots, node.id, node.host.as_deref(), node.port),
        None => format!("{}: nobody", shard.slots),
    };
    shards.expect("an answer that can be read").into_iter().map(shard).collect()
}

/// Redis 7.0.15, shortened to what is read.
const SHARDS: &str = r#"[
    ["slots", [0, 99, 200, 5460], "nodes", [
        ["id", "b", "port", 7003, "ip", "10.2.1.3", "endpoint", "10.2.1.3", "role", "replica", "health", "online"],
        ["id", "a", "port", 7000, "tls-port", 7443, "ip", "10.2.1.2", "endpoint", "10.2.1.2", "role", "master", "health", "online"]]],
    ["slots", [5461, 16383], "nodes", [
        ["id", "c", "tls-port", 7444, "ip", "10.2.1.4", "endpoint", "c.example.com", "hostname", "c.example.com", "role", "master", "health", "fail"],
        ["id", "d", "tls-port", 7445, "ip", "10.2.1.5", "endpoint", "", "role", "master", "health", "online"]]],
    ["slots", [100, 199], "nodes", [
        ["id", "e", "port", 7005, "ip", "", "endpoint", "?", "role", "replica", "health", "online"]]],
    ["slots", [], "nodes", [["id", "f", "port", 7006, "ip", "", "endpoint", null, "role", "master", "health", "online"]]]]"#;

#[test]
fn shards_have_the_primary_that_is_online() {
    assert_eq!(
        shown(of_shards(&answer(SHARDS), false)),
        [
            r#"slots 0-99,200-5460: a Some("10.2.1.2") 7000"#,
            r#"slots 5461-16383: d Some("10.2.1.5") 7445"#,
            "slots 100-199: nobody",
        ]
    );
}

#[test]
fn tls_has_a_port_of_its_own() {
    assert!(shown(of_shards(&answer(SHARDS), true))[0].ends_with(" 7443"));
}

#[test]
fn a_primary_that_failed_is_better_than_none() {
    let text = SHARDS.replace("online", "fail");
    assert_eq!(
        shown(of_shards(&answer(&text), false))[1],
        r#"slots 5461-16383: c Some("c.example.com") 7444"#
    );
}

#[test]
fn an_unknown_host_is_that_of_the_question() {
    let text = r#"[["slots", [0, 16383], "nodes",
        [["id", "a", "port", 7000, "ip", "", "endpoint", null, "role", "master", "health", "online"]]]]"#;
    assert_eq!(shown(of_shards(&answer(text), false)), ["slots 0-16383: a None 7000"]);
}

/// Redis Software names a range for each shard, and several at one proxy.
#[test]
fn ranges_of_one_primary_belong_together() {
    let text = r#"[
        [0, 99, ["10.2.1.2", 12000, "a"], ["10.2.1.3", 12000, "b"]],
        [100, 199, ["10.2.1.3", 12000, "b", ["hostname", "b.example.com"]]],
        [200, 299, ["10.2.1.2", 12000, "a"]],
        [300, 300, ["", 12000]],
        [301, 16383]]"#;
    assert_eq!(
        shown(of_slots(&answer(text))),
        [
            r#"slots 0-99,200-299: a Some("10.2.1.2") 12000"#,
            r#"slots 100-199: b Some("10.2.1.3") 12000"#,
            "slot 300:  None 12000",
            "slots 301-16383: nobody",
        ]
    );
}

#[test]
fn whatever_is_no_map_is_refused() {
    for text in [
        "1",
        r#""no""#,
        "null",
        "[1]",
        r#"[["slots", [0], "nodes", []]]"#,
        r#"[["slots", [5, 4], "nodes", []]]"#,
        r#"[["slots", [0, 16384], "nodes", []]]"#,
        r#"[["slots", [-1, 3], "nodes", []]]"#,
        r#"[["slots", [0, 1]]]"#,
        r#"[["slots", [0, 1], "nodes", [["id", "a", "role", "master"]]]]"#,
    ] {
        assert_eq!(of_shards(&answer(text), false), None, "{text}");
    }
    for text in
        ["1", "[1]", "[[1]]", r#"[[0, 16384, ["a", 1]]]"#, r#"[[0, 1, ["a"]]]"#, r#"[[0, 1, ["a", 70000]]]"#]
    {
        assert_eq!(of_slots(&answer(text)), None, "{text}");
    }
    // A cluster without slots: everything is missing then.
    assert_eq!(of_slots(&answer("[]")), Some(Vec::new()));
}
