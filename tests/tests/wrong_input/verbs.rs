//! Exit codes of `status` and `check`, with and without an agent.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use redirector_tests::{Agent, Lab, Offloads, Scenario, binary};
use serde_json::Value as Json;

use super::attempt::{Attempt, DEGRADED, Ended, FAILED, NOT_RUNNING, START, directory, end};

fn status(agent: &Agent, arguments: &[&str]) -> Result<Ended> {
    let output = agent.verb(&[&["status"], arguments].concat())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap_or(-1);
    Ok(Ended { code, stdout: text(&output.stdout), stderr: text(&output.stderr) })
}

#[test]
fn status_exits_after_the_contract() {
    Scenario::new(Offloads::On).run(|lab| {
        let socket = lab.config().control_socket().display().to_string();
        let mut command = lab.app().command(binary()?);
        command.args(["status", "--socket", &socket]);
        let not_running = ["no agent answers on", &socket, "redirector run --config", "--socket"];
        end(lab.app(), command)?.is_refusal(NOT_RUNNING, &not_running)?;

        let mut agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        let unknown = ["no service \"nosuch\"", "\"orders\", \"orders6\"", "check the name"];
        status(&agent, &["nosuch"])?.is_refusal(FAILED, &unknown)?;
        redirector_tests::wait_until("all is well", START, || {
            status(&agent, &["--exit-code"]).is_ok_and(|ended| ended.code == 0)
        })?;

        lab.member("m1").crash()?;
        agent.wait_active("m2", START)?;
        for arguments in [&["--exit-code"][..], &["orders", "--exit-code"]] {
            let ended = status(&agent, arguments)?;
            ensure!(ended.code == DEGRADED && ended.stdout.contains("degraded"), "{ended:#?}");
        }
        ensure!(status(&agent, &[])?.code == 0, "without --exit-code it did what was asked");

        // The file of a socket that nobody listens on any more.
        agent.kill()?;
        status(&agent, &[])?.is_refusal(NOT_RUNNING, &not_running)?;
        agent.start()?;
        agent.terminate()?;
        ensure!(!lab.config().control_socket().exists(), "a clean stop removes the socket");
        status(&agent, &[])?.is_refusal(NOT_RUNNING, &not_running)
    });
}

/// What `check` says in JSON, and how it ends.
fn checked(lab: &Lab, attempt: &Attempt) -> Result<(Json, i32)> {
    attempt.run("check")?;
    let mut command = lab.app().command(binary()?);
    command.args(["check", "-o", "json", "--config"]).arg(attempt.file());
    let ended = end(lab.app(), command)?;
    Ok((serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:#?}"))?, ended.code))
}

/// Found in use: with members that applications cannot use the file had `passed`, and the exit code said that it had not; and how
/// many checks failed was to be counted by hand.
#[test]
fn check_says_the_same_by_exit_code_text_and_json() {
    Scenario::new(Offloads::On).run(|lab| {
        let attempt = Attempt::new(lab);
        let (said, code) = checked(lab, &attempt)?;
        ensure!(code == 0 && said["passed"] == true && said["checks_passed"] == true, "{code}: {said:#}");
        let ended = attempt.run("check")?;
        ensure!(!ended.stdout.contains("did not pass"), "{ended:#?}");

        let password = directory(&lab.config()).join("application.password");
        fs::write(&password, "sesame")?;
        let application = format!("application = {{ username = \"app\", password_file = {password:?} }}");
        let unready = Attempt::with(lab, &lab.config().one_service().service_line(&application).to_string());
        let (said, code) = checked(lab, &unready)?;
        ensure!(
            code == FAILED && said["passed"] == false && said["checks_passed"] == true,
            "{code}: {said:#}"
        );

        lab.member("m2").crash()?;
        let (said, code) = checked(lab, &attempt)?;
        ensure!(
            code == FAILED && said["passed"] == false && said["checks_passed"] == false,
            "{code}: {said:#}"
        );
        let failed = said["checks"].as_array().context("checks")?;
        let (failed, all) = (failed.iter().filter(|check| check["passed"] == false).count(), failed.len());
        let last = format!("\n{failed} of {all} checks did not pass.\n");
        let ended = attempt.run("check")?;
        ensure!(failed > 0 && failed < all && ended.stdout.ends_with(&last), "{last}: {ended:#?}");
        Ok(())
    });
}

/// `check` says it, and so does the log of an agent.
#[test]
fn members_that_lead_to_the_same_server_are_warned_about() {
    Scenario::new(Offloads::On).run(|lab| {
        let attempt = Attempt::new(lab).replace("10.2.2.2:6379", "10.2.1.2:6379");
        let ended = attempt.run("check")?;
        let warning =
            "member \"m2\" of service \"orders\": the endpoint is that of member \"m1\" too; correct one";
        ensure!(ended.code == 0 && ended.stdout.contains(warning), "{ended:#?}");
        Ok(())
    });
}

/// `check | head -1` ended with an error.
#[test]
fn an_output_that_ends_early_is_no_failure_of_check() {
    Scenario::new(Offloads::On).run(|lab| {
        let attempt = Attempt::new(lab);
        ensure!(attempt.run("check")?.code == 0, "all is well");
        let through = |shell: &str| {
            let mut command = lab.app().command("/bin/sh");
            command.arg("-c").arg(shell).arg(binary()?).arg(attempt.file());
            end(lab.app(), command)
        };
        // The reader is gone before anything is written.
        let ended =
            through("{ sleep 0.2; \"$0\" check --config \"$1\"; echo \"exit code $?\" >&2; } | true")?;
        ensure!(ended.stderr == "exit code 0\n", "{ended:#?}");
        let ended = through("\"$0\" check --config \"$1\" > /dev/full")?;
        ended.is_refusal(
            FAILED,
            &["cannot write the findings", "No space left", "check where the output goes"],
        )
    });
}
