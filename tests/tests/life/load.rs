//! Killed, started and upgraded under load: no command fails, no flow ends.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::TcAttachType;
use redirector_tests::{
    Agent, Lab, Load, Offloads, Scenario, VIP_PORT, VIP_V4, VIP_V6, WaitingClient, Workers, binary,
    new_connections_are_served_by, one_program_on_each_hook, programs, upgrade_binary, vip_addresses,
};

use super::START;

const RESTARTS: u32 = 20;
/// Half of them over IPv4, half over IPv6.
const CLIENTS: usize = 32;

/// Outcomes of a flow's life without trouble, and of what is none of ours.
const HARMLESS: [&str; 7] = ["carried", "replied", "opened", "not_ours", "not_ip", "not_tcp", "fragment"];

fn scenario() -> Scenario {
    Scenario::new(Offloads::On).limit(Duration::from_secs(180))
}

/// Clients that notice everything.
struct Clients {
    workers: [Workers; 2],
    waiting: Vec<WaitingClient>,
    /// What the programs had counted, outcomes that are not [`HARMLESS`].
    before: Vec<(String, u64)>,
    /// The member's side of their connections, by the server's numbers.
    connections: BTreeSet<String>,
    since: Instant,
}

impl Clients {
    fn start(lab: &Lab, agent: &Agent) -> Result<Self> {
        let since = Instant::now();
        let load = |address: SocketAddr| Workers::start(lab.app(), Load::new(CLIENTS / 2, address));
        let workers = [load((VIP_V4, VIP_PORT).into())?, load((VIP_V6, VIP_PORT).into())?];
        for group in &workers {
            group.wait_served_by("m1", since, START)?;
        }
        let waiting = vip_addresses().map(|address| WaitingClient::blocked(lab.app(), address, "nothing"));
        let waiting = waiting.into_iter().collect::<Result<_>>()?;
        let connections = connections(lab)?;
        ensure!(
            connections.len() == CLIENTS + vip_addresses().len(),
            "not all are connected: {connections:?}"
        );
        Ok(Self { workers, waiting, before: trouble(agent)?, connections, since })
    }

    /// No command failed, no client connected anew, the member lost no connection, and no packet was refused, dropped
    /// or answered with a reset.
    fn noticed_nothing(&self, lab: &Lab, agent: &Agent) -> Result<()> {
        for group in &self.workers {
            let timeline = group.timeline();
            ensure!(timeline.failures_since(self.since).is_empty(), "{timeline}");
            ensure!(timeline.connections() == timeline.workers, "somebody connected anew: {timeline}");
            let gap = timeline.longest_gap(self.since);
            ensure!(gap < Duration::from_secs(1), "somebody waited for {gap:?}: {timeline}");
        }
        for client in &self.waiting {
            ensure!(client.woken().is_none(), "{client:?} was woken: {:?}", client.woken());
        }
        let connections = connections(lab)?;
        ensure!(
            self.connections == connections,
            "the member's side: {:?}, then {connections:?}",
            self.connections
        );
        let after = trouble(agent)?;
        ensure!(self.before == after, "packets in trouble: {:?}, then {after:?}", self.before);
        Ok(())
    }
}

fn trouble(agent: &Agent) -> Result<Vec<(String, u64)>> {
    let status = agent.status()?;
    let outcomes = status["outcomes"].as_object().with_context(|| format!("no outcomes: {status:#}"))?;
    let of_trouble = outcomes.iter().filter(|(name, _)| !HARMLESS.contains(&name.as_str()));
    Ok(of_trouble
        .map(|(name, count)| (name.clone(), count["packets"].as_u64().unwrap_or(u64::MAX)))
        .collect())
}

/// Connections of workers and waiting clients at `m1`. The agent's probes say `PING`.
fn connections(lab: &Lab) -> Result<BTreeSet<String>> {
    let ours =
        |line: &&String| ["cmd=set", "cmd=get", "cmd=blpop"].iter().any(|command| line.contains(command));
    let number = |line: &String| line.split_whitespace().next().unwrap_or_default().to_owned();
    Ok(lab.member("m1").clients()?.iter().filter(ours).map(number).collect())
}

fn epochs(agent: &Agent) -> Result<Vec<u64>> {
    let status = agent.status()?;
    let services = status["services"].as_array().context("no services")?;
    services.iter().map(|service| service["epoch"].as_u64().context("no epoch")).collect()
}

/// SIGKILL, and then a start; each third start is killed itself, later each time.
#[test]
fn killed_and_restarted_under_load() {
    scenario().run(|lab| {
        let mut agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        let epochs_before = epochs(&agent)?;
        let clients = Clients::start(lab, &agent)?;
        for number in 0..RESTARTS {
            agent.kill()?;
            if number % 3 == 0 {
                agent.begin()?;
                thread::sleep(Duration::from_millis(15) * number);
                agent.kill()?;
            }
            agent.start().with_context(|| format!("restart {number}"))?;
            one_program_on_each_hook(lab).with_context(|| format!("restart {number}"))?;
        }
        clients.noticed_nothing(lab, &agent)?;
        ensure!(epochs(&agent)? == epochs_before, "a restart is no switch: {:#}", agent.status()?);
        new_connections_are_served_by(lab, "m1")
    });
}

/// The same, to a binary whose programs are others and back, with SIGKILL and SIGTERM in turns; `kernel_log` and
/// `on_stop` change too.
#[test]
fn upgraded_under_load() {
    let Some(upgrade) = upgrade_binary() else {
        // As a lab that is not there.
        assert!(
            std::env::var_os("REDIRECTOR_LAB_REQUIRED").is_none(),
            "REDIRECTOR_UPGRADE_BIN names no binary: build one with `cargo build -p redirector --features \
             other-programs` and keep a copy, or use `cargo xtask test`"
        );
        eprintln!("skipped: REDIRECTOR_UPGRADE_BIN names no binary");
        return;
    };
    scenario().run(|lab| {
        let mut agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        let epochs_before = epochs(&agent)?;
        let clients = Clients::start(lab, &agent)?;
        let plain = lab.config().to_string();
        let detaching = lab.config().datapath_line("on_stop = \"detach\"").to_string();
        let mut tags = Vec::new();
        for number in 0..RESTARTS {
            let binary = if number % 2 == 0 { upgrade.clone() } else { binary()? };
            let arguments: &[&str] = if number % 4 < 2 { &["--kernel-log"] } else { &[] };
            // An agent that would detach when it stops must be killed.
            if number % 4 == 3 {
                agent.kill()?;
            } else {
                ensure!(agent.terminate()?.success(), "SIGTERM");
            }
            fs::write(agent.config_file(), if number % 4 == 2 { &detaching } else { &plain })?;
            agent.becomes(&binary, arguments);
            agent.start().with_context(|| format!("upgrade {number}"))?;
            one_program_on_each_hook(lab).with_context(|| format!("upgrade {number}"))?;
            tags.push(tag(lab)?);
        }
        // The log changes the programs too: compare those that differ in nothing else.
        for pair in tags.chunks(2) {
            let [new, old] = pair else { bail!("an odd number of upgrades") };
            ensure!(new != old, "both binaries have the same programs (tag {new:x}): what was upgraded?");
        }
        ensure!(tags[2] == tags[6] && tags[3] == tags[7], "a program differs from itself: {tags:x?}");
        clients.noticed_nothing(lab, &agent)?;
        ensure!(epochs(&agent)? == epochs_before, "an upgrade is no switch: {:#}", agent.status()?);
        new_connections_are_served_by(lab, "m1")
    });
}

/// Sum over the instructions of the program at the uplink.
fn tag(lab: &Lab) -> Result<u64> {
    let found = programs(lab.app(), "eth0", TcAttachType::Ingress)?;
    Ok(found.first().context("no program at the uplink")?.tag())
}
