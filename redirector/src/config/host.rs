//! What is wrong with a configuration only on this host, and where it stands in the file.
//!
//! The datapath finds it, by netlink; this module knows the places and the words.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use super::{
    Loaded,
    agent::HostWritten,
    error::{Complaint, Error, Fault, Place},
    read::{Document, Section},
    service::Draft,
};
use crate::model::{MemberId, ServiceId};

/// Something that the configuration says and the host contradicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// Nothing for an address of the host's own is ever routed to the VIP device.
    VipIsOwn {
        /// The VIP's service.
        service: ServiceId,
        /// Number of the VIP in its service.
        vip: usize,
    },
    /// The host routes the VIP already, and not to the VIP device.
    VipIsRouted {
        /// The VIP's service.
        service: ServiceId,
        /// Number of the VIP in its service.
        vip: usize,
        /// Where the host routes it to; `None`: nowhere, it refuses or loses the packets.
        device: Option<String>,
    },
    /// The host knows no way to a member. A warning: routes come late, and are followed.
    NoRoute {
        /// The member's service.
        service: ServiceId,
        /// The member.
        member: MemberId,
        /// Its address.
        address: SocketAddr,
    },
    /// The host has no device of this name. A warning: devices come late, and are followed.
    NoUplink {
        /// Number of the uplink in the configuration.
        uplink: usize,
    },
    /// The host does not have this source address. A warning: it is used as soon as it has.
    NoSource {
        /// The address.
        source: IpAddr,
    },
    /// A member leads to where another one of its service leads. A warning: both may be meant to be the same for a while.
    SameServer {
        /// The service of both.
        service: ServiceId,
        /// The later one in the file.
        member: MemberId,
        /// The earlier one.
        earlier: MemberId,
        /// An address that both have; `None`: their endpoints are the same, whatever these resolve to.
        address: Option<SocketAddr>,
    },
    /// At a path that the agent uses there is something of another kind.
    WrongKind {
        /// The key of `[agent]` that leads there.
        key: &'static str,
        /// Where it is: the path that is written, or one above it.
        path: PathBuf,
        /// What it should be.
        needed: &'static str,
    },
    /// The host has no group of the name that is written for those who may change things.
    NoOperatorGroup,
}

impl Misfit {
    /// Whether an agent runs all the same.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        matches!(
            self,
            Self::NoRoute { .. } | Self::NoUplink { .. } | Self::NoSource { .. } | Self::SameServer { .. }
        )
    }
}

/// Where everything stands that only the resolver or the host can judge.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// The file itself.
    file: PathBuf,
    /// Of each key that is written in `[agent]` and `[datapath]`, and of the sections themselves, under an empty key.
    keys: HashMap<(&'static str, String), Place>,
    /// `None`: no group is written.
    operator_group: Option<Place>,
    uplinks: Vec<Place>,
    sources: Vec<Place>,
    /// By service.
    vips: Vec<Vec<Place>>,
    /// By service.
    endpoints: Vec<Vec<Place>>,
}

impl Places {
    /// For a document without a fault: every draft is complete then.
    pub(super) fn new(
        document: &Document<'_>,
        root: &Section<'_>,
        written: &HostWritten,
        drafts: &[Draft<'_>],
    ) -> Self {
        let mut keys = HashMap::new();
        for section in ["agent", "datapath"].into_iter().filter(|section| root.has(section)) {
            let table = root.sub(section);
            keys.insert((section, String::new()), document.place(table.at()));
            keys.extend(table.keys().map(|(key, at)| ((section, key.to_owned()), document.place(at))));
        }
        let vips = |draft: &Draft<'_>| draft.vips.iter().map(|vip| document.place(vip.at)).collect();
        let endpoints = |draft: &Draft<'_>| {
            let endpoints = draft.members.iter().flat_map(|member| &member.endpoint);
            endpoints.map(|endpoint| document.place(endpoint.at)).collect()
        };
        Self {
            file: document.path().to_owned(),
            keys,
            operator_group: written.operator_group.as_ref().map(|group| document.place(group.at)),
            uplinks: written.uplinks.iter().map(|uplink| document.place(uplink.at)).collect(),
            sources: written.sources.iter().map(|source| document.place(source.at)).collect(),
            vips: drafts.iter().map(vips).collect(),
            endpoints: drafts.iter().map(endpoints).collect(),
        }
    }
}

impl Loaded {
    /// The misfits that no agent runs with, in words; `None` when there is none.
    #[must_use]
    pub fn misfits(&self, misfits: &[Misfit]) -> Option<Error> {
        let grave = misfits.iter().filter(|misfit| !misfit.is_warning());
        Error::of(grave.map(|misfit| self.fault(misfit)).collect())
    }

    /// The other ones in words, each on a line.
    #[must_use]
    pub fn warnings(&self, misfits: &[Misfit]) -> Vec<String> {
        let warnings = misfits.iter().filter(|misfit| misfit.is_warning());
        warnings.map(|misfit| self.fault(misfit).to_string()).collect()
    }

    fn fault(&self, misfit: &Misfit) -> Fault {
        match misfit {
            Misfit::VipIsOwn { service, vip } => {
                let cause = format!("VIP {} is an address of this host", self.vip(*service, *vip));
                self.vip_fault(
                    *service,
                    *vip,
                    Complaint::new(cause, "choose an address that no device of any host has"),
                )
            }
            Misfit::VipIsRouted { service, vip, device } => {
                let ip = self.vip(*service, *vip).ip();
                let (to, dev) = device.as_ref().map_or_else(Default::default, |device| {
                    (format!(" to the device {device}"), format!(" dev {device}"))
                });
                let cause = format!("this host has a route for the VIP's address {ip} already{to}");
                let next = format!(
                    "uninstall the agent that made the route, or remove it (`ip route del {ip}{dev}`), or choose another \
                     VIP"
                );
                self.vip_fault(*service, *vip, Complaint::new(cause, next))
            }
            Misfit::NoRoute { service, member, address } => {
                let cause = format!("this host has no route to {}", address.ip());
                let next =
                    "add one (`ip route`), or correct the endpoint; connections to it are refused until then";
                self.member_fault(*service, *member, Complaint::new(cause, next))
            }
            Misfit::NoUplink { uplink } => {
                let name = &self.config.datapath.uplinks[*uplink];
                let complaint = Complaint::new(
                    format!("this host has no device {name:?}"),
                    "correct `uplinks`, or leave it out to use every device that leads to a member; it is an uplink as soon \
                     as it is there",
                );
                Fault::new(self.places.uplinks[*uplink].clone(), String::new(), complaint)
            }
            Misfit::NoSource { source } => {
                let given = &self.config.datapath.source_addresses;
                let at = given.iter().position(|given| given == source).unwrap_or_default();
                let complaint = Complaint::new(
                    format!("the source address {source} is no address of this host"),
                    "add it (`ip address`), or correct `source_addresses`; it is used as soon as it is there",
                );
                Fault::new(self.places.sources[at].clone(), String::new(), complaint)
            }
            Misfit::SameServer { service, member, earlier, address } => {
                let earlier = &self.config.services[service.0].members[earlier.0].name;
                let cause = match address {
                    None => format!("the endpoint is that of member {earlier:?} too"),
                    Some(address) => {
                        format!("the endpoint leads to {address}, as that of member {earlier:?} does")
                    }
                };
                let next = "correct one of the two: a failover from one to the other helps nobody";
                self.member_fault(*service, *member, Complaint::new(cause, next))
            }
            Misfit::WrongKind { key, path, needed } => {
                let cause =
                    format!("`{key}` needs {} to be a {needed}, and it is something else", path.display());
                let next = format!("move it away, or give another path as `{key}`");
                self.fault_of_key("agent", key, Complaint::new(cause, next))
            }
            Misfit::NoOperatorGroup => {
                let name = self.config.agent.operator_group.as_deref().unwrap_or_default();
                let complaint = Complaint::new(
                    format!("this host has no group {name:?}"),
                    format!("add it (`groupadd --system {name}`), or correct `operator_group`"),
                );
                match &self.places.operator_group {
                    Some(place) => Fault::new(place.clone(), String::new(), complaint),
                    None => Fault::at_path(Path::new("operator_group"), complaint),
                }
            }
        }
    }

    fn vip(&self, service: ServiceId, vip: usize) -> SocketAddr {
        self.config.services[service.0].vips[vip]
    }

    /// A fault of a key of `[agent]` or `[datapath]`, which may not be written at all.
    pub(super) fn fault_of_key(&self, section: &'static str, key: &str, complaint: Complaint) -> Fault {
        // `closing of idle_timeouts` stands in `idle_timeouts`.
        let key = key.rsplit_once(" of ").map_or(key, |(_, section)| section);
        let place = |key: &str| self.places.keys.get(&(section, key.to_owned())).cloned();
        match place(key).or_else(|| place("")) {
            Some(place) => Fault::new(place, String::new(), complaint),
            None => Fault::at_path(&self.places.file, complaint),
        }
    }

    /// `service "orders"`
    pub(super) fn service_subject(&self, service: ServiceId) -> String {
        format!("service {:?}", self.config.services[service.0].name)
    }

    /// `member "paris" of service "orders"`
    pub(super) fn member_subject(&self, service: ServiceId, member: MemberId) -> String {
        let name = &self.config.services[service.0].members[member.0].name;
        format!("member {name:?} of {}", self.service_subject(service))
    }

    pub(super) fn vip_fault(&self, service: ServiceId, vip: usize, complaint: Complaint) -> Fault {
        let place = self.places.vips[service.0][vip].clone();
        Fault::new(place, self.service_subject(service), complaint)
    }

    pub(super) fn member_fault(&self, service: ServiceId, member: MemberId, complaint: Complaint) -> Fault {
        let place = self.places.endpoints[service.0][member.0].clone();
        Fault::new(place, self.member_subject(service, member), complaint)
    }
}
