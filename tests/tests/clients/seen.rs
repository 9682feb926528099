//! What one use of a client saw, out of the lines that its program reported.

use std::{fmt, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value as Json;

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A member answered, for the first time or after something else.
    Served(String),
    /// A call failed.
    Error(String),
    /// The library told besides.
    Event(String),
}

/// One use, in the order of time.
#[derive(Clone, Debug)]
pub struct Seen {
    lines: Vec<(f64, What)>,
}

impl Seen {
    /// Picks the lines of one use.
    pub fn of(lines: &[Json], name: &str) -> Self {
        let of_it = lines.iter().filter(|line| line["use"] == name);
        let line = |line: &Json| {
            let text = |key: &str| line[key].as_str().unwrap_or_default();
            let told = || match text("type") {
                "" => text("text").to_owned(),
                kind => format!("{kind}: {}", text("text")),
            };
            let what = match text("event") {
                "served" => What::Served(text("by").to_owned()),
                "error" => What::Error(told()),
                _ => What::Event(told()),
            };
            Some((line["at"].as_f64()?, what))
        };
        Self { lines: of_it.filter_map(line).collect() }
    }

    /// The last that it says of itself is that `member` serves it.
    pub fn is_served_by(&self, member: &str) -> bool {
        let mut last = self.lines.iter().rev().filter(|(_, what)| !matches!(what, What::Event(_)));
        last.next().is_some_and(|(_, what)| matches!(what, What::Served(by) if by == member))
    }

    /// As many as were served before `since` (threads report one by one) are served by `member`, and none fails any more.
    pub fn moved(&self, member: &str, since: f64) -> bool {
        let served = |before: bool| {
            let lines = self.lines.iter().filter(move |(at, _)| (*at < since) == before);
            lines.filter(|(_, what)| matches!(what, What::Served(_))).count()
        };
        self.is_served_by(member) && served(false) >= served(true)
    }

    /// How long after `since` it was served again, for good.
    ///
    /// # Errors
    /// When it was not.
    pub fn back_after(&self, since: f64) -> Result<Duration> {
        let served = self.lines.iter().rev().find(|(_, what)| matches!(what, What::Served(_)));
        let (at, _) = served.filter(|(at, _)| *at >= since).context("it was never served again")?;
        Ok(Duration::from_secs_f64(at - since))
    }

    /// What failing calls said, each once.
    pub fn errors(&self) -> Vec<&str> {
        self.texts(|what| if let What::Error(text) = what { Some(text) } else { None })
    }

    /// What the library told besides, each once.
    pub fn events(&self) -> Vec<&str> {
        self.texts(|what| if let What::Event(text) = what { Some(text) } else { None })
    }

    fn texts<'a>(&'a self, pick: impl Fn(&'a What) -> Option<&'a String>) -> Vec<&'a str> {
        let mut texts = Vec::new();
        for text in self.lines.iter().filter_map(|(_, what)| pick(what)) {
            if !texts.contains(&text.as_str()) {
                texts.push(text.as_str());
            }
        }
        texts
    }

    /// Both, as the table writes them.
    pub fn heard(&self) -> String {
        let quoted = |texts: Vec<&str>| match texts.as_slice() {
            [] => "—".to_owned(),
            texts => texts.iter().map(|text| format!("`{text}`")).collect::<Vec<_>>().join(", "),
        };
        format!("calls: {}; events: {}", quoted(self.errors()), quoted(self.events()))
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|(at, what)| writeln!(f, "{at:12.4} {what:?}"))
    }
}
