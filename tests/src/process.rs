//! Child processes that never outlive the lab: killed when dropped, and by the kernel when this process ends.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader, PipeReader, PipeWriter},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::slowness;

/// Older lines are forgotten: somebody is to read this.
const MOST_LINES: usize = 500;

/// What a process wrote to standard output and standard error, with the time since it was started.
#[derive(Debug)]
pub struct Log {
    name: String,
    start: Instant,
    lines: Mutex<VecDeque<String>>,
}

impl Log {
    fn push(&self, line: &str) {
        let line = format!("{:9.4} {line}", self.start.elapsed().as_secs_f64());
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == MOST_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The newest lines, under a title.
    #[must_use]
    pub fn text(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().fold(format!("--- log of {} ---\n", self.name), |text, line| text + line + "\n")
    }
}

/// Logs of everything that runs, for the last words of a test that hangs.
static LOGS: Mutex<Vec<Weak<Log>>> = Mutex::new(Vec::new());

/// The logs of all processes that are not dropped yet.
pub(crate) fn all_logs() -> String {
    let logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
    logs.iter().filter_map(Weak::upgrade).map(|log| log.text()).collect()
}

/// A running child.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: Arc<Log>,
}

impl Process {
    pub(crate) fn spawn(name: &str, mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null());
        let (output, input) = io::pipe()?;
        command.stdout(input.try_clone()?);
        Self::spawn_logged(name, command, output, input)
    }

    /// The same, but standard input and standard output are the caller's.
    pub(crate) fn spawn_to_talk(name: &str, mut command: Command) -> Result<(Self, ChildStdin, ChildStdout)> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let (output, input) = io::pipe()?;
        let mut process = Self::spawn_logged(name, command, output, input)?;
        let pipes = process.child.stdin.take().zip(process.child.stdout.take());
        let (input, output) = pipes.with_context(|| format!("{name}: no pipes"))?;
        Ok((process, input, output))
    }

    /// What comes out of `output` is its log; standard error is `input`, its other end.
    fn spawn_logged(name: &str, mut command: Command, output: PipeReader, input: PipeWriter) -> Result<Self> {
        command.stderr(input);
        belong_to_this_process(&mut command);
        let program = command.get_program().to_owned();
        let child = spawn_from_long_lived_thread(command)
            .with_context(|| format!("{name}: cannot run {program:?}"))?;
        let log = Arc::new(Log { name: name.to_owned(), start: Instant::now(), lines: Mutex::default() });
        let mut logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
        logs.retain(|log| log.strong_count() > 0);
        logs.push(Arc::downgrade(&log));
        drop(logs);
        let process = Self { child, log: Arc::clone(&log) };
        // Reading ends with the last writer, which is the child or something that it left behind.
        thread::Builder::new().name(format!("log-{name}")).spawn(move || keep_output(output, &log))?;
        Ok(process)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote.
    #[must_use]
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Sends a signal; nothing, when it has ended and was waited for.
    ///
    /// # Errors
    /// Those of `kill(2)`.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// How it ended; `None` while it runs.
    ///
    /// # Errors
    /// Those of `waitpid(2)`.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `within`.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let within = within * slowness();
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            anyhow::ensure!(start.elapsed() < within, "{} still runs after {within:?}", self.log.name);
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Errors
    /// Those of `kill(2)` and `waitpid(2)`.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(|_| ())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only when it has ended already; there is nobody to tell.
        let _ = self.kill();
    }
}

fn keep_output(output: PipeReader, log: &Log) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        log.push(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
}

/// Runs a command to its end and returns its output.
///
/// # Errors
/// When it does not start, or still runs after `within`; then it is killed.
pub(crate) fn output(mut command: Command, within: Duration) -> Result<Output> {
    let within = within * slowness();
    let shown = format!("{command:?}");
    belong_to_this_process(&mut command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = spawn_from_long_lived_thread(command).with_context(|| shown.clone())?;
    // A descriptor, because the number may be somebody else's by the time it is used.
    let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let (tell, ended) = mpsc::channel();
    // Reads both pipes while it waits, so that no output is too long. Nobody listens after the time is over.
    thread::Builder::new().name("output".into()).spawn(move || tell.send(child.wait_with_output()))?;
    match ended.recv_timeout(within) {
        Ok(output) => Ok(output?),
        Err(_) => {
            // Fails when it has ended just now.
            let _ = pidfd_send_signal(&process, Signal::KILL);
            bail!("{shown} still runs after {within:?}")
        }
    }
}

/// The kernel kills the child when the thread that forked ends; and Ctrl-C at the terminal, which goes to a whole
/// process group, is for this process alone: it ends its children in its own order.
fn belong_to_this_process(command: &mut Command) {
    command.process_group(0);
    // SAFETY: the closure runs between fork and exec and makes one system call; it takes no lock and allocates
    // nothing.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// The parent-death signal fires at the end of the *thread* that forked (prctl(2)), and a test's thread ends before
/// its process does. So one thread forks for all, and lives as long as the process.
fn spawn_from_long_lived_thread(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (mut command, answer) in queue {
                // Nobody waits for the answer only if the asking thread is gone, and then the child is dropped.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });
    let (answer, child) = mpsc::channel();
    let gone = |_| io::Error::other("the thread that starts processes is gone");
    spawner.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer)).map_err(|_| gone(()))?;
    child.recv().map_err(|_| gone(()))?
}
