//! Programs attached without tcx: what older kernels do, on any kernel. That they carry packets is what the other tests
//! show; those of a kernel without tcx do it this way by themselves.

use std::{fs, mem, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::programs::{
    TcAttachType,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions},
};
use redirector_tests::{
    Agent, Application, Filter, Lab, Scenario, filters, foreign_program, has_clsact, has_tcx,
    new_connections_are_served_by, nothing_is_left, one_program_on_each_hook, programs, wait_until,
    with_and_without_offloads,
};

const START: Duration = Duration::from_secs(10);

/// The device that leads to the members, and where replies come in.
const UPLINK: (&str, TcAttachType) = ("eth0", TcAttachType::Ingress);

with_and_without_offloads! {
    a_program_is_replaced_in_its_place,
    the_queueing_discipline_goes_with_who_made_it,
    a_filter_that_is_taken_away_comes_back,
    the_way_may_change_under_load,
}

fn on_the_uplink(lab: &Lab) -> Result<Vec<Filter>> {
    filters(lab.app(), UPLINK.0, UPLINK.1)
}

/// Somebody else's filter, which stays.
fn foreign_filter(lab: &Lab, priority: u16) -> Result<()> {
    let mut program = foreign_program()?;
    let options = TcAttachOptions::Netlink(NlOptions { priority, ..NlOptions::default() });
    let link = lab.app().run(|| program.attach_with_options(UPLINK.0, UPLINK.1, options))?;
    // Dropped here, it would be looked for in this thread's network namespace, which is the machine's.
    mem::forget(program.take_link(link)?);
    Ok(())
}

/// Takes it away.
fn remove(lab: &Lab, filter: &Filter) -> Result<()> {
    let (priority, handle) = (u16::try_from(filter.priority)?, filter.handle.into());
    lab.app().run(|| {
        drop(SchedClassifierLink::attached(UPLINK.0, UPLINK.1, priority, handle, None)?);
        Ok(())
    })
}

/// The next agent gets another file.
fn configure(lab: &Lab, agent: &Agent, way: &str) -> Result<()> {
    Ok(fs::write(agent.config_file(), lab.config().attach(way).to_string())?)
}

/// Others run before and after it and keep their places; the handle stays, the program is another one.
fn a_program_is_replaced_in_its_place(scenario: Scenario) {
    scenario.run(|lab| {
        lab.app().run(|| tc::qdisc_add_clsact(UPLINK.0))?;
        // 0: the kernel takes the highest that it gives by itself.
        foreign_filter(lab, 0)?;
        foreign_filter(lab, 60_000)?;
        let [first, last] = on_the_uplink(lab)?[..] else { anyhow::bail!("the others' filters") };
        let mut agent = lab.agent(&lab.config().attach("clsact"))?;
        agent.wait_active("m1", START)?;
        let before = on_the_uplink(lab)?;
        ensure!(
            before.len() == 3 && before[0] == first && before[2] == last,
            "{first:?} {last:?}: {before:?}"
        );
        new_connections_are_served_by(lab, "m1")?;
        let application = Application::start(lab, 3, "m1")?;

        for end in [0, 1] {
            match end {
                0 => agent.kill()?,
                _ => ensure!(agent.terminate()?.success(), "the agent fails at its end"),
            }
            ensure!(on_the_uplink(lab)?.len() == 3, "a program goes with its agent");
            agent.start()?;
        }
        let after = on_the_uplink(lab)?;
        ensure!(after.len() == 3 && after[0] == first && after[2] == last, "{after:?}");
        ensure!(after[1].handle == before[1].handle, "the filter is another one: {before:?}, {after:?}");
        ensure!(after[1].program != before[1].program, "the program is still that of the agent before");
        let at_device = programs(lab.app(), "redirector0", TcAttachType::Egress)?.len();
        ensure!(at_device == 1, "{at_device} programs at the VIP device");
        application.still_waits()?;
        for timeline in application.timelines() {
            ensure!(timeline.failures_since(timeline.start).is_empty(), "{timeline}");
        }
        agent.terminate()?;
        agent.uninstall()?;
        ensure!(on_the_uplink(lab)? == [first, last], "others' filters are not the agent's to remove");
        ensure!(has_clsact(lab.app(), UPLINK.0)?, "clsact was there before the agent");
        Ok(())
    });
}

fn the_queueing_discipline_goes_with_who_made_it(scenario: Scenario) {
    scenario.run(|lab| {
        let mut agent = lab.agent(&lab.config().attach("clsact"))?;
        agent.wait_active("m1", START)?;
        one_program_on_each_hook(lab)?;
        agent.terminate()?;
        ensure!(has_clsact(lab.app(), UPLINK.0)?, "on_stop = \"keep\"");
        agent.uninstall()?;
        nothing_is_left(lab).context("the agent made it")?;

        agent.start()?;
        agent.wait_active("m1", START)?;
        // Whoever comes later may use it.
        foreign_filter(lab, 1)?;
        agent.kill()?;
        agent.uninstall()?;
        let left = on_the_uplink(lab)?;
        ensure!(left.len() == 1 && left[0].priority == 1, "{left:?}");
        remove(lab, &left[0])?;

        agent.start()?;
        agent.wait_active("m1", START)?;
        agent.terminate()?;
        agent.uninstall()?;
        ensure!(on_the_uplink(lab)?.is_empty() && has_clsact(lab.app(), UPLINK.0)?, "it was there before");
        Ok(())
    });
}

/// A tool for shaping or monitoring clears what it finds: without the program no answer of a member would be translated.
fn a_filter_that_is_taken_away_comes_back(scenario: Scenario) {
    scenario.run(|lab| {
        let agent = lab.agent(&lab.config().attach("clsact"))?;
        agent.wait_active("m1", START)?;
        for filter in on_the_uplink(lab)? {
            remove(lab, &filter)?;
        }
        wait_until("the filter is back", START, || on_the_uplink(lab).is_ok_and(|found| found.len() == 1))?;
        agent.wait_logged(&["taken away by somebody else"], START)?;
        new_connections_are_served_by(lab, "m1")
    });
}

/// A new agent that attaches in the other way takes the place of the one before.
fn the_way_may_change_under_load(scenario: Scenario) {
    if !has_tcx() {
        eprintln!("this kernel has no tcx: there is one way only");
        return;
    }
    scenario.run(|lab| {
        let mut agent = lab.agent(&lab.config().attach("tcx"))?;
        agent.wait_active("m1", START)?;
        let application = Application::start(lab, 3, "m1")?;
        for way in ["clsact", "tcx", "clsact"] {
            agent.terminate()?;
            configure(lab, &agent, way)?;
            agent.start()?;
            one_program_on_each_hook(lab).context(way)?;
            let filters = on_the_uplink(lab)?.len();
            ensure!(filters == usize::from(way == "clsact"), "{filters} filters, although by {way}");
            new_connections_are_served_by(lab, "m1").context(way)?;
        }
        application.still_waits()?;
        for timeline in application.timelines() {
            ensure!(timeline.failures_since(timeline.start).is_empty(), "{timeline}");
            ensure!(timeline.connections() == timeline.workers, "{timeline}");
        }
        agent.terminate()?;
        agent.uninstall()?;
        nothing_is_left(lab)
    });
}
