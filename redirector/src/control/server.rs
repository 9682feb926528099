//! The agent's side of the control socket.
//!
//! It knows nothing of the agent but a channel: each request that needs an answer from the agent becomes a
//! [`Request`], which the agent's loop answers when it comes round. A client that hangs costs one task for at most
//! [`CLIENT_TIME`], and nobody else's time. One that follows events may stay, and there are at most [`MAX_FOLLOWERS`] of
//! them.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    os::unix::net::{UnixListener as StdListener, UnixStream as StdStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};

use super::{
    ErrorDocument, ErrorText, events,
    flows::{Filter, Totals},
    status::{ServiceStatus, Status, VERSION},
};
use crate::telemetry::{Selection, Subscription};

/// How long a connection may last, from accept to the last byte of the answer.
pub const CLIENT_TIME: Duration = Duration::from_secs(10);

/// How long a client may take to send its request.
const REQUEST_TIME: Duration = Duration::from_secs(2);

/// How long the agent's loop may take to answer. It never blocks, so this is ample.
const AGENT_TIME: Duration = Duration::from_secs(3);

/// Connections at a time: everybody may connect, and the probes need file descriptors too.
const MAX_CLIENTS: usize = 64;

/// Answers at a time that need the whole flow table.
const MAX_READERS: usize = 4;

/// Clients at a time that follow events, without a limit on their time.
pub const MAX_FOLLOWERS: usize = 16;

/// Chunks of a list that may wait for the client to read them.
const CHUNKS: usize = 4;

/// An answer's body; some come in pieces.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What the agent's loop is asked. Dropping a `reply` tells the client that the agent is stopping.
#[derive(Debug)]
pub enum Request {
    /// The state of all services.
    Status {
        /// Where to.
        reply: oneshot::Sender<Status>,
    },
    /// Flows, as lines.
    Flows {
        /// Which ones.
        filter: Filter,
        /// At most so many.
        limit: u64,
        /// Where the lines go.
        lines: mpsc::Sender<Bytes>,
        /// Whether there is what the filter names.
        reply: oneshot::Sender<Result<(), ErrorText>>,
    },
    /// Events, recent ones and those that come.
    Events {
        /// Which ones.
        selection: Selection,
        /// The events, or that there is no such service.
        reply: oneshot::Sender<Result<Subscription, ErrorText>>,
    },
    /// How many flows there are.
    Totals {
        /// Which ones.
        filter: Filter,
        /// Where to.
        reply: oneshot::Sender<Result<Totals, ErrorText>>,
    },
}

/// The control socket, open and in the file system. Dropping it removes the file.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode: another agent may have replaced the file by the time of the drop.
    file: (u64, u64),
}

/// Opens the control socket at `path`, in mode 0666: everybody may read the status.
///
/// Makes the directory. Replaces the socket of an agent that is gone. The look at the old socket and its removal are
/// two steps, so of two agents that start in the same instant the caller must have stopped one already (they would
/// share the pin directory).
///
/// # Errors
///
/// Another agent answers on the socket; the path is something else than a socket; the file system says no.
///
/// # Panics
///
/// Outside a tokio runtime.
pub fn bind(path: &Path) -> Result<Listener> {
    let shown = path.display();
    let next = "run as root, or change control_socket in [agent]";
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(|error| {
            let why = match error.kind() {
                io::ErrorKind::AlreadyExists => format!("{} is not a directory", directory.display()),
                _ => error.to_string(),
            };
            anyhow!("control socket {shown}: its directory cannot be made ({why}); {next}")
        })?;
    }
    refuse_taken(path)?;
    remove_abandoned(path).map_err(|error| {
        anyhow!("control socket {shown}: the old one cannot be removed ({error}); {next}")
    })?;
    let socket = StdListener::bind(path).map_err(|error| {
        anyhow!(
            "control socket {shown}: cannot bind ({error}); check the path (at most 107 bytes) and its directory's mode"
        )
    })?;
    let file = identity(&fs::symlink_metadata(path)?);
    socket.set_nonblocking(true)?;
    let listener = Listener { socket: UnixListener::from_std(socket)?, path: path.to_owned(), file };
    let everybody = fs::Permissions::from_mode(0o666);
    fs::set_permissions(path, everybody)
        .with_context(|| format!("control socket {shown}: cannot set its mode"))?;
    Ok(listener)
}

/// Removes the socket that an agent left behind when it was killed. Whatever else is there stays.
///
/// # Errors
///
/// The file system says no.
pub fn remove_abandoned(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    match StdStream::connect(path) {
        Err(error) if is_socket && error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Ok(()),
    }
}

/// Refuses a path where something else than an abandoned socket is.
fn refuse_taken(path: &Path) -> Result<()> {
    let shown = path.display();
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(|error| {
            anyhow!("control socket {shown}: cannot look at it ({error}); change control_socket in [agent]")
        })?,
    };
    if !metadata.file_type().is_socket() {
        bail!(
            "control socket {shown}: there is something else than a socket; move it away or change control_socket in \
             [agent]"
        );
    }
    match StdStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => bail!(
            "control socket {shown}: cannot tell whether an agent uses it ({error}); run as root, or change \
             control_socket in [agent]"
        ),
        Ok(_) => bail!(
            "control socket {shown}: another agent answers on it; stop that one, or give this one its own \
             `control_socket`, `device` and `pin_dir`"
        ),
    }
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Drop for Listener {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| identity(&metadata) == self.file) {
            // Nothing depends on it: the next agent replaces a file that stays.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Serves until it is dropped; that ends all connections and removes the socket.
pub async fn serve(listener: Listener, agent: mpsc::Sender<Request>) {
    let mut clients = JoinSet::new();
    let agent = Agent {
        requests: agent,
        readers: Arc::new(Semaphore::new(MAX_READERS)),
        followers: Arc::new(Semaphore::new(MAX_FOLLOWERS)),
        follows: Arc::default(),
    };
    loop {
        tokio::select! {
            Some(_) = clients.join_next() => {}
            accepted = listener.socket.accept(), if clients.len() < MAX_CLIENTS => match accepted {
                Ok((stream, _)) => {
                    clients.spawn(limited(stream, agent.clone()));
                }
                // Out of file descriptors, most likely: they come back as others close.
                Err(error) => {
                    tracing::warn!(%error, "control socket: cannot accept");
                    sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

/// The way to the agent's loop.
#[derive(Clone)]
pub(super) struct Agent {
    requests: mpsc::Sender<Request>,
    /// One for each answer that needs the whole flow table.
    readers: Arc<Semaphore>,
    /// One for each client that follows events.
    pub(super) followers: Arc<Semaphore>,
    /// Whether this connection's client does.
    pub(super) follows: Arc<AtomicBool>,
}

/// One connection, for a limited time unless its client follows events.
async fn limited(stream: UnixStream, agent: Agent) {
    let follows = Arc::new(AtomicBool::new(false));
    let client = client(stream, Agent { follows: Arc::clone(&follows), ..agent });
    tokio::pin!(client);
    if timeout(CLIENT_TIME, &mut client).await.is_err() && follows.load(Ordering::Relaxed) {
        client.await;
    }
}

/// One connection, one request.
async fn client(stream: UnixStream, agent: Agent) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let agent = agent.clone();
        async move {
            let uri = request.uri();
            let answer = route(request.method(), uri.path(), uri.query().unwrap_or_default(), &agent).await;
            Ok::<_, Infallible>(answer.unwrap_or_else(Refusal::into_response))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIME)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        // Its own trouble: it sent garbage or went away.
        tracing::debug!(%error, "control socket: client");
    }
}

/// Finds out what is asked, and asks the agent.
async fn route(method: &Method, path: &str, query: &str, agent: &Agent) -> Result<Response<Body>, Refusal> {
    enum Asked<'a> {
        Status(Option<&'a str>),
        Flows,
        Totals,
        Events,
    }

    let asked = match (path, path.strip_prefix("/v1/status")) {
        ("/v1/flows", _) => Asked::Flows,
        ("/v1/flows/totals", _) => Asked::Totals,
        ("/v1/events", _) => Asked::Events,
        (_, Some("")) => Asked::Status(None),
        (_, Some(rest)) if rest.len() > 1 && rest.starts_with('/') => Asked::Status(Some(&rest[1..])),
        _ => return Err(Refusal::unknown_path(path)),
    };
    if method != Method::GET {
        return Err(Refusal::wrong_method(method, path));
    }
    match asked {
        Asked::Status(service) => {
            let mut status = ask(agent, |reply| Request::Status { reply }).await?;
            if let Some(name) = service {
                status = only(status, name)?;
            }
            Ok(json(StatusCode::OK, &status))
        }
        Asked::Flows => flows(query, agent).await,
        Asked::Events => events::answer(query, agent).await,
        Asked::Totals => {
            let filter = Filter::from_query(query, |_, _| Ok(false)).map_err(Refusal::wrong_query)?;
            let _alone = reader(agent).await?;
            let totals = ask(agent, |reply| Request::Totals { filter, reply }).await?;
            Ok(json(StatusCode::OK, &totals.map_err(Refusal::unknown_name)?))
        }
    }
}

/// The lines of a list, as the agent writes them: it waits for the client, and holds a few chunks at most.
async fn flows(query: &str, agent: &Agent) -> Result<Response<Body>, Refusal> {
    let mut limit = u64::MAX;
    let filter = Filter::from_query(query, |key, value| {
        if key == "limit" {
            limit = value.parse().map_err(|_| format!("limit={value} is no number"))?;
        }
        Ok(key == "limit")
    });
    let filter = filter.map_err(Refusal::wrong_query)?;
    let permit = reader(agent).await?;
    let (lines, chunks) = mpsc::channel(CHUNKS);
    ask(agent, |reply| Request::Flows { filter, limit, lines, reply })
        .await?
        .map_err(Refusal::unknown_name)?;
    let frames = ReceiverStream::new(chunks).map(move |chunk| {
        // It is given back when the last chunk is gone.
        let _reading = &permit;
        Ok(Frame::data(chunk))
    });
    Ok(lines_of_json(StreamBody::new(frames).boxed_unsync()))
}

/// An answer with a document on each line.
pub(super) fn lines_of_json(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}

/// The right to have the whole flow table read.
async fn reader(agent: &Agent) -> Result<OwnedSemaphorePermit, Refusal> {
    let permit = timeout(AGENT_TIME, Arc::clone(&agent.readers).acquire_owned()).await;
    permit.map_err(|_| Refusal::crowded())?.map_err(|_| Refusal::stopping())
}

/// The status of one service.
fn only(mut status: Status, name: &str) -> Result<Status, Refusal> {
    if !status.services.iter().any(|service| service.name == name) {
        return Err(Refusal::unknown_service(name, &status.services));
    }
    status.services.retain(|service| service.name == name);
    Ok(status)
}

/// Puts a request to the agent's loop.
pub(super) async fn ask<T>(
    agent: &Agent,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Result<T, Refusal> {
    let (reply, answer) = oneshot::channel();
    timeout(AGENT_TIME, async {
        agent.requests.send(request(reply)).await.map_err(|_| Refusal::stopping())?;
        answer.await.map_err(|_| Refusal::stopping())
    })
    .await
    .unwrap_or_else(|_| Err(Refusal::busy()))
}

fn json(code: StatusCode, document: &impl Serialize) -> Response<Body> {
    // The documents are structs of strings and numbers: neither a key nor a value that JSON lacks.
    let mut text = serde_json::to_vec(document).expect("a document without maps serializes");
    text.push(b'\n');
    let mut response = Response::new(Full::from(text).boxed_unsync());
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A request that is not served, and why.
pub(super) struct Refusal {
    code: StatusCode,
    message: String,
    next: String,
}

impl Refusal {
    pub(super) fn new(code: StatusCode, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { code, message: message.into(), next: next.into() }
    }

    fn unknown_path(path: &str) -> Self {
        let message = format!("there is nothing at {path}");
        Self::new(
            StatusCode::NOT_FOUND,
            message,
            "ask for /v1/status, /v1/status/SERVICE, /v1/flows, /v1/flows/totals or /v1/events",
        )
    }

    fn wrong_method(method: &Method, path: &str) -> Self {
        let message = format!("{path} does not take {method}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, message, "use GET")
    }

    fn unknown_service(name: &str, services: &[ServiceStatus]) -> Self {
        let known: Vec<_> = services.iter().map(|service| format!("\"{}\"", service.name)).collect();
        let message = format!("there is no service \"{name}\"; there is {}", known.join(", "));
        Self::new(StatusCode::NOT_FOUND, message, "check the name, or leave it out to see all services")
    }

    pub(super) fn unknown_name(error: ErrorText) -> Self {
        Self::new(StatusCode::NOT_FOUND, error.message, error.next)
    }

    fn wrong_query(message: String) -> Self {
        let next = "use service, member, client, state, idle_over_ms, stale, and limit for lists";
        Self::new(StatusCode::BAD_REQUEST, message, next)
    }

    fn crowded() -> Self {
        let message = format!("{MAX_READERS} others are reading flows");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message, "repeat")
    }

    fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping", "start it again and repeat")
    }

    fn busy() -> Self {
        let message = format!("the agent's loop gave no answer within {} s", AGENT_TIME.as_secs());
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message, "repeat, and look at the agent's log")
    }

    fn into_response(self) -> Response<Body> {
        let error = ErrorText { message: self.message, next: self.next };
        let mut response = json(self.code, &ErrorDocument { version: VERSION, error });
        if self.code == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        }
        response
    }
}
