//! The HTTP client of `lag`, `http` and of hooks: one `GET` or `POST` over one connection of its own, with every phase and cause typed.
//!
//! No connection is kept. Such a check runs every few seconds, and what it asks (a load balancer, the node that manages a
//! cluster now) may be somewhere else the next time: a name is looked up, a port opened and a certificate verified each
//! time, and nothing that ended in between has to be told from a failure. The price is a handshake for each probe, which
//! is why these checks have longer intervals than those of Redis. A connection that brought its answer is closed in order,
//! any other is reset, as those of all probes.
//!
//! Redirects are answers and are not followed, and the environment's proxies are not asked: what was configured is what is
//! probed. Nothing is read beyond a limit. Time has one limit, the probe's, and its owner keeps it.

use std::{
    error::Error as _,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT},
    http::request,
};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt::set_socket_linger;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use super::{
    base64, socket,
    stop::{self, Stop},
};
use crate::{
    model::{Cause, Failure, Login, Phase, Tls, Url},
    quote::quote,
    resolve::Resolver,
    tls::{self, Connector},
};

/// Longest header section; servers' own limits are 8 to 16 KiB.
const LONGEST_HEAD: usize = 64 * 1024;

/// Where to ask, and as whom.
pub(crate) struct Client {
    url: Url,
    /// The only address that is asked; `None`: those of the URL's host.
    address: Option<SocketAddr>,
    /// For `https`; or why it cannot be.
    tls: Option<Result<Connector, String>>,
    authorization: Option<HeaderValue>,
    resolver: Arc<Resolver>,
    /// The newest addresses of the URL's host, if it is a name that has been looked up.
    known: Mutex<Vec<IpAddr>>,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// As much of it as was wanted.
    pub(crate) body: Vec<u8>,
    /// Whether there was more.
    pub(crate) is_cut: bool,
}

impl Client {
    /// Asks `address`, or else those of the URL's host.
    pub(crate) fn new(url: Url, address: Option<SocketAddr>, tls: Option<&Tls>, login: &Login) -> Self {
        let tls = url.is_https.then(|| match tls {
            Some(tls) => Connector::new(tls),
            None => Err("no TLS settings for an https URL".to_owned()),
        });
        Self {
            url,
            address,
            tls,
            authorization: basic(login),
            resolver: Arc::default(),
            known: Mutex::default(),
        }
    }

    /// `GET` of a path with its query, for at most `limit` bytes of body. `phase` tells how far it came.
    pub(crate) async fn get(&self, path: &str, limit: usize, phase: &mut Phase) -> Result<Answer, Stop> {
        self.ask(self.request(Request::get(path), Bytes::new())?, limit, phase).await
    }

    /// `POST` of a JSON document to the path of the URL, for at most `limit` bytes of body. What went wrong is in words.
    pub(crate) async fn post(&self, json: Vec<u8>, limit: usize) -> Result<Answer, String> {
        let request = Request::post(self.url.path.as_str()).header(CONTENT_TYPE, "application/json");
        let mut phase = Phase::Resolve;
        let asked = match self.request(request, json.into()) {
            Ok(request) => self.ask(request, limit, &mut phase).await,
            Err(stop) => Err(stop),
        };
        asked.map_err(|stop| match stop {
            Stop::Io(error) => error.to_string(),
            Stop::Answer(cause) => Failure { phase, cause }.to_string(),
        })
    }

    async fn ask(
        &self,
        request: Request<Full<Bytes>>,
        limit: usize,
        phase: &mut Phase,
    ) -> Result<Answer, Stop> {
        let started = Instant::now();
        let (stream, address) = self.connect(phase).await?;
        let fault = |error: io::Error| Stop::Answer(stop::cause(&error, address, started.elapsed()));
        let socket = stream.as_fd().try_clone_to_owned().map_err(fault)?;
        let ended = match &self.tls {
            None => {
                *phase = Phase::Command;
                exchange(stream, request, limit).await
            }
            Some(Err(why)) => return Err(Stop::Answer(Cause::Local(why.clone()))),
            Some(Ok(connector)) => {
                *phase = Phase::Tls;
                let stream = connector.connect(&self.url.host, stream).await.map_err(fault)?;
                *phase = Phase::Command;
                exchange(stream, request, limit).await
            }
        };
        if ended.as_ref().is_ok_and(|answer| !answer.is_cut) {
            // Servers log a reset as an error. What it is not set for is reset all the same.
            let _ = set_socket_linger(&socket, None);
        }
        ended.map_err(|error| match in_io(&error) {
            Some(error) => Stop::Answer(stop::cause(error, address, started.elapsed())),
            None => Stop::Answer(of_http(&error)),
        })
    }

    /// To the first address that lets it. Each gets its share of what the ones before have left of [`PATIENCE`], so that
    /// one in a black hole does not hide the others.
    async fn connect(&self, phase: &mut Phase) -> Result<(TcpStream, SocketAddr), Stop> {
        *phase = Phase::Resolve;
        let addresses = self.addresses().await.map_err(Stop::Answer)?;
        *phase = Phase::Connect;
        let mut last = Cause::Local("no address".to_owned());
        for (index, address) in addresses.iter().enumerate() {
            let started = Instant::now();
            let opened = socket::open(*address);
            let is_last = index + 1 == addresses.len();
            let opened = match is_last {
                true => Ok(opened.await),
                false => timeout(PATIENCE, opened).await,
            };
            last = match opened {
                Ok(Ok(stream)) => return Ok((stream, *address)),
                Ok(Err(error)) => stop::cause(&error, *address, started.elapsed()),
                Err(_) => Cause::TimedOut(PATIENCE),
            };
        }
        Err(Stop::Answer(last))
    }

    /// At least one.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, Cause> {
        if let Some(address) = self.address {
            return Ok(vec![address]);
        }
        if let Ok(ip) = self.url.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, self.url.port)]);
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let answer = self.resolver.look_up_soon(&self.url.host);
        let found = match known.is_empty() {
            true => answer.await.after(&known).map_err(|why| {
                Cause::Unreachable(format!("the name {} does not resolve: {why}", self.url.host))
            })?,
            // Without an answer, or when it is late, the last one goes on to hold.
            false => match timeout(PATIENCE, answer).await {
                Ok(answer) => answer.after(&known).unwrap_or(known),
                Err(_) => known,
            },
        };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&found);
        Ok(found.into_iter().map(|ip| SocketAddr::new(ip, self.url.port)).collect())
    }

    fn request(&self, begun: request::Builder, body: Bytes) -> Result<Request<Full<Bytes>>, Stop> {
        let mut request = begun
            .header(HOST, self.url.authority())
            .header(CONNECTION, "close")
            .header(ACCEPT, "application/json, */*")
            .header(USER_AGENT, concat!("redirector/", env!("CARGO_PKG_VERSION")));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.body(Full::new(body)).map_err(|error| Stop::Answer(Cause::Local(error.to_string())))
    }
}

/// How long the end of a connection may take whose answer is there.
const GOODBYE: Duration = Duration::from_millis(50);

/// How long an address may take to connect when there is another one, and a name to be looked up when it was before.
const PATIENCE: Duration = Duration::from_millis(500);

/// RFC 7617; in UTF-8, as Redis Software takes it.
fn basic(login: &Login) -> Option<HeaderValue> {
    let password = login.password.as_ref()?;
    let username = login.username.as_deref().unwrap_or_default();
    let pair = base64::encode(format!("{username}:{}", password.expose()).as_bytes());
    // Base64 has no byte that a header may not have.
    let mut value = HeaderValue::try_from(format!("Basic {pair}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// One request and its answer, over a connection that ends with it.
async fn exchange<S>(stream: S, request: Request<Full<Bytes>>, limit: usize) -> hyper::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(LONGEST_HEAD).handshake(TokioIo::new(stream)).await?;
    let mut answer = pin!(async {
        let response = sender.send_request(request).await?;
        read(response, limit).await
    });
    let mut connection = pin!(connection);
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // What it brought, or why it ended, is with the answer.
        _ = &mut connection => return answer.await,
    }?;
    if !answer.is_cut {
        // TLS says good-bye.
        let _ = timeout(GOODBYE, connection).await;
    }
    Ok(answer)
}

async fn read(response: Response<Incoming>, limit: usize) -> hyper::Result<Answer> {
    let mut answer = Answer { status: response.status(), body: Vec::new(), is_cut: false };
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        let room = limit - answer.body.len();
        answer.body.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            answer.is_cut = true;
            break;
        }
    }
    Ok(answer)
}

/// The kernel's or TLS's word, if an error came from there: hyper says some of its own in the same type.
fn in_io(error: &hyper::Error) -> Option<&io::Error> {
    let error = error.source()?.downcast_ref::<io::Error>()?;
    (error.raw_os_error().is_some() || stop::is_closed(error) || tls::fault(error).is_some()).then_some(error)
}

fn of_http(error: &hyper::Error) -> Cause {
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return Cause::Closed;
    }
    Cause::WrongAnswer(format!("not proper HTTP: {}", quote(&error.to_string())))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{
        model::FailureKind,
        resolve::{
            Said,
            tests::{Server, dropped, found},
        },
    };

    /// A name server that fails is not the server that is asked.
    #[tokio::test]
    async fn the_last_addresses_hold_while_the_name_is_not_answered_for() {
        let questions = AtomicUsize::new(0);
        let server = Server::start(move |_, is_v6| match (questions.fetch_add(1, Ordering::SeqCst), is_v6) {
            (2.., _) => dropped(),
            (_, true) => Said::Nothing,
            (_, false) => found("127.0.0.1"),
        })
        .await;
        let url = Url { is_https: false, host: "web.example".into(), port: 80, path: "/".into() };
        let mut client = Client::new(url, None, None, &Login::default());
        client.resolver = server.resolver(&[]);
        for _ in 0..2 {
            let started = Instant::now();
            assert_eq!(client.addresses().await, Ok(vec!["127.0.0.1:80".parse().unwrap()]));
            assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        }

        client.known = Mutex::default();
        let mut phase = Phase::Command;
        let get = client.get("/", 0, &mut phase);
        assert!(timeout(Duration::from_millis(100), get).await.is_err());
        let late = Failure { phase, cause: Cause::TimedOut(Duration::from_millis(100)) };
        assert_eq!(late.kind(), FailureKind::Silence, "as a name that does not resolve");
    }
}
