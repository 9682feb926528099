//! Lets time pass: collects what the clients see, shows it, and keeps the line that moves.

use std::{
    collections::VecDeque,
    io, thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    clients::{COMMANDS, Clients, Seen},
    interrupted,
    screen::{Screen, Tone},
    tally::Tally,
    words::{count, ms},
};

/// How often clients are asked.
const TICK: Duration = Duration::from_millis(5);

/// Clients tell on several ways; what is older than this has arrived from all, and can be put in order.
const SETTLED: Duration = Duration::from_millis(5);

/// Shorter silences are the rest between two rounds of commands, or the machine's.
const SILENT: Duration = Duration::from_millis(20);

/// The line that moves shows commands a second over this time.
const RATE_OVER: Duration = Duration::from_millis(500);

/// Clients, what they saw, and the screen.
pub(crate) struct Stage<'a> {
    pub(crate) clients: Clients,
    pub(crate) tally: Tally,
    pub(crate) screen: &'a mut Screen,
    waiting: Vec<Seen>,
    rate: VecDeque<(Instant, usize)>,
    shown: Instant,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(clients: Clients, tally: Tally, screen: &'a mut Screen) -> Self {
        Self { clients, tally, screen, waiting: Vec::new(), rate: VecDeque::new(), shown: Instant::now() }
    }

    /// Shows what happens until `done`; answers whether it was within `within`.
    pub(crate) fn watch(&mut self, within: Duration, done: impl Fn(&Tally) -> bool) -> Result<bool> {
        let start = Instant::now();
        loop {
            self.catch_up()?;
            if done(&self.tally) {
                return Ok(true);
            }
            if start.elapsed() > within {
                return Ok(false);
            }
            if interrupted() {
                bail!("interrupted");
            }
            self.move_line()?;
            thread::sleep(TICK);
        }
    }

    /// Shows what happens for some time.
    pub(crate) fn pass(&mut self, time: Duration) -> Result<()> {
        self.watch(time, |_| false).map(drop)
    }

    /// A line of the timeline that does not come from the clients; `since` as in [`Screen::event`].
    pub(crate) fn event(
        &mut self,
        at: Instant,
        since: Option<Instant>,
        tone: Tone,
        text: &str,
    ) -> io::Result<()> {
        self.screen.event(at, since, tone, text)
    }

    fn catch_up(&mut self) -> io::Result<()> {
        let now = Instant::now();
        self.waiting.extend(self.clients.news());
        // Stable: each client's own order is kept.
        self.waiting.sort_by_key(|seen| seen.at);
        let settled = self.waiting.partition_point(|seen| now.saturating_duration_since(seen.at) >= SETTLED);
        for seen in self.waiting.drain(..settled) {
            if let Some(line) = self.tally.note(&seen) {
                self.screen.event(seen.at, self.tally.switch.since, line.tone, &line.text)?;
            }
        }
        Ok(())
    }

    fn move_line(&mut self) -> io::Result<()> {
        let now = Instant::now();
        self.rate.push_back((now, self.tally.rounds));
        while self.rate.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > RATE_OVER) {
            self.rate.pop_front();
        }
        let silence = self.tally.silence(now);
        let rest = if silence > SILENT { TICK * 4 } else { TICK * 20 };
        if now.saturating_duration_since(self.shown) < rest {
            return Ok(());
        }
        self.shown = now;
        if silence > SILENT {
            return self.screen.now(&format!("no answer for {} ms", ms(silence)));
        }
        let Some(by) = self.tally.answering.clone() else { return Ok(()) };
        let commands = self.rate.front().map_or(0.0, |(at, rounds)| {
            let time = now.saturating_duration_since(*at).as_secs_f64().max(TICK.as_secs_f64());
            // Far below 2^52.
            #[allow(clippy::cast_precision_loss)]
            let commands = ((self.tally.rounds - rounds) * COMMANDS) as f64;
            commands / time
        });
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let commands = commands as usize;
        self.screen.now(&format!("{by} answers, {} commands a second", count(commands)))
    }
}
