//! Rows about a configuration on this host: names, whether it fits, the way to each member, MTU, VIPs.

use std::{net::SocketAddr, time::Duration};

use super::row::{Area, Row};
use crate::{
    config::Error,
    datapath::doctor::{Subnet, Way},
    model::Config,
};

/// How long the resolver took for all names of endpoints, which are asked for at the same time. Addresses are no names:
/// `None` where there is nothing else. One that does not resolve is among the [`faults`].
pub(super) fn names(config: &Config, took: Duration) -> Option<Row> {
    /// A start waits for it.
    const SLOW: Duration = Duration::from_millis(500);
    let endpoints =
        config.services.iter().flat_map(|service| &service.members).map(|member| &member.endpoint);
    let names = endpoints.filter(|endpoint| endpoint.literal().is_none()).count();
    let found = format!("{names} resolved in {:.1} ms", took.as_secs_f64() * 1e3);
    match names {
        0 => None,
        _ if took < SLOW => Some(Row::good(Area::Configuration, "names", found)),
        _ => Some(Row::note(
            Area::Configuration,
            "names",
            found,
            "a start waits as long: look at /etc/resolv.conf and its servers, or give addresses as endpoints",
        )),
    }
}

/// What `run` refuses the configuration for, in the same words.
pub(super) fn faults(check: &'static str, error: &Error) -> Vec<Row> {
    let row = |fault: &crate::config::Fault| {
        let row = Row::bad(Area::Configuration, check, fault.cause(), fault.to_string());
        if fault.subject().is_empty() { row } else { row.about(fault.subject()) }
    };
    error.faults().iter().map(row).collect()
}

/// The way to each address of each member.
pub(super) fn members(config: &Config, ways: &[Way]) -> Vec<Row> {
    ways.iter().map(|way| member(config, way)).collect()
}

fn member(config: &Config, way: &Way) -> Row {
    let (vip_device, uplinks) = (&config.datapath.device, &config.datapath.uplinks);
    let name = &config.services[way.service.0].members[way.member.0].name;
    let row = |row: Row| row.about(format!("{name} {}", way.address));
    let Some(route) = &way.route else {
        return row(Row::warning(
            Area::Configuration,
            "route",
            "no route",
            format!(
                "nothing reaches it, neither checks nor flows; `ip route add {} ...`, or correct the endpoint",
                way.address.ip()
            ),
        ));
    };
    if route.local {
        return row(Row::good(Area::Configuration, "route", "an address of this host itself"));
    }
    let (devices, sources): (_, Vec<_>) =
        (route.devices.join(", "), route.sources.iter().map(ToString::to_string).collect());
    let source = if sources.is_empty() { "none".to_owned() } else { sources.join(", ") };
    let found = format!("by {devices}, source {source}, MTU {}", route.mtu);
    if route.devices.contains(vip_device) {
        let next = format!(
            "packets to it would go round in a circle; remove that route (`ip route get {}` shows it)",
            way.address.ip()
        );
        return row(Row::bad(Area::Configuration, "route", found, next));
    }
    if !uplinks.is_empty()
        && let Some(device) = route.devices.iter().find(|device| !uplinks.contains(device))
    {
        let next = format!(
            "what comes back by {device} is not translated; add it to `uplinks` in [datapath], or leave `uplinks` out"
        );
        return row(Row::warning(Area::Configuration, "route", found, next));
    }
    if sources.is_empty() {
        let next =
            format!("{devices} has no address that flows could come from; give it one (`ip address add`)");
        return row(Row::warning(Area::Configuration, "route", found, next));
    }
    row(Row::good(Area::Configuration, "route", found))
}

/// The smallest MTU to any member is that of every VIP.
pub(super) fn mtu(config: &Config, ways: &[Way]) -> Option<Row> {
    /// Of Ethernet.
    const USUAL: u32 = 1500;
    let remote =
        || ways.iter().filter_map(|way| Some((way, way.route.as_ref().filter(|route| !route.local)?.mtu)));
    let (narrowest, smallest) = remote().min_by_key(|(_, mtu)| *mtu)?;
    let largest = remote().map(|(_, mtu)| mtu).max()?;
    if smallest == largest && smallest >= USUAL {
        return Some(Row::good(Area::Configuration, "mtu", format!("{smallest} to every member")));
    }
    let name = &config.services[narrowest.service.0].members[narrowest.member.0].name;
    let found = if smallest == largest {
        format!("{smallest} to every member")
    } else {
        format!("{smallest} to {name}, up to {largest} to others")
    };
    let next = format!(
        "every VIP route carries the smallest, {smallest}; if the path is not that narrow, set the MTU of the device or \
         of the route"
    );
    Some(Row::note(Area::Configuration, "mtu", found, next))
}

/// VIPs that lie among the neighbours of this host.
pub(super) fn vips(config: &Config, subnets: &[Subnet]) -> Vec<Row> {
    let mut rows = Vec::new();
    for service in &config.services {
        for vip in &service.vips {
            let subnet = subnets
                .iter()
                .find(|subnet| subnet.device != config.datapath.device && subnet.contains(vip.ip()));
            rows.push(match subnet {
                None => Row::good(Area::Configuration, "vip", "in no subnet of this host"),
                Some(Subnet { device, address, prefix }) => Row::note(
                    Area::Configuration,
                    "vip",
                    format!("in the subnet {address}/{prefix} of {device}"),
                    format!(
                        "fine for this host; other machines there look for {} by ARP or neighbour discovery, and nobody \
                         answers: route it to this host on them, or choose an address outside",
                        vip.ip()
                    ),
                ),
            }.about(vip_subject(&service.name, *vip)));
        }
    }
    rows
}

fn vip_subject(service: &str, vip: SocketAddr) -> String {
    format!("{service} {vip}")
}

/// The devices that lead to members, each once, in their order; those that the configuration names, if it does.
pub(super) fn uplinks(config: &Config, ways: &[Way]) -> Vec<String> {
    if !config.datapath.uplinks.is_empty() {
        return config.datapath.uplinks.clone();
    }
    let mut found = Vec::new();
    let remote = ways.iter().filter_map(|way| way.route.as_ref()).filter(|route| !route.local);
    for device in remote.flat_map(|route| &route.devices) {
        if !found.contains(device) && *device != config.datapath.device {
            found.push(device.clone());
        }
    }
    found
}

/// A way for tests.
#[cfg(test)]
fn way(address: &str, device: &str, mtu: u32) -> Way {
    use crate::{
        datapath::doctor::Reached,
        model::{MemberId, ServiceId},
    };
    let sources = vec!["10.1.0.2".parse().unwrap()];
    Way {
        service: ServiceId(0),
        member: MemberId(0),
        address: address.parse().unwrap(),
        route: Some(Reached { devices: vec![device.into()], sources, mtu, local: false }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{
        super::row::Verdict::{Bad, Good, Note, Warning},
        *,
    };
    use crate::config;

    fn config(datapath: &str) -> Config {
        let text = format!(
            "[datapath]\n{datapath}\n[[service]]\nname = \"orders\"\nvips = [\"10.255.0.1:6379\"]\n\
             [[service.member]]\nname = \"paris\"\nendpoint = \"10.2.1.2:6379\"\nweight = 1\n"
        );
        config::parse(Path::new("test.toml"), &text).unwrap().config
    }

    #[test]
    fn a_way_is_good_unless_it_leads_nowhere_or_in_a_circle() {
        let config = config("uplinks = [\"eth0\"]");
        let usual = way("10.2.1.2:6379", "eth0", 1500);
        let row = member(&config, &usual);
        assert_eq!((row.verdict, row.found.as_str()), (Good, "by eth0, source 10.1.0.2, MTU 1500"));
        assert_eq!(row.subject.as_deref(), Some("paris 10.2.1.2:6379"));

        let nowhere = Way { route: None, ..usual.clone() };
        assert_eq!(member(&config, &nowhere).verdict, Warning);
        assert_eq!(member(&config, &way("10.2.1.2:6379", "redirector0", 1500)).verdict, Bad);
        let row = member(&config, &way("10.2.1.2:6379", "eth1", 1500));
        assert!(row.verdict == Warning && row.next.unwrap().contains("eth1"));
        let mut no_source = usual.clone();
        no_source.route.as_mut().unwrap().sources.clear();
        assert_eq!(member(&config, &no_source).verdict, Warning);
        let mut own = way("127.0.0.1:6379", "lo", 65_536);
        own.route.as_mut().unwrap().local = true;
        assert_eq!(member(&config, &own).verdict, Good);
    }

    #[test]
    fn uplinks_are_those_that_lead_to_members_unless_they_are_named() {
        let ways = [
            way("10.2.1.2:1", "eth1", 1500),
            way("10.2.1.3:1", "eth0", 1500),
            way("10.2.1.4:1", "eth1", 1500),
        ];
        assert_eq!(uplinks(&config(""), &ways), ["eth1", "eth0"]);
        assert_eq!(uplinks(&config("uplinks = [\"bond0\"]"), &ways), ["bond0"]);
    }

    #[test]
    fn an_mtu_below_the_usual_or_below_others_is_noted() {
        let config = config("");
        let of = |mtus: &[u32]| {
            let ways: Vec<_> = mtus.iter().map(|mtu| way("10.2.1.2:6379", "eth0", *mtu)).collect();
            mtu(&config, &ways).map(|row| (row.verdict, row.found))
        };
        assert_eq!(of(&[1500, 1500]), Some((Good, "1500 to every member".into())));
        assert_eq!(of(&[1300, 1300]), Some((Note, "1300 to every member".into())));
        assert_eq!(of(&[9000, 1500]), Some((Note, "1500 to paris, up to 9000 to others".into())));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_vip_among_neighbours_is_noted() {
        let subnet = |device: &str| Subnet {
            device: device.into(),
            address: "10.255.0.7".parse().unwrap(),
            prefix: 24,
        };
        assert_eq!(vips(&config(""), &[subnet("eth0")])[0].verdict, Note);
        assert_eq!(vips(&config(""), &[subnet("redirector0")])[0].verdict, Good);
    }

    #[test]
    fn a_slow_resolver_is_noted() {
        let of = |config: &Config, took| names(config, Duration::from_millis(took)).map(|row| row.verdict);
        let mut config = config("");
        assert_eq!(of(&config, 900), None, "an address is no name");
        config.services[0].members[0].endpoint.host = "db.example".into();
        assert_eq!((of(&config, 2), of(&config, 900)), (Some(Good), Some(Note)));
        assert_eq!(names(&config, Duration::from_millis(2)).unwrap().found, "1 resolved in 2.0 ms");
    }
}
