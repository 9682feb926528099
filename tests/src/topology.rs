//! More of the topology, laid on request in a lab that stands: a second uplink, other machines, containers, narrow
//! paths, a link without Ethernet headers, servers on other hosts.
//!
//! ```text
//!                 ┌─ eth1 10.9.0.2 ─ router2 10.9.0.1 ─── 10.8.0.0/24 ───┐
//!   c1 ─ br0 ─ app ─ eth0 10.1.0.2 ─ router 10.1.0.1 ────────────────────┴─ m1, m2 …, machines 10.3.<n>.2
//!                 └─ tun0 10.7.0.2 ─ router 10.7.0.1 (TUN)
//! ```
//!
//! IPv6 is the same with `fd01` for `10.1`. A narrow path is a host between the router and somebody, on whose link to
//! the router only small packets fit: neither end of the path knows.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::PoisonError,
};

use anyhow::{Context, Result};

use crate::{
    Host, Lab, Member, Offloads, Tunnel, VIP_PORT, VIP_V4, VIP_V6,
    network::{self, End},
};

/// An address of each IP version.
pub(crate) type Both = (Ipv4Addr, Ipv6Addr);

/// Where `app`'s uplinks lead: the router by `eth0`, and a second one by `eth1`, once there is one.
pub const GATEWAYS: [Both; 2] = [both(1, 0, 1), both(9, 0, 1)];
/// Names and addresses of `app`'s uplinks.
pub const UPLINKS: [(&str, Both); 2] = [("eth0", both(1, 0, 2)), ("eth1", both(9, 0, 2))];
/// The bridge of `app`'s containers; its address is their gateway.
pub const CONTAINERS: (&str, Both) = ("br0", both(30, 0, 1));

/// Ends of the transfer network between the routers, router first.
const TRANSFER: [Both; 2] = [both(8, 0, 1), both(8, 0, 2)];
/// Ends of the tunnel, router first.
const TUNNEL: [Both; 2] = [both(7, 0, 1), both(7, 0, 2)];

/// `10.<net>.<subnet>.<last>`, `fd<net>:<subnet>::<last>`; the net is decimal in the one and written the same in the
/// other.
pub(crate) const fn both(net: u8, subnet: u8, last: u8) -> Both {
    let digits = (net / 10) as u16 * 16 + (net % 10) as u16;
    let v6 = Ipv6Addr::new(0xfd00 + digits, subnet as u16, 0, 0, 0, 0, 0, last as u16);
    (Ipv4Addr::new(10, net, subnet, last), v6)
}

/// `orders` and `orders6`: the VIPs of both IP versions.
#[must_use]
pub fn first_vips() -> [SocketAddr; 2] {
    [(VIP_V4, VIP_PORT).into(), (VIP_V6, VIP_PORT).into()]
}

/// With the length of the prefix that all networks of the lab have.
fn with_prefix((v4, v6): Both) -> [(IpAddr, u8); 2] {
    [(v4.into(), 24), (v6.into(), 64)]
}

/// A host on a cable of its own to the router, as its `eth0`.
#[derive(Clone, Debug)]
pub(crate) struct Attachment {
    pub(crate) host: Host,
    /// The router's end, and the host's gateway.
    gateway: Both,
    own: Both,
}

impl Lab {
    /// A second router, with which `app` has a second uplink: `eth1`. Nothing is routed there before
    /// [`Lab::route`].
    ///
    /// # Errors
    /// When there is one already.
    pub fn second_uplink(&self) -> Result<Host> {
        let second = self.new_router("router2")?;
        self.lay((&second, "to-app", GATEWAYS[1]), (self.app(), "eth1", UPLINKS[1].1))?;
        self.lay((self.router(), "to-router2", TRANSFER[0]), (&second, "to-router", TRANSFER[1]))?;
        network::default_routes(&second, &addresses(TRANSFER[0]))?;
        route(self.router(), GATEWAYS[1], TRANSFER[1])?;
        Ok(second)
    }

    /// `app` reaches the network of `member` by these uplinks, in place of what was: `&[0]`, `&[1]`, or both with equal
    /// cost (ECMP, by ports too).
    ///
    /// # Errors
    /// When an uplink is not there.
    pub fn route(&self, member: &Member, uplinks: &[usize]) -> Result<()> {
        let app = self.app();
        for family in ["ipv4", "ipv6"] {
            app.sysctl(&format!("net/{family}/fib_multipath_hash_policy"), "1")?;
        }
        let [to4, to6] = prefixes(member_network(member)?);
        let hops = |gateway: &dyn Fn(usize) -> IpAddr| {
            uplinks
                .iter()
                .map(|n| format!(" nexthop via {} dev {}", gateway(*n), UPLINKS[*n].0))
                .collect::<String>()
        };
        app.ip(&format!("route replace {to4}{}", hops(&|n| GATEWAYS[n].0.into())))?;
        app.ip(&format!("-6 route replace {to6}{}", hops(&|n| GATEWAYS[n].1.into()))).map(drop)
    }

    /// A TUN device on `app` (`tun0`) joined to one on the router, with addresses. Nothing is routed there but the
    /// network between them.
    ///
    /// # Errors
    /// Without `/dev/net/tun`.
    pub fn tunnel(&self) -> Result<Tunnel> {
        let tunnel = Tunnel::new((self.router(), "tun-app"), (self.app(), "tun0"))?;
        for (host, device, own) in [(self.router(), "tun-app", TUNNEL[0]), (self.app(), "tun0", TUNNEL[1])] {
            for (address, length) in with_prefix(own) {
                host.ip(&format!("address add {address}/{length} dev {device}"))?;
            }
            host.ip(&format!("link set {device} up"))?;
        }
        Ok(tunnel)
    }

    /// `app` reaches the network of `member` through [`Lab::tunnel`].
    ///
    /// # Errors
    /// When there is no tunnel.
    pub fn route_through_tunnel(&self, member: &Member) -> Result<()> {
        for to in prefixes(member_network(member)?) {
            self.app().ip(&format!("route replace {to} dev tun0"))?;
        }
        Ok(())
    }

    /// Another machine in the router's network: `10.3.<n>.2`, `fd03:<n>::2`.
    ///
    /// # Errors
    /// As [`Host::new`].
    pub fn machine(&self, name: &str) -> Result<Host> {
        let host = self.new_host(name)?;
        let n = u8::try_from(self.attached().len())?;
        self.connect_to_router(&host, both(3, n, 1), both(3, n, 2))?;
        Ok(host)
    }

    /// Other machines reach the VIPs: the router sends them to `app`, which forwards.
    ///
    /// # Errors
    /// When it did so already.
    pub fn vips_through_app(&self) -> Result<()> {
        self.app().forward()?;
        let (gateway4, gateway6) = UPLINKS[0].1;
        self.router().ip(&format!("route add {VIP_V4}/32 via {gateway4}"))?;
        self.router().ip(&format!("route add {VIP_V6}/128 via {gateway6}")).map(drop)
    }

    /// A container of `app`: a host behind its bridge `br0`, with `app` as its gateway, at `10.30.0.<n>`,
    /// `fd30::<n>`, from 2. The members have no route to it.
    ///
    /// # Errors
    /// As [`Host::new`].
    pub fn container(&self, name: &str) -> Result<Host> {
        let (bridge, gateway) = CONTAINERS;
        let (app, host) = (self.app(), self.new_host(name)?);
        if app.ip(&format!("link show dev {bridge}")).is_err() {
            app.forward()?;
            app.ip(&format!("link add {bridge} type bridge"))?;
            for (address, length) in with_prefix(gateway) {
                app.ip(&format!("address add {address}/{length} dev {bridge} nodad"))?;
            }
            app.ip(&format!("link set {bridge} up"))?;
        }
        let ports = app.ip(&format!("-o link show master {bridge}"))?.lines().count();
        let (port, own) = (format!("to-{name}"), both(30, 0, u8::try_from(ports + 2)?));
        network::cable(
            End { host: &host, device: "eth0", addresses: &with_prefix(own) },
            End { host: app, device: &port, addresses: &[] },
        )?;
        app.ip(&format!("link set {port} master {bridge}"))?;
        network::default_routes(&host, &addresses(gateway))?;
        self.apply_offloads(&[(app, &port), (&host, "eth0")])?;
        Ok(host)
    }

    /// `app` gives what leaves its containers for anywhere else an address of its own, as container engines do.
    ///
    /// # Errors
    /// When it did so already.
    pub fn masquerade(&self) -> Result<()> {
        let (bridge, gateway) = CONTAINERS;
        let [from4, from6] = prefixes(gateway);
        self.app()
            .nft(&format!(
                "table inet nat {{ chain postrouting {{ type nat hook postrouting priority srcnat; \
                 oifname != {bridge} ip saddr {from4} masquerade; oifname != {bridge} ip6 saddr {from6} masquerade; }}; }}"
            ))
            .map(drop)
    }

    /// Puts a host between the router and `host` (a member's, or a [`Lab::machine`]); larger packets than `mtu` do not
    /// fit on its link to the router. All other links are as wide as before. Connections of `host` end.
    ///
    /// # Errors
    /// When `host` is not attached to the router.
    pub fn narrow(&self, host: &Host, mtu: u32) -> Result<Host> {
        let attached = self.attached();
        let position = attached.iter().position(|one| one.host.name() == host.name());
        let position = position.with_context(|| format!("host {} is not at the router", host.name()))?;
        let Attachment { gateway, own, .. } = attached[position];
        let n = u8::try_from(position)?;
        let (near, far) = (both(4, n, 1), both(4, n, 2));
        let (to, narrow) = (format!("to-{}", host.name()), self.new_router(&format!("narrow{n}"))?);
        host.ip("link del eth0")?;
        self.lay((self.router(), &to, near), (&narrow, "to-router", far))?;
        self.lay((&narrow, "to-end", gateway), (host, "eth0", own))?;
        self.router().ip(&format!("link set {to} mtu {mtu}"))?;
        narrow.ip(&format!("link set to-router mtu {mtu}"))?;
        network::default_routes(&narrow, &addresses(near))?;
        network::default_routes(host, &addresses(gateway))?;
        route(self.router(), gateway, far)?;
        Ok(narrow)
    }

    /// Starts a server on a host of the lab that has none, as a member of this name at these addresses.
    ///
    /// # Errors
    /// When `redis-server` does not answer.
    pub fn server(&self, host: &Host, name: &str, addresses: (Ipv4Addr, Ipv6Addr)) -> Result<Member> {
        let member = Member::new(name, host.clone(), addresses, self.password().cloned());
        member.start()?;
        Ok(member)
    }

    /// `app`'s `eth0` is replaced: deleted, and made anew with the same name, addresses and routes. Its index is
    /// another one.
    ///
    /// # Errors
    /// When it is not there.
    pub fn replace_uplink(&self) -> Result<()> {
        self.app().ip("link del eth0")?;
        self.lay((self.router(), "to-app", GATEWAYS[0]), (self.app(), "eth0", UPLINKS[0].1))?;
        network::default_routes(self.app(), &addresses(GATEWAYS[0]))
    }

    /// `app`'s `eth0` goes down; with it go all routes over it, and its IPv6 addresses.
    ///
    /// # Errors
    /// When it is not there.
    pub fn uplink_down(&self) -> Result<()> {
        self.app().ip("link set eth0 down").map(drop)
    }

    /// Ends [`Lab::uplink_down`], and gives addresses and default routes back, as a network manager does.
    ///
    /// # Errors
    /// When it was not down.
    pub fn uplink_up(&self) -> Result<()> {
        self.app().ip("link set eth0 up")?;
        self.app().ip(&format!("address replace {}/64 dev eth0 nodad", UPLINKS[0].1.1))?;
        network::default_routes(self.app(), &addresses(GATEWAYS[0]))
    }

    /// Attaches a host to the router, which becomes its gateway.
    pub(crate) fn connect_to_router(&self, host: &Host, gateway: Both, own: Both) -> Result<()> {
        self.lay((self.router(), &format!("to-{}", host.name()), gateway), (host, "eth0", own))?;
        network::default_routes(host, &addresses(gateway))?;
        let mut attached = self.attachments.lock().unwrap_or_else(PoisonError::into_inner);
        attached.push(Attachment { host: host.clone(), gateway, own });
        Ok(())
    }

    /// A host with nothing but loopback that belongs to the lab.
    fn new_host(&self, name: &str) -> Result<Host> {
        let host = Host::new(name)?;
        network::prepare(&host)?;
        self.more.lock().unwrap_or_else(PoisonError::into_inner).push(host.clone());
        Ok(host)
    }

    fn new_router(&self, name: &str) -> Result<Host> {
        let host = self.new_host(name)?;
        network::prepare_router(&host)?;
        Ok(host)
    }

    fn attached(&self) -> Vec<Attachment> {
        self.attachments.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A cable with addresses and the lab's offloads. Both devices are made on the first host: their names must be
    /// free there.
    fn lay(&self, one: (&Host, &str, Both), other: (&Host, &str, Both)) -> Result<()> {
        let end = |(host, device, _), addresses| End { host, device, addresses };
        network::cable(end(one, &with_prefix(one.2)), end(other, &with_prefix(other.2)))?;
        self.apply_offloads(&[(one.0, one.1), (other.0, other.1)])
    }

    fn apply_offloads(&self, devices: &[(&Host, &str)]) -> Result<()> {
        if self.offloads() == Offloads::Off {
            for (host, device) in devices {
                host.set_offloads(device, Offloads::Off)?;
            }
        }
        Ok(())
    }
}

fn addresses((v4, v6): Both) -> [IpAddr; 2] {
    [v4.into(), v6.into()]
}

/// The networks that an address of the lab is in, as `ip` writes them.
fn prefixes((v4, v6): Both) -> [String; 2] {
    let [a, b, c, _] = v4.octets();
    let [d, e, ..] = v6.segments();
    [format!("{a}.{b}.{c}.0/24"), format!("{d:x}:{e:x}::/64")]
}

fn member_network(member: &Member) -> Result<Both> {
    let [IpAddr::V4(v4), IpAddr::V6(v6)] = member.addresses() else {
        anyhow::bail!("member {}: not an address of each IP version", member.name())
    };
    Ok((v4, v6))
}

/// `host` sends packets for the networks of `to` to its neighbour `via`.
fn route(host: &Host, to: Both, via: Both) -> Result<()> {
    for (to, via) in prefixes(to).iter().zip(addresses(via)) {
        host.ip(&format!("route add {to} via {via}"))?;
    }
    Ok(())
}
