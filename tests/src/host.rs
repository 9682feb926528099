//! A host of the lab: a namespace with a name, and ways to run things in it.

use std::{
    ffi::CString,
    fmt, fs, io,
    net::SocketAddr,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    panic,
    path::Path,
    process::{ChildStdin, ChildStdout, Command, Output},
    sync::{Arc, OnceLock},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{Connection, Namespace, Offloads, Process, counters, offloads, process, resolv_conf};

/// A host. Clones are the same host; its namespace ends with the last of them.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    namespace: Namespace,
    /// What its commands see as `/etc/resolv.conf`.
    resolv_conf: OnceLock<CString>,
}

impl Host {
    /// Makes a host with nothing but a loopback device, which is down.
    ///
    /// # Errors
    /// As [`Namespace::new`].
    pub fn new(name: &str) -> Result<Self> {
        let namespace = Namespace::new().with_context(|| format!("host {name}"))?;
        Ok(Self { inner: Arc::new(Inner { name: name.to_owned(), namespace, resolv_conf: OnceLock::new() }) })
    }

    /// Its name within the lab: `app`, `router`, `m1`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.inner.namespace
    }

    /// Runs `work` on a thread of its own inside the host and waits for it. Sockets that it makes stay in the host
    /// wherever they are used afterwards. `/proc/net` is that of the process: read `/proc/thread-self/net`.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.inner.namespace.run(work)
    }

    /// Runs an asynchronous client inside the host, on a runtime of its own.
    ///
    /// # Errors
    /// When the runtime cannot be made.
    pub fn block_on<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> io::Result<T> {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(async { work().await }))
        })
    }

    /// Starts a thread that lives in the host; it keeps the namespace alive.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn spawn_thread<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        let host = self.clone();
        thread::Builder::new().name(format!("{}-{name}", self.name())).spawn(move || {
            if let Err(error) = host.namespace().enter() {
                panic::panic_any(format!("host {}: setns: {error}", host.name()));
            }
            work()
        })
    }

    /// Commands of the host see `file` as `/etc/resolv.conf` from now on; the machine's own stays as it is.
    ///
    /// # Errors
    /// When it was said before.
    pub fn use_resolv_conf(&self, file: &Path) -> Result<()> {
        let file = CString::new(file.as_os_str().as_bytes())?;
        let again = |_| anyhow::anyhow!("host {} has a resolv.conf already", self.name());
        self.inner.resolv_conf.set(file).map_err(again)
    }

    /// A command that will run in the host; to be handed to [`Host::spawn`] or [`Host::output`].
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let host = self.clone();
        // SAFETY: the closure runs between fork and exec and makes system calls only; it takes no lock and allocates
        // nothing.
        unsafe {
            command.pre_exec(move || {
                host.namespace().enter()?;
                host.inner.resolv_conf.get().map_or(Ok(()), |file| resolv_conf::replace(file))
            });
        }
        command
    }

    /// Starts a [`Host::command`] whose output is kept and which dies with the returned value or this process.
    ///
    /// # Errors
    /// When the program does not start.
    pub fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        Process::spawn(&format!("{}/{name}", self.name()), command)
    }

    /// The same, but standard input and standard output are the caller's.
    pub(crate) fn spawn_to_talk(
        &self,
        name: &str,
        command: Command,
    ) -> Result<(Process, ChildStdin, ChildStdout)> {
        Process::spawn_to_talk(&format!("{}/{name}", self.name()), command)
    }

    /// Runs a [`Host::command`] to its end, for ten seconds at most. Its exit code is the caller's to judge.
    ///
    /// # Errors
    /// When the program does not start or does not end.
    pub fn output(&self, command: Command) -> Result<Output> {
        process::output(command, Duration::from_secs(10)).with_context(|| format!("host {}", self.name()))
    }

    /// Opens a client connection from the host.
    ///
    /// # Errors
    /// Those of `connect(2)`.
    pub fn connect(&self, address: SocketAddr) -> io::Result<Connection> {
        self.run(|| Connection::open(address))
    }

    /// Writes a setting of the host's own network: `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// When the setting does not exist or refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        // /proc/sys/net shows the namespace of the calling thread.
        self.run(|| fs::write(format!("/proc/sys/{name}"), value))
            .with_context(|| format!("host {}: sysctl {name} = {value}", self.name()))
    }

    /// A counter of the host's network stack: `("Tcp", "InCsumErrors")`, `("Udp6", "InCsumErrors")`.
    ///
    /// # Errors
    /// When the kernel has no such counter.
    pub fn snmp(&self, protocol: &str, name: &str) -> Result<u64> {
        self.run(|| counters::read(protocol, name)).with_context(|| format!("host {}", self.name()))
    }

    /// Every checksum error counter of the host that is not 0.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn checksum_errors(&self) -> Result<Vec<(String, u64)>> {
        self.run(counters::checksum_errors).with_context(|| format!("host {}", self.name()))
    }

    /// Switches transmit checksum, TSO, GSO and GRO of a device together.
    ///
    /// # Errors
    /// When there is no such device, or it does not let itself be changed.
    pub fn set_offloads(&self, device: &str, offloads: Offloads) -> Result<()> {
        self.run(|| offloads::set(device, offloads)).with_context(|| format!("host {}", self.name()))
    }

    /// Whether transmit checksum, TSO, GSO, GRO of a device are on, in this order.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn offloads(&self, device: &str) -> Result<[bool; 4]> {
        self.run(|| offloads::get(device)).with_context(|| format!("host {}", self.name()))
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pid, fd) = (std::process::id(), self.namespace().raw_fd());
        write!(f, "{}: nsenter --net=/proc/{pid}/fd/{fd}", self.name())
    }
}
