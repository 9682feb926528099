//! A prober and a node that is far away.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use super::{
    super::{Kind, Patience, Prober, resp::Scan, round},
    *,
};
use crate::{
    model::{CheckKind, Detect, Login, Secret},
    resolve::{
        Said,
        tests::{Server, dropped, found},
    },
};

/// From a question to its answer.
const FAR: Duration = Duration::from_millis(60);

const ID: &str = "0123456789012345678901234567890123456789";

/// A node that has all slots and announces itself. It ends with this value.
struct Node {
    address: SocketAddr,
    state: Arc<State>,
    _accepting: JoinSet<()>,
}

#[derive(Default)]
struct State {
    port: u16,
    /// Announced; the empty one stands for the address that was asked.
    host: String,
    /// Nobody hears who has which slots.
    is_mute: AtomicBool,
    values: Mutex<HashMap<String, String>>,
    connections: Mutex<JoinSet<()>>,
}

impl Node {
    async fn start(host: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { port: address.port(), host: host.to_owned(), ..State::default() });
        let mut accepting = JoinSet::new();
        let own = Arc::clone(&state);
        accepting.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&own);
                own.connections.lock().unwrap().spawn(async move { state.serve(stream).await });
            }
        });
        Self { address, state, _accepting: accepting }
    }

    /// Ends all connections, as `timeout` in redis.conf does, `CLIENT KILL`, or a load balancer.
    async fn hang_up(&self) {
        let mut connections = std::mem::take(&mut *self.state.connections.lock().unwrap());
        connections.shutdown().await;
    }
}

impl State {
    async fn serve(&self, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
            sleep(FAR).await;
            // What came in one piece is answered in one piece.
            while let Some(end) = Scan::new().end(&buffer).ok().flatten() {
                let command: Vec<_> = buffer.drain(..end).collect();
                let words: Vec<String> =
                    redis::from_redis_value(redis::parse_redis_value(&command).unwrap()).unwrap();
                let Some(answer) = self.answer(&words) else { return std::future::pending().await };
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    }

    fn answer(&self, words: &[String]) -> Option<String> {
        let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
        let mut values = self.values.lock().unwrap();
        Some(match (words[0].as_str(), words[1].as_str()) {
            ("CLUSTER", "SHARDS") if self.is_mute.load(Ordering::SeqCst) => return None,
            ("CLUSTER", "SHARDS") => {
                let node = [("id", ID), ("endpoint", &self.host), ("role", "master"), ("health", "online")];
                let node: String = node.iter().map(|(key, value)| bulk(key) + &bulk(value)).collect();
                let port = format!("{}:{}\r\n", bulk("port"), self.port);
                let slots = format!("{}*2\r\n:0\r\n:16383\r\n", bulk("slots"));
                format!("*1\r\n*4\r\n{slots}{}*1\r\n*10\r\n{node}{port}", bulk("nodes"))
            }
            ("CLUSTER", _) => bulk(ID),
            ("SET", key) => {
                values.insert(key.to_owned(), words[2].clone());
                "+OK\r\n".to_owned()
            }
            ("GET", key) => bulk(values.get(key)?),
            _ => "+OK\r\n".to_owned(),
        })
    }
}

/// A prober in a hurry: three probes that wait for their answers fit into the time of five.
struct Hasty {
    check: Check,
    prober: Prober,
    patience: Patience,
}

impl Hasty {
    fn new(node: &Node) -> Self {
        let detect = Detect {
            silence_tolerance: FAR * 5,
            stall_tolerance: FAR * 5,
            refused_tolerance: Duration::ZERO,
        };
        let kind = CheckKind::Keyspace(Settings::default());
        let check = Check { timeout: Duration::from_secs(1), detect, ..Check::of(kind) };
        let login = Login { username: None, password: Some(Secret::new("sesame".to_owned())) };
        let access = Access { login, ..Access::default() };
        Self { prober: Prober::new(&check, node.address, access), check, patience: Patience::default() }
    }

    async fn round(&mut self) -> ProbeOutcome {
        round(&mut self.prober, &self.check, &mut self.patience, 0).await
    }

    async fn pass(&mut self) {
        let outcome = self.round().await;
        assert_eq!(outcome.verdict(), Verdict::Pass, "{outcome}");
    }

    fn keyspace(&mut self) -> &mut Keyspace {
        match &mut self.prober.kind {
            Kind::Keyspace(keyspace) => keyspace,
            _ => unreachable!("it was made as one"),
        }
    }
}

/// Each passed probe over kept connections takes one round trip; opening one again takes several.
#[tokio::test]
async fn connections_that_end_far_away_cost_no_failed_probe() {
    let node = Node::start("").await;
    let mut prober = Hasty::new(&node);
    // What is remembered is forgotten after eight.
    for _ in 0..10 {
        prober.pass().await;
    }
    for is_seen in [false, true] {
        node.hang_up().await;
        if is_seen {
            prober.prober.ended().await;
        }
        prober.pass().await;
        prober.pass().await;
    }
}

/// The connections to the nodes and what is known of them outlast an endpoint that says nothing, and it must answer.
#[tokio::test]
async fn an_endpoint_that_does_not_say_who_has_what_is_borne_once() {
    let node = Node::start("").await;
    let mut prober = Hasty::new(&node);
    prober.pass().await;
    prober.pass().await;
    let learnt = prober.keyspace().grow_old();
    node.state.is_mute.store(true, Ordering::SeqCst);
    prober.pass().await;
    assert_eq!(prober.prober.open(), Open::All);
    let outcome = prober.round().await;
    assert!(outcome.to_string().starts_with("command timed out"), "{outcome}");
    assert_eq!(outcome.verdict(), Verdict::Fail);
    assert_eq!(prober.prober.open(), Open::All);

    node.state.is_mute.store(false, Ordering::SeqCst);
    prober.pass().await;
    let map = prober.keyspace().map.as_ref().unwrap();
    assert!(map.learnt > learnt && !map.is_overdue);
}

impl Keyspace {
    /// What is known is to be asked for anew. Returns when it was learnt, by now.
    fn grow_old(&mut self) -> Instant {
        let map = self.map.as_mut().expect("a probe that passed");
        map.learnt -= LEARN_AGAIN_AFTER + Duration::from_secs(1);
        map.learnt
    }
}

/// A name that nobody answers for says nothing of the member, and nothing against what is known of it.
#[tokio::test]
async fn name_servers_that_hang_are_no_stall() {
    let hangs = Arc::new(AtomicBool::new(true));
    let own = Arc::clone(&hangs);
    let server = Server::start(move |_, is_v6| match (own.load(Ordering::SeqCst), is_v6) {
        (true, _) => dropped(),
        (false, true) => Said::Nothing,
        (false, false) => found("127.0.0.1"),
    })
    .await;
    let node = Node::start("node.example").await;
    let mut prober = Hasty::new(&node);
    prober.keyspace().resolver = server.resolver(&[]);
    for _ in 0..2 {
        let outcome = prober.round().await;
        assert_eq!(outcome.verdict(), Verdict::Inconclusive, "{outcome}");
        let text = "\"node.example\" does not resolve (no server answered in time)";
        assert!(outcome.to_string().contains(text), "{outcome}");
    }

    hangs.store(false, Ordering::SeqCst);
    for _ in 0..4 {
        prober.pass().await;
    }
    hangs.store(true, Ordering::SeqCst);
    let learnt = prober.keyspace().grow_old();
    for _ in 0..3 {
        prober.pass().await;
        assert_eq!(prober.prober.open(), Open::All);
    }
    assert!(prober.keyspace().map.as_ref().unwrap().learnt > learnt);
}
