//! How long a prober waits, what its waiting tells, and how several probes make one verdict.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use redirector::model::{
    Access, Cause, Check, CheckKind, Detect, Failure, FailureKind, Phase, Policy, ProbeOutcome, Verdict,
};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    check,
    run::Prober,
    server::{Redis, tcp},
};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Probes every 20 ms; one that fails is enough. A silence is borne for 100 ms, a stall for 300 ms.
fn hasty() -> Check {
    let detect = Detect { silence_tolerance: ms(100), stall_tolerance: ms(300), refused_tolerance: ms(0) };
    Check { interval: ms(20), fast_interval: ms(20), detect, ..check(CheckKind::Ping) }
}

/// The first report that is no pass.
async fn first_failure(prober: &mut Prober) -> Failure {
    loop {
        match prober.next().await.outcome {
            ProbeOutcome::Passed { .. } => {}
            ProbeOutcome::Failed(failure) => return failure,
            other @ ProbeOutcome::Inconclusive(_) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_frozen_server_is_seen_before_the_time_out_and_told_from_a_silent_one() {
    let redis = Redis::start(&[]);
    let mut prober = Prober::start_normal(hasty(), redis.address(), Access::default());
    prober.passes().await;
    redis.signal(Signal::STOP);
    let frozen = Instant::now();
    let failure = first_failure(&mut prober).await;
    assert_eq!((failure.kind(), failure.cause), (FailureKind::Stall, Cause::TimedOut(ms(300))));
    assert!(frozen.elapsed() < Duration::from_secs(2), "the time-out is ten: {:?}", frozen.elapsed());

    // It fails now, and so nobody is in a hurry: the next probe waits until it thaws.
    assert_eq!(prober.within(ms(1000)).await, None);
    redis.signal(Signal::CONT);
    prober.passes().await;
}

#[tokio::test]
async fn a_host_that_does_not_answer_a_syn_is_silent_whatever_was_kept() {
    // A backlog of 0 holds one connection; with that one taken, the kernel drops every further SYN.
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut kept, _) = listener.accept().unwrap();
        let filler = TcpStream::connect(address).unwrap();
        assert!(kept.read(&mut [0; 64]).unwrap() > 0);
        kept.write_all(b"+PONG\r\n").unwrap();
        (listener, kept, filler)
    });
    let mut prober = Prober::start_normal(hasty(), address, Access::default());
    prober.passes().await;
    let _open = server.join().unwrap();
    let failure = first_failure(&mut prober).await;
    assert_eq!((failure.kind(), failure.phase), (FailureKind::Silence, Phase::Connect));
    // A half of the tolerance for the answer, the other one for the SYN.
    assert!((ms(95)..ms(300)).contains(&failure.waited()), "{:?}", failure.waited());
}

/// A connection that got lost (a state table that forgot it, say) is no failure of the member.
#[tokio::test]
async fn a_kept_connection_without_an_answer_is_replaced_in_the_same_probe() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let (address, _guard) = tcp(move |mut stream| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let _ = stream.read(&mut [0; 64]).await;
            let _ = stream.write_all(b"+PONG\r\n").await;
            // Nothing more is heard of it.
            while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
        }
    })
    .await;
    let mut prober = Prober::start_normal(hasty(), address, Access::default());
    for _ in 0..4 {
        prober.passes().await;
    }
    assert!(connections.load(Ordering::SeqCst) >= 4);
}

/// Answers the probes that `passes` says, and hangs up on the others, over and over; counts all of them.
async fn some_pass(passes: &'static [bool]) -> (SocketAddr, Arc<AtomicUsize>, tokio::task::JoinSet<()>) {
    let probes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&probes);
    let (address, guard) = tcp(move |mut stream| {
        let counted = Arc::clone(&counted);
        async move {
            while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {
                let number = counted.fetch_add(1, Ordering::SeqCst);
                if !passes[number % passes.len()] {
                    let _ = stream.write_all(b"-LOADING\r\n").await;
                    return;
                }
                let _ = stream.write_all(b"+PONG\r\n").await;
            }
        }
    })
    .await;
    (address, probes, guard)
}

#[tokio::test]
async fn several_probes_make_one_verdict_and_no_more_of_them_than_needed() {
    for (policy, passes, verdict, probes) in [
        (Policy::All, &[true, true, false][..], Verdict::Fail, 3),
        (Policy::All, &[false, true, true], Verdict::Fail, 1),
        (Policy::Majority, &[true, false, true], Verdict::Pass, 3),
        (Policy::Majority, &[true, true, false], Verdict::Pass, 2),
        (Policy::Majority, &[false, false, true], Verdict::Fail, 2),
        (Policy::Any, &[false, false, true], Verdict::Pass, 3),
        (Policy::Any, &[true, false, false], Verdict::Pass, 1),
    ] {
        let (address, counted, _guard) = some_pass(passes).await;
        let check = Check { probes: 3, probe_delay: ms(30), policy, ..check(CheckKind::Ping) };
        let mut prober = Prober::start_normal(check, address, Access::default());
        let started = Instant::now();
        let report = prober.next().await;
        assert_eq!(report.outcome.verdict(), verdict, "{policy:?} {passes:?}: {:?}", report.outcome);
        assert_eq!(counted.load(Ordering::SeqCst), probes, "{policy:?} {passes:?}");
        let pauses = u32::try_from(probes - 1).unwrap();
        assert!(started.elapsed() >= ms(30) * pauses, "{policy:?} {passes:?}: {:?}", started.elapsed());
    }
}

/// Three attempts within milliseconds, although the pace is slow; and then no more.
#[tokio::test]
async fn refusals_are_confirmed_at_once_until_the_check_fails() {
    let redis = Redis::start(&[]);
    let check = Check { fall: 3, ..check(CheckKind::Ping) };
    let mut prober = Prober::start_normal(check, redis.address(), Access::default());
    prober.passes().await;
    redis.signal(Signal::KILL);
    let first = prober.next().await.at;
    prober.next().await;
    let third = prober.next().await;
    assert_eq!(third.outcome.verdict(), Verdict::Fail);
    println!("first to third refusal: {:?}", third.at - first);
    assert!(third.at - first < Duration::from_secs(1), "{:?}", third.at - first);
    assert_eq!(prober.within(ms(200)).await, None);
}

/// What a server took to thaw must not be how long the next freeze goes unnoticed.
#[tokio::test]
async fn a_second_freeze_is_seen_as_soon_as_the_first() {
    let redis = Redis::start(&[]);
    let mut prober = Prober::start_normal(hasty(), redis.address(), Access::default());
    for _ in 0..2 {
        prober.passes().await;
        prober.passes().await;
        prober.passes().await;
        redis.signal(Signal::STOP);
        assert_eq!(first_failure(&mut prober).await.cause, Cause::TimedOut(ms(300)));
        tokio::time::sleep(ms(700)).await;
        redis.signal(Signal::CONT);
        let thawed = prober.next().await.outcome;
        assert!(matches!(thawed, ProbeOutcome::Passed { latency } if latency > ms(500)), "{thawed:?}");
    }
}
