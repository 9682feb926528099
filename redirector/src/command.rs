//! Runs a command of the operator's (an `exec` check, a hook) without privileges, in a process group of its own, on a thread of its own.
//!
//! Why a thread: to fork and to wait for `execve` can take long (a binary on a network file system that hangs), and the
//! agent's only thread must never wait. And a thread has credentials of its own on Linux. This one gives up for itself,
//! by safe calls, what the command must not have, and the child inherits that:
//!
//! * `no_new_privs`: no setuid program and no file capability gives anything back (prctl(2), Linux 3.5);
//! * supplementary groups, ambient and inheritable capabilities, the bounding set: empty.
//!
//! Between fork and exec the standard library then changes group and user, which takes the rest of the capabilities away
//! (capabilities(7), "Effect of user ID changes"). The thread itself stays root: were it the user for a moment, that user's
//! other processes could send the agent signals. The usual way, a `pre_exec` closure, is unsafe code; the wrapper
//! `setpriv` would do the same, but a failure of its own could not be told from one of the command's.
//!
//! Resource limits belong to a process, not to a thread, and to set those of another user's process takes
//! `CAP_SYS_RESOURCE`, which containers rarely have. So `prlimit` of util-linux, by then without privileges, lowers its own
//! and becomes the command.
//!
//! A run ends when the command's first process ends, or when its [`Running`] is dropped. Either way its whole process
//! group is killed and reaped. What moves to a process group of its own gets away; under systemd it stays in the unit's
//! control group.

use std::{
    fs::File,
    io::{self, PipeReader, PipeWriter, Read as _, Seek as _, Write as _, pipe},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{MemfdFlags, memfd_create},
    io::Errno,
    process::{
        Pid, PidfdFlags, Resource, Signal, WaitOptions, WaitStatus, geteuid, getrlimit, kill_process_group,
        pidfd_open, waitpgid,
    },
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
    },
};
use tokio::sync::oneshot;

use crate::{model::User, quote::quote};

/// Where commands look for others.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of the output is kept, of each of both streams; the rest is read and dropped.
const KEPT: usize = 4096;

/// Lowers its own limits and becomes a command; exits with 126 or 127 if it cannot.
const PRLIMIT: &str = "/usr/bin/prlimit";

/// What a command may use, beside the processor time that its time limit makes.
const LIMITS: [(&str, Resource, u64); 5] = [
    ("core", Resource::Core, 0),
    ("data", Resource::Data, 512 << 20),
    ("fsize", Resource::Fsize, 16 << 20),
    ("nofile", Resource::Nofile, 256),
    // Of all processes of that user together.
    ("nproc", Resource::Nproc, 4096),
];

/// What is to be run.
#[derive(Clone)]
pub(crate) struct Plan {
    /// At least the program.
    pub(crate) command: Vec<String>,
    /// All of it.
    pub(crate) environment: Vec<(String, String)>,
    /// What it reads from its standard input.
    pub(crate) input: Vec<u8>,
    pub(crate) user: User,
    /// How long whoever waits will wait.
    pub(crate) limit: Duration,
}

/// A run that goes on for as long as this is kept.
pub(crate) struct Running {
    _until: PipeWriter,
}

/// A run that has ended; nothing of it is left.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) how: End,
    /// The first bytes.
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With this status.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// The first line of an output that is not blank, fit to be shown.
pub(crate) fn first_line(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    Some(quote(line))
}

/// Begins a run. The receiver has its end when everything has ended, or why it could not begin.
pub(crate) fn start(plan: Plan) -> Result<(Running, oneshot::Receiver<Result<Ended, String>>), String> {
    let begun = || -> io::Result<_> {
        let (stop, until) = pipe()?;
        let (ended, receiver) = oneshot::channel();
        thread::Builder::new().name("command".to_owned()).spawn(move || {
            // Nobody waits any more when the prober is gone.
            let _ = ended.send(run(&plan, &stop));
        })?;
        Ok((Running { _until: until }, receiver))
    };
    begun().map_err(|error| format!("no thread for the command: {error}"))
}

/// The thread.
fn run(plan: &Plan, stop: &PipeReader) -> Result<Ended, String> {
    give_up_privileges()?;
    let mut child = spawn(plan)?;
    let group = Pid::from_child(&child);
    let watched = watch(&mut child, group, stop);
    let how = end(group);
    let (stdout, stderr) = watched.map_err(|error| format!("the command cannot be watched: {error}"))?;
    Ok(Ended { how: how.ok_or("the command's end was not seen")?, stdout, stderr })
}

/// This thread's, for the child to inherit.
fn give_up_privileges() -> Result<(), String> {
    shed().map_err(|error| format!("privileges cannot be given up: {error}"))
}

fn shed() -> rustix::io::Result<()> {
    set_no_new_privs(true)?;
    match set_thread_groups(&[]) {
        // Whoever is not root runs commands as himself, with the groups that he has.
        Err(Errno::PERM) if !geteuid().is_root() => {}
        ended => ended?,
    }
    clear_ambient_capability_set()?;
    // Without CAP_SETPCAP the bounding set stays, and gives nothing because of no_new_privs.
    for number in 0..u64::BITS {
        let _ = remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number));
    }
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { inheritable, ..capabilities(None)? })
}

fn spawn(plan: &Plan) -> Result<Child, String> {
    let mut command = Command::new(PRLIMIT);
    command
        .args(limits(plan.limit))
        .args(&plan.command)
        .env_clear()
        .envs(plan.environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .process_group(0)
        .stdin(input(&plan.input).map_err(|error| format!("the command's input cannot be kept: {error}"))?)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if geteuid().as_raw() != plan.user.uid {
        command.gid(plan.user.gid).uid(plan.user.uid);
    }
    command.spawn().map_err(|error| format!("{PRLIMIT} cannot be run as user {}: {error}", plan.user.name))
}

/// In memory as a whole: a command that does not read it keeps nobody waiting.
fn input(bytes: &[u8]) -> io::Result<Stdio> {
    if bytes.is_empty() {
        return Ok(Stdio::null());
    }
    let mut file = File::from(memfd_create("input", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// Options of `prlimit`. What is lower already stays: to raise a limit takes a privilege.
fn limits(time: Duration) -> impl Iterator<Item = String> {
    // Several threads may use all processors until the time is over; this is for what outlives the agent.
    let processor = ("cpu", Resource::Cpu, (time.as_secs() + 1) * 16);
    LIMITS.into_iter().chain([processor]).map(|(name, resource, most)| {
        let most = getrlimit(resource).maximum.map_or(most, |hard| hard.min(most));
        format!("--{name}={most}")
    })
}

/// Reads both streams until the first process ends or nobody waits for it any more.
fn watch(child: &mut Child, pid: Pid, stop: &PipeReader) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let mut streams = [
        Stream::new(child.stdout.take().map(OwnedFd::from))?,
        Stream::new(child.stderr.take().map(OwnedFd::from))?,
    ];
    loop {
        let [stdout, stderr] = &streams;
        let mut watched = vec![
            PollFd::new(&process, PollFlags::IN),
            // Nothing is ever written: it is its end that tells.
            PollFd::new(stop, PollFlags::empty()),
        ];
        let open = [stdout, stderr].into_iter().filter_map(|stream| stream.pipe.as_ref());
        watched.extend(open.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        match poll(&mut watched, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_over = watched[..2].iter().any(|fd| !fd.revents().is_empty());
        drop(watched);
        streams.iter_mut().for_each(Stream::read);
        if is_over {
            return Ok(streams.map(|stream| stream.kept).into());
        }
    }
}

/// One of the command's output streams.
struct Stream {
    /// `None`: it has ended.
    pipe: Option<File>,
    kept: Vec<u8>,
}

impl Stream {
    fn new(pipe: Option<OwnedFd>) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            rustix::io::ioctl_fionbio(pipe.as_fd(), true)?;
        }
        Ok(Self { pipe: pipe.map(File::from), kept: Vec::new() })
    }

    /// What is there now, up to a limit, so that one who writes without end cannot keep the thread.
    fn read(&mut self) {
        let mut buffer = [0; 16 * 1024];
        let Some(pipe) = &mut self.pipe else { return };
        match pipe.read(&mut buffer) {
            Ok(0) => self.pipe = None,
            Ok(length) => {
                let room = KEPT - self.kept.len();
                self.kept.extend_from_slice(&buffer[..length.min(room)]);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.pipe = None,
        }
    }
}

/// Kills what is left of the group and reaps all of it that is a child of this process; how its first process ended. The
/// number of the group is not given to anybody else before the last of it is reaped.
///
/// The others are children of this process only if it is the first of a container.
fn end(group: Pid) -> Option<End> {
    if let Err(Errno::PERM) = kill_process_group(group, Signal::KILL) {
        tracing::warn!("a command that is over cannot be killed; give the agent CAP_KILL");
    }
    let mut how = None;
    loop {
        match waitpgid(group, WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == group => how = end_of(status),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return how,
        }
    }
}

fn end_of(status: WaitStatus) -> Option<End> {
    status.exit_status().map(End::Exited).or(status.terminating_signal().map(End::Killed))
}
