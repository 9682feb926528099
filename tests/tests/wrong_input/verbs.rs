//! Exit codes of `status`, with and without an agent.

use anyhow::{Result, ensure};
use redirector_tests::{Agent, Offloads, Scenario, binary};

use super::attempt::{DEGRADED, Ended, FAILED, NOT_RUNNING, START, end};

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
