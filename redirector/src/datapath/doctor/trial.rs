//! What works on this kernel, by doing it: the agent's own programs are loaded, attached and carry a connection's first
//! packet, in a network namespace that ends with the thread that made it. No packet leaves it.

use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
    programs::{
        LinkOrder, TcAttachType, TestRun as _, TestRunOptions,
        tc::{self, TcAttachOptions},
    },
};
use redirector_common::{
    addr::{Addr, Port},
    decision::Decision,
    inject::{Home, Order, Target},
    layout::{Slot, VipKey, slot_index},
    outcome::Outcome,
};
use rtnetlink::LinkUnspec;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::super::{
    inject::Injector,
    maps::Maps,
    network::{Device, Network, VipRoute},
    programs::{self, EGRESS, HalfOpen, Settings, classifier},
    sockets::Destroyer,
    sweep::enter_a_namespace,
};
use crate::model::PortRange;

/// How a trial ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It works.
    Works,
    /// The kernel's answer, and what it was asked for.
    Fails(String),
    /// Something that it needs failed before, or this process may not try it.
    Untried(Untried),
}

/// Why nothing was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untried {
    /// This process may not make a network namespace.
    NoNamespace,
    /// The kernel has no IPv6, or it is off.
    NoIpv6,
    /// Another trial failed, and has a row of its own.
    Follows,
}

impl fmt::Display for Untried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoNamespace => {
                "not tried: without CAP_SYS_ADMIN this process can make no network namespace to try it in"
            }
            Self::NoIpv6 => "not tried: this host has no IPv6",
            Self::Follows => "not tried: what it needs failed",
        })
    }
}

impl From<Result<()>> for Trial {
    fn from(result: Result<()>) -> Self {
        result.map_or_else(|error| Self::Fails(format!("{error:#}")), |()| Self::Works)
    }
}

/// What was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trials {
    /// A veth pair can be made, and is set up as the VIP device is.
    pub veth: Trial,
    /// The kernel takes the programs and their maps.
    pub programs: Trial,
    /// The programs run as machine code; `None`: the kernel does not say.
    pub compiled: Option<bool>,
    /// A program can be attached by a tcx link.
    pub tcx: Trial,
    /// The first packet of a connection to a VIP goes to the member, IPv4 and IPv6.
    pub connections: [Trial; 2],
    /// The flow table can be read in batches.
    pub batches: Trial,
    /// A socket can be destroyed, and whoever waits on it wakes.
    pub destroy: Trial,
    /// A network namespace can be entered.
    pub namespaces: Trial,
    /// A program resets both ends of a flow when it is asked to.
    pub requests: Trial,
}

impl Trials {
    fn untried(why: Untried) -> Self {
        let trial = || Trial::Untried(why);
        Self {
            veth: trial(),
            programs: trial(),
            compiled: None,
            tcx: trial(),
            connections: [trial(), trial()],
            batches: trial(),
            destroy: trial(),
            namespaces: trial(),
            requests: trial(),
        }
    }

    /// For a process that lacks the privileges, which a row of its own says.
    #[must_use]
    pub fn without_privileges() -> Self {
        Self::untried(Untried::Follows)
    }

    /// Tries everything, on a thread of its own. Takes as long as the verifier does: about a second.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn run() -> Result<Self> {
        let trials = thread::Builder::new().name("doctor".into()).spawn(try_all);
        let trials = trials.context("cannot start a thread; check the limits on processes and memory")?;
        trials.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn try_all() -> Result<Trials> {
    // SAFETY: only the network namespace of this short-lived thread is unshared, not its descriptors.
    let unshared = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
    let mut trials = Trials::untried(Untried::NoNamespace);
    if unshared.is_err() {
        trials.namespaces = enter_a_namespace().into();
        // Loading changes nothing in any namespace.
        let nowhere = Device { index: u32::MAX, mac: [0; 6] };
        match load(nowhere) {
            Ok(mut programs) => {
                trials.programs = Trial::Works;
                trials.compiled = compiled(&mut programs);
            }
            Err(error) => trials.programs = Err(error).into(),
        }
        return Ok(trials);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut trials = Trials::untried(Untried::Follows);
        trials.destroy = destroy().await.into();
        trials.namespaces = enter_a_namespace().into();
        let device = match device().await {
            Ok(device) => device,
            Err(error) => {
                trials.veth = Err(error).into();
                return Ok(trials);
            }
        };
        trials.veth = Trial::Works;
        let mut programs = match load(device) {
            Ok(programs) => programs,
            Err(error) => {
                trials.programs = Err(error).into();
                return Ok(trials);
            }
        };
        trials.programs = Trial::Works;
        trials.compiled = compiled(&mut programs);
        trials.tcx = attach(&mut programs).into();
        trials.connections = [Connection::V4, Connection::V6].map(|connection| match connection {
            Connection::V6 if !has_ipv6() => Trial::Untried(Untried::NoIpv6),
            _ => connection.carry(&mut programs).into(),
        });
        match Maps::take(&mut programs) {
            Ok(maps) => {
                trials.batches = maps.flows.for_each(|_, _| {}).into();
                if trials.connections[0] == Trial::Works {
                    trials.requests = request(&mut programs, &maps).into();
                }
            }
            Err(error) => trials.batches = Err(error).into(),
        }
        Ok(trials)
    })
}

/// The VIP device of the trial.
const VIP_DEVICE: &str = "redirector0";
/// The device that leads to its members.
const UPLINK: &str = "uplink0";

async fn device() -> Result<Device> {
    let network = Network::connect()?;
    let device = network.ensure_device(VIP_DEVICE, false).await?.device;
    let uplink = network.ensure_device(UPLINK, false).await?.device;
    let (connection, handle, _) = rtnetlink::new_connection().context("cannot open a netlink socket")?;
    tokio::spawn(connection);
    let families = [Connection::V4, Connection::V6].into_iter().take(if has_ipv6() { 2 } else { 1 });
    for connection in families {
        let member = connection.member().ip();
        let route = VipRoute { device: uplink.index, source: None, mtu: 1500 };
        network.set_vip_route(member, &route).await?;
        // Nobody answers there who could be asked for it.
        let neighbour = handle.neighbours().add(uplink.index, member).link_layer_address(&[2, 0, 0, 0, 0, 1]);
        neighbour.execute().await.context("cannot add a neighbour")?;
    }
    Ok(device)
}

fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

const PORTS: PortRange = PortRange { first: 20_000, last: 20_999 };

fn load(device: Device) -> Result<Ebpf> {
    let max_flows = 64;
    let half_open = HalfOpen::of(max_flows, PORTS);
    programs::load(&Settings { device, port_range: PORTS, max_flows, half_open, log: false }, None)
}

/// Of what the kernel says about the descriptor of a program.
fn compiled(programs: &mut Ebpf) -> Option<bool> {
    let fd = classifier(programs, EGRESS).ok()?.fd().ok()?.as_fd().as_raw_fd();
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix("prog_jited:")?.trim() == "1"))
}

fn attach(programs: &mut Ebpf) -> Result<()> {
    let program = classifier(programs, EGRESS)?;
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    let link = program
        .attach_with_options(VIP_DEVICE, TcAttachType::Egress, order)
        .context("cannot attach a program by tcx")?;
    Ok(program.detach(link)?)
}

/// A flow is reset at both ends by the program on the VIP device, which an agent that sends no packet of its own asks to.
fn request(programs: &mut Ebpf, maps: &Maps) -> Result<()> {
    let program = classifier(programs, EGRESS)?;
    if program.attach(VIP_DEVICE, TcAttachType::Egress).is_err() {
        // Before tcx.
        tc::qdisc_add_clsact(VIP_DEVICE).context("cannot add a clsact qdisc")?;
        program.attach(VIP_DEVICE, TcAttachType::Egress).context("cannot attach a program")?;
    }
    let mut target = None;
    maps.flows.for_each(|client_side, flow| {
        target = Some(Target::new(*client_side, flow.incarnation, Home::UNKNOWN));
    })?;
    let target = target.context("the connection that was carried has left no flow")?;
    let injector = Injector::open(VIP_DEVICE)?;
    let sent = injector
        .send(&[target], Order::ResetClients)
        .and_then(|sent| Ok((sent, injector.send(&[target], Order::ResetMembers)?)));
    let sent = sent.context("cannot send by the VIP device")?;
    let outcomes = maps.outcomes();
    let resets = |outcome| -> Result<u64> {
        (0..=1).map(|member| Ok(outcomes.count(outcome, Some(member))?.packets)).sum()
    };
    let resets = (resets(Outcome::ResetClient)?, resets(Outcome::ResetMember)?);
    ensure!(
        sent == (1, 1) && resets == (1, 1),
        "a program was asked to reset a flow, and did not: asked {sent:?}, reset {resets:?} (client, member)"
    );
    Ok(())
}

/// Ids in the maps of the trial.
const SERVICE: u16 = 0;

#[derive(Clone, Copy, Debug)]
enum Connection {
    V4,
    V6,
}

impl Connection {
    fn client(self) -> SocketAddr {
        self.address(9, 40_000)
    }

    fn vip(self) -> SocketAddr {
        self.address(1, 6379)
    }

    fn member(self) -> SocketAddr {
        self.address(2, 6380)
    }

    fn source(self) -> IpAddr {
        self.address(3, 0).ip()
    }

    /// Out of what is set aside for documents (RFC 5737, RFC 3849).
    fn address(self, host: u8, port: u16) -> SocketAddr {
        match self {
            Self::V4 => (Ipv4Addr::new(192, 0, 2, host), port).into(),
            Self::V6 => (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()), port).into(),
        }
    }

    /// The first packet, sent to the VIP, leaves for the member.
    fn carry(self, programs: &mut Ebpf) -> Result<()> {
        const TC_ACT_REDIRECT: u32 = 7;

        self.serve(programs)?;
        let sent = self.syn();
        let mut left = vec![0; sent.len() + 64];
        let options =
            TestRunOptions { data_in: Some(&sent), data_out: Some(&mut left), ..TestRunOptions::new() };
        let result = classifier(programs, EGRESS)?.test_run(options).context("cannot run a program")?;
        ensure!(
            result.return_value == TC_ACT_REDIRECT,
            "the program refused a connection to a VIP (verdict {}); `redirector run --kernel-log` says more",
            result.return_value.cast_signed()
        );
        let destination = match (self.member().ip(), self) {
            (IpAddr::V4(v4), _) => v4.octets().to_vec(),
            (IpAddr::V6(v6), _) => v6.octets().to_vec(),
        };
        let at = self.destination_at();
        ensure!(left.get(at..at + destination.len()) == Some(&destination), "the packet went elsewhere");
        Ok(())
    }

    /// What an agent would write.
    fn serve(self, programs: &mut Ebpf) -> Result<()> {
        // One member for each IP version.
        let member = match self {
            Self::V4 => 0,
            Self::V6 => 1,
        };
        let vip = self.vip();
        let address = Addr::from(vip.ip());
        let key = VipKey { address, port: Port::new(vip.port()), protocol: VipKey::TCP };
        table::<VipKey, u32>(programs, "vips_v4")?.insert(key, u32::from(SERVICE), 0)?;
        table::<Addr, u32>(programs, "vip_addrs_v4")?.insert(address, 1, 0)?;
        let slot = Slot::new(self.member(), &[self.source()], Slot::OFFERED);
        array::<Slot>(programs, "slots_v4")?.set(slot_index(member, 0), slot, 0)?;
        let word = Decision { active: Some(member), epoch: 1 }.word();
        array::<u64>(programs, "decisions_v4")?.set(u32::from(SERVICE), word, 0)?;
        Ok(())
    }

    /// A frame with a TCP segment that opens a connection.
    fn syn(self) -> Vec<u8> {
        const TCP: u8 = 6;
        let (client, vip) = (self.client(), self.vip());
        let mut frame = vec![2; 12];
        match (client.ip(), vip.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                frame.extend([0x08, 0x00]);
                frame.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, TCP, 0, 0]);
                frame.extend(from.octets());
                frame.extend(to.octets());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                frame.extend([0x86, 0xdd]);
                frame.extend([0x60, 0, 0, 0, 0, 20, TCP, 64]);
                frame.extend(from.octets());
                frame.extend(to.octets());
            }
            // `address` gives both of one version.
            _ => {}
        }
        frame.extend(client.port().to_be_bytes());
        frame.extend(vip.port().to_be_bytes());
        // Sequence and acknowledgement; a header of 20 bytes with SYN; window, checksum, urgent pointer.
        frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
        frame
    }

    /// Where the destination stands in a frame.
    fn destination_at(self) -> usize {
        match self {
            Self::V4 => 14 + 16,
            Self::V6 => 14 + 24,
        }
    }
}

fn table<'a, K: aya::Pod, V: aya::Pod>(
    programs: &'a mut Ebpf,
    name: &str,
) -> Result<HashMap<&'a mut MapData, K, V>> {
    Ok(programs.map_mut(name).with_context(|| format!("the object has no map {name}"))?.try_into()?)
}

fn array<'a, V: aya::Pod>(programs: &'a mut Ebpf, name: &str) -> Result<Array<&'a mut MapData, V>> {
    Ok(programs.map_mut(name).with_context(|| format!("the object has no map {name}"))?.try_into()?)
}

/// Destroys an own connection over the loopback device.
async fn destroy() -> Result<()> {
    /// Of every network namespace.
    const LOOPBACK: u32 = 1;

    let (connection, handle, _) = rtnetlink::new_connection().context("cannot open a netlink socket")?;
    tokio::spawn(connection);
    handle
        .link()
        .set(LinkUnspec::new_with_index(LOOPBACK).up().build())
        .execute()
        .await
        .context("cannot set the loopback device up")?;
    Destroyer::open()?.works()
}
