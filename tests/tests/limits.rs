//! `[service.limit]` as clients meet it: those above the cap are refused at once, and nobody else notices.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{
    Agent, Connection, Host, Lab, Scenario, Value, first_vips, slowness, with_and_without_offloads,
};

const START: Duration = Duration::from_secs(10);
/// Where metrics are, in the application's own network namespace.
const LISTEN: &str = "127.0.0.1:9109";
/// How long a client that is refused may wait: far below the second after which a SYN is sent again.
const AT_ONCE: Duration = Duration::from_millis(500);

with_and_without_offloads! {
    a_burst_above_the_limit_is_refused,
}

/// What came of connections that were opened at once.
struct Burst {
    served: Vec<Connection>,
    refused: usize,
    took: Duration,
}

/// So many clients connect at the same moment. Each is served, by `m1`, or refused at once.
fn burst(host: &Host, to: SocketAddr, clients: usize) -> Result<Burst> {
    let start = Instant::now();
    let connect = || {
        let dial = host.dial(to);
        thread::spawn(move || {
            let start = Instant::now();
            (dial.connect(), start.elapsed())
        })
    };
    let connecting: Vec<_> = (0..clients).map(|_| connect()).collect();
    let (mut served, mut refused) = (Vec::new(), 0);
    for client in connecting {
        let (result, after) = client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
        match result {
            Ok(connection) => served.push(connection),
            Err(error) => {
                ensure!(error.kind() == ErrorKind::ConnectionRefused, "{error:?} after {after:?}");
                ensure!(after < AT_ONCE * slowness(), "refused after {after:?} only");
                refused += 1;
            }
        }
    }
    let took = start.elapsed();
    for connection in &mut served {
        ensure!(connection.whoami()? == "m1");
    }
    eprintln!("{to}: {} served and {refused} refused in {took:?}", served.len());
    Ok(Burst { served, refused, took })
}

/// The configuration with such a cap on `orders`, the first service.
fn limited(config: &str, new_connections: usize, burst: usize) -> String {
    let limit =
        format!("[service.limit]\nnew_connections = {new_connections}\nburst = {burst}\n[service.detect]");
    config.replacen("[service.detect]", &limit, 1)
}

fn reload(agent: &Agent, config: &str) -> Result<()> {
    fs::write(agent.config_file(), config)?;
    let output = agent.verb(&["reload"])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout)?;
    ensure!(said.contains("limit"), "{said}");
    Ok(())
}

/// Packets of each outcome, as metrics have them.
fn counted(lab: &Lab, outcome: &str) -> Result<u64> {
    // What was scraped just now serves others too.
    thread::sleep(redirector::telemetry::server::FRESH);
    let body = lab.app().run(|| -> Result<String> {
        let mut stream = TcpStream::connect(LISTEN)?;
        stream.set_read_timeout(Some(START))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut body = String::new();
        stream.read_to_string(&mut body)?;
        Ok(body)
    })?;
    let series: BTreeMap<_, _> = body.lines().filter_map(|line| line.rsplit_once(' ')).collect();
    let count = series.get(format!("redirector_packets_total{{outcome=\"{outcome}\"}}").as_str());
    Ok(count.with_context(|| format!("{outcome} in {body}"))?.parse()?)
}

/// Ten in a second, and forty at once.
fn a_burst_above_the_limit_is_refused(scenario: Scenario) {
    const RATE: usize = 10;
    const BURST: usize = 40;
    const MANY: usize = 120;
    scenario.run(|lab| {
        let config = lab.config().agent_line(&format!("metrics_listen = \"{LISTEN}\""));
        let agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        let (config, [vip, other]) = (config.to_string(), first_vips());
        ensure!(burst(lab.app(), vip, MANY)?.refused == 0, "there is no limit");

        // The limit comes while everybody works.
        let mut early = burst(lab.app(), vip, 5)?.served;
        reload(&agent, &limited(&config, RATE, BURST))?;
        let mut above = burst(lab.app(), vip, MANY)?;
        let earned = RATE * (usize::try_from(above.took.as_millis())? / 1000 + 1);
        ensure!(above.refused > 0 && above.served.len() >= BURST, "{} served", above.served.len());
        ensure!(above.served.len() <= BURST + earned, "{} in {:?}", above.served.len(), above.took);
        let refused = u64::try_from(above.refused)?;
        ensure!(agent.outcome("refused_rate")? == refused, "{} in status", agent.outcome("refused_rate")?);
        ensure!(counted(lab, "refused_rate")? == refused, "{} in metrics", counted(lab, "refused_rate")?);

        // It is the service's own, and that of its connections through the VIP.
        ensure!(burst(lab.app(), lab.member("m1").v4(), MANY)?.refused == 0, "direct connections");
        ensure!(burst(lab.app(), other, MANY)?.refused == 0, "another service with the same members");
        for connection in above.served.iter_mut().chain(&mut early) {
            ensure!(connection.command(&["PING"])? == Value::Status("PONG".into()), "it was there before");
        }
        ensure!(agent.status()?["services"][0]["active"] == "m1", "a refusal is no member's fault");

        // After a second there is room for ten more.
        thread::sleep(Duration::from_secs(1));
        ensure!(burst(lab.app(), vip, RATE)?.refused == 0, "after a pause");

        // Another limit, and none, count from now on.
        reload(&agent, &limited(&config, 1, 3))?;
        let fewer = burst(lab.app(), vip, MANY)?;
        ensure!((3..=RATE).contains(&fewer.served.len()), "{} served", fewer.served.len());
        reload(&agent, &config)?;
        ensure!(burst(lab.app(), vip, MANY)?.refused == 0, "without the section");
        let all = refused + u64::try_from(fewer.refused)?;
        ensure!(agent.outcome("refused_rate")? == all, "{} in status", agent.outcome("refused_rate")?);
        Ok(())
    });
}
