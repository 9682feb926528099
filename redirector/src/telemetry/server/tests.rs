//! The listener by itself: a task stands where the agent's loop is.

use std::net::Ipv4Addr;

use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

fn on_runtime<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

/// Waiting for another's scrape, for its end and for the answer took the longest time each: thrice 8 s, after which the
/// connection was cut without an answer.
#[test]
fn nobody_waits_longer_because_others_do() {
    const LONGEST: Duration = Duration::from_secs(1);

    on_runtime(async {
        let (asks, mut asked) = mpsc::channel(1);
        let agent = Agent::new(asks, LONGEST);
        let scrape = |after: Duration| {
            let agent = agent.clone();
            tokio::spawn(async move {
                sleep(after).await;
                let start = Instant::now();
                (metrics(&agent).await, start.elapsed())
            })
        };
        let clients = [0, 100, 200].map(|after| scrape(Duration::from_millis(after)));
        // A scrape that does not end.
        let Some(Ask::Scrape { turn, reply }) = asked.recv().await else { panic!("no scrape") };
        for client in clients {
            let (response, took) = client.await.unwrap();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!((LONGEST..LONGEST * 3 / 2).contains(&took), "{took:?}");
        }
        assert!(asked.try_recv().is_err(), "one at a time, and for nobody who has left");

        // Now it does.
        drop((turn, reply));
        let client = scrape(Duration::ZERO);
        let Some(Ask::Scrape { turn, reply }) = asked.recv().await else { panic!("no scrape") };
        reply.send("all is well".to_owned()).unwrap();
        drop(turn);
        let (response, _) = client.await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "all is well");
    });
}

#[test]
fn a_head_has_its_length() {
    on_runtime(async {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let (asks, mut asked) = mpsc::channel(1);
        tokio::spawn(serve(listener, asks));
        tokio::spawn(async move {
            while let Some(Ask::Alive { reply }) = asked.recv().await {
                reply.send(()).unwrap();
            }
        });
        for (length, code) in [(LONGEST_HEAD / 2, "200"), (LONGEST_HEAD, "431"), (LONGEST_HEAD * 8, "431")] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nlong: {}\r\n\r\n", "x".repeat(length));
            // The answer may come, and the connection end, before all of it is sent.
            let _unsent = stream.write_all(head.as_bytes()).await;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {code}"), "{length}");
        }
    });
}
