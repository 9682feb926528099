//! The lab itself: everything that the end-to-end tests rely on, shown with direct connections.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    panic::{self, AssertUnwindSafe},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use redirector_tests::{
    Failure, Host, Lab, Load, Member, Offloads, Scenario, Value, WaitingClient, What, Workers,
    namespace_exists, wait_until, with_and_without_offloads,
};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with};

const SOON: Duration = Duration::from_secs(5);

with_and_without_offloads! {
    reaches_every_member,
    large_values_pass,
    crash_refuses_and_heals,
    black_hole_is_silent_and_heals,
    freeze_and_stall_delay_answers,
    waiting_clients_wake_with_the_server,
    checksum_errors_are_counted,
}

fn whoami(host: &Host, address: SocketAddr) -> Result<String> {
    let reply = host.connect(address)?.command(&["GET", "whoami"])?;
    reply.text().with_context(|| format!("{address}: {reply:?}"))
}

fn reaches_every_member(scenario: Scenario) {
    scenario.lab(|lab| lab.members(3)).run(|lab| {
        for member in lab.members() {
            ensure!(whoami(lab.app(), member.v4())? == member.name());
            ensure!(whoami(lab.app(), member.v6())? == member.name());
            let SocketAddr::V4(v4) = member.v4() else { bail!("not IPv4") };
            let mapped = SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port()));
            ensure!(whoami(lab.app(), mapped)? == member.name(), "an IPv6 socket speaks IPv4");
        }
        // An asynchronous client runs inside the host as well.
        let address = lab.member("m1").v6();
        lab.app().block_on(|| tokio::net::TcpStream::connect(address))??;
        Ok(())
    });
}

fn large_values_pass(scenario: Scenario) {
    scenario.run(|lab| {
        let value = "x".repeat(4 << 20);
        for address in [lab.member("m1").v4(), lab.member("m1").v6()] {
            let mut connection = lab.app().connect(address)?;
            ensure!(connection.command(&["SET", "large", &value])? == Value::Status("OK".into()));
            ensure!(connection.command(&["GET", "large"])? == Value::Bulk(Some(value.clone().into_bytes())));
        }
        Ok(())
    });
}

fn crash_refuses_and_heals(scenario: Scenario) {
    scenario.run(|lab| {
        let member = lab.member("m1");
        let workers = Workers::start(lab.app(), Load::new(3, member.v4()))?;
        workers.wait_served_by("m1", Instant::now(), SOON)?;
        let crash = Instant::now();
        member.crash()?;
        let refused = || {
            let timeline = workers.timeline();
            let failures = timeline.failures_since(crash);
            failures.iter().any(|event| {
                event.what == What::Failed(Failure::Connect(std::io::ErrorKind::ConnectionRefused))
            })
        };
        wait_until("new connections are refused", SOON, refused)?;
        let start = Instant::now();
        member.start()?;
        workers.wait_served_by("m1", start, SOON)?;
        let timeline = workers.stop();
        ensure!(timeline.failures_after("m1", start).is_empty(), "{timeline}");
        ensure!(timeline.longest_gap(crash) >= start - crash, "{timeline}");
        // Once before and once after; and a server that is being killed may still accept one more.
        ensure!(timeline.connections() >= 6, "{timeline}");
        Ok(())
    });
}

fn black_hole_is_silent_and_heals(scenario: Scenario) {
    scenario.run(|lab| {
        let member = lab.member("m1");
        for address in [member.v4(), member.v6()] {
            let mut open = lab.app().connect(address)?;
            let workers = Workers::start(lab.app(), Load::new(2, address))?;
            workers.wait_served_by("m1", Instant::now(), SOON)?;
            lab.black_hole(member)?;
            // What was under way may still arrive.
            thread::sleep(Duration::from_millis(20));
            let hole = Instant::now();
            open.set_time_limit(Some(Duration::from_millis(300)))?;
            let error = open.command(&["PING"]).err().context("a black hole answers")?;
            ensure!(error.kind() == std::io::ErrorKind::WouldBlock, "{error}");
            let connect =
                lab.app().run(|| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)));
            let error = connect.err().context("a black hole accepts")?;
            ensure!(error.kind() == std::io::ErrorKind::TimedOut, "silence, not an ICMP error: {error}");
            ensure!(whoami(lab.app(), lab.member("m2").v4())? == "m2", "the others are not concerned");
            let during = workers.timeline();
            ensure!(
                during.failures_since(hole).is_empty() && during.all_served_by("m1", hole).is_none(),
                "{during}"
            );

            lab.heal(member)?;
            workers.wait_served_by("m1", Instant::now(), SOON)?;
            let timeline = workers.stop();
            ensure!(timeline.failures_since(timeline.start).is_empty(), "TCP bears it: {timeline}");
            ensure!(timeline.longest_gap(hole) >= Duration::from_millis(600), "{timeline}");
        }
        Ok(())
    });
}

fn freeze_and_stall_delay_answers(scenario: Scenario) {
    scenario.run(|lab| {
        let member = lab.member("m1");
        member.freeze()?;
        let mut connection =
            lab.app().connect(member.v4()).context("the kernel accepts for a frozen process")?;
        connection.set_time_limit(Some(Duration::from_millis(200)))?;
        ensure!(connection.command(&["PING"]).is_err(), "a frozen server answers");
        member.thaw()?;
        connection.set_time_limit(Some(SOON))?;
        ensure!(connection.receive()? == Value::Status("PONG".into()));

        let stall = Instant::now();
        member.stall(Duration::from_millis(300))?;
        thread::sleep(Duration::from_millis(20));
        ensure!(connection.command(&["PING"])? == Value::Status("PONG".into()));
        let late = stall.elapsed();
        ensure!(late >= Duration::from_millis(290) && late < SOON, "answered after {late:?}");
        Ok(())
    });
}

fn waiting_clients_wake_with_the_server(scenario: Scenario) {
    scenario.run(|lab| {
        let member = lab.member("m1");
        let blocked = WaitingClient::blocked(lab.app(), member.v4(), "queue")?;
        let subscribed = WaitingClient::subscribed(lab.app(), member.v6(), "news")?;
        let list = || member.clients().unwrap_or_default().join("\n");
        wait_until("both wait", SOON, || list().contains("cmd=blpop") && list().contains("cmd=subscribe"))?;
        ensure!(blocked.woken().is_none() && subscribed.woken().is_none());
        ensure!(member.command(&["PUBLISH", "news", "hello"])? == Value::Integer(1));
        ensure!(subscribed.wait_woken(SOON)?.with.is_ok(), "a message");
        let crash = Instant::now();
        member.crash()?;
        let wake = blocked.wait_woken(SOON)?;
        ensure!(wake.at >= crash && wake.with.is_err(), "{wake:?}");
        Ok(())
    });
}

/// Proves that the assertion at the end of every scenario can fail.
fn checksum_errors_are_counted(scenario: Scenario) {
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        scenario.run(|lab| {
            let member = lab.member("m1");
            lab.assert_no_checksum_errors()?;
            for (n, address) in [member.v4(), member.v6()].into_iter().enumerate() {
                lab.app().run(|| send_segment_with_wrong_checksum(address))?;
                let expected = u64::try_from(n)? + 1;
                let count = || member.host().snmp("Tcp", "InCsumErrors").unwrap_or_default();
                wait_until("the counter rises", SOON, || count() == expected)?;
            }
            Ok(())
        });
    }));
    if redirector_tests::unavailable().is_some() {
        return;
    }
    let panic = outcome.expect_err("the scenario succeeds with wrong checksums");
    let text = panic.downcast_ref::<String>().expect("a panic with a text");
    assert!(text.contains("m1: Tcp InCsumErrors = 2"), "{text}");
}

/// A raw TCP socket computes no checksum; this one's is wrong.
fn send_segment_with_wrong_checksum(to: SocketAddr) -> Result<()> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
    let mut segment = [0; 20];
    segment[..2].copy_from_slice(&40_000_u16.to_be_bytes());
    segment[2..4].copy_from_slice(&to.port().to_be_bytes());
    segment[12..14].copy_from_slice(&[5 << 4, 0x02]);
    segment[16..18].copy_from_slice(&[0xde, 0xad]);
    sendto(&socket, &segment, SendFlags::empty(), &SocketAddr::new(to.ip(), 0))?;
    Ok(())
}

#[test]
fn offloads_are_what_was_asked_for() {
    for wanted in [Offloads::On, Offloads::Off] {
        Scenario::new(wanted).run(|lab| {
            let is = |host: &Host, device: &str, wanted: Offloads| -> Result<()> {
                let found = host.offloads(device)?;
                ensure!(found == wanted.features(), "{host:?}: {device}: {found:?}");
                Ok(())
            };
            for member in lab.members() {
                is(member.host(), "eth0", wanted)?;
                is(lab.router(), &format!("to-{}", member.name()), wanted)?;
            }
            is(lab.router(), "to-app", wanted)?;
            for change in [wanted, Offloads::Off, Offloads::On] {
                lab.app().set_offloads("eth0", change)?;
                is(lab.app(), "eth0", change)?;
            }
            Ok(())
        });
    }
}

#[test]
fn a_password_is_required() {
    Scenario::new(Offloads::On).lab(|lab| lab.password("secret")).run(|lab| {
        let mut stranger = lab.app().connect(lab.member("m1").v4())?;
        let Value::Error(error) = stranger.command(&["PING"])? else { bail!("answers without a password") };
        ensure!(error.starts_with("NOAUTH"), "{error}");
        ensure!(lab.member("m1").command(&["GET", "whoami"])?.text().as_deref() == Some("m1"));
        Ok(())
    });
}

/// The text that the lab writes is a configuration, with and without its knobs.
#[test]
fn configurations_are_valid() {
    Scenario::new(Offloads::On).lab(|lab| lab.members(3).password("secret")).run(|lab| {
        let second = Duration::from_secs(1);
        let turned =
            lab.config().timing(None).failback(second, second).service_line("on_failback = \"reset\"");
        let turned = turned.datapath_line("on_stop = \"detach\"").datapath_line("max_flows = 1024");
        for config in [lab.config(), turned] {
            let parsed = redirector::config::parse(Path::new("lab.toml"), &config.to_string());
            let parsed = parsed.map_err(|error| anyhow::anyhow!("{error}\n{config}"))?;
            let (resolver, earlier) = Default::default();
            lab.app()
                .block_on(async || redirector::config::resolve(&parsed, &resolver, &earlier).await)??;
            let parsed = parsed.config;
            ensure!(parsed.agent.control_socket == config.control_socket() && parsed.services.len() == 2);
            ensure!(parsed.services.iter().all(|service| service.members.len() == 3));
            let password = &parsed.services[0].members[0].access.login.password;
            ensure!(password.as_ref().is_some_and(|password| password.expose() == "secret"));
        }
        Ok(())
    });
}

#[test]
fn labs_run_side_by_side() {
    Scenario::new(Offloads::On).run(|one| {
        let other = Lab::builder().members(1).build()?;
        ensure!(one.id() != other.id());
        one.member("m1").command(&["SET", "whoami", "m1 of one"])?;
        one.member("m2").crash()?;
        ensure!(whoami(other.app(), other.member("m1").v4())? == "m1");
        ensure!(whoami(one.app(), one.member("m1").v4())? == "m1 of one");
        drop(other);
        ensure!(whoami(one.app(), one.member("m1").v6())? == "m1 of one");
        Ok(())
    });
}

/// What a lab consists of, seen from outside.
struct Traces {
    pids: Vec<u32>,
    namespaces: Vec<u64>,
}

impl Traces {
    fn of(lab: &Lab) -> Self {
        let pids = lab.members().iter().filter_map(Member::pid).collect();
        Self { pids, namespaces: lab.hosts().map(|host| host.namespace().inode()).collect() }
    }

    fn exist(&self) -> (bool, bool) {
        let pid = self.pids.iter().any(|pid| Path::new("/proc").join(pid.to_string()).exists());
        (pid, self.namespaces.iter().any(|inode| namespace_exists(*inode)))
    }
}

#[test]
fn a_panic_leaves_nothing_behind() {
    let mut traces = None;
    let mut directory = None;
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        Scenario::new(Offloads::On).run(|lab| {
            traces = Some(Traces::of(lab));
            directory = Some(env::temp_dir().join(lab.id()));
            ensure!(Traces::of(lab).exist() == (true, true) && env::temp_dir().join(lab.id()).exists());
            let _workers = Workers::start(lab.app(), Load::new(2, lab.member("m1").v4()))?;
            let _waiting = WaitingClient::blocked(lab.app(), lab.member("m2").v4(), "queue")?;
            lab.member("m2").freeze()?;
            panic!("on purpose");
        });
    }));
    let Some(traces) = traces else { return };
    assert!(outcome.is_err());
    wait_until("everything is gone", SOON, || traces.exist() == (false, false)).expect("a panic cleans up");
    assert!(directory.is_some_and(|directory| !directory.exists()));
}

/// Not a test: the process that the next one kills.
#[test]
#[ignore = "only a helper of killed_labs_vanish"]
fn victim() {
    if env::var_os("REDIRECTOR_LAB_VICTIM").is_none() {
        return;
    }
    let lab = Lab::builder().build().expect("a lab");
    fs::create_dir(Path::new("/sys/fs/bpf").join(lab.id())).expect("a pin directory");
    let traces = Traces::of(&lab);
    println!("\nvictim {} {:?} {:?}", lab.id(), traces.pids, traces.namespaces);
    thread::sleep(Duration::from_secs(60));
}

/// The namespaces and processes of a lab whose process is killed vanish by themselves; the next lab sweeps the rest.
#[test]
fn killed_labs_vanish() {
    Scenario::new(Offloads::On).run(|_| {
        let mut command = Command::new(env::current_exe()?);
        command.args(["--exact", "victim", "--ignored", "--nocapture"]).env("REDIRECTOR_LAB_VICTIM", "1");
        let mut victim = command.stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(victim.stdout.take().context("a pipe")?).lines();
        let line = lines.map_while(Result::ok).find(|line| line.starts_with("victim ")).context("no lab")?;
        let numbers = |text: &str| text.split(", ").map(str::parse).collect::<Result<Vec<u64>, _>>();
        let (id, rest) = line["victim ".len()..].split_once(" [").context("no id")?;
        let (pids, namespaces) = rest.split_once("] [").context("no pids")?;
        let pids = numbers(pids)?.into_iter().map(u32::try_from).collect::<Result<_, _>>()?;
        let traces = Traces { pids, namespaces: numbers(namespaces.trim_end_matches(']'))? };
        let left = [env::temp_dir().join(id), Path::new("/sys/fs/bpf").join(id)];
        ensure!(traces.exist() == (true, true) && left.iter().all(|path| path.exists()));

        victim.kill()?;
        victim.wait()?;
        wait_until("everything is gone", SOON, || traces.exist() == (false, false))?;
        // Or another lab on this machine was faster.
        drop(Lab::builder().members(0).build()?);
        ensure!(!left.iter().any(|path| path.exists()));
        Ok(())
    });
}

/// `/proc/net` of a thread is that of the process; counters and settings must be those of the host.
#[test]
fn counters_and_settings_are_those_of_the_host() {
    Scenario::new(Offloads::On).run(|lab| {
        let opens = |host: &Host| host.snmp("Tcp", "ActiveOpens");
        let (app, router) = (opens(lab.app())?, opens(lab.router())?);
        lab.app().connect(lab.member("m1").v4())?;
        ensure!(opens(lab.app())? == app + 1 && opens(lab.router())? == router);
        let forwards = |host: &Host| host.run(|| fs::read_to_string("/proc/sys/net/ipv4/ip_forward"));
        ensure!(forwards(lab.router())?.trim() == "1" && forwards(lab.app())?.trim() == "0");
        let mut command = lab.app().command("cat");
        command.arg("/proc/net/fib_trie");
        let output = lab.app().output(command)?;
        let address = IpAddr::from(Ipv4Addr::new(10, 1, 0, 2)).to_string();
        ensure!(String::from_utf8(output.stdout)?.contains(&address), "a command runs in the host");
        Ok(())
    });
}
