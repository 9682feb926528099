//! Waiting for many sockets and for standard input: epoll, each change once.

use std::{
    io::{self, BufRead as _, Write as _},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::{
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    time::{ClockId, clock_gettime},
};
use serde_json::Value as Json;

/// Changes taken with one system call: few enough that their common time is right for all of them.
const AT_ONCE: usize = 256;

/// Standard input; sockets have lower numbers.
const INPUT: u64 = u64::MAX;

/// What happened.
pub enum Change {
    /// To a socket.
    Socket { number: u64, flags: EventFlags },
    /// `report` was asked for.
    Asked,
    /// Standard input is at its end.
    Over,
}

/// The sockets that are watched.
pub struct Watch {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Watch {
    /// One that watches standard input.
    pub fn new() -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).context("epoll")?;
        epoll::add(&epoll, io::stdin().as_fd(), EventData::new_u64(INPUT), EventFlags::IN)
            .context("standard input cannot be watched; it is to be a pipe")?;
        Ok(Self { epoll, events: Vec::with_capacity(AT_ONCE) })
    }

    /// Watches a socket as well. What there is now is told too.
    pub fn add(&self, socket: impl AsFd, number: u64) -> Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, socket, EventData::new_u64(number), flags).context("epoll")
    }

    /// Waits for changes; when they were told.
    pub fn wait(&mut self) -> Result<(Duration, Vec<Change>)> {
        self.events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll"),
        }
        let at = now();
        let change = |event: &epoll::Event| {
            // Copied out: the structure is packed.
            let (data, flags) = (event.data, event.flags);
            if data.u64() == INPUT { read_input() } else { Ok(Change::Socket { number: data.u64(), flags }) }
        };
        Ok((at, self.events.iter().map(change).collect::<Result<_>>()?))
    }
}

/// Whoever asks waits for the answer before the next question: there is never more than one line.
fn read_input() -> Result<Change> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("standard input")?;
    match line.trim() {
        "" => Ok(Change::Over),
        "report" => Ok(Change::Asked),
        other => anyhow::bail!("standard input: {other:?} is not `report`"),
    }
}

/// A line on standard output.
pub fn tell(line: &Json) -> Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).context("standard output")
}

/// `CLOCK_MONOTONIC`.
pub fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    // It counts from the start of the machine, in parts below a second.
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}
