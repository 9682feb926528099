//! The command line's side of the control socket.

use std::{
    error, fmt, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{net::UnixStream, time::timeout};

use super::{
    ErrorDocument,
    explain::Explained,
    flows::{Filter, FlowStatus, ListEnd, Totals},
    operator::{Answer, Asked},
    reload::{self, Reloaded, Wish},
    server::{OPERATOR_TIME, RELOAD_TIME},
    status::{Status, VERSION},
};
use crate::telemetry::Selection;

/// How long a request may take. The agent answers within milliseconds, or says within 3 s that it cannot.
const TIME: Duration = Duration::from_secs(5);

/// The same for a list, which may have many lines.
const LIST_TIME: Duration = Duration::from_secs(10);

/// The same for a change: a little longer than the agent takes at most.
const CHANGE_TIME: Duration = OPERATOR_TIME.saturating_add(TIME);
/// How long an agent may take to begin with the events.
const EVENTS_TIME: Duration = Duration::from_secs(5);

/// Longest line of an event.
const LONGEST_EVENT: usize = 1 << 20;

/// Longest answer; a member takes some 400 bytes.
const LONGEST_ANSWER: usize = 64 << 20;

/// Longest list; a flow takes some 300 bytes.
const LONGEST_LIST: usize = 2 << 30;

/// Why a request brought nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// Nobody listens on the socket.
    NotRunning {
        /// The socket that was tried.
        socket: PathBuf,
    },
    /// Anything else.
    Failed {
        /// What went wrong, and with what.
        message: String,
        /// What to do.
        next: String,
    },
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning { socket } => write!(
                f,
                "no agent answers on {}; start it with `redirector run --config FILE`, or name another socket \
                 with --socket",
                socket.display()
            ),
            Self::Failed { message, next } => write!(f, "{message}; {next}"),
        }
    }
}

impl error::Error for ClientError {}

impl ClientError {
    fn failed(message: impl Into<String>, next: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), next: next.into() }
    }

    fn connect(socket: &Path, error: &io::Error) -> Self {
        let shown = socket.display();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Self::NotRunning { socket: socket.to_owned() }
            }
            io::ErrorKind::PermissionDenied => Self::failed(
                format!("control socket {shown}: permission denied"),
                "become root, or ask who runs the agent for access to the socket and its directories",
            ),
            _ => Self::failed(
                format!("control socket {shown}: {error}"),
                "check --socket and REDIRECTOR_SOCKET",
            ),
        }
    }

    fn ended(socket: &Path, error: &dyn fmt::Display) -> Self {
        Self::failed(
            format!("control socket {}: the agent has ended ({error})", socket.display()),
            "look at its log, and follow again when it runs",
        )
    }

    fn broken(socket: &Path, error: &dyn fmt::Display) -> Self {
        Self::failed(
            format!("control socket {}: no proper answer: {error}", socket.display()),
            "check that a redirector agent of the same version listens there, and its log",
        )
    }
}

/// The state of all services, or of the one that is named.
///
/// # Errors
///
/// [`ClientError`]; an unknown service is [`ClientError::Failed`] in the agent's words.
pub async fn status(socket: &Path, service: Option<&str>) -> Result<Status, ClientError> {
    let path = service.map_or_else(|| "/v1/status".to_owned(), |name| format!("/v1/status/{name}"));
    let status: Status = get(socket, &path).await?;
    same_version(status.version)?;
    Ok(status)
}

/// Why a service is as it is.
///
/// # Errors
///
/// As [`status`].
pub async fn explain(socket: &Path, service: &str) -> Result<Explained, ClientError> {
    let explained: Explained = get(socket, &format!("/v1/explain/{service}")).await?;
    same_version(explained.version)?;
    Ok(explained)
}

/// How many flows there are of those that `filter` means.
///
/// # Errors
///
/// As [`status`].
pub async fn totals(socket: &Path, filter: &Filter) -> Result<Totals, ClientError> {
    let totals: Totals = get(socket, &format!("/v1/flows/totals?{}", filter.to_query())).await?;
    same_version(totals.version)?;
    Ok(totals)
}

/// A list of flows.
#[derive(Clone, Debug)]
pub struct FlowLines {
    text: String,
    /// How many flows match; the list may be shorter.
    pub matched: u64,
}

impl FlowLines {
    /// A JSON document for each flow.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.lines()
    }

    /// The flows.
    pub fn flows(&self) -> impl Iterator<Item = serde_json::Result<FlowStatus>> {
        self.lines().map(serde_json::from_str)
    }
}

/// The flows that `filter` means, at most `limit` of them.
///
/// # Errors
///
/// As [`status`].
pub async fn flows(socket: &Path, filter: &Filter, limit: u64) -> Result<FlowLines, ClientError> {
    let filter = filter.to_query();
    let path = format!("/v1/flows?limit={limit}{}{filter}", if filter.is_empty() { "" } else { "&" });
    let body = fetch(socket, Question::get(&path), LIST_TIME, LONGEST_LIST).await?;
    let broken = |error: &dyn fmt::Display| ClientError::broken(socket, error);
    let mut text = String::from_utf8(body.into()).map_err(|error| broken(&error))?;
    // The last line says that the list is whole.
    let start = text.trim_end().rfind('\n').map_or(0, |end| end + 1);
    let end: ListEnd = serde_json::from_str(&text[start..]).map_err(|_| broken(&"the list breaks off"))?;
    text.truncate(start);
    Ok(FlowLines { text, matched: end.matched })
}

/// Has a service changed, or is told what would happen.
///
/// # Errors
/// [`ClientError`]; what is refused is [`ClientError::Failed`] in the agent's words.
pub async fn operate(socket: &Path, service: &str, asked: &Asked) -> Result<Answer, ClientError> {
    let body = asked.to_body().map_err(|error| ClientError::broken(socket, &error))?;
    let path = format!("/v1/services/{service}/{}", asked.order.verb());
    let answer: Answer = post(socket, &path, body).await?;
    same_version(answer.version)?;
    Ok(answer)
}

/// Another configuration: the file read again, a member more or less.
///
/// # Errors
/// As [`operate`].
pub async fn reload(socket: &Path, asked: &reload::Asked) -> Result<Reloaded, ClientError> {
    let (service, member) =
        (asked.wish.service().unwrap_or_default(), asked.wish.member().unwrap_or_default());
    let members = format!("/v1/services/{service}/members/{member}");
    let body = reload::Body {
        reason: asked.reason.clone(),
        dry_run: asked.dry_run,
        force: asked.force,
        ..Default::default()
    };
    let (method, path, body) = match &asked.wish {
        Wish::Reload => (Method::POST, "/v1/reload".to_owned(), body),
        Wish::Add { member, .. } => {
            let endpoint = Some(member.endpoint.to_string());
            (Method::POST, members, reload::Body { endpoint, weight: Some(member.weight), ..body })
        }
        Wish::Remove { .. } => (Method::DELETE, members, body),
    };
    let body = serde_json::to_vec(&body).map_err(|error| ClientError::broken(socket, &error))?;
    let question = Question { method, path: &path, body: body.into() };
    let body = fetch(socket, question, RELOAD_TIME.saturating_add(TIME), LONGEST_ANSWER).await?;
    let answer: Reloaded =
        serde_json::from_slice(&body).map_err(|error| ClientError::broken(socket, &error))?;
    same_version(answer.version)?;
    Ok(answer)
}

/// Reads the events that `selection` means, and gives each line to `each` until that says to stop. With `follow` this ends
/// with the agent.
///
/// # Errors
///
/// As [`status`]; and when the stream breaks off.
pub async fn events(
    socket: &Path,
    selection: &Selection,
    mut each: impl FnMut(&str) -> ControlFlow<()>,
) -> Result<(), ClientError> {
    let broken = |error: &dyn fmt::Display| ClientError::broken(socket, error);
    let (mut sender, connection) = open(socket).await?;
    let connection = tokio::spawn(connection);
    let request = in_http(Question::get(&format!("/v1/events?{}", selection.to_query())))?;
    let response = timeout(EVENTS_TIME, sender.send_request(request)).await;
    let response = response.map_err(|_| no_answer(socket, EVENTS_TIME))?.map_err(|error| broken(&error))?;
    let code = response.status();
    let mut body = response.into_body();
    if code != StatusCode::OK {
        let body = Limited::new(body, LONGEST_ANSWER).collect().await.map_err(|error| broken(&error))?;
        return Err(refused(socket, code, &body.to_bytes()));
    }
    let mut rest = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(|error| ClientError::ended(socket, &error))?.into_data() else {
            continue;
        };
        rest.extend_from_slice(&bytes);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<_> = rest.drain(..=end).collect();
            let line = String::from_utf8(line).map_err(|error| broken(&error))?;
            if each(line.trim_end()).is_break() {
                connection.abort();
                return Ok(());
            }
        }
        if rest.len() > LONGEST_EVENT {
            return Err(broken(&"a line without an end"));
        }
    }
    if rest.is_empty() { Ok(()) } else { Err(broken(&"the last line breaks off")) }
}

fn same_version(version: u32) -> Result<(), ClientError> {
    if version == VERSION {
        return Ok(());
    }
    let message = format!("the agent speaks version {version}, this command {VERSION}");
    Err(ClientError::failed(message, "use the command line of the agent's release"))
}

/// `GET`s a JSON document.
async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, ClientError> {
    let body = fetch(socket, Question::get(path), TIME, LONGEST_ANSWER).await?;
    serde_json::from_slice(&body).map_err(|error| ClientError::broken(socket, &error))
}

/// `POST`s a JSON document, and gets one.
async fn post<T: DeserializeOwned>(socket: &Path, path: &str, body: Vec<u8>) -> Result<T, ClientError> {
    let question = Question { method: Method::POST, path, body: body.into() };
    let body = fetch(socket, question, CHANGE_TIME, LONGEST_ANSWER).await?;
    serde_json::from_slice(&body).map_err(|error| ClientError::broken(socket, &error))
}

/// A request in the making.
struct Question<'a> {
    method: Method,
    path: &'a str,
    body: Bytes,
}

impl<'a> Question<'a> {
    fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, body: Bytes::new() }
    }
}

/// The body of an answer that is one.
async fn fetch(
    socket: &Path,
    question: Question<'_>,
    time: Duration,
    longest: usize,
) -> Result<Bytes, ClientError> {
    let (code, body) = timeout(time, exchange(socket, question, longest))
        .await
        .unwrap_or_else(|_| Err(no_answer(socket, time)))?;
    if code == StatusCode::OK { Ok(body) } else { Err(refused(socket, code, &body)) }
}

fn no_answer(socket: &Path, within: Duration) -> ClientError {
    let message = format!("control socket {}: no answer within {} s", socket.display(), within.as_secs());
    ClientError::failed(message, "repeat, and look at the agent's log")
}

/// What the agent said instead of an answer.
fn refused(socket: &Path, code: StatusCode, body: &[u8]) -> ClientError {
    match serde_json::from_slice::<ErrorDocument>(body) {
        Ok(ErrorDocument { error, .. }) => ClientError::failed(error.message, error.next),
        Err(_) => ClientError::broken(socket, &code),
    }
}

/// A request in the form of the protocol.
fn in_http(Question { method, path, body }: Question<'_>) -> Result<Request<Full<Bytes>>, ClientError> {
    let request = Request::builder().method(method).uri(path).header(HOST, "localhost");
    request
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|error| ClientError::failed(format!("{path:?} is no request: {error}"), "check the name"))
}

type Connection = http1::Connection<TokioIo<UnixStream>, Full<Bytes>>;

/// A connection to the agent, which moves bytes while it is polled.
async fn open(socket: &Path) -> Result<(http1::SendRequest<Full<Bytes>>, Connection), ClientError> {
    let stream = UnixStream::connect(socket).await.map_err(|error| ClientError::connect(socket, &error))?;
    http1::handshake(TokioIo::new(stream)).await.map_err(|error| ClientError::broken(socket, &error))
}

async fn exchange(
    socket: &Path,
    question: Question<'_>,
    longest: usize,
) -> Result<(StatusCode, Bytes), ClientError> {
    let broken = |error: &dyn fmt::Display| ClientError::broken(socket, error);
    let request = in_http(question)?;
    let (mut sender, connection) = open(socket).await?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let code = response.status();
        let body = Limited::new(response.into_body(), longest).collect().await;
        Ok((code, body.map_err(|error| broken(&error))?.to_bytes()))
    };
    // The connection moves the bytes. Its own error, if any, also ends the answer.
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_socket_and_the_next_step() {
        let socket = Path::new("/run/redirector/control.sock");
        let of = |kind: io::ErrorKind| ClientError::connect(socket, &kind.into());
        let denied = of(io::ErrorKind::PermissionDenied);
        assert!(matches!(denied, ClientError::Failed { .. }));
        assert!(of(io::ErrorKind::NotFound) == of(io::ErrorKind::ConnectionRefused));
        insta::assert_snapshot!(denied, @"control socket /run/redirector/control.sock: permission denied; become root, or ask who runs the agent for access to the socket and its directories");
        insta::assert_snapshot!(of(io::ErrorKind::NotFound), @"no agent answers on /run/redirector/control.sock; start it with `redirector run --config FILE`, or name another socket with --socket");
    }
}
