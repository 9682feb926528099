//! Whoever hangs on a member that was left is woken, wherever it is, and nobody else is.
//!
//! A client hears a reset: `ConnectionReset`, or `ConnectionRefused` if it was connecting. `ConnectionAborted` is what a
//! destroyed socket says, which is for those that do not believe their reset.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{
    Agent, AgentConfig, CHANNEL, Failure, Host, Lab, Member, Offloads, Process, QUEUE, Scenario, Value,
    WaitingClient, first_vips, slowness, wait_until, waiting_at, with_and_without_offloads,
};

/// The first [`Lab::container`].
const CONTAINER: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 30, 0, 2), Ipv6Addr::new(0xfd30, 0, 0, 0, 0, 0, 0, 2));

const START: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(5);
/// From an operator's word to the last client's error. A reset takes milliseconds; the machine may do something else.
const AT_ONCE: Duration = Duration::from_millis(700);

with_and_without_offloads! {
    containers,
    masqueraded_containers_and_other_machines,
    whoever_is_connecting_is_refused,
}

fn agent(lab: &Lab, config: &AgentConfig) -> Result<Agent> {
    let agent = lab.agent(&config.clone().service_line("on_failback = \"reset\""))?;
    agent.wait_active("m1", START)?;
    Ok(agent)
}

/// A process in the host's network namespace, as containers have them: without one nobody finds the namespace.
fn process(host: &Host) -> Result<Process> {
    let mut command = host.command("sleep");
    command.arg("1000");
    host.spawn("sleep", command)
}

/// A blocked client and a subscriber at each VIP.
fn waiting(host: &Host) -> Result<Vec<WaitingClient>> {
    let both =
        |vip| [WaitingClient::blocked(host, vip, QUEUE), WaitingClient::subscribed(host, vip, CHANNEL)];
    let clients = first_vips().into_iter().flat_map(both).collect::<Result<Vec<_>>>()?;
    for client in &clients {
        ensure!(client.member == "m1", "{client:?}");
    }
    // A delayed acknowledgement would be the next packet that the sweep does not wait for.
    thread::sleep(Duration::from_millis(200));
    Ok(clients)
}

/// An operator moves both services.
fn switch(agent: &Agent, to: &str) -> Result<Instant> {
    let since = Instant::now();
    for service in ["orders", "orders6"] {
        let output = agent.verb(&["switch", service, to])?;
        ensure!(output.status.success(), "{output:?}");
    }
    Ok(since)
}

/// All clients are woken in this way.
fn are_woken(clients: &[WaitingClient], since: Instant, within: Duration, kind: ErrorKind) -> Result<()> {
    for client in clients {
        let wake = client.wait_woken(SOON)?;
        let after = wake.at.saturating_duration_since(since);
        ensure!(matches!(&wake.with, Err(Failure::Command(found)) if *found == kind), "{wake:?}, not {kind}");
        ensure!(after < within * slowness(), "{client:?} was woken after {after:?}");
        eprintln!("woken after {after:?}: {kind}");
    }
    Ok(())
}

/// The clients of these hosts are woken, each in its way, when their member is left; and that one has forgotten them, although
/// it lives.
fn woken_and_forgotten(lab: &Lab, agent: &Agent, hosts: &[(&Host, ErrorKind)]) -> Result<()> {
    let waiting = |(host, kind): &(&Host, ErrorKind)| Ok((waiting(host)?, *kind));
    let clients = hosts.iter().map(waiting).collect::<Result<Vec<_>>>()?;
    wait_until("all wait at m1", SOON, || waiting_at(lab, "m1").is_ok_and(|count| count == 4 * hosts.len()))?;
    let since = switch(agent, "m2")?;
    for (clients, kind) in &clients {
        are_woken(clients, since, AT_ONCE, *kind)?;
    }
    wait_until("m1 knows nobody any more", SOON, || waiting_at(lab, "m1").is_ok_and(|count| count == 0))?;
    wait_until("no flow is left", SOON, || flows(agent).is_ok_and(|flows| flows == 0)).map(drop)
}

/// Entries in the flow table.
fn flows(agent: &Agent) -> Result<u64> {
    let status = agent.status()?;
    let services = status["services"].as_array().context("services")?;
    let members = services.iter().flat_map(|service| service["members"].as_array().into_iter().flatten());
    Ok(members.filter_map(|member| member["flows"].as_u64()).sum())
}

/// Also in a namespace that cannot be found, where nobody can look whether they heard it.
fn containers(scenario: Scenario) {
    scenario.run(|lab| {
        let [entered, unknown] = [lab.container("c1")?, lab.container("c2")?];
        let _process = process(&entered)?;
        let agent = agent(lab, &lab.config())?;
        let hosts = [
            (lab.app(), ErrorKind::ConnectionReset),
            (&entered, ErrorKind::ConnectionReset),
            (&unknown, ErrorKind::ConnectionReset),
        ];
        woken_and_forgotten(lab, &agent, &hosts)
    });
}

/// Their sockets are destroyed where they are.
#[test]
fn clients_whose_firewall_loses_resets() {
    Scenario::new(Offloads::On).run(|lab| {
        let container = lab.container("c1")?;
        let _process = process(&container)?;
        let agent = agent(lab, &lab.config())?;
        let aborted = ErrorKind::ConnectionAborted;
        let hosts = [(lab.app(), aborted), (&container, aborted)];
        for (host, _) in hosts {
            host.nft("table inet deaf { chain c { type filter hook input priority 0; tcp flags & rst == rst drop; }; }")?;
        }
        woken_and_forgotten(lab, &agent, &hosts)
    });
}

/// Where the flow's tuple is not that of the socket, the reset goes back the way that connection tracking knows. And nobody
/// enters other machines.
fn masqueraded_containers_and_other_machines(scenario: Scenario) {
    scenario.run(|lab| {
        let (container, machine) = (lab.container("c1")?, lab.machine("outside")?);
        let _processes = [process(&container)?, process(&machine)?];
        lab.masquerade()?;
        lab.vips_through_app()?;
        let agent = agent(lab, &lab.config())?;
        let reset = ErrorKind::ConnectionReset;
        woken_and_forgotten(lab, &agent, &[(&container, reset), (&machine, reset)])
    });
}

/// `m1` is cut off for a while, and none of its clients waits for it.
fn a_black_hole_wakes_all(lab: &Lab, agent: &Agent, clients: &[WaitingClient]) -> Result<()> {
    let since = Instant::now();
    lab.black_hole(lab.member("m1"))?;
    are_woken(clients, since, Duration::from_secs(1), ErrorKind::ConnectionReset)?;
    wait_until("no flow is left", SOON, || flows(agent).is_ok_and(|flows| flows == 0))?;
    lab.heal(lab.member("m1"))
}

/// The member cannot be told; its clients are.
#[test]
fn a_black_hole() {
    Scenario::new(Offloads::On).run(|lab| {
        let (container, machine) = (lab.container("c1")?, lab.machine("outside")?);
        lab.vips_through_app()?;
        let agent = agent(lab, &lab.config())?;
        let clients = [waiting(&container)?, waiting(&machine)?].into_iter().flatten().collect::<Vec<_>>();
        a_black_hole_wakes_all(lab, &agent, &clients)
    });
}

/// The program that is asked to reset both ends drops what it cannot send to the member. The kernel reports that like a queue
/// that is full; whoever comes after is reset all the same.
#[test]
fn a_member_without_a_route() {
    Scenario::new(Offloads::On).run(|lab| {
        let (one, other) = (lab.container("c1")?, lab.machine("outside")?);
        lab.vips_through_app()?;
        let agent = agent(lab, &lab.config())?;
        let clients = [waiting(&one)?, waiting(&other)?].into_iter().flatten().collect::<Vec<_>>();
        let since = Instant::now();
        lab.app().ip("route add unreachable 10.2.1.2/32")?;
        lab.app().ip("-6 route add unreachable fd02:1::2/128")?;
        are_woken(&clients, since, Duration::from_secs(3), ErrorKind::ConnectionReset)?;
        wait_until("no flow is left", SOON, || flows(&agent).is_ok_and(|flows| flows == 0)).map(drop)
    });
}

/// Connections at `member` that wait for the last packet of the handshake.
fn half_open(member: &Member) -> Result<usize> {
    const SYN_RECV: &str = "03";
    member.host().run(|| {
        let mut count = 0;
        for file in ["tcp", "tcp6"] {
            let sockets = std::fs::read_to_string(format!("/proc/thread-self/net/{file}"))?;
            count += sockets.lines().filter(|line| line.split_whitespace().nth(3) == Some(SYN_RECV)).count();
        }
        Ok(count)
    })
}

/// It does not wait for its SYN timer, a second and more; and the member does not wait for it.
fn whoever_is_connecting_is_refused(scenario: Scenario) {
    scenario.run(|lab| {
        let [entered, unknown] = [lab.container("c1")?, lab.container("c2")?];
        let _process = process(&entered)?;
        let machine = lab.machine("outside")?;
        lab.vips_through_app()?;
        let agent = agent(lab, &lab.config())?;
        let m1 = lab.member("m1");
        // Of flows: not those that probes wait for.
        let answers = "tcp dport 10000-32767 tcp flags & (syn | ack) == (syn | ack)";
        lab.router().lose(&[
            &format!("ip saddr {} {answers}", m1.v4().ip()),
            &format!("ip6 saddr {} {answers}", m1.v6().ip()),
        ])?;
        let hosts = [
            (lab.app().clone(), ErrorKind::ConnectionRefused),
            (entered, ErrorKind::ConnectionRefused),
            (unknown, ErrorKind::ConnectionRefused),
            (machine, ErrorKind::ConnectionRefused),
        ];
        let connect = |host: &Host, vip: SocketAddr| {
            let dial = host.dial(vip);
            thread::spawn(move || (dial.connect().map(drop), Instant::now()))
        };
        let connecting: Vec<_> = hosts
            .iter()
            .flat_map(|(host, kind)| first_vips().map(|vip| (host.name(), *kind, connect(host, vip))))
            .collect();
        wait_until("all have sent their SYN", SOON, || half_open(m1).is_ok_and(|count| count == 8))?;
        let since = switch(&agent, "m2")?;
        for (host, kind, thread) in connecting {
            let (result, at) = thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
            let found = result.err().with_context(|| format!("{host} connected"))?.kind();
            let after = at.saturating_duration_since(since);
            eprintln!("{host}: {found} after {after:?}");
            ensure!(
                found == kind && after < AT_ONCE * slowness(),
                "{host}: {found} after {after:?}, not {kind}"
            );
        }
        wait_until("m1 waits for nobody", AT_ONCE, || half_open(m1).is_ok_and(|count| count == 0))?;
        lab.router().lose_nothing()
    });
}

/// Another service that stays, connections past the VIPs, and what was opened after the switch.
#[test]
fn nobody_else_is_touched() {
    Scenario::new(Offloads::On).run(|lab| {
        let (container, machine) = (lab.container("c1")?, lab.machine("outside")?);
        let _process = process(&container)?;
        lab.masquerade()?;
        lab.vips_through_app()?;
        let agent = agent(lab, &lab.config())?;
        let m1 = lab.member("m1");
        let left = waiting_at_first_vip(&[&container, &machine, lab.app()])?;
        let mut stays = Vec::new();
        for host in [&container, &machine, lab.app()] {
            stays.push(WaitingClient::blocked(host, m1.v4(), "direct")?);
            stays.push(WaitingClient::blocked(host, first_vips()[1], "other service")?);
        }
        let since = Instant::now();
        ensure!(agent.verb(&["switch", "orders", "m2"])?.status.success());
        let mut opened = Vec::new();
        while since.elapsed() < Duration::from_millis(400) {
            for host in [&container, &machine, lab.app()] {
                let mut connection = host.connect(first_vips()[0])?;
                ensure!(connection.whoami()? == "m2");
                opened.push(connection);
            }
        }
        for client in left {
            ensure!(client.wait_woken(SOON)?.with.is_err(), "{client:?}");
        }
        for client in &stays {
            ensure!(client.woken().is_none(), "{client:?} was woken");
        }
        for key in ["direct", "other service"] {
            for _ in 0..3 {
                ensure!(m1.command(&["RPUSH", key, "element"])? == Value::Integer(1), "nobody waited");
            }
        }
        for client in &stays {
            ensure!(client.wait_woken(SOON)?.with.is_ok(), "{client:?} gets its element");
        }
        ensure!(opened.len() > 10, "only {} connections", opened.len());
        for connection in &mut opened {
            ensure!(connection.command(&["PING"])? == Value::Status("PONG".into()));
        }
        Ok(())
    });
}

fn waiting_at_first_vip(hosts: &[&Host]) -> Result<Vec<WaitingClient>> {
    hosts.iter().map(|host| WaitingClient::blocked(host, first_vips()[0], QUEUE)).collect()
}

/// A second network beside the first one, with an agent of its own and the same addresses and ports everywhere: nothing
/// but the links tells which container is whose.
#[test]
fn equal_addresses_in_another_network() {
    Scenario::new(Offloads::On).run(|lab| {
        let other = Lab::builder().offloads(lab.offloads()).build()?;
        let mut networks = Vec::new();
        for lab in [lab, &other] {
            let container = lab.container("c1")?;
            let process = process(&container)?;
            let agent = agent(lab, &lab.config())?;
            let (address4, address6) = CONTAINER;
            let mut connections = Vec::new();
            for (vip, from) in first_vips().into_iter().zip([IpAddr::from(address4), address6.into()]) {
                let mut connection = container.dial(vip).from((from, 45_000)).connect()?;
                ensure!(connection.whoami()? == "m1");
                connections.push(connection);
            }
            networks.push((agent, process, connections));
        }
        thread::sleep(Duration::from_millis(200));
        // The other one's process is the older one, and found first.
        switch(&networks[1].0, "m2")?;
        thread::sleep(Duration::from_millis(500));
        for (n, (_, _, connections)) in networks.iter_mut().enumerate() {
            for connection in connections {
                let reply = connection.command(&["PING"]);
                match n {
                    0 => ensure!(reply? == Value::Status("PONG".into())),
                    _ => ensure!(reply.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)),
                }
            }
        }
        Ok(())
    });
}

/// It was killed while flows drained, and comes back when the time is over: nothing but the flow table tells it whom to
/// reset.
#[test]
fn an_agent_that_comes_late() {
    Scenario::new(Offloads::On).run(|lab| {
        let (container, machine) = (lab.container("c1")?, lab.machine("outside")?);
        let _process = process(&container)?;
        lab.vips_through_app()?;
        let config =
            lab.config().service_line("on_failback = \"drain\"").service_line("drain_timeout = \"1s\"");
        let mut agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        let inside = [waiting(&container)?, waiting(lab.app())?].into_iter().flatten().collect::<Vec<_>>();
        let outside = waiting(&machine)?;
        switch(&agent, "m2")?;
        agent.kill()?;
        thread::sleep(Duration::from_millis(1200));
        for client in inside.iter().chain(&outside) {
            ensure!(client.woken().is_none(), "{client:?} was woken without an agent");
        }
        let since = Instant::now();
        agent.start()?;
        are_woken(&inside, since, SOON, ErrorKind::ConnectionReset)?;
        are_woken(&outside, since, SOON, ErrorKind::ConnectionReset)?;
        wait_until("m1 knows nobody any more", SOON, || waiting_at(lab, "m1").is_ok_and(|count| count == 0))?;
        ensure!(lab.app().connect(first_vips()[0])?.whoami()? == "m2");
        Ok(())
    });
}

/// Blocked clients here, in a container and on another machine, and the flows' policy of a planned switch.
fn spread(lab: &Lab, over: &str) -> Result<(Agent, Vec<WaitingClient>, Process)> {
    let (container, machine) = (lab.container("c1")?, lab.machine("outside")?);
    let process = process(&container)?;
    lab.vips_through_app()?;
    let agent = agent(lab, &lab.config().service_line(&format!("reset_over = \"{over}\"")))?;
    let client = |n: usize| {
        let host = [lab.app(), &container, &machine][n % 3];
        WaitingClient::blocked(host, first_vips()[0], QUEUE)
    };
    Ok((agent, (0..60).map(client).collect::<Result<_>>()?, process))
}

/// As many in each part of the time; and an agent that comes in between goes on with the rest.
#[test]
fn a_planned_switch_resets_little_by_little() {
    Scenario::new(Offloads::On).run(|lab| {
        let over = Duration::from_secs(5) * slowness();
        let (mut agent, clients, _process) = spread(lab, &format!("{}s", over.as_secs()))?;
        let since = Instant::now();
        ensure!(agent.verb(&["switch", "orders", "m2"])?.status.success());
        ensure!(lab.app().connect(first_vips()[0])?.whoami()? == "m2");
        thread::sleep((over / 4).saturating_sub(since.elapsed()));
        agent.kill()?;
        let killed = Instant::now();
        thread::sleep(Duration::from_millis(50));
        let woken = |client: &WaitingClient| client.woken().map(|wake| wake.at);
        let (before, others): (Vec<_>, Vec<_>) =
            clients.iter().map(|client| (woken(client), client)).partition(|(woken, _)| woken.is_some());
        agent.start()?;
        let mut after = Vec::new();
        for (_, client) in others {
            let wake = client.wait_woken(over + SOON)?;
            ensure!(wake.with.is_err() && wake.at > killed, "{wake:?}");
            after.push(wake.at);
        }
        after.sort_unstable();
        let (first, last) = (after[0].duration_since(since), after[after.len() - 1].duration_since(since));
        eprintln!(
            "{} of 60 in {:?} of {over:?}, the others from {first:?} to {last:?}",
            before.len(),
            over / 4
        );
        ensure!((8..=30).contains(&before.len()), "{} of 60 within a quarter of the time", before.len());
        ensure!(last <= over + SOON, "the last one after {last:?}");
        let half = after[after.len() / 2].duration_since(since);
        ensure!(
            half < over - (over - first) / 4,
            "the others not little by little: {first:?}, half by {half:?}, {last:?}"
        );
        wait_until("m1 knows nobody any more", SOON, || waiting_at(lab, "m1").is_ok_and(|count| count == 0))?;
        Ok(())
    });
}

/// Who was not reset yet stays where he is.
#[test]
fn a_switch_back_keeps_what_is_left() {
    Scenario::new(Offloads::On).run(|lab| {
        let (agent, clients, _process) = spread(lab, "2s")?;
        ensure!(agent.verb(&["switch", "orders", "m2"])?.status.success());
        thread::sleep(Duration::from_millis(600));
        ensure!(agent.verb(&["switch", "orders", "m1", "--force"])?.status.success());
        thread::sleep(Duration::from_secs(2));
        let woken = clients.iter().filter(|client| client.woken().is_some()).count();
        eprintln!("{woken} of 60 were reset before the switch back");
        ensure!((5..=45).contains(&woken), "{woken} of 60 were reset in 0.6 of 2 s");
        ensure!(waiting_at(lab, "m1")? == 60 - woken, "m1 and its clients disagree");
        Ok(())
    });
}

/// Blocked clients and subscribers here, in a container and on another machine, on `m1`, which an operator has left for `m2`.
fn left(lab: &Lab, lines: &str) -> Result<(Agent, Vec<WaitingClient>, Process)> {
    let (container, machine) = (lab.container("c1")?, lab.machine("outside")?);
    let process = process(&container)?;
    lab.vips_through_app()?;
    let agent = lab.agent(&lab.config().service_line(lines))?;
    agent.wait_active("m1", START)?;
    let clients = [waiting(lab.app())?, waiting(&container)?, waiting(&machine)?];
    switch(&agent, "m2")?;
    Ok((agent, clients.into_iter().flatten().collect(), process))
}

/// Hours are left: without an end they would hang that long.
#[test]
fn a_member_that_dies_while_it_drains_keeps_nobody_waiting() {
    Scenario::new(Offloads::On).run(|lab| {
        let (agent, clients, _process) =
            left(lab, "on_failback = \"drain\"\ndrain_timeout = \"2h\"\nreset_over = \"1h\"")?;
        thread::sleep(Duration::from_millis(500));
        for client in &clients {
            ensure!(client.woken().is_none(), "{client:?} was to drain");
        }
        let others = [waiting_at_m2(lab)?, waiting_at_m2(lab)?];
        let since = Instant::now();
        lab.black_hole(lab.member("m1"))?;
        are_woken(&clients, since, Duration::from_secs(1), ErrorKind::ConnectionReset)?;
        wait_until("only those on m2 have flows", SOON, || flows(&agent).is_ok_and(|flows| flows == 4))?;
        let ended = drains_ended(&agent)?;
        ensure!(ended.len() == 2, "one for each service: {ended:#?}");
        for event in &ended {
            let reason = event["reason"].as_str().unwrap_or_default();
            ensure!(
                event["member"] == "m1" && event["epoch"] == 2 && reason.contains("timed out"),
                "{event}"
            );
        }
        let explained = String::from_utf8(agent.verb(&["explain", "orders", "-o", "json"])?.stdout)?;
        ensure!(!explained.contains("\"drain\""), "nothing is left to wait for: {explained}");
        lab.heal(lab.member("m1"))?;
        wait_until("m1 is up again", SOON, || member_state(&agent, "m1").is_ok_and(|state| state == "up"))?;
        ensure!(others.iter().flatten().all(|client| client.woken().is_none()), "m2 was never left");
        ensure!(drains_ended(&agent)?.len() == 2, "once is enough");
        Ok(())
    });
}

/// Nobody is heard, and then both again: the active one first.
#[test]
fn a_cut_of_this_host_ends_no_drain() {
    Scenario::new(Offloads::On).run(|lab| {
        let (agent, clients, _process) = left(lab, "on_failback = \"drain\"\ndrain_timeout = \"2h\"")?;
        let both = ["m1", "m2"];
        let all_are =
            |state: &str| both.iter().all(|name| member_state(&agent, name).is_ok_and(|is| is == state));
        for name in both {
            lab.black_hole(lab.member(name))?;
        }
        wait_until("both are down", SOON, || all_are("down"))?;
        for name in ["m2", "m1"] {
            lab.heal(lab.member(name))?;
        }
        wait_until("both are up again", SOON, || all_are("up"))?;
        for client in &clients {
            ensure!(client.woken().is_none(), "{client:?} was to drain");
        }
        let ended = drains_ended(&agent)?;
        ensure!(ended.is_empty(), "{ended:#?}");
        Ok(())
    });
}

/// What was to come little by little comes at once.
#[test]
fn a_member_that_dies_while_its_resets_are_spread_keeps_nobody_waiting() {
    Scenario::new(Offloads::On).run(|lab| {
        let (agent, clients, _process) = left(lab, "on_failback = \"reset\"\nreset_over = \"2h\"")?;
        a_black_hole_wakes_all(lab, &agent, &clients)
    });
}

/// An operator wants flows to go on although their member is down.
#[test]
fn flows_that_a_failover_would_keep_are_kept() {
    Scenario::new(Offloads::On).run(|lab| {
        let (agent, clients, _process) =
            left(lab, "on_failover = \"keep\"\non_failback = \"drain\"\ndrain_timeout = \"2h\"")?;
        lab.black_hole(lab.member("m1"))?;
        wait_until("m1 is down", SOON, || member_state(&agent, "m1").is_ok_and(|state| state == "down"))?;
        thread::sleep(Duration::from_millis(500));
        lab.heal(lab.member("m1"))?;
        for client in &clients {
            ensure!(client.woken().is_none(), "{client:?} was woken");
        }
        for _ in 0..clients.len() / 2 {
            ensure!(
                lab.member("m1").command(&["RPUSH", QUEUE, "element"])? == Value::Integer(1),
                "nobody waits"
            );
        }
        Ok(())
    });
}

/// One at each VIP.
fn waiting_at_m2(lab: &Lab) -> Result<Vec<WaitingClient>> {
    let client = |vip| WaitingClient::blocked(lab.app(), vip, "nothing");
    let clients = first_vips().into_iter().map(client).collect::<Result<Vec<_>>>()?;
    ensure!(clients.iter().all(|client| client.member == "m2"), "{clients:?}");
    Ok(clients)
}

fn drains_ended(agent: &Agent) -> Result<Vec<serde_json::Value>> {
    let output = agent.verb(&["events", "-o", "json"])?;
    let events = String::from_utf8(output.stdout)?;
    let events = events.lines().map(serde_json::from_str::<serde_json::Value>);
    let events = events.collect::<Result<Vec<_>, _>>()?.into_iter();
    Ok(events.filter(|event| event["event"] == "drain_ended").collect())
}

/// What the checks of `orders` say of a member.
fn member_state(agent: &Agent, name: &str) -> Result<String> {
    let status = agent.status()?;
    let members = status["services"][0]["members"].as_array().context("members")?;
    let member = members.iter().find(|member| member["name"] == name).context("no such member")?;
    Ok(member["state"].as_str().unwrap_or_default().to_owned())
}
