//! Real client libraries at a failover: a pool, idle connections, a command that waits, a subscription and a pipeline in
//! flight, in the host's namespace and in a container. Each goes on by itself, and `docs/clients.md` says what its
//! application sees: the test compares, in both directions.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{Connection, Lab, Member, Offloads, Scenario, VIP_PORT, VIP_V4, slowness};

use self::{
    program::{CLIENTS, Program, USES},
    seen::Seen,
    table::{Fault, Table},
};

#[path = "clients/program.rs"]
mod program;
#[path = "clients/seen.rs"]
mod seen;
#[path = "clients/table.rs"]
mod table;

const START: Duration = Duration::from_secs(10);
/// Ten programs start at once on a small machine, and two of five languages take their time.
const PROGRAMS_START: Duration = Duration::from_secs(20);
/// Nobody waits longer for a library to go on than this; the bounds that count are those of the table.
const MOVED: Duration = Duration::from_secs(10);
/// Who has moved stays where it is for this long.
const CALM: Duration = Duration::from_millis(300);
/// The channel of the subscribers.
const CHANNEL: &str = "news";

/// The server dies, its host answers.
#[test]
fn crash() {
    moves(Scenario::new(Offloads::On), Fault::Crash, |_, member| member.crash());
}

/// Nothing comes back: only the agent ends a connection.
#[test]
fn black_hole() {
    moves(Scenario::new(Offloads::Off), Fault::BlackHole, Lab::black_hole);
}

fn moves(scenario: Scenario, fault: Fault, strike: impl FnOnce(&Lab, &Member) -> Result<()>) {
    let Some(installed) = program::installed() else { return };
    scenario.run(|lab| {
        let table = Table::read()?;
        let container = lab.container("c1")?;
        lab.masquerade()?;
        // What users have: the defaults.
        let agent = lab.agent(&lab.config().one_service().timing(None))?;
        agent.wait_active("m1", START)?;

        let mut programs = Vec::new();
        for host in [lab.app(), &container] {
            for client in CLIENTS {
                programs.push(Program::start(&installed, client, host, (VIP_V4, VIP_PORT).into())?);
            }
        }
        wait_where_they_are_to_be(lab, &programs)?;
        answers_for_those_who_wait(lab.member("m2"), &programs)?;

        let since = program::now();
        strike(lab, lab.member("m1"))?;
        let mut publisher = lab.member("m2").connect()?;
        until(&programs, &mut publisher, MOVED, |seen| seen.moved("m2", since))?;
        let calm = Instant::now();
        until(&programs, &mut publisher, MOVED, |_| calm.elapsed() > CALM)?;

        let mut all = Vec::new();
        for program in &programs {
            let lines = program.lines();
            let pool_moved = Seen::of(&lines, "pool").back_after(since)?;
            for one in USES {
                let seen = Seen::of(&lines, one);
                ensure!(seen.moved("m2", since), "{} {one} failed again\n{seen}", program.name());
                let back = seen.back_after(since)?;
                // Nobody used it before that.
                let back = if one == "idle" { back.saturating_sub(pool_moved + program::IDLE) } else { back };
                eprintln!(
                    "{fault:?}: {:15} {one:10} back after {back:>5.0?}: {}",
                    program.name(),
                    seen.heard()
                );
                all.push((program.client, one, seen, back));
            }
            sent_twice(program, lab.member("m2"))?;
        }
        table.says(fault, &all)
    });
}

/// The first command of a pipeline in flight was done at the member that failed, and is done once more at the other one,
/// whoever sent it again: the library, or an application that was given an error.
fn sent_twice(program: &Program, member: &Member) -> Result<()> {
    let tried = member.command(&["GET", &format!("tried:{}", program.name())])?;
    ensure!(
        tried.text().as_deref() == Some("1"),
        "{}: the pipeline was sent {tried:?} times to m2",
        program.name()
    );
    Ok(())
}

/// All are served by `m1`, their subscribers hear it, and what waits, waits there.
fn wait_where_they_are_to_be(lab: &Lab, programs: &[Program]) -> Result<()> {
    let m1 = lab.member("m1");
    let mut publisher = m1.connect()?;
    until(programs, &mut publisher, PROGRAMS_START, |seen| seen.is_served_by("m1"))?;
    let expected = 2 * programs.len();
    let waiting = || {
        let clients = m1.clients().unwrap_or_default();
        clients.iter().filter(|client| client.contains(" cmd=blpop")).count()
    };
    redirector_tests::wait_until("blocked commands and pipelines wait at m1", START, || {
        waiting() == expected
    })
    .with_context(|| format!("{} wait, not {expected}", waiting()))?;
    Ok(())
}

/// An element for each that waits, at the member that it will come to.
fn answers_for_those_who_wait(member: &Member, programs: &[Program]) -> Result<()> {
    let mut connection = member.connect()?;
    for program in programs {
        for one in ["blocked", "pipeline"] {
            connection.command(&["RPUSH", &format!("{one}:{}", program.name()), member.name()])?;
        }
    }
    Ok(())
}

/// Publishes the member's name until `ready` says so of every use of every program.
fn until(
    programs: &[Program],
    publisher: &mut Connection,
    within: Duration,
    ready: impl Fn(&Seen) -> bool,
) -> Result<()> {
    let start = Instant::now();
    let by = publisher.whoami()?;
    loop {
        publisher.command(&["PUBLISH", CHANNEL, &by])?;
        let not_ready = programs.iter().find_map(|program| {
            let lines = program.lines();
            let wrong = USES.into_iter().find(|one| !ready(&Seen::of(&lines, one)))?;
            Some((program, wrong))
        });
        let Some((program, wrong)) = not_ready else { return Ok(()) };
        let log = || program.log();
        ensure!(
            start.elapsed() < within * slowness(),
            "{}: {wrong} is not where it should be within {within:?}\n{}",
            program.name(),
            log()
        );
        thread::sleep(Duration::from_millis(10));
    }
}
