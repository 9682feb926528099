//! A crowd of idle connections at a switch: each of those that are left is ended, and no other one.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test: what is odd shall panic")]

use std::{
    env, thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use redirector_tests::{Assembly, Scenario, with_and_without_offloads};

const START: Duration = Duration::from_secs(10);
/// All clients of a thousand are told within this; figures come from the benchmark.
const SOON: Duration = Duration::from_secs(5);
/// The last pass of a sweep is over.
const SWEPT: Duration = Duration::from_millis(600);
/// Those that nobody may touch.
const BYSTANDERS: usize = 30;

/// How large the crowd is: a thousand, or `REDIRECTOR_CROWD`.
fn crowd() -> usize {
    env::var("REDIRECTOR_CROWD").ok().map_or(1000, |count| count.parse().unwrap())
}

with_and_without_offloads! {
    everybody_is_ended_and_nobody_else,
}

/// Idle clients on the host and in containers hear at once that their member was left. Direct connections to that member, those of
/// another service with it, and those that were opened after the switch go on.
fn everybody_is_ended_and_nobody_else(scenario: Scenario) {
    scenario.limit(Duration::from_secs(120)).run(|lab| {
        let count = crowd();
        let assembly = Assembly::new(lab, count)?;
        let agent = lab.agent(&assembly.config())?;
        agent.wait_active("m1", START)?;
        let crowd = assembly.clients(count)?;
        let bystanders = [assembly.direct_clients("m1", BYSTANDERS)?, assembly.clients_of_other(BYSTANDERS)?];
        ensure!(assembly.server("m1")?.report()?.open >= count + 2 * BYSTANDERS);

        let asked = agent.switch_at_once("orders", "m2")?;
        let switched = Instant::now();
        let late = assembly.clients(BYSTANDERS)?;
        let held = crowd.wait_ended(SOON)?;
        thread::sleep(SWEPT.saturating_sub(switched.elapsed()));
        let after = |seen: Option<Duration>| seen.map(|at| at.saturating_sub(asked));
        eprintln!(
            "{count} connections: the first ended after {:?}, the last after {:?}, with {:?}",
            after(held.ended.first),
            after(held.ended.last),
            held.errors
        );
        ensure!(held.ended.count == count, "{held:?}");
        for others in bystanders.iter().chain([&late]) {
            let held = others.report()?;
            ensure!(held.ended.count == 0, "somebody else was ended: {held:?}");
        }
        ensure!(assembly.server("m2")?.report()?.open >= BYSTANDERS);
        Ok(())
    });
}
