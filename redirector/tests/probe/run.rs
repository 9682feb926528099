//! When a prober probes.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use redirector::{
    model::{Access, Cause, Check, CheckId, CheckKind, MemberId, Pace, Phase, ServiceId, Verdict},
    probe::{ProberId, Report, Target, Told, run},
};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    check, failed, login,
    server::{Redis, tcp},
};

/// A running prober. It ends with its guard.
pub(crate) struct Prober {
    told: watch::Sender<Told>,
    reports: mpsc::Receiver<Report>,
    task: JoinHandle<()>,
}

impl Prober {
    fn start(check: Check, address: SocketAddr, access: Access, pace: Pace) -> Self {
        let (told, watched) = watch::channel(pace.into());
        let (sender, reports) = mpsc::channel(1);
        let (service, member, check_id) = (ServiceId(3), MemberId(2), CheckId(1));
        let prober = ProberId(7);
        let target = Target { prober, service, member, check_id, check, address, access };
        Self { told, reports, task: tokio::spawn(run(target, watched, sender)) }
    }

    /// One that is not in doubt.
    pub(crate) fn start_normal(check: Check, address: SocketAddr, access: Access) -> Self {
        Self::start(check, address, access, Pace::Normal)
    }

    pub(crate) async fn next(&mut self) -> Report {
        self.within(Duration::from_secs(20)).await.expect("a report")
    }

    pub(crate) async fn within(&mut self, limit: Duration) -> Option<Report> {
        timeout(limit, self.reports.recv()).await.ok().map(|report| report.expect("the prober runs"))
    }

    /// The next report, which must be a pass.
    pub(crate) async fn passes(&mut self) -> Instant {
        let report = self.next().await;
        assert_eq!(report.outcome.verdict(), Verdict::Pass, "{:?}", report.outcome);
        report.at
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn a_report_says_whose_it_is() {
    let redis = Redis::start(&[]);
    let mut prober = Prober::start(check(CheckKind::Ping), redis.address(), Access::default(), Pace::Fast);
    let report = prober.next().await;
    assert_eq!(report.prober, ProberId(7));
    assert_eq!((report.service, report.member, report.check), (ServiceId(3), MemberId(2), CheckId(1)));
}

#[tokio::test]
async fn a_crash_between_probes_is_seen_at_once() {
    let redis = Redis::start(&[]);
    let mut prober = Prober::start(check(CheckKind::Ping), redis.address(), Access::default(), Pace::Normal);
    prober.passes().await;
    let killed = Instant::now();
    redis.signal(Signal::KILL);
    // An hour before its time.
    let report = prober.next().await;
    println!("SIGKILL to the first failed report: {:?}", report.at - killed);
    assert_eq!(report.outcome.verdict(), Verdict::Fail, "{:?}", report.outcome);
    assert!(report.at - killed < Duration::from_secs(1), "{:?}", report.at - killed);
}

#[tokio::test]
async fn a_crash_in_the_middle_of_a_probe_is_seen_at_once() {
    let redis = Redis::start(&[]);
    let mut check = check(CheckKind::Ping);
    check.fast_interval = Duration::from_millis(10);
    let mut prober = Prober::start(check, redis.address(), Access::default(), Pace::Fast);
    prober.passes().await;
    redis.signal(Signal::STOP);
    while prober.within(Duration::from_millis(100)).await.is_some() {}
    let killed = Instant::now();
    redis.signal(Signal::KILL);
    let report = prober.next().await;
    assert_eq!(report.outcome.verdict(), Verdict::Fail, "{:?}", report.outcome);
    assert!(report.at - killed < Duration::from_secs(1), "{:?}", report.at - killed);
}

#[tokio::test]
async fn the_connection_is_kept_from_probe_to_probe() {
    let redis = Redis::start(&["--requirepass", "sesame"]);
    let mut check = check(CheckKind::Ping);
    check.fast_interval = Duration::from_millis(5);
    let mut prober = Prober::start(check, redis.address(), login(None, Some("sesame")), Pace::Fast);
    for _ in 0..5 {
        prober.passes().await;
    }
    let mut client = redis.client();
    redis::cmd("AUTH").arg("sesame").exec(&mut client).unwrap();
    let info: String = redis::cmd("INFO").arg("stats").query(&mut client).unwrap();
    // The one that waited for the server's start, the prober's and this one.
    assert!(info.contains("total_connections_received:3\r\n"), "{info}");
}

/// An operator's `CLIENT KILL`, or the server's idle time-out, is no failure of the member.
#[tokio::test]
async fn a_kept_connection_that_ends_is_replaced() {
    let redis = Redis::start(&[]);
    let mut client = redis.client();
    let mut prober = Prober::start(check(CheckKind::Ping), redis.address(), Access::default(), Pace::Normal);
    prober.passes().await;
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").exec(&mut client).unwrap();
    prober.passes().await;
}

/// The same when the connection ends under the probe: it asks again over a new one.
#[tokio::test]
async fn a_kept_connection_that_ends_in_the_middle_of_a_probe_is_replaced() {
    // Every connection is good for one answer, and ends when it is asked for a second one.
    let (address, _guard) = tcp(|mut stream| async move {
        let _ = stream.read(&mut [0; 64]).await;
        let _ = stream.write_all(b"+PONG\r\n").await;
        let _ = stream.read(&mut [0; 64]).await;
    })
    .await;
    let mut check = check(CheckKind::Ping);
    check.fast_interval = Duration::from_millis(10);
    let mut prober = Prober::start(check, address, Access::default(), Pace::Fast);
    for _ in 0..6 {
        prober.passes().await;
    }
}

#[tokio::test]
async fn the_connection_is_replaced_after_a_failure() {
    let redis = Redis::start(&[]);
    let mut check = check(CheckKind::Ping);
    (check.fast_interval, check.timeout) = (Duration::from_millis(20), Duration::from_millis(50));
    let mut prober = Prober::start(check, redis.address(), Access::default(), Pace::Fast);
    prober.passes().await;
    redis.signal(Signal::STOP);
    let report = loop {
        let report = prober.next().await;
        if report.outcome.verdict() != Verdict::Pass {
            break report;
        }
    };
    assert_eq!(report.outcome, failed(Phase::Command, Cause::TimedOut(Duration::from_millis(50))));
    redis.signal(Signal::CONT);
    // A report or two of the time before may be on their way. The answer to the probe that timed out is none.
    while prober.next().await.outcome.verdict() != Verdict::Pass {}
}

#[tokio::test]
async fn the_interval_counts_from_start_to_start() {
    // Answers after 60 ms: with an interval of 100 ms, 40 ms of rest are left.
    let (address, _guard) = tcp(|mut stream| async move {
        while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {
            tokio::time::sleep(Duration::from_millis(60)).await;
            let _ = stream.write_all(b"+PONG\r\n").await;
        }
    })
    .await;
    let mut check = check(CheckKind::Ping);
    check.interval = Duration::from_millis(100);
    let mut prober = Prober::start(check, address, Access::default(), Pace::Normal);
    let first = prober.passes().await;
    for _ in 0..4 {
        prober.passes().await;
    }
    let last = prober.passes().await;
    let mean = (last - first) / 5;
    assert!((Duration::from_millis(95)..Duration::from_millis(150)).contains(&mean), "{mean:?}");
}

#[tokio::test]
async fn a_probe_that_takes_longer_than_the_interval_is_not_overlapped() {
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counters = (Arc::clone(&open), Arc::clone(&most));
    let (address, _guard) = tcp(move |mut stream| {
        let (open, most) = counters.clone();
        async move {
            most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let _ = stream.read_to_end(&mut Vec::new()).await;
            open.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await;
    let mut check = check(CheckKind::Ping);
    (check.fast_interval, check.timeout) = (Duration::from_millis(5), Duration::from_millis(50));
    let mut prober = Prober::start(check, address, Access::default(), Pace::Fast);
    let first = prober.next().await.at;
    let second = prober.next().await.at;
    assert!(second - first >= Duration::from_millis(50), "{:?}", second - first);
    assert!(
        most.load(Ordering::SeqCst) <= 2,
        "the next probe's connection may overtake the last one's reset"
    );
}

#[tokio::test]
async fn a_change_of_pace_takes_effect_at_once() {
    let redis = Redis::start(&[]);
    for kind in [CheckKind::Ping, CheckKind::Tcp] {
        let mut check = check(kind);
        check.fast_interval = Duration::from_millis(10);
        let mut prober = Prober::start(check, redis.address(), Access::default(), Pace::Normal);
        prober.passes().await;
        assert_eq!(prober.within(Duration::from_millis(100)).await, None);
        let changed = Instant::now();
        prober.told.send(Pace::Fast.into()).unwrap();
        let at = prober.passes().await;
        assert!(at - changed < Duration::from_secs(1));
        prober.passes().await;
        prober.told.send(Pace::Normal.into()).unwrap();
        // One report may have been on its way already.
        prober.within(Duration::from_millis(100)).await;
        assert_eq!(prober.within(Duration::from_millis(100)).await, None);
    }
}

/// What asks for a round and what changes the pace often come together, and a prober sees only the newest of the two.
#[tokio::test]
async fn a_round_that_is_asked_for_is_made_whatever_the_pace_becomes_with_it() {
    let redis = Redis::start(&[]);
    let (address, access) = (redis.address(), Access::default());
    let mut prober = Prober::start(check(CheckKind::Ping), address, access, Pace::Normal);
    prober.passes().await;
    assert_eq!(prober.within(Duration::from_millis(100)).await, None);
    prober.told.send_modify(|told| told.asked += 1);
    prober.told.send_modify(|told| told.pace = Pace::Down);
    assert!(prober.within(Duration::from_millis(500)).await.is_some());
    assert_eq!(prober.within(Duration::from_millis(100)).await, None);
}

/// A member that closes every connection must not make a prober spin.
/// The answer under way may be older than the question.
#[tokio::test]
async fn a_round_that_is_asked_for_during_another_one_follows_it() {
    let redis = Redis::start(&[]);
    let mut prober = Prober::start_normal(check(CheckKind::Ping), redis.address(), Access::default());
    prober.passes().await;
    redis.signal(Signal::STOP);
    for _ in 0..2 {
        prober.told.send_modify(|told| told.asked += 1);
        assert!(prober.within(Duration::from_millis(50)).await.is_none(), "it waits for its answer");
    }
    redis.signal(Signal::CONT);
    prober.passes().await;
    // An hour before its time.
    prober.passes().await;
    assert!(prober.within(Duration::from_millis(100)).await.is_none(), "one more, and no other");
}

#[tokio::test]
async fn a_member_that_closes_after_each_answer_is_probed_twice_an_interval_at_most() {
    let (address, _guard) = tcp(|mut stream| async move {
        let _ = stream.read(&mut [0; 64]).await;
        let _ = stream.write_all(b"+PONG\r\n").await;
    })
    .await;
    let mut check = check(CheckKind::Ping);
    check.interval = Duration::from_millis(100);
    let mut prober = Prober::start(check, address, Access::default(), Pace::Normal);
    let first = prober.passes().await;
    for _ in 0..10 {
        prober.passes().await;
    }
    let taken = prober.passes().await - first;
    assert!(taken >= Duration::from_millis(400), "{taken:?}");
}

#[tokio::test]
async fn a_prober_ends_with_its_receiver() {
    let redis = Redis::start(&[]);
    let mut check = check(CheckKind::Tcp);
    check.fast_interval = Duration::from_millis(5);
    let mut prober = Prober::start(check, redis.address(), Access::default(), Pace::Fast);
    prober.passes().await;
    prober.reports.close();
    while prober.reports.recv().await.is_some() {}
    timeout(Duration::from_secs(5), &mut prober.task).await.unwrap().unwrap();
}

/// An aborted prober leaves nothing behind, whatever it was at.
#[tokio::test]
async fn an_aborted_prober_resets_its_connection() {
    let (ended, mut end) = mpsc::channel(1);
    let (address, _guard) = tcp(move |mut stream| {
        let ended = ended.clone();
        async move {
            let _ = ended.send(stream.read_to_end(&mut Vec::new()).await.map_err(|error| error.kind())).await;
        }
    })
    .await;
    let mut prober = Prober::start(check(CheckKind::Ping), address, Access::default(), Pace::Fast);
    assert_eq!(prober.within(Duration::from_millis(50)).await, None);
    prober.task.abort();
    let end = timeout(Duration::from_secs(5), end.recv()).await.unwrap().unwrap();
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
}
