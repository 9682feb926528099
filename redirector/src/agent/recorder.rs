//! Writes down what is handed in to the cores, if the configuration asks for it (`[agent] record`).
//!
//! The file begins with every core as it is. When it has [`LARGEST`] bytes it becomes `FILE.1`, in the place of an older one, and
//! a new one begins in the same way: each of the two is complete by itself. A thread writes, so that a slow disk delays no
//! decision; when it does not keep up, the recording begins anew as soon as it does.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use crate::{
    decide::{
        Core, Time,
        record::{Input, Line},
    },
    model::Service,
};

/// Of one file.
const LARGEST: usize = 64 << 20;

/// Lines that may wait for the disk.
const QUEUE: usize = 1 << 14;

/// After so long without a new line what was written is in the file.
const FLUSH: Duration = Duration::from_millis(500);

/// A recording under way.
#[derive(Debug)]
pub(super) struct Recorder {
    /// `None` while dropping.
    lines: Option<SyncSender<Written>>,
    thread: Option<thread::JoinHandle<()>>,
    /// Bytes of the file that is written.
    size: usize,
    /// Lines were lost, or none was written yet: the next thing is to begin a file.
    begins: bool,
}

#[derive(Debug)]
enum Written {
    /// To be followed by a new file's lines.
    NewFile,
    Line(String),
}

impl Recorder {
    /// Nothing is written yet.
    pub(super) fn new(file: &Path) -> Self {
        let (sender, lines) = sync_channel(QUEUE);
        let file = file.to_owned();
        let thread = thread::Builder::new().name("recorder".into()).spawn(move || write_all(&file, &lines));
        if let Err(error) = &thread {
            tracing::warn!("nothing is recorded: {error}");
        }
        Self { lines: Some(sender), thread: thread.ok(), size: 0, begins: true }
    }

    /// Something was handed in to `service`. To be called before it is, with all `cores` as they are before.
    pub(super) fn note(
        &mut self,
        now: Time,
        service: usize,
        input: Input,
        services: &[Service],
        cores: &[Core],
    ) {
        if self.begins || self.size >= LARGEST {
            self.begin(now, services, cores);
        }
        self.write(now, &services[service], input);
    }

    /// What was recorded cannot go on: the services are others.
    pub(super) fn begin_anew(&mut self) {
        self.begins = true;
    }

    fn begin(&mut self, now: Time, services: &[Service], cores: &[Core]) {
        (self.size, self.begins) = (0, false);
        self.send(Written::NewFile);
        for (service, core) in services.iter().zip(cores) {
            self.write(now, service, Input::Core(Box::new(core.clone())));
        }
    }

    fn write(&mut self, now: Time, service: &Service, input: Input) {
        let line = Line { at: now, service: service.name.clone(), input };
        match serde_json::to_string(&line) {
            Ok(line) => {
                self.size += line.len() + 1;
                self.send(Written::Line(line));
            }
            Err(error) => tracing::error!("a line is not recorded: {error}"),
        }
    }

    fn send(&mut self, written: Written) {
        // Without a thread there was a warning already.
        let Some(lines) = self.lines.as_ref().filter(|_| !self.begins) else { return };
        if lines.try_send(written).is_err() {
            self.begins = true;
        }
    }
}

impl Drop for Recorder {
    /// Waits until everything is on disk.
    fn drop(&mut self) {
        drop(self.lines.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _panicked = thread.join();
        }
    }
}

/// Writes until there is nobody who could send more. A disk that fails ends the recording, with a warning.
fn write_all(path: &Path, lines: &Receiver<Written>) {
    let mut file: Option<BufWriter<File>> = None;
    loop {
        let done = match lines.recv_timeout(FLUSH) {
            Ok(Written::NewFile) => next_file(path).map(|next| file = Some(next)),
            Ok(Written::Line(line)) => match &mut file {
                Some(file) => file.write_all(line.as_bytes()).and_then(|()| file.write_all(b"\n")),
                None => Ok(()),
            },
            Err(RecvTimeoutError::Timeout) => file.as_mut().map_or(Ok(()), BufWriter::flush),
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if let Err(error) = done {
            tracing::warn!("nothing is recorded in {} any more: {error}", path.display());
            return;
        }
    }
    if let Some(Err(error)) = file.as_mut().map(BufWriter::flush) {
        tracing::warn!("the end of {} is missing: {error}", path.display());
    }
}

/// Makes room for a new file.
fn next_file(path: &Path) -> std::io::Result<BufWriter<File>> {
    use std::os::unix::fs::OpenOptionsExt as _;

    if path.exists() {
        std::fs::rename(path, older(path))?;
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    // It tells of addresses and reasons: for its owner.
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    Ok(BufWriter::new(file))
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}
