//! `READY=1`: units that are ordered after the agent may count on the VIPs.

use std::{
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use redirector_tests::{Agent, Lab, Offloads, Scenario, new_connections_are_served_by};

use super::START;

/// What systemd hears.
struct Systemd(UnixDatagram);

impl Systemd {
    fn listen(lab: &Lab, agent: &mut Agent) -> Result<Self> {
        let directory =
            lab.config().control_socket().parent().context("a socket without a directory")?.to_owned();
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path)?;
        agent.environment("NOTIFY_SOCKET", &path.display().to_string());
        Ok(Self(socket))
    }

    fn hears(&self, wanted: &str, within: Duration) -> Result<bool> {
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            self.0.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut message = [0; 1024];
            match self.0.recv(&mut message) {
                Ok(length) if String::from_utf8_lossy(&message[..length]).contains(wanted) => {
                    return Ok(true);
                }
                Ok(_) => {}
                Err(_) => return Ok(false),
            }
        }
    }
}

#[test]
fn ready_comes_with_the_first_choice_and_not_before() {
    Scenario::new(Offloads::On).run(|lab| {
        // All must be up, and one does not answer: the choice waits for the whole time.
        let config =
            lab.config().service_line("initial = \"all\"").service_line("initial_timeout = \"1500ms\"");
        lab.member("m2").freeze()?;
        let mut agent = lab.agent_to_start(&config)?;
        let systemd = Systemd::listen(lab, &mut agent)?;
        agent.begin()?;
        ensure!(systemd.hears("EXTEND_TIMEOUT_USEC=", START)?, "{}", agent.log());
        ensure!(
            !systemd.hears("READY=1", Duration::from_secs(1))?,
            "ready before there is a choice: {}",
            agent.log()
        );
        ensure!(systemd.hears("READY=1", START)?, "never ready: {}", agent.log());
        new_connections_are_served_by(lab, "m1").context("ready, and not served")?;

        // A decision that is taken over is one.
        agent.kill()?;
        let start = Instant::now();
        agent.begin()?;
        ensure!(systemd.hears("READY=1", START)?, "{}", agent.log());
        ensure!(start.elapsed() < Duration::from_millis(1400), "waited for members: {:?}", start.elapsed());

        agent.terminate()?;
        ensure!(systemd.hears("STOPPING=1", START)?, "{}", agent.log());
        agent.uninstall()?;
        lab.member("m1").freeze()?;
        agent.begin()?;
        // Nobody answers: units that wait for the agent are not kept waiting for ever.
        ensure!(systemd.hears("READY=1", START)?, "{}", agent.log());
        lab.member("m1").thaw()
    });
}
