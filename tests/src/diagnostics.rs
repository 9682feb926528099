//! The last words of agents, workers and servers. They are dropped before a scenario knows that it failed, so they
//! leave them here, and a scenario that fails prints them.

use std::sync::{Mutex, PoisonError};

/// `None`: no scenario runs, nobody will ask.
static KEPT: Mutex<Option<String>> = Mutex::new(None);

/// Keeps what `text` returns, if a scenario runs; prints it at once if a panic without one is under way.
pub(crate) fn keep(text: impl FnOnce() -> String) {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    match kept.as_mut() {
        Some(kept) => kept.push_str(&text()),
        None if std::thread::panicking() => eprintln!("{}", text()),
        None => {}
    }
}

/// Collects while it lives; prints when it is dropped in a panic. One at a time.
pub(crate) struct Collector;

impl Collector {
    pub(crate) fn start() -> Self {
        *KEPT.lock().unwrap_or_else(PoisonError::into_inner) = Some(String::new());
        Self
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner).take();
        if std::thread::panicking() {
            eprintln!("{}", kept.unwrap_or_default());
        }
    }
}
