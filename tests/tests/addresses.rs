//! A member whose endpoint is a name with several addresses: the proxies of one cluster.
//!
//! Here `cluster` is the only member, `redis.test` its endpoint, and m1, m2 and m3 are its proxies.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{
    Agent, AgentConfig, Connection, Lab, NameServer, REDIS_PORT, Scenario, VIP_PORT, VIP_V4, Value,
    vip_addresses, wait_until, with_and_without_offloads,
};
use serde_json::Value as Json;

const START: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(5);
/// An answer holds for a second; then the new address has to be asked for and to pass.
const NEXT_ANSWER: Duration = Duration::from_secs(3);
const NAME: &str = "redis.test";
/// Clients of each VIP. That one of three addresses gets none of them happens once in 10^10 times.
const CLIENTS: usize = 60;

with_and_without_offloads! {
    new_flows_are_spread_and_an_address_that_fails_is_left_out,
    a_cut_of_this_host_resets_no_flow,
    an_added_address_gets_flows_and_a_removed_one_loses_them,
    the_last_answer_stays_when_the_resolver_fails,
    a_restart_moves_no_flow,
}

/// Open connections by who answers them.
type Served = BTreeMap<String, Vec<Connection>>;

fn start(
    lab: &Lab,
    proxies: &[&str],
    change: impl FnOnce(AgentConfig) -> AgentConfig,
) -> Result<(Agent, NameServer)> {
    let mut names = lab.name_server()?;
    names.set(NAME, &addresses(lab, proxies))?;
    let config = change(lab.config().endpoints(&[("cluster", &format!("{NAME}:{REDIS_PORT}"))]));
    let agent = lab.agent(&config)?;
    agent.wait_active("cluster", START)?;
    Ok((agent, names))
}

/// IPv4 and IPv6 addresses of members.
fn addresses(lab: &Lab, members: &[&str]) -> Vec<IpAddr> {
    members
        .iter()
        .map(|name| lab.member(name))
        .flat_map(|member| [member.v4().ip(), member.v6().ip()])
        .collect()
}

/// Opens connections to a VIP and asks who is there.
fn connect(lab: &Lab, vip: SocketAddr, count: usize) -> Result<Served> {
    let mut served = Served::new();
    for _ in 0..count {
        let mut connection = lab.app().connect(vip).with_context(|| vip.to_string())?;
        connection.set_time_limit(Some(SOON))?;
        let who = connection.command(&["GET", "whoami"])?.text().context("nobody")?;
        served.entry(who).or_default().push(connection);
    }
    Ok(served)
}

fn names(served: &Served) -> Vec<&str> {
    served.keys().map(String::as_str).collect()
}

/// New flows of both VIPs go to exactly these, sooner or later within `within`.
fn wait_spread(lab: &Lab, members: &[&str], within: Duration) -> Result<Duration> {
    let mut last = Vec::new();
    wait_until(&format!("new flows go to {members:?}"), within, || {
        let found = [VIP_V4.into(), redirector_tests::VIP_V6.into()]
            .map(|vip: IpAddr| connect(lab, (vip, VIP_PORT).into(), CLIENTS / 2));
        last = found.iter().map(|found| format!("{:?}", found.as_ref().map(names))).collect();
        found.iter().all(|found| found.as_ref().is_ok_and(|served| names(served) == members))
    })
    .with_context(|| last.join(", "))
}

fn still_answer<'a>(connections: impl IntoIterator<Item = &'a mut Connection>) -> Result<()> {
    for connection in connections {
        ensure!(connection.command(&["PING"])? == Value::Status("PONG".into()), "another answer");
    }
    Ok(())
}

/// Waits until the first of them has ended, then that all have, and says how long that took.
fn all_end(connections: Vec<Connection>, since: Instant, within: Duration) -> Result<Duration> {
    for mut connection in connections {
        connection.set_time_limit(Some(within))?;
        let ended = connection.receive().err().context("it was to say nothing")?;
        let waited_in_vain =
            matches!(ended.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
        ensure!(!waited_in_vain, "not reset within {:?}", since.elapsed());
    }
    Ok(since.elapsed())
}

/// What `status` says of the addresses of `cluster` for `orders`: address → state, offered.
fn states(agent: &Agent) -> Result<Vec<(String, String, bool)>> {
    let status = agent.status()?;
    let states = status["services"][0]["members"][0]["address_states"].as_array().context("addresses")?;
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    Ok(states
        .iter()
        .map(|state| (text(&state["address"]), text(&state["state"]), state["offered"] == true))
        .collect())
}

fn three(scenario: Scenario) -> Scenario {
    scenario.lab(|lab| lab.members(3))
}

fn new_flows_are_spread_and_an_address_that_fails_is_left_out(scenario: Scenario) {
    three(scenario).run(|lab| {
        let (agent, _names) = start(lab, &["m1", "m2", "m3"], |config| config)?;
        for vip in vip_addresses() {
            let served = connect(lab, vip, CLIENTS)?;
            ensure!(names(&served) == ["m1", "m2", "m3"], "{vip}: {:?}", names(&served));
            let counts: Vec<_> = served.values().map(Vec::len).collect();
            ensure!(counts.iter().all(|count| *count >= CLIENTS / 12), "{vip}: {counts:?}");
        }

        let mut served = connect(lab, (VIP_V4, VIP_PORT).into(), CLIENTS)?;
        let failing = served.remove("m2").context("m2 serves nobody")?;
        let epoch = agent.status()?["services"][0]["epoch"].clone();
        let freeze = Instant::now();
        lab.member("m2").freeze()?;
        let woken = all_end(failing, freeze, SOON)?;
        eprintln!("an address freezes, offloads {:?}: its flows are reset after {woken:?}", lab.offloads());
        ensure!(woken < Duration::from_millis(700), "reset after {woken:?}");
        wait_spread(lab, &["m1", "m3"], SOON)?;
        still_answer(served.values_mut().flatten()).context("a flow of another address was disturbed")?;

        let left_out = lab.member("m2").v4().to_string();
        let states = states(&agent)?;
        ensure!(states.contains(&(left_out.clone(), "down".into(), false)), "{states:?}");
        ensure!(
            states.iter().filter(|(_, state, offered)| state == "up" && *offered).count() == 2,
            "{states:?}"
        );
        let text = String::from_utf8(agent.verb(&["status"])?.stdout)?;
        ensure!(text.contains(&left_out) && text.contains("left out"), "{text}");
        let status = agent.status()?;
        ensure!(status["services"][0]["epoch"] == epoch, "an address is no reason for a switch: {status:#}");

        lab.member("m2").thaw()?;
        wait_spread(lab, &["m1", "m2", "m3"], SOON)?;
        still_answer(served.values_mut().flatten()).context("a flow was disturbed by the return")
    });
}

/// Of three addresses one fails before the others, and all are heard again.
fn a_cut_of_this_host_resets_no_flow(scenario: Scenario) {
    let all = ["m1", "m2", "m3"];
    three(scenario).run(|lab| {
        let (agent, _names) = start(lab, &all, |config| config)?;
        wait_spread(lab, &all, SOON)?;
        let mut served = connect(lab, (VIP_V4, VIP_PORT).into(), CLIENTS)?;
        ensure!(names(&served) == all, "{:?}", names(&served));
        // One is known to be down at least, in the longer cut all are.
        for least in [1, 3] {
            let is = |state: &str, least: usize| {
                states(&agent).is_ok_and(|states| {
                    let v4 = states.iter().filter(|(address, ..)| !address.starts_with('['));
                    v4.filter(|(_, is, _)| is == state).count() >= least
                })
            };
            let cut = Instant::now();
            for name in all {
                lab.black_hole(lab.member(name))?;
            }
            wait_until("an address is down", SOON, || is("down", least))?;
            let length = cut.elapsed();
            for name in all {
                lab.heal(lab.member(name))?;
            }
            wait_until("all are up again", SOON, || is("up", all.len()))?;
            still_answer(served.values_mut().flatten()).with_context(|| format!("a cut of {length:?}"))?;
            let events = agent.verb(&["events", "-o", "json"])?;
            let events = String::from_utf8(events.stdout)?;
            ensure!(!events.contains("address_reset"), "a cut of {length:?}: {events}");
        }
        Ok(())
    });
}

fn an_added_address_gets_flows_and_a_removed_one_loses_them(scenario: Scenario) {
    three(scenario).run(|lab| {
        let (agent, mut names) = start(lab, &["m1", "m2"], |config| {
            config.service_line("on_failback = \"drain\"").service_line("drain_timeout = \"1500ms\"")
        })?;
        wait_spread(lab, &["m1", "m2"], SOON)?;
        let mut served = connect(lab, (VIP_V4, VIP_PORT).into(), CLIENTS)?;

        names.set(NAME, &addresses(lab, &["m1", "m2", "m3"]))?;
        wait_spread(lab, &["m1", "m2", "m3"], NEXT_ANSWER)?;
        still_answer(served.values_mut().flatten()).context("a flow moved to the new address")?;

        let removed = served.remove("m1").context("m1 serves nobody")?;
        let removal = Instant::now();
        names.set(NAME, &addresses(lab, &["m2", "m3"]))?;
        let gone = wait_spread(lab, &["m2", "m3"], NEXT_ANSWER)?;
        let mut removed = removed;
        still_answer(&mut removed).context("a drain ended early")?;
        let ended = all_end(removed, removal, SOON)?;
        eprintln!("removed from the answer: no new flows after {gone:?}, old ones reset after {ended:?}");
        ensure!(ended > Duration::from_millis(1500), "reset after {ended:?}");
        still_answer(served.values_mut().flatten()).context("a flow of another address was disturbed")?;
        ensure!(states(&agent)?.len() == 2, "{:?}", states(&agent)?);
        // It lives, and is nobody's any more: no ghost of a flow is left there.
        wait_until("m1 has no clients", SOON, || lab.member("m1").clients().is_ok_and(|all| all.is_empty()))?;
        Ok(())
    });
}

fn the_last_answer_stays_when_the_resolver_fails(scenario: Scenario) {
    three(scenario).run(|lab| {
        let (mut agent, mut names) = start(lab, &["m1", "m2"], |config| config)?;
        wait_spread(lab, &["m1", "m2"], SOON)?;
        let mut served = connect(lab, (VIP_V4, VIP_PORT).into(), CLIENTS)?;
        let before = states(&agent)?;
        let complaints = |agent: &Agent| agent.log().matches("does not resolve").count();

        // Nobody answers; then somebody answers that there is no such name.
        for failure in ["refused", "no such name"] {
            match failure {
                "refused" => names.kill()?,
                _ => {
                    names.set(NAME, &[])?;
                    names.start()?;
                }
            }
            let known = complaints(&agent);
            wait_until("the agent notices", SOON, || complaints(&agent) > known).context(failure)?;
            // Some more questions.
            thread::sleep(Duration::from_secs(4));
            ensure!(states(&agent)? == before, "{failure}: {:?}", states(&agent)?);
            wait_spread(lab, &["m1", "m2"], SOON).context(failure)?;
            still_answer(served.values_mut().flatten()).context(failure)?;
        }
        // Twice for each of two services: with each change of the reason, not with every question.
        ensure!(complaints(&agent) == 4, "{} complaints", complaints(&agent));

        names.set(NAME, &addresses(lab, &["m1", "m2", "m3"]))?;
        // The pause after failures had grown.
        wait_spread(lab, &["m1", "m2", "m3"], Duration::from_secs(20))?;
        ensure!(agent.log().contains("resolves again"));

        // An agent that starts while the resolver fails goes on with what the one before knew.
        agent.kill()?;
        names.set(NAME, &[])?;
        agent.start()?;
        wait_spread(lab, &["m1", "m2", "m3"], SOON)?;
        ensure!(agent.log().contains("its addresses of earlier hold"));
        let check = agent.verb(&["check", "--config", &agent.config_file().display().to_string()])?;
        let said = String::from_utf8_lossy(&check.stderr).into_owned();
        ensure!(check.status.code() == Some(2) && said.contains("does not resolve (no such name)"), "{said}");
        still_answer(served.values_mut().flatten())
    });
}

/// Slots keep their addresses over a restart, whatever order the resolver gives them in.
fn a_restart_moves_no_flow(scenario: Scenario) {
    three(scenario).run(|lab| {
        let (mut agent, mut names) = start(lab, &["m3", "m2"], |config| config)?;
        wait_spread(lab, &["m2", "m3"], SOON)?;
        let mut served = connect(lab, (VIP_V4, VIP_PORT).into(), CLIENTS)?;
        lab.member("m3").freeze()?;
        wait_spread(lab, &["m2"], SOON)?;
        let mut served = served.remove("m2").context("m2 serves nobody")?;
        agent.kill()?;
        // An address more, and in front of the others.
        names.set(NAME, &addresses(lab, &["m1", "m2", "m3"]))?;
        agent.start()?;
        // m3 was left out and stays so, also before there is a verdict; m1 has passed.
        wait_spread(lab, &["m1", "m2"], SOON)?;
        still_answer(&mut served).context("a flow was disturbed")?;
        lab.member("m3").thaw()?;
        wait_spread(lab, &["m1", "m2", "m3"], SOON)?;
        still_answer(&mut served)
    });
}
