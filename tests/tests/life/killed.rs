//! SIGKILL at every moment of a start: the next start works, and `uninstall` leaves nothing.

use std::{
    collections::HashSet,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use aya::{
    maps::MapData,
    programs::{ProgramInfo, loaded_programs},
};
use redirector_tests::{
    Agent, Lab, Offloads, Scenario, binary, new_connections_are_served_by, nothing_is_left,
    one_program_on_each_hook, wait_until,
};

use super::START;

/// Between one moment and the next, at least.
const STEP: Duration = Duration::from_millis(2);
/// Moments at most: an agent that is not optimised starts slowly.
const MOMENTS: u32 = 40;

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

        let step = STEP.max(whole / MOMENTS);
        let moments = (0..).map(|number| (number, step * number));
        for (number, moment) in moments.take_while(|(_, moment)| *moment < whole + 3 * step) {
            killed(&mut agent, moment)?;
            let result = match number % 4 {
                // A killed start over what a killed start has left, too.
                0 => killed(&mut agent, moment / 2).and_then(|()| starts(lab, &mut agent)),
                2 => starts(lab, &mut agent),
                _ => Ok(()),
            };
            result
                .and_then(|()| uninstalls(lab, &agent))
                .with_context(|| format!("killed {moment:?} after its start"))?;
        }
        Ok(())
    });
}

#[test]
fn an_uninstallation_that_is_killed_at_any_moment() {
    Scenario::new(Offloads::On).limit(Duration::from_secs(300)).run(|lab| {
        let mut agent = lab.agent_to_start(&lab.config())?;
        starts(lab, &mut agent)?;
        let whole = Instant::now();
        agent.uninstall()?;
        let whole = whole.elapsed();

        let step = STEP.max(whole / 12);
        let moments = (0..).map(|number| (number, step * number));
        for (number, moment) in moments.take_while(|(_, moment)| *moment < whole + 2 * step) {
            let context = || format!("killed {moment:?} after its start");
            starts(lab, &mut agent).with_context(context)?;
            let mut command = lab.app().command(binary()?);
            command.arg("uninstall").arg("--config").arg(agent.config_file());
            let mut uninstall = lab.app().spawn("uninstall", command)?;
            thread::sleep(moment);
            uninstall.kill()?;
            if number % 2 == 0 {
                starts(lab, &mut agent).with_context(context)?;
            }
            uninstalls(lab, &agent).with_context(context)?;
        }
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
    let maps = pinned_maps(lab)?;
    agent.uninstall()?;
    nothing_is_left(lab)?;
    let uses_them = |program: &ProgramInfo| {
        program.map_ids().is_ok_and(|used| used.into_iter().flatten().any(|map| maps.contains(&map)))
    };
    let gone = || !loaded_programs().flatten().any(|program| uses_them(&program));
    wait_until("its programs are unloaded", SOON, gone)?;
    Ok(())
}

/// Numbers of the maps that are pinned. Every program of an agent uses some of them.
fn pinned_maps(lab: &Lab) -> Result<HashSet<u32>> {
    let Ok(maps) = fs::read_dir(lab.config().pin_dir().join("maps")) else { return Ok(HashSet::new()) };
    maps.map(|map| Ok(MapData::from_pin(map?.path())?.info()?.id())).collect()
}
