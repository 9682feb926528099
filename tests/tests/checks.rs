//! What checks find decides, and what says nothing about a member does not.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use redirector_tests::{
    Agent, AgentConfig, Connection, Lab, Offloads, Scenario, VIP_PORT, VIP_V4, Value, wait_until,
};

const START: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(5);

/// Every kind that speaks Redis, several times a second.
fn config(lab: &Lab) -> AgentConfig {
    let check =
        |kind| format!("{{ kind = \"{kind}\", interval = \"100ms\", timeout = \"500ms\", fall = 2 }}");
    let checks = ["ping", "echo", "set_get"].map(check).join(", ");
    lab.config().timing(None).service_line(&format!("check = [{checks}]"))
}

/// Somebody changes the password of a member and forgets the agent: the member serves on, and `status` says what is
/// wrong. Its death is still seen.
#[test]
fn credentials_that_are_revoked_move_nobody() {
    Scenario::new(Offloads::On).lab(|lab| lab.password("secret")).run(|lab| {
        let agent = lab.agent(&config(lab))?;
        agent.wait_active("m1", START)?;
        let epoch = service(&agent)?["epoch"].clone();

        let mut connection = lab.member("m1").connect()?;
        expect_ok(&mut connection, &["CONFIG", "SET", "requirepass", "other"])?;
        connection.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])?;
        wait_until("the status tells of the password", SOON, || {
            let reason = service(&agent).map(|service| service["members"][0]["reason"].to_string());
            reason.is_ok_and(|reason| reason.contains("AUTH was refused") && reason.contains("not counted"))
        })?;
        thread::sleep(Duration::from_secs(1));
        let now = service(&agent)?;
        ensure!(now["active"] == "m1" && now["epoch"] == epoch, "{now:#}");
        let mut client = lab.app().connect((VIP_V4, VIP_PORT).into())?;
        expect_ok(&mut client, &["AUTH", "other"])?;
        ensure!(client.command(&["GET", "whoami"])?.text().as_deref() == Some("m1"));

        lab.member("m1").crash()?;
        agent.wait_active("m2", START)?;
        Ok(())
    });
}

/// An operator of the database makes a member a replica: it answers, and takes no writes.
#[test]
fn a_member_that_takes_no_writes_is_left() {
    Scenario::new(Offloads::On).run(|lab| {
        let agent = lab.agent(&config(lab))?;
        agent.wait_active("m1", START)?;
        let mut connection = lab.member("m1").connect()?;
        expect_ok(&mut connection, &["REPLICAOF", "192.0.2.1", "6379"])?;
        agent.wait_active("m2", SOON)?;
        let reason = service(&agent)?["members"][0]["reason"].to_string();
        ensure!(reason.contains("READONLY"), "{reason}");
        Ok(())
    });
}

fn service(agent: &Agent) -> Result<serde_json::Value> {
    agent.status()?["services"].get(0).cloned().context("a service")
}

fn expect_ok(connection: &mut Connection, words: &[&str]) -> Result<()> {
    let reply = connection.command(words)?;
    ensure!(reply == Value::Status("OK".into()), "{words:?}: {reply:?}");
    Ok(())
}
