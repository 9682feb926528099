//! A crowd's place in a lab: servers beside `redis-server` on the members, enough source addresses for a hundred thousand flows,
//! and clients half in the host's own network namespace, half in containers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};

use crate::{AgentConfig, Crowd, CrowdServer, Host, Lab, Member, Part, UPLINKS, VIP_PORT, first_vips};

/// Where the servers of a crowd listen.
const PORT: u16 = 7000;

/// The VIP of the service `other`, which has the same members.
const OTHER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 255, 0, 2)), VIP_PORT);

/// The containers of a crowd.
const CONTAINERS: usize = 3;

/// A lab with servers for a crowd.
#[derive(Debug)]
pub struct Assembly<'a> {
    lab: &'a Lab,
    containers: Vec<Host>,
    servers: Vec<CrowdServer>,
}

impl<'a> Assembly<'a> {
    /// Servers for so many connections on all members, and containers for the clients.
    ///
    /// # Errors
    /// When a server or container cannot be made.
    pub fn new(lab: &'a Lab, connections: usize) -> Result<Self> {
        let server = |member: &Member| {
            // What is dropped from the queue comes again after a second: no lack of room, please.
            member.host().sysctl("net/core/somaxconn", "16384")?;
            CrowdServer::start(member.host(), endpoint(member), connections)
        };
        let servers = lab.members().iter().map(server).collect::<Result<_>>()?;
        for source in extra_sources() {
            lab.app().ip(&format!("address add {source}/24 dev {}", UPLINKS[0].0))?;
        }
        for address in clients_of_the_host() {
            lab.app().ip(&format!("address add {address}/32 dev lo"))?;
        }
        let containers = (1..=CONTAINERS).map(|number| {
            let container = lab.container(&format!("crowd{number}"))?;
            container.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
            Ok(container)
        });
        Ok(Self { lab, containers: containers.collect::<Result<_>>()?, servers })
    }

    /// The services `orders` and `other` with these servers. What leaves a member by order is reset.
    #[must_use]
    pub fn config(&self) -> AgentConfig {
        let members = self.lab.members().iter();
        let members: Vec<_> = members.map(|member| (member.name(), endpoint(member).to_string())).collect();
        let members: Vec<_> = members.iter().map(|(name, endpoint)| (*name, endpoint.as_str())).collect();
        let sources = [UPLINKS[0].1.0].into_iter().chain(extra_sources());
        let sources: Vec<_> = sources.map(|source| format!("\"{source}\"")).collect();
        let config = self.lab.config().one_service().timing(None).endpoints(&members);
        config
            .service("other", &[OTHER])
            .check("kind = \"tcp\"")
            .service_line("on_failback = \"reset\"")
            .datapath_line(&format!("source_addresses = [{}]", sources.join(", ")))
    }

    /// So many clients of the service `orders`, half of them in containers.
    ///
    /// # Errors
    /// As [`Crowd::open`].
    pub fn clients(&self, count: usize) -> Result<Crowd> {
        Crowd::open(first_vips()[0], &self.parts(count))
    }

    /// The same, who connect again when they are ended.
    ///
    /// # Errors
    /// As [`Crowd::open_persistent`].
    pub fn persistent_clients(&self, count: usize) -> Result<Crowd> {
        Crowd::open_persistent(first_vips()[0], &self.parts(count))
    }

    /// So many clients of the service `other`.
    ///
    /// # Errors
    /// As [`Crowd::open`].
    pub fn clients_of_other(&self, count: usize) -> Result<Crowd> {
        Crowd::open(OTHER, &self.parts(count))
    }

    /// So many clients of a member, past the VIP.
    ///
    /// # Errors
    /// As [`Crowd::open`].
    pub fn direct_clients(&self, member: &str, count: usize) -> Result<Crowd> {
        let part = Part { host: self.lab.app(), from: Vec::new(), count };
        Crowd::open(endpoint(self.lab.member(member)), &[part])
    }

    /// The servers of a member.
    ///
    /// # Errors
    /// When the lab has no such member.
    pub fn server(&self, member: &str) -> Result<&CrowdServer> {
        let place = self.lab.members().iter().position(|one| one.name() == member);
        place.and_then(|place| self.servers.get(place)).with_context(|| format!("no member {member}"))
    }

    fn parts(&self, count: usize) -> Vec<Part<'_>> {
        let contained = count / 2;
        let from = clients_of_the_host().map(IpAddr::V4).collect();
        let mut parts = vec![Part { host: self.lab.app(), from, count: count - contained }];
        for (number, host) in self.containers.iter().enumerate() {
            let count = contained * (number + 1) / CONTAINERS - contained * number / CONTAINERS;
            parts.push(Part { host, from: Vec::new(), count });
        }
        parts.retain(|part| part.count > 0);
        parts
    }
}

fn endpoint(member: &Member) -> SocketAddr {
    (member.v4().ip(), PORT).into()
}

/// A source address has 22 768 ports of the default range for one address of a member; with these and the first there are twice
/// as many as are needed.
fn extra_sources() -> impl Iterator<Item = Ipv4Addr> {
    (3..=9).map(|last| Ipv4Addr::new(10, 1, 0, last))
}

/// One address has some 28 000 ports for its clients, but the kernel looks long for the last of them: each has some 4000 clients.
fn clients_of_the_host() -> impl Iterator<Item = Ipv4Addr> {
    (1..=12).map(|last| Ipv4Addr::new(10, 1, 8, last))
}
