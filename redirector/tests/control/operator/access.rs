//! Who may read and who may operate, with the credentials of other users. Only root can take them on: as anybody else these
//! tests say that they are skipped.

use std::{fs, io::Read as _, os::unix::fs::PermissionsExt as _, os::unix::net::UnixStream, thread};

use redirector::{
    control::{
        access::Access,
        client,
        operator::{Asked, OperationResult, Order, Verb},
    },
    datapath::peer_groups,
};
use rustix::{
    process::{Gid, Uid},
    thread::{set_thread_gid, set_thread_groups, set_thread_uid},
};

use super::{agent, curl, error, root_only};
use crate::Agent;

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
