//! What one probe finds.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use redirector::{
    model::{Access, Cause, CheckKind, Failure, Phase, ProbeOutcome, RedisErrorKind, Verdict},
    probe::once,
};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    check, failed, login, passed, ping, redis_error,
    server::{Redis, free_address, tcp},
};

const NO_AUTH: Option<(Phase, RedisErrorKind)> = Some((Phase::Command, RedisErrorKind::NoAuth));
const NO_RIGHTS: Option<(Phase, RedisErrorKind)> = Some((Phase::Command, RedisErrorKind::NoPerm));
const LOGIN_REFUSED: Option<(Phase, RedisErrorKind)> = Some((Phase::Authenticate, RedisErrorKind::WrongPass));

#[tokio::test]
async fn a_server_that_runs_passes() {
    let redis = Redis::start(&[]);
    for kind in [CheckKind::Ping, CheckKind::Tcp] {
        let outcome = once(&check(kind), redis.address(), &Access::default()).await;
        assert!(passed(&outcome), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_closed_port_is_refused() {
    for kind in [CheckKind::Ping, CheckKind::Tcp] {
        let outcome = once(&check(kind), free_address(), &Access::default()).await;
        assert_eq!(outcome, failed(Phase::Connect, Cause::Refused));
    }
}

/// A probe of a closed port on this host once in a while connected to itself, and passed.
#[tokio::test]
async fn a_probe_never_connects_to_itself() {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let ports: Vec<u16> = range.split_whitespace().map(|port| port.parse().unwrap()).collect();
    // connect(2) takes source ports of the lowest port's parity, in a row for one destination (bind(2) those of
    // the other), so these probes come across every one of them.
    let free = |port: &u16| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let port = (ports[0]..ports[1]).step_by(2).skip(1000).find(free).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    for _ in 0..ports[1] - ports[0] {
        let outcome = once(&check(CheckKind::Tcp), address, &Access::default()).await;
        assert_eq!(outcome, failed(Phase::Connect, Cause::Refused));
    }
}

#[tokio::test]
async fn password_of_the_default_user() {
    let redis = Redis::start(&["--requirepass", "open sesame"]);
    let outcome = ping(redis.address(), &login(None, None)).await;
    assert_eq!(redis_error(&outcome), NO_AUTH, "{outcome:?}");
    assert_eq!(outcome.verdict(), Verdict::Inconclusive);

    let outcome = ping(redis.address(), &login(None, Some("open barley"))).await;
    assert_eq!(redis_error(&outcome), LOGIN_REFUSED, "{outcome:?}");
    assert_eq!(outcome.verdict(), Verdict::Inconclusive);

    assert!(passed(&ping(redis.address(), &login(None, Some("open sesame"))).await));
}

#[tokio::test]
async fn acl_users() {
    let users =
        ["--user", "probe", "on", ">sesame", "-@all", "+ping", "--user", "mute", "on", ">sesame", "-@all"];
    let redis = Redis::start(&users);
    assert!(passed(&ping(redis.address(), &login(Some("probe"), Some("sesame"))).await));

    let outcome = ping(redis.address(), &login(Some("mute"), Some("sesame"))).await;
    assert_eq!(redis_error(&outcome), NO_RIGHTS, "{outcome:?}");

    let outcome = ping(redis.address(), &login(Some("nobody"), Some("sesame"))).await;
    assert_eq!(redis_error(&outcome), LOGIN_REFUSED, "{outcome:?}");
}

#[tokio::test]
async fn a_password_that_the_member_does_not_ask_for_says_nothing_about_it() {
    let redis = Redis::start(&[]);
    let outcome = ping(redis.address(), &login(None, Some("sesame"))).await;
    assert_eq!(redis_error(&outcome), LOGIN_REFUSED, "{outcome:?}");
}

#[tokio::test]
async fn a_frozen_server_times_out_in_the_command_phase() {
    let redis = Redis::start(&[]);
    redis.signal(Signal::STOP);
    let mut check = check(CheckKind::Ping);
    check.timeout = Duration::from_millis(100);
    let started = Instant::now();
    let outcome = once(&check, redis.address(), &Access::default()).await;
    assert_eq!(outcome, failed(Phase::Command, Cause::TimedOut(check.timeout)));
    assert!((check.timeout..Duration::from_secs(2)).contains(&started.elapsed()));

    // The kernel completes the handshake for it.
    check.kind = CheckKind::Tcp;
    assert!(passed(&once(&check, redis.address(), &Access::default()).await));
}

#[tokio::test]
async fn a_syn_without_an_answer_times_out_in_the_connect_phase() {
    // A backlog of 0 holds one connection; with that one taken, the kernel drops every further SYN.
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let listener = std::net::TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let _taken = TcpStream::connect(address).unwrap();

    for kind in [CheckKind::Tcp, CheckKind::Ping] {
        let mut check = check(kind);
        check.timeout = Duration::from_millis(50);
        let outcome = once(&check, address, &Access::default()).await;
        assert_eq!(outcome, failed(Phase::Connect, Cause::TimedOut(check.timeout)));
    }
}

#[tokio::test]
async fn a_server_that_loads_its_data_set() {
    let redis = Redis::start(&[]);
    let mut fill = redis::pipe();
    for key in 0..2000 {
        fill.cmd("SET").arg(key).arg("value").ignore();
    }
    fill.cmd("SAVE").ignore();
    fill.exec(&mut redis.client()).unwrap();
    let directory = redis.stop();

    // Two milliseconds a key, and a look at the sockets every kilobyte.
    let slow = ["--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024"];
    let redis = Redis::start_in(directory, &slow);
    let outcome = ping(redis.address(), &Access::default()).await;
    assert_eq!(redis_error(&outcome), Some((Phase::Command, RedisErrorKind::Loading)), "{outcome:?}");
    assert_eq!(outcome.to_string(), "Redis error: LOADING Redis is loading the dataset in memory");
}

#[tokio::test]
async fn a_server_in_a_script_that_does_not_end() {
    let redis = Redis::start(&["--busy-reply-threshold", "10"]);
    let mut client = redis.client();
    let script = thread::spawn(move || {
        // Ends with an error when the server is killed.
        let _ = redis::cmd("EVAL").arg("while true do end").arg(0).exec(&mut client);
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    let found = loop {
        let outcome = ping(redis.address(), &Access::default()).await;
        if !passed(&outcome) || Instant::now() > deadline {
            break redis_error(&outcome);
        }
    };
    assert_eq!(found, Some((Phase::Command, RedisErrorKind::Busy)));
    drop(redis);
    script.join().unwrap();
}

#[tokio::test]
async fn a_replica_without_its_primary() {
    let primary = free_address().port().to_string();
    let redis = Redis::start(&["--replicaof", "127.0.0.1", &primary, "--replica-serve-stale-data", "no"]);
    let outcome = ping(redis.address(), &Access::default()).await;
    assert_eq!(redis_error(&outcome), Some((Phase::Command, RedisErrorKind::MasterDown)), "{outcome:?}");
}

/// Redis writes this error and closes, before it reads a byte.
#[tokio::test]
async fn a_server_that_is_full_says_so() {
    let redis = Redis::start(&["--maxclients", "1"]);
    let _only = redis.client();
    for login in [login(None, None), login(None, Some("sesame"))] {
        let outcome = ping(redis.address(), &login).await;
        assert!(outcome.to_string().ends_with("max number of clients reached"), "{outcome}");
        assert_eq!(outcome.verdict(), Verdict::Fail);
    }
}

#[tokio::test]
async fn whatever_is_not_pong_is_wrong() {
    let answers = [
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "+PANG\r\n",
        "+OK\r\n",
        "+PONG\n",
        "+PONG\r\n+PONG\r\n",
        "$4\r\nPONG\r\n",
        "*2000000000\r\n",
        "\x1b[2J",
    ];
    for answer in answers {
        let (address, _guard) = tcp(move |mut stream| async move {
            let _ = stream.write_all(answer.as_bytes()).await;
            // Open until the probe has gone: its answer must not hang on the end of the connection.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
        .await;
        let outcome = ping(address, &Access::default()).await;
        let ProbeOutcome::Failed(Failure { phase: Phase::Command, cause: Cause::WrongAnswer(text) }) =
            &outcome
        else {
            panic!("{answer:?} gave {outcome:?}");
        };
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
}

#[tokio::test]
async fn an_endless_line_is_wrong() {
    let (address, _guard) = tcp(|mut stream| async move {
        let _ = stream.write_all(b"+").await;
        while stream.write_all(&[b'A'; 1024]).await.is_ok() {}
    })
    .await;
    let outcome = ping(address, &Access::default()).await;
    assert!(outcome.to_string().starts_with("wrong answer: +AAAA"), "{outcome}");
    assert!(outcome.to_string().len() < 200, "{outcome}");
}

#[tokio::test]
async fn an_answer_in_pieces_is_put_together() {
    let (address, _guard) = tcp(|mut stream| async move {
        for byte in b"+PONG\r\n" {
            let _ = stream.write_all(&[*byte]).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    assert!(passed(&ping(address, &Access::default()).await));
}

#[tokio::test]
async fn a_connection_that_closes_without_an_answer_is_closed() {
    // Once in order, once by a reset, once in the middle of the answer.
    for (reset, answer) in [(false, ""), (true, ""), (false, "+PO")] {
        let (address, _guard) = tcp(move |mut stream| async move {
            let _ = stream.read(&mut [0; 64]).await;
            if reset {
                let _ = stream.set_zero_linger();
            }
            let _ = stream.write_all(answer.as_bytes()).await;
        })
        .await;
        let outcome = ping(address, &Access::default()).await;
        assert_eq!(outcome, failed(Phase::Command, Cause::Closed));
    }
}

#[tokio::test]
async fn silence_times_out_in_its_phase() {
    let (address, _guard) = tcp(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let mut check = check(CheckKind::Ping);
    check.timeout = Duration::from_millis(50);
    for (login, phase) in
        [(login(None, None), Phase::Command), (login(None, Some("sesame")), Phase::Authenticate)]
    {
        assert_eq!(once(&check, address, &login).await, failed(phase, Cause::TimedOut(check.timeout)));
    }
}

/// The time-out bounds the phases together: a login that is slow leaves less for the command.
#[tokio::test]
async fn the_timeout_holds_for_all_phases_together() {
    let (address, _guard) = tcp(|mut stream| async move {
        for answer in ["+OK\r\n", "+PONG\r\n"] {
            let _ = stream.read(&mut [0; 64]).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let mut check = check(CheckKind::Ping);
    check.timeout = Duration::from_millis(300);
    let outcome = once(&check, address, &login(None, Some("sesame"))).await;
    assert_eq!(outcome, failed(Phase::Command, Cause::TimedOut(check.timeout)));
    check.timeout = Duration::from_secs(5);
    assert!(passed(&once(&check, address, &login(None, Some("sesame"))).await));
}

/// Redis quotes the arguments of a command that it does not know, and an echo service quotes everything.
#[tokio::test]
async fn a_password_appears_in_no_outcome() {
    let login = login(Some("probe"), Some("sesame"));
    assert!(!format!("{login:?}").contains("sesame"));

    let renamed = Redis::start(&["--rename-command", "AUTH", ""]);
    let (echo, _guard) = tcp(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let (parrot, _guard) = tcp(|mut stream| async move {
        let _ = stream.write_all(b"-sesame sesame\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    for address in [renamed.address(), echo, parrot] {
        let outcome = ping(address, &login).await;
        assert!(!passed(&outcome), "{outcome:?}");
        assert!(!format!("{outcome:?} {outcome}").contains("sesame"), "{outcome:?}");
    }
    // The check that the first server is one of those that quote.
    let error = redis::cmd("AUTH").arg("sesame").exec(&mut renamed.client()).unwrap_err();
    assert!(error.to_string().contains("sesame"), "{error}");
}
