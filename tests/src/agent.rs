//! The agent as an operator has it: the real binary, its configuration file and its command line.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{ExitStatus, Output},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::{
    process::Signal,
    time::{ClockId, clock_gettime},
};
use serde_json::Value as Json;

use crate::{AgentConfig, Host, Process, diagnostics, scratch::Scratch, wait_until};

/// An agent starts, verifies its programs and answers within this.
const START: Duration = Duration::from_secs(20);

/// An agent on a host. Dropping it kills it and uninstalls what it left in the kernel.
#[derive(Debug)]
pub struct Agent {
    host: Host,
    binary: PathBuf,
    /// Further arguments of `run`.
    arguments: Vec<String>,
    /// Of the agent alone.
    environment: Vec<(String, String)>,
    config_file: PathBuf,
    socket: PathBuf,
    /// `None` between stop and start.
    process: Option<Process>,
    /// Logs of earlier runs.
    earlier: String,
    // Held so that the directories outlive the agent whatever is dropped first.
    _scratch: Arc<Scratch>,
}

impl Agent {
    pub(crate) fn start_new(host: &Host, scratch: &Arc<Scratch>, config: &AgentConfig) -> Result<Self> {
        let mut agent = Self::new(host, scratch, config)?;
        agent.start()?;
        Ok(agent)
    }

    /// One that is not started yet.
    pub(crate) fn new(host: &Host, scratch: &Arc<Scratch>, config: &AgentConfig) -> Result<Self> {
        let config_file = scratch.dir.join("redirector.toml");
        fs::write(&config_file, config.to_string())?;
        fs::create_dir_all(scratch.dir.join("state"))?;
        Ok(Self {
            host: host.clone(),
            binary: binary()?,
            arguments: Vec::new(),
            environment: Vec::new(),
            config_file,
            socket: config.control_socket(),
            process: None,
            earlier: String::new(),
            _scratch: Arc::clone(scratch),
        })
    }

    /// Starts it (again) and does not wait for anything.
    ///
    /// # Errors
    /// When it runs already, or there is no such program.
    pub fn begin(&mut self) -> Result<()> {
        anyhow::ensure!(self.process.is_none(), "the agent runs already");
        let mut command = self.host.command(&self.binary);
        command.arg("run").arg("--config").arg(&self.config_file).args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.process = Some(self.host.spawn("agent", command)?);
        Ok(())
    }

    /// The program that is started next, and what it is told besides `run --config`.
    pub fn becomes(&mut self, binary: &Path, arguments: &[&str]) {
        self.binary = binary.to_owned();
        self.arguments = arguments.iter().map(ToString::to_string).collect();
    }

    /// Sets an environment variable for all starts from now on.
    pub fn environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts it (again) and waits until it answers.
    ///
    /// # Errors
    /// When it ends or stays mute; with its log.
    pub fn start(&mut self) -> Result<()> {
        self.begin()?;
        let mut process = self.process.take().context("it was just started")?;
        let mut ended = None;
        let ready = wait_until("the agent answers", START, || {
            ended = process.ended().ok().flatten();
            ended.is_some() || self.status().is_ok()
        });
        let log = Arc::clone(process.log());
        self.process = Some(process);
        if let Some(status) = ended {
            self.process = None;
            // The last lines may still be in the pipe.
            thread::sleep(Duration::from_millis(50));
            bail!("the agent ended at its start: {status}\n{}", log.text());
        }
        ready.with_context(|| log.text())?;
        Ok(())
    }

    /// Runs a verb of the command line on the host.
    ///
    /// # Errors
    /// When the program does not start or does not end; its exit code is the caller's to judge.
    pub fn verb(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.host.command(&self.binary);
        command.args(arguments).env("REDIRECTOR_SOCKET", &self.socket);
        self.host.output(command)
    }

    /// `redirector status -o json`
    ///
    /// # Errors
    /// When the verb fails, with what it said.
    pub fn status(&self) -> Result<Json> {
        let output = self.verb(&["status", "-o", "json"])?;
        anyhow::ensure!(output.status.success(), "status: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).context("status -o json prints something else")
    }

    /// Has a service switched at once, past the checks, by a request on the control socket: a verb takes time to start.
    /// Returns when (`CLOCK_MONOTONIC`) it was asked for.
    ///
    /// # Errors
    /// When the agent refuses, with what it said.
    pub fn switch_at_once(&self, service: &str, member: &str) -> Result<Duration> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(START))?;
        let body = serde_json::json!({ "member": member, "force": true }).to_string();
        let request = format!(
            "POST /v1/services/{service}/switch HTTP/1.1\r\nHost: lab\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let asked = clock_gettime(ClockId::Monotonic);
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "switch: {answer}");
        Ok(Duration::try_from(asked)?)
    }

    /// Waits until `member` is active in every service.
    ///
    /// # Errors
    /// When it is not within `within`; with the last status.
    pub fn wait_active(&self, member: &str, within: Duration) -> Result<Duration> {
        let mut last = Json::Null;
        let active = |status: &Json| {
            status["services"]
                .as_array()
                .is_some_and(|all| all.iter().all(|service| service["active"] == member))
        };
        let what = format!("{member} is active");
        wait_until(&what, within, || {
            last = self.status().unwrap_or_else(|error| Json::String(format!("{error:#}")));
            active(&last)
        })
        .with_context(|| format!("{last:#}"))
    }

    /// Packets of one outcome since the maps were made, as `status` counts them; 0 when there is no such outcome.
    ///
    /// # Errors
    /// As [`Agent::status`].
    pub fn outcome(&self, name: &str) -> Result<u64> {
        Ok(self.status()?["outcomes"][name]["packets"].as_u64().unwrap_or_default())
    }

    /// Waits until the log holds a line with all of these words.
    ///
    /// # Errors
    /// When it does not within `within`; with the log.
    pub fn wait_logged(&self, words: &[&str], within: Duration) -> Result<Duration> {
        let said = || self.log().lines().any(|line| words.iter().all(|word| line.contains(word)));
        wait_until(&format!("the agent's log says {words:?}"), within, said).with_context(|| self.log())
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// When it does not run or does not end within ten seconds.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("the agent does not run")?;
        process.signal(Signal::TERM)?;
        let status = process.wait(Duration::from_secs(10));
        self.earlier.push_str(&process.log().text());
        status
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the agent does not run")?;
        process.kill()?;
        self.earlier.push_str(&process.log().text());
        Ok(())
    }

    /// It is not scheduled any more (SIGSTOP), as in a machine that is frozen or starved. It answers no verb then.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Ends [`Agent::freeze`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        let process = self.process.as_mut().context("the agent does not run")?;
        Ok(process.signal(signal)?)
    }

    /// `redirector uninstall`: nothing is left in the kernel. The agent is to be stopped before.
    ///
    /// # Errors
    /// When the verb fails, with what it said.
    pub fn uninstall(&self) -> Result<()> {
        let mut command = self.host.command(&self.binary);
        command.arg("uninstall").arg("--config").arg(&self.config_file);
        let output = self.host.output(command)?;
        anyhow::ensure!(output.status.success(), "uninstall: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// The configuration file; to be rewritten before [`Agent::start`].
    #[must_use]
    pub fn config_file(&self) -> &Path {
        &self.config_file
    }

    /// Process id; `None` while it is stopped.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// What it wrote, all runs.
    #[must_use]
    pub fn log(&self) -> String {
        let current = self.process.as_ref().map(|process| process.log().text()).unwrap_or_default();
        format!("{}{current}", self.earlier)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        diagnostics::keep(|| {
            let status =
                self.status().map_or_else(|error| format!("{error:#}"), |status| format!("{status:#}"));
            format!("--- status ---\n{status}\n{}", self.log())
        });
        drop(self.process.take());
        if let Err(error) = self.uninstall() {
            eprintln!("lab: the agent is not uninstalled (its pins are removed all the same): {error:#}");
        }
    }
}

/// The program under test: `REDIRECTOR_BIN`, or what Cargo built beside this executable.
///
/// # Errors
/// When there is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("REDIRECTOR_BIN") {
        return Ok(path.into());
    }
    // target/<profile>/<program> or target/<profile>/deps/<test>
    let program = env::current_exe()?;
    let near = program.ancestors().skip(1).take(2).map(|dir| dir.join("redirector"));
    let target = program.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists());
    let others =
        target.into_iter().flat_map(|dir| ["release", "debug"].map(|p| dir.join(p).join("redirector")));
    let mut candidates = near.chain(others);
    candidates.find(|path| path.is_file()).context(
        "there is no redirector binary beside this program; build it with `cargo build`, or name it in REDIRECTOR_BIN",
    )
}

/// A program whose kernel programs do the same as [`binary`]'s and are others: `REDIRECTOR_UPGRADE_BIN`, which `cargo
/// xtask test` builds. `None`: there is none.
#[must_use]
pub fn upgrade_binary() -> Option<PathBuf> {
    env::var_os("REDIRECTOR_UPGRADE_BIN").map(PathBuf::from)
}
