//! `GET /v1/events` and `redirector events`, with the real ring behind the socket.
#![allow(clippy::unwrap_used, reason = "a test: what is odd shall panic")]

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use redirector::{
    cli::{EventsArgs, Exit, Output, events},
    control::{ErrorText, server::MAX_FOLLOWERS, server::Request},
    telemetry::{Event, Events, Metrics, Record},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

use crate::{Agent, http::curl, socket_in, temp::TempDir};

fn drained(service: &str, epoch: u32) -> Event {
    Event::DrainEnded { service: service.into(), member: None, epoch, reason: None }
}

/// An agent that knows the service `orders`, and what makes events happen.
fn agent(directory: &TempDir) -> (Agent, Events) {
    let ring = Events::open(&directory.path().join("state"), Metrics::default());
    let shared = ring.clone();
    let agent = Agent::start_with(move |request| {
        let Request::Events { selection, reply } = request else { panic!("{request:?}") };
        let known = selection.service.as_deref().is_none_or(|name| name == "orders");
        let unknown = ErrorText { message: "no such service".into(), next: "check the name".into() };
        let answer = if known { Ok(shared.subscribe(selection)) } else { Err(unknown) };
        let _gone = reply.send(answer);
    });
    (agent, ring)
}

fn epochs(text: &str) -> Vec<u32> {
    let epoch = |line: &str| match serde_json::from_str::<Record>(line).expect("a record").event {
        Event::DrainEnded { epoch, .. } => epoch,
        other => panic!("{other:?}"),
    };
    text.lines().map(epoch).collect()
}

/// The lines of a response, after its head.
async fn follow(agent: &Agent, query: &str) -> BufReader<UnixStream> {
    let mut stream = UnixStream::connect(agent.socket()).await.unwrap();
    let request = format!("GET /v1/events?follow=true{query} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut lines = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        lines.read_line(&mut head).await.unwrap();
    }
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/x-ndjson"), "{head}");
    lines
}

/// The next record of a chunked body.
async fn next(lines: &mut BufReader<UnixStream>) -> Record {
    loop {
        let mut line = String::new();
        let read = timeout(Duration::from_secs(5), lines.read_line(&mut line)).await;
        assert!(read.expect("an event in time").unwrap() > 0, "the stream has ended");
        if line.starts_with('{') {
            return serde_json::from_str(&line).unwrap();
        }
    }
}

#[tokio::test]
async fn recent_events_are_lines_of_json() {
    let directory = TempDir::new();
    let (agent, ring) = agent(&directory);
    (0..3).for_each(|epoch| ring.emit(drained("orders", epoch)));
    ring.emit(drained("carts", 3));
    let (head, body) = curl(&agent, "GET", "/v1/events").await;
    assert!(head.contains("application/x-ndjson"), "{head}");
    assert_eq!(epochs(&body), [0, 1, 2, 3]);
    assert_eq!(epochs(&curl(&agent, "GET", "/v1/events?service=orders&since=1h").await.1), [0, 1, 2]);
    assert_eq!(curl(&agent, "GET", "/v1/events?since=2999-01-01T00:00:00Z").await.1, "");
    for (query, code) in [("since=soon", "400"), ("what=1", "400"), ("service=cart", "404")] {
        let (head, body) = curl(&agent, "GET", &format!("/v1/events?{query}")).await;
        assert!(head.starts_with(&format!("http/1.1 {code}")) && body.contains("\"next\""), "{head}{body}");
    }
    assert!(curl(&agent, "POST", "/v1/events").await.0.starts_with("http/1.1 405"));
}

/// More than are sent together, and no word about how they are.
#[tokio::test]
async fn many_recent_events_come_whole_and_in_order() {
    let directory = TempDir::new();
    let (agent, ring) = agent(&directory);
    (0..1000).for_each(|epoch| ring.emit(drained("orders", epoch)));
    let (head, body) = curl(&agent, "GET", "/v1/events").await;
    assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
    assert_eq!(epochs(&body), (0..1000).collect::<Vec<_>>());
    let mut follower = follow(&agent, "&since=1h").await;
    for epoch in 0..1000 {
        assert_eq!(next(&mut follower).await.event, drained("orders", epoch));
    }
}

#[tokio::test]
async fn the_verb_shows_lines_for_people_and_for_scripts() {
    let directory = TempDir::new();
    let (agent, ring) = agent(&directory);
    ring.emit(drained("orders", 7));
    let run = async |args: EventsArgs| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = events::run(agent.socket(), &args, &mut out, &mut err).await;
        (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    };
    let (exit, out, err) = run(EventsArgs { output: Output::Json, ..Default::default() }).await;
    assert_eq!((exit, err.as_str(), epochs(&out)), (Exit::Done, "", vec![7]));
    let (exit, out, _) = run(EventsArgs::default()).await;
    assert!(exit == Exit::Done && out.contains("drain_ended") && out.contains("epoch 7"), "{out}");
    let (exit, out, err) = run(EventsArgs { service: Some("cart".into()), ..Default::default() }).await;
    assert_eq!(
        (exit, out.as_str(), err.as_str()),
        (Exit::Failed, "", "error: no such service; check the name\n")
    );
    let nobody = TempDir::new();
    let exit =
        events::run(&socket_in(&nobody), &EventsArgs::default(), &mut Vec::new(), &mut Vec::new()).await;
    assert_eq!(exit, Exit::NotRunning);
}

/// What a follower waits for comes at once, and goes on coming after the time that other requests have.
#[tokio::test]
async fn a_follower_stays_as_long_as_it_likes() {
    let directory = TempDir::new();
    let (agent, ring) = agent(&directory);
    ring.emit(drained("orders", 0));
    let mut all = follow(&agent, "&since=1h").await;
    let mut new = follow(&agent, "&service=orders").await;
    assert_eq!(next(&mut all).await.sequence, 1);
    for epoch in 1..4 {
        let start = Instant::now();
        ring.emit(drained("carts", epoch));
        assert_eq!(next(&mut all).await.event, drained("carts", epoch));
        assert!(start.elapsed() < Duration::from_millis(50), "after {:?}", start.elapsed());
    }
    ring.emit(drained("orders", 4));
    assert_eq!(next(&mut new).await.event, drained("orders", 4));
    tokio::time::sleep(redirector::control::server::CLIENT_TIME + Duration::from_secs(1)).await;
    ring.emit(drained("orders", 5));
    assert_eq!(next(&mut new).await.event, drained("orders", 5));
}

/// One that does not read is told what it lost, and the agent never waits for it.
#[tokio::test]
async fn a_follower_that_does_not_read_holds_nobody_up() {
    let directory = TempDir::new();
    let (agent, ring) = agent(&directory);
    let mut slow = follow(&agent, "").await;
    let (mut last, mut longest) = (0, Duration::ZERO);
    for epoch in 0..20_000 {
        let start = Instant::now();
        ring.emit(drained(&"x".repeat(60), epoch));
        longest = longest.max(start.elapsed());
        if epoch % 100 == 0 {
            // The server has its turns too.
            tokio::task::yield_now().await;
        }
    }
    assert!(longest < Duration::from_millis(100), "an event took {longest:?}");
    let mut lost = 0;
    while last < 20_000 {
        let record = next(&mut slow).await;
        if let Event::Lost { events } = record.event {
            assert_eq!(record.sequence, last + events);
            lost += events;
        } else {
            assert_eq!(record.sequence, last + 1);
        }
        last = record.sequence;
    }
    assert!(lost > 1000, "{lost}");
    assert_eq!(ring.lost()[0], ("follower", lost));
}

#[tokio::test]
async fn followers_are_bounded_and_their_places_come_back() {
    let directory = TempDir::new();
    let (agent, ring) = agent(&directory);
    let mut followers = Vec::new();
    for _ in 0..MAX_FOLLOWERS {
        followers.push(follow(&agent, "").await);
    }
    let (head, body) = curl(&agent, "GET", "/v1/events?follow=true").await;
    assert!(head.starts_with("http/1.1 503") && body.contains("others follow"), "{head}{body}");
    // Others are served.
    ring.emit(drained("orders", 1));
    assert_eq!(epochs(&curl(&agent, "GET", "/v1/events").await.1), [1]);
    followers.pop();
    let start = Instant::now();
    loop {
        let mut stream = UnixStream::connect(agent.socket()).await.unwrap();
        stream.write_all(b"GET /v1/events?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        if &head == b"HTTP/1.1 200" {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "the place of one that went is not free");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The command says that the agent is gone, and does not wait for it.
#[tokio::test]
async fn following_ends_with_the_agent() {
    let directory = TempDir::new();
    let (agent, ring) = agent(&directory);
    ring.emit(drained("orders", 7));
    let socket = agent.socket().to_owned();
    let out = Arc::new(Mutex::new(Vec::new()));
    let args = EventsArgs { follow: true, since: Some("1h".parse().unwrap()), ..Default::default() };
    let mut err = Vec::new();
    let mut shared = Shared(Arc::clone(&out));
    let followed = events::run(&socket, &args, &mut shared, &mut err);
    let stopped = async {
        let start = Instant::now();
        while out.lock().unwrap().is_empty() {
            assert!(start.elapsed() < Duration::from_secs(5), "no event");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(agent);
    };
    let (exit, ()) =
        timeout(Duration::from_secs(10), async { tokio::join!(followed, stopped) }).await.unwrap();
    let err = String::from_utf8(err).unwrap();
    assert!(exit == Exit::Failed && err.contains("the agent has ended"), "{exit:?} {err}");
}

/// An output that others can look at.
struct Shared(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        std::io::Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
