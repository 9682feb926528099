//! SIGKILL at every moment of a start: the next start works, and `uninstall` leaves nothing.

use std::{
    collections::HashSet,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::programs::{
    links::{FdLink, PinnedLink},
    loaded_programs,
};
use redirector_tests::{
    Agent, Lab, Offloads, Scenario, new_connections_are_served_by, nothing_is_left, one_program_on_each_hook,
    wait_until,
};

use super::START;

/// Between one moment and the next. Prime, in a way: starts are not in step with it.
const STEP: Duration = Duration::from_millis(2);

/// The kernel frees what a killed process held a moment later.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_start_that_is_killed_at_any_moment() {
    Scenario::new(Offloads::On).limit(Duration::from_secs(300)).run(|lab| {
        let mut agent = lab.agent_to_start(&lab.config())?;
        let whole = Instant::now();
        agent.start()?;
        let whole = whole.elapsed();
        agent.kill()?;
        agent.uninstall()?;

        let mut moment = Duration::ZERO;
        let mut number = 0;
        while moment < whole + 5 * STEP {
            killed(&mut agent, moment)?;
            let result = match number % 3 {
                // A killed start over what a killed start has left, too.
                0 => killed(&mut agent, moment / 2).and_then(|()| starts(lab, &mut agent)),
                1 => starts(lab, &mut agent),
                _ => Ok(()),
            };
            result
                .and_then(|()| uninstalls(lab, &agent))
                .with_context(|| format!("killed {moment:?} after its start"))?;
            (moment, number) = (moment + STEP, number + 1);
        }
        ensure!(number > 10, "a start takes no more than {whole:?}?");
        Ok(())
    });
}

fn killed(agent: &mut Agent, moment: Duration) -> Result<()> {
    agent.begin()?;
    thread::sleep(moment);
    agent.kill()
}

/// The agent starts and does its work; then it is killed.
fn starts(lab: &Lab, agent: &mut Agent) -> Result<()> {
    agent.start()?;
    agent.wait_active("m1", START)?;
    one_program_on_each_hook(lab)?;
    new_connections_are_served_by(lab, "m1")?;
    agent.kill()
}

fn uninstalls(lab: &Lab, agent: &Agent) -> Result<()> {
    let programs = pinned_programs(lab)?;
    agent.uninstall()?;
    nothing_is_left(lab)?;
    let gone = || loaded_programs().flatten().all(|program| !programs.contains(&program.id()));
    wait_until("its programs are unloaded", SOON, gone)?;
    Ok(())
}

/// Programs that pinned links keep.
fn pinned_programs(lab: &Lab) -> Result<HashSet<u32>> {
    let Ok(links) = fs::read_dir(lab.config().pin_dir().join("links")) else { return Ok(HashSet::new()) };
    links.map(|link| Ok(FdLink::from(PinnedLink::from_pin(link?.path())?).info()?.program_id())).collect()
}
