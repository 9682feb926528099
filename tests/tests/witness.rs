//! Checks that ask somebody else than Redis: what decides, what only gates, and what says nothing about a member.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{Agent, AgentConfig, Lab, Offloads, Scenario, wait_until};

const START: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(5);

/// Many times what a check needs to find something `fall` times.
const LONG: Duration = Duration::from_secs(1);

const AVAILABLE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const UNAUTHORIZED: &str = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
const BEHIND: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 69\r\n\r\n\
                      {\"error_code\":\"bdb_unavailable\",\"description\":\"database unavailable\"}";

/// The REST API of a member's cluster, on the agent's own host: one answer to whatever is asked.
struct Api {
    address: SocketAddr,
    /// `None`: it goes away.
    answer: Arc<Mutex<Option<&'static str>>>,
    thread: Option<JoinHandle<()>>,
}

impl Api {
    fn start(lab: &Lab) -> Result<Self> {
        let listener = lab.app().run(|| TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let answer = Arc::new(Mutex::new(Some(AVAILABLE)));
        let shared = Arc::clone(&answer);
        let thread = thread::spawn(move || {
            loop {
                let Some(answer) = *shared.lock().unwrap_or_else(PoisonError::into_inner) else { return };
                let Ok((mut stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(2));
                    continue;
                };
                let _ = stream.set_nonblocking(false);
                let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                // A question is one segment.
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Ok(Self { address, answer, thread: Some(thread) })
    }

    fn says(&self, answer: &'static str) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    }

    fn goes(&mut self) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(thread) = self.thread.take() {
            // It waits for nobody.
            let _ = thread.join();
        }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.goes();
    }
}

/// Pings that are quick, and a check of another kind.
fn config(lab: &Lab, check: &str) -> AgentConfig {
    let times = "interval = \"100ms\", fast_interval = \"50ms\", timeout = \"1s\", fall = 2";
    lab.config()
        .one_service()
        .service_line(&format!("check = [{{ {times} }}, {{ {check}, {times} }}]"))
        .timing(None)
}

/// The same with `lag`, asked of these clusters.
fn lag(lab: &Lab, apis: &[Api; 2], more: &str) -> Result<AgentConfig> {
    let config = config(lab, &format!("kind = \"lag\"{more}"));
    let password = write(&config, "password", "sesame", 0o600)?;
    let rest = |api: &Api| {
        format!(
            "rest = {{ url = \"http://{}\", username = \"viewer\", password_file = {password:?}, uid = 7 }}",
            api.address
        )
    };
    Ok(config.member_line("m1", &rest(&apis[0])).member_line("m2", &rest(&apis[1])))
}

/// A file beside the control socket.
fn write(config: &AgentConfig, name: &str, text: &str, mode: u32) -> Result<PathBuf> {
    let path = beside(config).join(name);
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    Ok(path)
}

fn beside(config: &AgentConfig) -> PathBuf {
    config.control_socket().parent().map(Path::to_owned).unwrap_or_default()
}

fn service(agent: &Agent) -> Result<serde_json::Value> {
    agent.status()?["services"].get(0).cloned().context("a service")
}

fn reason_of_m1(agent: &Agent) -> String {
    service(agent).map(|service| service["members"][0]["reason"].to_string()).unwrap_or_default()
}

/// The first member is active, and stays for a while.
fn stays(agent: &Agent) -> Result<()> {
    thread::sleep(LONG);
    let now = service(agent)?;
    ensure!(now["active"] == "m1" && now["epoch"] == 1, "{now:#}");
    Ok(())
}

/// Even a check that counts moves nobody for a fault of the API. What the API says of the database does.
#[test]
fn a_rest_api_that_fails_moves_nobody() {
    Scenario::new(Offloads::On).run(|lab| {
        let mut apis = [Api::start(lab)?, Api::start(lab)?];
        let agent = lab.agent(&lag(lab, &apis, ", effect = \"count\"")?)?;
        agent.wait_active("m1", START)?;

        apis[0].says(UNAUTHORIZED);
        wait_until("the status tells of the password", SOON, || {
            reason_of_m1(&agent).contains("the user or the password is refused")
        })?;
        stays(&agent)?;

        apis[0].says(BEHIND);
        agent.wait_active("m2", SOON)?;
        ensure!(reason_of_m1(&agent).contains("database 7 is not available"), "{}", reason_of_m1(&agent));

        apis[1].goes();
        wait_until("the status tells of the API", SOON, || {
            let reason = service(&agent).map(|service| service["members"][1]["reason"].to_string());
            reason.is_ok_and(|reason| reason.contains("REST API: connection refused"))
        })?;
        thread::sleep(LONG);
        ensure!(service(&agent)?["active"] == "m2");
        Ok(())
    });
}

/// After a cut between the members both are behind each other: that evicts nobody, and bars no failover.
#[test]
fn lag_only_gates() {
    Scenario::new(Offloads::On).run(|lab| {
        let apis = [Api::start(lab)?, Api::start(lab)?];
        let agent = lab.agent(&lag(lab, &apis, "")?)?;
        agent.wait_active("m1", START)?;
        apis[0].says(UNAUTHORIZED);
        wait_until("the status tells of the password", SOON, || {
            reason_of_m1(&agent)
                .contains("gate lag: REST API: wrong answer: the user or the password is refused")
        })?;
        apis.iter().for_each(|api| api.says(BEHIND));
        stays(&agent)?;

        lab.member("m1").crash()?;
        agent.wait_active("m2", SOON)?;
        Ok(())
    });
}

/// A member that came back is returned to when its cluster says that it has caught up, not before.
#[test]
fn lag_holds_a_failback_until_the_member_has_caught_up() {
    Scenario::new(Offloads::On).run(|lab| {
        let apis = [Api::start(lab)?, Api::start(lab)?];
        let config = lag(lab, &apis, "")?.failback(Duration::from_millis(300), Duration::from_millis(100));
        let agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        apis[0].says(BEHIND);
        lab.member("m1").crash()?;
        agent.wait_active("m2", SOON)?;

        lab.member("m1").start()?;
        wait_until("the first member is up again, and behind", SOON, || {
            let reason = reason_of_m1(&agent);
            reason.contains("ping ok") && reason.contains("gate lag: database 7 is not available")
        })?;
        thread::sleep(LONG);
        let now = service(&agent)?;
        ensure!(now["active"] == "m2", "{now:#}");

        apis[0].says(AVAILABLE);
        agent.wait_active("m1", SOON)?;
        Ok(())
    });
}

/// A command that is sure moves; one that is not, or hangs on to something, does not.
#[test]
fn a_command_decides() {
    Scenario::new(Offloads::On).run(|lab| {
        let dir = beside(&lab.config());
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        let verdict = dir.join("m1.verdict");
        let script = format!(
            "#!/bin/sh\n[ -e {dir}/$REDIRECTOR_MEMBER.verdict ] || exit 0\nread status why < {dir}/$REDIRECTOR_MEMBER.verdict\n\
             echo \"$why, says $(id -un)\"\nexit $status\n",
            dir = dir.display()
        );
        let script = write(&lab.config(), "check", &script, 0o755)?;
        let agent = lab.agent(&config(lab, &format!("kind = \"exec\", command = [{script:?}]")))?;
        agent.wait_active("m1", START)?;

        fs::write(&verdict, "75 cannot tell\n")?;
        wait_until("the status tells what the command said", SOON, || {
            reason_of_m1(&agent).contains("command: cannot tell, says nobody (exit status 75)")
        })?;
        stays(&agent)?;

        fs::write(&verdict, "1 replication is broken\n")?;
        agent.wait_active("m2", SOON)?;
        let reason = reason_of_m1(&agent);
        ensure!(reason.contains("replication is broken, says nobody"), "{reason}");
        Ok(())
    });
}
