//! The VIP device: made, kept as it must be, removed.
//!
//! It is one end of a veth pair without ARP: whatever the host routes to a VIP leaves its stack there, and the program
//! on its egress takes it from there. What the program leaves alone ends at the peer.

use std::{fs, io::ErrorKind};

use anyhow::{Context as _, Result, anyhow, bail};
use rtnetlink::{
    LinkUnspec, LinkVeth,
    packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};

use super::{Link, Network};

/// The Ethernet address of the VIP device. Nothing but this host ever sees it. Given when the device is made, because
/// udev changes an address that the kernel chose, a moment later (`MACAddressPolicy=persistent`): then replies would
/// carry the old one, and the stack would take them for somebody else's.
const ETHERNET_ADDRESS: [u8; 6] = [0x02, b'R', b'D', b'I', b'R', 0x01];

/// The largest MTU of a veth. What counts is the MTU of the VIP's route.
const DEVICE_MTU: u32 = 65535;

/// The VIP device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Interface index.
    pub index: u32,
    /// Ethernet address.
    pub mac: [u8; 6],
}

/// The VIP device, and what was not as it must be.
#[derive(Debug)]
pub struct Ensured {
    /// As it is now.
    pub device: Device,
    /// What had to be done to it, in words; empty: nothing.
    pub done: Vec<String>,
}

impl Network {
    /// The VIP device, made if it is not there, and changed only where it is not as it must be. One that an earlier agent
    /// left is taken over. `localnet`: it leads to members in 127.0.0.0/8 too.
    pub async fn ensure_device(&self, name: &str, localnet: bool) -> Result<Ensured> {
        let mut done = Vec::new();
        let peer_name = peer_of(name);
        self.refuse_foreign_device(name).await?;
        if self.remove_torn(name).await? {
            done.push(format!("had lost its other end {peer_name}: removed"));
        }
        if self.link(name).await?.is_none() {
            self.make_pair(name, &peer_name).await?;
            done.push("was not there: made anew".into());
        }
        let Some((link, peer)) = self.pair(name).await? else {
            // Somebody was faster.
            return Err(foreign(name));
        };
        // The addresses of a device that is not up yet are given by this.
        for end in [name, &peer_name] {
            done.extend(quieten(end)?);
        }
        let address = (address_of(&link) != Some(ETHERNET_ADDRESS)).then_some(ETHERNET_ADDRESS);
        for (name, link, address) in [(name, &link, address), (&*peer_name, &peer, None)] {
            let differs = deviations(link, address.is_some());
            if !differs.is_empty() {
                self.set_up(link.header.index, address).await?;
                done.push(format!("{name} was {}: set right", differs.join(", ")));
            }
        }
        // The routing table is asked for the way to a member as if packets came in by this device. It answers only
        // if forwarding is on for it; the host does not become a router.
        done.extend(set(&format!("net/ipv4/conf/{name}/forwarding"), "1")?);
        if localnet {
            // Nothing enters there but what the programs redirect.
            done.extend(set(&format!("net/ipv4/conf/{name}/route_localnet"), "1")?);
        }
        Ok(Ensured { device: Device { index: link.header.index, mac: ETHERNET_ADDRESS }, done })
    }

    /// Refuses a name that a device of somebody else has, or the other end's name.
    pub async fn refuse_foreign_device(&self, name: &str) -> Result<()> {
        if self.pair(name).await?.is_some() {
            return Ok(());
        }
        if self.link(name).await?.is_some() && self.torn(name).await?.is_none() {
            return Err(foreign(name));
        }
        let peer_name = peer_of(name);
        if self.link(&peer_name).await?.is_some() {
            bail!(
                "there is a device {peer_name}, the name that the other end of {name} shall have; choose another \
                 name in [datapath] device, or remove it (`ip link del {peer_name}`)"
            );
        }
        Ok(())
    }

    async fn make_pair(&self, name: &str, peer_name: &str) -> Result<()> {
        let pair = LinkVeth::new(name, peer_name).address(ETHERNET_ADDRESS.to_vec()).build();
        self.handle.link().add(pair).execute().await.map_err(|error| {
            anyhow!("cannot make the veth pair {name} and {peer_name}: {error}; {}", hint(&error))
        })
    }

    async fn set_up(&self, index: u32, address: Option<[u8; 6]>) -> Result<()> {
        let link = LinkUnspec::new_with_index(index).mtu(DEVICE_MTU).arp(false).multicast(false).up();
        let link = match address {
            Some(address) => link.address(address.to_vec()),
            None => link,
        };
        let set = self.handle.link().set(link.build()).execute().await;
        set.with_context(|| format!("cannot set up the device with index {index}"))
    }

    /// A VIP device whose other end was renamed or moved to another network namespace, by its index. By its Ethernet address it
    /// is known as Redirector's.
    async fn torn(&self, name: &str) -> Result<Option<u32>> {
        let Some(link) = self.link(name).await? else { return Ok(None) };
        let is_torn = self.pair(name).await?.is_none();
        let is_ours = is_veth(&link) && address_of(&link) == Some(ETHERNET_ADDRESS);
        Ok((is_torn && is_ours).then_some(link.header.index))
    }

    /// Removes such a device. Whether there was one.
    async fn remove_torn(&self, name: &str) -> Result<bool> {
        let Some(index) = self.torn(name).await? else { return Ok(false) };
        let removed = self.handle.link().del(index).execute().await;
        removed.with_context(|| format!("cannot remove the VIP device {name}"))?;
        Ok(true)
    }

    /// Removes the VIP device, and with it the routes that lead to it. Nothing to remove is no error.
    pub async fn remove_device(&self, name: &str) -> Result<()> {
        self.remove_torn(name).await?;
        let Some((link, _)) = self.pair(name).await? else { return Ok(()) };
        self.handle
            .link()
            .del(link.header.index)
            .execute()
            .await
            .with_context(|| format!("cannot remove the device {name}"))
    }

    /// Whether there is a device with this name.
    pub async fn has_device(&self, name: &str) -> Result<bool> {
        Ok(self.link(name).await?.is_some())
    }

    /// The two ends of a VIP device; `None`: there is none, or it is somebody else's.
    async fn pair(&self, name: &str) -> Result<Option<(LinkMessage, LinkMessage)>> {
        let (Some(link), Some(peer)) = (self.link(name).await?, self.link(&peer_of(name)).await?) else {
            return Ok(None);
        };
        let leads_to_peer = link
            .attributes
            .iter()
            .any(|attribute| matches!(attribute, LinkAttribute::Link(index) if *index == peer.header.index));
        Ok((is_veth(&link) && leads_to_peer).then_some((link, peer)))
    }
}

fn foreign(name: &str) -> anyhow::Error {
    let peer_name = peer_of(name);
    anyhow!(
        "there is a device {name} that is no veth pair with {peer_name}, so it is not Redirector's; choose another name in \
         [datapath] device, or remove it (`ip link del {name}`)"
    )
}

/// What is not as it must be, in words.
fn deviations(link: &LinkMessage, other_address: bool) -> Vec<&'static str> {
    let flags = link.header.flags;
    let mtu = Link::from(link.clone()).mtu;
    let all = [
        (!flags.contains(LinkFlags::Up), "down"),
        (!flags.contains(LinkFlags::Noarp), "with ARP"),
        (flags.contains(LinkFlags::Multicast), "with multicast"),
        (mtu != DEVICE_MTU, "of another MTU"),
        (other_address, "of another Ethernet address"),
    ];
    all.into_iter().filter(|(differs, _)| *differs).map(|(_, what)| what).collect()
}

/// The other end of the VIP device.
fn peer_of(name: &str) -> String {
    format!("{name}-p")
}

fn is_veth(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => {
            infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)))
        }
        _ => false,
    })
}

fn address_of(link: &LinkMessage) -> Option<[u8; 6]> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(mac) => mac.as_slice().try_into().ok(),
        _ => None,
    })
}

/// The next step after the kernel refused a device.
fn hint(error: &rtnetlink::Error) -> &'static str {
    match error {
        rtnetlink::Error::NetlinkError(error) if -error.raw_code() == libc::EOPNOTSUPP => {
            "load the kernel module veth (CONFIG_VETH)"
        }
        _ => "look at the kernel's log (`dmesg`)",
    }
}

/// No addresses, no router solicitations: nothing but VIP traffic shall pass the device.
fn quieten(device: &str) -> Result<Vec<String>> {
    let mut done = Vec::new();
    for (name, value) in [("addr_gen_mode", "1"), ("accept_ra", "0"), ("forwarding", "1")] {
        match set(&format!("net/ipv6/conf/{device}/{name}"), value) {
            // A host without IPv6.
            Err(error)
                if error
                    .downcast_ref::<std::io::Error>()
                    .is_some_and(|error| error.kind() == ErrorKind::NotFound) => {}
            other => done.extend(other?),
        }
    }
    Ok(done)
}

/// Gives a kernel setting a value that it does not have; says so if there was something to do.
fn set(name: &str, value: &str) -> Result<Option<String>> {
    let path = format!("/proc/sys/{name}");
    let found = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    if found.trim() == value {
        return Ok(None);
    }
    fs::write(&path, value).with_context(|| format!("cannot write {value} to {path}"))?;
    Ok(Some(format!("{name} was {}: set to {value}", found.trim())))
}
