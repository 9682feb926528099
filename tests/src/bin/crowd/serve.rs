//! A server that accepts, and echoes what it is sent.

use std::{collections::HashMap, net::SocketAddr, os::fd::OwnedFd, time::Duration};

use anyhow::{Context as _, Result};
use rustix::{
    io::{Errno, read, write},
    net::{
        AddressFamily, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
        sockopt::{set_socket_reuseaddr, set_socket_reuseport},
    },
    process::nice,
};
use serde_json::json;

use crate::{
    seen::Seen,
    watch::{Change, Watch, tell},
};

/// The listening socket; connections have the numbers after it.
const LISTENER: u64 = 0;

/// What the kernel queues until it is accepted; the kernel takes no more than `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

pub fn serve(address: SocketAddr) -> Result<()> {
    // It stands for other machines, whose processors are their own: the clients' host comes first.
    // Not by much: on a busy machine it would get nothing at all.
    nice(5).context("priority")?;
    let listener = listening(address).with_context(|| format!("cannot listen on {address}"))?;
    let mut watch = Watch::new()?;
    watch.add(&listener, LISTENER)?;
    let mut server = Server {
        listener,
        connections: HashMap::new(),
        ended: Vec::new(),
        next: LISTENER + 1,
        accepted: Seen::default(),
    };
    tell(&json!({ "ready": true }))?;
    loop {
        let (at, changes) = watch.wait()?;
        for change in changes {
            match change {
                Change::Socket { number: LISTENER, .. } => server.accept(&watch, at)?,
                Change::Socket { number, .. } => server.echo(number),
                Change::Asked => {
                    tell(&json!({ "accepted": server.accepted.json(), "open": server.connections.len() }))?;
                }
                Change::Over => return Ok(()),
            }
        }
    }
}

struct Server {
    listener: OwnedFd,
    connections: HashMap<u64, OwnedFd>,
    /// Not closed before the end: that would take time from what is measured, and leave sockets for anybody to free.
    ended: Vec<OwnedFd>,
    next: u64,
    accepted: Seen,
}

impl Server {
    fn accept(&mut self, watch: &Watch, at: Duration) -> Result<()> {
        loop {
            match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(connection) => {
                    watch.add(&connection, self.next)?;
                    self.connections.insert(self.next, connection);
                    self.next += 1;
                    self.accepted.push(at);
                }
                Err(Errno::AGAIN) => return Ok(()),
                // Reset before it was accepted.
                Err(Errno::CONNABORTED) => {}
                Err(error) => return Err(error).context("accept"),
            }
        }
    }

    /// Until there is nothing to read; or the connection has ended.
    fn echo(&mut self, number: u64) {
        let Some(connection) = self.connections.get(&number) else { return };
        let mut buffer = [0; 512];
        loop {
            let echoed = match read(connection, &mut buffer) {
                Ok(0) => Err(Errno::CONNRESET),
                // Short enough for any socket's buffer.
                Ok(length) => write(connection, &buffer[..length]),
                Err(error) => Err(error),
            };
            match echoed {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => break,
            }
        }
        self.ended.extend(self.connections.remove(&number));
    }
}

fn listening(address: SocketAddr) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    set_socket_reuseaddr(&socket, true)?;
    set_socket_reuseport(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}
