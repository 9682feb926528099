//! Clients with short commands: each holds one connection, asks all the time who answers, and reconnects at once.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    Connection, Event, Failure, Host, Stopper, Timeline, Value, What, diagnostics, timeline::first_answers,
    wait_until,
};

/// What workers do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many, each a thread with one connection.
    pub workers: usize,
    /// Where they connect to.
    pub address: SocketAddr,
    /// Rest between commands.
    pub pause: Duration,
}

impl Load {
    /// `workers` clients of `address` that rest for 1 ms, or so long that all of them together send 5 000 commands
    /// a second: a test waits for failover, not for the machine.
    #[must_use]
    pub fn new(workers: usize, address: impl Into<SocketAddr>) -> Self {
        let together = Duration::from_micros(200).saturating_mul(u32::try_from(workers).unwrap_or(u32::MAX));
        Self { workers, address: address.into(), pause: together.max(Duration::from_millis(1)) }
    }
}

/// Rest after a failure: long enough not to starve a server that comes back.
const RETRY: Duration = Duration::from_millis(1);

type Events = Mutex<Vec<Event>>;

/// Running workers; stopped when dropped, and their timeline is printed when that happens in a panic.
#[derive(Debug)]
pub struct Workers {
    start: Instant,
    events: Arc<Events>,
    threads: Vec<(JoinHandle<()>, Stopper)>,
}

impl Workers {
    /// Starts them on `host`.
    ///
    /// # Errors
    /// When threads cannot be made. A connection that fails is an event, not an error.
    pub fn start(host: &Host, load: Load) -> Result<Self> {
        let mut workers = Self { start: Instant::now(), events: Arc::default(), threads: Vec::new() };
        for worker in 0..load.workers {
            let (stopper, events) = (Stopper::default(), Arc::clone(&workers.events));
            let client = Worker { worker, load, events, stopper: stopper.clone() };
            let thread = host.spawn_thread(&format!("worker-{worker}"), move || client.run())?;
            workers.threads.push((thread, stopper));
        }
        Ok(workers)
    }

    /// A copy of what was seen so far.
    #[must_use]
    pub fn timeline(&self) -> Timeline {
        let events = self.events().clone();
        Timeline { start: self.start, taken: Instant::now(), workers: self.threads.len(), events }
    }

    /// What was seen after the first `skip` events, for a reader who follows.
    #[must_use]
    pub fn events_after(&self, skip: usize) -> Vec<Event> {
        self.events().get(skip..).unwrap_or_default().to_vec()
    }

    /// Waits until every worker was served by `member` at or after `since`; returns how long after `since`.
    ///
    /// # Errors
    /// When some is not within `within` from now.
    pub fn wait_served_by(&self, member: &str, since: Instant, within: Duration) -> Result<Duration> {
        let all =
            || first_answers(&self.events(), self.threads.len(), member, since).iter().all(Option::is_some);
        wait_until(&format!("every worker is served by {member}"), within, all)
            .with_context(|| self.timeline().to_string())?;
        // The set of first answers only grows.
        self.timeline().all_served_by(member, since).context("an answer vanished from the timeline")
    }

    /// Ends them and returns everything that they saw.
    #[must_use]
    pub fn stop(mut self) -> Timeline {
        let timeline = self.timeline();
        self.end();
        timeline
    }

    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&mut self) {
        if !self.threads.is_empty() {
            diagnostics::keep(|| self.timeline().to_string());
        }
        for (_, stopper) in &self.threads {
            stopper.stop();
        }
        for (thread, stopper) in self.threads.drain(..) {
            while !thread.is_finished() {
                stopper.stop();
                thread::sleep(Duration::from_millis(1));
            }
            // A worker that panicked has said so on standard error.
            let _ = thread.join();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.end();
    }
}

struct Worker {
    worker: usize,
    load: Load,
    events: Arc<Events>,
    stopper: Stopper,
}

impl Worker {
    fn run(&self) {
        while !self.stopper.stopped() {
            if let Err(failure) = self.connection() {
                self.record(What::Failed(failure));
                thread::sleep(RETRY);
            }
        }
    }

    /// One connection from its start to its end.
    fn connection(&self) -> Result<(), Failure> {
        let opened = Connection::open_stoppable(self.load.address, &self.stopper);
        let mut connection = opened.map_err(|error| Failure::Connect(error.kind()))?;
        self.record(What::Connected);
        let key = format!("worker:{}", self.worker);
        let mut served_by: Option<Arc<str>> = None;
        let mut count = 0_u64;
        while !self.stopper.stopped() {
            count += 1;
            let mut command = |words: &[&str]| {
                let reply = connection.command(words).map_err(|error| Failure::Command(error.kind()))?;
                if let Value::Error(text) = reply { Err(Failure::Reply(text)) } else { Ok(reply) }
            };
            command(&["SET", &key, &count.to_string()])?;
            let answer = command(&["GET", "whoami"])?;
            let name = answer.text().ok_or_else(|| Failure::Reply("no whoami".into()))?;
            let name = match served_by.take() {
                Some(known) if *known == *name => known,
                _ => name.into(),
            };
            self.record(What::Served(Arc::clone(&name)));
            served_by = Some(name);
            thread::sleep(self.load.pause);
        }
        Ok(())
    }

    fn record(&self, what: What) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        // What a worker sees of its own end is no event. The time is taken under the lock, so all are in order.
        if !self.stopper.stopped() {
            events.push(Event { at: Instant::now(), worker: self.worker, what });
        }
    }
}
