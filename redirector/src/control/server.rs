//! The agent's side of the control socket.
//!
//! It knows nothing of the agent but a channel: each request that needs an answer from the agent becomes a
//! [`Request`], which the agent's loop answers when it comes round. A client that hangs costs one task for at most
//! [`CLIENT_TIME`], and nobody else's time. Those who may operate have places of their own (`places`): whoever may only
//! read cannot keep them out. One that follows events may stay, and there are at most [`MAX_FOLLOWERS`] of each sort.

mod limit;
mod listener;
mod operate;
mod places;
mod refusal;
mod reload;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};

pub(super) use self::refusal::Refusal;
use self::{
    limit::Limit,
    operate::{Denials, Path as OperatorPath},
    places::{AllPlaces, MAX_COUNTS, MAX_LISTS, Places},
    reload::Path as ReloadPath,
};
pub use self::{
    listener::{Listener, bind, remove_abandoned},
    places::{MAX_FOLLOWERS, Place},
};
use super::{
    ErrorText,
    access::{Access, Peer, Who},
    events,
    explain::Explained,
    flows::{Filter, Totals},
    operator::{Answer, Asked, Operation, Refused},
    reload::{Asked as ReloadAsked, Reloaded},
    status::Status,
};
use crate::telemetry::{Selection, Subscription};

/// How long a connection may last, from accept to the last byte of the answer; one with a request for a change a
/// little longer than [`OPERATOR_TIME`].
pub const CLIENT_TIME: Duration = Duration::from_secs(10);

/// How long a client may take to send its request.
const REQUEST_TIME: Duration = Duration::from_secs(2);

/// How long the agent's loop may take to answer. It never blocks, so this is ample.
const AGENT_TIME: Duration = Duration::from_secs(3);

/// How long the agent may take to answer a request for a change: a switch may ask the checks first.
pub const OPERATOR_TIME: Duration = Duration::from_secs(40);

/// How long a reload may take: names are looked up, as slowly as the host's resolver does, and one waits for another.
pub const RELOAD_TIME: Duration = Duration::from_secs(120);

/// How long a client that is turned away may take to ask.
const DOOR_TIME: Duration = Duration::from_millis(200);

/// The longest head of a request, in bytes. A longer one is refused (431), and nobody holds more of the agent's memory.
const LONGEST_HEAD: usize = 16 * 1024;

/// Chunks of a list that may wait for the client to read them.
const CHUNKS: usize = 4;

/// An answer's body; some come in pieces.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What the agent's loop is asked. Dropping a `reply` tells the client that the agent is stopping.
///
/// What costs much has a `place`, which whoever works the answer out drops at its end and no sooner: a client that leaves
/// ends the wait for the answer, and not the work.
#[derive(Debug)]
pub enum Request {
    /// The state of all services.
    Status {
        /// Among those who count.
        place: Place,
        /// Where to.
        reply: oneshot::Sender<Status>,
    },
    /// Flows, as lines.
    Flows {
        /// Which ones.
        filter: Filter,
        /// At most so many.
        limit: u64,
        /// Among those who list.
        place: Place,
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
        /// Among those who count.
        place: Place,
        /// Where to.
        reply: oneshot::Sender<Result<Totals, ErrorText>>,
    },
    /// Why a service is as it is.
    Explain {
        /// Its name.
        service: String,
        /// Where to.
        reply: oneshot::Sender<Result<Explained, ErrorText>>,
    },
    /// A change of a service, by somebody who may.
    Operate {
        /// Name of the service.
        service: String,
        /// What is to be done.
        asked: Asked,
        /// Who asks.
        who: Who,
        /// Where to. It may take as long as [`OPERATOR_TIME`].
        reply: oneshot::Sender<Result<Answer, Refused>>,
    },
    /// Another configuration, by somebody who may.
    Reload {
        /// Which one.
        asked: ReloadAsked,
        /// Who asks.
        who: Who,
        /// Where to. It may take as long as [`RELOAD_TIME`].
        reply: oneshot::Sender<Result<Reloaded, Refused>>,
    },
    /// A change was asked for by somebody who may not: for the record.
    Denied(Operation),
}

/// Serves until it is dropped; that ends all connections and removes the socket.
pub async fn serve(listener: Listener, access: Access, agent: mpsc::Sender<Request>) {
    let mut clients = JoinSet::new();
    let access = Arc::new(access);
    let (places, denials) = (AllPlaces::default(), Arc::default());
    loop {
        tokio::select! {
            Some(_) = clients.join_next() => {}
            // Without a place for an operator everybody waits: the next one may be one.
            accepted = listener.socket.accept(), if places.operators.has_room() => match accepted {
                Ok((stream, _)) => {
                    let Some(peer) = peer(&stream, &access) else { continue };
                    let theirs = places.of(access.may_operate(&peer));
                    let Some(place) = theirs.connection() else {
                        let place = places.turned_away();
                        clients.spawn(turn_away(stream, place));
                        continue;
                    };
                    let agent = Agent {
                        requests: agent.clone(),
                        places: theirs.clone(),
                        limit: Limit::new(CLIENT_TIME),
                        denials: Arc::clone(&denials),
                        access: Arc::clone(&access),
                    };
                    clients.spawn(async move {
                        client(stream, peer, agent).await;
                        drop(place);
                    });
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

/// Who connected; `None`: the kernel does not say who it is.
fn peer(stream: &UnixStream, access: &Access) -> Option<Peer> {
    access.peer(stream).inspect_err(|error| tracing::debug!(%error, "control socket: peer")).ok()
}

/// Turns a client away. With a place it has a moment to ask: an answer before that is none to most clients, and one that writes
/// to a closed connection hears of that only.
async fn turn_away(mut stream: UnixStream, place: Option<Place>) {
    const BODY: &str = "{\"version\":1,\"error\":{\"message\":\"too many connections of users who may only read\",\
                        \"next\":\"repeat\"}}\n";
    let length = BODY.len();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{BODY}"
    );
    if place.is_some() {
        let _asked = timeout(DOOR_TIME, stream.read(&mut [0; 1024])).await;
    }
    // A client that does not read it has gone, or never listened.
    let _unsaid = stream.try_write(answer.as_bytes());
    if place.is_some() {
        let rest = async {
            stream.shutdown().await?;
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
        };
        let _heard = timeout(DOOR_TIME, rest).await;
    }
}

/// The way to the agent's loop.
#[derive(Clone)]
pub(super) struct Agent {
    requests: mpsc::Sender<Request>,
    /// Of those who are at the other end of this connection.
    pub(super) places: Places,
    /// Of this connection.
    pub(super) limit: Limit,
    denials: Arc<Mutex<Denials>>,
    access: Arc<Access>,
}

/// One connection, one request.
async fn client(stream: UnixStream, peer: Peer, agent: Agent) {
    let limit = agent.limit.clone();
    let peer = Arc::new(peer);
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (agent, peer) = (agent.clone(), Arc::clone(&peer));
        async move {
            let answer = answer(request, &peer, &agent).await;
            Ok::<_, Infallible>(answer.unwrap_or_else(Refusal::into_response))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIME)
        .max_buf_size(LONGEST_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        served = served => if let Err(error) = served {
            // Its own trouble: it sent garbage or went away.
            tracing::debug!(%error, "control socket: client");
        },
        () = limit.reached() => {}
    }
}

/// Answers a request: those for a change have a body, and need more than a connection.
async fn answer(
    request: hyper::Request<Incoming>,
    peer: &Peer,
    agent: &Agent,
) -> Result<Response<Body>, Refusal> {
    let (head, body) = request.into_parts();
    let (method, path) = (&head.method, head.uri.path());
    if let Some(asked) = ReloadPath::read(method, path) {
        agent.limit.set(RELOAD_TIME + CLIENT_TIME);
        return asked.answer(body, peer, agent).await;
    }
    match OperatorPath::read(path) {
        Some(asked) if asked.takes(method) => {
            agent.limit.set(OPERATOR_TIME + CLIENT_TIME);
            asked.answer(body, peer, agent).await
        }
        Some(asked) => Err(Refusal::wrong_method(method, path, asked.method())),
        None => route(method, path, head.uri.query().unwrap_or_default(), agent).await,
    }
}

/// Finds out what is asked, and asks the agent.
async fn route(method: &Method, path: &str, query: &str, agent: &Agent) -> Result<Response<Body>, Refusal> {
    enum Asked<'a> {
        Status(Option<&'a str>),
        Flows,
        Totals,
        Explain(&'a str),
        Events,
    }

    let explained = path.strip_prefix("/v1/explain/").filter(|service| !service.is_empty());
    let asked = match (path, path.strip_prefix("/v1/status")) {
        ("/v1/flows", _) => Asked::Flows,
        ("/v1/flows/totals", _) => Asked::Totals,
        ("/v1/events", _) => Asked::Events,
        (_, Some("")) => Asked::Status(None),
        (_, Some(rest)) if rest.len() > 1 && rest.starts_with('/') => Asked::Status(Some(&rest[1..])),
        _ => match explained {
            Some(service) => Asked::Explain(service),
            None => return Err(Refusal::unknown_path(path)),
        },
    };
    if method != Method::GET {
        return Err(Refusal::wrong_method(method, path, "GET"));
    }
    match asked {
        Asked::Status(service) => {
            let place = count(agent).await?;
            let mut status = ask(agent, |reply| Request::Status { place, reply }).await?;
            if let Some(name) = service {
                status = only(status, name)?;
            }
            Ok(json(StatusCode::OK, &status))
        }
        Asked::Explain(name) => {
            let service = name.to_owned();
            let explained = ask(agent, |reply| Request::Explain { service, reply }).await?;
            Ok(json(StatusCode::OK, &explained.map_err(Refusal::unknown_name)?))
        }
        Asked::Flows => flows(query, agent).await,
        Asked::Events => events::answer(query, agent).await,
        Asked::Totals => {
            let filter = Filter::from_query(query, |_, _| Ok(false)).map_err(Refusal::wrong_query)?;
            let place = count(agent).await?;
            let totals = ask(agent, |reply| Request::Totals { filter, place, reply }).await?;
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
    let place = list(agent).await?;
    let (lines, chunks) = mpsc::channel(CHUNKS);
    let reading = Place::clone(&place);
    ask(agent, |reply| Request::Flows { filter, limit, place, lines, reply })
        .await?
        .map_err(Refusal::unknown_name)?;
    let frames = ReceiverStream::new(chunks).map(move |chunk| {
        // It is given back when the last chunk is gone, and the list ended.
        let _reading = &reading;
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

/// The right to read a list of flows.
async fn list(agent: &Agent) -> Result<Place, Refusal> {
    agent.places.list(AGENT_TIME).await.ok_or_else(|| Refusal::crowded(MAX_LISTS, "list"))
}

/// The right to have the whole flow table counted.
async fn count(agent: &Agent) -> Result<Place, Refusal> {
    agent.places.count(AGENT_TIME).await.ok_or_else(|| Refusal::crowded(MAX_COUNTS, "count"))
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
    ask_within(AGENT_TIME, agent, request).await
}

/// The same with another time limit.
async fn ask_within<T>(
    time: Duration,
    agent: &Agent,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Result<T, Refusal> {
    ask_or(time, agent, request, || Refusal::busy(time)).await
}

/// The same with other words for an answer that does not come in time.
async fn ask_or<T>(
    time: Duration,
    agent: &Agent,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
    late: impl FnOnce() -> Refusal,
) -> Result<T, Refusal> {
    let (reply, answer) = oneshot::channel();
    timeout(time, async {
        agent.requests.send(request(reply)).await.map_err(|_| Refusal::stopping())?;
        answer.await.map_err(|_| Refusal::stopping())
    })
    .await
    .unwrap_or_else(|_| Err(late()))
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
