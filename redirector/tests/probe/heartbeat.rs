//! `heartbeat` between real servers, which a bridge of the test replicates between, one direction at a time.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use redirector::{
    model::{
        Access, Cause, Check, CheckId, CheckKind, Failure, Heartbeat, HeartbeatFault, MemberId, Pace, Phase,
        ProbeOutcome, RedisErrorKind, ServiceId, Verdict,
    },
    probe::{
        ProberId, Target,
        heartbeat::{Member, Said, once, relay, run},
    },
};
use rustix::process::Signal;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_stream::StreamExt as _;

use crate::{
    check, login, passed,
    server::{Redis, free_address},
};

const TOLERANCE: Duration = Duration::from_millis(500);

fn settings(tags: Option<u16>) -> Heartbeat {
    Heartbeat { tolerance: TOLERANCE, tags, ..Heartbeat::default() }
}

fn heartbeat() -> Check {
    Check {
        interval: Duration::from_millis(50),
        fast_interval: Duration::from_millis(10),
        timeout: Duration::from_millis(200),
        ..check(CheckKind::Heartbeat(settings(None)))
    }
}

/// A running heartbeat. It ends with its guard.
struct Heart {
    said: watch::Receiver<Said>,
    task: JoinHandle<()>,
    addresses: Vec<watch::Sender<Vec<SocketAddr>>>,
    names: Vec<String>,
}

impl Heart {
    fn start(members: &[&Redis]) -> Self {
        Self::with(members.iter().map(|redis| (vec![redis.address()], Access::default())), None)
    }

    fn with(members: impl Iterator<Item = (Vec<SocketAddr>, Access)>, tags: Option<u16>) -> Self {
        let (target, addresses) = target(members, tags);
        let names = target.members.iter().map(|member| member.name.clone()).collect();
        let (sender, said) = watch::channel(Said::default());
        Self { said, task: tokio::spawn(run(target, Arc::new(sender))), addresses, names }
    }

    /// What is said of the members at the next beat; nothing of those that it is too early for.
    async fn next(&mut self) -> Vec<Option<ProbeOutcome>> {
        timeout(Duration::from_secs(10), self.said.changed())
            .await
            .expect("a beat in time")
            .expect("it runs");
        let said = self.said.borrow_and_update();
        self.names.iter().map(|name| said.get(name).cloned()).collect()
    }

    /// What is said of one.
    async fn of(&mut self, member: usize) -> ProbeOutcome {
        loop {
            if let Some(outcome) = self.next().await.swap_remove(member) {
                return outcome;
            }
        }
    }

    /// Until all members are judged like this at one beat. What was said of them then.
    async fn until(&mut self, verdicts: &[Verdict]) -> Vec<ProbeOutcome> {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let said: Vec<_> = self.next().await.into_iter().flatten().collect();
            if said.iter().map(ProbeOutcome::verdict).eq(verdicts.iter().copied()) {
                return said;
            }
            assert!(Instant::now() < deadline, "{said:?}");
        }
    }

    /// At every beat of the next while they are judged like this.
    async fn stays(&mut self, verdicts: &[Verdict]) {
        let end = Instant::now() + TOLERANCE * 3;
        while Instant::now() < end {
            let said: Vec<_> = self.next().await.into_iter().flatten().collect();
            assert!(said.iter().map(ProbeOutcome::verdict).eq(verdicts.iter().copied()), "{said:?}");
        }
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn target(
    members: impl Iterator<Item = (Vec<SocketAddr>, Access)>,
    tags: Option<u16>,
) -> (redirector::probe::heartbeat::Heartbeat, Vec<watch::Sender<Vec<SocketAddr>>>) {
    let names = ["paris", "dublin", "oslo"];
    let (members, senders) = members
        .zip(names)
        .map(|((addresses, access), name)| {
            let (sender, addresses) = watch::channel(addresses);
            (Member { name: name.to_owned(), access, addresses }, sender)
        })
        .unzip();
    let heartbeat =
        redirector::probe::heartbeat::Heartbeat { check: heartbeat(), settings: settings(tags), members };
    (heartbeat, senders)
}

/// Replicates what is published through one server to another one, and nothing else: what came from elsewhere is
/// elsewhere already. It ends with its guard.
struct Bridge(JoinHandle<()>);

impl Bridge {
    /// Leaves out messages on channels whose names contain `without`.
    async fn start(member: usize, from: &Redis, to: &Redis, without: Option<&'static str>) -> Self {
        let client = |redis: &Redis| {
            redis::Client::open(format!("redis://{}", redis.address())).expect("a server that answers")
        };
        let mut subscribed = client(from).get_async_pubsub().await.expect("a server that answers");
        subscribed.psubscribe("redirector:heartbeat:*").await.expect("a server that answers");
        let mut publisher =
            client(to).get_multiplexed_async_connection().await.expect("a server that answers");
        let origin = format!("{member}:");
        Self(tokio::spawn(async move {
            let mut messages = subscribed.into_on_message();
            while let Some(message) = messages.next().await {
                let (channel, text) = (
                    message.get_channel_name().to_owned(),
                    message.get_payload::<String>().expect("a server that answers"),
                );
                let is_left_out = without.is_some_and(|part| channel.contains(part));
                if text.starts_with(&origin) && !is_left_out {
                    let mut publish = redis::cmd("PUBLISH");
                    let _gone = publish.arg(channel).arg(text).exec_async(&mut publisher).await;
                }
            }
        }))
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn fault(outcome: &ProbeOutcome) -> Option<HeartbeatFault> {
    match outcome {
        ProbeOutcome::Failed(Failure { cause: Cause::Heartbeat(fault, _), .. })
        | ProbeOutcome::Inconclusive(Failure { cause: Cause::Heartbeat(fault, _), .. }) => Some(*fault),
        _ => None,
    }
}

use Verdict::{Fail, Inconclusive, Pass};

#[tokio::test]
async fn the_direction_that_is_cut_is_named() {
    let (paris, dublin) = (Redis::start(&[]), Redis::start(&[]));
    let to_dublin = Bridge::start(0, &paris, &dublin, None).await;
    let to_paris = Bridge::start(1, &dublin, &paris, None).await;
    let mut heart = Heart::start(&[&paris, &dublin]);
    heart.until(&[Pass, Pass]).await;
    heart.stays(&[Pass, Pass]).await;

    let cut = Instant::now();
    drop(to_dublin);
    let outcomes = heart.until(&[Pass, Fail]).await;
    println!("cut to the first failed report: {:?}", cut.elapsed());
    // A message that was on its way when it was cut is up to a beat older.
    assert!(
        (TOLERANCE - heartbeat().interval..TOLERANCE * 2).contains(&cut.elapsed()),
        "{:?}",
        cut.elapsed()
    );
    assert_eq!(fault(&outcomes[1]), Some(HeartbeatFault::Replication));
    let text = outcomes[1].to_string();
    assert!(text.starts_with("no message from paris for 0."), "{text}");
    assert!(
        text.ends_with(
            "messages the other way arrive; own messages arrive: replication from paris is broken"
        ),
        "{text}"
    );
    heart.stays(&[Pass, Fail]).await;

    let _mended = Bridge::start(0, &paris, &dublin, None).await;
    heart.until(&[Pass, Pass]).await;
    drop(to_paris);
    let outcomes = heart.until(&[Fail, Pass]).await;
    assert!(outcomes[0].to_string().ends_with("replication from dublin is broken"), "{}", outcomes[0]);
}

/// A replica gets what its primary's clients publish, and nothing goes the other way.
#[tokio::test]
async fn a_primary_and_its_replica_replicate_in_one_direction() {
    let paris = Redis::start(&[]);
    let port = paris.address().port().to_string();
    let dublin = Redis::start(&["--replicaof", "127.0.0.1", &port]);
    let mut heart = Heart::start(&[&paris, &dublin]);
    let outcomes = heart.until(&[Fail, Pass]).await;
    assert!(outcomes[0].to_string().ends_with("replication from dublin is broken"), "{}", outcomes[0]);
    dublin.tell(&["REPLICAOF", "NO", "ONE"]);
    let outcomes = heart.until(&[Fail, Fail]).await;
    assert!(outcomes[1].to_string().contains("nor do messages the other way arrive"), "{}", outcomes[1]);
}

/// Whoever is frozen fails by itself, and the others do not fail for want of its messages.
#[tokio::test]
async fn a_member_that_is_frozen() {
    let (paris, dublin) = (Redis::start(&[]), Redis::start(&[]));
    let _bridges =
        (Bridge::start(0, &paris, &dublin, None).await, Bridge::start(1, &dublin, &paris, None).await);
    let mut heart = Heart::start(&[&paris, &dublin]);
    heart.until(&[Pass, Pass]).await;
    paris.signal(Signal::STOP);
    let outcomes = heart.until(&[Fail, Pass]).await;
    let timed_out = Failure { phase: Phase::Command, cause: Cause::TimedOut(Duration::from_millis(200)) };
    assert_eq!(outcomes[0], ProbeOutcome::Failed(timed_out));
    let end = Instant::now() + TOLERANCE * 3;
    while Instant::now() < end {
        assert_eq!(heart.of(1).await.verdict(), Pass);
    }
    paris.signal(Signal::CONT);
    heart.until(&[Pass, Pass]).await;
    heart.stays(&[Pass, Pass]).await;
}

#[tokio::test]
async fn a_member_that_is_gone_and_comes_back() {
    let (paris, dublin) = (Redis::start(&[]), Redis::start(&[]));
    let to_paris = Bridge::start(1, &dublin, &paris, None).await;
    let to_dublin = Bridge::start(0, &paris, &dublin, None).await;
    let mut heart = Heart::start(&[&paris, &dublin]);
    heart.until(&[Pass, Pass]).await;
    drop((to_paris, to_dublin));
    drop(paris);
    let outcomes = heart.until(&[Fail, Pass]).await;
    assert_eq!(outcomes[0].to_string(), "connection refused");

    // At another address, and without replication: then both are stale.
    let paris = Redis::start(&[]);
    heart.addresses[0].send_replace(vec![paris.address()]);
    heart.until(&[Fail, Fail]).await;
    let _bridges =
        (Bridge::start(0, &paris, &dublin, None).await, Bridge::start(1, &dublin, &paris, None).await);
    heart.until(&[Pass, Pass]).await;
}

/// A server's idle time-out, a full output buffer, an operator: no failure.
#[tokio::test]
async fn a_subscription_that_ends_is_replaced() {
    let (paris, dublin) = (Redis::start(&[]), Redis::start(&[]));
    let _bridges =
        (Bridge::start(0, &paris, &dublin, None).await, Bridge::start(1, &dublin, &paris, None).await);
    let mut heart = Heart::start(&[&paris, &dublin]);
    heart.until(&[Pass, Pass]).await;
    for _ in 0..3 {
        // The bridge out of dublin ends, too.
        dublin.tell(&["CLIENT", "KILL", "TYPE", "normal"]);
        let clients: String =
            redis::cmd("CLIENT").arg("LIST").arg("TYPE").arg("pubsub").query(&mut paris.client()).unwrap();
        let ours =
            clients.lines().find(|line| line.contains(" sub=1 ") && line.contains(" psub=0 ")).unwrap();
        let id = ours.split_whitespace().next().unwrap().trim_start_matches("id=");
        paris.tell(&["CLIENT", "KILL", "ID", id]);
        let end = Instant::now() + TOLERANCE / 2;
        while Instant::now() < end {
            let outcome = heart.of(0).await;
            assert!(passed(&outcome), "{outcome}");
        }
    }
}

#[tokio::test]
async fn a_shard_that_does_not_replicate_is_named_by_its_slots() {
    let (paris, dublin) = (Redis::start(&[]), Redis::start(&[]));
    let mut heart = Heart::with(
        [&paris, &dublin].into_iter().map(|redis| (vec![redis.address()], Access::default())),
        Some(4),
    );
    let _to_paris = Bridge::start(1, &dublin, &paris, None).await;
    let to_dublin = Bridge::start(0, &paris, &dublin, None).await;
    heart.until(&[Pass, Pass]).await;
    let channels: Vec<String> = redis::cmd("PUBSUB").arg("CHANNELS").query(&mut paris.client()).unwrap();
    assert_eq!(channels.len(), 4, "{channels:?}");
    let mut tags: Vec<&str> = channels.iter().map(|channel| channel.split_once('{').unwrap().1).collect();
    tags.sort_unstable();
    // One of the four does not get through.
    drop(to_dublin);
    let tag: &'static str = Box::leak(format!("{{{}", tags[0]).into_boxed_str());
    let _partly = Bridge::start(0, &paris, &dublin, Some(tag)).await;
    let outcomes = heart.until(&[Pass, Fail]).await;
    let text = outcomes[1].to_string();
    let quarters = ["0-4095", "4096-8191", "8192-12287", "12288-16383"];
    let named =
        quarters.map(|slots| text.starts_with(&format!("no message from paris in slots {slots} for")));
    assert_eq!(named.into_iter().filter(|is| *is).count(), 1, "{text}");
}

#[tokio::test]
async fn what_the_probe_may_not_do_says_nothing_about_the_member() {
    let users = [
        ["--user", "mute", "on", ">sesame", "&*", "+subscribe"].as_slice(),
        &["--user", "deaf", "on", ">sesame", "&*", "+publish"],
        &["--user", "far", "on", ">sesame", "&elsewhere:*", "+publish", "+subscribe"],
        &["--user", "enough", "on", ">sesame", "&redirector:heartbeat:*", "+publish", "+subscribe"],
    ];
    let redis = Redis::start(&users.concat());
    for (user, verdict) in
        [("mute", Inconclusive), ("deaf", Inconclusive), ("far", Inconclusive), ("enough", Pass)]
    {
        let access = login(Some(user), Some("sesame"));
        let member = [(vec![redis.address()], access.clone())];
        let mut heart = Heart::with(member.into_iter(), None);
        let outcome = heart.of(0).await;
        assert_eq!(outcome.verdict(), verdict, "{user}: {outcome}");
        if verdict == Inconclusive {
            let no_permission = matches!(
                &outcome,
                ProbeOutcome::Inconclusive(Failure { cause: Cause::Redis(RedisErrorKind::NoPerm, _), .. })
            );
            assert!(no_permission, "{user}: {outcome}");
        }
    }
}

/// Of several addresses one is enough, and what holds for the member is reported for each.
#[tokio::test]
async fn a_member_with_several_addresses() {
    let (paris, dublin, nobody) = (Redis::start(&[]), Redis::start(&[]), free_address());
    let _bridges =
        (Bridge::start(0, &paris, &dublin, None).await, Bridge::start(1, &dublin, &paris, None).await);
    let members =
        [(vec![nobody, paris.address()], Access::default()), (vec![dublin.address()], Access::default())];
    let mut heart = Heart::with(members.into_iter(), None);
    heart.until(&[Pass, Pass]).await;
    for address in [nobody, paris.address()] {
        let (service, member, check_id) = (ServiceId(4), MemberId(0), CheckId(2));
        let target = Target {
            prober: ProberId::default(),
            service,
            member,
            check_id,
            check: heartbeat(),
            address,
            access: Access::default(),
        };
        let (sender, mut reports) = mpsc::channel(1);
        let (told, watched) = watch::channel(Pace::Normal.into());
        let (said, of_paris) = (heart.said.clone(), "paris".to_owned());
        let relay = tokio::spawn(relay(target, of_paris, said, watched, sender));
        let report = reports.recv().await.unwrap();
        assert_eq!((report.service, report.member, report.check), (service, member, check_id));
        assert_eq!(report.address, address);
        assert!(passed(&report.outcome), "{report:?}");
        // A round of checks.
        let asked = Instant::now();
        for _ in 0..100 {
            told.send_modify(|told| told.asked += 1);
            assert!(passed(&reports.recv().await.unwrap().outcome));
        }
        assert!(asked.elapsed() < heartbeat().interval * 50, "{:?}", asked.elapsed());
        drop(reports);
        timeout(Duration::from_secs(5), relay).await.unwrap().unwrap();
    }
}

/// As `check` asks all members of a service.
#[tokio::test]
async fn one_round() {
    let paris = Redis::start(&[]);
    let port = paris.address().port().to_string();
    let dublin = Redis::start(&["--replicaof", "127.0.0.1", &port]);
    while redis::cmd("ROLE")
        .query::<redis::Value>(&mut dublin.client())
        .is_ok_and(|role| !format!("{role:?}").contains("connected"))
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let members = [&paris, &dublin].into_iter().map(|redis| (vec![redis.address()], Access::default()));
    let (target, _addresses) = target(members, None);
    let started = Instant::now();
    let outcomes = once(&target, TOLERANCE * 4).await;
    let verdicts: Vec<_> = outcomes.iter().map(ProbeOutcome::verdict).collect();
    assert_eq!(verdicts, [Fail, Pass], "{outcomes:?}");
    assert!(started.elapsed() < TOLERANCE * 2, "{:?}", started.elapsed());
}

/// What the documentation says that it costs.
#[tokio::test]
async fn a_beat_costs_one_command_a_channel_at_each_member() {
    let (paris, dublin) = (Redis::start(&[]), Redis::start(&[]));
    let _bridges =
        (Bridge::start(0, &paris, &dublin, None).await, Bridge::start(1, &dublin, &paris, None).await);
    let members = [&paris, &dublin].into_iter().map(|redis| (vec![redis.address()], Access::default()));
    let mut heart = Heart::with(members, Some(4));
    heart.until(&[Pass, Pass]).await;
    let calls = || [&paris, &dublin].map(|redis| redis.calls("publish"));
    let before = calls();
    for _ in 0..20 {
        heart.next().await;
    }
    for (before, after) in before.into_iter().zip(calls()) {
        // Its own four, and four that the bridge brings. The last ones may still be on their way.
        let per_beat = (after - before).div_ceil(8);
        assert!((19..=22).contains(&per_beat), "{per_beat}");
    }
    for redis in [&paris, &dublin] {
        assert_eq!(redis.calls("subscribe"), 1);
        let clients: String = redis.run(&["CLIENT", "LIST"]);
        let subscribed = clients.lines().filter(|line| line.contains(" sub=4 ")).count();
        let publishes = clients.lines().filter(|line| line.contains(" cmd=publish ")).count();
        // The bridge has one of each kind, too, but its subscription is by pattern.
        assert_eq!((subscribed, publishes), (1, 2), "{clients}");
    }
}
