//! What would hurt after a switch is shown, and moves nobody.

use std::{fs, os::unix::fs::PermissionsExt as _, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use redirector_tests::{Agent, Offloads, Scenario, Value, wait_until};

const START: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(10);

/// The applications' user exists at the second member alone: the first is said not to be ready, and stays active and up.
#[test]
fn a_member_that_is_not_ready_is_told_of_and_stays() {
    Scenario::new(Offloads::On).run(|lab| {
        let config = lab.config().one_service();
        let password = config.control_socket().with_file_name("application.password");
        fs::write(&password, "sesame")?;
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
        let user = ["ACL", "SETUSER", "app", "on", ">sesame", "allkeys", "+@all"];
        ensure!(lab.member("m2").command(&user)? == Value::Status("OK".into()));

        let application = format!(
            "application = {{ username = \"app\", password_file = {password:?}, ready_every = \"1s\" }}"
        );
        let agent = lab.agent(&config.service_line(&application))?;
        agent.wait_active("m1", START)?;
        wait_until("both were looked at", SOON, || {
            readiness(&agent).is_ok_and(|ready| ready == [Some(false), Some(true)])
        })?;
        let finding = member(&agent, 0)?["findings"][0].clone();
        ensure!(finding["kind"] == "credentials" && finding["severity"] == "problem", "{finding:#}");
        ensure!(finding["text"].to_string().contains("applications cannot log in"), "{finding:#}");

        // Several looks later.
        thread::sleep(Duration::from_secs(3));
        let service = agent.status()?["services"][0].clone();
        ensure!(
            service["active"] == "m1" && service["epoch"] == 1 && service["state"] == "ok",
            "{service:#}"
        );
        ensure!(service["members"][0]["state"] == "up", "{service:#}");
        ensure!(service["members"][0]["eligible"] == true, "{service:#}");

        ensure!(lab.member("m1").command(&user)? == Value::Status("OK".into()));
        wait_until("the user is known", SOON, || {
            readiness(&agent).is_ok_and(|ready| ready == [Some(true), Some(true)])
        })?;
        ensure!(agent.status()?["services"][0]["epoch"] == 1);
        Ok(())
    });
}

fn member(agent: &Agent, number: usize) -> Result<serde_json::Value> {
    agent.status()?["services"][0]["members"].get(number).cloned().context("a member")
}

fn readiness(agent: &Agent) -> Result<[Option<bool>; 2]> {
    Ok([member(agent, 0)?["ready"].as_bool(), member(agent, 1)?["ready"].as_bool()])
}
