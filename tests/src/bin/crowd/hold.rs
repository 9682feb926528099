//! Clients that open connections and wait until they end.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    event::epoll::EventFlags,
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt::socket_error},
};
use serde_json::{Value as Json, json};

use crate::{
    seen::Seen,
    watch::{Change, Watch, tell},
};

/// Connections that a process has in the air: more would overflow the server's backlog.
const IN_THE_AIR: usize = 256;

pub fn hold(to: SocketAddr, count: usize, from: &[IpAddr], again: bool) -> Result<()> {
    let mut crowd = Crowd {
        watch: Watch::new()?,
        to,
        from: from.to_vec(),
        again,
        clients: Vec::with_capacity(count),
        opened: Seen::default(),
        ended: Seen::default(),
        errors: BTreeMap::new(),
    };
    while crowd.opened.count() < count {
        while crowd.clients.len() < count.min(crowd.opened.count() + IN_THE_AIR) {
            let client = crowd.connect(crowd.clients.len())?;
            crowd.clients.push(client);
        }
        if crowd.live()? == Live::Over {
            return Ok(());
        }
        if let Some((error, _)) = crowd.errors.first_key_value() {
            bail!(
                "connection {} of {count} to {to} ended before all were open: {error}",
                crowd.opened.count()
            );
        }
    }
    tell(&json!({ "ready": true }))?;
    while crowd.live()? == Live::On {}
    Ok(())
}

#[derive(PartialEq, Eq)]
enum Live {
    On,
    Over,
}

#[derive(PartialEq, Eq)]
enum Stage {
    Opening,
    Open,
    Ended,
}

struct Client {
    /// Kept when it has ended: what a client does then is no part of what is measured.
    socket: OwnedFd,
    stage: Stage,
}

struct Crowd {
    watch: Watch,
    to: SocketAddr,
    from: Vec<IpAddr>,
    again: bool,
    clients: Vec<Client>,
    /// Also those that connected again.
    opened: Seen,
    ended: Seen,
    /// How many ended with what.
    errors: BTreeMap<String, usize>,
}

impl Crowd {
    /// Waits for changes once, and takes them in.
    fn live(&mut self) -> Result<Live> {
        let (at, changes) = self.watch.wait()?;
        for change in changes {
            match change {
                Change::Socket { number, flags } => self.change(usize::try_from(number)?, flags, at)?,
                Change::Asked => tell(&self.report())?,
                Change::Over => return Ok(Live::Over),
            }
        }
        Ok(Live::On)
    }

    fn change(&mut self, number: usize, flags: EventFlags, at: Duration) -> Result<()> {
        let client = &mut self.clients[number];
        if client.stage == Stage::Ended {
            return Ok(());
        }
        // Nobody sends anything: what can be read is the end.
        if flags.intersects(EventFlags::ERR | EventFlags::HUP | EventFlags::RDHUP | EventFlags::IN) {
            client.stage = Stage::Ended;
            self.ended.push(at);
            let with = match socket_error(&client.socket)? {
                Ok(()) => "end of file".to_owned(),
                Err(error) => name(error),
            };
            *self.errors.entry(with).or_default() += 1;
            if self.again {
                self.clients[number] = self.connect(number)?;
            }
        } else if client.stage == Stage::Opening && flags.contains(EventFlags::OUT) {
            client.stage = Stage::Open;
            self.opened.push(at);
        }
        Ok(())
    }

    /// Begins to connect.
    fn connect(&self, number: usize) -> Result<Client> {
        let family = if self.to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, None).context("socket")?;
        if !self.from.is_empty() {
            let from = self.from[number % self.from.len()];
            bind(&socket, &SocketAddr::from((from, 0))).with_context(|| format!("bind to {from}"))?;
        }
        match connect(&socket, &self.to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error).with_context(|| format!("connect to {}", self.to)),
        }
        // Not before: a socket that does not connect yet counts as hung up.
        self.watch.add(&socket, u64::try_from(number)?)?;
        Ok(Client { socket, stage: Stage::Opening })
    }

    fn report(&self) -> Json {
        json!({ "opened": self.opened.json(), "ended": self.ended.json(), "errors": self.errors })
    }
}

fn name(error: Errno) -> String {
    match error {
        Errno::CONNABORTED => "ECONNABORTED".to_owned(),
        Errno::CONNRESET => "ECONNRESET".to_owned(),
        Errno::CONNREFUSED => "ECONNREFUSED".to_owned(),
        Errno::TIMEDOUT => "ETIMEDOUT".to_owned(),
        other => format!("error {}", other.raw_os_error()),
    }
}
