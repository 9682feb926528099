//! A member of the lab: a host with a real `redis-server`, and what can happen to it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::{Connection, Host, Process, Value, diagnostics, wait_until};

/// Every member listens here, on all of its addresses.
pub const REDIS_PORT: u16 = 6379;

/// A server on loopback answers within this or not at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// A member.
#[derive(Debug)]
pub struct Member {
    name: String,
    host: Host,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    password: Option<String>,
    server: Mutex<Option<Process>>,
}

impl Member {
    pub(crate) fn new(
        name: &str,
        host: Host,
        (v4, v6): (Ipv4Addr, Ipv6Addr),
        password: Option<String>,
    ) -> Self {
        Self { name: name.to_owned(), host, v4, v6, password, server: Mutex::default() }
    }

    /// `m1`, `m2`, …; also what `GET whoami` answers.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host that it runs on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// `10.2.<n>.2:6379`
    #[must_use]
    pub fn v4(&self) -> SocketAddr {
        (self.v4, REDIS_PORT).into()
    }

    /// `[fd02:<n>::2]:6379`
    #[must_use]
    pub fn v6(&self) -> SocketAddr {
        (self.v6, REDIS_PORT).into()
    }

    pub(crate) fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// Process id of its server; `None` while it is stopped.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server().as_ref().map(Process::pid)
    }

    fn server(&self) -> MutexGuard<'_, Option<Process>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the server and waits until it answers and knows who it is. The data is empty.
    ///
    /// # Errors
    /// When `redis-server` is missing or does not answer.
    pub fn start(&self) -> Result<()> {
        let mut server = self.server();
        anyhow::ensure!(server.is_none(), "member {} runs already", self.name());
        let mut command = self.host.command("redis-server");
        command.args(["--port", &REDIS_PORT.to_string(), "--bind", "127.0.0.1", "--protected-mode", "no"]);
        // No file is ever written, so the directory does not matter. (A replica would put what it copies into one.)
        command.args(["--save", "", "--appendonly", "no", "--dir", "/", "--enable-debug-command", "yes"]);
        command.args(["--dbfilename", "lab-writes-none.rdb", "--repl-diskless-load", "swapdb"]);
        // Thousands of clients connect in one test; the backlog is what a burst of them needs.
        command.args(["--maxclients", "15000", "--tcp-backlog", "4096", "--daemonize", "no"]);
        if let Some(password) = &self.password {
            command.args(["--requirepass", password]);
        }
        let process = server.insert(self.host.spawn("redis-server", command)?);
        let what = format!("member {}: redis-server answers PING", self.name());
        let answers = || matches!(self.command(&["PING"]), Ok(Value::Status(pong)) if pong == "PONG");
        wait_until(&what, PATIENCE, answers).with_context(|| process.log().text())?;
        // It opens to the network only now: no client ever meets a server that does not know who it is.
        for command in [["SET", "whoami", self.name()].as_slice(), &["CONFIG", "SET", "bind", "* -::*"]] {
            let reply = self.command(command)?;
            anyhow::ensure!(
                reply == Value::Status("OK".into()),
                "member {}: {command:?}: {reply:?}",
                self.name()
            );
        }
        Ok(())
    }

    /// A connection from the member's own host over loopback: reaches the server whatever the network does.
    ///
    /// # Errors
    /// When the server is stopped or refuses the password.
    pub fn connect(&self) -> Result<Connection> {
        let mut connection = self.host.connect((Ipv4Addr::LOCALHOST, REDIS_PORT).into())?;
        connection.set_time_limit(Some(PATIENCE))?;
        if let Some(password) = &self.password {
            let reply = connection.command(&["AUTH", password])?;
            anyhow::ensure!(reply == Value::Status("OK".into()), "member {}: AUTH: {reply:?}", self.name());
        }
        Ok(connection)
    }

    /// One command over [`Member::connect`].
    ///
    /// # Errors
    /// As there; an error reply is a [`Value`].
    pub fn command(&self, words: &[&str]) -> Result<Value> {
        Ok(self.connect()?.command(words)?)
    }

    /// `CLIENT LIST`, a line a client, without the connection that asks.
    ///
    /// # Errors
    /// As [`Member::connect`].
    pub fn clients(&self) -> Result<Vec<String>> {
        let reply = self.command(&["CLIENT", "LIST"])?;
        let Some(text) = reply.text() else { bail!("member {}: CLIENT LIST: {reply:?}", self.name()) };
        Ok(text.lines().filter(|line| !line.contains("cmd=client|list")).map(str::to_owned).collect())
    }

    /// The server dies (SIGKILL) and its host lives: connections end, new ones are refused.
    ///
    /// # Errors
    /// When it is not running.
    pub fn crash(&self) -> Result<()> {
        let mut process =
            self.server().take().with_context(|| format!("member {} is not running", self.name()))?;
        Ok(process.kill()?)
    }

    /// The server stops to be scheduled (SIGSTOP): its host goes on to accept connections and to acknowledge data.
    ///
    /// # Errors
    /// When it is not running.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Ends [`Member::freeze`].
    ///
    /// # Errors
    /// When it is not running.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let mut server = self.server();
        let process = server.as_mut().with_context(|| format!("member {} is not running", self.name()))?;
        Ok(process.signal(signal)?)
    }

    /// Every answer is late by up to `time`: the server sleeps once (`DEBUG SLEEP`), as in a fork or a slow script.
    /// Returns at once.
    ///
    /// # Errors
    /// As [`Member::connect`].
    pub fn stall(&self, time: Duration) -> Result<()> {
        let mut connection = self.connect()?;
        connection.send(&["DEBUG", "SLEEP", &time.as_secs_f64().to_string()])?;
        // Closing the connection now could overtake the command.
        connection.set_time_limit(Some(time + PATIENCE))?;
        self.host.spawn_thread("stall", move || connection.receive())?;
        Ok(())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        diagnostics::keep(|| self.server().as_ref().map(|server| server.log().text()).unwrap_or_default());
    }
}
