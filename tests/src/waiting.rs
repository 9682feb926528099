//! Clients that wait: blocked in `BLPOP`, or subscribed. They send nothing, so only a reset from outside wakes them.

use std::{
    net::SocketAddr,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{Connection, Failure, Host, Stopper, Value, slowness};

/// How a wait ended.
#[derive(Clone, Debug)]
pub struct Wake {
    /// When.
    pub at: Instant,
    /// With what: an element or a message, or the end of the connection.
    pub with: Result<Value, Failure>,
}

/// One waiting client; ended when dropped.
#[derive(Debug)]
pub struct WaitingClient {
    /// The member that it waits at.
    pub member: String,
    /// Its own address, as the member sees a direct connection.
    pub local: SocketAddr,
    stopper: Stopper,
    woken: mpsc::Receiver<Wake>,
    thread: Option<JoinHandle<()>>,
}

impl WaitingClient {
    /// Waits in `BLPOP key 0`.
    ///
    /// # Errors
    /// When it cannot connect.
    pub fn blocked(host: &Host, address: SocketAddr, key: &str) -> Result<Self> {
        Self::start(host, address, &["BLPOP", key, "0"], 0)
    }

    /// Waits for messages of a channel.
    ///
    /// # Errors
    /// When it cannot connect or subscribe.
    pub fn subscribed(host: &Host, address: SocketAddr, channel: &str) -> Result<Self> {
        Self::start(host, address, &["SUBSCRIBE", channel], 1)
    }

    fn start(host: &Host, address: SocketAddr, command: &[&str], replies: usize) -> Result<Self> {
        let stopper = Stopper::default();
        let what = command[0];
        let mut connection =
            host.run(|| Connection::open_stoppable(address, &stopper)).with_context(|| what.to_owned())?;
        connection.set_time_limit(Some(Duration::from_secs(5)))?;
        let whoami = connection.command(&["GET", "whoami"])?;
        let Some(member) = whoami.text() else { bail!("{what}: GET whoami: {whoami:?}") };
        connection.send(command)?;
        for _ in 0..replies {
            connection.receive().with_context(|| what.to_owned())?;
        }
        connection.set_time_limit(None)?;
        let local = connection.socket().local_addr()?;
        let (tell, woken) = mpsc::channel();
        let thread = host.spawn_thread(what, move || {
            let with = connection.receive().map_err(|error| Failure::Command(error.kind()));
            // Nobody listens when the test is over.
            let _ = tell.send(Wake { at: Instant::now(), with });
        })?;
        Ok(Self { member, local, stopper, woken, thread: Some(thread) })
    }

    /// Waits until it is woken.
    ///
    /// # Errors
    /// When it still waits after `within`.
    pub fn wait_woken(&self, within: Duration) -> Result<Wake> {
        self.woken
            .recv_timeout(within * slowness())
            .with_context(|| format!("a client waiting at {} was not woken within {within:?}", self.member))
    }

    /// How it was woken; `None` while it waits, and after the wake was reported once.
    #[must_use]
    pub fn woken(&self) -> Option<Wake> {
        self.woken.try_recv().ok()
    }
}

impl Drop for WaitingClient {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            while !thread.is_finished() {
                self.stopper.stop();
                thread::sleep(Duration::from_millis(1));
            }
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}
