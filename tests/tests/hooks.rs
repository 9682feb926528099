//! Hooks around switches, with real commands and real webhooks: one that says no, one that hangs, and one that hears of every
//! switch.

#[path = "hooks/webhook.rs"]
mod webhook;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{Agent, AgentConfig, Lab, Offloads, Scenario, wait_until};
use serde_json::Value as Json;

const START: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(5);

/// Says no until there is a file `open`, which `nobody` may see.
const GATE: &str = "[ -e @/open ] || { echo \"change freeze for $REDIRECTOR_KIND\"; exit 1; }\n";

/// Hangs on to its limit, and would tell if it had outlived it.
const HANGS: &str = "sleep 3; touch @/told/outlived\n";

/// Keeps what it was told: document, environment, user.
const TELLS: &str = "cat > @/told/$REDIRECTOR_EPOCH.json\n\
    echo \"$REDIRECTOR_WHEN $REDIRECTOR_SERVICE $REDIRECTOR_FROM $REDIRECTOR_TO $(id -un)\" > @/told/$REDIRECTOR_EPOCH.env\n";

#[test]
fn hooks_may_veto_hang_and_hear() {
    Scenario::new(Offloads::On).run(|lab| {
        let dir = directory(lab)?;
        let hooks = [
            hook(&dir, "before", "gate", GATE)?,
            hook(&dir, "before", "hangs", HANGS)?
                .replace('}', r#", timeout = "500ms", on_failure = "go_on" }"#),
            hook(&dir, "after", "tells", TELLS)?,
        ];
        let config: AgentConfig =
            lab.config().one_service().service_line(&format!("hook = [{}]", hooks.join(", ")));
        let agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        let first = told(&dir, 1)?;
        ensure!(first["kind"] == "initial" && first["from"].is_null() && first["to"] == "m1", "{first:#}");

        let refused = agent.verb(&["switch", "orders", "m2"])?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(refused.status.code() == Some(1), "{said}");
        ensure!(said.contains("gate\" vetoed: change freeze for manual (exit status 1)"), "{said}");
        ensure!(agent.status()?["services"][0]["active"] == "m1");

        fs::write(dir.join("open"), "")?;
        let begin = Instant::now();
        switch(&agent, "m2")?;
        let took = begin.elapsed();
        ensure!((Duration::from_millis(500)..Duration::from_secs(3)).contains(&took), "{took:?}");
        agent.wait_logged(&["hangs", "not done within 500ms"], SOON)?;
        let second = told(&dir, 2)?;
        ensure!(
            second["kind"] == "manual" && second["when"] == "after" && second["to"] == "m2",
            "{second:#}"
        );
        ensure!(second["from"] == "m1" && second["version"] == 1 && second["epoch"] == 2, "{second:#}");
        let environment = fs::read_to_string(dir.join("told/2.env"))?;
        ensure!(environment == "after orders m1 m2 nobody\n", "{environment}");

        // Nothing delays leaving a member that is dead, and forcing asks nobody.
        fs::remove_file(dir.join("open"))?;
        lab.member("m2").crash()?;
        agent.wait_active("m1", SOON)?;
        let third = told(&dir, 3)?;
        ensure!(third["kind"] == "failover", "{third:#}");
        std::thread::sleep(Duration::from_secs(4).saturating_sub(begin.elapsed()));
        ensure!(!dir.join("told/outlived").exists(), "the hook that hung was not killed");
        Ok(())
    });
}

fn switch(agent: &Agent, member: &str) -> Result<()> {
    let done = agent.verb(&["switch", "orders", member])?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// Open to whoever runs hooks: `@`, where all may look, and `@/told`, where all may write.
fn directory(lab: &Lab) -> Result<PathBuf> {
    let dir = lab.config().control_socket().parent().context("a directory")?.to_owned();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
    fs::create_dir(dir.join("told"))?;
    fs::set_permissions(dir.join("told"), fs::Permissions::from_mode(0o777))?;
    Ok(dir)
}

/// A hook that runs a script, as an inline table.
fn hook(dir: &Path, when: &str, name: &str, script: &str) -> Result<String> {
    let path = dir.join(name);
    let dir = dir.to_str().context("a path of plain characters")?;
    fs::write(&path, format!("#!/bin/sh\n{}", script.replace('@', dir)))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(format!("{{ when = {when:?}, command = [{path:?}] }}"))
}

/// What the hook after the switch to this epoch was told.
fn told(dir: &Path, epoch: u32) -> Result<Json> {
    let file = dir.join(format!("told/{epoch}.env"));
    // Written after the document, so that this one is whole then.
    wait_until("the hook after the switch was told", SOON, || file.exists())?;
    serde_json::from_str(&fs::read_to_string(file.with_extension("json"))?).context("no JSON")
}
