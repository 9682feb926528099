//! `http` against a real server.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{HOST, HeaderValue, LOCATION},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use redirector::{
    model::{
        Access, Cause, Check, CheckKind, Failure, Http, HttpTarget, Phase, ProbeOutcome, Tls, TlsFault, Url,
        Verdict,
    },
    probe::once,
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::{certificate, check, free_address, trust};

/// A server whose answers depend on the path. It ends with its guard.
async fn server(tls: Option<TlsAcceptor>) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    let mut guard = JoinSet::new();
    guard.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            connections.spawn(async move {
                let service = service_fn(answer);
                let _ = match tls {
                    None => http1::Builder::new().serve_connection(TokioIo::new(stream), service).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => {
                            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
                        }
                        Err(_) => Ok(()),
                    },
                };
            });
        }
    });
    (address, guard)
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().to_string();
    let host = request.headers()[HOST].to_str().expect("a name");
    let (status, body) = match path.as_str() {
        "/slow" => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            (200, String::new())
        }
        "/elsewhere" => (302, String::new()),
        "/host" => (200, format!("you asked {host}")),
        "/long" => (200, "a".repeat(70_000) + "the end"),
        "/just" => (200, "a".repeat(65_536 - 7) + "the end"),
        "/query?role=primary" => (200, "role: primary".to_owned()),
        path => (path[1..].parse().unwrap_or(404), format!("status {path}")),
    };
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response.headers_mut().insert(LOCATION, HeaderValue::from_static("/200"));
    Ok(response)
}

fn http(target: HttpTarget) -> Http {
    Http { target, tls: None, status: vec![200..=200], contains: None }
}

fn path(path: &str) -> Http {
    http(HttpTarget::Path { path: path.to_owned(), port: None })
}

fn settings(http: Http) -> Check {
    check(CheckKind::Http(http))
}

/// As a member at `address` whose endpoint is `redis.example.com`.
async fn probe(http: Http, address: SocketAddr) -> ProbeOutcome {
    let access = Access { host: "redis.example.com".to_owned(), ..Access::default() };
    once(&settings(http), address, &access).await
}

/// Why it failed.
fn wrong(outcome: &ProbeOutcome) -> &str {
    match outcome {
        ProbeOutcome::Failed(Failure { phase: Phase::Command, cause: Cause::WrongAnswer(why) }) => why,
        outcome => panic!("{outcome:?}"),
    }
}

#[tokio::test]
async fn the_status_decides() {
    let (address, _guard) = server(None).await;
    let with = |status, ranges: &[(u16, u16)]| {
        let status: Http = path(&format!("/{status}"));
        Http { status: ranges.iter().map(|(first, last)| *first..=*last).collect(), ..status }
    };
    for (status, ranges) in
        [(200, vec![(200, 200)]), (204, vec![(200, 299)]), (503, vec![(200, 299), (503, 503)])]
    {
        assert_eq!(probe(with(status, &ranges), address).await.verdict(), Verdict::Pass, "{status}");
    }
    for status in [300, 404, 500, 503] {
        let outcome = probe(with(status, &[(200, 299), (429, 429)]), address).await;
        assert_eq!(wrong(&outcome), format!("status {status}, not 200-299, 429"));
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer() {
    let (address, _guard) = server(None).await;
    assert_eq!(wrong(&probe(path("/elsewhere"), address).await), "status 302, not 200");
    let outcome = probe(Http { status: vec![302..=302], ..path("/elsewhere") }, address).await;
    assert_eq!(outcome.verdict(), Verdict::Pass);
}

#[tokio::test]
async fn the_body_must_have_the_text() {
    let (address, _guard) = server(None).await;
    let has = |at, text: &str| Http { contains: Some(text.to_owned()), ..path(at) };
    assert_eq!(probe(has("/query?role=primary", "role: primary"), address).await.verdict(), Verdict::Pass);
    let outcome = probe(has("/200", "role: primary"), address).await;
    assert_eq!(wrong(&outcome), "status 200, but the body does not have \"role: primary\"");
    // Of a long one the first 64 KiB count.
    assert_eq!(probe(has("/just", "the end"), address).await.verdict(), Verdict::Pass);
    let outcome = probe(has("/long", "the end"), address).await;
    assert!(wrong(&outcome).contains("the first 64 KiB of the body do not have"), "{outcome}");
    assert_eq!(probe(path("/long"), address).await.verdict(), Verdict::Pass);
}

#[tokio::test]
async fn a_path_is_asked_of_the_member_by_its_name() {
    let (address, _guard) = server(None).await;
    let has = |http: Http, text: String| Http { contains: Some(text), ..http };
    let name = format!("you asked redis.example.com:{}", address.port());
    let outcome = probe(has(path("/host"), name.clone()), address).await;
    assert_eq!(outcome.verdict(), Verdict::Pass, "{outcome}");

    // At another port than that of Redis.
    let target = HttpTarget::Path { path: "/host".to_owned(), port: Some(address.port()) };
    let outcome = probe(has(http(target), name), free_address()).await;
    assert_eq!(outcome.verdict(), Verdict::Pass, "{outcome}");
}

#[tokio::test]
async fn a_url_is_asked_whatever_the_address_of_the_member_is() {
    let (address, _guard) = server(None).await;
    let url =
        Url { is_https: false, host: "localhost".to_owned(), port: address.port(), path: "/200".to_owned() };
    let outcome = probe(http(HttpTarget::Url(url)), free_address()).await;
    assert_eq!(outcome.verdict(), Verdict::Pass, "{outcome}");
}

#[tokio::test]
async fn over_tls() {
    let certificate = certificate::issued(&["redis.example.com"]);
    let (address, _guard) = server(Some(certificate.acceptor.clone())).await;
    let with = |tls: Tls| Http { tls: Some(tls), ..path("/200") };
    let outcome = probe(with(trust(&certificate.pem, None)), address).await;
    assert_eq!(outcome.verdict(), Verdict::Pass, "{outcome}");

    let outcome = probe(with(trust(&certificate.pem, Some("paris.example.com"))), address).await;
    let ProbeOutcome::Failed(Failure { phase: Phase::Tls, cause: Cause::Tls(TlsFault::WrongName, _) }) =
        outcome
    else {
        panic!("{outcome:?}");
    };
}

/// The operator says what the server means, so its silence means something too.
#[tokio::test]
async fn whatever_keeps_the_server_from_answering_counts() {
    let outcome = probe(path("/200"), free_address()).await;
    assert_eq!(outcome, ProbeOutcome::Failed(Failure { phase: Phase::Connect, cause: Cause::Refused }));

    let (address, _guard) = server(None).await;
    let mut check = settings(path("/slow"));
    check.timeout = Duration::from_millis(100);
    let outcome = once(&check, address, &Access::default()).await;
    let timed_out = Failure { phase: Phase::Command, cause: Cause::TimedOut(check.timeout) };
    assert_eq!(outcome, ProbeOutcome::Failed(timed_out));
}
