//! `keyspace` against servers of the test's own, which answer as proxies do.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use redirector::{
    model::{Access, Cause, Check, CheckKind, Keyspace, Verdict},
    probe::once,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    task::JoinSet,
};

use crate::{
    check,
    keyspace::{LIMIT, shard},
    passed,
    server::tcp,
};

/// A server that answers each command by itself, as a proxy does. It ends with its guard. No answer: it waits for ever.
async fn proxy(
    answer: impl Fn(&[String]) -> Option<String> + Send + Sync + 'static,
) -> (SocketAddr, JoinSet<()>) {
    let answer = Arc::new(answer);
    tcp(move |mut stream| {
        let answer = Arc::clone(&answer);
        async move {
            let (mut read, mut write) = stream.split();
            let mut lines = BufReader::new(&mut read).lines();
            let mut next = async || lines.next_line().await.ok().flatten();
            while let Some(count) = next().await {
                let mut words = Vec::new();
                for _ in 0..count.trim_start_matches('*').parse().expect("what a probe sends") {
                    let _length = next().await;
                    words.extend(next().await);
                }
                match answer(&words) {
                    Some(text) => write.write_all(text.as_bytes()).await.expect("what a probe sends"),
                    None => std::future::pending().await,
                }
            }
        }
    })
    .await
}

fn four_tags() -> Check {
    let settings = Keyspace { tags: 4, ..Keyspace::default() };
    Check { timeout: LIMIT, ..check(CheckKind::Keyspace(settings)) }
}

/// What a single server answers that has what was written.
fn well(words: &[String], values: &Mutex<HashMap<String, String>>) -> String {
    let mut values = values.lock().expect("what a probe sends");
    match words[0].as_str() {
        "CLUSTER" => "-ERR unknown command\r\n".to_owned(),
        "SET" => {
            values.insert(words[1].clone(), words[2].clone());
            "+OK\r\n".to_owned()
        }
        _ => values
            .get(&words[1])
            .map_or("$-1\r\n".to_owned(), |value| format!("${}\r\n{value}\r\n", value.len())),
    }
}

/// Its answers keep their order, so what waits for the dead shard hides what is behind it.
#[tokio::test]
async fn a_shard_that_is_gone_behind_a_proxy_is_named() {
    let (values, keys) = (Mutex::default(), Mutex::new(Vec::new()));
    let (address, _guard) = proxy(move |words| {
        let mut keys = keys.lock().unwrap();
        if words[0] == "SET" && !keys.contains(&words[1]) {
            keys.push(words[1].clone());
        }
        let is_third = words[0] == "SET" && keys.get(2) == Some(&words[1]);
        (!is_third).then(|| well(words, &values))
    })
    .await;
    let outcome = once(&four_tags(), address, &Access::default()).await;
    assert_eq!(outcome.to_string(), format!("slots 8192-12287 at {address}: command timed out after 500ms"));
}

#[tokio::test]
async fn shards_that_answer_with_errors_are_named_together() {
    let values: Mutex<HashMap<String, String>> = Mutex::default();
    let (address, _guard) = proxy(move |words| {
        Some(match words[0].as_str() {
            "SET" if values.lock().unwrap().len() >= 2 => "-OOM command not allowed\r\n".to_owned(),
            _ => well(words, &values),
        })
    })
    .await;
    let outcome = once(&four_tags(), address, &Access::default()).await;
    let expected = format!("slots 8192-16383 at {address}: Redis error: OOM command not allowed");
    assert_eq!(outcome.to_string(), expected);
}

/// `TRYAGAIN` is no failure: the same is asked again.
#[tokio::test]
async fn what_is_to_be_tried_again_is_tried_again() {
    let (values, refused) = (Mutex::default(), AtomicUsize::new(0));
    let (address, _guard) = proxy(move |words| {
        Some(match words[0].as_str() {
            "SET" if refused.fetch_add(1, Ordering::SeqCst) < 3 => "-TRYAGAIN later\r\n".to_owned(),
            _ => well(words, &values),
        })
    })
    .await;
    let outcome = once(&four_tags(), address, &Access::default()).await;
    assert!(passed(&outcome), "{outcome}");

    let (address, _guard) = proxy(|words| {
        Some(if words[0] == "CLUSTER" { "-ERR no\r\n" } else { "-TRYAGAIN later\r\n" }.to_owned())
    })
    .await;
    let outcome = once(&four_tags(), address, &Access::default()).await;
    assert_eq!(outcome.verdict(), Verdict::Inconclusive, "{outcome}");
}

/// A write that is answered and not kept, and one that somebody else answers.
#[tokio::test]
async fn what_is_read_must_be_what_was_written() {
    for (get, text) in [
        ("$-1\r\n", "GET finds nothing"),
        ("$1\r\nx\r\n", "GET answers another value"),
        (":1\r\n", "GET answers the number 1"),
    ] {
        let (address, _guard) = proxy(move |words| {
            Some(match words[0].as_str() {
                "CLUSTER" => "-ERR no\r\n".to_owned(),
                "SET" => "+OK\r\n".to_owned(),
                _ => get.to_owned(),
            })
        })
        .await;
        let outcome = once(&four_tags(), address, &Access::default()).await;
        assert!(matches!(shard(&outcome).1.cause, Cause::WrongAnswer(_)), "{outcome}");
        assert!(outcome.to_string().contains(text), "{outcome}");
        assert_eq!(shard(&outcome).1.others, 0, "{outcome}");
    }
}
