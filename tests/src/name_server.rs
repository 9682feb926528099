//! A real DNS server for names of the lab, whose records a test changes.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::{Host, Process, wait_until};

/// Names of the lab end in this; the server knows no others.
const DOMAIN: &str = "test";

/// A `dnsmasq` on a host. Its answers hold for one second.
#[derive(Debug)]
pub struct NameServer {
    host: Host,
    address: IpAddr,
    records: PathBuf,
    /// `None` while it is stopped.
    process: Option<Process>,
}

impl NameServer {
    /// Starts one at an address of `host`, and makes it the resolver of `client`. Files go to `dir`.
    ///
    /// # Errors
    /// When `dnsmasq` is missing or does not start.
    pub(crate) fn start_new(host: &Host, address: IpAddr, client: &Host, dir: &Path) -> Result<Self> {
        let resolv_conf = dir.join("resolv.conf");
        // One attempt of one second: a dead server is noticed soon.
        fs::write(&resolv_conf, format!("nameserver {address}\noptions timeout:1 attempts:1\n"))?;
        client.use_resolv_conf(&resolv_conf)?;
        let records = dir.join("records");
        fs::write(&records, "")?;
        let mut server = Self { host: host.clone(), address, records, process: None };
        server.start()?;
        Ok(server)
    }

    /// Starts it (again).
    ///
    /// # Errors
    /// As [`NameServer::start_new`].
    pub fn start(&mut self) -> Result<()> {
        let mut command = self.host.command("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--no-ping",
        ]);
        command.args([
            "--user=root",
            "--pid-file=",
            "--log-facility=-",
            "--bind-interfaces",
            "--local-ttl=1",
        ]);
        command.arg(format!("--listen-address={}", self.address)).arg(format!("--local=/{DOMAIN}/"));
        command.arg(format!("--addn-hosts={}", self.records.display()));
        let process = self.process.insert(self.host.spawn("dnsmasq", command)?);
        wait_read(process, 0)
    }

    /// Stops it at once (SIGKILL): questions are refused by its host.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        Ok(self.process.take().context("the name server does not run")?.kill()?)
    }

    /// These are the addresses of `name` from now on, and all that the server knows.
    ///
    /// # Errors
    /// When it does not read them.
    pub fn set(&mut self, name: &str, addresses: &[IpAddr]) -> Result<()> {
        let lines = addresses.iter().map(|address| format!("{address} {name}\n"));
        fs::write(&self.records, lines.collect::<String>())?;
        let Some(process) = &mut self.process else { return Ok(()) };
        let before = reads(process);
        process.signal(Signal::HUP)?;
        wait_read(process, before)
    }
}

/// How often it has read its records: it says so each time.
fn reads(process: &Process) -> usize {
    process.log().text().matches(": read ").count()
}

fn wait_read(process: &Process, before: usize) -> Result<()> {
    let read = || reads(process) > before;
    wait_until("dnsmasq has read its records", Duration::from_secs(5), read)
        .with_context(|| process.log().text())?;
    Ok(())
}
