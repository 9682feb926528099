//! `keyspace` against clusters of real servers, and servers that are none.

use std::time::{Duration, Instant};

use redirector::{
    model::{
        Access, Cause, Check, CheckId, CheckKind, Failure, Keyspace, MemberId, Pace, Phase, ProbeOutcome,
        RedisErrorKind, ServiceId, ShardFailure, Verdict,
    },
    probe::{ProberId, Report, Target, Told, once, run},
};
use rustix::process::Signal;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    certificates::Authority,
    check,
    cluster::{Cluster, THIRDS},
    login, passed,
    server::{Redis, free_address},
};

pub(crate) const LIMIT: Duration = Duration::from_millis(500);

fn keyspace() -> Check {
    let settings = Keyspace { expiry: Duration::from_millis(400), ..Keyspace::default() };
    Check { timeout: LIMIT, ..check(CheckKind::Keyspace(settings)) }
}

async fn probe(redis: &Redis) -> ProbeOutcome {
    once(&keyspace(), redis.address(), &Access::default()).await
}

/// Phase, place and cause of the shard that is reported.
pub(crate) fn shard(outcome: &ProbeOutcome) -> (Phase, &ShardFailure) {
    match outcome {
        ProbeOutcome::Failed(Failure { phase, cause: Cause::Shard(failure) })
        | ProbeOutcome::Inconclusive(Failure { phase, cause: Cause::Shard(failure) }) => (*phase, failure),
        other => panic!("{other:?}"),
    }
}

/// A prober that probes every 20 ms.
struct Prober {
    reports: mpsc::Receiver<Report>,
    task: JoinHandle<()>,
    _pace: watch::Sender<Told>,
}

impl Prober {
    fn start(redis: &Redis) -> Self {
        let (pace, watched) = watch::channel(Pace::Fast.into());
        let (sender, reports) = mpsc::channel(1);
        let target = Target {
            prober: ProberId::default(),
            service: ServiceId(0),
            member: MemberId(0),
            check_id: CheckId(0),
            check: Check { fast_interval: Duration::from_millis(20), ..keyspace() },
            address: redis.address(),
            access: Access::default(),
        };
        Self { reports, task: tokio::spawn(run(target, watched, sender)), _pace: pace }
    }

    async fn next(&mut self) -> ProbeOutcome {
        self.reports.recv().await.expect("the prober runs").outcome
    }

    /// The first outcome of this kind, and how many came before.
    async fn until(&mut self, verdict: Verdict) -> (ProbeOutcome, usize) {
        for before in 0..200 {
            let outcome = self.next().await;
            if outcome.verdict() == verdict {
                return (outcome, before);
            }
        }
        panic!("no {verdict:?}");
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn every_shard_gets_a_key_that_goes_away_by_itself() {
    let cluster = Cluster::start();
    let outcome = probe(&cluster.nodes[1]).await;
    assert!(passed(&outcome), "{outcome}");
    let keys = || cluster.nodes.iter().map(Redis::keys).collect::<Vec<_>>();
    assert_eq!(keys(), [1, 1, 1]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while keys() != [0, 0, 0] {
        assert!(Instant::now() < deadline, "{:?}", keys());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_shard_that_is_gone_is_named() {
    let mut cluster = Cluster::start();
    let gone = cluster.nodes.remove(1);
    let address = gone.address();
    let mut prober = Prober::start(&cluster.nodes[0]);
    assert!(passed(&prober.next().await));
    let killed = Instant::now();
    drop(gone);
    let (outcome, _) = prober.until(Verdict::Fail).await;
    println!("SIGKILL to the first failed report: {:?}", killed.elapsed());
    assert_eq!(outcome.to_string(), format!("slots 5461-10922 at {address}: connection refused"));
    let (phase, failure) = shard(&outcome);
    assert_eq!((phase, &failure.cause), (Phase::Connect, &Cause::Refused));

    // Soon the others say CLUSTERDOWN, because of this one; it is still the one that is named. So it is to a prober that
    // begins now.
    cluster.wait(|info| info.contains("cluster_state:fail"));
    for outcome in [prober.next().await, prober.next().await, probe(&cluster.nodes[1]).await] {
        let text = outcome.to_string();
        let expected = format!("slots 5461-10922 at {address}: connection refused (and 2 more parts fail)");
        assert_eq!(text, expected);
    }
}

#[tokio::test]
async fn a_shard_that_is_frozen_is_named() {
    let cluster = Cluster::start();
    let mut prober = Prober::start(&cluster.nodes[0]);
    assert!(passed(&prober.next().await));
    cluster.nodes[2].signal(Signal::STOP);
    let (outcome, _) = prober.until(Verdict::Fail).await;
    let address = cluster.nodes[2].address();
    let expected = format!("slots 10923-16383 at {address}: command timed out after 500ms");
    assert!(outcome.to_string().starts_with(&expected), "{outcome}");
    assert_eq!(shard(&outcome).1.cause, Cause::TimedOut(LIMIT));

    cluster.nodes[2].signal(Signal::CONT);
    prober.until(Verdict::Pass).await;
}

/// The endpoint is a node, too, and what is known of the others outlives it.
#[tokio::test]
async fn an_endpoint_that_is_gone_is_named_by_its_slots() {
    let mut cluster = Cluster::start();
    let endpoint = cluster.nodes.remove(0);
    let address = endpoint.address();
    let mut prober = Prober::start(&endpoint);
    assert!(passed(&prober.next().await));
    drop(endpoint);
    let (outcome, _) = prober.until(Verdict::Fail).await;
    assert_eq!(outcome.to_string(), format!("slots 0-5460 at {address}: connection refused"));
    // A prober that knows nothing yet cannot say more than this.
    let check = keyspace();
    let outcome = once(&check, address, &Access::default()).await;
    assert_eq!(outcome.to_string(), "connection refused");
}

/// A slot that moves: `ASK` while it does, `MOVED` when it has, and not one failed probe.
#[tokio::test]
async fn a_slot_that_moves_is_followed() {
    let cluster = Cluster::start();
    let (from, to) = (&cluster.nodes[0], &cluster.nodes[1]);
    let (from_id, to_id) = (cluster.id(0), cluster.id(1));
    let mut prober = Prober::start(from);
    assert!(passed(&prober.next().await));
    // Its key is in the first slot of the shard.
    to.tell(&["CLUSTER", "SETSLOT", "0", "IMPORTING", &from_id]);
    from.tell(&["CLUSTER", "SETSLOT", "0", "MIGRATING", &to_id]);
    // A node sends on whoever asks for a key that it has not.
    from.tell(&["FLUSHALL"]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while to.keys() < 2 {
        assert!(Instant::now() < deadline);
        let outcome = prober.next().await;
        assert!(passed(&outcome), "{outcome}");
    }
    for node in [to, from, &cluster.nodes[2]] {
        node.tell(&["CLUSTER", "SETSLOT", "0", "NODE", &to_id]);
    }
    for _ in 0..20 {
        let outcome = prober.next().await;
        assert!(passed(&outcome), "{outcome}");
    }
}

#[tokio::test]
async fn slots_that_nobody_has_are_named() {
    let cluster = Cluster::with(&THIRDS[..2], |_| Vec::new());
    let outcome = probe(&cluster.nodes[0]).await;
    let (_, failure) = shard(&outcome);
    assert_eq!(failure.place, "slots 10923-16383");
    assert!(matches!(failure.cause, Cause::Redis(RedisErrorKind::ClusterDown, _)), "{failure:?}");
    assert_eq!(outcome.verdict(), Verdict::Fail);
}

/// Clients that follow the announcement would end up there as well.
#[tokio::test]
async fn an_announced_address_that_leads_elsewhere_is_a_fault() {
    let (single, nowhere) = (Redis::start(&[]), free_address());
    let cluster = Cluster::start();
    let announce =
        |port: u16| cluster.nodes[1].tell(&["CONFIG", "SET", "cluster-announce-port", &port.to_string()]);
    let told = |port: u16| {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let nodes: String =
                redis::cmd("CLUSTER").arg("NODES").query(&mut cluster.nodes[0].client()).unwrap();
            if nodes.contains(&format!("127.0.0.1:{port}@")) {
                return;
            }
            assert!(Instant::now() < deadline, "{nodes}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let elsewhere = [
        (single.address(), "a server without cluster is here"),
        (cluster.nodes[2].address(), "is here, and "),
        (nowhere, "connection refused"),
    ];
    for (address, text) in elsewhere {
        announce(address.port());
        // Through the gossip of the cluster; the node itself says so at once.
        told(address.port());
        let outcome = probe(&cluster.nodes[0]).await;
        assert_eq!(outcome.verdict(), Verdict::Fail, "{outcome}");
        assert!(outcome.to_string().contains(text), "{outcome}");
    }
    assert_eq!(single.keys(), 0);
}

#[tokio::test]
async fn without_the_cluster_api_tags_cover_the_slots() {
    let redis = Redis::start(&[]);
    for tags in [1, 16, 100] {
        let settings = Keyspace { expiry: Duration::from_millis(400), tags, ..Keyspace::default() };
        let check = Check { timeout: LIMIT, ..check(CheckKind::Keyspace(settings)) };
        redis.tell(&["FLUSHALL"]);
        let outcome = once(&check, redis.address(), &Access::default()).await;
        assert!(passed(&outcome), "{outcome}");
        assert_eq!(redis.keys(), usize::from(tags));
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while redis.keys() > 0 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn one_connection_and_one_round_trip_carry_all_tags() {
    let redis = Redis::start(&[]);
    let mut prober = Prober::start(&redis);
    for _ in 0..10 {
        assert!(passed(&prober.next().await));
    }
    let info: String = redis::cmd("INFO").arg("stats").query(&mut redis.client()).unwrap();
    // The one that waited for the server's start, the one that asked for the shards, the prober's and this one.
    assert!(info.contains("total_connections_received:4\r\n"), "{info}");
}

#[tokio::test]
async fn a_replica_takes_no_writes() {
    let primary = Redis::start(&[]);
    let replica = Redis::start(&["--replicaof", "127.0.0.1", &primary.address().port().to_string()]);
    let outcome = probe(&replica).await;
    let (phase, failure) = shard(&outcome);
    assert!(matches!(failure.cause, Cause::Redis(RedisErrorKind::ReadOnly, _)), "{outcome}");
    assert_eq!(
        (phase, failure.place.as_str()),
        (Phase::Command, format!("slots 0-16383 at {}", replica.address()).as_str())
    );
    assert_eq!(outcome.verdict(), Verdict::Fail);
}

#[tokio::test]
async fn what_the_probe_may_not_do_says_nothing_about_the_member() {
    let users = [
        ["--user", "blind", "on", ">sesame", "~*", "+set", "+get"].as_slice(),
        &["--user", "mute", "on", ">sesame", "~*", "+cluster"],
        &["--user", "far", "on", ">sesame", "~elsewhere:*", "+set", "+get", "+cluster"],
        &[
            "--user",
            "enough",
            "on",
            ">sesame",
            "~redirector:*",
            "+set",
            "+get",
            "+cluster|shards",
            "+cluster|slots",
        ],
    ];
    let redis = Redis::start(&users.concat());
    for (user, verdict) in [
        ("blind", Verdict::Inconclusive),
        ("mute", Verdict::Inconclusive),
        ("far", Verdict::Inconclusive),
        ("enough", Verdict::Pass),
    ] {
        let outcome = once(&keyspace(), redis.address(), &login(Some(user), Some("sesame"))).await;
        assert_eq!(outcome.verdict(), verdict, "{user}: {outcome}");
        assert!(verdict == Verdict::Pass || outcome.to_string().contains("NOPERM"), "{user}: {outcome}");
    }
}

#[tokio::test]
async fn a_frozen_server_times_out_within_the_limit() {
    let redis = Redis::start(&[]);
    let mut prober = Prober::start(&redis);
    assert!(passed(&prober.next().await));
    redis.signal(Signal::STOP);
    let started = Instant::now();
    let (outcome, _) = prober.until(Verdict::Fail).await;
    assert!(started.elapsed() < LIMIT * 2, "{:?}", started.elapsed());
    assert_eq!(
        outcome.to_string(),
        format!("slots 0-16383 at {}: command timed out after 500ms", redis.address())
    );
    // One that knows nothing yet.
    let outcome = probe(&redis).await;
    assert_eq!(outcome.to_string(), "command timed out after 500ms");
}

/// What the documentation says that it costs.
#[tokio::test]
async fn a_probe_costs_two_commands_a_shard() {
    let cluster = Cluster::start();
    let mut prober = Prober::start(&cluster.nodes[0]);
    for _ in 0..20 {
        assert!(passed(&prober.next().await));
    }
    // The 20th has ended, and the 22nd has not begun, for nobody takes the 21st.
    for node in &cluster.nodes {
        let calls = |command| node.calls(command);
        assert!((20..=21).contains(&calls("set")), "{}", calls("set"));
        assert!((20..=21).contains(&calls("get")), "{}", calls("get"));
        assert_eq!(calls("cluster|myid"), 1);
    }
    assert_eq!(cluster.nodes[0].calls("cluster|shards"), 1);
}

/// Nodes that announce names are verified by these, and the port for TLS is another one.
#[tokio::test]
async fn a_cluster_over_tls() {
    const NAME: &str = "orders.example.com";
    let authority = Authority::new("ours");
    let bus = free_address().port().to_string();
    let options = [
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &bus,
        "--tls-cluster",
        "yes",
        "--requirepass",
        "sesame",
    ];
    let hostname =
        ["--cluster-announce-hostname", "localhost", "--cluster-preferred-endpoint-type", "hostname"];
    let cases: [(&[&str], &[&str], Option<&str>); 3] = [
        (&[NAME], &[], None),
        (&[NAME, "localhost"], &hostname, None),
        (&[NAME], &hostname, Some("the member's certificate is not for \"localhost\"")),
    ];
    for (names, more, fault) in cases {
        let redis = Redis::start_tls(&authority, &authority.issue(names), &[&options, more].concat());
        let mut client = redis.client();
        redis::cmd("AUTH").arg("sesame").exec(&mut client).unwrap();
        redis::cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(0).arg(16383).exec(&mut client).unwrap();
        while !redis::cmd("CLUSTER").arg("INFO").query::<String>(&mut client).unwrap().contains("state:ok") {
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut access = authority.access(NAME);
        access.login = login(None, Some("sesame")).login;
        let outcome = once(&keyspace(), redis.address(), &access).await;
        match fault {
            None => assert!(passed(&outcome), "{outcome}"),
            Some(text) => {
                let (phase, failure) = shard(&outcome);
                assert_eq!((phase, outcome.verdict()), (Phase::Tls, Verdict::Fail));
                assert_eq!(failure.place, format!("slots 0-16383 at {}", redis.address()));
                assert!(outcome.to_string().contains(text), "{outcome}");
            }
        }
    }
}
