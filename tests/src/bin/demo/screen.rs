//! What is written, and where: lines that stay, and on a terminal one more that moves.
//!
//! Without a terminal there is no escape sequence, and with `NO_COLOR` (no-color.org) no colour.

use std::{
    env,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use crate::words::ms;

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Says what is going on.
    Plain,
    /// Explains.
    Quiet,
    /// A title.
    Title,
    /// The fault, and what must not happen.
    Bad,
    /// What the fault does to clients.
    Trouble,
    /// Somebody is served again.
    Good,
}

impl Tone {
    /// Parameters of SGR (ECMA-48): colours of the terminal's own palette only.
    const fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Quiet => Some("2"),
            Self::Title => Some("1"),
            Self::Bad => Some("1;31"),
            Self::Trouble => Some("33"),
            Self::Good => Some("32"),
        }
    }
}

/// Standard output.
pub(crate) struct Screen {
    start: Instant,
    /// A terminal that can rewrite a line.
    live: bool,
    colors: bool,
    /// Whether the line that moves is shown.
    moving: bool,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let live = io::stdout().is_terminal() && !dumb;
        Self { start: Instant::now(), live, colors: live && !set("NO_COLOR"), moving: false }
    }

    /// A line.
    pub(crate) fn say(&mut self, tone: Tone, text: &str) -> io::Result<()> {
        let text = self.paint(tone, text);
        self.line(&text)
    }

    /// Several.
    pub(crate) fn say_all(&mut self, tone: Tone, text: &str) -> io::Result<()> {
        text.lines().try_for_each(|line| self.say(tone, line))
    }

    /// A line of the timeline: seconds since the start of the demo, milliseconds since `since`, and what happened.
    pub(crate) fn event(
        &mut self,
        at: Instant,
        since: Option<Instant>,
        tone: Tone,
        text: &str,
    ) -> io::Result<()> {
        let second = self.paint(Tone::Quiet, &format!("{:7.2} s", self.elapsed(at).as_secs_f64()));
        let since = since.map(|since| format!("+{} ms", ms(at.saturating_duration_since(since))));
        let text = self.paint(tone, text);
        self.line(&format!("{second} {:>12}   {text}", since.unwrap_or_default()))
    }

    /// More of the event above.
    pub(crate) fn more(&mut self, tone: Tone, text: &str) -> io::Result<()> {
        let text = self.paint(tone, text);
        self.line(&format!("{:25}{text}", ""))
    }

    /// Rewrites the line that moves. Where there is none, nothing.
    pub(crate) fn now(&mut self, text: &str) -> io::Result<()> {
        if !self.live {
            return Ok(());
        }
        self.moving = true;
        let second = format!("{:7.2} s", self.elapsed(Instant::now()).as_secs_f64());
        let text = self.paint(Tone::Quiet, &format!("{second} {:>12}   {text}", ""));
        // Back to the first column, and what the last text had more is erased.
        let mut out = io::stdout().lock();
        write!(out, "\r{text}\x1b[K")?;
        out.flush()
    }

    /// Takes the line that moves away. Nobody can be told when that fails.
    pub(crate) fn end_live(&mut self) {
        if std::mem::take(&mut self.moving) {
            let mut out = io::stdout().lock();
            let _ = write!(out, "\r\x1b[K").and_then(|()| out.flush());
        }
    }

    /// Time of the demo so far.
    pub(crate) fn elapsed(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.start)
    }

    fn line(&mut self, text: &str) -> io::Result<()> {
        self.end_live();
        let mut out = io::stdout().lock();
        writeln!(out, "{}", text.trim_end())?;
        out.flush()
    }

    fn paint(&self, tone: Tone, text: &str) -> String {
        match tone.code().filter(|_| self.colors && !text.is_empty()) {
            Some(code) => format!("\x1b[{code}m{text}\x1b[0m"),
            None => text.to_owned(),
        }
    }
}
