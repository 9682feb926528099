//! What the probes talk to: real Redis servers, and TCP servers that are no Redis.

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    ops::Range,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    certificates::{Authority, Certificate},
    temp::TempDir,
};

/// A `redis-server` on a loopback port, killed on drop, also after a panic.
pub(crate) struct Redis {
    child: Child,
    address: SocketAddr,
    /// Where it speaks in clear, if not on `address`.
    plain: Option<SocketAddr>,
    directory: TempDir,
}

impl Redis {
    /// Starts one and waits until it answers, with whatever it answers.
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::start_in(TempDir::new(), options)
    }

    /// The same with the directory of an earlier one.
    pub(crate) fn start_in(directory: TempDir, options: &[&str]) -> Self {
        let address = free_address();
        let port = address.port().to_string();
        Self::launch(directory, address, &[&["--port", &port], options].concat())
    }

    /// One that speaks TLS on its address, and in clear on [`Self::plain`].
    pub(crate) fn start_tls(authority: &Authority, certificate: &Certificate, options: &[&str]) -> Self {
        let (address, plain) = (free_address(), free_address());
        let directory = TempDir::new();
        for (name, text) in [
            ("ca.pem", authority.pem()),
            ("server.pem", certificate.certificate.as_str()),
            ("server.key", certificate.key.as_str()),
        ] {
            std::fs::write(directory.path().join(name), text).expect("a directory of its own");
        }
        let ports = [plain, address].map(|address| address.port().to_string());
        let tls = [
            ["--port", &ports[0]],
            ["--tls-port", &ports[1]],
            ["--tls-cert-file", "server.pem"],
            ["--tls-key-file", "server.key"],
            ["--tls-ca-cert-file", "ca.pem"],
            ["--tls-auth-clients", "no"],
        ];
        let options = [tls.as_flattened(), options].concat();
        let mut redis = Self::launch(directory, address, &options);
        redis.plain = Some(plain);
        redis
    }

    fn launch(directory: TempDir, address: SocketAddr, options: &[&str]) -> Self {
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--enable-debug-command", "no"])
            .args(options)
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let redis = Self { child, address, plain: None, directory };
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not listen on {address}");
            thread::sleep(Duration::from_millis(5));
        }
        redis
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A connection of the redis crate's own, to set the scene with. A server with room for one client may still
    /// count the one that waited for its start.
    pub(crate) fn client(&self) -> redis::Connection {
        let client = redis::Client::open(format!("redis://{}", self.plain.unwrap_or(self.address)))
            .expect("an address");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match client.get_connection() {
                Ok(connection) => return connection,
                Err(error) => {
                    assert!(Instant::now() < deadline, "{} accepts no client: {error}", self.address);
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Where it runs.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Runs one command, which must succeed.
    pub(crate) fn run<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        redis::cmd(words[0]).arg(&words[1..]).query(&mut self.client()).expect("the command succeeds")
    }

    /// Has it execute a command, which must succeed.
    pub(crate) fn tell(&self, words: &[&str]) {
        let _answer: redis::Value = self.run(words);
    }

    /// How often it was given a command, by `INFO commandstats`.
    pub(crate) fn calls(&self, command: &str) -> usize {
        let info: String = self.run(&["INFO", "commandstats"]);
        let line = info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.map_or(0, |line| line.split(',').next().expect("a number").parse().expect("a number"))
    }

    /// How many keys it has.
    pub(crate) fn keys(&self) -> usize {
        self.run(&["DBSIZE"])
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the child is not reaped yet");
    }

    /// Kills it and hands over its directory.
    pub(crate) fn stop(self) -> TempDir {
        let directory = TempDir::new();
        let mut this = self;
        std::mem::replace(&mut this.directory, directory)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // SIGKILL also ends a stopped process.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback address on which nobody listens now. Given out once, and of a range of which the kernel gives clients none
/// (`net.ipv4.ip_local_port_range` begins at 32768): who connects there before the server listens would meet itself.
pub(crate) fn free_address() -> SocketAddr {
    const PORTS: Range<u16> = 12_000..32_000;
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let others_begin_elsewhere = std::process::id() % u32::from(u16::MAX);
    let free = PORTS.map(|_| {
        let number = others_begin_elsewhere + u32::from(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + u16::try_from(number % u32::from(PORTS.end - PORTS.start)).expect("small");
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    });
    free.into_iter().find(|address| StdListener::bind(address).is_ok()).expect("a free port")
}

/// A TCP server that gives every connection to `serve`. It ends with its guard.
pub(crate) async fn tcp<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> (SocketAddr, JoinSet<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    let mut guard = JoinSet::new();
    guard.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(stream));
        }
    });
    (address, guard)
}
