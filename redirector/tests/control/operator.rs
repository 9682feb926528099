//! Requests for changes: what reaches the agent, what is answered, and who is let in.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream as StdStream,
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use redirector::{
    cli::{
        Exit, Output,
        operator::{self, ChangeArgs, PauseArgs, SwitchArgs, UndrainArgs, WaitArgs, WeightArgs},
    },
    control::{
        ErrorDocument,
        access::{Access, Who},
        client::{self, ClientError},
        operator::{
            Answer, Asked, FlowPolicy, LONGEST_BODY, Left, Operation, OperationResult, Order, Refused,
            RefusedKind, Verb,
        },
        server::Request,
        status::{ServiceState, VERSION},
    },
    datapath::peer_groups,
};
use rustix::{
    process::{Gid, Uid},
    thread::{set_thread_gid, set_thread_groups, set_thread_uid},
};

use crate::{Agent, service, socket_in, status_of, temp::TempDir, two_services};

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
            log.lock().unwrap().asked.push((service, asked, who));
            reply.send(result).expect("the server waits");
        }
        Request::Denied(operation) => log.lock().unwrap().denied.push(operation),
        Request::Status { reply } => drop(reply.send(status_of(two_services()))),
        Request::Flows { .. } | Request::Totals { .. } | Request::Explain { .. } => panic!("nobody asks"),
    });
    (agent, heard)
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
    tokio::task::spawn_blocking(move || curl(&socket, method, &path, &body)).await.unwrap()
}

fn error(body: &str) -> String {
    let document: ErrorDocument = serde_json::from_str(body).unwrap_or_else(|_| panic!("{body}"));
    assert!(document.version == VERSION && !document.error.next.is_empty());
    format!("{}; {}", document.error.message, document.error.next)
}

#[tokio::test]
async fn every_verb_reaches_the_agent() {
    let (agent, heard) = agent(root_only());
    if !rustix::process::geteuid().is_root() {
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
    if !rustix::process::geteuid().is_root() {
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
    if !rustix::process::geteuid().is_root() {
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

/// A group of this host that is not root's.
const GROUP: (&str, u32) = ("daemon", 1);

/// Does something as another user, in a thread of its own: on Linux credentials are a thread's.
fn as_user<T: Send + 'static>(
    uid: u32,
    gid: u32,
    groups: &[u32],
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become somebody else");
        return None;
    }
    let groups: Vec<_> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let thread = thread::spawn(move || {
        set_thread_groups(&groups).unwrap();
        set_thread_gid(Gid::from_raw(gid)).unwrap();
        set_thread_uid(Uid::from_raw(uid)).unwrap();
        work()
    });
    Some(thread.join().unwrap())
}

/// The socket's directory is made by the test, and must let others through.
fn open_to_all(agent: &Agent) {
    use std::{fs, os::unix::fs::PermissionsExt as _};
    for directory in agent.socket().ancestors().skip(1).take(2) {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[tokio::test]
async fn everybody_may_read_and_root_and_one_group_may_operate() {
    let (agent, heard) = agent(Access::new(Some(GROUP.0), peer_groups));
    open_to_all(&agent);
    for (uid, gid, groups, may) in [
        (0, 0, &[][..], true),
        (1000, 1000, &[], false),
        (1000, GROUP.1, &[], true),
        (1000, 1000, &[4, GROUP.1], true),
        (1000, 1000, &[4, 27], false),
        (1000, 0, &[0], false),
    ] {
        let socket = agent.socket().to_owned();
        let as_them = move || {
            let read = curl(&socket, "GET", "/v1/status", b"").0;
            (read, curl(&socket, "POST", "/v1/services/orders/release", br#"{"reason": "mine"}"#))
        };
        let groups = groups.to_vec();
        let done = tokio::task::spawn_blocking(move || as_user(uid, gid, &groups, as_them)).await.unwrap();
        let Some((read, (code, text))) = done else { return };
        assert_eq!((read, code), (200, if may { 200 } else { 403 }), "{uid} {gid}: {text}");
        let mut heard = heard.lock().unwrap();
        if may {
            assert_eq!(heard.asked.pop().unwrap().2.uid, uid);
            continue;
        }
        assert!(heard.asked.is_empty());
        let error = error(&text);
        assert!(error.contains("(uid 1000)") || error.contains("uid 1000"), "{error}");
        assert!(error.contains("usermod -aG daemon") && error.contains("log in anew"), "{error}");
        let denied = heard.denied.pop().unwrap();
        assert_eq!((denied.verb, denied.result), (Verb::Release, OperationResult::Denied));
        assert_eq!((denied.who.uid, denied.who.gid), (uid, gid));
        assert_eq!((denied.service.as_deref(), denied.reason.as_deref()), (Some("orders"), Some("mine")));
    }
}

/// Whoever may only read opens as many connections as there are: an operator still gets in, and is told nothing wrong.
#[tokio::test]
async fn readers_do_not_keep_operators_out() {
    let (agent, heard) = agent(root_only());
    open_to_all(&agent);
    let socket = agent.socket().to_owned();
    let held = tokio::task::spawn_blocking(move || {
        as_user(1000, 1000, &[], move || {
            let mut streams: Vec<_> = (0..100).map(|_| StdStream::connect(&socket).unwrap()).collect();
            // The last one is turned away, in words.
            let mut answer = String::new();
            streams.last_mut().unwrap().read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("may only read"), "{answer}");
            streams
        })
    });
    let Some(held) = held.await.unwrap() else { return };
    let asked = Asked { order: Order::Release, reason: None, dry_run: false };
    client::operate(agent.socket(), "orders", &asked).await.unwrap();
    assert_eq!(heard.lock().unwrap().asked.len(), 1);
    drop(held);
}

/// A switch is answered when its member's checks have been asked, which may take longer than any other answer.
#[tokio::test]
async fn an_answer_that_comes_late_is_waited_for() {
    let mut held = None;
    let agent = Agent::start_with(move |request| match request {
        Request::Operate { service, asked, reply, .. } => held = Some((answer(service, &asked), reply)),
        Request::Status { reply } => {
            drop(reply.send(status_of(vec![service("orders", ServiceState::Ok)])));
            if let Some((answer, reply)) = held.take() {
                reply.send(Ok(answer)).expect("the client waits");
            }
        }
        _ => panic!("nobody asks"),
    });
    if !rustix::process::geteuid().is_root() {
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
    if !rustix::process::geteuid().is_root() {
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

const CHANGE: ChangeArgs = ChangeArgs { reason: None, dry_run: false, output: Output::Table };

fn switch(wait: bool, timeout: u64) -> SwitchArgs {
    SwitchArgs {
        service: "orders".into(),
        member: "dublin".into(),
        hold: None,
        force: false,
        wait: WaitArgs { wait, timeout: Duration::from_millis(timeout) },
        change: CHANGE,
    }
}

/// Exit, standard output, standard error.
async fn run(socket: &Path, change: impl Into<operator::Change>) -> (Exit, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = operator::run(socket, change, &mut out, &mut err).await;
    (exit, String::from_utf8(out).expect("text"), String::from_utf8(err).expect("text"))
}

#[tokio::test]
async fn the_command_line_says_what_was_done() {
    let (agent, heard) = agent(root_only());
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let weight = WeightArgs {
        service: "orders".into(),
        member: "dublin".into(),
        weight: 7,
        change: ChangeArgs { reason: Some("why".into()), dry_run: true, ..CHANGE },
    };
    let (exit, out, err) = run(agent.socket(), weight).await;
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    assert_eq!(out, "orders: dry run, nothing is changed: it was done\n");
    let (_, asked, _) = heard.lock().unwrap().asked.pop().unwrap();
    assert_eq!((asked.reason.as_deref(), asked.dry_run), (Some("why"), true));

    let undrain = UndrainArgs {
        service: "orders".into(),
        member: "dublin".into(),
        change: ChangeArgs { output: Output::Json, ..CHANGE },
    };
    let (exit, out, _) = run(agent.socket(), undrain).await;
    let document: Answer = serde_json::from_str(&out).unwrap();
    assert_eq!((exit, document.verb), (Exit::Done, Verb::Undrain));
}

#[tokio::test]
async fn all_services_are_asked_one_after_the_other() {
    let (agent, heard) = agent(root_only());
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let all = |output| PauseArgs { service: None, all: true, change: ChangeArgs { output, ..CHANGE } };
    let resume = operator::Change::resume(all(Output::Table));
    let (exit, out, _) = run(agent.socket(), resume).await;
    assert_eq!((exit, out.as_str()), (Exit::Done, "orders: it was done\ncarts: it was done\n"));
    let (_, out, _) = run(agent.socket(), operator::Change::resume(all(Output::Json))).await;
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&document["version"], &document["services"][1]["service"]), (&1.into(), &"carts".into()));
    let (exit, out, err) = run(agent.socket(), operator::Change::pause(all(Output::Table))).await;
    assert_eq!((exit, out.as_str(), err.as_str()), (Exit::Failed, "", "error: not now; do something else\n"));
    assert_eq!(heard.lock().unwrap().asked.len(), 5);
}

#[tokio::test]
async fn exit_codes_are_those_of_the_contract() {
    let directory = TempDir::new();
    let socket = socket_in(&directory);
    let (exit, out, err) = run(&socket, switch(false, 0)).await;
    assert_eq!((exit, out.as_str()), (Exit::NotRunning, ""));
    assert!(err.contains("redirector run"), "{err}");
    let (agent, _heard) = agent(root_only());
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let nothing = SwitchArgs { service: "nothing".into(), ..switch(false, 0) };
    let (exit, _, err) = run(agent.socket(), nothing).await;
    assert_eq!((exit, err.as_str()), (Exit::Failed, "error: there is no such service; do something else\n"));
}

/// An agent whose service is left by "paris" after some looks, and whose flows there end after some more.
fn leaving(active_for: u32, flows_for: u32) -> Agent {
    use redirector::control::flows::{FlowState, Total, Totals};

    let (mut looks, mut counts) = (0, 0);
    Agent::start_with(move |request| match request {
        Request::Operate { service, asked, reply, .. } => {
            let left = Left { member: "paris".into(), flows: FlowPolicy::Keep, until: None };
            let answer = Answer { left: Some(left), ..answer(service, &asked) };
            reply.send(Ok(answer)).expect("the client waits");
        }
        Request::Status { reply } => {
            looks += 1;
            let mut orders = service("orders", ServiceState::Ok);
            orders.active = Some(if looks <= active_for { "paris" } else { "dublin" }.into());
            drop(reply.send(status_of(vec![orders])));
        }
        Request::Totals { filter, reply } => {
            assert_eq!(
                (filter.service.as_deref(), filter.member.as_deref()),
                (Some("orders"), Some("paris"))
            );
            counts += 1;
            let total = |state, flows| Total {
                service: filter.service.clone(),
                member: filter.member.clone(),
                state,
                flows,
                stale: 0,
                local: 0,
            };
            // What is closing is not waited for.
            let open = if counts <= flows_for { 3 } else { 0 };
            let totals = vec![total(FlowState::Established, open), total(FlowState::Closing, 9)];
            drop(reply.send(Ok(Totals { version: VERSION, flows: open + 9, totals })));
        }
        _ => panic!("nobody asks"),
    })
}

#[tokio::test]
async fn waiting_ends_when_the_member_was_left() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (exit, out, err) = run(leaving(2, 2).socket(), switch(true, 10_000)).await;
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    assert!(
        out.contains("go on until they end by themselves") && out.contains("no flow is left there"),
        "{out}"
    );
}

#[tokio::test]
async fn waiting_is_given_up_with_exit_code_1() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (exit, out, err) = run(leaving(0, 1000).socket(), switch(true, 300)).await;
    assert_eq!(exit, Exit::Failed);
    assert!(out.contains("it was done") && out.contains("3 flows are still there"), "{out}");
    assert!(err.contains("\"paris\"") && err.contains("redirector flows --service orders"), "{err}");
    let (exit, _, err) = run(leaving(1000, 0).socket(), switch(true, 300)).await;
    assert_eq!(exit, Exit::Failed);
    assert!(err.contains("is still active") && err.contains("redirector explain orders"), "{err}");
}

#[tokio::test]
async fn an_agent_that_goes_while_it_is_waited_for_is_an_error() {
    let agent = Agent::start_with(drop);
    let asked = Asked { order: Order::Release, reason: None, dry_run: false };
    let error = client::operate(agent.socket(), "orders", &asked).await.unwrap_err();
    assert!(matches!(error, ClientError::Failed { .. }), "{error}");
}
