//! The ring of recent events on disk: a line of JSON each, in `state_dir`.
//!
//! Appending keeps what is written through a kill of the agent in the middle of a line: the next agent ends that line and
//! passes over it. When the file holds twice the ring, it is replaced by one with the ring. A thread writes: a slow
//! disk delays no decision. Lines are not forced to disk: they outlive the agent, and a power cut may take the newest.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use anyhow::{Context as _, Result};

use super::events::Line;

/// Lines that may wait for the disk; more are not kept.
const QUEUE: usize = 4096;

/// The newest lines of the file, at most `most`. What is no event is passed over.
pub(super) fn read(file: &Path, most: usize) -> Vec<Arc<Line>> {
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!("recent events in {} cannot be read: {error}", file.display());
            return Vec::new();
        }
    };
    let mut lines: Vec<_> = BufReader::new(opened)
        .split(b'\n')
        .map_while(Result::ok)
        .filter_map(|bytes| Line::parse(String::from_utf8(bytes).ok()?))
        .map(Arc::new)
        .collect();
    lines.drain(..lines.len().saturating_sub(most));
    lines
}

/// Appends lines, in a thread.
#[derive(Debug)]
pub(super) struct Writer {
    /// `None` while dropping.
    lines: Option<mpsc::SyncSender<Arc<Line>>>,
    thread: Option<thread::JoinHandle<()>>,
    lost: Arc<AtomicU64>,
}

impl Writer {
    /// `most` lines are kept when the file is made anew.
    pub(super) fn new(file: &Path, most: usize) -> Self {
        let (lines, queue) = mpsc::sync_channel::<Arc<Line>>(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let mut kept = Kept { file: file.to_owned(), most, open: None, complained: false };
        let not_written = Arc::clone(&lost);
        let run = move || {
            while let Ok(line) = queue.recv() {
                if !kept.keep(&line) {
                    not_written.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let thread = thread::Builder::new().name("events".into()).spawn(run);
        if let Err(error) = &thread {
            tracing::warn!("events are not kept over a restart: {error}");
        }
        Self { lines: Some(lines), thread: thread.ok(), lost }
    }

    /// Keeps a line. Never waits: when the disk does not keep up, the line is lost to the next agent.
    pub(super) fn write(&self, line: &Arc<Line>) {
        if let Some(lines) = &self.lines
            && lines.try_send(Arc::clone(line)).is_err()
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that are not on disk, and will not be.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Writer {
    /// Waits until everything is written.
    fn drop(&mut self) {
        drop(self.lines.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _panicked = thread.join();
        }
    }
}

/// The file.
struct Kept {
    file: PathBuf,
    most: usize,
    /// Open for appending, and how many lines it has.
    open: Option<(File, usize)>,
    /// Whether somebody was told that it cannot be written.
    complained: bool,
}

impl Kept {
    /// Whether the line is written.
    fn keep(&mut self, line: &Line) -> bool {
        match self.append(line) {
            Ok(()) => {
                self.complained = false;
                true
            }
            Err(error) => {
                // The next line begins anew: the disk may have room then.
                self.open = None;
                if !self.complained {
                    tracing::warn!("events are not kept over a restart: {error:#}");
                }
                self.complained = true;
                false
            }
        }
    }

    fn append(&mut self, line: &Line) -> Result<()> {
        let (file, lines) = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(open(&self.file)?),
        };
        // One write: a kill leaves the whole line, or a part that the next agent passes over.
        file.write_all(format!("{}\n", line.text()).as_bytes())
            .with_context(|| format!("cannot write {}", self.file.display()))?;
        *lines += 1;
        if *lines >= 2 * self.most {
            self.open = None;
            replace(&self.file, self.most)?;
        }
        Ok(())
    }
}

/// Opens the file for appending after whole lines, and counts them.
fn open(path: &Path) -> Result<(File, usize)> {
    let directory = path.parent().context("a file without a directory")?;
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let shown = path.display();
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .open(path)
        .with_context(|| format!("cannot open {shown}"))?;
    let (mut lines, mut torn) = (0, false);
    let mut reader = BufReader::new(&file);
    loop {
        let bytes = reader.fill_buf().with_context(|| format!("cannot read {shown}"))?;
        let Some(last) = bytes.last() else { break };
        torn = *last != b'\n';
        lines += bytes.iter().filter(|byte| **byte == b'\n').count();
        let length = bytes.len();
        reader.consume(length);
    }
    if torn {
        file.write_all(b"\n").with_context(|| format!("cannot write {shown}"))?;
    }
    Ok((file, lines))
}

/// Replaces the file by one with its newest lines, in one step.
fn replace(path: &Path, most: usize) -> Result<()> {
    let lines = read(path, most);
    let new = path.with_extension("new");
    let mut text = String::new();
    for line in lines {
        text.push_str(line.text());
        text.push('\n');
    }
    fs::write(&new, text).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("cannot replace {}", path.display()))
}
