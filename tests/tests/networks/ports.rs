//! One port in two places: what looks alike before translation must not meet after it, and the other way round.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{
    Connection, Host, Scenario, UPLINKS, VIP_PORT, VIP_V4, VIP_V6, Value, first_vips,
    with_and_without_offloads,
};

use super::{SOON, agent, both_served, bulk, quick_bulk};

with_and_without_offloads! {
    two_services_share_an_address,
    one_port_through_two_vips,
    one_port_through_a_vip_and_directly,
    one_port_of_two_containers,
    a_port_used_again_at_once,
    a_syn_sent_again,
}

/// `app`'s own addresses with this port.
fn own(port: u16) -> [SocketAddr; 2] {
    let (v4, v6) = UPLINKS[0].1;
    [(v4, port).into(), (v6, port).into()]
}

fn pings(connection: &mut Connection) -> Result<()> {
    let reply = connection.command(&["PING"])?;
    ensure!(reply == Value::Status("PONG".into()), "{reply:?}");
    Ok(())
}

/// Databases are told apart by port: a service that goes must not take the address of the other one along.
fn two_services_share_an_address(scenario: Scenario) {
    scenario.run(|lab| {
        let more: [SocketAddr; 2] = [(VIP_V4, VIP_PORT + 1).into(), (VIP_V6, VIP_PORT + 1).into()];
        let config = lab.config();
        let both = config.clone().service("sessions", &more[..1]).service("sessions6", &more[1..]);
        let mut agent = agent(lab, &both, "m1")?;
        let mut open = Vec::new();
        for vip in first_vips().into_iter().chain(more) {
            let mut connection = lab.app().dial(vip).connect().with_context(|| vip.to_string())?;
            ensure!(connection.whoami()? == "m1" && connection.socket().peer_addr()? == vip);
            quick_bulk(&mut connection)?;
            open.push(connection);
        }
        agent.terminate()?;
        std::fs::write(agent.config_file(), config.to_string())?;
        agent.start()?;
        for connection in &mut open[..2] {
            pings(connection).context("a service that stayed")?;
        }
        both_served(lab.app(), "m1")?;
        for vip in more {
            let error = lab.app().dial(vip).connect().err().context("a service that is gone answers")?;
            ensure!(error.kind() == std::io::ErrorKind::ConnectionRefused, "{vip}: {error}");
        }
        Ok(())
    });
}

/// One client port to two VIPs is two connections for the client, and one tuple for the member once translated.
fn one_port_through_two_vips(scenario: Scenario) {
    scenario.run(|lab| {
        let more: [SocketAddr; 2] =
            [([10, 255, 0, 2], VIP_PORT).into(), ([0xfd00, 0x255, 0, 0, 0, 0, 0, 2], VIP_PORT).into()];
        let config = lab.config().service("sessions", &more[..1]).service("sessions6", &more[1..]);
        let _agent = agent(lab, &config, "m1")?;
        for ((vip, other), own) in first_vips().into_iter().zip(more).zip(own(40_001)) {
            let mut one = lab.app().dial(vip).from(own).connect()?;
            let mut two = lab.app().dial(other).from(own).connect()?;
            ensure!(one.socket().local_addr()? == two.socket().local_addr()?);
            ensure!(one.seen_as()? != two.seen_as()?, "{} is both", one.seen_as()?);
            for connection in [&mut one, &mut two] {
                bulk(connection)?;
            }
            pings(&mut one)?;
        }
        Ok(())
    });
}

/// The same with a connection that an application makes to the member itself (and probes are such): before the VIP's,
/// and after it.
fn one_port_through_a_vip_and_directly(scenario: Scenario) {
    scenario.run(|lab| {
        let _agent = agent(lab, &lab.config(), "m1")?;
        let member = lab.member("m1");
        for (n, (vip, direct)) in first_vips().into_iter().zip([member.v4(), member.v6()]).enumerate() {
            for (port, order) in [(40_001, [vip, direct]), (40_002, [direct, vip])] {
                let own = own(port)[n];
                let [one, two] = order.map(|to| lab.app().dial(to).from(own).connect());
                let (mut one, mut two) = (one?, two?);
                ensure!(one.seen_as()? != two.seen_as()?, "{} is both", one.seen_as()?);
                for connection in [&mut one, &mut two] {
                    bulk(connection)?;
                }
                pings(&mut one)?;
            }
            // A port of the member side's own range, taken by somebody who does not ask: never given to a flow.
            let mut taken = lab.app().dial(direct).from(self::own(20_000)[n]).connect()?;
            let mut through = lab.app().dial(vip).from(self::own(20_000)[n]).connect()?;
            pings(&mut through)?;
            pings(&mut taken)?;
        }
        Ok(())
    });
}

/// Containers choose their ports without knowing of each other; behind masquerade they even have one address.
fn one_port_of_two_containers(scenario: Scenario) {
    scenario.run(|lab| {
        let containers = [lab.container("c1")?, lab.container("c2")?];
        let _agent = agent(lab, &lab.config(), "m1")?;
        for port in [40_001, 40_002] {
            if port == 40_002 {
                lab.masquerade()?;
            }
            for vip in first_vips() {
                let any: IpAddr = if vip.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
                let open = |host: &Host| host.dial(vip).from((any, port)).connect();
                let (mut one, mut two) = (open(&containers[0])?, open(&containers[1])?);
                ensure!(one.seen_as()? != two.seen_as()?, "{} is both", one.seen_as()?);
                for connection in [&mut one, &mut two] {
                    bulk(connection)?;
                }
                pings(&mut one)?;
            }
        }
        Ok(())
    });
}

/// A client that takes the same port again within a second: the SYN is for a flow that has just ended, or has not
/// quite. It opens a new one, and at once.
fn a_port_used_again_at_once(scenario: Scenario) {
    scenario.run(|lab| {
        let _agent = agent(lab, &lab.config(), "m1")?;
        for (vip, own) in first_vips().into_iter().zip(own(40_003)) {
            for round in 0..10 {
                let context = || format!("{vip}, round {round}");
                let start = Instant::now();
                let mut connection = lab.app().dial(vip).from(own).connect().with_context(context)?;
                // A client that closes first keeps the port for a minute (TIME-WAIT) but with a reset: so by turns
                // the member closes first, and the client resets.
                if round % 2 == 0 {
                    connection.command(&["QUIT"]).with_context(context)?;
                    // The member's end of stream: it has closed first.
                    let end = connection.receive();
                    ensure!(end.is_err(), "{end:?}");
                    drop(connection);
                } else {
                    pings(&mut connection).with_context(context)?;
                    connection.reset()?;
                }
                // A lost SYN would be sent again after a second.
                ensure!(start.elapsed() < Duration::from_millis(900), "{}: {:?}", context(), start.elapsed());
            }
        }
        Ok(())
    });
}

/// The first SYN is lost behind this host. The second one is the same flow's: same member, same port, no second flow.
fn a_syn_sent_again(scenario: Scenario) {
    scenario.run(|lab| {
        let agent = agent(lab, &lab.config(), "m1")?;
        for vip in first_vips() {
            let opened = agent.outcome("opened")?;
            // Not the probes': those come from ephemeral ports.
            lab.router().lose(&["tcp sport 10000-32767 tcp flags syn"])?;
            let start = Instant::now();
            let app = lab.app().clone();
            let client = lab.app().spawn_thread("late", move || app.dial(vip).limit(SOON * 2).connect())?;
            thread::sleep(Duration::from_millis(300));
            lab.router().lose_nothing()?;
            let mut connection = client.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
            ensure!(start.elapsed() >= Duration::from_millis(900), "the first SYN was not lost");
            ensure!(connection.whoami()? == "m1");
            bulk(&mut connection)?;
            let now = agent.outcome("opened")?;
            ensure!(now == opened + 1, "{} flows were opened", now - opened);
        }
        Ok(())
    });
}
