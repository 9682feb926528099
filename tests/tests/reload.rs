//! Another configuration while the agent runs and everybody works: only those flows move that policy says.

use std::{
    fs,
    io::ErrorKind,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{
    Agent, AgentConfig, Application, Connection, Lab, Load, Offloads, Scenario, VIP_PORT, Workers,
    new_connections_are_served_by, one_program_on_each_hook, wait_until, with_and_without_offloads,
};
use rustix::process::{Pid, Signal, kill_process};

const START: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(3);

with_and_without_offloads! {
    services_and_vips_come_and_go,
    members_come_and_go,
}

fn scenario() -> Scenario {
    Scenario::new(Offloads::On).limit(Duration::from_secs(120))
}

fn vip(last: u8) -> SocketAddr {
    ([10, 255, 0, last], VIP_PORT).into()
}

/// An agent, and an application that notices everything that happens to `orders` and `orders6`.
struct Stage<'a> {
    lab: &'a Lab,
    agent: Agent,
    application: Application,
}

impl<'a> Stage<'a> {
    fn set(lab: &'a Lab, config: &AgentConfig) -> Result<Self> {
        let agent = lab.agent(config)?;
        agent.wait_active("m1", START)?;
        let application = Application::start(lab, 2, "m1")?;
        Ok(Self { lab, agent, application })
    }

    /// `redirector reload` with this file; what it printed.
    fn reload(&self, file: &str) -> Result<String> {
        fs::write(self.agent.config_file(), file)?;
        self.verb(&["reload"])
    }

    fn verb(&self, arguments: &[&str]) -> Result<String> {
        let output = self.agent.verb(arguments)?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout)?;
        eprintln!("{arguments:?}:\n{said}");
        Ok(said)
    }

    /// What `redirector reload` says against this file.
    fn refused(&self, file: &str) -> Result<String> {
        fs::write(self.agent.config_file(), file)?;
        let output = self.agent.verb(&["reload"])?;
        ensure!(output.status.code() == Some(1), "{output:?}");
        Ok(String::from_utf8(output.stderr)?)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.agent.pid().context("the agent does not run")?;
        Ok(kill_process(Pid::from_raw(i32::try_from(pid)?).context("a process id")?, signal)?)
    }

    /// No command failed, nobody connected anew, nobody who waits was woken.
    fn nobody_noticed(&self) -> Result<()> {
        self.application.still_waits()?;
        for timeline in self.application.timelines() {
            ensure!(timeline.failures_since(timeline.start).is_empty(), "{timeline}");
            ensure!(timeline.connections() == timeline.workers, "somebody connected anew: {timeline}");
        }
        one_program_on_each_hook(self.lab)
    }

    /// A service, as `status` shows it.
    fn service(&self, name: &str) -> Result<serde_json::Value> {
        let status = self.agent.status()?;
        let services = status["services"].as_array().context("no services")?;
        services
            .iter()
            .find(|service| service["name"] == name)
            .cloned()
            .with_context(|| format!("{status:#}"))
    }
}

/// A connection to a VIP, and who serves it; waits for one.
fn served(lab: &Lab, vip: SocketAddr) -> Result<(Connection, String, Duration)> {
    let mut found = None;
    let time = wait_until(&format!("somebody serves {vip}"), SOON, || {
        let Ok(mut connection) = lab.app().dial(vip).limit(Duration::from_millis(200)).connect() else {
            return false;
        };
        let name = connection.command(&["GET", "whoami"]).ok().and_then(|reply| reply.text());
        found = name.map(|name| (connection, name));
        found.is_some()
    })?;
    let (connection, name) = found.context("just found")?;
    Ok((connection, name, time))
}

/// The connection ends within a moment, with an error and not with a time-out.
fn ends(connection: &mut Connection) -> Result<Duration> {
    let start = Instant::now();
    connection.set_time_limit(Some(SOON))?;
    loop {
        match connection.command(&["PING"]) {
            Ok(_) => ensure!(start.elapsed() < SOON, "it goes on"),
            Err(error) => {
                let kinds = [ErrorKind::ConnectionAborted, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
                ensure!(kinds.contains(&error.kind()), "{error:?} after {:?}", start.elapsed());
                return Ok(start.elapsed());
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn services_and_vips_come_and_go(scenario: Scenario) {
    scenario.run(|lab| {
        let config = lab.config();
        let stage = Stage::set(lab, &config)?;
        let with_carts = config.clone().service("carts", &[vip(2)]).to_string();

        let asked = Instant::now();
        let said = stage.reload(&with_carts)?;
        ensure!(said.contains("service \"carts\" added") && said.contains("1 services added"), "{said}");
        let (mut connection, member, _) = served(lab, vip(2))?;
        eprintln!("a new service is served after {:?}", asked.elapsed());
        ensure!(member == "m1", "{member}");

        // The first VIP of it goes, another one comes; the order of services in the file is another.
        let two = config.clone().service("carts", &[vip(2), vip(3)]).to_string();
        let said = stage.reload(&two)?;
        ensure!(said.contains("service \"carts\" VIP 10.255.0.3:6379 added"), "{said}");
        let (mut other, _, time) = served(lab, vip(3))?;
        eprintln!("a new VIP is served after {time:?}");
        let said = stage.reload(&config.clone().service("carts", &[vip(3)]).to_string())?;
        ensure!(said.contains("VIP 10.255.0.2:6379 removed"), "{said}");
        eprintln!("the flow through a VIP that is gone ended after {:?}", ends(&mut connection)?);
        ensure!(lab.app().dial(vip(2)).limit(SOON).connect().is_err(), "a VIP that is gone answers");
        ensure!(other.command(&["PING"]).is_ok(), "the flow through the VIP that stays");

        let said = stage.reload(&config.to_string())?;
        ensure!(said.contains("service \"carts\" removed"), "{said}");
        eprintln!("the flow of a service that is gone ended after {:?}", ends(&mut other)?);
        let routes = lab.app().ip("route show dev redirector0")?;
        ensure!(!routes.contains("10.255.0.3") && routes.contains("10.255.0.1"), "{routes}");
        ensure!(stage.service("carts").is_err(), "{:#}", stage.agent.status()?);

        // As if it had never been there.
        stage.reload(&with_carts)?;
        served(lab, vip(2))?;
        stage.nobody_noticed()
    });
}

fn members_come_and_go(scenario: Scenario) {
    scenario.lab(|lab| lab.members(3)).run(|lab| {
        let [m1, m2, m3] = [1, 2, 3].map(|number| {
            let member = lab.member(&format!("m{number}"));
            (member.name().to_owned(), member.v4(), member.v6())
        });
        let of = |members: &[&(String, SocketAddr, SocketAddr)]| {
            let members: Vec<_> = members.iter().map(|(name, v4, v6)| (name.as_str(), *v4, *v6)).collect();
            lab.config().members(&members).service_line("on_failback = \"reset\"").to_string()
        };
        let config = lab.config().members(&[(&m1.0, m1.1, m1.2), (&m2.0, m2.1, m2.2)]);
        let stage = Stage::set(lab, &config.service_line("on_failback = \"reset\""))?;

        let said = stage.reload(&of(&[&m1, &m2, &m3]))?;
        ensure!(said.contains("service \"orders\" member \"m3\" added"), "{said}");
        wait_until("m3 is up", SOON, || {
            stage.service("orders").is_ok_and(|service| service["members"][2]["state"] == "up")
        })?;
        let said = stage.reload(&of(&[&m1, &m3]))?;
        ensure!(said.contains("service \"orders\" member \"m2\" removed"), "{said}");
        stage.nobody_noticed()?;

        // The active one goes: by policy its flows are reset, and everybody is served by the best that is up.
        let gone = Instant::now();
        let said = stage.reload(&of(&[&m3]))?;
        ensure!(said.contains("service \"orders\" member \"m1\" removed"), "{said}");
        let served = stage.application.wait_served_by("m3", gone)?;
        let woken = stage.application.wait_woken(gone)?;
        eprintln!(
            "the active member was removed: served by another one after {served:?}, woken after {woken:?}"
        );
        let service = stage.service("orders")?;
        ensure!(service["active"] == "m3" && service["epoch"] == 2, "{service:#}");

        // It comes back with an id that may be another one's by now, and is none of the active one's business.
        stage.reload(&of(&[&m3, &m1, &m2]))?;
        new_connections_are_served_by(lab, "m3")
    });
}

/// The flows of a member that was removed go on for `drain_timeout`, and no new one goes there.
#[test]
fn a_removed_member_is_drained() {
    scenario().run(|lab| {
        let line = "on_failback = \"drain\"\ndrain_timeout = \"1500ms\"";
        let both = lab.config().one_service().service_line(line);
        let agent = lab.agent(&both)?;
        agent.wait_active("m1", START)?;
        let (mut old, _, _) = served(lab, vip(1))?;
        let member = lab.member("m2");
        let rest = lab.config().members(&[("m2", member.v4(), member.v6())]).one_service().service_line(line);
        fs::write(agent.config_file(), rest.to_string())?;
        let removed = Instant::now();
        ensure!(agent.verb(&["reload"])?.status.success(), "{}", agent.log());
        let (_new, name, _) = served(lab, vip(1))?;
        ensure!(name == "m2", "a new flow went to {name}");
        while removed.elapsed() < Duration::from_millis(1300) {
            ensure!(old.command(&["GET", "whoami"])?.text().as_deref() == Some("m1"), "a drain ended early");
            thread::sleep(Duration::from_millis(20));
        }
        ends(&mut old)?;
        let ended = removed.elapsed();
        eprintln!("its flow ended after {ended:?}");
        ensure!(ended < Duration::from_millis(2500), "{ended:?}");
        // It comes back, and is a member like any other.
        fs::write(agent.config_file(), both.to_string())?;
        ensure!(agent.verb(&["reload"])?.status.success(), "{}", agent.log());
        lab.member("m2").crash()?;
        agent.wait_active("m1", START)?;
        let (_, name, _) = served(lab, vip(1))?;
        ensure!(name == "m1", "{name}");
        Ok(())
    });
}

#[test]
fn checks_weights_and_endpoints_change() {
    scenario().lab(|lab| lab.members(3)).run(|lab| {
        let now = Duration::ZERO;
        let config = lab.config().failback(now, now).service_line("on_failback = \"reset\"");
        let text = config.to_string();
        let stage = Stage::set(lab, &config)?;
        let probes = || -> Result<Vec<String>> {
            let clients = lab.member("m2").clients()?;
            let pings = clients.iter().filter(|line| line.contains("cmd=ping"));
            let mut ids: Vec<_> =
                pings.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
            ids.sort();
            Ok(ids)
        };

        // Something else changes: every prober goes on over the connection that it has.
        let before = probes()?;
        let slower = text.replace("drain_timeout", "").replacen("fall = 2", "fall = 2\nrise = 3", 1);
        ensure!(slower != text, "{text}");
        let drained = format!("{text}\n[[service]]\nname = \"more\"\nvips = [\"{}\"]\n[[service.member]]\nname = \"m1\"\nendpoint = \"{}\"\n", vip(9), lab.member("m1").v4());
        stage.reload(&drained)?;
        thread::sleep(Duration::from_millis(300));
        ensure!(probes()? == before && before.len() == 2, "{before:?}, then {:?}", probes()?);

        // Of one of two services the check changes: only its probers are others.
        let said = stage.reload(&slower)?;
        ensure!(said.contains("service \"orders\" rise of check \"ping\": 2 -> 3"), "{said}");
        ensure!(!said.contains("orders6"), "{said}");
        thread::sleep(Duration::from_millis(300));
        let after = probes()?;
        let kept = before.iter().filter(|id| after.contains(id)).count();
        ensure!(kept == 1 && after.len() == 2, "{before:?}, then {after:?}");
        stage.nobody_noticed()?;

        // A weight acts at once, by the rules of a failback.
        let changed = Instant::now();
        let heavier = text.replace("weight = 50", "weight = 500");
        let said = stage.reload(&heavier)?;
        ensure!(said.contains("service \"orders\" weight of member \"m2\": 50 -> 500"), "{said}");
        let served = stage.application.wait_served_by("m2", changed)?;
        eprintln!("a weight moved everybody after {served:?}");

        // Another endpoint: the flows to the address that is gone end by policy, new ones go to the other one.
        let changed = Instant::now();
        let [from, to] = ["m2", "m3"].map(|name| lab.member(name));
        let elsewhere = heavier
            .replace(&from.v4().to_string(), "ELSEWHERE")
            .replace(&to.v4().to_string(), &from.v4().to_string())
            .replace("ELSEWHERE", &to.v4().to_string());
        let said = stage.reload(&elsewhere)?;
        ensure!(said.contains("endpoint of member \"m2\": 10.2.2.2:6379 -> 10.2.3.2:6379"), "{said}");
        let workers = Workers::start(lab.app(), Load::new(2, vip(1)))?;
        let served = workers.wait_served_by("m3", changed, SOON)?;
        eprintln!("another endpoint is served after {served:?}");
        let service = stage.service("orders")?;
        ensure!(service["active"] == "m2", "a member with another endpoint is the same member: {service:#}");
        Ok(())
    });
}

/// Invariant 10.
#[test]
fn a_wrong_file_changes_nothing() {
    scenario().run(|lab| {
        let config = lab.config();
        let text = config.to_string();
        let stage = Stage::set(lab, &config)?;
        let before = stage.agent.status()?;
        let good = config.clone().service("carts", &[vip(2)]).to_string();
        let check = || -> Result<String> {
            let file = stage.agent.config_file().display().to_string();
            Ok(String::from_utf8(stage.agent.verb(&["check", "--config", &file])?.stderr)?)
        };
        for (wrong, says) in [
            (
                good.replace("name = \"carts\"", "name = \"carts\"\non_failovr = 5"),
                "did you mean `on_failover`?",
            ),
            (good.replace("10.255.0.2", "10.1.0.2"), "is an address of this host"),
            (good.replace("10.255.0.2", "10.255.0.2:6379\", \"x"), "is not an address"),
            (format!("{good}\n["), "not valid TOML"),
        ] {
            let error = stage.refused(&wrong)?;
            ensure!(error.contains(says) && error.contains("nothing has changed"), "{says}: {error}");
            // The same words as a start has for it.
            let check = check()?;
            let first = check.lines().next().context("check says nothing")?;
            ensure!(error.starts_with(first), "{error}\n{check}");
        }
        for (fixed, says) in [
            (
                good.replace("device = \"redirector0\"", "device = \"other0\""),
                "`device` of [datapath] cannot change",
            ),
            (
                good.replace("[datapath]", "[datapath]\nmax_flows = 1024"),
                "`max_flows` of [datapath] cannot change",
            ),
            (good.replace("control.sock", "other.sock"), "`control_socket` of [agent] cannot change"),
        ] {
            let error = stage.refused(&fixed)?;
            ensure!(error.contains(says) && error.contains("redirector.toml:"), "{says}: {error}");
        }
        // A file that is not there; and by a signal.
        fs::remove_file(stage.agent.config_file())?;
        stage.signal(Signal::HUP)?;
        stage.agent.wait_logged(&["cannot be read"], SOON)?;

        let after = stage.agent.status()?;
        let shape = |status: &serde_json::Value| {
            let of = |service: &serde_json::Value| {
                [&service["name"], &service["vips"], &service["active"], &service["epoch"]]
                    .map(ToString::to_string)
            };
            status["services"].as_array().map(|all| all.iter().map(of).collect::<Vec<_>>())
        };
        ensure!(shape(&before) == shape(&after), "{before:#}\n{after:#}");
        ensure!(lab.app().dial(vip(2)).limit(SOON).connect().is_err(), "a VIP of a wrong file answers");
        fs::write(stage.agent.config_file(), text)?;
        ensure!(stage.verb(&["reload"])?.contains("nothing differs"), "the file that runs");
        stage.nobody_noticed()
    });
}

#[test]
fn a_signal_reloads_and_a_dry_run_does_not() {
    scenario().run(|lab| {
        let config = lab.config();
        let stage = Stage::set(lab, &config)?;
        fs::write(stage.agent.config_file(), config.service("carts", &[vip(2)]).to_string())?;
        let said = stage.verb(&["reload", "--dry-run"])?;
        ensure!(said.contains("service \"carts\" added") && said.contains("dry run"), "{said}");
        let json = stage.verb(&["reload", "--dry-run", "-o", "json"])?;
        let json: serde_json::Value = serde_json::from_str(&json)?;
        ensure!(json["difference"]["services"][0]["kind"] == "added" && json["version"] == 1, "{json:#}");
        ensure!(stage.service("carts").is_err(), "a dry run");
        stage.signal(Signal::HUP)?;
        stage.agent.wait_logged(&["service \"carts\" added"], SOON)?;
        served(lab, vip(2))?;
        stage.nobody_noticed()
    });
}

/// What is a constant of the programs, or the collector's: other programs take over on each hook.
#[test]
fn the_datapath_section_changes() {
    scenario().run(|lab| {
        let config = lab.config();
        let stage = Stage::set(lab, &config)?;
        let other = config
            .datapath_line("port_range = \"20000-25000\"")
            .datapath_line("half_open_per_source = 77")
            .datapath_line("uplinks = [\"eth0\"]")
            .datapath_line("idle_timeouts = { established = \"1h\" }");
        let said = stage.reload(&other.to_string())?;
        for change in [
            "[datapath] port_range: 10000-32767 -> 20000-25000",
            "[datapath] half_open_per_source: none -> 77",
            "[datapath] uplinks: [] -> [\"eth0\"]",
            "[datapath] established of idle_timeouts: 86400s -> 3600s",
        ] {
            ensure!(said.contains(change), "{change}: {said}");
        }
        let (mut connection, _, _) = served(lab, vip(1))?;
        let id = id(&mut connection)?;
        let list = connection.command(&["CLIENT", "LIST", "ID", &id])?.text();
        let list = list.context("CLIENT LIST")?;
        let port = list.split_once("addr=10.1.0.2:").and_then(|(_, rest)| rest.split_once(' '));
        let port: u16 = port.with_context(|| list.clone())?.0.parse()?;
        ensure!((20_000..=25_000).contains(&port), "port {port}");
        stage.nobody_noticed()
    });
}

fn id(connection: &mut Connection) -> Result<String> {
    match connection.command(&["CLIENT", "ID"])? {
        redirector_tests::Value::Integer(id) => Ok(id.to_string()),
        other => anyhow::bail!("CLIENT ID: {other:?}"),
    }
}

#[test]
fn members_by_command() {
    scenario().lab(|lab| lab.members(3)).run(|lab| {
        let [m1, m2, m3] = [1, 2, 3].map(|number| lab.member(&format!("m{number}")));
        let config = lab.config().members(&[("m1", m1.v4(), m1.v6()), ("m2", m2.v4(), m2.v6())]);
        let stage = Stage::set(lab, &config)?;
        let endpoint = m3.v4().to_string();
        let said = stage.verb(&["member", "add", "orders", "m3", &endpoint, "--weight", "10"])?;
        ensure!(said.contains("until the next reload or restart"), "{said}");
        wait_until("m3 is up", SOON, || {
            stage.service("orders").is_ok_and(|service| service["members"][2]["state"] == "up")
        })?;
        let again = stage.agent.verb(&["member", "add", "orders", "m3", &endpoint])?;
        ensure!(again.status.code() == Some(1), "{again:?}");
        stage.verb(&["member", "remove", "orders", "m2"])?;
        let service = stage.service("orders")?;
        ensure!(
            service["members"][1]["name"] == "m3" && service["members"][1]["weight"] == 10,
            "{service:#}"
        );
        stage.nobody_noticed()?;
        m1.crash()?;
        wait_until("m3 is active", SOON, || {
            stage.service("orders").is_ok_and(|service| service["active"] == "m3")
        })?;
        // Nobody else is up.
        let refused = stage.agent.verb(&["member", "remove", "orders", "m3"])?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(refused.status.code() == Some(1) && said.contains("no member that stays is up"), "{said}");
        m1.start()?;
        wait_until("m1 is up", SOON, || {
            stage.service("orders").is_ok_and(|service| service["members"][0]["state"] == "up")
        })?;
        // The file holds in the end, and a dry run says what that means.
        let said = stage.verb(&["reload", "--dry-run"])?;
        ensure!(said.contains("member \"m3\" removed") && said.contains("member \"m2\" added"), "{said}");
        stage.verb(&["reload"])?;
        let service = stage.service("orders")?;
        ensure!(service["members"].as_array().is_some_and(|members| members.len() == 2), "{service:#}");

        // By force: without a member that is up the service refuses, and takes up the first that comes.
        wait_until("m1 is active", SOON, || {
            stage.service("orders").is_ok_and(|service| service["active"] == "m1")
        })?;
        m2.crash()?;
        wait_until("m2 is down", SOON, || {
            stage.service("orders").is_ok_and(|service| service["members"][1]["state"] == "down")
        })?;
        stage.verb(&["member", "remove", "orders", "m1", "--force"])?;
        let error = lab.app().dial(vip(1)).limit(SOON).connect().err().context("somebody serves")?;
        ensure!(error.kind() == ErrorKind::ConnectionRefused, "{error:?}");
        m2.start()?;
        let (_, member, time) = served(lab, vip(1))?;
        eprintln!("taken up after {time:?} by {member}");
        Ok(())
    });
}

/// A password that changed in its file is another login of the probes, and is told to nobody.
#[test]
fn a_password_changes() {
    const FIRST: &str = "first-secret";
    const SECOND: &str = "second-secret";
    scenario().lab(|lab| lab.password(FIRST)).run(|lab| {
        let config = lab.config().one_service();
        let agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        let text = config.to_string();
        let file = text.split_once("password_file = \"").and_then(|(_, rest)| rest.split_once('"'));
        let file = file.with_context(|| text.clone())?.0;
        for member in lab.members() {
            let mut connection = member.connect()?;
            connection.command(&["CONFIG", "SET", "requirepass", SECOND])?;
        }
        fs::write(file, SECOND)?;
        let output = agent.verb(&["reload"])?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success() && said.contains("password of member \"m1\" changed"), "{output:?}");
        wait_until("the probes are let in again", SOON, || {
            agent.status().is_ok_and(|status| {
                let reason =
                    status["services"][0]["members"][0]["reason"].as_str().unwrap_or_default().to_owned();
                reason.contains("ok in")
            })
        })?;
        let log = agent.log();
        ensure!(!format!("{log}{said}").contains("-secret"), "a password is told: {said}{log}");
        Ok(())
    });
}

/// SIGKILL at every moment of a reload; whatever the file says is so after the next start.
#[test]
fn killed_in_the_middle_of_a_reload() {
    scenario().limit(Duration::from_secs(240)).run(|lab| {
        let config = lab.config();
        let mut stage = Stage::set(lab, &config)?;
        let files = [
            config.clone().service("carts", &[vip(2)]).service("stock", &[vip(3)]).to_string(),
            config.clone().service("stock", &[vip(2)]).to_string(),
            config.clone().service("carts", &[vip(3), vip(2)]).to_string(),
            config.to_string(),
        ];
        for number in 0..12_u32 {
            let file = &files[number as usize % files.len()];
            fs::write(stage.agent.config_file(), file)?;
            stage.signal(Signal::HUP)?;
            thread::sleep(Duration::from_millis(4) * number);
            stage.agent.kill()?;
            stage.agent.start().with_context(|| format!("start {number}"))?;
            for last in [2, 3] {
                if file.contains(&vip(last).to_string()) {
                    served(lab, vip(last)).with_context(|| format!("start {number}"))?;
                } else {
                    let answer = lab.app().dial(vip(last)).limit(Duration::from_millis(200)).connect();
                    ensure!(answer.is_err(), "start {number}: {} answers", vip(last));
                }
            }
            let again = stage.verb(&["reload"])?;
            ensure!(again.contains("nothing differs"), "{again}");
        }
        stage.nobody_noticed()
    });
}
