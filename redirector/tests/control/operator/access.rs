//! Who may read and who may operate, with the credentials of other users. Only root can take them on: as anybody else these
//! tests say that they are skipped.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::Path,
    thread,
    time::Duration,
};

use redirector::{
    control::{
        access::Access,
        client,
        flows::{Filter, Totals},
        operator::{Asked, OperationResult, Order, Verb},
        server::{MAX_FOLLOWERS, Request},
        status::VERSION,
    },
    datapath::peer_groups,
    telemetry::{Events, Metrics},
};
use rustix::{
    process::{Gid, Uid},
    thread::{set_thread_gid, set_thread_groups, set_thread_uid},
};

use super::{agent, answer, curl, error, root_only};
use crate::{Agent, status_of, temp::TempDir, two_services};

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
        set_thread_groups(&groups).expect("root may");
        set_thread_gid(Gid::from_raw(gid)).expect("root may");
        set_thread_uid(Uid::from_raw(uid)).expect("root may");
        work()
    });
    Some(thread.join().expect("no panic"))
}

/// The socket's directory is made by the test, and must let others through.
fn open_to_all(agent: &Agent) {
    for directory in agent.socket().ancestors().skip(1).take(2) {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
            .expect("the directory is the test's");
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

/// Everybody can have requests denied, as fast as they like: names are asked for those that go on record only.
#[tokio::test]
async fn names_are_not_looked_up_for_whoever_may_not() {
    let (agent, heard) = agent(root_only());
    open_to_all(&agent);
    let socket = agent.socket().to_owned();
    let denied = tokio::task::spawn_blocking(move || {
        as_user(GROUP.1, GROUP.1, &[], move || {
            let deny = || error(&curl(&socket, "POST", "/v1/services/orders/release", b"").1);
            (0..40).map(|_| deny()).collect::<Vec<_>>()
        })
    });
    let Some(denied) = denied.await.unwrap() else { return };
    assert!(denied[0].starts_with("daemon (uid 1) may look"), "{}", denied[0]);
    assert!(denied[39].starts_with("uid 1 may look"), "{}", denied[39]);
    let heard = heard.lock().unwrap();
    assert!(heard.denied.iter().all(|denied| denied.who.user.as_deref() == Some("daemon")), "{heard:?}");
}

/// Whoever may only read opens as many connections as there are: an operator still gets in, and is told nothing wrong.
#[tokio::test]
async fn readers_do_not_keep_operators_out() {
    let (agent, heard) = agent(root_only());
    open_to_all(&agent);
    let socket = agent.socket().to_owned();
    let held = tokio::task::spawn_blocking(move || {
        as_user(1000, 1000, &[], move || {
            let mut streams: Vec<_> = (0..100).map(|_| UnixStream::connect(&socket).unwrap()).collect();
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

/// Who is turned away is told so, also when the agent has done with them before they have asked.
#[tokio::test]
async fn who_is_turned_away_is_told_why() {
    let (agent, _heard) = agent(root_only());
    open_to_all(&agent);
    let socket = agent.socket().to_owned();
    let told = tokio::task::spawn_blocking(move || {
        as_user(1000, 1000, &[], move || {
            let held: Vec<_> = (0..48).map(|_| UnixStream::connect(&socket).unwrap()).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let told =
                (0..50).map(|_| runtime.block_on(client::status(&socket, None)).unwrap_err().to_string());
            let mut told: Vec<_> = told.collect();
            let mut late = UnixStream::connect(&socket).unwrap();
            thread::sleep(Duration::from_millis(50));
            late.write_all(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("somebody reads it");
            let mut answer = String::new();
            late.read_to_string(&mut answer).expect("and answers");
            told.push(answer);
            drop(held);
            told
        })
    });
    let Some(told) = told.await.unwrap() else { return };
    let wrong: Vec<_> = told.iter().filter(|told| !told.contains("who may only read")).collect();
    assert!(wrong.is_empty(), "{} of {}: {}", wrong.len(), told.len(), wrong[0]);
}

/// Asks, and reads the first words of the answer only.
fn begin(socket: &Path, path: &str) -> (UnixStream, String) {
    let mut stream = UnixStream::connect(socket).expect("the agent listens");
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).expect("it reads");
    let mut code = [0; 12];
    stream.read_exact(&mut code).expect("it answers");
    (stream, String::from_utf8_lossy(&code).into_owned())
}

/// Everybody who may follow events does, and lists are read by people who do not read on: operators still follow, list, count
/// and operate.
#[tokio::test]
async fn those_who_stay_do_not_keep_operators_out() {
    let directory = TempDir::new();
    let ring = Events::open(&directory.path().join("state"), Metrics::default());
    let mut endless = Vec::new();
    let agent = Agent::start_for(root_only(), move |request| match request {
        Request::Events { selection, reply } => drop(reply.send(Ok(ring.subscribe(selection)))),
        // A list that goes on for as long as its client likes.
        Request::Flows { lines, reply, .. } => {
            reply.send(Ok(())).unwrap();
            endless.push(lines);
        }
        Request::Totals { reply, .. } => {
            drop(reply.send(Ok(Totals { version: VERSION, flows: 0, totals: Vec::new() })));
        }
        Request::Status { reply, .. } => drop(reply.send(status_of(two_services()))),
        Request::Operate { service, asked, reply, .. } => drop(reply.send(Ok(answer(service, &asked)))),
        other => panic!("{other:?}"),
    });
    open_to_all(&agent);
    let (socket, theirs) = (agent.socket().to_owned(), agent.socket().to_owned());
    let stay = move |socket: &Path| {
        let follow = (0..MAX_FOLLOWERS).map(|_| begin(socket, "/v1/events?follow=true"));
        let list = (0..4).map(|_| begin(socket, "/v1/flows"));
        let (streams, codes): (Vec<_>, Vec<_>) = follow.chain(list).unzip();
        assert!(codes.iter().all(|code| code == "HTTP/1.1 200"), "{codes:?}");
        streams
    };
    let held = tokio::task::spawn_blocking(move || {
        as_user(1000, 1000, &[], move || {
            let mut streams = stay(&theirs);
            assert_eq!(begin(&theirs, "/v1/events?follow=true").1, "HTTP/1.1 503");
            // What only counts does not wait for those who list.
            assert_eq!(begin(&theirs, "/v1/status").1, "HTTP/1.1 200");
            streams.extend((0..100).map(|_| UnixStream::connect(&theirs).unwrap()));
            streams
        })
    });
    let Some(held) = held.await.unwrap() else { return };
    let own = tokio::task::spawn_blocking(move || stay(&socket)).await.unwrap();
    client::status(agent.socket(), None).await.unwrap();
    client::totals(agent.socket(), &Filter::default()).await.unwrap();
    let asked = Asked { order: Order::Release, reason: None, dry_run: false };
    client::operate(agent.socket(), "orders", &asked).await.unwrap();
    drop((held, own));
}
