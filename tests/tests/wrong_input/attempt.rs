//! One try with wrong input, and what must hold after it.

use std::{
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::TcAttachType;
use redirector_tests::{Agent, AgentConfig, Application, Host, Lab, VIP_PORT, VIP_V4, binary, routes_a_vip};
pub(crate) use redirector_tests::{nothing_is_left, programs};

/// An agent starts, and a member is chosen, within this.
pub(crate) const START: Duration = Duration::from_secs(10);

/// Exit codes of the contract.
pub(crate) const FAILED: i32 = 1;
pub(crate) const WRONG_USAGE: i32 = 2;
pub(crate) const NOT_RUNNING: i32 = 3;
pub(crate) const DEGRADED: i32 = 4;

/// How a verb ended, with what it printed.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// What a process does between fork and exec: system calls and nothing else.
pub(crate) type Before = fn() -> io::Result<()>;

/// A configuration that is not the lab's own, in a file of its own.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    host: Host,
    file: PathBuf,
    text: String,
    /// What the process does before it becomes the binary.
    before: Option<Before>,
}

impl Attempt {
    /// With the lab's configuration, to be changed.
    pub(crate) fn new(lab: &Lab) -> Self {
        Self::with(lab, &lab.config().to_string())
    }

    pub(crate) fn with(lab: &Lab, text: &str) -> Self {
        let file = directory(&lab.config()).join("wrong.toml");
        Self { host: lab.app().clone(), file, text: text.to_owned(), before: None }
    }

    /// Writes something else in the place of what is there, which must be there.
    pub(crate) fn replace(mut self, old: &str, new: &str) -> Self {
        assert!(self.text.contains(old), "{old:?} is not in {}", self.text);
        self.text = self.text.replace(old, new);
        self
    }

    /// The same for its first occurrence only.
    pub(crate) fn replace_first(mut self, old: &str, new: &str) -> Self {
        assert!(self.text.contains(old), "{old:?} is not in {}", self.text);
        self.text = self.text.replacen(old, new, 1);
        self
    }

    pub(crate) fn on(mut self, host: &Host) -> Self {
        self.host = host.clone();
        self
    }

    /// The process does this first.
    pub(crate) fn before(mut self, before: Before) -> Self {
        self.before = Some(before);
        self
    }

    /// The configuration file.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Runs a verb on this configuration to its end.
    pub(crate) fn run(&self, verb: &str) -> Result<Ended> {
        fs::write(&self.file, &self.text)?;
        let mut command = self.host.command(binary()?);
        command.arg(verb).arg("--config").arg(&self.file);
        if let Some(before) = self.before {
            // SAFETY: the functions handed in make system calls, take no lock and allocate nothing.
            unsafe { command.pre_exec(before) };
        }
        end(&self.host, command)
    }

    /// The verb ends with `code` and says `fragments`, in this order, in one paragraph.
    pub(crate) fn refused(&self, verb: &str, code: i32, fragments: &[&str]) -> Result<()> {
        let ended = self.run(verb)?;
        ended.is_refusal(code, fragments).with_context(|| verb.to_owned())
    }

    /// The same, and the message begins with the place of `at` in the file.
    pub(crate) fn refused_at(&self, verb: &str, at: &str, fragments: &[&str]) -> Result<()> {
        let offset = self.text.find(at).with_context(|| format!("{at:?} is not in {}", self.text))?;
        let before = &self.text[..offset];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        let place = format!("error: {}:{line}:{column}: ", self.file.display());
        self.refused(verb, WRONG_USAGE, &[&[place.as_str()], fragments].concat())
    }
}

impl Ended {
    pub(crate) fn is_refusal(&self, code: i32, fragments: &[&str]) -> Result<()> {
        ensure!(self.code == code, "exit code {}, not {code}: {self:#?}", self.code);
        ensure!(self.stdout.is_empty(), "something on standard output: {self:#?}");
        // Whatever comes before is the log, whose lines begin with a time.
        let said: Vec<_> = self.stderr.lines().filter(|line| !line.starts_with("20")).collect();
        let [error] = said[..] else { anyhow::bail!("not one paragraph: {}", self.stderr) };
        ensure!(error.starts_with("error: "), "{error}");
        // A next step follows the cause.
        ensure!(error.contains("; "), "no next step: {error}");
        let mut rest = error;
        for fragment in fragments {
            let at =
                rest.find(fragment).with_context(|| format!("no {fragment:?} (or not here) in: {error}"))?;
            rest = &rest[at + fragment.len()..];
        }
        Ok(())
    }
}

/// Runs a command of the host to its end.
pub(crate) fn end(host: &Host, command: Command) -> Result<Ended> {
    let output = host.output(command)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().with_context(|| format!("ended by a signal: {output:?}"))?;
    Ok(Ended { code, stdout: text(&output.stdout), stderr: text(&output.stderr) })
}

/// Where the lab keeps files of the agent.
pub(crate) fn directory(config: &AgentConfig) -> PathBuf {
    config.control_socket().parent().expect("it is a file in the lab's directory").to_owned()
}

/// An agent that serves while something is tried beside it, and an application that must not notice.
pub(crate) struct Serving {
    pub(crate) agent: Agent,
    application: Application,
}

impl Serving {
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        Ok(Self { agent, application: Application::start(lab, 2, "m1")? })
    }

    /// Device, programs, pins and routes are there, and no command of the application has failed.
    pub(crate) fn is_undisturbed(&self, lab: &Lab) -> Result<()> {
        // Some commands over what may have changed.
        std::thread::sleep(Duration::from_millis(50));
        let config = lab.config();
        let request = programs(lab.app(), "redirector0", TcAttachType::Egress)?.len();
        let reply = programs(lab.app(), "eth0", TcAttachType::Ingress)?.len();
        ensure!(request == 1 && reply == 1, "{request} programs at the VIP device, {reply} at the uplink");
        ensure!(
            config.pin_dir().join("maps").exists() && routes_a_vip(lab.app())?,
            "pins or routes are gone"
        );
        self.application.still_waits()?;
        for timeline in self.application.timelines() {
            ensure!(timeline.failures_since(timeline.start).is_empty(), "{timeline}");
            ensure!(timeline.connections() == timeline.workers && timeline.answers() > 0, "{timeline}");
        }
        let reply = lab.app().connect((VIP_V4, VIP_PORT).into())?.command(&["GET", "whoami"])?;
        ensure!(reply.text().as_deref() == Some("m1"), "a new connection: {reply:?}");
        Ok(())
    }

    /// The agent itself answers, too.
    pub(crate) fn goes_on(&self, lab: &Lab) -> Result<()> {
        self.is_undisturbed(lab)?;
        let status = self.agent.status()?;
        ensure!(status["services"][0]["epoch"] == 1 && status["services"][0]["active"] == "m1", "{status:#}");
        Ok(())
    }
}
