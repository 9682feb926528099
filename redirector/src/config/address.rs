//! VIPs, endpoints and names: what a single one must look like.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::error::Complaint;
use crate::model::{Endpoint, LONGEST_NAME, may_be_in_a_name};

/// RFC 1035, section 2.3.4, as text.
const LONGEST_HOST: usize = 253;
/// RFC 1035, section 2.3.4.
const LONGEST_LABEL: usize = 63;

/// A name of a service or member.
pub(super) fn name(text: &str) -> Result<String, Complaint> {
    let cause = if text.is_empty() {
        "the name is empty".to_owned()
    } else if text.len() > LONGEST_NAME {
        format!("the name has {} bytes, and may have at most {LONGEST_NAME}", text.len())
    } else if !text.chars().all(may_be_in_a_name) {
        format!("the name {text:?} has characters other than letters, digits, `-`, `_` and `.`")
    } else {
        return Ok(text.to_owned());
    };
    Err(Complaint::new(cause, "give a name such as \"orders\" or \"eu-west-1\""))
}

/// `address:port`, where the address can be routed to a device of ours.
pub(super) fn vip(text: &str) -> Result<SocketAddr, Complaint> {
    let example = r#"write it like "10.255.0.1:6379" or "[fd00:255::1]:6379""#;
    let Ok(vip) = text.parse::<SocketAddr>() else {
        let cause = match split(text) {
            Err(why) => format!("VIP {text:?} {why}"),
            Ok((host, _)) if host.parse::<IpAddr>().is_ok() => {
                format!("VIP {text:?} has no port from 1 to 65535")
            }
            Ok(_) => format!("VIP {text:?} is not an address"),
        };
        return Err(Complaint::new(cause, example));
    };
    if vip.port() == 0 {
        return Err(Complaint::new(
            format!("VIP {text:?} has port 0"),
            "give the port that applications connect to",
        ));
    }
    let ip = vip.ip();
    if let Some(why) = unusable(ip) {
        return Err(Complaint::new(format!("VIP {text:?} is {why}"), instead(vip)));
    }
    if ip.is_loopback() {
        let cause = format!("VIP {text:?} is a loopback address, which the kernel never routes to a device");
        return Err(Complaint::new(cause, instead(vip)));
    }
    match vip {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => {
            Err(Complaint::new(format!("VIP {text:?} has a zone"), "remove the % and what follows it"))
        }
        _ => Ok(vip),
    }
}

/// `host:port`, where the host is a name or an address.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, Complaint> {
    let wrong = |why: &str| {
        let next = r#"write it like "10.2.1.2:6379", "[fd00:2::2]:6379" or "redis.example.com:6379""#;
        Complaint::new(format!("endpoint {text:?} {why}"), next)
    };
    if text.contains(['/', '@']) {
        // Not shown: a URL often contains a password.
        let next = "give host:port only, and what logs in under [service.redis]";
        return Err(Complaint::new("the endpoint is written as a URL", next));
    }
    let (host, port) = split(text).map_err(wrong)?;
    let port = port_number(port).ok_or_else(|| wrong("has no port from 1 to 65535"))?;
    if port == 0 {
        let next = "give the port that the member listens on";
        return Err(Complaint::new(format!("endpoint {text:?} has port 0"), next));
    }
    let endpoint = Endpoint { host: host.to_owned(), port };
    match endpoint.literal() {
        Some(literal) => match unusable(literal.ip()) {
            Some(why) => Err(Complaint::new(format!("endpoint {text:?} is {why}"), instead(literal))),
            None => Ok(endpoint),
        },
        None if text.starts_with('[') => Err(wrong("has no IPv6 address in its brackets")),
        None => host_name(host).map_err(wrong).map(|()| endpoint),
    }
}

/// Why neither a VIP nor a member can have this address.
pub(super) fn unusable(ip: IpAddr) -> Option<&'static str> {
    Some(match ip {
        _ if ip.is_unspecified() => "the unspecified address",
        _ if ip.is_multicast() => "a multicast address",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "the broadcast address",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "an IPv4 address in IPv6 notation",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            "a link-local address, which says nothing without a device"
        }
        _ => return None,
    })
}

/// The next step for an unusable address.
fn instead(address: SocketAddr) -> String {
    match address.ip().to_canonical() {
        ip if ip != address.ip() => format!("write \"{}\"", SocketAddr::new(ip, address.port())),
        _ => "give a unicast address that can be routed".to_owned(),
    }
}

/// Host without brackets, and port.
fn split(text: &str) -> Result<(&str, &str), &'static str> {
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once("]:").ok_or("has a bracket but no `]:` before a port");
    }
    let (host, port) = text.rsplit_once(':').ok_or("has no port")?;
    if host.contains(':') {
        return Err("has an IPv6 address without brackets");
    }
    Ok((host, port))
}

/// Digits only: `u16::from_str` takes a leading `+`.
pub(super) fn port_number(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// RFC 1123 with underscores, which internal names often have.
fn host_name(host: &str) -> Result<(), &'static str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let legal = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.is_empty() {
        return Err("has no host");
    }
    if host.len() > LONGEST_HOST || !host.split('.').all(legal) {
        return Err("has neither an address nor a legal host name");
    }
    // The resolver would read "10.2.1" as 10.2.0.1.
    if host.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return Err("has an address that is not complete or not in range");
    }
    Ok(())
}
