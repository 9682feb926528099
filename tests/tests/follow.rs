//! What the agent keeps in step with the network, against somebody who changes it: each test says who that is.

use std::{
    io::ErrorKind,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{
    Agent, Host, Lab, Scenario, VIP_PORT, VIP_V4, new_connections_are_served_by, one_program_on_each_hook,
    wait_until, with_and_without_offloads,
};

const START: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(2);

with_and_without_offloads! {
    at_rest_nothing_happens,
    the_vip_device_is_repaired,
    the_vip_device_is_made_anew,
    a_fight_over_a_route_is_bounded,
    a_route_taken_away_behind_another_comes_back,
    a_large_routing_table_is_not_read_at_each_change,
    two_services_share_an_address,
    what_is_missing_at_the_start_is_a_warning,
    a_vip_that_is_gone_ends_its_flows,
}

/// Runs `ip` in a host, as an administrator or a network manager would.
fn ip(host: &Host, arguments: &str) -> Result<String> {
    let mut command = host.command("ip");
    command.args(arguments.split_whitespace());
    let output = host.output(command)?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn started(lab: &Lab) -> Result<Agent> {
    let agent = lab.agent(&lab.config())?;
    agent.wait_active("m1", START)?;
    Ok(agent)
}

fn served_soon(lab: &Lab) -> Result<Duration> {
    wait_until("new connections are served", SOON, || new_connections_are_served_by(lab, "m1").is_ok())
}

fn logged(agent: &Agent, words: &str) -> Result<Duration> {
    wait_until(&format!("the log says {words:?}"), SOON, || agent.log().contains(words))
}

/// What the agent changes causes events, which it hears itself. It would go round in circles.
fn at_rest_nothing_happens(scenario: Scenario) {
    scenario.run(|lab| {
        let mut agent = lab.agent_to_start(&lab.config())?;
        agent.environment("RUST_LOG", "info,redirector::datapath::follow=debug");
        agent.start()?;
        agent.wait_active("m1", START)?;
        ip(lab.app(), "link set redirector0 mtu 1400")?;
        logged(&agent, "of another MTU")?;
        // What the repair itself caused is over by then.
        thread::sleep(Duration::from_millis(500));

        let mut monitor = lab.app().command("ip");
        monitor.args(["monitor", "link", "address", "route", "rule"]);
        let monitor = lab.app().spawn("monitor", monitor)?;
        let refreshes = agent.log().matches("refreshed").count();
        ensure!((1..20).contains(&refreshes), "{refreshes} refreshes since the start");
        thread::sleep(Duration::from_secs(2));
        let heard = monitor.log().text();
        // Its first line is the log's title.
        ensure!(heard.lines().skip(1).all(|line| line.trim().is_empty()), "at rest: {heard}");
        ensure!(agent.log().matches("refreshed").count() == refreshes, "{}", agent.log());
        Ok(())
    });
}

/// Scripts that "tune" all devices of a host.
fn the_vip_device_is_repaired(scenario: Scenario) {
    scenario.run(|lab| {
        let agent = started(lab)?;
        let app = lab.app();
        for (change, said) in [
            ("link set redirector0 down", "redirector0 was down"),
            ("link set redirector0-p down", "redirector0-p was down"),
            ("link set redirector0 mtu 1280", "of another MTU"),
            ("link set redirector0 arp on", "with ARP"),
        ] {
            ip(app, change)?;
            logged(&agent, said).context(change)?;
            served_soon(lab).context(change)?;
        }
        let shown = ip(app, "link show redirector0")?;
        ensure!(shown.contains("NOARP") && shown.contains("mtu 65535"), "{shown}");
        Ok(())
    });
}

/// What programs know of the device as constants: its index and its Ethernet address.
fn the_vip_device_is_made_anew(scenario: Scenario) {
    scenario.run(|lab| {
        let agent = started(lab)?;
        let app = lab.app();
        ip(app, "link set redirector0 address 02:00:00:00:00:77")?;
        logged(&agent, "of another Ethernet address")?;
        served_soon(lab)?;
        let forwarding = "net/ipv4/conf/redirector0/forwarding";
        app.sysctl(forwarding, "0")?;
        logged(&agent, &format!("{forwarding} was 0: set to 1"))?;
        served_soon(lab)?;
        ip(app, "link del redirector0-p")?;
        logged(&agent, "was not there: made anew")?;
        eprintln!("served {:?} after the device was made anew", served_soon(lab)?);
        one_program_on_each_hook(lab)?;
        ensure!(agent.status()?["services"][0]["epoch"] == 1, "a switch: {:#}", agent.status()?);
        Ok(())
    });
}

/// A network manager that will not have the route. It is restored, but not a thousand times a second.
fn a_fight_over_a_route_is_bounded(scenario: Scenario) {
    scenario.run(|lab| {
        let agent = started(lab)?;
        let delete = format!("route del {VIP_V4}");
        // As soon as it is back, sometimes before the agent could look whether it is.
        let again = || u32::from(ip(lab.app(), &delete).is_ok());
        let mut at_once = 0;
        wait_until("the agent says that it goes slower", START, || {
            at_once += again();
            agent.log().contains("again and again")
        })?;
        let start = Instant::now();
        let mut slower = 0;
        while start.elapsed() < Duration::from_secs(3) {
            slower += again();
        }
        eprintln!("the route was deleted {at_once} times, then {slower} times in 3 s");
        ensure!((5..=6).contains(&at_once) && (2..=4).contains(&slower), "{at_once}, then {slower} times");
        served_soon(lab)?;
        Ok(())
    });
}

/// A rule leads the VIP elsewhere, which the agent can only tell; whoever made it also removes the VIP's own route.
fn a_route_taken_away_behind_another_comes_back(scenario: Scenario) {
    scenario.run(|lab| {
        let agent = started(lab)?;
        let app = lab.app();
        ip(app, &format!("route add blackhole {VIP_V4} table 77"))?;
        ip(app, &format!("rule add to {VIP_V4} lookup 77 priority 77"))?;
        logged(&agent, "another route or a rule comes first")?;
        for _ in 0..2 {
            // It can be taken away when it is there, and is there again.
            wait_until("the route is there", SOON, || app.ip(&format!("route del {VIP_V4}")).is_ok())?;
        }
        ip(app, &format!("rule del to {VIP_V4} lookup 77 priority 77"))?;
        served_soon(lab)?;
        Ok(())
    });
}

/// A host that has learnt the routes of the internet, and a rule that leads the VIP elsewhere: each change of the network had the
/// agent read all of them. With 50 000 of them that took it 150 to 200 ms.
fn a_large_routing_table_is_not_read_at_each_change(scenario: Scenario) {
    const ROUTES: u32 = 50_000;
    scenario.run(|lab| {
        let mut agent = lab.agent_to_start(&lab.config())?;
        agent.environment("RUST_LOG", "info,redirector::datapath::follow=debug");
        let app = lab.app();
        let route =
            |number: u32| format!("route add blackhole {}/32\n", Ipv4Addr::from(0x0b00_0000 + number));
        let batch = agent.config_file().with_file_name("routes");
        std::fs::write(&batch, (0..ROUTES).map(route).collect::<String>())?;
        ip(app, &format!("-batch {}", batch.display()))?;
        agent.start()?;
        agent.wait_active("m1", START)?;
        ip(app, &format!("route add blackhole {VIP_V4} table 77"))?;
        ip(app, &format!("rule add to {VIP_V4} lookup 77 priority 77"))?;
        logged(&agent, "another route or a rule comes first")?;
        let refreshes = agent.log().matches("refreshed").count();
        for number in 0..5 {
            ip(app, &format!("route add blackhole 12.0.0.{number}"))?;
            thread::sleep(Duration::from_millis(300));
        }
        let log = agent.log();
        let took =
            log.lines().filter_map(|line| line.split_once("refreshed took_us=")?.1.trim().parse().ok());
        let mut took: Vec<u64> = took.skip(refreshes).collect();
        took.sort_unstable();
        eprintln!("refreshes with {ROUTES} routes and a VIP that is led elsewhere: {took:?} us");
        ensure!(took.len() >= 3 && took[took.len() / 2] < 80_000, "{took:?} us");
        ip(app, &format!("route del {VIP_V4}"))?;
        ip(app, &format!("rule del to {VIP_V4} lookup 77 priority 77"))?;
        served_soon(lab)?;
        Ok(())
    });
}

/// Two databases behind one address: the address is routed once, and each port has its service.
fn two_services_share_an_address(scenario: Scenario) {
    scenario.run(|lab| {
        let vip = format!("{VIP_V4}:{}", VIP_PORT + 1);
        let (m2, config) = (lab.member("m2").v4(), lab.config());
        let config = format!(
            "{config}\n[[service]]\nname = \"carts\"\nvips = [\"{vip}\"]\n[[service.member]]\nname = \"other\"\n\
             endpoint = \"{m2}\"\n"
        );
        let agent = lab.agent(&lab.config())?;
        std::fs::write(agent.config_file(), config)?;
        let mut agent = agent;
        agent.terminate()?;
        agent.start()?;
        for (port, member) in [(VIP_PORT, "m1"), (VIP_PORT + 1, "m2")] {
            wait_until(&format!("port {port} is served by {member}"), START, || {
                let connection = lab.app().connect((VIP_V4, port).into());
                let reply = connection.and_then(|mut connection| connection.command(&["GET", "whoami"]));
                reply.is_ok_and(|reply| reply.text().as_deref() == Some(member))
            })?;
        }
        Ok(())
    });
}

/// The agent starts before DHCP, and before a device that is plugged in later.
fn what_is_missing_at_the_start_is_a_warning(scenario: Scenario) {
    scenario.lab(|lab| lab.members(1)).run(|lab| {
        let app = lab.app();
        ip(app, "route del default")?;
        let config = lab
            .config()
            .datapath_line("uplinks = [\"eth0\", \"eth9\"]")
            .datapath_line("source_addresses = [\"10.1.0.77\"]");
        let agent = lab.agent(&config)?;
        for words in ["no route to 10.2.1.2", "no device \"eth9\"", "10.1.0.77 is no address of this host"] {
            logged(&agent, words)?;
        }
        let mut check = app.command(redirector_tests::binary()?);
        check.args(["check", "-o", "json", "--config"]).arg(agent.config_file());
        let output = app.output(check)?;
        let found: serde_json::Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        ensure!(found["warnings"].as_array().is_some_and(|warnings| warnings.len() >= 3), "{found:#}");
        ensure!(found["addresses"][0]["way"].is_null(), "{found:#}");

        ip(app, "link add eth9 type veth peer name eth9-p")?;
        logged(&agent, "the device is an uplink now")?;
        ip(app, "address add 10.1.0.77/24 dev eth0")?;
        logged(&agent, "10.1.0.77 is one of this host now")?;
        ip(app, "route add default via 10.1.0.1")?;
        agent.wait_active("m1", START)?;
        let mut check = app.command(redirector_tests::binary()?);
        check.args(["check", "-o", "json", "--config"]).arg(agent.config_file());
        let found: serde_json::Value = serde_json::from_slice(&app.output(check)?.stdout)?;
        ensure!(
            found["addresses"][0]["sources"] == serde_json::json!(["10.1.0.2", "10.1.0.77"])
                && found["addresses"][0]["flows"] == 2 * (32767 - 10000 + 1),
            "{found:#}"
        );
        Ok(())
    });
}

/// A VIP is taken out of a service that stays. Its clients are told, and do not hang.
fn a_vip_that_is_gone_ends_its_flows(scenario: Scenario) {
    scenario.run(|lab| {
        let config = lab.config().one_service();
        let text = config.to_string();
        let (old, new) = (format!("[\"{VIP_V4}:{VIP_PORT}\"]"), format!("[\"{VIP_V4}:{}\"]", VIP_PORT + 1));
        ensure!(text.contains(&old), "{text}");
        let mut agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        let mut client = lab.app().connect((VIP_V4, VIP_PORT).into())?;
        client.command(&["PING"])?;
        agent.terminate()?;
        std::fs::write(agent.config_file(), text.replace(&old, &new))?;
        agent.start()?;
        client.set_time_limit(Some(SOON))?;
        let start = Instant::now();
        let error = client.command(&["PING"]).err().context("it is served")?;
        eprintln!("{error} after {:?}", start.elapsed());
        ensure!(
            matches!(
                error.kind(),
                ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
            ),
            "{error:?}"
        );
        // Flows come from `port_range`, probes do not.
        let clients = || lab.member("m1").command(&["CLIENT", "LIST"]).ok()?.text();
        let is_flow = |line: &str| {
            let port = line.split_once("addr=10.1.0.2:").and_then(|(_, rest)| rest.split_once(' '));
            port.is_some_and(|(port, _)| port.parse::<u16>().is_ok_and(|port| port < 32768))
        };
        wait_until("the member's side ends too", SOON, || {
            clients().is_some_and(|clients| !clients.lines().any(is_flow))
        })?;
        Ok(())
    });
}
