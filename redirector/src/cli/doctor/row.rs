//! A row of the answer: one condition, what was found, what to do.

use serde::Serialize;

/// How bad it is. Ordered: the worst row decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Works, and is worth knowing.
    Note,
    /// Works, but not all of it.
    Warning,
    /// An agent does not start, or carries no traffic.
    Bad,
}

impl Verdict {
    /// As people read it.
    pub(super) fn mark(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Note => "note",
            Self::Warning => "WARN",
            Self::Bad => "BAD",
        }
    }
}

/// What a row is about; rows of one area stand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Area {
    /// The kernel and this process.
    Kernel,
    /// Settings of this host.
    Host,
    /// The configuration on this host.
    Configuration,
    /// What runs: agent, pins, programs.
    Agent,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Where it belongs.
    pub area: Area,
    /// Its name, a promise: `rp_filter`.
    pub check: &'static str,
    /// The device, the member or whatever else it is about, where there are several.
    pub subject: Option<String>,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What it means and what to do; always there when it is not good.
    pub next: Option<String>,
}

impl Row {
    fn new(area: Area, check: &'static str, verdict: Verdict, found: impl Into<String>) -> Self {
        Self { area, check, subject: None, verdict, found: found.into(), next: None }
    }

    pub(super) fn good(area: Area, check: &'static str, found: impl Into<String>) -> Self {
        Self::new(area, check, Verdict::Good, found)
    }

    pub(super) fn note(
        area: Area,
        check: &'static str,
        found: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { next: Some(next.into()), ..Self::new(area, check, Verdict::Note, found) }
    }

    pub(super) fn warning(
        area: Area,
        check: &'static str,
        found: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { next: Some(next.into()), ..Self::new(area, check, Verdict::Warning, found) }
    }

    pub(super) fn bad(
        area: Area,
        check: &'static str,
        found: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { next: Some(next.into()), ..Self::new(area, check, Verdict::Bad, found) }
    }

    pub(super) fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// As people read it: `rp_filter eth0`.
    pub(super) fn title(&self) -> String {
        match &self.subject {
            Some(subject) => format!("{} {subject}", self.check),
            None => self.check.to_owned(),
        }
    }
}
