//! What is kept on disk for the next agent: one JSON file each in `state_dir`.
//!
//! All of it can be lost without harm to what is decided: a file that cannot be read is as good as none, and one that
//! cannot be written is warned about.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
    sync::mpsc,
    thread,
};

use anyhow::{Context as _, Result};
use serde::{Serialize, de::DeserializeOwned};

/// Reads what an earlier agent kept.
pub fn read<T: Default + DeserializeOwned>(file: &Path) -> T {
    let read = match fs::read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return T::default(),
        read => read.map_err(anyhow::Error::from),
    };
    read.and_then(|bytes| Ok(serde_json::from_slice(&bytes)?)).unwrap_or_else(|error| {
        tracing::warn!("{} is not readable, going on without it: {error:#}", file.display());
        T::default()
    })
}

/// Writes a file whenever it is to be another one. A thread does it: a slow disk delays no decision.
#[derive(Debug)]
pub struct Writer<T> {
    /// `None` while dropping.
    values: Option<mpsc::Sender<T>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl<T: Serialize + Send + 'static> Writer<T> {
    /// Nothing is written yet. `what` is for warnings: `the last switch is`.
    pub fn new(file: &Path, what: &'static str) -> Self {
        let (sender, values) = mpsc::channel();
        let file = file.to_owned();
        let thread =
            thread::Builder::new().name("kept".into()).spawn(move || write_all(&file, &values, what));
        if let Err(error) = &thread {
            tracing::warn!("{what} not kept over a restart: {error}");
        }
        Self { values: Some(sender), thread: thread.ok() }
    }

    /// Keeps this instead of what was kept before.
    pub fn write(&self, value: T) {
        if let Some(values) = &self.values {
            // Without a thread there was a warning already.
            let _unwritten = values.send(value);
        }
    }
}

impl<T> Drop for Writer<T> {
    /// Waits until everything is on disk.
    fn drop(&mut self) {
        drop(self.values.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _panicked = thread.join();
        }
    }
}

/// Writes what comes, and of several values that wait only the newest.
fn write_all<T: Serialize>(file: &Path, values: &mpsc::Receiver<T>, what: &str) {
    while let Ok(next) = values.recv() {
        let newest = values.try_iter().last().unwrap_or(next);
        if let Err(error) = replace(file, &newest) {
            tracing::warn!("{what} not kept over a restart: {error:#}");
        }
    }
}

/// Replaces the file in one step: after a power cut there is the one or the other.
fn replace(file: &Path, value: &impl Serialize) -> Result<()> {
    let directory = file.parent().context("a file without a directory")?;
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let new = file.with_extension("new");
    let bytes = serde_json::to_vec_pretty(value)?;
    File::create(&new)
        .and_then(|mut to| to.write_all(&bytes).and_then(|()| to.sync_all()))
        .with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, file)
        .and_then(|()| File::open(directory)?.sync_all())
        .with_context(|| format!("cannot replace {}", file.display()))
}
