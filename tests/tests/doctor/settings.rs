//! Settings, routes and places that a host can have wrong.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use redirector_tests::{Host, netlink};
use rtnetlink::{
    LinkUnspec, RouteMessageBuilder,
    packet_route::route::{RouteAttribute, RouteScope, RouteType},
};

use super::{DEGRADED, DONE, FAILED, START, Visit, scenario};

#[test]
fn no_forwarding_is_a_note() {
    scenario().run(|lab| {
        let rows =
            [("ip_forward", "net/ipv4/ip_forward"), ("ipv6_forwarding", "net/ipv6/conf/all/forwarding")];
        for (check, setting) in rows {
            let without = Visit::new(lab).diagnose()?;
            without.says(check, None, "note", &["containers", &setting.replace('/', ".")])?;
            without.exits(DONE)?;
            lab.app().sysctl(setting, "1")?;
            Visit::new(lab).diagnose()?.says(check, None, "good", &["containers"])?;
        }
        Ok(())
    });
}

/// With each value the host carries connections (`tests/networks`); here it is shown.
#[test]
fn every_rp_filter_is_shown_and_good() {
    scenario().run(|lab| {
        lab.app().sysctl("net/ipv4/conf/all/rp_filter", "0")?;
        for (value, meaning) in [("0", "0 (off)"), ("1", "1 (strict)"), ("2", "2 (loose)")] {
            lab.app().sysctl("net/ipv4/conf/eth0/rp_filter", value)?;
            let diagnosis = Visit::new(lab).diagnose()?;
            diagnosis.says("rp_filter", Some("eth0"), "good", &[meaning, "come in by the VIP device"])?;
            diagnosis.exits(DONE)?;
        }
        Ok(())
    });
}

#[test]
fn ports_that_overlap_are_refused_as_check_refuses_them() {
    scenario().run(|lab| {
        lab.app().sysctl("net/ipv4/ip_local_port_range", "20000 60999")?;
        let diagnosis = Visit::new(lab).diagnose()?;
        diagnosis.exits(FAILED)?;
        diagnosis.says("port_range", None, "bad", &["20000-60999", "ip_local_reserved_ports"])?;
        as_check_says(&Visit::new(lab), diagnosis.row("port_range", None)?["next"].as_str())?;
        lab.app().sysctl("net/ipv4/ip_local_reserved_ports", "10000-32767")?;
        Visit::new(lab).diagnose()?.exits(DONE)
    });
}

/// `doctor` and `check` have the same words for it.
fn as_check_says(visit: &Visit<'_>, next: Option<&str>) -> Result<()> {
    let next = next.context("there is nothing to do")?;
    let (_, _, refusal) = visit.verb(&["check"])?;
    ensure!(refusal.contains(next), "{next:?} is not what check says: {refusal}");
    Ok(())
}

#[test]
fn a_place_that_cannot_hold_pins_is_refused() {
    scenario().run(|lab| {
        let pins = lab.config().pin_dir().display().to_string();
        let diagnosis = Visit::new(lab).replace(&pins, "/tmp/redirector-pins").diagnose()?;
        diagnosis.exits(FAILED)?;
        diagnosis.says("bpffs", None, "bad", &["/tmp/redirector-pins", "mount -t bpf"])?;
        ensure!(!std::path::Path::new("/tmp/redirector-pins").exists(), "it was made");
        Ok(())
    });
}

#[derive(Clone, Copy)]
enum Leads {
    Nowhere,
    To(&'static str),
}

/// A route to the first member alone.
fn route_to_m1(host: &Host, leads: Leads) -> Result<()> {
    netlink(host, |handle| async move {
        let member = [10, 2, 1, 2].into();
        let mut route =
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().destination_prefix(member, 32).build();
        match leads {
            Leads::Nowhere => route.header.kind = RouteType::Unreachable,
            Leads::To(device) => {
                let mut found = Box::pin(handle.link().get().match_name(device.to_owned()).execute());
                let link = tokio_stream::StreamExt::try_next(&mut found).await?.context("no such device")?;
                route.attributes.push(RouteAttribute::Oif(link.header.index));
                route.header.scope = RouteScope::Link;
            }
        }
        Ok(handle.route().add(route).execute().await?)
    })
}

#[test]
fn a_member_without_a_route_is_a_warning() {
    scenario().run(|lab| {
        route_to_m1(lab.app(), Leads::Nowhere)?;
        let diagnosis = Visit::new(lab).diagnose()?;
        diagnosis.exits(DEGRADED)?;
        diagnosis.says("route", Some("m1 10.2.1.2:6379"), "warning", &["no route", "ip route"])
    });
}

/// Its packets would come back to the program that sent them.
#[test]
fn a_route_through_the_vip_device_is_a_circle() {
    scenario().run(|lab| {
        let agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        route_to_m1(lab.app(), Leads::To("redirector0"))?;
        let diagnosis = Visit::new(lab).diagnose()?;
        diagnosis.says(
            "route",
            Some("m1 10.2.1.2:6379"),
            "bad",
            &["by redirector0", "circle", "ip route"],
        )?;
        diagnosis.exits(FAILED)
    });
}

#[test]
fn a_vip_that_is_an_own_address_or_among_neighbours_is_named() {
    scenario().run(|lab| {
        let own = Visit::new(lab).replace("10.255.0.1:6379", "10.1.0.2:6379").diagnose()?;
        own.exits(FAILED)?;
        own.says("misfit", Some("service \"orders\""), "bad", &["10.1.0.2:6379 is an address of this host"])?;
        let near = Visit::new(lab).replace("10.255.0.1:6379", "10.1.0.77:6379").diagnose()?;
        near.exits(DONE)?;
        near.says("vip", Some("orders 10.1.0.77:6379"), "note", &["/24 of eth0", "ARP"])
    });
}

#[test]
fn a_name_is_timed_and_one_that_does_not_resolve_is_refused_as_check_refuses_it() {
    scenario().run(|lab| {
        let mut names = lab.name_server()?;
        names.set("paris.test", &[lab.member("m1").v4().ip()])?;
        let with = |name: &str| Visit::new(lab).replace("\"10.2.1.2:6379\"", &format!("\"{name}:6379\""));
        let diagnosis = with("paris.test").diagnose()?;
        diagnosis.exits(DONE)?;
        diagnosis.says("names", None, "good", &["1 resolved in"])?;
        diagnosis.says("route", Some("m1 10.2.1.2:6379"), "good", &[])?;

        let visit = with("nosuch.test");
        let diagnosis = visit.diagnose()?;
        diagnosis.exits(FAILED)?;
        let subject = "member \"m1\" of service \"orders\"";
        diagnosis.says("endpoint", Some(subject), "bad", &["nosuch.test", "does not resolve"])?;
        as_check_says(&visit, diagnosis.row("endpoint", None)?["next"].as_str())
    });
}

#[test]
fn a_small_mtu_is_noted() {
    scenario().run(|lab| {
        netlink(lab.app(), |handle| async move {
            let link = LinkUnspec::new_with_name("eth0").mtu(1300).build();
            Ok(handle.link().set(link).execute().await?)
        })?;
        let diagnosis = Visit::new(lab).diagnose()?;
        diagnosis.exits(DONE)?;
        diagnosis.says(
            "mtu",
            None,
            "note",
            &["1300 to every member", "every VIP route carries the smallest"],
        )?;
        diagnosis.says("route", Some("m1 10.2.1.2:6379"), "good", &["MTU 1300"])
    });
}

/// As Docker makes it: everything that does not leave by the bridge.
#[test]
fn a_rule_that_masquerades_is_noted() {
    const RULES: &str = "add table ip nat\n\
                         add chain ip nat POSTROUTING { type nat hook postrouting priority 100 ; }\n\
                         add rule ip nat POSTROUTING ip saddr 172.17.0.0/16 oifname != \"docker0\" masquerade";
    if Command::new("nft").arg("--version").output().is_err() {
        eprintln!("skipped: there is no nft on this machine");
        return;
    }
    scenario().run(|lab| {
        Visit::new(lab).diagnose()?.says("masquerade", None, "good", &[])?;
        let mut nft = lab.app().command("nft");
        nft.arg(RULES);
        let output = lab.app().output(nft)?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let diagnosis = Visit::new(lab).diagnose()?;
        diagnosis.says("masquerade", None, "note", &["ip nat POSTROUTING"])?;
        diagnosis.exits(DONE)
    });
}
