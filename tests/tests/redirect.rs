//! What a VIP is while nothing fails: the active member, and nothing else.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{
    Scenario, VIP_PORT, VIP_V4, VIP_V6, Value, vip_addresses, wait_until, with_and_without_offloads,
};

const START: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(2);

with_and_without_offloads! {
    connections_reach_the_active_member,
    large_values_pass,
    other_ports_of_a_vip_are_refused,
    a_service_without_a_member_refuses,
    checks_log_in_and_keep_the_secret,
}

fn connections_reach_the_active_member(scenario: Scenario) {
    scenario.run(|lab| {
        let agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        for address in vip_addresses() {
            let mut connection = lab.app().connect(address)?;
            let reply = connection.command(&["GET", "whoami"])?;
            ensure!(reply.text().as_deref() == Some("m1"), "{address}: {reply:?}");
            ensure!(connection.socket().peer_addr()? == address, "the application sees the VIP");
        }
        let status = agent.status()?;
        ensure!(status["version"] == 1, "{status:#}");
        for service in status["services"].as_array().context("services")? {
            ensure!(service["state"] == "ok" && service["members"][0]["state"] == "up", "{status:#}");
        }
        Ok(())
    });
}

/// Segments, acknowledgements and window updates in both directions, split or not, with checksums that hold.
fn large_values_pass(scenario: Scenario) {
    scenario.run(|lab| {
        let agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        let value = "x".repeat(8 << 20);
        for address in vip_addresses() {
            let mut connection = lab.app().connect(address)?;
            connection.set_time_limit(Some(START))?;
            let key = address.to_string();
            ensure!(connection.command(&["SET", &key, &value])? == Value::Status("OK".into()));
            ensure!(connection.command(&["GET", &key])? == Value::Bulk(Some(value.clone().into_bytes())));
            let stored = lab.member("m1").command(&["STRLEN", &key])?;
            ensure!(stored == Value::Integer(8 << 20), "{stored:?}");
        }
        Ok(())
    });
}

/// A refusal that the client's kernel does not believe costs 127 s of SYN retries.
fn other_ports_of_a_vip_are_refused(scenario: Scenario) {
    scenario.run(|lab| {
        let agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        for vip in [IpAddr::from(VIP_V4), IpAddr::from(VIP_V6)] {
            let (kind, took) = lab.app().run(|| connect(SocketAddr::new(vip, VIP_PORT + 1)));
            ensure!(
                kind == Some(ErrorKind::ConnectionRefused) && took < SOON,
                "{vip}: {kind:?} after {took:?}"
            );

            let answer = lab.app().run(|| -> Result<_> {
                let any: IpAddr = if vip.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
                let socket = UdpSocket::bind((any, 0))?;
                socket.connect((vip, VIP_PORT))?;
                socket.set_read_timeout(Some(SOON))?;
                socket.send(b"anybody there?")?;
                Ok(socket.recv(&mut [0; 16]).map_err(|error| error.kind()))
            })?;
            ensure!(
                answer == Err(ErrorKind::ConnectionRefused),
                "UDP to {vip}: {answer:?}, not port unreachable"
            );
        }
        Ok(())
    });
}

/// `active = none`: new connections are refused at once, never dropped in silence; and it ends by itself.
fn a_service_without_a_member_refuses(scenario: Scenario) {
    scenario.run(|lab| {
        let agent = lab.agent(&lab.config().service_line("on_all_down = \"refuse\""))?;
        agent.wait_active("m1", START)?;
        for member in lab.members() {
            lab.black_hole(member)?;
        }
        let all_in = |states: &[&str]| {
            agent.status().is_ok_and(|status| {
                let services = status["services"].as_array();
                services.is_some_and(|all| {
                    all.iter().all(|service| states.iter().any(|state| service["state"] == *state))
                })
            })
        };
        wait_until("the services are held", START, || all_in(&["held"]))?;
        for vip in [VIP_V4.into(), VIP_V6.into()] {
            let (kind, took) = lab.app().run(|| connect(SocketAddr::new(vip, VIP_PORT)));
            ensure!(
                kind == Some(ErrorKind::ConnectionRefused) && took < SOON,
                "{vip}: {kind:?} after {took:?}"
            );
        }
        for member in lab.members() {
            lab.heal(member)?;
        }
        // Whichever member came up first is taken.
        wait_until("the services are served again", START, || all_in(&["ok", "degraded"]))?;
        for address in vip_addresses() {
            let reply = lab.app().connect(address)?.command(&["PING"])?;
            ensure!(reply == Value::Status("PONG".into()), "{address}: {reply:?}");
        }
        Ok(())
    });
}

/// Invariant 12, with servers that require a password.
fn checks_log_in_and_keep_the_secret(scenario: Scenario) {
    const SECRET: &str = "correct-horse-battery-staple";
    scenario.lab(|lab| lab.password(SECRET)).run(|lab| {
        let mut agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        let mut connection = lab.app().connect((VIP_V4, VIP_PORT).into())?;
        ensure!(connection.command(&["AUTH", SECRET])? == Value::Status("OK".into()));
        ensure!(connection.command(&["GET", "whoami"])?.text().as_deref() == Some("m1"));
        lab.member("m1").crash()?;
        agent.wait_active("m2", START)?;
        ensure!(!agent.status()?.to_string().contains(SECRET), "the status shows the password");
        agent.terminate()?;
        ensure!(!agent.log().contains(SECRET), "the log shows the password");
        Ok(())
    });
}

/// How a connection attempt fails, and after what time.
fn connect(address: SocketAddr) -> (Option<ErrorKind>, Duration) {
    let start = Instant::now();
    let error = TcpStream::connect_timeout(&address, SOON * 2).err().map(|error| error.kind());
    (error, start.elapsed())
}
