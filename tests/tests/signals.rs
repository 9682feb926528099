//! What the kernel sees of live traffic makes the agent look at once; the agent's own probes decide.
//!
//! With the agent's defaults: one probe a second, silence borne for 300 ms, a stall for one second. What the firewall of a member
//! does to one container (told by the TTL of its packets) must never move the host.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{
    Agent, AgentConfig, Connection, Host, Lab, Load, Member, Offloads, Scenario, VIP_PORT, VIP_V4, Value,
    Workers, slowness, wait_until,
};
use serde_json::Value as Json;

const START: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(5);

/// Of each kind of trouble.
const ROUNDS: u32 = 3;

/// From the decision to clients that are served by the other member.
const AFTERWARDS: Duration = Duration::from_millis(50);

/// The agent's defaults, one service, and back to the better member soon.
fn config(lab: &Lab) -> AgentConfig {
    let moment = Duration::from_millis(200);
    lab.config().one_service().timing(None).failback(moment, moment).service_line("on_failback = \"reset\"")
}

fn agent(lab: &Lab, config: &AgentConfig) -> Result<Agent> {
    let agent = lab.agent(config)?;
    agent.wait_active("m1", START)?;
    Ok(agent)
}

/// Clients that ask all the time.
fn load(lab: &Lab) -> Result<Workers> {
    let workers = Workers::start(lab.app(), Load::new(4, (VIP_V4, VIP_PORT)))?;
    workers.wait_served_by("m1", Instant::now(), START)?;
    Ok(workers)
}

/// A container whose packets are told from all others: they set out with a lower TTL.
fn container(lab: &Lab) -> Result<Host> {
    let container = lab.container("c1")?;
    container.sysctl("net/ipv4/ip_default_ttl", "50")?;
    Ok(container)
}

/// What the firewall of a member does with the packets of the container, until it is [`unlocked`].
fn firewall(member: &Member, verdict: &str) -> Result<()> {
    let rule = format!("ip ttl < 56 tcp dport 6379 counter {verdict}");
    let chain = format!("chain input {{ type filter hook input priority 0; {rule}; }}");
    member.host().nft(&format!("table inet container {{ {chain}; }}")).map(drop)
}

fn unlocked(member: &Member) -> Result<()> {
    member.host().nft("delete table inet container").map(drop)
}

fn member_status(agent: &Agent, service: usize) -> Result<Json> {
    Ok(agent.status()?["services"][service]["members"][0].clone())
}

/// How often the kernel, or the watch, saw this at `m1`.
fn seen(agent: &Agent, signal: &str) -> Result<u64> {
    let status = member_status(agent, 0)?;
    status["signals"][signal].as_u64().with_context(|| format!("{signal}: {status:#}"))
}

fn wait_seen(agent: &Agent, signal: &str, before: u64) -> Result<()> {
    wait_until(signal, SOON, || seen(agent, signal).is_ok_and(|now| now > before)).with_context(|| {
        member_status(agent, 0).map_or_else(|error| format!("{error:#}"), |it| format!("{it:#}"))
    })?;
    Ok(())
}

fn epoch(agent: &Agent) -> Result<u64> {
    agent.status()?["services"][0]["epoch"].as_u64().context("epoch")
}

/// The events of this name so far.
fn events(agent: &Agent, name: &str) -> Result<Vec<Json>> {
    let output = agent.verb(&["events", "-o", "json"])?;
    ensure!(output.status.success(), "events: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let events: Vec<Json> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    Ok(events.into_iter().filter(|event| event["event"] == name).collect())
}

fn patient(host: &Host) -> Result<Connection> {
    let connection = host.connect((VIP_V4, VIP_PORT).into())?;
    connection.set_time_limit(Some(SOON))?;
    Ok(connection)
}

/// Something that happens to a member.
type Act = fn(&Lab, &Member) -> Result<()>;

/// A black hole is left 300 ms, a frozen server one second after the look, which comes 100 ms after clients wait: no matter where
/// between two probes it happens.
#[test]
fn trouble_with_traffic_is_decided_without_waiting_for_the_next_probe() {
    Scenario::new(Offloads::On).run(|lab| {
        let agent = agent(lab, &config(lab))?;
        let workers = load(lab)?;
        let strikes: [(_, _, Act, Act); 2] = [
            ("black hole", 400, Lab::black_hole, Lab::heal),
            ("freeze", 1110, |_, member| member.freeze(), |_, member| member.thaw()),
        ];
        for (name, expected, strike, undo) in strikes {
            let mut measured = Vec::new();
            for round in 0..ROUNDS {
                agent.wait_active("m1", START)?;
                workers.wait_served_by("m1", Instant::now(), START)?;
                // Anywhere between two probes, and load for a while.
                thread::sleep(Duration::from_millis(500 + u64::from(round) * 237));
                let since = Instant::now();
                strike(lab, lab.member("m1"))?;
                measured.push(workers.wait_served_by("m2", since, START)?);
                undo(lab, lab.member("m1"))?;
            }
            eprintln!("{name} with traffic, default profile: served by the other after {measured:?}");
            let bound = (Duration::from_millis(expected) + AFTERWARDS) * slowness();
            measured.sort_unstable();
            ensure!(measured[measured.len() / 2] < bound, "{name}: {measured:?}, the bound is {bound:?}");
        }
        Ok(())
    });
}

/// Each signal by what happens to a container, while everybody else is served: nobody moves.
#[test]
fn every_signal_is_seen_by_its_name_and_moves_nobody() {
    Scenario::new(Offloads::On).run(|lab| {
        let (container, m1) = (container(lab)?, lab.member("m1"));
        let agent = agent(lab, &config(lab))?;
        let _workers = load(lab)?;
        let before = epoch(&agent)?;

        firewall(m1, "reject with tcp reset")?;
        ensure!(patient(&container).is_err(), "the firewall refuses");
        wait_seen(&agent, "refused", 0)?;
        unlocked(m1)?;

        firewall(m1, "drop")?;
        let connecting = container.spawn_thread("connect", || Connection::open((VIP_V4, VIP_PORT).into()))?;
        wait_seen(&agent, "unanswered", 0)?;
        unlocked(m1)?;
        let connected = connecting.join().map_err(|_| anyhow::anyhow!("the client panicked"))?;
        connected.context("the SYN that was sent again opens it")?;

        let mut asking = patient(&container)?;
        firewall(m1, "drop")?;
        asking.send(&["PING"])?;
        wait_seen(&agent, "retransmitted", 0)?;
        unlocked(m1)?;
        firewall(m1, "reject with icmpx type host-unreachable")?;
        asking.send(&["PING"])?;
        wait_seen(&agent, "unreachable", 0)?;
        unlocked(m1)?;
        firewall(m1, "reject with tcp reset")?;
        asking.send(&["PING"])?;
        wait_seen(&agent, "reset", 0)?;
        unlocked(m1)?;

        let mut closing = patient(&container)?;
        let Value::Integer(id) = closing.command(&["CLIENT", "ID"])? else { anyhow::bail!("CLIENT ID") };
        m1.command(&["CLIENT", "KILL", "ID", &id.to_string()])?;
        wait_seen(&agent, "closed", 0)?;

        m1.command(&["CONFIG", "SET", "maxmemory", "1"])?;
        let reply = patient(&container)?.command(&["SET", "key", "value"])?;
        ensure!(reply.text().is_some_and(|text| text.starts_with("OOM")), "{reply:?}");
        m1.command(&["CONFIG", "SET", "maxmemory", "0"])?;
        wait_seen(&agent, "error_reply", 0)?;
        ensure!(
            member_status(&agent, 0)?["error_replies"]["oom"].as_u64() > Some(0),
            "{:#}",
            agent.status()?
        );

        m1.stall(Duration::from_millis(400))?;
        wait_seen(&agent, "stalled", 0)?;
        thread::sleep(Duration::from_millis(500));
        ensure!(epoch(&agent)? == before, "nobody was to move: {:#}", agent.status()?);

        // Nothing at all comes back: this one ends in a switch.
        lab.black_hole(m1)?;
        wait_seen(&agent, "silent", 0)?;
        agent.wait_active("m2", START)?;
        lab.heal(m1)?;

        let told = events(&agent, "signal")?;
        for name in
            ["refused", "unanswered", "retransmitted", "unreachable", "reset", "closed", "stalled", "silent"]
        {
            ensure!(told.iter().any(|event| event["signal"] == name), "{name} was not told: {told:#?}");
        }
        let status = member_status(&agent, 0)?;
        let [rtt, shortest, connect] =
            ["rtt_ms", "rtt_min_ms", "connect_ms"].map(|name| status[name].as_f64());
        let (rtt, shortest) = (rtt.context("rtt_ms")?, shortest.context("rtt_min_ms")?);
        ensure!(shortest > 0.0 && shortest <= rtt && rtt < 1000.0 && connect > Some(0.0), "{status:#}");
        let table = agent.verb(&["status", "orders"])?;
        let table = String::from_utf8(table.stdout)?;
        ensure!(table.contains("seen by the kernel") && table.contains("unreachable "), "{table}");
        Ok(())
    });
}

/// Thousands of refusals are so many reasons to look, and no proof. They do not make the agent probe without end either.
#[test]
fn a_firewall_that_rejects_one_container_moves_nobody() {
    Scenario::new(Offloads::On).run(|lab| {
        let (container, m1) = (container(lab)?, lab.member("m1"));
        let agent = agent(lab, &config(lab))?;
        let workers = load(lab)?;
        let before = epoch(&agent)?;
        firewall(m1, "reject with tcp reset")?;
        let over = AtomicBool::new(false);
        let refused = container.run(|| {
            thread::scope(|scope| {
                let client = scope.spawn(|| {
                    let mut refused = 0;
                    while !over.load(Ordering::Relaxed) {
                        refused += u32::from(Connection::open((VIP_V4, VIP_PORT).into()).is_err());
                        thread::sleep(Duration::from_millis(1));
                    }
                    refused
                });
                thread::sleep(Duration::from_secs(3));
                over.store(true, Ordering::Relaxed);
                client.join()
            })
        });
        let refused = refused.map_err(|_| anyhow::anyhow!("the client panicked"))?;
        let seen = seen(&agent, "refused")?;
        eprintln!("{refused} connections of a container were refused, {seen} seen");
        ensure!(refused > 100 && seen >= u64::from(refused), "{refused} refused, {seen} seen");
        ensure!(epoch(&agent)? == before, "a firewall moved the host: {:#}", agent.status()?);
        let told = events(&agent, "signal")?;
        let refusals: Vec<_> = told.iter().filter(|event| event["signal"] == "refused").collect();
        ensure!((1..10).contains(&refusals.len()) && refusals[0]["looked"] == true, "{told:#?}");
        ensure!(workers.stop().failures_since(Instant::now() - Duration::from_secs(3)).is_empty());
        Ok(())
    });
}

/// `observe` tells and does not look; `off` does not even tell. Either way the kernel counts.
#[test]
fn signals_that_are_not_acted_on() {
    Scenario::new(Offloads::On).run(|lab| {
        let (container, m1) = (container(lab)?, lab.member("m1"));
        let config = |mode: &str| config(lab).service_line(&format!("signals = \"{mode}\""));
        let mut agent = agent(lab, &config("observe"))?;
        firewall(m1, "reject with tcp reset")?;
        ensure!(patient(&container).is_err(), "the firewall refuses");
        wait_seen(&agent, "refused", 0)?;
        let told = events(&agent, "signal")?;
        ensure!(told.len() == 1 && told[0]["signal"] == "refused" && told[0]["looked"] == false, "{told:#?}");

        fs::write(agent.config_file(), config("off").to_string())?;
        ensure!(agent.verb(&["reload"])?.status.success(), "{}", agent.log());
        let before = seen(&agent, "refused")?;
        ensure!(patient(&container).is_err(), "the firewall refuses");
        wait_seen(&agent, "refused", before)?;
        m1.freeze()?;
        let mut asking = patient(lab.app())?;
        asking.send(&["PING"])?;
        thread::sleep(Duration::from_millis(300));
        m1.thaw()?;
        ensure!(seen(&agent, "stalled")? == 0, "nobody looks");
        ensure!(events(&agent, "signal")?.len() == told.len(), "{:#?}", events(&agent, "signal")?);

        // What was counted stays with the maps, and is no news to the next agent.
        agent.terminate()?;
        let before = events_of_log(&agent);
        fs::write(agent.config_file(), config("act").to_string())?;
        agent.start()?;
        agent.wait_active("m1", START)?;
        ensure!(seen(&agent, "refused")? >= 2, "{:#}", agent.status()?);
        thread::sleep(Duration::from_millis(300));
        ensure!(events_of_log(&agent) == before, "what was long ago was told: {}", agent.log());
        unlocked(m1)?;

        // So does what only the agent sees: a series of Prometheus never falls.
        m1.stall(Duration::from_millis(400))?;
        asking.send(&["PING"])?;
        wait_seen(&agent, "stalled", 0)?;
        let stalled = seen(&agent, "stalled")?;
        agent.terminate()?;
        agent.start()?;
        agent.wait_active("m1", START)?;
        ensure!(seen(&agent, "stalled")? >= stalled, "{:#}", agent.status()?);
        Ok(())
    });
}

/// How many signals the log tells of.
fn events_of_log(agent: &Agent) -> usize {
    agent.log().lines().filter(|line| line.contains("signal") && line.contains("refused")).count()
}

/// A reload puts a service in front of all others: what the kernel sees goes on to be told of the service that it is about.
#[test]
fn a_reload_does_not_mix_up_whose_signals_they_are() {
    Scenario::new(Offloads::On).run(|lab| {
        let (container, m1) = (container(lab)?, lab.member("m1"));
        let agent = agent(lab, &config(lab))?;
        let text = fs::read_to_string(agent.config_file())?;
        let (head, orders) = text.split_once("\n[[service]]").context("a service")?;
        let early = orders.replace("\"orders\"", "\"early\"").replace("10.255.0.1", "10.255.0.9");
        fs::write(agent.config_file(), format!("{head}\n[[service]]{early}\n[[service]]{orders}"))?;
        ensure!(agent.verb(&["reload"])?.status.success(), "{}", agent.log());
        agent.wait_active("m1", START)?;
        firewall(m1, "reject with tcp reset")?;
        ensure!(patient(&container).is_err(), "the firewall refuses");
        let of = |service: usize| {
            Ok::<_, anyhow::Error>(member_status(&agent, service)?["signals"]["refused"].as_u64())
        };
        wait_until("the refusal is seen", SOON, || of(1).is_ok_and(|seen| seen > Some(0)))?;
        ensure!(of(0)? == Some(0), "{:#}", agent.status()?);
        wait_until("it is told", SOON, || events(&agent, "signal").is_ok_and(|told| !told.is_empty()))?;
        let told = events(&agent, "signal")?;
        ensure!(told.iter().all(|event| event["service"] == "orders"), "{told:#?}");
        unlocked(m1)
    });
}
