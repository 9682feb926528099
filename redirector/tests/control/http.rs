//! Requests and their answers.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use redirector::control::{
    ErrorDocument,
    client::{self, ClientError},
    server::{CLIENT_TIME, Place, Request},
    status::{ServiceState, Status, VERSION},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::timeout,
};

use crate::{Agent, service, socket_in, status_of, temp::TempDir, two_services};

/// What `curl -i -X METHOD` shows: the head and the body.
pub async fn curl(agent: &Agent, method: &str, path: &str) -> (String, String) {
    let mut stream = UnixStream::connect(agent.socket()).await.expect("the agent listens");
    let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers in UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.to_ascii_lowercase(), body.to_owned())
}

/// Code and error document.
async fn refused(agent: &Agent, method: &str, path: &str) -> (String, ErrorDocument) {
    let (head, body) = curl(agent, method, path).await;
    let code = head.split_whitespace().nth(1).expect("a status line").to_owned();
    let document: ErrorDocument = serde_json::from_str(&body).expect("an error document");
    assert!(!document.error.next.is_empty());
    assert_eq!(document.version, VERSION);
    (code, document)
}

fn names(status: &Status) -> Vec<&str> {
    status.services.iter().map(|service| service.name.as_str()).collect()
}

#[tokio::test]
async fn all_services_or_one() {
    let agent = Agent::start(two_services());
    let status = client::status(agent.socket(), None).await.unwrap();
    assert_eq!(status, status_of(two_services()));
    let status = client::status(agent.socket(), Some("carts")).await.unwrap();
    assert_eq!(names(&status), ["carts"]);
}

#[tokio::test]
async fn any_http_client_will_do() {
    let agent = Agent::start(two_services());
    let (head, body) = curl(&agent, "GET", "/v1/status").await;
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
    assert!(head.contains("\r\ncontent-type: application/json"), "{head}");
    let status: Status = serde_json::from_str(&body).unwrap();
    assert_eq!(names(&status), ["orders", "carts"]);
}

#[tokio::test]
async fn an_unknown_service_is_told_the_known_ones() {
    let agent = Agent::start(two_services());
    let (code, document) = refused(&agent, "GET", "/v1/status/order").await;
    assert_eq!(code, "404");
    assert_eq!(document.error.message, "there is no service \"order\"; there is \"orders\", \"carts\"");
    let error = client::status(agent.socket(), Some("order")).await.unwrap_err();
    assert_eq!(error, ClientError::Failed { message: document.error.message, next: document.error.next });
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let agent = Agent::start(two_services());
    for path in ["/", "/v1", "/v1/statusorders", "/v1/status/", "/v2/status"] {
        let (code, document) = refused(&agent, "GET", path).await;
        assert_eq!((code.as_str(), document.error.message), ("404", format!("there is nothing at {path}")));
    }
    for method in ["POST", "DELETE", "BREW"] {
        assert_eq!(refused(&agent, method, "/v1/status/orders").await.0, "405");
    }
    let (head, _) = curl(&agent, "PUT", "/v1/status").await;
    assert!(head.contains("\r\nallow: get"), "{head}");
}

#[tokio::test]
async fn a_client_that_hangs_or_sends_garbage_is_alone_with_it() {
    let agent = Agent::start(two_services());
    let mut silent = UnixStream::connect(agent.socket()).await.unwrap();
    let mut slow = UnixStream::connect(agent.socket()).await.unwrap();
    slow.write_all(b"GET /v1/status HTTP/1.1\r\nHost: loc").await.unwrap();
    let mut garbage = UnixStream::connect(agent.socket()).await.unwrap();
    garbage.write_all(b"\x16\x03\x01\x00\xff*1\r\n$4\r\nPING\r\n\r\n").await.unwrap();
    let started = Instant::now();
    for _ in 0..100 {
        client::status(agent.socket(), None).await.unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    // Each of them is got rid of; the last sentence may be an HTTP error.
    for stream in [&mut garbage, &mut slow, &mut silent] {
        let mut answer = Vec::new();
        timeout(Duration::from_secs(8), stream.read_to_end(&mut answer)).await.expect("closed").unwrap();
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    }
}

/// Used to be kept, up to 400 KB of each.
#[tokio::test]
async fn a_head_without_an_end_is_refused() {
    let agent = Agent::start(two_services());
    let mut stream = UnixStream::connect(agent.socket()).await.unwrap();
    stream.write_all(b"GET /v1/status?").await.unwrap();
    // The agent closes before it has read much; what lies in the socket (some 100 KB) it has not.
    let mut sent = 0;
    let more = [b'a'; 1024];
    while sent < 1024 && timeout(Duration::from_secs(5), stream.write_all(&more)).await.unwrap().is_ok() {
        sent += 1;
    }
    assert!(sent < 300, "it reads {sent} KB");
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    client::status(agent.socket(), None).await.unwrap();
}

/// It asks for everything, and reads nothing: it is left to itself, and the others are served.
#[tokio::test]
async fn clients_that_do_not_read_are_alone_with_it() {
    let name = |number| format!("orders-{number}");
    let many: Vec<_> = (0..5000).map(|number| service(&name(number), ServiceState::Ok)).collect();
    let agent = Agent::start(many);
    let mut deaf = Vec::new();
    for _ in 0..32 {
        let mut stream = UnixStream::connect(agent.socket()).await.unwrap();
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        deaf.push(stream);
    }
    let status = client::status(agent.socket(), Some("orders-7")).await.unwrap();
    assert_eq!(names(&status), ["orders-7"]);
    // Their time ends, in the middle of the answer.
    tokio::time::sleep(CLIENT_TIME + Duration::from_secs(1)).await;
    for mut stream in deaf {
        let mut answer = Vec::new();
        let read = timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "the connection is still there");
        assert!(answer.len() < 1_000_000, "{} bytes", answer.len());
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_harms_nobody() {
    let agent = Agent::start(two_services());
    for _ in 0..200 {
        let mut stream = UnixStream::connect(agent.socket()).await.unwrap();
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    }
    client::status(agent.socket(), None).await.unwrap();
}

/// Whoever asks for counts and leaves, again and again, used to have as many of them made at a time as there were clients:
/// an agent goes on counting for nobody.
#[tokio::test]
async fn clients_that_leave_do_not_have_more_counted_at_a_time() {
    let counted: Arc<Mutex<Vec<Place>>> = Arc::default();
    let listed: Arc<Mutex<Vec<Place>>> = Arc::default();
    let (counts, lists) = (Arc::clone(&counted), Arc::clone(&listed));
    let agent = Agent::start_with(move |request| match request {
        Request::Status { place, .. } | Request::Totals { place, .. } => counts.lock().unwrap().push(place),
        Request::Flows { place, .. } => lists.lock().unwrap().push(place),
        other => panic!("{other:?}"),
    });
    for number in 0..60 {
        let path = ["/v1/status", "/v1/flows/totals", "/v1/flows"][number % 3];
        let mut stream = UnixStream::connect(agent.socket()).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // None of them became free within the time that one waits for it.
    let (code, document) = refused(&agent, "GET", "/v1/status").await;
    assert_eq!((code.as_str(), document.error.message.as_str()), ("503", "4 others count flows"));
    assert_eq!((counted.lock().unwrap().len(), listed.lock().unwrap().len()), (4, 4));
    counted.lock().unwrap().clear();
    refused(&agent, "GET", "/v1/status").await;
    assert_eq!(counted.lock().unwrap().len(), 1, "the places were not given back");
}

#[tokio::test]
async fn an_agent_that_stops_or_hangs_is_told_apart() {
    let stopping = Agent::start_with(drop);
    let error = client::status(stopping.socket(), None).await.unwrap_err();
    assert!(error.to_string().starts_with("the agent is stopping"), "{error}");

    let mut kept = Vec::new();
    let hanging = Agent::start_with(move |request| kept.push(request));
    let error = client::status(hanging.socket(), None).await.unwrap_err();
    assert!(error.to_string().starts_with("the agent's loop gave no answer"), "{error}");
}

#[tokio::test]
async fn whatever_else_answers_on_the_socket_is_a_clear_error() {
    let answers = [
        ("+PONG\r\n", "no proper answer"),
        ("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "no proper answer: 502"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "no proper answer: missing field"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 29\r\n\r\n{\"version\": 2,\"services\": []} ",
            "the agent speaks version 2, this command 1",
        ),
    ];
    for (answer, expected) in answers {
        let directory = TempDir::new();
        let socket = socket_in(&directory);
        std::fs::create_dir(socket.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        let (found, ()) = tokio::join!(client::status(&socket, None), server);
        let error = found.unwrap_err();
        assert!(
            matches!(error, ClientError::Failed { .. }) && error.to_string().contains(expected),
            "{error}"
        );
    }
}
