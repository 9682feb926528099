//! The REST API of a Redis Software cluster, as far as its documents tell: who may ask, the list of databases, one
//! database, its availability; and faults that documents do not have.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::AUTHORIZATION,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// `viewer` with the password `sesame`.
const VIEWER: &str = "Basic dmlld2VyOnNlc2FtZQ==";

/// A database as the cluster knows it.
#[derive(Clone)]
pub(crate) struct Database {
    pub(crate) uid: u32,
    /// Each with DNS name, addresses and port.
    pub(crate) endpoints: Vec<(&'static str, Vec<&'static str>, u16)>,
    pub(crate) is_active_active: bool,
    /// How far it is behind, in milliseconds.
    pub(crate) lag: u128,
    /// `error_code` and description, if it is not available.
    pub(crate) error: Option<(&'static str, &'static str)>,
}

/// What happens instead of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Bytes as they are, and the end of the connection.
    Raw(&'static [u8]),
    /// A status with a body.
    Status(u16, &'static str),
    /// The answer comes after this time.
    Slow(Duration),
}

/// The cluster.
#[derive(Clone, Default)]
pub(crate) struct Cluster {
    pub(crate) databases: Vec<Database>,
    pub(crate) fault: Option<Fault>,
    /// Path and query of every request.
    pub(crate) asked: Vec<String>,
}

/// A running API. It ends when it is dropped.
pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    cluster: Arc<Mutex<Cluster>>,
    _server: JoinSet<()>,
}

impl Api {
    /// In clear, or with TLS.
    pub(crate) async fn start(cluster: Cluster, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let cluster = Arc::new(Mutex::new(cluster));
        let (mut server, shared) = (JoinSet::new(), Arc::clone(&cluster));
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (cluster, tls) = (Arc::clone(&shared), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, cluster).await,
                        Some(tls) => {
                            // A client that does not believe this server hangs up here.
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, cluster).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, cluster, _server: server }
    }

    /// Changes the cluster.
    pub(crate) fn set(&self, change: impl FnOnce(&mut Cluster)) {
        change(&mut self.cluster.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What was asked since the last time, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        let mut asked = Vec::new();
        self.set(|cluster| asked = std::mem::take(&mut cluster.asked));
        asked
    }
}

async fn serve<S>(mut stream: S, cluster: Arc<Mutex<Cluster>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let fault = cluster.lock().unwrap_or_else(PoisonError::into_inner).fault;
    if let Some(Fault::Raw(bytes)) = fault {
        // Read the request first: to close with unread bytes would be a reset.
        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 4096]).await;
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        return;
    }
    let service = service_fn(move |request| answer(request, Arc::clone(&cluster)));
    // A probe that has its answer resets the connection.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    cluster: Arc<Mutex<Cluster>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (answer, delay) = {
        let mut cluster = cluster.lock().unwrap_or_else(PoisonError::into_inner);
        cluster.asked.push(request.uri().to_string());
        match cluster.fault {
            Some(Fault::Status(status, body)) => (response(status, body.to_owned()), Duration::ZERO),
            Some(Fault::Slow(delay)) => (cluster.answer(&request), delay),
            _ => (cluster.answer(&request), Duration::ZERO),
        }
    };
    tokio::time::sleep(delay).await;
    Ok(answer)
}

impl Cluster {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.headers().get(AUTHORIZATION).is_none_or(|header| header != VIEWER) {
            return response(401, String::new());
        }
        let query = request.uri().query().unwrap_or_default();
        let path: Vec<_> = request.uri().path().split('/').skip(1).collect();
        let of = |uid: &str| self.databases.iter().find(|database| database.uid.to_string() == uid);
        match path.as_slice() {
            ["v1", "bdbs"] => {
                let list: Vec<_> = self.databases.iter().map(|database| database.show(query)).collect();
                response(200, Value::from(list).to_string())
            }
            ["v1", "bdbs", uid] => match of(uid) {
                Some(database) => response(200, database.show(query).to_string()),
                None => response(404, String::new()),
            },
            ["v1", "bdbs", uid, "availability"] => match of(uid) {
                Some(database) => database.availability(query),
                None => error(404, "db_not_found", "Database does not exist in the cluster"),
            },
            _ => response(404, String::new()),
        }
    }
}

impl Database {
    /// Without `fields` everything, and so the password.
    fn show(&self, query: &str) -> Value {
        let endpoints = self.endpoints.iter().map(|(dns_name, addresses, port)| {
            json!({"uid": format!("{}:1", self.uid), "dns_name": dns_name, "addr": addresses, "port": port,
                   "addr_type": "external", "proxy_policy": "single"})
        });
        let all = json!({"uid": self.uid, "name": format!("database {}", self.uid), "crdt": self.is_active_active,
            "endpoints": endpoints.collect::<Vec<_>>(), "authentication_redis_pass": "swordfish"});
        let Some(fields) = query.strip_prefix("fields=") else { return all };
        let wanted = fields.split(',').map(|field| (field.to_owned(), all[field].clone()));
        Value::Object(wanted.collect())
    }

    fn availability(&self, query: &str) -> Response<Full<Bytes>> {
        if let Some((code, description)) = self.error {
            return error(503, code, description);
        }
        let value = |key: &str| {
            query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .find(|(name, _)| *name == key)
                .map(|pair| pair.1)
        };
        let tolerance =
            value("availability_lag_tolerance_ms").map_or(100, |text| text.parse().expect("a number"));
        match value("extend_check") {
            Some("lag") if !self.is_active_active || self.lag > tolerance => {
                error(503, "bdb_unavailable", "Database is not available")
            }
            _ => response(200, String::new()),
        }
    }
}

fn error(status: u16, code: &str, description: &str) -> Response<Full<Bytes>> {
    response(status, json!({"error_code": code, "description": description}).to_string())
}

fn response(status: u16, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}
