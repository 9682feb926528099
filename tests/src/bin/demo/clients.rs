//! The application: connections that write and read all the time, and two clients that wait, each of which connects
//! again at once when its connection ends.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;
use redirector_tests::{
    CHANNEL, Event, Failure, Host, Load, QUEUE, VIP_PORT, VIP_V4, Value, WaitingClient, What, Workers,
};

/// Connections with short commands.
pub(crate) const CONNECTIONS: usize = 4;

/// Commands of one round of a connection: a `SET`, and a `GET` that tells who answers.
pub(crate) const COMMANDS: usize = 2;

/// A client that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    Blpop,
    Subscribe,
}

impl Waiting {
    pub(crate) const ALL: [Self; 2] = [Self::Blpop, Self::Subscribe];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Blpop => "BLPOP",
            Self::Subscribe => "SUBSCRIBE",
        }
    }

    fn open(self, host: &Host) -> Result<WaitingClient> {
        match self {
            Self::Blpop => WaitingClient::blocked(host, vip(), QUEUE),
            Self::Subscribe => WaitingClient::subscribed(host, vip(), CHANNEL),
        }
    }
}

/// Where all of them connect to.
pub(crate) fn vip() -> SocketAddr {
    (VIP_V4, VIP_PORT).into()
}

/// What one of them saw.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) at: Instant,
    pub(crate) what: Sight,
}

/// See [`Seen`].
#[derive(Clone, Debug)]
pub(crate) enum Sight {
    /// A round of commands was answered.
    Served { connection: usize, by: Arc<str> },
    /// It was not, or there was no connection.
    Failed { connection: usize, failure: Failure },
    /// A client waits at a member, from now on.
    Waits { client: Waiting, at_member: String },
    /// Its wait ended: with what it waited for, or with the connection.
    Woken { client: Waiting, with: Result<Value, Failure> },
}

/// All clients; they end when this is dropped.
pub(crate) struct Clients {
    workers: Workers,
    read: usize,
    // Held for their end.
    _waiters: Vec<Waiter>,
    waiters_saw: mpsc::Receiver<Seen>,
}

impl Clients {
    pub(crate) fn start(host: &Host) -> Result<Self> {
        let workers = Workers::start(host, Load::new(CONNECTIONS, vip()))?;
        let (tell, waiters_saw) = mpsc::channel();
        let start = |client| Waiter::start(client, host, tell.clone());
        let waiters = Waiting::ALL.into_iter().map(start).collect::<Result<_>>()?;
        Ok(Self { workers, read: 0, _waiters: waiters, waiters_saw })
    }

    /// What was seen since the last call. Each client's own events are in order.
    pub(crate) fn news(&mut self) -> Vec<Seen> {
        let events = self.workers.events_after(self.read);
        self.read += events.len();
        let sight = |Event { at, worker: connection, what }| match what {
            What::Connected => None,
            What::Served(by) => Some(Seen { at, what: Sight::Served { connection, by } }),
            What::Failed(failure) => Some(Seen { at, what: Sight::Failed { connection, failure } }),
        };
        events.into_iter().filter_map(sight).chain(self.waiters_saw.try_iter()).collect()
    }
}

/// A thread that waits, and waits again.
struct Waiter {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Waiter {
    fn start(client: Waiting, host: &Host, tell: mpsc::Sender<Seen>) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, inside) = (Arc::clone(&stop), host.clone());
        let thread = host.spawn_thread(client.name(), move || {
            while !stopped.load(Ordering::Relaxed) {
                match client.open(&inside) {
                    Ok(open) => wait(client, &open, &stopped, &tell),
                    // Long enough not to starve a server that comes back.
                    Err(_) => thread::sleep(Duration::from_millis(1)),
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

/// One wait, from the moment when the server was asked.
fn wait(client: Waiting, open: &WaitingClient, stopped: &AtomicBool, tell: &mpsc::Sender<Seen>) {
    // Nobody listens when the demo ends.
    let tell = |at, what| drop(tell.send(Seen { at, what }));
    tell(Instant::now(), Sight::Waits { client, at_member: open.member.clone() });
    while !stopped.load(Ordering::Relaxed) {
        if let Ok(wake) = open.wait_woken(Duration::from_millis(20)) {
            return tell(wake.at, Sight::Woken { client, with: wake.with });
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return };
        // One that still connects to a black hole cannot be stopped; it ends with the process.
        let asked = Instant::now();
        while !thread.is_finished() && asked.elapsed() < Duration::from_secs(1) {
            thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() {
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}
