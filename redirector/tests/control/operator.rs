//! Requests for changes: what reaches the agent, what is answered, and who is let in.

mod access;
mod cli;

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream as StdStream,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use redirector::{
    control::{
        ErrorDocument,
        access::{Access, Who},
        client,
        operator::{Answer, Asked, LONGEST_BODY, Operation, Order, Refused, RefusedKind},
        server::Request,
        status::{ServiceState, VERSION},
    },
    datapath::peer_groups,
};

use crate::{Agent, service, status_of, two_services};

/// What reached the agent.
#[derive(Debug, Default)]
struct Heard {
    asked: Vec<(String, Asked, Who)>,
    denied: Vec<Operation>,
}

fn answer(service: String, asked: &Asked) -> Answer {
    Answer {
        version: VERSION,
        service,
        verb: asked.order.verb(),
        member: asked.order.member().map(str::to_owned),
        dry_run: asked.dry_run,
        message: "it was done".into(),
        active: Some("dublin".into()),
        epoch: 8,
        pinned: None,
        paused: false,
        left: None,
    }
}

/// An agent that does what it is asked, but knows no service "nothing" and refuses to pause.
fn agent(access: Access) -> (Agent, Arc<Mutex<Heard>>) {
    let heard = Arc::<Mutex<Heard>>::default();
    let log = Arc::clone(&heard);
    let agent = Agent::start_for(access, move |request| match request {
        Request::Operate { service, asked, who, reply } => {
            let refused = |kind, message: &str| {
                Err(Refused { kind, message: message.into(), next: "do something else".into() })
            };
            let result = match asked.order {
                _ if service == "nothing" => refused(RefusedKind::Unknown, "there is no such service"),
                Order::Pause => refused(RefusedKind::Conflict, "not now"),
                _ => Ok(answer(service.clone(), &asked)),
            };
            log.lock().expect("no panic").asked.push((service, asked, who));
            reply.send(result).expect("the server waits");
        }
        Request::Denied(operation) => log.lock().expect("no panic").denied.push(operation),
        Request::Status { reply, .. } => drop(reply.send(status_of(two_services()))),
        Request::Flows { .. }
        | Request::Totals { .. }
        | Request::Explain { .. }
        | Request::Reload { .. }
        | Request::Events { .. } => {
            panic!("nobody asks")
        }
    });
    (agent, heard)
}

/// Only root may operate without a group; as anybody else, tests of what is done then cannot run.
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: it needs root");
    }
    is_root
}

fn root_only() -> Access {
    Access::new(Some("no such group"), peer_groups)
}

/// What `curl -X METHOD -d BODY` shows: code and body.
fn curl(socket: &Path, method: &str, path: &str, body: &[u8]) -> (u16, String) {
    let mut stream = StdStream::connect(socket).expect("the agent listens");
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("it reads");
    // It may have said no already.
    let _ended = stream.write_all(body);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers in UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let code = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    (code, body.to_owned())
}

/// The same from the test, whose thread runs the server.
async fn curl_async(agent: &Agent, method: &'static str, path: &str, body: &[u8]) -> (u16, String) {
    let (socket, path, body) = (agent.socket().to_owned(), path.to_owned(), body.to_owned());
    tokio::task::spawn_blocking(move || curl(&socket, method, &path, &body))
        .await
        .expect("a thread of its own")
}

fn error(body: &str) -> String {
    let document: ErrorDocument = serde_json::from_str(body).unwrap_or_else(|_| panic!("{body}"));
    assert!(document.version == VERSION && !document.error.next.is_empty());
    format!("{}; {}", document.error.message, document.error.next)
}

#[tokio::test]
async fn every_verb_reaches_the_agent() {
    let (agent, heard) = agent(root_only());
    if !is_root() {
        return;
    }
    let member = || "dublin".to_owned();
    let hold = Some(Duration::from_secs(5400));
    for (verb, body, order) in [
        ("switch", r#"{"member": "dublin"}"#, Order::Switch { member: member(), hold: None, force: false }),
        (
            "switch",
            r#"{"member": "dublin", "for": "1h 30m", "force": true}"#,
            Order::Switch { member: member(), hold, force: true },
        ),
        ("release", "", Order::Release),
        ("drain", r#"{"member": "dublin", "force": true}"#, Order::Drain { member: member(), force: true }),
        ("undrain", r#"{"member": "dublin"}"#, Order::Undrain { member: member() }),
        ("resume", " {} ", Order::Resume),
        ("weight", r#"{"member": "dublin", "weight": 7}"#, Order::Weight { member: member(), weight: 7 }),
    ] {
        let path = format!("/v1/services/orders/{verb}");
        let (code, text) = curl_async(&agent, "POST", &path, body.as_bytes()).await;
        assert_eq!(code, 200, "{verb}: {text}");
        let (service, asked, who) = heard.lock().unwrap().asked.pop().unwrap();
        assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), answer(service.clone(), &asked));
        assert_eq!((service.as_str(), &asked.order), ("orders", &order));
        assert_eq!((asked.reason, asked.dry_run), (None, false));
        assert_eq!((who.uid, who.user.as_deref()), (0, Some("root")));
        assert!(who.command.is_some() && who.pid == i32::try_from(std::process::id()).ok(), "{who:?}");
    }
    let body = br#"{"reason": " maintenance ", "dry_run": true}"#;
    assert_eq!(curl_async(&agent, "POST", "/v1/services/orders/release", body).await.0, 200);
    let (_, asked, _) = heard.lock().unwrap().asked.pop().unwrap();
    assert_eq!((asked.reason.as_deref(), asked.dry_run), (Some("maintenance"), true));
}

#[test]
fn what_the_command_line_sends_is_what_the_agent_reads() {
    let member = || "dublin".to_owned();
    for order in [
        Order::Switch { member: member(), hold: Some(Duration::from_millis(1500)), force: true },
        Order::Switch { member: member(), hold: None, force: false },
        Order::Release,
        Order::Drain { member: member(), force: false },
        Order::Undrain { member: member() },
        Order::Pause,
        Order::Resume,
        Order::Weight { member: member(), weight: u32::MAX },
    ] {
        for (reason, dry_run) in [(None, false), (Some("why \"not\"".to_owned()), true)] {
            let asked = Asked { order: order.clone(), reason, dry_run };
            assert_eq!(Asked::read(order.verb(), &asked.to_body().unwrap()), Ok(asked));
        }
    }
}

#[tokio::test]
async fn a_wrong_body_is_told_what_is_right_and_changes_nothing() {
    let (agent, heard) = agent(root_only());
    if !is_root() {
        return;
    }
    let long = format!(r#"{{"member": "dublin", "reason": "{}"}}"#, "x".repeat(501));
    for (verb, body, cause) in [
        ("switch", "", "missing field `member`"),
        ("switch", "member=dublin", "expected value"),
        ("switch", r#"{"member": "dublin"} {}"#, "trailing characters"),
        ("switch", r#"{"member": "dublin", "until": "1h"}"#, "unknown field `until`"),
        ("switch", r#"{"member": "dublin", "for": "soon"}"#, "\"soon\" is no time"),
        ("switch", r#"{"member": "dublin", "for": "0s"}"#, "outside of 1s to 30days"),
        ("switch", r#"{"member": "dublin", "for": "31days"}"#, "outside of 1s to 30days"),
        ("switch", r#"{"member": "dublin", "reason": "a\nb"}"#, "a line break"),
        ("switch", &long, "has 501 bytes"),
        ("weight", r#"{"member": "dublin", "weight": 0}"#, "the lowest is 1"),
        ("weight", r#"{"member": "dublin", "weight": -1}"#, "invalid value"),
        ("pause", r#"{"member": "dublin"}"#, "unknown field `member`"),
        ("drain", "\u{0}", "expected value"),
    ] {
        let path = format!("/v1/services/orders/{verb}");
        let (code, text) = curl_async(&agent, "POST", &path, body.as_bytes()).await;
        assert_eq!(code, 400, "{body}");
        let error = error(&text);
        assert!(error.contains(cause) && error.contains("send JSON, such as {"), "{body}: {error}");
    }
    let (code, text) =
        curl_async(&agent, "POST", "/v1/services/orders/pause", &vec![b' '; LONGEST_BODY + 1]).await;
    assert_eq!(code, 413);
    assert!(error(&text).contains("more than 4096 bytes"), "{text}");
    assert!(heard.lock().unwrap().asked.is_empty());
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let (agent, _heard) = agent(root_only());
    let socket = agent.socket().to_owned();
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = StdStream::connect(socket).unwrap();
        stream
            .write_all(b"POST /v1/services/orders/pause HTTP/1.1\r\nHost: l\r\nContent-Length: 5\r\n\r\n{")
            .unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = answer.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn what_is_refused_has_a_code_a_cause_and_a_next_step() {
    let (agent, _heard) = agent(root_only());
    if !is_root() {
        return;
    }
    let (code, text) = curl_async(&agent, "POST", "/v1/services/nothing/release", b"").await;
    assert_eq!((code, error(&text).as_str()), (404, "there is no such service; do something else"));
    let (code, text) = curl_async(&agent, "POST", "/v1/services/orders/pause", b"").await;
    assert_eq!((code, error(&text).as_str()), (409, "not now; do something else"));
    let (code, text) = curl_async(&agent, "GET", "/v1/services/orders/pause", b"").await;
    assert_eq!((code, error(&text).as_str()), (405, "/v1/services/orders/pause does not take GET; use POST"));
    assert_eq!(curl_async(&agent, "POST", "/v1/services/orders/explode", b"").await.0, 404);
}

/// A switch is answered when its member's checks have been asked, which may take longer than any other answer.
#[tokio::test]
async fn an_answer_that_comes_late_is_waited_for() {
    let mut held = None;
    let agent = Agent::start_with(move |request| match request {
        Request::Operate { service, asked, reply, .. } => held = Some((answer(service, &asked), reply)),
        Request::Status { reply, .. } => {
            drop(reply.send(status_of(vec![service("orders", ServiceState::Ok)])));
            if let Some((answer, reply)) = held.take() {
                reply.send(Ok(answer)).expect("the client waits");
            }
        }
        _ => panic!("nobody asks"),
    });
    if !is_root() {
        return;
    }
    let asked = Asked {
        order: Order::Switch { member: "dublin".into(), hold: None, force: false },
        reason: None,
        dry_run: false,
    };
    let socket = agent.socket().to_owned();
    let waits = tokio::spawn(async move { client::operate(&socket, "orders", &asked).await });
    tokio::time::sleep(Duration::from_millis(3500)).await;
    assert!(!waits.is_finished(), "longer than the agent's loop may take");
    client::status(agent.socket(), None).await.unwrap();
    assert_eq!(waits.await.unwrap().unwrap().service, "orders");
}

/// Whoever asked may go: the others are served.
#[tokio::test]
async fn a_client_that_leaves_harms_nobody() {
    let (agent, heard) = agent(root_only());
    if !is_root() {
        return;
    }
    for _ in 0..100 {
        let mut stream = StdStream::connect(agent.socket()).unwrap();
        stream
            .write_all(b"POST /v1/services/orders/release HTTP/1.1\r\nHost: l\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
    }
    let asked = Asked { order: Order::Resume, reason: None, dry_run: false };
    client::operate(agent.socket(), "orders", &asked).await.unwrap();
    assert!(heard.lock().unwrap().asked.iter().any(|(_, asked, _)| asked.order == Order::Resume));
}
