//! What an agent has in the kernel of its host and on its disk, and that nothing of it is left.

use std::fs;

use anyhow::{Context, Result, ensure};
use aya::programs::TcAttachType;

use crate::{
    Host, Lab,
    filters::{has_clsact, programs},
    vip_addresses,
};

/// Each hook of the agent on `app` has one program, and nobody else's.
///
/// # Errors
/// Naming how many there are.
pub fn one_program_on_each_hook(lab: &Lab) -> Result<()> {
    let reply = programs(lab.app(), "eth0", TcAttachType::Ingress)?.len();
    let request = programs(lab.app(), "redirector0", TcAttachType::Egress)?.len();
    ensure!(reply == 1 && request == 1, "{reply} programs at the uplink, {request} at the VIP device");
    Ok(())
}

/// New connections to every VIP lead to `member`.
///
/// # Errors
/// Naming the VIP for which it is not so.
pub fn new_connections_are_served_by(lab: &Lab, member: &str) -> Result<()> {
    for address in vip_addresses() {
        let reply =
            lab.app().connect(address).with_context(|| address.to_string())?.command(&["GET", "whoami"])?;
        ensure!(reply.text().as_deref() == Some(member), "{address}: {reply:?}");
    }
    Ok(())
}

/// Whether the host routes one of the lab's VIPs by a route of its own.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn routes_a_vip(host: &Host) -> Result<bool> {
    let table = |name: &str| host.run(|| fs::read_to_string(format!("/proc/thread-self/net/{name}")));
    // As the kernel prints 10.255.0.1 and fd00:255::1.
    Ok(table("route")?.contains("\t0100FF0A\t")
        || table("ipv6_route")?.contains("fd000255000000000000000000000001 80 "))
}

/// Nothing of an agent is on `app` or in its directories: no device, program, route, pin or socket.
///
/// # Errors
/// Naming what is left.
pub fn nothing_is_left(lab: &Lab) -> Result<()> {
    let config = lab.config();
    for device in config.devices() {
        ensure!(lab.app().offloads(&device).is_err(), "the device {device} is left");
    }
    let left = programs(lab.app(), "eth0", TcAttachType::Ingress)?.len();
    ensure!(left == 0, "{left} programs are left at the uplink");
    ensure!(!has_clsact(lab.app(), "eth0")?, "clsact is left at the uplink");
    ensure!(!routes_a_vip(lab.app())?, "the route of a VIP is left");
    ensure!(!config.pin_dir().exists(), "{} is left", config.pin_dir().display());
    ensure!(!config.control_socket().exists(), "{} is left", config.control_socket().display());
    Ok(())
}
