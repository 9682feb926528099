//! What is wrong with a configuration: place, subject, cause, next step, one paragraph for each fault.

use std::{
    error, fmt,
    path::{Path, PathBuf},
};

/// A wrong configuration. `Display` gives one paragraph (one line) for each fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    faults: Vec<Fault>,
}

impl Error {
    /// `None` when nothing is wrong.
    pub(super) fn of(faults: Vec<Fault>) -> Option<Self> {
        (!faults.is_empty()).then_some(Self { faults })
    }

    /// At least one; in the order of the file.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self { faults: vec![fault] }
    }
}

impl error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

/// One thing that is wrong: `FILE:LINE:COLUMN: member "paris" of service "orders": cause; next step`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    place: Option<Place>,
    /// `member "paris" of service "orders"`; empty when it is about none of them.
    subject: String,
    complaint: Complaint,
}

impl Fault {
    pub(super) fn new(place: Place, subject: String, complaint: Complaint) -> Self {
        Self { place: Some(place), subject, complaint }
    }

    /// A fault of the file as a whole.
    pub(super) fn at_path(path: &Path, complaint: Complaint) -> Self {
        Self { place: None, subject: path.display().to_string(), complaint }
    }

    pub(super) fn says(&self, complaint: &Complaint) -> bool {
        self.complaint == *complaint
    }

    /// `member "paris" of service "orders"`; empty when it is about none of them.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// What is wrong, without the next step.
    #[must_use]
    pub fn cause(&self) -> &str {
        &self.complaint.cause
    }

    /// Where in the file; `None` for a fault of the file as a whole.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if !self.subject.is_empty() {
            write!(f, "{}: ", self.subject)?;
        }
        write!(f, "{}; {}", self.complaint.cause, self.complaint.next)
    }
}

/// Cause and next step, before anybody said where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    cause: String,
    next: String,
}

impl Complaint {
    pub(super) fn new(cause: impl Into<String>, next: impl Into<String>) -> Self {
        Self { cause: cause.into(), next: next.into() }
    }

    pub(super) fn into_words(self) -> (String, String) {
        (self.cause, self.next)
    }
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was given.
    pub path: PathBuf,
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
}

impl Place {
    /// The place that follows on `before`, the text from the start of the file.
    pub(super) fn after(path: &Path, before: &str) -> Self {
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.path.display(), self.line, self.column)
    }
}
