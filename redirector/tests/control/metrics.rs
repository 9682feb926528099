//! The listener for metrics, with a loop behind it that answers as an agent does.
#![allow(clippy::unwrap_used, reason = "a test: what is odd shall panic")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use redirector::telemetry::server::{self, Ask, FRESH};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
};

/// A served listener. All of it ends with the guard.
struct Metrics {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Metrics {
    fn start(address: &str, mut answer: impl FnMut(Ask) + Send + 'static) -> Self {
        let listener = server::bind(address.parse().unwrap()).expect("a free port");
        let address = listener.local_addr().unwrap();
        let (sender, mut asks) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(server::serve(listener, sender));
        tasks.spawn(async move {
            while let Some(ask) = asks.recv().await {
                answer(ask);
            }
        });
        Self { address, _tasks: tasks }
    }

    async fn ask(&self, method: &str, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).await.expect("it listens");
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        (head.to_ascii_lowercase(), body.to_owned())
    }

    async fn code(&self, method: &str, path: &str) -> String {
        self.ask(method, path).await.0.split_whitespace().nth(1).unwrap().to_owned()
    }
}

/// An agent whose services without an active member are these.
fn healthy(without: &[&str]) -> impl FnMut(Ask) + Send + use<> {
    let without: Vec<_> = without.iter().map(ToString::to_string).collect();
    move |ask| match ask {
        Ask::Alive { reply } => drop(reply.send(())),
        Ask::Ready { reply } => drop(reply.send(without.clone())),
        Ask::Scrape { reply, .. } => drop(reply.send("# EOF\n".into())),
    }
}

#[tokio::test]
async fn metrics_and_health_are_answered_over_both_ip_versions() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let agent = Metrics::start(address, healthy(&[]));
        let (head, body) = agent.ask("GET", "/metrics").await;
        assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
        assert_eq!(body, "# EOF\n");
        assert_eq!(agent.code("GET", "/healthz").await, "200");
        assert_eq!(agent.code("GET", "/readyz").await, "200");
    }
}

#[tokio::test]
async fn a_service_without_an_active_member_is_named() {
    let agent = Metrics::start("127.0.0.1:0", healthy(&["orders", "carts"]));
    let (head, body) = agent.ask("GET", "/readyz").await;
    assert!(head.starts_with("http/1.1 503") && body.contains("orders, carts"), "{head}{body}");
    assert_eq!(agent.code("GET", "/healthz").await, "200");
}

#[tokio::test]
async fn everything_else_is_refused_with_a_hint() {
    let agent = Metrics::start("127.0.0.1:0", healthy(&[]));
    for path in ["/", "/metric", "/v1/status", "/metrics/"] {
        let (head, body) = agent.ask("GET", path).await;
        assert!(
            head.starts_with("http/1.1 404") && body.contains("/metrics, /healthz or /readyz"),
            "{head}{body}"
        );
    }
    for method in ["POST", "HEAD", "DELETE"] {
        assert_eq!(agent.code(method, "/metrics").await, "405", "{method}");
    }
    assert!(agent.ask("PUT", "/healthz").await.0.contains("\r\nallow: get"));
}

#[tokio::test]
async fn a_loop_that_hangs_or_stops_is_not_well() {
    let mut kept = Vec::new();
    let hanging = Metrics::start("127.0.0.1:0", move |ask| kept.push(ask));
    for path in ["/healthz", "/readyz"] {
        let start = Instant::now();
        let (head, body) = hanging.ask("GET", path).await;
        assert!(head.starts_with("http/1.1 503") && body.contains("no answer within 1s"), "{head}{body}");
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }
    let stopping = Metrics::start("127.0.0.1:0", drop);
    assert_eq!(stopping.code("GET", "/metrics").await, "503");
}

/// A scrape reads the whole flow table: a storm of them must not.
#[tokio::test]
async fn a_storm_of_scrapes_is_one_scrape() {
    let count = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&count);
    let agent = Metrics::start("127.0.0.1:0", move |ask| {
        let Ask::Scrape { turn, reply } = ask else { panic!("{ask:?}") };
        let number = counted.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(turn);
            let _gone = reply.send(format!("# scrape {number}\n"));
        });
    });
    let start = Instant::now();
    let mut storm = JoinSet::new();
    let agent = Arc::new(agent);
    for _ in 0..100 {
        let agent = Arc::clone(&agent);
        storm.spawn(async move { agent.ask("GET", "/metrics").await.1 });
    }
    let answers = storm.join_all().await;
    assert!(answers.iter().all(|answer| answer.starts_with("# scrape ")), "{answers:?}");
    let most = start.elapsed().div_duration_f64(FRESH).ceil();
    let scrapes = count.load(Ordering::Relaxed);
    assert!(f64::from(scrapes) <= most, "{scrapes} scrapes in {:?}", start.elapsed());
    tokio::time::sleep(FRESH).await;
    assert_eq!(agent.ask("GET", "/metrics").await.1, format!("# scrape {scrapes}\n"));
}

/// Nor must scrapers that leave: the agent goes on with what they have asked for.
#[tokio::test]
async fn a_scraper_that_leaves_has_nothing_more_made_at_a_time() {
    let mut made = Vec::new();
    let count = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&count);
    let agent = Metrics::start("127.0.0.1:0", move |ask| {
        counted.fetch_add(1, Ordering::Relaxed);
        made.push(ask);
    });
    for _ in 0..20 {
        let mut stream = TcpStream::connect(agent.address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_client_that_hangs_is_alone_with_it() {
    let agent = Metrics::start("127.0.0.1:0", healthy(&[]));
    let mut silent = TcpStream::connect(agent.address).await.unwrap();
    for _ in 0..50 {
        assert_eq!(agent.code("GET", "/healthz").await, "200");
    }
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(8), silent.read_to_end(&mut answer)).await;
    closed.expect("closed").unwrap();
}

#[tokio::test]
async fn an_address_that_cannot_be_had_is_named_with_the_next_step() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = server::bind(address).unwrap_err().to_string();
    assert!(error.contains(&format!("metrics_listen {address}: another program listens there")), "{error}");
    assert!(error.contains(&format!("sport = :{}", address.port())) && error.contains("[agent]"), "{error}");
    let error = server::bind("192.0.2.1:9109".parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("this host does not have that address"), "{error}");
}
