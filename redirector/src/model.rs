//! The validated model: what a configuration means, free of how it was written.
//!
//! Every other module speaks in these types. Values are checked once, by [`crate::config`]; whoever holds a
//! [`Config`] may rely on what the field docs promise.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

mod access;
mod application;
mod detect;
mod difference;
mod hook;
mod outcome;
mod profile;
mod redis_error;
mod rest;
mod shards;
mod signal;
mod state;

pub use access::{Access, Authorities, Identity, Login, Secret, Tls, Trust};
pub use application::Application;
pub use detect::{Combine, Detect, Effect, Limits, Policy};
pub use difference::{Change, Difference, Kind, ServiceDifference};
pub use hook::{Hook, HookFailure, HookRun, HookWhen};
pub use outcome::{Cause, Failure, FailureKind, Phase, ProbeOutcome, TlsFault, Verdict, Witness};
pub use profile::{Defaults, Profile};
pub use redis_error::RedisErrorKind;
pub use rest::{Exec, ExecOf, Http, HttpTarget, Lag, LagOf, Rest, Url, User};
pub use shards::{Heartbeat, HeartbeatFault, Keyspace, MOST_TAGS, ShardFailure, TAGS};
pub use signal::{Breaker, LOOK_AFTER, OpenLimit, Signal, SignalKind, Signals, Traffic};
pub use state::{Borne, MemberState, Pace, ServiceState, SwitchKind, TroubleKind};

/// Longest name of a service or member, in bytes.
pub const LONGEST_NAME: usize = 63;

/// Whether the name of a service or member may have this character: names become parts of paths, labels and command lines.
#[must_use]
pub fn may_be_in_a_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || "-_.".contains(character)
}

/// Whether `text` can be the name of a service or member.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=LONGEST_NAME).contains(&text.len()) && text.chars().all(may_be_in_a_name)
}

/// Everything that a configuration file says.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The agent itself.
    pub agent: Agent,
    /// Programs, maps and devices.
    pub datapath: Datapath,
    /// At least one; names and VIPs are unique over all of them.
    pub services: Vec<Service>,
}

/// `[agent]`
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// Unix socket that the command line talks to.
    pub control_socket: PathBuf,
    /// Directory for what must survive a restart and is no map (the last switch of each service, recent events).
    pub state_dir: PathBuf,
    /// Group whose members may change things over the control socket, beside root. `None`: nothing is written, and it
    /// is `redirector`, if there is such a group.
    pub operator_group: Option<String>,
    /// Where metrics are read, over HTTP; its port is not 0. `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// File that everything is written to that is handed in to the decisions, for `simulate`; `None`: nothing is.
    pub record: Option<PathBuf>,
}

/// `[datapath]`
#[derive(Clone, Debug, PartialEq)]
pub struct Datapath {
    /// The VIP device; at most 13 bytes, because its peer is named after it (`-p`).
    pub device: String,
    /// Devices whose ingress carries replies. Empty: every device that a route to a member uses.
    pub uplinks: Vec<String>,
    /// Directory on a BPF file system.
    pub pin_dir: PathBuf,
    /// Size of the flow table; a full one refuses new connections.
    pub max_flows: u32,
    /// Source ports of the member side.
    pub port_range: PortRange,
    /// Further addresses of this host that flows may have as their sources, where the device that the route leaves by has
    /// them.
    pub source_addresses: Vec<IpAddr>,
    /// After which time without a segment a flow is collected.
    pub idle_timeouts: IdleTimeouts,
    /// How many flows that are not established yet one source may have with one service; `None`: a fraction of what
    /// there is room for. Clients with a socket on this host are not counted.
    pub half_open_per_source: Option<u32>,
    /// The same for all sources of a service together.
    pub half_open_per_service: Option<u32>,
    /// What stays in the kernel when the agent stops.
    pub on_stop: OnStop,
    /// How programs are attached to their hooks.
    pub attach: Attach,
}

/// `[datapath.idle_timeouts]`: how long a flow may be without a segment, by how far it is. At least a second each. The flow of a
/// local socket stays as long as that socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleTimeouts {
    /// The member has not answered, or the client has not confirmed the answer.
    pub opening: Duration,
    /// Both ends have heard each other.
    pub established: Duration,
    /// At least one end sent its FIN; and what is stale.
    pub closing: Duration,
}

impl Default for IdleTimeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { opening: seconds(30), established: seconds(24 * 60 * 60), closing: seconds(120) }
    }
}

/// An inclusive range of ports, neither end 0, `first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// Lowest port.
    pub first: u16,
    /// Highest port.
    pub last: u16,
}

/// How programs of the hook `tc` are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// By tcx where the kernel has it, else by clsact.
    Auto,
    /// By links to tcx hooks (Linux 6.6).
    Tcx,
    /// By filters of the queueing discipline clsact.
    Clsact,
}

/// What a stopping agent does with its programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnStop {
    /// Programs, maps and device stay: traffic goes on with the last decision.
    Keep,
    /// As `uninstall`.
    Detach,
}

/// Index of a service in [`Config::services`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub usize);

/// Index of a member in its [`Service::members`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MemberId(pub usize);

/// Index of a check in its [`Service::checks`] and [`Member::checks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CheckId(pub usize);

/// Grows by one with each switch of a service. 0: nothing was ever chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The epoch of the switch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `[[service]]`: one database as applications see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Unique; letters, digits, `-`, `_` and `.`, at most 63 bytes.
    pub name: String,
    /// At least one.
    pub vips: Vec<SocketAddr>,
    /// What a failover does to the flows of the member that was left.
    pub on_failover: FlowPolicy,
    /// What a failback does to them.
    pub on_failback: FlowPolicy,
    /// How long [`FlowPolicy::Drain`] waits before it resets what is left.
    pub drain_timeout: Duration,
    /// Over which time a planned switch with [`FlowPolicy::Reset`] spreads its resets; zero: all at once.
    #[serde(default)]
    pub reset_over: Duration,
    /// What is done about signals of the kernel.
    #[serde(default)]
    pub signals: Signals,
    /// When its traffic alone takes a member down; `None`: never.
    #[serde(default)]
    pub breaker: Option<Breaker>,
    /// How quickly new connections may come; `None`: as they like. No part of a recording: it decides nothing.
    #[serde(skip)]
    pub limit: Option<OpenLimit>,
    /// What happens when no member is up.
    pub on_all_down: OnAllDown,
    /// How many members must have been seen up before the first choice.
    pub initial: Initial,
    /// After this the best member that is up is taken.
    pub initial_timeout: Duration,
    /// When and how a better member is returned to.
    pub failback: Failback,
    /// Where the defaults of its times and thresholds come from.
    pub profile: Profile,
    /// Which of its counting checks must pass.
    pub combine: Combine,
    /// At least one, and at least one that counts or vetoes; every check runs against every member. What holds for one member is in [`Member::checks`].
    pub checks: Vec<Check>,
    /// What runs before and after its switches, in this order.
    #[serde(default)]
    pub hooks: Vec<Hook>,
    /// What is known of the applications. No part of a recording: it decides nothing.
    #[serde(skip)]
    pub application: Application,
    /// At least one; names are unique within the service.
    pub members: Vec<Member>,
}

/// What a switch does to the flows of the member that was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowPolicy {
    /// They are reset at once.
    Reset,
    /// They go on until the drain deadline and are reset then.
    Drain,
    /// They go on.
    Keep,
}

impl fmt::Display for FlowPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Reset => "reset",
            Self::Drain => "drain",
            Self::Keep => "keep",
        })
    }
}

/// What a service does when every member is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnAllDown {
    /// The active member stays: the observer may be the one that is cut off.
    Stay,
    /// New connections are refused.
    Refuse,
}

/// How many members must be up before the first choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Initial {
    /// One is enough, once every member has a verdict.
    Any,
    /// More than half.
    Majority,
    /// All.
    All,
}

/// `[service.failback]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failback {
    /// Whether the agent returns to a better member by itself.
    pub mode: FailbackMode,
    /// How long the better member must have been up without a break.
    pub healthy_for: Duration,
    /// Pause after any automatic switch; never delays leaving a member that is down.
    pub hold_down: Duration,
    /// After this time half of how often a member went down lately is forgotten; each time beyond the first lengthens
    /// `healthy_for`. Zero: nothing is remembered.
    pub flap_half_life: Duration,
}

/// Who returns to a better member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailbackMode {
    /// The agent, by the rules of [`Failback`].
    Auto,
    /// An operator.
    Manual,
    /// Nobody: only a failover leaves the active member.
    Never,
}

/// `[[service.check]]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Unique within its service; the same alphabet as a service's name. That of its kind, if none is written.
    pub name: String,
    /// What a probe does. Not recorded: nothing is decided by it, and it may hold what is nobody's business.
    #[serde(skip, default = "CheckKind::unrecorded")]
    pub kind: CheckKind,
    /// What its verdict is good for.
    pub effect: Effect,
    /// From the start of one probe to the start of the next, at most; positive.
    pub interval: Duration,
    /// The same while in doubt: unknown, or after a failure; positive, at most `interval`.
    pub fast_interval: Duration,
    /// The same while the address has been down for longer than this; positive.
    pub down_interval: Duration,
    /// By up to how much of themselves `interval` and `down_interval` are shortened at random; at most 50.
    pub jitter_percent: u32,
    /// How long one probe may take at most, all phases together; positive.
    pub timeout: Duration,
    /// Probes that make one verdict; at least 1.
    pub probes: u32,
    /// From the start of one of them to the start of the next.
    pub probe_delay: Duration,
    /// How many of them must pass.
    pub policy: Policy,
    /// Consecutive failures until the check fails; at least 1.
    pub fall: u32,
    /// Consecutive passes until the check passes; at least 1.
    pub rise: u32,
    /// How long a failure of which kind is borne: those of its service.
    pub detect: Detect,
    /// Whether `ping` and `echo` ask for the role as well.
    pub role: Role,
    /// Redis errors that count against a member; the others are shown. Never the probe's own credentials.
    pub counted_errors: Vec<RedisErrorKind>,
}

/// The role that a member must have to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Nobody asks.
    Any,
    /// `ROLE` says that it is a primary.
    Primary,
}

impl Check {
    /// Whether its probes are made at once when the kernel sees trouble in the traffic: it decides, and watches the member's
    /// own address. Others, which ask an interface for operators or start a command, would notice nothing sooner.
    #[must_use]
    pub fn follows_signals(&self) -> bool {
        self.effect.decides() && self.kind.sees(FailureKind::Silence)
    }

    /// How long a verdict can take, from the start of its first probe.
    #[must_use]
    pub fn longest_probe(&self) -> Duration {
        self.probe_delay.max(self.timeout) * (self.probes - 1) + self.timeout
    }

    /// A check of this kind with everything else as the contract has it, where a configuration says nothing.
    #[must_use]
    pub fn of(kind: CheckKind) -> Self {
        Self::with(kind, Profile::Balanced)
    }

    /// The same with the defaults of a profile.
    #[must_use]
    pub fn with(kind: CheckKind, profile: Profile) -> Self {
        let Defaults { fall, rise, detect, .. } = profile.defaults();
        let (interval, fast_interval, timeout) = kind.usual_times(profile);
        Self {
            name: kind.name().to_owned(),
            effect: kind.usual_effect(),
            kind,
            interval,
            fast_interval,
            down_interval: interval,
            jitter_percent: 10,
            timeout,
            probes: 1,
            probe_delay: Duration::from_millis(100),
            policy: Policy::All,
            fall,
            rise,
            detect,
            role: Role::Any,
            counted_errors: RedisErrorKind::counted_by_default(),
        }
    }
}

/// What a probe does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// Opens a TCP connection.
    Tcp,
    /// Sends `PING` over a connection that it keeps.
    Ping,
    /// Has a nonce repeated, over a connection that it keeps.
    Echo,
    /// Writes a value of its own and reads it back, over a connection that it keeps.
    SetGet {
        /// What the key begins with.
        prefix: String,
        /// After this the value is gone by itself; longer than a probe takes.
        expiry: Duration,
    },
    /// Writes a value of its own to every shard and reads it back, over connections that it keeps.
    Keyspace(Keyspace),
    /// Publishes through every member of the service, and expects the message at the others.
    Heartbeat(Heartbeat),
    /// Asks the REST API of the member's cluster whether the database is available, and how far behind.
    Lag(Lag),
    /// Asks an HTTP server.
    Http(Http),
    /// Runs a command.
    Exec(Exec),
}

impl CheckKind {
    /// Stands for the kind of a check that was read from a recording: no probe is made there.
    fn unrecorded() -> Self {
        Self::Tcp
    }

    /// The name that the configuration uses.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Ping => "ping",
            Self::Echo => "echo",
            Self::SetGet { .. } => "set_get",
            Self::Keyspace(_) => "keyspace",
            Self::Heartbeat(_) => "heartbeat",
            Self::Lag(_) => "lag",
            Self::Http(_) => "http",
            Self::Exec(_) => "exec",
        }
    }

    /// Whether it asks the member's Redis itself. Then it is in a hurry to notice silence; other answers take their time.
    #[must_use]
    pub fn asks_redis(&self) -> bool {
        !matches!(self, Self::Lag(_) | Self::Http(_) | Self::Exec(_))
    }

    /// `interval`, `fast_interval` and `timeout` where nothing is said. An API for administrators, somebody's web server and
    /// a process of its own are asked less often, whatever the profile.
    fn usual_times(&self, profile: Profile) -> (Duration, Duration, Duration) {
        if !self.asks_redis() {
            return (Duration::from_secs(5), Duration::from_secs(1), Duration::from_secs(3));
        }
        if let Self::Heartbeat(_) = self {
            // Its tolerance is what matters, and that is no profile's.
            return (Duration::from_secs(1), Duration::from_millis(100), Duration::from_secs(1));
        }
        let Defaults { interval, fast_interval, timeout, .. } = profile.defaults();
        (interval, fast_interval, timeout)
    }

    /// `effect` where nothing is said.
    fn usual_effect(&self) -> Effect {
        match self {
            Self::Lag(_) | Self::Heartbeat(_) => Effect::Gate,
            _ => Effect::Count,
        }
    }

    /// Whether a prober keeps a connection, the end of which starts a probe at once.
    #[must_use]
    pub fn keeps_a_connection(&self) -> bool {
        match self {
            // A heartbeat keeps its rhythm, whatever ends.
            Self::Tcp | Self::Heartbeat(_) | Self::Lag(_) | Self::Http(_) | Self::Exec(_) => false,
            Self::Ping | Self::Echo | Self::SetGet { .. } | Self::Keyspace(_) => true,
        }
    }

    /// Whether trouble of this kind at a member's own address makes its probes fail. The kernel of a frozen process still
    /// completes handshakes; a check that asks somebody else (a REST API, a command) sees none of them,
    /// and a heartbeat sees them in its own time. The worst cases of
    /// `check`, and how long a probe waits, follow from it.
    #[must_use]
    pub fn sees(&self, trouble: FailureKind) -> bool {
        match self {
            Self::Ping | Self::Echo | Self::SetGet { .. } | Self::Keyspace(_) => true,
            Self::Tcp => trouble != FailureKind::Stall,
            Self::Heartbeat(_) | Self::Lag(_) | Self::Http(_) | Self::Exec(_) => false,
        }
    }
}

/// `[[service.member]]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Unique within its service; the same alphabet as a service's name.
    pub name: String,
    /// Where it is, as written.
    pub endpoint: Endpoint,
    /// The healthy member with the highest weight is active; at least 1.
    pub weight: u32,
    /// How checks reach and enter it. Not recorded.
    #[serde(skip)]
    pub access: Access,
    /// The REST API of the Redis Software cluster that it is in; `None`: it is in none, or nobody said.
    #[serde(skip)]
    pub rest: Option<Rest>,
    /// Those of its service in the same order, with what this member overrides.
    pub checks: Vec<Check>,
}

/// Addresses that one member can have, of both IP versions together.
pub const MAX_ADDRESSES: usize = 16;

/// An address of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The address.
    pub address: SocketAddr,
    /// Whether new flows may go there.
    pub offered: bool,
}

/// `host:port` as written. A host name resolves to addresses, at start and whenever an answer is over.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// A name or an address, without brackets.
    pub host: String,
    /// Not 0.
    pub port: u16,
}

impl Endpoint {
    /// The address, when the host is written as one.
    #[must_use]
    pub fn literal(&self) -> Option<SocketAddr> {
        self.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.literal() {
            Some(address) => address.fmt(f),
            None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}
