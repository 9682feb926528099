//! The load: `redis-benchmark` in the application's namespace, for about as long as is asked for.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use redirector_tests::{Lab, Member};

use crate::clocks::{cpu_time, cpu_time_of_ended_children};

/// Connections of one run.
pub const CLIENTS: u32 = 32;
/// Commands that a client sends before it waits for replies.
pub const PIPELINES: [u32; 2] = [1, 16];

/// `GET whoami`, a reply of two bytes: the packets are small, so what is spent on each packet shows.
pub struct Load<'a> {
    pub lab: &'a Lab,
    /// Whose server answers, whatever the address.
    pub member: &'a Member,
    pub pipeline: u32,
    pub commands: u32,
}

/// What one run showed.
#[derive(Clone, Copy)]
pub struct Leg {
    /// Commands a second.
    pub rate: f64,
    /// CPU time of client and server for one command, in microseconds. Interrupts that are handled while a process
    /// runs are charged to it, and with veth that is the whole path of a packet.
    pub cpu: f64,
}

impl<'a> Load<'a> {
    /// Finds out how many commands take `time`.
    pub fn calibrated(lab: &'a Lab, member: &'a Member, pipeline: u32, time: Duration) -> Result<Self> {
        let load = Self { lab, member, pipeline, commands: 20_000 * pipeline.min(4) };
        // The first run warms up, the second counts.
        load.run(member.v4())?;
        let rate = load.run(member.v4())?.rate;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
        let commands = (rate * time.as_secs_f64()) as u32;
        ensure!(commands > 0, "redis-benchmark ran {rate} commands a second");
        Ok(Self { commands, ..load })
    }

    /// Runs once against an address.
    pub fn run(&self, address: SocketAddr) -> Result<Leg> {
        let mut command = self.lab.app().command("redis-benchmark");
        command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string(), "--csv"]);
        command.args(["-c", &CLIENTS.to_string(), "-P", &self.pipeline.to_string()]);
        command.args(["-n", &self.commands.to_string(), "GET", "whoami"]);
        let server = self.member.pid().context("the member's server does not run")?;
        let used = || Ok::<_, anyhow::Error>(cpu_time(server)? + cpu_time_of_ended_children()?);
        let before = used()?;
        let output = self.lab.app().output(command)?;
        let cpu = used()?.saturating_sub(before).as_secs_f64() * 1e6 / f64::from(self.commands);
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "redis-benchmark: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let rate = rate(&text).with_context(|| format!("redis-benchmark printed no rate: {text}"))?;
        Ok(Leg { rate, cpu })
    }
}

/// The second column of the last line: `"GET whoami","81967.21","0.361",…`
fn rate(csv: &str) -> Option<f64> {
    let rate: f64 = csv.lines().last()?.split(',').nth(1)?.trim_matches('"').parse().ok()?;
    (rate > 0.0).then_some(rate)
}
