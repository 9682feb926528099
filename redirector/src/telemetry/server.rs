//! The listener of `metrics_listen`: HTTP over TCP, for Prometheus and for whatever asks whether the agent is well.
//!
//! | request | answer |
//! |---|---|
//! | `GET /metrics` | all metrics ([`super::exposition`]); of scrapes within [`FRESH`] of each other the second gets what the first got |
//! | `GET /healthz` | 200 while the agent's loop comes round within [`LOOP_TIME`]; else 503 |
//! | `GET /readyz` | 200 while every service has an active member; else 503 with those that have none |
//!
//! It knows nothing of the agent but a channel. Whoever asks too much waits, and costs the agent's loop nothing: one scrape at
//! a time, [`MAX_CLIENTS`] connections, each with one request, a head of a limited length and a limited time.

#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener as StdListener, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use http_body_util::Full;
use hyper::{
    Method, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::exposition;

/// How long what was scraped serves others too: a scrape reads the whole flow table.
pub const FRESH: Duration = Duration::from_millis(500);

/// How long the agent's loop may take to come round.
pub const LOOP_TIME: Duration = Duration::from_secs(1);

/// How long a client waits for metrics at most, the scrapes of others before its own included: Prometheus gives up after 10 s.
const SCRAPE_TIME: Duration = Duration::from_secs(8);

/// How long a connection may last, from accept to the last byte of the answer.
const CLIENT_TIME: Duration = Duration::from_secs(20);

/// How long a client may take to send its request.
const REQUEST_TIME: Duration = Duration::from_secs(2);

/// The longest head of a request, in bytes. A longer one is refused (431), and nobody holds more of the agent's memory.
const LONGEST_HEAD: usize = 16 * 1024;

/// Connections at a time: the probes need file descriptors too.
const MAX_CLIENTS: usize = 16;

/// What to do about an address that cannot be listened on.
const NEXT: &str = "change metrics_listen in [agent], or remove it";

/// What the agent's loop is asked. Dropping a `reply` tells the client that it cannot be answered.
#[derive(Debug)]
pub enum Ask {
    /// Whether the loop comes round.
    Alive {
        /// Where to.
        reply: oneshot::Sender<()>,
    },
    /// The services without an active member.
    Ready {
        /// Where to.
        reply: oneshot::Sender<Vec<String>>,
    },
    /// All metrics as text.
    Scrape {
        /// Dropped when the work has ended, and no sooner: a client that leaves ends the wait for it only.
        turn: OwnedSemaphorePermit,
        /// Where to.
        reply: oneshot::Sender<String>,
    },
}

/// Listens.
///
/// # Errors
/// The address is not one of this host, or somebody else's.
///
/// # Panics
/// Outside a tokio runtime.
pub fn bind(address: SocketAddr) -> Result<TcpListener> {
    let listen = || {
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    listen().map_err(|error: io::Error| {
        let port = address.port();
        match error.kind() {
            io::ErrorKind::AddrInUse => anyhow!(
                "metrics_listen {address}: another program listens there (`ss -ltnp sport = :{port}` names it); stop that \
                 one, or {NEXT}"
            ),
            io::ErrorKind::AddrNotAvailable => foreign(address),
            _ => anyhow!("metrics_listen {address}: cannot listen ({error}); {NEXT}"),
        }
    })
}

/// Refuses an address that [`bind`] would refuse because it is none of this host. The kernel is asked, which has settings for
/// that (`ip_nonlocal_bind`), by a socket that nobody hears of.
///
/// # Errors
/// The address is not one of this host.
pub fn refuse_foreign_address(mut address: SocketAddr) -> Result<()> {
    let wanted = address;
    address.set_port(0);
    match UdpSocket::bind(address) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Err(foreign(wanted)),
        _ => Ok(()),
    }
}

fn foreign(address: SocketAddr) -> anyhow::Error {
    anyhow!("metrics_listen {address}: this host does not have that address; {NEXT}")
}

/// Serves until it is dropped; that ends all connections.
pub async fn serve(listener: TcpListener, agent: mpsc::Sender<Ask>) {
    let mut clients = JoinSet::new();
    let agent = Agent::new(agent, SCRAPE_TIME);
    loop {
        tokio::select! {
            Some(_) = clients.join_next() => {}
            accepted = listener.accept(), if clients.len() < MAX_CLIENTS => match accepted {
                Ok((stream, _)) => {
                    clients.spawn(timeout(CLIENT_TIME, client(stream, agent.clone())));
                }
                // Out of file descriptors, most likely: they come back as others close.
                Err(error) => {
                    tracing::warn!(%error, "metrics: cannot accept");
                    sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

/// The way to the agent's loop.
#[derive(Clone)]
struct Agent {
    asks: mpsc::Sender<Ask>,
    /// The newest scrape and when it was made. Held while one is made.
    scraped: Arc<Mutex<Option<(Instant, Bytes)>>>,
    /// Whose scrape is being made, also when nobody waits for it any more.
    turn: Arc<Semaphore>,
    /// [`SCRAPE_TIME`]
    scrape_time: Duration,
}

impl Agent {
    fn new(asks: mpsc::Sender<Ask>, scrape_time: Duration) -> Self {
        Self { asks, scraped: Arc::default(), turn: Arc::new(Semaphore::new(1)), scrape_time }
    }
}

/// One connection, one request.
async fn client(stream: TcpStream, agent: Agent) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let agent = agent.clone();
        async move { Ok::<_, Infallible>(route(request.method(), request.uri().path(), &agent).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIME)
        .max_buf_size(LONGEST_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        // Its own trouble: it sent garbage or went away.
        tracing::debug!(%error, "metrics: client");
    }
}

async fn route(method: &Method, path: &str, agent: &Agent) -> Response<Full<Bytes>> {
    if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
        let text = format!("there is nothing at {path}; ask for /metrics, /healthz or /readyz\n");
        return plain(StatusCode::NOT_FOUND, text);
    }
    if method != Method::GET {
        let mut response =
            plain(StatusCode::METHOD_NOT_ALLOWED, format!("{path} does not take {method}; use GET\n"));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    match path {
        "/metrics" => metrics(agent).await,
        "/healthz" => healthz(agent).await,
        _ => readyz(agent).await,
    }
}

async fn metrics(agent: &Agent) -> Response<Full<Bytes>> {
    let text = match within(agent.scrape_time, scraped(agent)).await {
        Ok(text) => text,
        Err(why) => return why,
    };
    let mut response = Response::new(Full::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(exposition::CONTENT_TYPE));
    response
}

/// What somebody has just scraped, or what is scraped now.
async fn scraped(agent: &Agent) -> Result<Bytes, Response<Full<Bytes>>> {
    let mut scraped = agent.scraped.lock().await;
    if let Some((at, text)) = &*scraped
        && at.elapsed() < FRESH
    {
        return Ok(text.clone());
    }
    // Nobody closes the semaphore.
    let turn = Arc::clone(&agent.turn).acquire_owned().await.map_err(|_| stopping())?;
    let text = ask(agent, |reply| Ask::Scrape { turn, reply }).await?;
    Ok(scraped.insert((Instant::now(), text.into())).1.clone())
}

async fn healthz(agent: &Agent) -> Response<Full<Bytes>> {
    match within(LOOP_TIME, ask(agent, |reply| Ask::Alive { reply })).await {
        Ok(()) => plain(StatusCode::OK, "ok\n".into()),
        Err(why) => why,
    }
}

async fn readyz(agent: &Agent) -> Response<Full<Bytes>> {
    match within(LOOP_TIME, ask(agent, |reply| Ask::Ready { reply })).await {
        Ok(without) if without.is_empty() => plain(StatusCode::OK, "ok\n".into()),
        Ok(without) => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("no active member: {}; see `redirector status`\n", without.join(", ")),
        ),
        Err(why) => why,
    }
}

/// Puts a question to the agent's loop.
async fn ask<T>(
    agent: &Agent,
    question: impl FnOnce(oneshot::Sender<T>) -> Ask,
) -> Result<T, Response<Full<Bytes>>> {
    let (reply, answer) = oneshot::channel();
    let asked = async {
        agent.asks.send(question(reply)).await.ok()?;
        answer.await.ok()
    };
    asked.await.ok_or_else(stopping)
}

fn stopping() -> Response<Full<Bytes>> {
    let text = "the agent is stopping, or cannot read its maps; look at its log\n";
    plain(StatusCode::SERVICE_UNAVAILABLE, text.into())
}

/// All of the wait for an answer, not each of its steps.
async fn within<T>(
    longest: Duration,
    answer: impl Future<Output = Result<T, Response<Full<Bytes>>>>,
) -> Result<T, Response<Full<Bytes>>> {
    match timeout(longest, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(late(longest)),
    }
}

fn late(within: Duration) -> Response<Full<Bytes>> {
    let within = humantime::format_duration(within);
    let text = format!("the agent gave no answer within {within}; look at its log\n");
    plain(StatusCode::SERVICE_UNAVAILABLE, text)
}

fn plain(code: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
