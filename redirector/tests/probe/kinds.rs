//! What each kind of check sees, and what it does not.

use std::{
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use redirector::{
    model::{Access, Cause, Check, CheckKind, Failure, Phase, ProbeOutcome, RedisErrorKind, Role, Verdict},
    probe::once,
};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    check, failed, passed, redis_error,
    run::Prober,
    server::{Redis, free_address, tcp},
    stopped,
};

const PREFIX: &str = "redirector:probe:";

pub(crate) fn set_get(prefix: &str) -> CheckKind {
    CheckKind::SetGet { prefix: prefix.to_owned(), expiry: Duration::from_secs(60) }
}

/// All kinds that speak Redis.
pub(crate) fn of_redis() -> [CheckKind; 3] {
    [CheckKind::Ping, CheckKind::Echo, set_get(PREFIX)]
}

async fn probe(kind: CheckKind, address: SocketAddr) -> ProbeOutcome {
    once(&check(kind), address, &Access::default()).await
}

/// The kind of the error in the command phase.
async fn error(kind: CheckKind, redis: &Redis) -> (RedisErrorKind, Verdict) {
    let outcome = probe(kind, redis.address()).await;
    let (phase, kind) = redis_error(&outcome).unwrap_or_else(|| panic!("{outcome}"));
    assert_eq!(phase, Phase::Command);
    (kind, outcome.verdict())
}

#[tokio::test]
async fn a_server_that_runs_passes_every_kind_again_and_again() {
    let redis = Redis::start(&[]);
    for kind in of_redis() {
        let mut check = check(kind);
        check.interval = Duration::from_millis(5);
        let mut prober = Prober::start_normal(check, redis.address(), Access::default());
        for _ in 0..5 {
            prober.passes().await;
        }
    }
}

#[tokio::test]
async fn a_frozen_server_times_out_for_every_kind() {
    let redis = Redis::start(&[]);
    redis.signal(Signal::STOP);
    for kind in of_redis() {
        let mut check = check(kind);
        check.timeout = Duration::from_millis(50);
        let outcome = once(&check, redis.address(), &Access::default()).await;
        assert_eq!(outcome, failed(Phase::Command, Cause::TimedOut(check.timeout)));
    }
}

/// A stall of two seconds, as a fork or a slow command makes it.
#[tokio::test]
async fn an_answer_after_two_seconds_is_late_or_in_time_as_the_check_says() {
    let redis = Redis::start(&["--enable-debug-command", "local"]);
    for kind in of_redis() {
        let mut client = redis.client();
        let stall = thread::spawn(move || redis::cmd("DEBUG").arg("SLEEP").arg("2").exec(&mut client));
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut check = check(kind);
        check.timeout = Duration::from_millis(500);
        let outcome = once(&check, redis.address(), &Access::default()).await;
        assert_eq!(outcome, failed(Phase::Command, Cause::TimedOut(check.timeout)));

        check.timeout = Duration::from_secs(10);
        let ProbeOutcome::Passed { latency } = once(&check, redis.address(), &Access::default()).await else {
            panic!("the stall is over in time");
        };
        assert!(latency > Duration::from_secs(1), "{latency:?}");
        stall.join().unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_server_that_loads_fails_every_kind() {
    let redis = Redis::start(&[]);
    let mut fill = redis::pipe();
    for key in 0..2000 {
        fill.cmd("SET").arg(key).arg("value").ignore();
    }
    fill.cmd("SAVE").ignore();
    fill.exec(&mut redis.client()).unwrap();
    let slow = ["--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024"];
    let redis = Redis::start_in(redis.stop(), &slow);
    for kind in of_redis() {
        // ECHO alone is answered while the data set is read.
        let role = if kind == CheckKind::Echo { Role::Primary } else { Role::Any };
        let outcome = once(&Check { role, ..check(kind.clone()) }, redis.address(), &Access::default()).await;
        assert_eq!(
            redis_error(&outcome),
            Some((Phase::Command, RedisErrorKind::Loading)),
            "{kind:?}: {outcome}"
        );
    }
}

#[tokio::test]
async fn a_read_only_replica_is_seen_by_set_get_and_by_its_role() {
    let primary = Redis::start(&[]);
    let port = primary.address().port().to_string();
    let replica = Redis::start(&["--replicaof", "127.0.0.1", &port]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !replica.run::<String>(&["INFO", "replication"]).contains("master_link_status:up") {
        assert!(Instant::now() < deadline, "the replica follows its primary");
        thread::sleep(Duration::from_millis(20));
    }
    for kind in [CheckKind::Ping, CheckKind::Echo] {
        assert!(passed(&probe(kind.clone(), replica.address()).await));
        let check = Check { role: Role::Primary, ..check(kind) };
        assert!(passed(&once(&check, primary.address(), &Access::default()).await));
        let outcome = once(&check, replica.address(), &Access::default()).await;
        let words = format!(
            "wrong role: the member is a replica of 127.0.0.1 port {port}, the check asks for a primary"
        );
        assert_eq!((outcome.verdict(), outcome.to_string()), (Verdict::Fail, words));
    }
    assert_eq!(error(set_get(PREFIX), &replica).await, (RedisErrorKind::ReadOnly, Verdict::Fail));
    assert!(passed(&probe(set_get(PREFIX), primary.address()).await));
}

#[tokio::test]
async fn a_replica_without_its_primary_fails_what_reads_data() {
    let primary = free_address().port().to_string();
    let redis = Redis::start(&["--replicaof", "127.0.0.1", &primary, "--replica-serve-stale-data", "no"]);
    for kind in [CheckKind::Ping, set_get(PREFIX)] {
        let (found, verdict) = error(kind, &redis).await;
        assert!(matches!(found, RedisErrorKind::MasterDown | RedisErrorKind::ReadOnly), "{found:?}");
        assert_eq!(verdict, Verdict::Fail);
    }
}

/// The last save failed, and writes are stopped: `PING` tells, `ECHO` does not.
#[tokio::test]
async fn a_server_that_cannot_save() {
    let redis = Redis::start(&["--save", "3600", "1"]);
    // It has looked for a file to load.
    let _: String = redis.run(&["PING"]);
    fs::create_dir(redis.directory().join("dump.rdb")).unwrap();
    let _: String = redis.run(&["BGSAVE"]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !redis.run::<String>(&["INFO", "persistence"]).contains("rdb_last_bgsave_status:err") {
        assert!(Instant::now() < deadline, "a save over a directory fails");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(error(CheckKind::Ping, &redis).await, (RedisErrorKind::Misconf, Verdict::Fail));
    assert_eq!(error(set_get(PREFIX), &redis).await, (RedisErrorKind::Misconf, Verdict::Fail));
    assert!(passed(&probe(CheckKind::Echo, redis.address()).await));
    let check = Check { role: Role::Primary, ..check(CheckKind::Echo) };
    let outcome = once(&check, redis.address(), &Access::default()).await;
    assert_eq!(redis_error(&outcome), Some((Phase::Command, RedisErrorKind::Misconf)), "{outcome}");
}

#[tokio::test]
async fn a_server_that_is_out_of_memory_is_seen_by_set_get_alone() {
    let redis = Redis::start(&["--maxmemory", "100kb"]);
    assert_eq!(error(set_get(PREFIX), &redis).await, (RedisErrorKind::OutOfMemory, Verdict::Fail));
    assert!(passed(&probe(CheckKind::Ping, redis.address()).await));
}

#[tokio::test]
async fn a_server_without_enough_replicas_is_seen_by_set_get_alone() {
    let redis = Redis::start(&["--min-replicas-to-write", "1"]);
    assert_eq!(error(set_get(PREFIX), &redis).await, (RedisErrorKind::NoReplicas, Verdict::Fail));
    assert!(passed(&probe(CheckKind::Ping, redis.address()).await));
}

#[tokio::test]
async fn a_cluster_without_its_slots_is_seen_by_set_get_alone() {
    let bus = free_address().port().to_string();
    let redis = Redis::start(&["--cluster-enabled", "yes", "--cluster-port", &bus]);
    assert_eq!(error(set_get(PREFIX), &redis).await, (RedisErrorKind::ClusterDown, Verdict::Fail));
    assert!(passed(&probe(CheckKind::Ping, redis.address()).await));
}

/// Which errors count is the check's choice.
#[tokio::test]
async fn an_error_that_is_not_counted_is_shown_all_the_same() {
    let redis = Redis::start(&["--min-replicas-to-write", "1"]);
    let mut check = check(set_get(PREFIX));
    check.counted_errors = vec![RedisErrorKind::Loading];
    let outcome = once(&check, redis.address(), &Access::default()).await;
    assert_eq!(outcome.verdict(), Verdict::Inconclusive);
    let words = outcome.to_string();
    assert!(words.starts_with("Redis error: NOREPLICAS ") && words.ends_with(" (not counted)"), "{words}");
}

#[tokio::test]
async fn slots_of_a_cluster_are_no_fault_of_the_member() {
    for (answer, kind) in [
        ("-MOVED 12182 192.0.2.2:6379\r\n", RedisErrorKind::Moved),
        ("-ASK 12182 192.0.2.2:6379\r\n", RedisErrorKind::Ask),
        ("-TRYAGAIN Multiple keys request during rehashing of slot\r\n", RedisErrorKind::TryAgain),
    ] {
        let (address, _guard) = answering(answer).await;
        let outcome = probe(set_get(PREFIX), address).await;
        assert_eq!(redis_error(&outcome), Some((Phase::Command, kind)));
        assert_eq!(outcome.verdict(), Verdict::Inconclusive);
    }
}

#[tokio::test]
async fn an_echo_of_something_else_is_wrong() {
    for answer in ["$32\r\n0123456789abcdef0123456789abcdef\r\n", "+PONG\r\n", "$-1\r\n", "*0\r\n"] {
        let (address, _guard) = answering(answer).await;
        let outcome = probe(CheckKind::Echo, address).await;
        let Failure { phase: Phase::Command, cause: Cause::WrongAnswer(words) } = stopped(&outcome) else {
            panic!("{answer:?} gave {outcome:?}");
        };
        assert!(words.ends_with("not the nonce that was to be repeated"), "{words}");
    }
}

/// Over a connection that is kept, no nonce comes twice: an answer that is one probe late is seen.
#[tokio::test]
async fn every_echo_has_a_nonce_of_its_own() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ears = Arc::clone(&heard);
    let (address, _guard) = tcp(move |mut stream| {
        let ears = Arc::clone(&ears);
        async move {
            let mut request = [0; 256];
            while let Ok(length @ 1..) = stream.read(&mut request).await {
                // *2 $4 ECHO $32 NONCE
                let text = String::from_utf8_lossy(&request[..length]).into_owned();
                let nonce = text.lines().nth(4).unwrap().to_owned();
                let answer = format!("${}\r\n{nonce}\r\n", nonce.len());
                ears.lock().unwrap().push(nonce);
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    })
    .await;
    let mut check = check(CheckKind::Echo);
    check.interval = Duration::from_millis(5);
    let mut prober = Prober::start_normal(check, address, Access::default());
    for _ in 0..5 {
        prober.passes().await;
    }
    let mut heard = heard.lock().unwrap().clone();
    heard.sort();
    heard.dedup();
    assert!(heard.len() >= 5, "{heard:?}");
}

/// Several agents, and several members of one database, keep out of each other's way.
#[tokio::test]
async fn each_set_get_writes_a_key_of_its_own_that_goes_away() {
    let redis = Redis::start(&[]);
    let mut check = check(set_get("health:"));
    check.interval = Duration::from_millis(5);
    let mut probers =
        [(); 3].map(|()| Prober::start_normal(check.clone(), redis.address(), Access::default()));
    for prober in &mut probers {
        for _ in 0..5 {
            prober.passes().await;
        }
    }
    let keys: Vec<String> = redis.run(&["KEYS", "*"]);
    assert_eq!(keys.len(), 3, "{keys:?}");
    for key in keys {
        assert!(key.starts_with("health:"), "{key}");
        let left: i64 = redis.run(&["PTTL", &key]);
        assert!((1..=60_000).contains(&left), "{left}");
    }
}

#[tokio::test]
async fn a_value_that_does_not_come_back_is_a_wrong_answer() {
    for (get, words) in [
        ("$-1\r\n", "wrong answer: GET finds nothing where SET wrote"),
        ("$5\r\nother\r\n", "wrong answer: GET gives the string \"other\", not what SET wrote"),
    ] {
        let (address, _guard) = tcp(move |mut stream| async move {
            for answer in ["+OK\r\n", get] {
                let _ = stream.read(&mut [0; 512]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
        .await;
        let outcome = probe(set_get(PREFIX), address).await;
        assert_eq!((outcome.verdict(), outcome.to_string()), (Verdict::Fail, words.to_owned()));
    }
}

/// Gives everybody this answer.
async fn answering(answer: &'static str) -> (SocketAddr, tokio::task::JoinSet<()>) {
    tcp(move |mut stream| async move {
        let _ = stream.read(&mut [0; 512]).await;
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await
}
