//! Whose programs run where packets are taken: egress of the VIP device, ingress of the uplinks.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};

use super::super::{
    attach, links, netlink,
    network::Network,
    pins::paths_in,
    programs::{EGRESS, INGRESS, links_dir},
};

/// Which packets of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Those that come in.
    Ingress,
    /// Those that go out.
    Egress,
}

impl Direction {
    /// As `tc` calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// One place where a program of Redirector's runs, or would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Name of the device.
    pub device: String,
    /// Which of its packets.
    pub direction: Direction,
    /// In the order in which packets meet them; `None`: this process may not look at programs of others.
    pub programs: Option<Vec<Program>>,
    /// Filters of `clsact`, which come after tcx programs, in the order in which packets meet them.
    pub filters: Vec<Filter>,
}

/// A program that is attached by tcx.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its number, which the kernel gives once in a boot.
    pub id: u32,
    /// Of its name the kernel keeps 15 bytes.
    pub name: String,
    /// Whether a link that is pinned in this pin directory runs it.
    pub ours: bool,
    /// Whether it is called like one of Redirector's.
    pub redirectors: bool,
}

/// A filter of `clsact`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// `bpf`, `flower`, …
    pub kind: String,
    /// Lower ones come first.
    pub priority: u16,
    /// What runs, for a filter of the kind `bpf`.
    pub program: Option<String>,
    /// Whether it is called like one of Redirector's.
    pub redirectors: bool,
}

/// Looks at egress of the VIP device and at ingress of the uplinks. Devices that the host does not have are left out.
///
/// # Errors
/// When the kernel does not answer.
pub async fn look(pin_dir: &Path, vip_device: &str, uplinks: &[String]) -> Result<Vec<Hook>> {
    let network = Network::connect()?;
    let own = own_programs(pin_dir)?;
    let uplinks = uplinks.iter().map(|uplink| (uplink.as_str(), Direction::Ingress));
    let mut hooks = Vec::new();
    for (device, direction) in [(vip_device, Direction::Egress)].into_iter().chain(uplinks) {
        let Some(index) = network.find(device).await? else { continue };
        hooks.push(Hook {
            device: device.to_owned(),
            direction,
            programs: programs_on(device, direction, &own)?,
            filters: filters_on(index, direction).await?,
        });
    }
    Ok(hooks)
}

/// Why an agent would not take this VIP device: another agent's programs run on it.
///
/// # Errors
/// When the kernel does not answer.
pub async fn refusal(pin_dir: &Path, vip_device: &str) -> Result<Option<String>> {
    let Some(index) = Network::connect()?.find(vip_device).await? else { return Ok(None) };
    Ok(attach::refuse_foreign(pin_dir, vip_device, index).err().map(|error| format!("{error:#}")))
}

/// Numbers of the programs that the pinned links run.
fn own_programs(pin_dir: &Path) -> Result<HashSet<u32>> {
    // What is no link there runs nothing.
    let program = |pin: PathBuf| Some(links::look(&pin).ok()??.program);
    Ok(paths_in(&links_dir(pin_dir))?.into_iter().filter_map(program).collect())
}

fn programs_on(device: &str, direction: Direction, own: &HashSet<u32>) -> Result<Option<Vec<Program>>> {
    let hook = match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    };
    match SchedClassifier::query_tcx(device, hook) {
        Ok((_, found)) => {
            let program = |info: &aya::programs::ProgramInfo| Program {
                id: info.id(),
                name: String::from_utf8_lossy(info.name()).into_owned(),
                ours: own.contains(&info.id()),
                redirectors: attach::is_an_agents(info),
            };
            Ok(Some(found.iter().map(program).collect()))
        }
        Err(error) => match errno(&error) {
            // There are programs, and without CAP_SYS_ADMIN one may not look at them.
            Some(libc::EPERM) => Ok(None),
            // The kernel has no tcx, or the device went away in between.
            Some(libc::EINVAL | libc::ENODEV) => Ok(Some(Vec::new())),
            _ => Err(error).with_context(|| format!("cannot ask what runs on {device}")),
        },
    }
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

/// A device without `clsact` has none.
async fn filters_on(device: u32, direction: Direction) -> Result<Vec<Filter>> {
    let handle = netlink::connect(false).context("cannot open a netlink socket")?;
    let mut question = TcMessage::default();
    question.header.index = i32::try_from(device).context("a device with an index beyond all bounds")?;
    question.header.parent = TcHandle {
        major: u16::MAX,
        minor: match direction {
            Direction::Ingress => TcHandle::MIN_INGRESS,
            Direction::Egress => TcHandle::MIN_EGRESS,
        },
    };
    let listed =
        netlink::list(&handle, RouteNetlinkMessage::GetTrafficFilter(question), |answer| match answer {
            RouteNetlinkMessage::NewTrafficFilter(message) => filter_of(&message),
            _ => None,
        });
    match listed.await {
        // No queueing discipline, or no device.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT | libc::ENODEV)) => {
            Ok(Vec::new())
        }
        listed => listed.context("cannot list the filters of a device"),
    }
}

/// `None` for the head of a priority, which is no filter.
fn filter_of(message: &TcMessage) -> Option<Filter> {
    let kind = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.clone()),
        _ => None,
    })?;
    let options = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    let program = options.iter().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name.clone()),
        _ => None,
    });
    let priority = u16::try_from(message.header.info >> 16).unwrap_or_default();
    let redirectors = program.as_deref().is_some_and(|name| name == EGRESS || name == INGRESS);
    Some(Filter { kind, priority, program, redirectors })
}
