//! Checks over TLS, against real Redis servers with good and bad certificates.

use std::time::{Duration, Instant};

use redirector::{
    model::{Access, Cause, CheckKind, Phase, ProbeOutcome, TlsFault, Verdict},
    probe::once,
};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    certificates::{Authority, Certificate},
    check, failed, kinds, passed, ping,
    run::Prober,
    server::{Redis, tcp},
    stopped,
};

const NAME: &str = "orders.example.com";

/// What TLS found, whether it counts, and the words for it.
fn fault(outcome: &ProbeOutcome) -> (TlsFault, Verdict, String) {
    let failure = stopped(outcome);
    let Cause::Tls(fault, _) = &failure.cause else { panic!("{failure:?}") };
    assert_eq!(failure.phase, Phase::Tls);
    (*fault, outcome.verdict(), outcome.to_string())
}

/// What a probe says that believes `authority` of a server with `certificate`.
async fn of(authority: &Authority, certificate: &Certificate) -> (TlsFault, Verdict, String) {
    let redis = Redis::start_tls(authority, certificate, &[]);
    fault(&ping(redis.address(), &authority.access(NAME)).await)
}

#[tokio::test]
async fn every_kind_passes_over_both_versions() {
    let authority = Authority::new("ours");
    let certificate = authority.issue(&[NAME]);
    for version in ["TLSv1.2", "TLSv1.3"] {
        let redis = Redis::start_tls(
            &authority,
            &certificate,
            &["--tls-protocols", version, "--requirepass", "sesame"],
        );
        let mut access = authority.access(NAME);
        access.login = crate::login(None, Some("sesame")).login;
        for kind in kinds::of_redis() {
            let outcome = once(&check(kind), redis.address(), &access).await;
            assert!(passed(&outcome), "{version}: {outcome}");
        }
    }
}

#[tokio::test]
async fn the_name_may_be_an_address_or_said_by_the_configuration() {
    let authority = Authority::new("ours");
    let redis = Redis::start_tls(&authority, &authority.issue(&[NAME, "192.0.2.1"]), &[]);
    assert!(passed(&ping(redis.address(), &authority.access("192.0.2.1")).await));

    let mut access = authority.access("127.0.0.1");
    let (found, _, _) = fault(&ping(redis.address(), &access).await);
    assert_eq!(found, TlsFault::WrongName);
    access.tls.as_mut().unwrap().server_name = Some(NAME.to_owned());
    assert!(passed(&ping(redis.address(), &access).await));
}

#[tokio::test]
async fn each_fault_of_a_certificate_is_told_apart_and_says_what_to_do() {
    let authority = Authority::new("ours");
    let found = of(&authority, &authority.issue_expired(&[NAME])).await;
    let words = "TLS: the member's certificate expired at 2021-02-03T00:00:00Z; renew it";
    assert_eq!(found, (TlsFault::Expired, Verdict::Fail, words.to_owned()));

    let found = of(&authority, &authority.issue_early(&[NAME])).await;
    let words = "TLS: the member's certificate is not valid before 2124-05-06T00:00:00Z; compare the clocks of this \
                 host and the member";
    assert_eq!(found, (TlsFault::NotYetValid, Verdict::Fail, words.to_owned()));

    let found = of(&authority, &authority.issue(&["sessions.example.com", "192.0.2.1"])).await;
    let words = "TLS: the member's certificate is not for \"orders.example.com\", it has sessions.example.com, \
                 192.0.2.1; set `server_name` to a name that it has, or renew it with this one";
    assert_eq!(found, (TlsFault::WrongName, Verdict::Fail, words.to_owned()));

    let found = of(&authority, &Authority::new("theirs").issue(&[NAME])).await;
    let words = "TLS: the member's certificate comes from an authority that is not trusted; put that authority's \
                 certificate into `ca_file`";
    assert_eq!(found, (TlsFault::UnknownIssuer, Verdict::Fail, words.to_owned()));

    let found = of(&authority, &authority.issue_authority(&[NAME])).await;
    let words = "TLS: the member's certificate is that of an authority; put it into `ca_file` itself, or issue one for the server (CA:FALSE)";
    assert_eq!(found, (TlsFault::Handshake, Verdict::Fail, words.to_owned()));
}

/// A client certificate that is missing or not believed is the probe's own trouble. TLS 1.3 tells after the client has
/// sent its first command.
#[tokio::test]
async fn a_client_certificate_that_a_member_refuses_says_nothing_about_it() {
    let authority = Authority::new("ours");
    let certificate = authority.issue(&[NAME]);
    for version in ["TLSv1.2", "TLSv1.3"] {
        let options = ["--tls-auth-clients", "yes", "--tls-protocols", version];
        let redis = Redis::start_tls(&authority, &certificate, &options);
        let access = authority.access_as(NAME, &authority.issue(&["probe"]));
        assert!(passed(&ping(redis.address(), &access).await), "{version}");

        let (found, verdict, words) = fault(&ping(redis.address(), &authority.access(NAME)).await);
        assert_eq!((found, verdict), (TlsFault::Refused, Verdict::Inconclusive), "{version}: {words}");
        assert!(words.contains("asks for a client certificate; set `certificate_file`"), "{words}");

        for client in [Authority::new("theirs").issue(&["probe"]), authority.issue_expired(&["probe"])] {
            let outcome = ping(redis.address(), &authority.access_as(NAME, &client)).await;
            let (found, verdict, words) = fault(&outcome);
            assert_eq!((found, verdict), (TlsFault::Refused, Verdict::Inconclusive), "{version}: {words}");
        }
    }
}

#[tokio::test]
async fn no_cipher_in_common() {
    let authority = Authority::new("ours");
    let options = ["--tls-protocols", "TLSv1.2", "--tls-ciphers", "ECDHE-ECDSA-AES128-SHA"];
    let redis = Redis::start_tls(&authority, &authority.issue(&[NAME]), &options);
    let (found, verdict, words) = fault(&ping(redis.address(), &authority.access(NAME)).await);
    assert_eq!((found, verdict), (TlsFault::Handshake, Verdict::Fail), "{words}");
}

#[tokio::test]
async fn tls_and_clear_text_do_not_meet_in_silence() {
    let authority = Authority::new("ours");
    let redis = Redis::start_tls(&authority, &authority.issue(&[NAME]), &[]);
    // OpenSSL says nothing to bytes that are no record of TLS.
    let outcome = ping(redis.address(), &Access::default()).await;
    assert_eq!(outcome, failed(Phase::Command, Cause::Closed));

    let (address, _guard) = tcp(|mut stream| async move {
        let _ = stream.write_all(&[0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x46]).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let outcome = ping(address, &Access::default()).await;
    let words = "wrong answer: a TLS alert; the member speaks TLS on this port: set `tls` in [service.redis]";
    assert_eq!(outcome.to_string(), words);

    let (address, _guard) = tcp(|mut stream| async move {
        let _ = stream.write_all(b"-ERR Protocol error\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let (found, verdict, words) = fault(&ping(address, &authority.access(NAME)).await);
    assert_eq!((found, verdict), (TlsFault::NotTls, Verdict::Fail), "{words}");
}

/// Accepts, and never says a word.
#[tokio::test]
async fn a_half_open_connection_times_out_in_the_handshake() {
    let (address, _guard) = tcp(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let access = Authority::new("ours").access(NAME);
    let mut check = check(CheckKind::Ping);
    check.timeout = Duration::from_millis(50);
    let outcome = once(&check, address, &access).await;
    assert_eq!(outcome, failed(Phase::Tls, Cause::TimedOut(check.timeout)));
    assert_eq!(outcome.to_string(), "TLS handshake timed out after 50ms");
}

#[tokio::test]
async fn a_member_that_closes_in_the_handshake_is_closed() {
    let (address, _guard) = tcp(|mut stream| async move {
        let _ = stream.read(&mut [0; 8]).await;
    })
    .await;
    let outcome = ping(address, &Authority::new("ours").access(NAME)).await;
    assert_eq!(outcome, failed(Phase::Tls, Cause::Closed));
}

#[tokio::test]
async fn a_crash_between_probes_over_tls_is_seen_at_once() {
    let authority = Authority::new("ours");
    let redis = Redis::start_tls(&authority, &authority.issue(&[NAME]), &[]);
    let mut prober = Prober::start_normal(check(CheckKind::Ping), redis.address(), authority.access(NAME));
    prober.passes().await;
    // Long enough for the session tickets of TLS 1.3, which are no end of the connection.
    assert_eq!(prober.within(Duration::from_millis(200)).await, None);
    let killed = Instant::now();
    redis.signal(Signal::KILL);
    let report = prober.next().await;
    assert_eq!(report.outcome.verdict(), Verdict::Fail, "{:?}", report.outcome);
    assert!(report.at - killed < Duration::from_secs(1), "{:?}", report.at - killed);
}

/// Who is connected stays so; the next connection shows the certificate anew, because sessions are not resumed.
#[tokio::test]
async fn a_certificate_that_expires_is_seen_by_the_next_connection() {
    let authority = Authority::new("ours");
    for version in ["TLSv1.2", "TLSv1.3"] {
        let certificate = authority.issue_for(&[NAME], Duration::from_secs(3));
        let redis = Redis::start_tls(&authority, &certificate, &["--tls-protocols", version]);
        let mut check = check(CheckKind::Ping);
        check.interval = Duration::from_millis(500);
        let mut prober = Prober::start_normal(check, redis.address(), authority.access(NAME));
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            prober.passes().await;
        }
        let _: i64 = redis.run(&["CLIENT", "KILL", "TYPE", "normal"]);
        let outcome = loop {
            // A pass or two may have been on their way.
            let report = prober.next().await;
            if report.outcome.verdict() != Verdict::Pass {
                break report.outcome;
            }
            assert!(
                Instant::now() < deadline + Duration::from_secs(5),
                "{version}: it is believed on and on"
            );
        };
        assert_eq!(fault(&outcome).0, TlsFault::Expired);
    }
}
