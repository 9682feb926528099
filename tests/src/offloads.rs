//! Offloads of a device through `SIOCETHTOOL`. veth passes packets on without ever computing a checksum unless its
//! offloads are off, and so hides every fault in checksum code.

use std::{io, os::fd::AsRawFd};

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// What the devices of a lab leave to hardware that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offloads {
    /// The default of veth: no checksum is computed, segments stay together; GRO, which would need NAPI, is off.
    On,
    /// Transmit checksum, TSO, GSO and GRO off: packets look as on a wire.
    Off,
}

/// `(name, get, set)` of `linux/ethtool.h`. The transmit checksum comes first: TSO depends on it.
const FEATURES: [(&str, u32, u32); 4] =
    [("tx checksum", 0x16, 0x17), ("tso", 0x1e, 0x1f), ("gso", 0x23, 0x24), ("gro", 0x2b, 0x2c)];

impl Offloads {
    /// The state of transmit checksum, TSO, GSO, GRO, in this order.
    #[must_use]
    pub fn features(self) -> [bool; 4] {
        match self {
            Self::On => [true, true, true, false],
            Self::Off => [false; 4],
        }
    }
}

/// Switches all of them.
pub(crate) fn set(device: &str, offloads: Offloads) -> Result<()> {
    for ((name, _, command), on) in FEATURES.into_iter().zip(offloads.features()) {
        ethtool(device, command, u32::from(on))
            .with_context(|| format!("device {device}: cannot switch {name} {offloads:?}"))?;
    }
    Ok(())
}

/// Reads all of them, in the order of the table.
pub(crate) fn get(device: &str) -> Result<[bool; 4]> {
    let mut on = [false; 4];
    for (on, (name, command, _)) in on.iter_mut().zip(FEATURES) {
        *on =
            ethtool(device, command, 0).with_context(|| format!("device {device}: cannot read {name}"))? != 0;
    }
    Ok(on)
}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

fn ethtool(device: &str, command: u32, data: u32) -> io::Result<u32> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut value = EthtoolValue { command, data };
    let mut name = [0; libc::IFNAMSIZ];
    if device.len() >= name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in name.iter_mut().zip(device.bytes()) {
        *to = from.cast_signed();
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() },
    };
    // SAFETY: SIOCETHTOOL reads the name and reads and writes the value behind ifru_data; both live until the end
    // of this function, and these commands take a struct ethtool_value.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value.data) }
}
