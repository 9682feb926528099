//! The command line's side of the control socket.

use std::{
    error, fmt, io,
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

/// How long a request may take. The agent answers within milliseconds, or says within 3 s that it cannot.
const TIME: Duration = Duration::from_secs(5);

/// The same for a list, which may have many lines.
const LIST_TIME: Duration = Duration::from_secs(10);

/// The same for a change: a little longer than the agent takes at most.
const CHANGE_TIME: Duration = OPERATOR_TIME.saturating_add(TIME);

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
    let (code, body) = timeout(time, exchange(socket, question, longest)).await.unwrap_or_else(|_| {
        let message = format!("control socket {}: no answer within {} s", socket.display(), time.as_secs());
        Err(ClientError::failed(message, "repeat, and look at the agent's log"))
    })?;
    if code == StatusCode::OK {
        return Ok(body);
    }
    match serde_json::from_slice::<ErrorDocument>(&body) {
        Ok(ErrorDocument { error, .. }) => Err(ClientError::failed(error.message, error.next)),
        Err(_) => Err(ClientError::broken(socket, &code)),
    }
}

async fn exchange(
    socket: &Path,
    question: Question<'_>,
    longest: usize,
) -> Result<(StatusCode, Bytes), ClientError> {
    let broken = |error: &dyn fmt::Display| ClientError::broken(socket, error);
    let stream = UnixStream::connect(socket).await.map_err(|error| ClientError::connect(socket, &error))?;
    let Question { method, path, body } = question;
    let request = Request::builder().method(method).uri(path).header(HOST, "localhost");
    let request = request
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|error| ClientError::failed(format!("{path:?} is no request: {error}"), "check the name"))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
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
