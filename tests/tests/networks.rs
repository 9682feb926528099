//! Networks as they are: several uplinks, containers, small MTUs, members on the same host, reverse-path filters, and
//! networks that change. Each test says which outage it is.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{Agent, AgentConfig, Connection, Host, Lab, Value, first_vips, wait_until};

#[path = "networks/changes.rs"]
mod changes;
#[path = "networks/clients.rs"]
mod clients;
#[path = "networks/errors.rs"]
mod errors;
#[path = "networks/paths.rs"]
mod paths;
#[path = "networks/ports.rs"]
mod ports;
#[path = "networks/reverse_path.rs"]
mod reverse_path;
#[path = "networks/same_host.rs"]
mod same_host;
#[path = "networks/uplinks.rs"]
mod uplinks;

const START: Duration = Duration::from_secs(10);
/// What follows a change of the network "at once" follows it within this, on a busy machine.
const SOON: Duration = Duration::from_secs(2);
/// The bound of a bulk transfer in one direction.
const SECOND: Duration = Duration::from_secs(1);

/// An agent whose services have chosen `member`.
fn agent(lab: &Lab, config: &AgentConfig, member: &str) -> Result<Agent> {
    let agent = lab.agent(config)?;
    agent.wait_active(member, START)?;
    Ok(agent)
}

/// A new connection from `host` to `vip` is served by `member`, and the client sees the VIP.
fn served(host: &Host, vip: SocketAddr, member: &str) -> Result<Connection> {
    let context = || format!("{} to {vip}", host.name());
    let mut connection = host.dial(vip).limit(SOON).connect().with_context(context)?;
    let by = connection.whoami().with_context(context)?;
    ensure!(by == member, "{} to {vip}: served by {by}, not by {member}", host.name());
    ensure!(
        connection.socket().peer_addr()? == vip,
        "{}: the client sees another peer than {vip}",
        host.name()
    );
    Ok(connection)
}

/// New connections to both VIPs are served by `member`.
fn both_served(host: &Host, member: &str) -> Result<[Connection; 2]> {
    let [v4, v6] = first_vips();
    Ok([served(host, v4, member)?, served(host, v6, member)?])
}

/// New connections to both VIPs are served by `member` within [`SOON`].
fn both_served_soon(host: &Host, member: &str) -> Result<Duration> {
    let mut last = None;
    wait_until(&format!("new connections are served by {member}"), SOON, || {
        let [v4, v6] = first_vips();
        let limited = |vip| -> Result<()> {
            let mut connection = host.dial(vip).limit(Duration::from_millis(300)).connect()?;
            let by = connection.whoami()?;
            ensure!(by == member, "{vip}: served by {by}");
            Ok(())
        };
        last = limited(v4).and_then(|()| limited(v6)).err();
        last.is_none()
    })
    .with_context(|| format!("the last attempt: {last:?}"))
}

/// A million bytes to the server and back; returns how long each took.
fn bulk(connection: &mut Connection) -> Result<[Duration; 2]> {
    let value = "x".repeat(1_000_000);
    let start = Instant::now();
    let stored = connection.command(&["SET", "bulk", &value]).context("a million bytes to the member")?;
    ensure!(stored == Value::Status("OK".into()), "{stored:?}");
    let there = start.elapsed();
    let start = Instant::now();
    let found = connection.command(&["GET", "bulk"]).context("a million bytes from the member")?;
    ensure!(found == Value::Bulk(Some(value.into_bytes())), "other bytes came back");
    Ok([there, start.elapsed()])
}

/// [`bulk`] in less than a second each way.
fn quick_bulk(connection: &mut Connection) -> Result<()> {
    let times = bulk(connection)?;
    eprintln!("a million bytes there and back: {times:?}");
    ensure!(times.iter().all(|time| *time < SECOND), "a million bytes there and back took {times:?}");
    Ok(())
}

/// The next command on a flow that is stale ends the connection at once.
fn is_reset(connection: &mut Connection) -> Result<()> {
    let start = Instant::now();
    let error = connection.command(&["PING"]).err().context("a stale flow carried a command")?;
    let (kind, took) = (error.kind(), start.elapsed());
    let reset =
        [ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted, ErrorKind::BrokenPipe].contains(&kind);
    ensure!(reset && took < SECOND, "{error} after {took:?}");
    Ok(())
}

/// One of each IP version.
fn addresses((v4, v6): (Ipv4Addr, Ipv6Addr)) -> [IpAddr; 2] {
    [v4.into(), v6.into()]
}

/// The server's view of the client is this address.
fn seen_from(connection: &mut Connection, address: impl Into<IpAddr>) -> Result<()> {
    let (seen, wanted) = (connection.seen_as()?, address.into());
    ensure!(seen.ip() == wanted, "the member sees {seen}, the route to it prefers {wanted}");
    Ok(())
}
