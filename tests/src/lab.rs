//! The topology, and faults of the network.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    Agent, AgentConfig, Host, Member, NameServer, Offloads,
    network::{self, End},
    scratch::Scratch,
};

/// Device of `app` and of every member towards the router.
const UPLINK: &str = "eth0";

/// The router, as `app` sees it.
const GATEWAY_OF_APP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);

/// What a lab is made of.
#[derive(Clone, Debug)]
pub struct Builder {
    members: u8,
    offloads: Offloads,
    password: Option<String>,
}

impl Builder {
    /// How many members; 2 when not called.
    #[must_use]
    pub fn members(mut self, members: u8) -> Self {
        self.members = members;
        self
    }

    /// Offloads of every device; on when not called.
    #[must_use]
    pub fn offloads(mut self, offloads: Offloads) -> Self {
        self.offloads = offloads;
        self
    }

    /// All servers require this password.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Makes hosts and cables, starts the servers and waits until they answer.
    ///
    /// # Errors
    /// See [`crate::unavailable`] for what a machine must have.
    pub fn build(self) -> Result<Lab> {
        raise_descriptor_limit()?;
        let scratch = Arc::new(Scratch::new()?);
        let (app, router) = (Host::new("app")?, Host::new("router")?);
        network::prepare(&app)?;
        network::prepare(&router)?;
        router.sysctl("net/ipv4/ip_forward", "1")?;
        router.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        // The hardest setting: a reply that enters where its source is not routed is dropped (RFC 3704, strict).
        app.sysctl("net/ipv4/conf/all/rp_filter", "1")?;

        let password_file = self.password.as_ref().map(|_| scratch.dir.join("password"));
        if let (Some(file), Some(password)) = (&password_file, &self.password) {
            fs::write(file, password)?;
        }

        let lab = Lab { offloads: self.offloads, members: Vec::new(), app, router, password_file, scratch };
        let (gateway4, gateway6) = (GATEWAY_OF_APP, Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1));
        let (app4, app6) = (Ipv4Addr::new(10, 1, 0, 2), Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2));
        lab.connect_to_router(&lab.app, (gateway4, gateway6), (app4, app6))?;
        let members =
            (1..=self.members).map(|n| lab.member_host(n, self.password.clone())).collect::<Result<_>>()?;
        let lab = Lab { members, ..lab };
        for member in &lab.members {
            member.start()?;
        }
        Ok(lab)
    }
}

/// An application host, a router and members. Everything is removed when it is dropped.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: servers first, then hosts, then directories.
    members: Vec<Member>,
    app: Host,
    router: Host,
    offloads: Offloads,
    password_file: Option<PathBuf>,
    scratch: Arc<Scratch>,
}

impl Lab {
    /// Two members and offloads on, unless told otherwise.
    #[must_use]
    pub fn builder() -> Builder {
        Builder { members: 2, offloads: Offloads::On, password: None }
    }

    /// The host of the application and of the agent: `10.1.0.2`, `fd01::2`.
    #[must_use]
    pub fn app(&self) -> &Host {
        &self.app
    }

    /// The host between `app` and the members.
    #[must_use]
    pub fn router(&self) -> &Host {
        &self.router
    }

    /// All members, `m1` first.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// A member by name.
    ///
    /// # Panics
    /// When there is none: a slip in the test.
    #[must_use]
    pub fn member(&self, name: &str) -> &Member {
        let found = self.members.iter().find(|member| member.name() == name);
        found.unwrap_or_else(|| panic!("the lab has no member {name}"))
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        [&self.app, &self.router].into_iter().chain(self.members.iter().map(Member::host))
    }

    /// Offloads of the lab's devices.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Unique name on this machine.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.scratch.id
    }

    /// A configuration for an agent on `app` with all members. Its checks log in when the servers require it.
    #[must_use]
    pub fn config(&self) -> AgentConfig {
        let config = AgentConfig::new(&self.scratch.dir, &self.scratch.pin_dir, &self.members);
        config.password_file(self.password_file.clone())
    }

    /// Starts an agent on `app` and waits until it answers. With offloads off those of its VIP device are off too.
    ///
    /// # Errors
    /// When there is no binary, or the agent ends or stays mute; its log is in the message.
    pub fn agent(&self, config: &AgentConfig) -> Result<Agent> {
        let agent = Agent::start_new(&self.app, &self.scratch, config)?;
        if self.offloads == Offloads::Off {
            for device in config.devices() {
                self.app.set_offloads(&device, Offloads::Off)?;
            }
        }
        Ok(agent)
    }

    /// A name server on the router, which the commands of `app` ask from now on.
    ///
    /// # Errors
    /// When there is one already, or it does not start.
    pub fn name_server(&self) -> Result<NameServer> {
        NameServer::start_new(&self.router, GATEWAY_OF_APP.into(), &self.app, &self.scratch.dir)
    }

    /// An agent on `app` that is not started yet.
    ///
    /// # Errors
    /// When there is no binary.
    pub fn agent_to_start(&self, config: &AgentConfig) -> Result<Agent> {
        Agent::new(&self.app, &self.scratch, config)
    }

    /// From now on packets from and to the member vanish in silence at the router.
    ///
    /// # Errors
    /// When the kernel has no policy routing.
    pub fn black_hole(&self, member: &Member) -> Result<()> {
        network::black_hole(&self.router, &member.addresses(), true)
    }

    /// Ends [`Lab::black_hole`].
    ///
    /// # Errors
    /// When there was none.
    pub fn heal(&self, member: &Member) -> Result<()> {
        network::black_hole(&self.router, &member.addresses(), false)
    }

    /// No host has seen a packet with a wrong checksum.
    ///
    /// # Errors
    /// Naming hosts and counters.
    pub fn assert_no_checksum_errors(&self) -> Result<()> {
        let mut wrong = Vec::new();
        for host in self.hosts() {
            let errors = host.checksum_errors()?;
            wrong
                .extend(errors.into_iter().map(|(name, count)| format!("{}: {name} = {count}", host.name())));
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            bail!("packets with wrong checksums arrived: {}", wrong.join(", "))
        }
    }

    fn member_host(&self, n: u8, password: Option<String>) -> Result<Member> {
        let host = Host::new(&format!("m{n}"))?;
        network::prepare(&host)?;
        let v4 = |last| Ipv4Addr::new(10, 2, n, last);
        let v6 = |last| Ipv6Addr::new(0xfd02, n.into(), 0, 0, 0, 0, 0, last);
        self.connect_to_router(&host, (v4(1), v6(1)), (v4(2), v6(2)))?;
        Ok(Member::new(host, v4(2), v6(2), password))
    }

    fn connect_to_router(
        &self,
        host: &Host,
        gateway: (Ipv4Addr, Ipv6Addr),
        own: (Ipv4Addr, Ipv6Addr),
    ) -> Result<()> {
        let both = |(v4, v6): (Ipv4Addr, Ipv6Addr)| [(IpAddr::from(v4), 24), (IpAddr::from(v6), 64)];
        let device = format!("to-{}", host.name());
        network::cable(
            End { host: &self.router, device: &device, addresses: &both(gateway) },
            End { host, device: UPLINK, addresses: &both(own) },
        )?;
        network::default_routes(host, &both(gateway).map(|(address, _)| address))?;
        if self.offloads == Offloads::Off {
            self.router.set_offloads(&device, Offloads::Off)?;
            host.set_offloads(UPLINK, Offloads::Off)?;
        }
        Ok(())
    }
}

/// Thousands of clients run in this process, and servers inherit the limit: take what is allowed.
fn raise_descriptor_limit() -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .context("cannot raise the limit of open files")
}
