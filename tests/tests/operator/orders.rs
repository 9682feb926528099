//! `drain`, `undrain`, `pause`, `resume` and `member weight`.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use redirector_tests::{Offloads, Scenario};

use super::{SOON, START, document, done, load, one_service, orders_of, refused};

/// The active member is taken out: flows go as `on_failback` says, nothing comes back to it, and it is nobody's refuge until
/// it is taken back.
#[test]
fn a_drained_member_is_left_and_stays_out() {
    Scenario::new(Offloads::On).run(|lab| {
        let config = one_service(lab)
            .failback(Duration::from_millis(100), Duration::from_millis(0))
            .service_line("drain_timeout = \"500ms\"");
        let agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        let workers = load(lab, "m1")?;
        let since = Instant::now();
        let answer = document(&agent, &["drain", "orders", "m1", "--reason", "new disks", "--wait"])?;
        ensure!(answer["wait"]["end"] == "left" || answer["wait"]["end"] == "drained", "{answer:#}");
        workers.wait_served_by("m2", since, SOON)?;
        let status = orders_of(&agent)?;
        ensure!(status["active"] == "m2" && status["members"][0]["state"] == "drained", "{status:#}");
        let flows = document(&agent, &["flows", "--member", "m1", "--totals"])?;
        let open = flows["totals"].as_array().into_iter().flatten().find(|total| total["state"] != "closing");
        ensure!(open.is_none(), "{flows:#}");
        thread::sleep(Duration::from_millis(500));
        let timeline = workers.stop();
        ensure!(timeline.failures_since(since).len() == 10, "{timeline}");
        ensure!(timeline.failures_after("m2", since).is_empty(), "{timeline}");
        ensure!(orders_of(&agent)?["active"] == "m2", "it was failed back to a drained member");

        // The last one that is up is not taken out unawares.
        refused(&agent, &["drain", "orders", "m2"], &["no other member than \"m2\" is up", "--force"])?;
        // Nor is a switch made to it.
        refused(&agent, &["switch", "orders", "m1"], &["\"m1\" is drained", "undrain"])?;
        lab.member("m2").crash()?;
        thread::sleep(Duration::from_millis(700));
        let status = orders_of(&agent)?;
        ensure!(status["active"] == "m2" && status["state"] == "down", "{status:#}");
        let said = done(&agent, &["undrain", "orders", "m1"])?;
        ensure!(said.contains("\"m1\" is taken back"), "{said}");
        agent.wait_active("m1", SOON)?;
        Ok(())
    });
}

/// While automatic switching is stopped a crash moves nothing; when it goes on, the failover is made at once.
#[test]
fn nothing_moves_while_a_service_is_paused() {
    Scenario::new(Offloads::On).run(|lab| {
        let agent = lab.agent(&one_service(lab))?;
        agent.wait_active("m1", START)?;
        let said = done(&agent, &["pause", "orders", "--reason", "network work"])?;
        ensure!(said.contains("automatic switching is stopped, failover too"), "{said}");
        agent.wait_logged(
            &["operator", "verb=\"pause\"", "uid=0", "reason=\"network work\"", "result=\"done\""],
            SOON,
        )?;
        let epoch = orders_of(&agent)?["epoch"].clone();
        lab.member("m1").crash()?;
        let crash = Instant::now();
        while crash.elapsed() < Duration::from_millis(1500) {
            let status = orders_of(&agent)?;
            ensure!(status["active"] == "m1" && status["epoch"] == epoch, "{status:#}");
            ensure!(status["paused"] == true, "{status:#}");
            thread::sleep(Duration::from_millis(50));
        }
        let explained = document(&agent, &["explain", "orders"])?;
        ensure!(explained["rule"].as_str().is_some_and(|rule| rule.contains("paused")), "{explained:#}");
        let said = done(&agent, &["resume", "--all"])?;
        ensure!(said.contains("\"m2\" is active now instead of \"m1\""), "{said}");
        let status = orders_of(&agent)?;
        ensure!(status["active"] == "m2" && status["paused"] == false, "{status:#}");
        ensure!(status["last_switch"]["kind"] == "failover", "{status:#}");
        Ok(())
    });
}

/// The member that is given the highest weight is gone to by the rules of failback.
#[test]
fn a_weight_changes_who_is_best() {
    Scenario::new(Offloads::On).run(|lab| {
        let config = one_service(lab).failback(Duration::from_millis(200), Duration::from_millis(0));
        let agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        let said = done(&agent, &["member", "weight", "orders", "m2", "500"])?;
        ensure!(said.contains("\"m2\" has weight 500 instead of 50"), "{said}");
        agent.wait_active("m2", START)?;
        let status = orders_of(&agent)?;
        ensure!(status["members"][1]["weight"] == 500 && status["state"] == "ok", "{status:#}");
        ensure!(status["last_switch"]["kind"] == "failback", "{status:#}");
        refused(&agent, &["member", "weight", "orders", "m7", "5"], &["no member \"m7\"", "\"m1\", \"m2\""])?;
        Ok(())
    });
}
