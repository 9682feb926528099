//! `lag` against the documented REST API, in health and with every trouble that it can have.

use std::time::Duration;

use redirector::{
    model::{
        Access, Cause, Check, CheckKind, Endpoint, Lag, LagOf, Login, Phase, ProbeOutcome, Rest, Secret, Tls,
        TlsFault, Url, Verdict,
    },
    probe::once,
};

use crate::{
    Prober, certificate, check, free_address,
    rest_api::{Api, Cluster, Database, Fault},
    trouble, trust,
};

const HOST: &str = "redis-12000.dublin.example.com";

/// An Active-Active database that is available and 1 s behind.
fn orders() -> Database {
    Database {
        uid: 7,
        endpoints: vec![
            ("redis-12000.internal.dublin.example.com", vec!["10.3.1.2"], 12_000),
            (HOST, vec!["192.0.2.7", "2001:db8::7"], 12_000),
        ],
        is_active_active: true,
        lag: 1000,
        error: None,
    }
}

/// Others, which differ by port or by host.
fn cluster() -> Cluster {
    let other =
        |uid, host, port| Database { uid, endpoints: vec![(host, vec!["192.0.2.7"], port)], ..orders() };
    let databases = vec![other(1, HOST, 12_001), orders(), other(8, "redis-12000.paris.example.com", 12_002)];
    Cluster { databases, ..Cluster::default() }
}

async fn api(fault: Option<Fault>) -> Api {
    Api::start(Cluster { fault, ..cluster() }, None).await
}

/// The settings of a check that asks `api`, for a test to change.
fn settings(api: &Api) -> (Lag, LagOf) {
    let lag = Lag { tolerance: Duration::from_secs(5), extended: true, of: None };
    let url =
        Url { is_https: false, host: "127.0.0.1".to_owned(), port: api.address.port(), path: "/".to_owned() };
    let login =
        Login { username: Some("viewer".to_owned()), password: Some(Secret::new("sesame".to_owned())) };
    let rest = Rest { url, login, tls: None, uid: None };
    (lag, LagOf { rest, endpoint: Endpoint { host: HOST.to_owned(), port: 12_000 } })
}

fn lag((lag, of): (Lag, LagOf)) -> Check {
    check(CheckKind::Lag(Lag { of: Some(of), ..lag }))
}

async fn probe(settings: (Lag, LagOf)) -> ProbeOutcome {
    once(&lag(settings), free_address(), &Access::default()).await
}

fn failed(outcome: &ProbeOutcome) -> String {
    assert_eq!(outcome.verdict(), Verdict::Fail, "{outcome:?}");
    outcome.to_string()
}

fn unclear(outcome: &ProbeOutcome) -> String {
    assert_eq!(outcome.verdict(), Verdict::Inconclusive, "{outcome:?}");
    assert!(outcome.to_string().starts_with("REST API: "), "{outcome}");
    outcome.to_string()
}

#[tokio::test]
async fn a_database_within_the_tolerance_passes() {
    let api = api(None).await;
    let outcome = probe(settings(&api)).await;
    assert_eq!(outcome.verdict(), Verdict::Pass, "{outcome:?}");
    let questions = [
        "/v1/bdbs?fields=uid,name,endpoints",
        "/v1/bdbs/7/availability?extend_check=lag&availability_lag_tolerance_ms=5000",
    ];
    assert_eq!(api.asked(), questions);
}

#[tokio::test]
async fn a_database_that_is_behind_fails_and_the_words_say_so() {
    let api = api(None).await;
    let (mut lag, of) = settings(&api);
    lag.tolerance = Duration::from_millis(999);
    let text = failed(&probe((lag.clone(), of.clone())).await);
    assert!(
        text.contains("database 7 is not available, or more than 999ms behind (bdb_unavailable"),
        "{text}"
    );

    // Asked for availability alone it is not.
    lag.extended = false;
    api.asked();
    assert_eq!(probe((lag, of)).await.verdict(), Verdict::Pass);
    assert_eq!(api.asked().last().unwrap(), "/v1/bdbs/7/availability");
}

#[tokio::test]
async fn each_documented_reason_fails_with_its_words() {
    let api = api(None).await;
    let reasons = [
        ("no_quorum", "no quorum"),
        ("bdb_unavailable", "database 7 is not available, or more than 5s behind"),
        ("bdb_unavailable_shard_unreachable", "a primary shard of database 7 is not reachable"),
        ("bdb_unavailable_port_unbound", "nobody listens on the port of database 7"),
        ("something_new", "database 7 is not available (something_new: in their words)"),
    ];
    for (code, words) in reasons {
        api.set(|cluster| cluster.databases[1].error = Some((code, "in their words")));
        let text = failed(&probe(settings(&api)).await);
        assert!(text.contains(words) && text.contains(code), "{text}");
    }
}

#[tokio::test]
async fn the_database_is_found_by_any_of_its_names_and_addresses() {
    let api = api(None).await;
    let hosts = [
        "REDIS-12000.Dublin.example.com.",
        "redis-12000.internal.dublin.example.com",
        "192.0.2.7",
        "2001:db8:0::7",
    ];
    for host in hosts {
        let (lag, mut of) = settings(&api);
        of.endpoint.host = host.to_owned();
        assert_eq!(probe((lag, of)).await.verdict(), Verdict::Pass, "{host}");
        assert!(api.asked()[1].contains("/7/"), "{host}");
    }
}

#[tokio::test]
async fn an_endpoint_that_no_database_or_that_two_have_needs_a_uid() {
    let api = api(None).await;
    let (lag, mut of) = settings(&api);
    of.endpoint.port = 12_345;
    let text = unclear(&probe((lag.clone(), of.clone())).await);
    assert!(
        text.contains("no database of the cluster has the endpoint redis-12000.dublin.example.com:12345"),
        "{text}"
    );
    assert!(text.contains("redis-12000.dublin.example.com:12000") && text.contains("`uid`"), "{text}");

    of.rest.uid = Some(7);
    assert_eq!(probe((lag, of)).await.verdict(), Verdict::Pass);

    api.set(|cluster| cluster.databases.push(Database { uid: 9, ..orders() }));
    let text = unclear(&probe(settings(&api)).await);
    assert!(text.contains("databases 7 and 9 both have the endpoint"), "{text}");
}

#[tokio::test]
async fn a_uid_that_is_not_there_says_nothing_about_the_member() {
    let api = api(None).await;
    let (lag, mut of) = settings(&api);
    of.rest.uid = Some(99);
    let text = unclear(&probe((lag, of)).await);
    assert!(text.contains("no database 99; correct `uid`"), "{text}");
}

/// Restored from a backup, a database has another number.
#[tokio::test]
async fn the_number_is_kept_and_looked_up_again_when_it_is_unknown() {
    let api = api(None).await;
    let mut check = lag(settings(&api));
    (check.interval, check.fast_interval) = (Duration::from_millis(10), Duration::from_millis(10));
    let mut prober = Prober::start(check, free_address());
    for _ in 0..5 {
        assert_eq!(prober.outcome().await.verdict(), Verdict::Pass);
    }
    let lookups = |asked: &[String]| asked.iter().filter(|path| path.contains("fields=")).count();
    assert_eq!(lookups(&api.asked()), 1);

    api.set(|cluster| cluster.databases[1].uid = 70);
    for _ in 0..5 {
        let outcome = prober.outcome().await;
        assert_eq!(outcome.verdict(), Verdict::Pass, "{outcome}");
    }
    let asked = api.asked();
    assert_eq!(lookups(&asked), 1, "{asked:?}");
    assert!(asked.last().unwrap().starts_with("/v1/bdbs/70/"), "{asked:?}");

    api.set(|cluster| cluster.databases.clear());
    let outcome = prober.until(Verdict::Inconclusive).await;
    assert!(unclear(&outcome).contains("no database of the cluster has the endpoint"), "{outcome}");
}

#[tokio::test]
async fn a_database_that_is_not_active_active_is_said_to_be_none() {
    let api = api(None).await;
    api.set(|cluster| cluster.databases[1].is_active_active = false);
    let (lag, of) = settings(&api);
    let text = unclear(&probe((lag.clone(), of.clone())).await);
    assert!(
        text.contains("database 7 is not Active-Active") && text.contains("`extended = false`"),
        "{text}"
    );
    assert!(api.asked().contains(&"/v1/bdbs/7?fields=uid,crdt".to_owned()));

    assert_eq!(probe((Lag { extended: false, ..lag }, of)).await.verdict(), Verdict::Pass);
}

#[tokio::test]
async fn revoked_credentials_say_nothing_about_the_member() {
    let api = api(None).await;
    let (lag, mut of) = settings(&api);
    of.rest.login.password = Some(Secret::new("barley".to_owned()));
    let text = unclear(&probe((lag.clone(), of.clone())).await);
    assert!(text.contains("the user or the password is refused (status 401)"), "{text}");
    of.rest.login = Login::default();
    assert!(unclear(&probe((lag, of)).await).contains("401"));
}

#[tokio::test]
async fn statuses_of_somebody_else_say_nothing_about_the_member() {
    let api = api(None).await;
    let (lag, mut of) = settings(&api);
    of.rest.uid = Some(7);
    let answers = [
        (301, "", "not followed"),
        (307, "", "must name the cluster"),
        (400, r#"{"error_code": "bad_request"}"#, "not understood (status 400)"),
        (403, "", "`db_viewer`"),
        (404, "<html>", "no database 7"),
        (429, "", "status 429"),
        (500, r#"{"error_code": "bdb_unavailable"}"#, "status 500"),
        (502, "<html>bad gateway", "status 502"),
        (503, "<html>no server is available", "without `error_code`"),
        (503, r#"{"error_code": 5}"#, "without `error_code`"),
        (504, "", "status 504"),
        (200, "<html>log in here", "status 200 with a page"),
        (204, "", "status 204"),
    ];
    for (status, body, words) in answers {
        api.set(|cluster| cluster.fault = Some(Fault::Status(status, body)));
        let text = unclear(&probe((lag.clone(), of.clone())).await);
        assert!(text.contains(words), "{status}: {text}");
    }
}

#[tokio::test]
async fn lists_that_are_none_say_nothing_about_the_member() {
    let api = api(None).await;
    for body in ["", "{}", "[{}]", r#"[{"uid": "seven"}]"#, "[", "<html>"] {
        api.set(|cluster| cluster.fault = Some(Fault::Status(200, body)));
        let text = unclear(&probe(settings(&api)).await);
        assert!(text.contains("the list of databases is not what"), "{body}: {text}");
    }
}

#[tokio::test]
async fn broken_answers_say_nothing_about_the_member() {
    let cut: [&[u8]; 3] =
        [b"", b"HTTP/1.1 20", b"HTTP/1.1 503 No\r\nContent-Length: 60\r\n\r\n{\"error_code\": \"bdb"];
    let wrong: [&[u8]; 3] = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"+PONG\r\n",
        b"\x16\x03\x01\x02\x00",
    ];
    for bytes in cut.into_iter().chain(wrong) {
        let api = api(Some(Fault::Raw(bytes))).await;
        let (lag, mut of) = settings(&api);
        of.rest.uid = Some(7);
        let outcome = probe((lag, of)).await;
        let (phase, cause) = trouble(&outcome);
        let expected = match cause {
            Cause::Closed => cut.contains(&bytes),
            Cause::WrongAnswer(_) => wrong.contains(&bytes),
            _ => false,
        };
        assert!(phase == Phase::Command && expected, "{bytes:?}: {outcome:?}");
        assert!(!outcome.to_string().contains(char::is_control), "{outcome}");
    }
}

#[tokio::test]
async fn a_slow_api_says_nothing_about_the_member() {
    let api = api(Some(Fault::Slow(Duration::from_secs(5)))).await;
    let mut check = lag(settings(&api));
    check.timeout = Duration::from_millis(100);
    let outcome = once(&check, free_address(), &Access::default()).await;
    assert_eq!(trouble(&outcome), (Phase::Command, &Cause::TimedOut(check.timeout)));
    assert_eq!(outcome.to_string(), "REST API: command timed out after 100ms (not counted)");
}

#[tokio::test]
async fn an_api_that_is_gone_says_nothing_about_the_member() {
    let api = api(None).await;
    let (lag, mut of) = settings(&api);
    of.rest.url.port = free_address().port();
    assert_eq!(trouble(&probe((lag.clone(), of.clone())).await), (Phase::Connect, &Cause::Refused));

    // A name that no resolver is asked about.
    of.rest.url.host = "dublin..example.com".to_owned();
    let outcome = probe((lag, of)).await;
    assert!(matches!(trouble(&outcome), (Phase::Resolve, Cause::Unreachable(_))), "{outcome:?}");
    assert!(outcome.to_string().contains("the name dublin..example.com does not resolve"), "{outcome}");
}

#[tokio::test]
async fn names_are_looked_up() {
    let api = api(None).await;
    let (lag, mut of) = settings(&api);
    of.rest.url.host = "localhost".to_owned();
    let outcome = probe((lag, of)).await;
    assert_eq!(outcome.verdict(), Verdict::Pass, "{outcome}");
}

/// The settings of a check over TLS, with this name and these certificates believed.
fn over_tls(api: &Api, host: &str, tls: Tls) -> (Lag, LagOf) {
    let (lag, mut of) = settings(api);
    of.rest.url.is_https = true;
    of.rest.url.host = host.to_owned();
    of.rest.tls = Some(tls);
    (lag, of)
}

#[tokio::test]
async fn over_tls_the_certificate_must_be_for_the_name() {
    let certificate = certificate::issued(&["localhost", "dublin.example.com"]);
    let api = Api::start(cluster(), Some(certificate.acceptor.clone())).await;
    for (host, name) in [("localhost", None), ("127.0.0.1", Some("dublin.example.com"))] {
        let outcome = probe(over_tls(&api, host, trust(&certificate.pem, name))).await;
        assert_eq!(outcome.verdict(), Verdict::Pass, "{outcome}");
    }
    let outcome =
        probe(over_tls(&api, "localhost", trust(&certificate.pem, Some("paris.example.com")))).await;
    assert!(matches!(trouble(&outcome), (Phase::Tls, Cause::Tls(TlsFault::WrongName, _))), "{outcome:?}");
}

/// Clusters issue their own certificates, and mark them as those of authorities.
#[tokio::test]
async fn a_certificate_in_ca_file_is_believed_itself() {
    let certificate = certificate::of_an_authority(&["localhost"]);
    let api = Api::start(cluster(), Some(certificate.acceptor.clone())).await;
    let outcome = probe(over_tls(&api, "localhost", trust(&certificate.pem, None))).await;
    assert_eq!(outcome.verdict(), Verdict::Pass, "{outcome}");

    let outcome =
        probe(over_tls(&api, "localhost", trust(&certificate.pem, Some("paris.example.com")))).await;
    assert!(matches!(trouble(&outcome), (Phase::Tls, Cause::Tls(TlsFault::WrongName, _))), "{outcome:?}");

    // Another one for the same name.
    let other = certificate::of_an_authority(&["localhost"]);
    let outcome = probe(over_tls(&api, "localhost", trust(&other.pem, None))).await;
    assert!(matches!(trouble(&outcome), (Phase::Tls, Cause::Tls(..))), "{outcome:?}");

    let expired = certificate::expired_of_an_authority(&["localhost"]);
    let api = Api::start(cluster(), Some(expired.acceptor.clone())).await;
    let outcome = probe(over_tls(&api, "localhost", trust(&expired.pem, None))).await;
    assert!(matches!(trouble(&outcome), (Phase::Tls, Cause::Tls(TlsFault::Expired, _))), "{outcome:?}");
}

#[tokio::test]
async fn trouble_with_tls_says_nothing_about_the_member() {
    let certificate = certificate::issued(&["localhost"]);
    let expired = certificate::expired(&["localhost"]);
    let api = Api::start(cluster(), Some(certificate.acceptor.clone())).await;
    let outcome = probe(over_tls(&api, "localhost", trust(&expired.pem, None))).await;
    assert!(matches!(trouble(&outcome), (Phase::Tls, Cause::Tls(..))), "{outcome:?}");

    let api = Api::start(cluster(), Some(expired.acceptor.clone())).await;
    let outcome = probe(over_tls(&api, "localhost", trust(&expired.pem, None))).await;
    assert!(matches!(trouble(&outcome), (Phase::Tls, Cause::Tls(TlsFault::Expired, _))), "{outcome:?}");

    let api = Api::start(cluster(), None).await;
    let outcome = probe(over_tls(&api, "localhost", trust(&certificate.pem, None))).await;
    assert!(matches!(trouble(&outcome), (Phase::Tls, Cause::Tls(TlsFault::NotTls, _))), "{outcome:?}");
}

#[tokio::test]
async fn a_password_appears_in_no_outcome() {
    let api = api(None).await;
    let (_, of) = settings(&api);
    assert!(!format!("{of:?}").contains("sesame"));
    api.set(|cluster| cluster.databases[1].error = Some(("bdb_unavailable", "you said viewer:sesame")));
    let outcome = probe(settings(&api)).await;
    assert!(!format!("{outcome:?} {outcome}").contains("sesame"), "{outcome:?}");
    assert_eq!(outcome.verdict(), Verdict::Fail);
}
