//! Pins of another network namespace, another boot, another layout: the dead are replaced, the living refused.

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use redirector_common::layout::{Meta, VERSION};
use redirector_tests::{
    Agent, Host, Lab, Offloads, Scenario, VIP_PORT, VIP_V4, binary, netlink, new_connections_are_served_by,
    nothing_is_left, one_program_on_each_hook, wait_until,
};

use super::{START, nothing_is_attached};

fn scenario() -> Scenario {
    Scenario::new(Offloads::On)
}

/// Where a map is pinned.
pub(crate) fn map(lab: &Lab, name: &str) -> PathBuf {
    lab.config().pin_dir().join("maps").join(format!("{name}_v{VERSION}"))
}

/// An agent whose newest switch has epoch 2, killed.
fn killed_in_epoch_two(lab: &Lab) -> Result<Agent> {
    let mut agent = lab.agent(&lab.config())?;
    agent.wait_active("m1", START)?;
    lab.member("m1").crash()?;
    agent.wait_active("m2", START)?;
    agent.kill()?;
    lab.member("m1").start()?;
    Ok(agent)
}

fn epoch(agent: &Agent) -> Result<u64> {
    agent.status()?["services"][0]["epoch"].as_u64().context("no epoch")
}

fn meta(lab: &Lab) -> Result<Array<MapData, Meta>> {
    Ok(Map::from_map_data(MapData::from_pin(map(lab, "meta"))?)?.try_into()?)
}

/// As a reboot would do it, and the end of a namespace: nothing is attached any more.
fn detach(lab: &Lab) -> Result<()> {
    fs::remove_dir_all(lab.config().pin_dir().join("links"))?;
    nothing_is_attached(lab)
}

#[test]
fn own_maps_outlive_their_links() {
    scenario().run(|lab| {
        let mut agent = killed_in_epoch_two(lab)?;
        detach(lab)?;
        agent.start()?;
        ensure!(epoch(&agent)? == 2, "decisions are lost with the links: {:#}", agent.status()?);
        one_program_on_each_hook(lab)?;
        new_connections_are_served_by(lab, "m2")
    });
}

#[test]
fn pins_of_another_boot_are_replaced() {
    scenario().run(|lab| {
        let mut agent = killed_in_epoch_two(lab)?;
        detach(lab)?;
        let mut meta = meta(lab)?;
        let boot_id = *b"01234567-89ab-cdef-0123-456789abcdef\0\0\0\0";
        meta.set(0, Meta { boot_id, ..meta.get(&0, 0)? }, 0)?;
        drop(meta);
        agent.start()?;
        agent.wait_active("m1", START)?;
        ensure!(epoch(&agent)? == 1, "the decisions of another boot are believed: {:#}", agent.status()?);
        ensure!(agent.log().contains("removed the dead pins"), "{}", agent.log());
        one_program_on_each_hook(lab)?;
        new_connections_are_served_by(lab, "m1")
    });
}

/// A container may be given a boot id of its own. What is attached was attached in this boot.
#[test]
fn attached_links_know_the_boot_better_than_the_meta_map() {
    scenario().run(|lab| {
        let mut agent = killed_in_epoch_two(lab)?;
        let mut meta = meta(lab)?;
        meta.set(0, Meta { boot_id: [b'0'; 40], ..meta.get(&0, 0)? }, 0)?;
        agent.start()?;
        ensure!(epoch(&agent)? == 2, "a living agent's decisions are thrown away: {:#}", agent.status()?);
        ensure!(meta.get(&0, 0)?.boot_id != [b'0'; 40], "the boot is not corrected");
        one_program_on_each_hook(lab)
    });
}

/// A container that is started again has a new network namespace, and the devices of the old one go a moment later. (That a living one is refused:
/// `wrong_input`, `a_restart_with_a_wrong_file_changes_nothing`.)
#[test]
fn pins_of_a_dead_namespace_are_replaced() {
    scenario().run(|lab| {
        let mut agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        let file = agent.config_file().to_owned();
        agent.kill()?;
        let mut command = lab.router().command(binary()?);
        command.arg("run").arg("--config").arg(file);
        let mut process = lab.router().spawn("agent", command)?;
        // As the kernel does it to a namespace whose last process has just ended.
        thread::sleep(Duration::from_millis(500));
        ensure!(
            process.ended()?.is_none(),
            "it did not wait for an ending namespace: {}",
            process.log().text()
        );
        remove_device(lab.app(), "redirector0")?;
        remove_device(lab.app(), "eth0")?;
        let served = || -> Result<bool> {
            let reply = lab.router().connect((VIP_V4, VIP_PORT).into())?.command(&["GET", "whoami"])?;
            Ok(reply.text().as_deref() == Some("m1"))
        };
        wait_until("the agent of another namespace serves", START, || served().unwrap_or(false))
            .with_context(|| process.log().text())?;
        let log = process.log().text();
        ensure!(log.contains("removed the dead pins") && log.contains("network namespace"), "{log}");
        process.kill()?;
        let mut command = lab.router().command(binary()?);
        command.arg("uninstall").arg("--config").arg(agent.config_file());
        let output = lab.router().output(command)?;
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    });
}

fn remove_device(host: &Host, name: &str) -> Result<()> {
    netlink(host, |handle| async move {
        let mut found = Box::pin(handle.link().get().match_name(name.to_owned()).execute());
        let link = tokio_stream::StreamExt::try_next(&mut found).await?;
        let index = link.with_context(|| format!("there is no device {name}"))?.header.index;
        Ok(handle.link().del(index).execute().await?)
    })
}

/// Turns the maps of a killed agent into those of a layout that nobody knows.
fn of_layout_999(lab: &Lab) -> Result<()> {
    let dir = lab.config().pin_dir().join("maps");
    for entry in fs::read_dir(&dir)?.collect::<Result<Vec<_>, _>>()? {
        let name = entry.file_name().to_string_lossy().into_owned();
        let (name, _) = name.rsplit_once("_v").context("a map without a layout")?;
        fs::rename(entry.path(), dir.join(format!("{name}_v999")))?;
    }
    Ok(())
}

#[test]
fn an_unknown_layout_is_refused_while_it_serves_and_uninstalled() {
    scenario().run(|lab| {
        let mut agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        agent.kill()?;
        of_layout_999(lab)?;
        let refused =
            format!("{:#}", agent.start().err().context("it started over maps that it does not know")?);
        for fragment in ["layout 999", &format!("knows layout {VERSION}"), "redirector uninstall"] {
            ensure!(refused.contains(fragment), "no {fragment:?} in: {refused}");
        }
        one_program_on_each_hook(lab)?;
        new_connections_are_served_by(lab, "m1").context("a refused start changed something")?;

        let output = agent.verb(&["uninstall", "--config", &agent.config_file().display().to_string()])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && said.contains("end without a reset"), "{output:?}");
        nothing_is_left(lab)?;
        agent.start()?;
        agent.wait_active("m1", START)?;
        new_connections_are_served_by(lab, "m1")
    });
}

#[test]
fn an_unknown_layout_that_nothing_uses_is_replaced() {
    scenario().run(|lab| {
        let mut agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        agent.kill()?;
        of_layout_999(lab)?;
        detach(lab)?;
        agent.start()?;
        agent.wait_active("m1", START)?;
        one_program_on_each_hook(lab)?;
        new_connections_are_served_by(lab, "m1")?;
        agent.kill()?;
        agent.uninstall()?;
        nothing_is_left(lab)
    });
}
