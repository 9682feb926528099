//! The topology, and faults of the network.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    Agent, AgentConfig, GATEWAYS, Host, Member, NameServer, Offloads, UPLINKS, network,
    scratch::Scratch,
    topology::{Attachment, both},
};

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
        network::prepare_router(&router)?;
        // The hardest setting: a reply that enters where its source is not routed is dropped (RFC 3704, strict).
        app.sysctl("net/ipv4/conf/all/rp_filter", "1")?;

        let password_file = self.password.as_ref().map(|_| scratch.dir.join("password"));
        if let (Some(file), Some(password)) = (&password_file, &self.password) {
            fs::write(file, password)?;
        }

        let (attachments, more) = (Mutex::default(), Mutex::default());
        let password = self.password.clone().zip(password_file);
        let lab = Lab {
            members: Vec::new(),
            app,
            router,
            more,
            attachments,
            offloads: self.offloads,
            password,
            scratch,
        };
        lab.connect_to_router(&lab.app, GATEWAYS[0], UPLINKS[0].1)?;
        let members = (1..=self.members).map(|n| lab.member_host(n)).collect::<Result<_>>()?;
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
    /// Hosts that were asked for later.
    pub(crate) more: Mutex<Vec<Host>>,
    /// Who hangs on the router.
    pub(crate) attachments: Mutex<Vec<Attachment>>,
    offloads: Offloads,
    /// The servers' password, and the file that holds it.
    password: Option<(String, PathBuf)>,
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
    pub fn hosts(&self) -> impl Iterator<Item = Host> {
        let more = self.more.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let first = [&self.app, &self.router].into_iter().chain(self.members.iter().map(Member::host));
        first.cloned().collect::<Vec<_>>().into_iter().chain(more)
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
        config.password_file(self.password.as_ref().map(|(_, file)| file.clone()))
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
        NameServer::start_new(&self.router, GATEWAYS[0].0.into(), &self.app, &self.scratch.dir)
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

    pub(crate) fn password(&self) -> Option<&String> {
        self.password.as_ref().map(|(password, _)| password)
    }

    fn member_host(&self, n: u8) -> Result<Member> {
        let name = format!("m{n}");
        let host = Host::new(&name)?;
        network::prepare(&host)?;
        self.connect_to_router(&host, both(2, n, 1), both(2, n, 2))?;
        Ok(Member::new(&name, host, both(2, n, 2), self.password().cloned()))
    }
}

/// Thousands of clients run in this process, and servers inherit the limit: take what is allowed.
fn raise_descriptor_limit() -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .context("cannot raise the limit of open files")
}
