//! `[agent]` and `[datapath]`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{
    address::{port_number, unusable},
    error::Complaint,
    read::{Section, Written, word},
};
use crate::model::{Agent, Attach, Datapath, IdleTimeouts, OnStop, PortRange};

/// `sun_path` of `unix(7)` has 108 bytes, the last of them NUL.
const LONGEST_SOCKET_PATH: usize = 107;
/// `IFNAMSIZ` is 16 with the NUL.
const LONGEST_INTERFACE: usize = 15;
/// Leaves room for the `-p` of the VIP device's peer.
const LONGEST_VIP_DEVICE: usize = LONGEST_INTERFACE - 2;
/// `LOGIN_NAME_MAX` of Linux, which user databases keep to for groups too.
const LONGEST_GROUP: usize = 256;
/// Ports below belong to servers, and binding them is a privilege.
const LOWEST_PORT: u16 = 1024;
/// A SYN that is lost is sent again after a second.
const SHORTEST_IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// What of both sections only the host can judge, and where it stands.
pub(super) struct HostWritten {
    pub(super) operator_group: Option<Written<String>>,
    pub(super) uplinks: Vec<Written<String>>,
    pub(super) sources: Vec<Written<IpAddr>>,
}

/// Both sections.
pub(super) fn read(root: &Section<'_>) -> (Agent, Datapath, HostWritten) {
    let (agent, operator_group) = agent(&root.sub("agent"));
    let (datapath, uplinks, sources) = datapath(&root.sub("datapath"));
    (agent, datapath, HostWritten { operator_group, uplinks, sources })
}

fn agent(section: &Section<'_>) -> (Agent, Option<Written<String>>) {
    let control_socket = section.text("control_socket", |text| {
        if text.len() > LONGEST_SOCKET_PATH {
            let cause = format!(
                "`control_socket` has {} bytes, and a socket's path at most {LONGEST_SOCKET_PATH}",
                text.len()
            );
            return Err(Complaint::new(cause, "give a shorter path"));
        }
        absolute("control_socket", text)
    });
    let state_dir = section.text("state_dir", |text| absolute("state_dir", text));
    let metrics_listen = section.text("metrics_listen", listen_address);
    let operator_group = section.text("operator_group", group);
    let agent = Agent {
        control_socket: control_socket
            .map_or_else(|| "/run/redirector/control.sock".into(), |path| path.value),
        state_dir: state_dir.map_or_else(|| "/var/lib/redirector".into(), |path| path.value),
        operator_group: operator_group.as_ref().map(|group| group.value.clone()),
        metrics_listen: metrics_listen.map(|address| address.value),
        record: section.text("record", |text| absolute("record", text)).map(|path| path.value),
    };
    (agent, operator_group)
}

/// A group's name. Whether there is such a group, the host knows.
fn group(text: &str) -> Result<String, Complaint> {
    // Groups of a directory service may have spaces in their names.
    let strange = |char: char| char.is_control() || char == ':';
    if text.is_empty() || text.len() > LONGEST_GROUP || text.contains(strange) {
        let cause = format!("`operator_group` is {text:?}, which is no name of a group");
        return Err(Complaint::new(cause, "name a group of this host (`getent group`)"));
    }
    Ok(text.to_owned())
}

fn datapath(section: &Section<'_>) -> (Datapath, Vec<Written<String>>, Vec<Written<IpAddr>>) {
    // `tc` is the only hook, so that the model does not carry it.
    section.texts("hooks", hook);
    let device = section.text("device", |text| interface("device", text, LONGEST_VIP_DEVICE));
    let device = device.map_or_else(|| "redirector0".to_owned(), |name| name.value);
    let uplinks = section.texts("uplinks", |text| {
        if text == device {
            let cause = format!("uplink {text:?} is the VIP device itself");
            return Err(Complaint::new(cause, "name the devices that lead to the members"));
        }
        interface("uplink", text, LONGEST_INTERFACE)
    });
    let uplinks = uplinks.unwrap_or_default();
    let pin_dir = section.text("pin_dir", |text| absolute("pin_dir", text));
    let port_range = section.text("port_range", port_range);
    let sources = section.texts("source_addresses", source_address).unwrap_or_default();
    let datapath = Datapath {
        device,
        uplinks: uplinks.iter().map(|name| name.value.clone()).collect(),
        pin_dir: pin_dir.map_or_else(|| "/sys/fs/bpf/redirector".into(), |path| path.value),
        max_flows: section.number("max_flows", 16..=1 << 24).unwrap_or(262_144),
        port_range: port_range.map_or(PortRange { first: 10_000, last: 32_767 }, |range| range.value),
        source_addresses: sources.iter().map(|source| source.value).collect(),
        idle_timeouts: idle_timeouts(&section.sub("idle_timeouts")),
        half_open_per_source: section.number("half_open_per_source", 1..=1 << 24),
        half_open_per_service: section.number("half_open_per_service", 1..=1 << 24),
        on_stop: section
            .word("on_stop", &[("keep", OnStop::Keep), ("detach", OnStop::Detach)], &[])
            .unwrap_or(OnStop::Keep),
        attach: section
            .word("attach", &[("auto", Attach::Auto), ("tcx", Attach::Tcx), ("clsact", Attach::Clsact)], &[])
            .unwrap_or(Attach::Auto),
    };
    (datapath, uplinks, sources)
}

fn idle_timeouts(section: &Section<'_>) -> IdleTimeouts {
    let defaults = IdleTimeouts::default();
    let time = |key| section.time(key, SHORTEST_IDLE_TIMEOUT).map(|time| time.value);
    IdleTimeouts {
        opening: time("opening").unwrap_or(defaults.opening),
        established: time("established").unwrap_or(defaults.established),
        closing: time("closing").unwrap_or(defaults.closing),
    }
}

fn hook(text: &str) -> Result<(), Complaint> {
    if matches!(text, "xdp" | "connect") {
        return Err(Complaint::new(format!("hook `{text}` is not built yet"), r#"use hooks = ["tc"]"#));
    }
    word("hooks", text, &[("tc", ())], &[])
}

/// An address that packets may leave this host with.
fn source_address(text: &str) -> Result<IpAddr, Complaint> {
    let next = "give addresses of this host, like \"10.1.0.3\" or \"fd00:1::3\"";
    let wrong = |why: &str| Complaint::new(format!("source address {text:?} {why}"), next);
    let address = text.parse::<IpAddr>().map_err(|_| wrong("is not an address"))?;
    if let Some(why) = unusable(address) {
        return Err(wrong(&format!("is {why}")));
    }
    if address.is_loopback() {
        return Err(wrong("is a loopback address, which no packet may leave a host with"));
    }
    Ok(address)
}

/// Where metrics are read: an address, so that nobody listens on more than was meant, and a port that a scraper can be told.
fn listen_address(text: &str) -> Result<SocketAddr, Complaint> {
    let next = "write address and port, like \"127.0.0.1:9109\" or \"[::1]:9109\"";
    match text.parse::<SocketAddr>() {
        Err(_) => Err(Complaint::new(
            format!("`metrics_listen` is {text:?}, which is not an address with a port"),
            next,
        )),
        Ok(address) if address.port() == 0 => Err(Complaint::new(
            format!("`metrics_listen` is {text:?}: with port 0 nobody knows where to read"),
            next,
        )),
        Ok(address) => Ok(address),
    }
}

fn absolute(key: &str, text: &str) -> Result<PathBuf, Complaint> {
    if text.contains('\0') {
        return Err(Complaint::new(format!("`{key}` contains a NUL character"), "remove it"));
    }
    if !text.starts_with('/') {
        let cause = format!("`{key}` is {text:?}, which is not an absolute path");
        return Err(Complaint::new(cause, "give a path that starts with /"));
    }
    Ok(text.into())
}

/// The kernel's rules (`dev_valid_name`), and no `%`: a name with it is a pattern when a device is made.
fn interface(what: &str, text: &str, longest: usize) -> Result<String, Complaint> {
    let illegal = |c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control();
    let cause = if text.is_empty() || text == "." || text == ".." || text.contains(illegal) {
        format!("{what} {text:?} is not a legal interface name")
    } else if text.len() > longest {
        format!("{what} {text:?} has {} bytes, and may have at most {longest}", text.len())
    } else {
        return Ok(text.to_owned());
    };
    Err(Complaint::new(cause, "give a name as `ip link` shows them"))
}

fn port_range(text: &str) -> Result<PortRange, Complaint> {
    let next = "write first and last port, for example port_range = \"10000-32767\"";
    let ends = text
        .split_once('-')
        .and_then(|(first, last)| Some((port_number(first.trim())?, port_number(last.trim())?)));
    let cause = match ends {
        None => format!("`port_range` is {text:?}, which is not a range of ports"),
        Some((first, _)) if first < LOWEST_PORT => {
            format!("`port_range` starts at {first}, below {LOWEST_PORT}")
        }
        Some((first, last)) if last < first => {
            format!("`port_range` ends at {last}, below its start {first}")
        }
        Some((first, last)) => return Ok(PortRange { first, last }),
    };
    Err(Complaint::new(cause, next))
}
