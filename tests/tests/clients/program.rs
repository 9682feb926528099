//! A client program that runs: how it is started, and the lines that it reports.

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use redirector_tests::{Host, Process};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value as Json;

/// All of them, as the table calls them.
pub const CLIENTS: [&str; 5] = ["redis-cli", "redis-py", "redis-rs", "ioredis", "node-redis"];
/// What each does with its connections.
pub const USES: [&str; 5] = ["pool", "idle", "blocked", "subscribed", "pipeline"];

/// How long programs leave their idle connections unused after the failover.
pub const IDLE: Duration = Duration::from_millis(300);

/// Seconds of the clock that programs report with.
pub fn now() -> f64 {
    let now = clock_gettime(ClockId::Monotonic);
    #[allow(clippy::cast_precision_loss, reason = "seconds since the machine started")]
    let seconds = now.tv_sec as f64 + now.tv_nsec as f64 / 1e9;
    seconds
}

/// Where `cargo xtask setup` puts the libraries. Says why the test is skipped when it did not, unless
/// `REDIRECTOR_LAB_REQUIRED` is set.
///
/// # Panics
/// When they are not there and must be.
pub fn installed() -> Option<PathBuf> {
    let program = env::current_exe().expect("this program has a path");
    let target = program.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists());
    let found = target.map(|dir| dir.join("clients")).filter(|dir| dir.join("installed").is_file());
    if found.is_none() {
        let reason = "the client libraries are not installed; run `cargo xtask setup`";
        assert!(env::var_os("REDIRECTOR_LAB_REQUIRED").is_none(), "{reason}");
        eprintln!("skipped: {reason}");
    }
    found
}

/// A client program on a host.
pub struct Program {
    /// One of [`CLIENTS`].
    pub client: &'static str,
    name: String,
    process: Process,
}

impl Program {
    /// Starts it and does not wait for anything.
    pub fn start(installed: &Path, client: &'static str, host: &Host, vip: SocketAddr) -> Result<Self> {
        let python = installed.join("python/bin/python");
        let (interpreter, script) = match client {
            "redis-cli" => (python, Some("redis_cli.py")),
            "redis-py" => (python, Some("redis_py.py")),
            "ioredis" => ("node".into(), Some("ioredis.js")),
            "node-redis" => ("node".into(), Some("node_redis.js")),
            _ => (env!("CARGO_BIN_EXE_redis_rs").into(), None),
        };
        let name = format!("{client}@{}", host.name());
        let mut command = host.command(interpreter);
        command.args(script.map(|script| Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(script)));
        command.args([&name, &vip.ip().to_string(), &vip.port().to_string()]);
        command.env("NODE_PATH", installed.join("javascript/node_modules"));
        // Nothing is left in the work tree.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        Ok(Self { client, process: host.spawn(&name, command)?, name })
    }

    /// Client and host, which is unique.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it reported so far.
    pub fn lines(&self) -> Vec<Json> {
        let log = self.process.log().text();
        let lines = log.lines().filter_map(|line| line.find('{').map(|start| &line[start..]));
        lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// All that it wrote.
    pub fn log(&self) -> String {
        self.process.log().text()
    }
}
