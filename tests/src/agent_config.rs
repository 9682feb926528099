//! Configuration files for agents of the lab, in the TOML of the contract.

use std::{
    env,
    fmt::{self, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{Member, slowness};

/// VIP of the service `orders`, whose members have IPv4 endpoints.
pub const VIP_V4: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
/// VIP of the service `orders6`, whose members are the same servers at their IPv6 endpoints.
pub const VIP_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x255, 0, 0, 0, 0, 0, 1);
/// Port of both.
pub const VIP_PORT: u16 = 6379;

/// Times of the checks.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// `interval`
    pub interval: Duration,
    /// `fast_interval`
    pub fast_interval: Duration,
    /// `timeout`
    pub timeout: Duration,
    /// `fall`
    pub fall: u32,
    /// `silence_tolerance` and `stall_tolerance`
    pub tolerance: Duration,
}

impl Timing {
    /// What the figures of the README are taken with: 100 ms between probes, two failures, 100 ms of patience for each.
    pub const QUICK: Self = Self {
        interval: Duration::from_millis(100),
        fast_interval: Duration::from_millis(50),
        timeout: Duration::from_millis(100),
        fall: 2,
        tolerance: Duration::from_millis(200),
    };

    /// What a slow machine needs to keep up.
    fn slowed(self) -> Self {
        let Self { interval, fast_interval, timeout, fall, tolerance } = self;
        let slow = |time: Duration| time * slowness();
        Self {
            interval: slow(interval),
            fast_interval: slow(fast_interval),
            timeout: slow(timeout),
            fall,
            tolerance: slow(tolerance),
        }
    }
}

/// A configuration in the making; `to_string()` is the file.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    dir: PathBuf,
    pin_dir: PathBuf,
    /// Name, endpoint for `orders`, endpoint for `orders6`.
    members: Vec<(String, String, String)>,
    device: String,
    timing: Option<Timing>,
    password_file: Option<PathBuf>,
    one_service: bool,
    more: Vec<(String, Vec<SocketAddr>)>,
    service: String,
    /// Name of a member, and a line of its section.
    member_lines: Vec<(String, String)>,
    detect: String,
    failback: String,
    checks: Vec<String>,
    agent: String,
    datapath: String,
    attach: Option<String>,
}

impl AgentConfig {
    pub(crate) fn new(dir: &Path, pin_dir: &Path, members: &[Member]) -> Self {
        Self {
            dir: dir.to_owned(),
            pin_dir: pin_dir.to_owned(),
            members: members
                .iter()
                .map(|member| (member.name().to_owned(), member.v4().to_string(), member.v6().to_string()))
                .collect(),
            device: "redirector0".to_owned(),
            timing: Some(Timing::QUICK.slowed()),
            password_file: None,
            one_service: false,
            more: Vec::new(),
            service: String::new(),
            member_lines: Vec::new(),
            detect: String::new(),
            failback: String::new(),
            checks: Vec::new(),
            agent: String::new(),
            datapath: String::new(),
            attach: env::var("REDIRECTOR_LAB_ATTACH").ok(),
        }
    }

    /// Checks log in with the password in this file.
    pub(crate) fn password_file(mut self, file: Option<PathBuf>) -> Self {
        self.password_file = file;
        self
    }

    /// Leaves `orders6` out.
    #[must_use]
    pub fn one_service(mut self) -> Self {
        self.one_service = true;
        self
    }

    /// Adds a service with the same members and checks. Its members' endpoints are of the first VIP's IP version.
    #[must_use]
    pub fn service(mut self, name: &str, vips: &[SocketAddr]) -> Self {
        self.more.push((name.to_owned(), vips.to_vec()));
        self
    }

    /// These members instead of the lab's, the best one first: names, and endpoints of `orders` and of `orders6`.
    #[must_use]
    pub fn members(mut self, members: &[(&str, SocketAddr, SocketAddr)]) -> Self {
        self.members =
            members.iter().map(|(name, v4, v6)| ((*name).into(), v4.to_string(), v6.to_string())).collect();
        self
    }

    /// These members instead, each at one endpoint for both services.
    #[must_use]
    pub fn endpoints(mut self, members: &[(&str, &str)]) -> Self {
        let member =
            |(name, endpoint): &(&str, &str)| ((*name).into(), (*endpoint).into(), (*endpoint).into());
        self.members = members.iter().map(member).collect();
        self
    }

    /// Times of the checks; `None`: the agent's defaults. [`Timing::QUICK`] when not called.
    #[must_use]
    pub fn timing(mut self, timing: Option<Timing>) -> Self {
        self.timing = timing;
        self
    }

    /// The agent returns to a better member by itself after `healthy_for`, however often that one failed, at most every
    /// `hold_down`. When not
    /// called the agent's defaults hold, which are longer than a test.
    #[must_use]
    pub fn failback(mut self, healthy_for: Duration, hold_down: Duration) -> Self {
        let (healthy_for, hold_down) = (millis(healthy_for), millis(hold_down));
        self.failback = format!(
            "mode = \"auto\"\nhealthy_for = {healthy_for}\nhold_down = {hold_down}\nflap_half_life = \"0s\"\n"
        );
        self
    }

    /// Adds a line to each `[[service]]`: `on_failback = "reset"`.
    #[must_use]
    pub fn service_line(mut self, line: &str) -> Self {
        push_line(&mut self.service, line);
        self
    }

    /// Adds a line to the section of a member in each service: `rest = { url = "…", … }`.
    #[must_use]
    pub fn member_line(mut self, member: &str, line: &str) -> Self {
        self.member_lines.push((member.to_owned(), line.to_owned()));
        self
    }

    /// Adds a line to each `[service.detect]`: `refused_tolerance = "1s"`.
    #[must_use]
    pub fn detect_line(mut self, line: &str) -> Self {
        push_line(&mut self.detect, line);
        self
    }

    /// Adds a check to each service, by the lines of its section: `kind = "heartbeat"`.
    #[must_use]
    pub fn check(mut self, lines: &str) -> Self {
        self.checks.push(lines.to_owned());
        self
    }

    /// Adds a line to `[agent]`.
    #[must_use]
    pub fn agent_line(mut self, line: &str) -> Self {
        push_line(&mut self.agent, line);
        self
    }

    /// Adds a line to `[datapath]`: `on_stop = "detach"`.
    #[must_use]
    pub fn datapath_line(mut self, line: &str) -> Self {
        push_line(&mut self.datapath, line);
        self
    }

    /// How programs are attached: `clsact`. When not called, `REDIRECTOR_LAB_ATTACH`, or what the agent chooses.
    #[must_use]
    pub fn attach(mut self, way: &str) -> Self {
        self.attach = Some(way.to_owned());
        self
    }

    /// The VIP device and its peer.
    #[must_use]
    pub fn devices(&self) -> [String; 2] {
        [self.device.clone(), format!("{}-p", self.device)]
    }

    /// `control_socket`
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// Where the agent pins programs, links and maps.
    #[must_use]
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    fn write_service(&self, f: &mut fmt::Formatter<'_>, name: &str, vips: &[SocketAddr]) -> fmt::Result {
        let listed: Vec<_> = vips.iter().map(|vip| format!("\"{vip}\"")).collect();
        write!(f, "\n[[service]]\nname = \"{name}\"\nvips = [{}]\n{}", listed.join(", "), self.service)?;
        if let Some(file) = &self.password_file {
            writeln!(f, "[service.redis]\npassword_file = {file:?}")?;
        }
        let tolerance = self.timing.map(|timing| {
            let tolerance = millis(timing.tolerance);
            format!("silence_tolerance = {tolerance}\nstall_tolerance = {tolerance}\n")
        });
        writeln!(f, "[service.detect]\n{}{}", tolerance.unwrap_or_default(), self.detect)?;
        if !self.failback.is_empty() {
            write!(f, "[service.failback]\n{}", self.failback)?;
        }
        if let Some(timing) = self.timing {
            let [interval, fast, timeout] =
                [timing.interval, timing.fast_interval, timing.timeout].map(millis);
            writeln!(f, "[[service.check]]\nkind = \"ping\"\ninterval = {interval}\nfast_interval = {fast}")?;
            writeln!(f, "timeout = {timeout}\nfall = {}", timing.fall)?;
        }
        for check in &self.checks {
            writeln!(f, "[[service.check]]\n{check}")?;
        }
        for (rank, (member, v4, v6)) in self.members.iter().enumerate() {
            let endpoint = if vips.first().is_none_or(SocketAddr::is_ipv4) { v4 } else { v6 };
            let weight = 100 / (rank + 1);
            writeln!(
                f,
                "[[service.member]]\nname = \"{member}\"\nendpoint = \"{endpoint}\"\nweight = {weight}"
            )?;
            for (_, line) in self.member_lines.iter().filter(|(name, _)| name == member) {
                writeln!(f, "{line}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for AgentConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (socket, dir, pins) = (self.control_socket(), self.dir.join("state"), &self.pin_dir);
        writeln!(f, "[agent]\ncontrol_socket = {socket:?}\nstate_dir = {dir:?}\n{}", self.agent)?;
        writeln!(f, "[datapath]\ndevice = \"{}\"\npin_dir = {pins:?}\n{}", self.device, self.datapath)?;
        if let Some(way) = &self.attach {
            writeln!(f, "attach = \"{way}\"")?;
        }
        self.write_service(f, "orders", &[(VIP_V4, VIP_PORT).into()])?;
        if !self.one_service {
            self.write_service(f, "orders6", &[(VIP_V6, VIP_PORT).into()])?;
        }
        self.more.iter().try_for_each(|(name, vips)| self.write_service(f, name, vips))
    }
}

fn push_line(text: &mut String, line: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}

fn millis(time: Duration) -> String {
    format!("\"{}ms\"", time.as_millis())
}
