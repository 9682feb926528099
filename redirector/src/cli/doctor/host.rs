//! Rows about settings of this host: pins, ports, reverse paths, forwarding, netfilter.

use std::path::Path;

use super::row::{Area, Row};
use crate::{
    datapath::{
        self,
        doctor::{kernel, netfilter::Masquerade, routes},
    },
    model::{Datapath, PortRange},
};

/// Settings, as they are when this is called.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// `rp_filter` of `all`, then of the devices that are there.
    pub(super) rp_filter: Vec<(String, i64)>,
    /// `ip_forward`; `None`: not to be read.
    pub(super) forwards_v4: Option<i64>,
    /// `forwarding` of IPv6; `None`: a host without IPv6.
    pub(super) forwards_v6: Option<i64>,
    /// `bridge-nf-call-iptables`; `None`: the bridge filter is not loaded.
    pub(super) bridges_pass_netfilter: Option<i64>,
    /// Ports that this host gives its own connections.
    pub(super) local_ports: Option<(u16, u16)>,
}

impl Settings {
    /// Reads them; `devices` are the VIP device and the uplinks.
    pub(super) fn read<'a>(devices: impl IntoIterator<Item = &'a str>) -> Self {
        let of = |device: &str| {
            let value = routes::setting(&format!("ipv4/conf/{device}/rp_filter"))?;
            Some((device.to_owned(), value))
        };
        Self {
            rp_filter: ["all"].into_iter().chain(devices).filter_map(of).collect(),
            forwards_v4: routes::setting("ipv4/ip_forward"),
            forwards_v6: routes::setting("ipv6/conf/all/forwarding"),
            bridges_pass_netfilter: routes::setting("bridge/bridge-nf-call-iptables"),
            local_ports: routes::port_range("ipv4/ip_local_port_range"),
        }
    }
}

/// All of them. `masquerades` is `None` where nobody can tell.
pub(super) fn rows(datapath: &Datapath, settings: &Settings, masquerades: Option<&[Masquerade]>) -> Vec<Row> {
    let ports = datapath::check_ports(datapath.port_range).err().map(|error| format!("{error:#}"));
    let mut rows = vec![
        bpffs(&datapath.pin_dir, kernel::refuses_pins(&datapath.pin_dir)),
        port_range(datapath.port_range, settings.local_ports, ports),
    ];
    let all = settings.rp_filter.iter().find(|(device, _)| device == "all").map_or(0, |(_, value)| *value);
    rows.extend(settings.rp_filter.iter().map(|(device, value)| rp_filter(device, *value, all)));
    rows.extend(settings.forwards_v4.map(|value| forwarding("ip_forward", "net.ipv4.ip_forward", value)));
    rows.extend(
        settings
            .forwards_v6
            .map(|value| forwarding("ipv6_forwarding", "net.ipv6.conf.all.forwarding", value)),
    );
    rows.extend(settings.bridges_pass_netfilter.map(bridge_netfilter));
    rows.extend(masquerades.map(masquerade));
    rows
}

fn bpffs(pin_dir: &Path, refused: Option<String>) -> Row {
    let found = pin_dir.display().to_string();
    match refused {
        None => Row::good(Area::Host, "bpffs", found),
        Some(sentence) => Row::bad(Area::Host, "bpffs", found, sentence),
    }
}

fn port_range(range: PortRange, local: Option<(u16, u16)>, refused: Option<String>) -> Row {
    let PortRange { first, last } = range;
    let local =
        local.map_or_else(String::new, |(first, last)| format!("; the host's own are {first}-{last}"));
    let found = format!("{first}-{last} for flows{local}");
    match refused {
        None => Row::good(Area::Host, "port_range", found),
        Some(sentence) => Row::bad(Area::Host, "port_range", found, sentence),
    }
}

/// Good, whatever it is: replies come in by the VIP device, where the VIP is routed to. The kernel takes the larger one
/// of `all` and of the device.
fn rp_filter(device: &str, value: i64, all: i64) -> Row {
    let meaning = match value.max(all) {
        0 => "off",
        1 => "strict",
        2 => "loose",
        _ => "not known",
    };
    let found = match device {
        "all" => format!("{value} ({meaning})"),
        _ => format!("{value} ({meaning}): replies come in by the VIP device, so every value is fine"),
    };
    Row::good(Area::Host, "rp_filter", found).about(device)
}

fn forwarding(check: &'static str, name: &str, value: i64) -> Row {
    if value != 0 {
        return Row::good(Area::Host, check, format!("{value}: containers and other machines may use VIPs"));
    }
    let next = format!(
        "nothing for processes of this host; containers with a network of their own and other machines reach no VIP \
         through this host without it (sysctl -w {name}=1)"
    );
    Row::note(Area::Host, check, "0", next)
}

/// Bridged frames pass the rules of the firewall as routed packets do. What they do to packets to a VIP, [`masquerade`]
/// says.
fn bridge_netfilter(value: i64) -> Row {
    let found = match value {
        0 => "0: bridged frames do not pass the firewall",
        _ => "1: bridged frames pass the firewall; fine",
    };
    Row::good(Area::Host, "bridge_nf_call_iptables", found)
}

/// A rule on reverse paths (`fib saddr . iif`) is fine, for the same reason as `rp_filter`, and is not looked for.
fn masquerade(rules: &[Masquerade]) -> Row {
    if rules.is_empty() {
        return Row::good(Area::Host, "masquerade", "no rule of nftables for the VIP device");
    }
    let chains: Vec<_> =
        rules.iter().map(|rule| format!("{} {} {}", rule.family, rule.table, rule.chain)).collect();
    Row::note(
        Area::Host,
        "masquerade",
        format!("rules that may translate packets to VIPs: {}", chains.join(", ")),
        "nothing: flows are translated after them, and replies before; but all clients behind such a rule look \
         like this host",
    )
}

#[cfg(test)]
mod tests {
    use super::{
        super::row::Verdict::{Bad, Good, Note},
        *,
    };

    #[test]
    fn every_reverse_path_filter_is_fine_and_shown() {
        for (value, all, meaning) in [(0, 0, "0 (off)"), (0, 1, "0 (strict)"), (2, 1, "2 (loose)")] {
            let row = rp_filter("eth0", value, all);
            assert!(row.verdict == Good && row.found.starts_with(meaning), "{row:?}");
        }
    }

    #[test]
    fn no_forwarding_is_a_note_with_the_setting() {
        let row = forwarding("ip_forward", "net.ipv4.ip_forward", 0);
        assert_eq!(row.verdict, Note);
        assert!(row.next.unwrap().contains("sysctl -w net.ipv4.ip_forward=1"));
        assert_eq!(forwarding("ip_forward", "net.ipv4.ip_forward", 1).verdict, Good);
    }

    #[test]
    fn refusals_are_bad_in_their_own_words() {
        let range = PortRange { first: 10_000, last: 32_767 };
        let row = port_range(range, Some((1024, 65_535)), Some("overlaps".into()));
        assert_eq!((row.verdict, row.next.as_deref()), (Bad, Some("overlaps")));
        assert_eq!(row.found, "10000-32767 for flows; the host's own are 1024-65535");
        let row = bpffs(Path::new("/tmp/pins"), Some("no BPF file system".into()));
        assert_eq!((row.verdict, row.next.as_deref()), (Bad, Some("no BPF file system")));
    }

    #[test]
    fn a_rule_that_masquerades_is_a_note() {
        assert_eq!(masquerade(&[]).verdict, Good);
        let rule = |chain: &str| Masquerade { family: "ip".into(), table: "nat".into(), chain: chain.into() };
        let row = masquerade(&[rule("POSTROUTING"), rule("other")]);
        assert!(row.verdict == Note && row.found.ends_with("ip nat POSTROUTING, ip nat other"), "{row:?}");
    }
}
