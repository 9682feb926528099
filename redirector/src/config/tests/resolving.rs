//! `resolve` with the host's resolver where it needs no network, and the choice from its answers.

use std::net::{SocketAddrV4, SocketAddrV6};

use super::*;
use crate::model::{MemberId, ServiceId};

pub(super) fn loaded(vips: &str, endpoints: [&str; 2]) -> Loaded {
    let [paris, dublin] = endpoints;
    let text = format!(
        r#"
        [[service]]
        name = "orders"
        vips = {vips}
        [[service.member]]
        name = "paris"
        endpoint = "{paris}"
        [[service.member]]
        name = "dublin"
        endpoint = "{dublin}"
        "#
    );
    parse(Path::new("redirector.toml"), &text).unwrap_or_else(|error| panic!("{error}"))
}

const NAMES: [&str; 2] = ["redis.paris.example.com:6379", "redis.dublin.example.com:6379"];

/// As the resolver would answer for the two members.
fn judged(vips: &str, answers: [&[&str]; 2]) -> Result<Resolved, Error> {
    let loaded = loaded(vips, NAMES);
    let answers = answers.map(|answer| Ok(answer.iter().map(|address| address.parse().unwrap()).collect()));
    resolve::judge(&loaded, vec![answers.into()])
}

fn addresses(resolved: &Resolved, member: usize) -> (Option<String>, Option<String>) {
    let MemberAddresses { v4, v6 } = resolved.addresses(ServiceId(0), MemberId(member));
    (v4.as_ref().map(SocketAddrV4::to_string), v6.as_ref().map(SocketAddrV6::to_string))
}

#[test]
fn literal_endpoints_resolve_to_themselves() {
    let resolved = resolve(&loaded(r#"["10.255.0.1:1"]"#, ["10.2.1.2:6379", "10.3.1.2:12000"])).unwrap();
    assert_eq!(addresses(&resolved, 0), (Some("10.2.1.2:6379".to_owned()), None));
    assert_eq!(addresses(&resolved, 1), (Some("10.3.1.2:12000".to_owned()), None));
}

#[test]
fn a_name_is_asked_of_the_resolver() {
    let resolved = resolve(&loaded(r#"["10.255.0.1:1"]"#, ["localhost:6379", "10.3.1.2:6379"])).unwrap();
    assert_eq!(addresses(&resolved, 0).0.as_deref(), Some("127.0.0.1:6379"));
}

/// A label of 64 bytes is refused by the resolver itself, without a question to the network.
#[test]
fn a_name_that_does_not_resolve_is_named_with_the_reason() {
    let mut loaded = loaded(r#"["10.255.0.1:1"]"#, ["10.2.1.2:6379", "10.3.1.2:6379"]);
    let host = "x".repeat(64);
    loaded.config.services[0].members[1].endpoint.host.clone_from(&host);
    let message = resolve(&loaded).unwrap_err().to_string();
    let start = format!(
        r#"redirector.toml:10:20: member "dublin" of service "orders": endpoint "{host}:6379" does not resolve (failed to lookup address"#
    );
    assert!(message.starts_with(&start), "{message}");
    assert!(message.ends_with("); check the name or give an address"), "{message}");
}

#[test]
fn the_first_usable_address_of_each_version_is_taken() {
    let paris = ["0.0.0.0:6379", "10.2.1.2:6379", "10.2.1.3:6379", "[fe80::1]:6379", "[fd00:2::2]:6379"];
    let dublin = ["[::ffff:10.3.1.2]:6379", "[fd00:3::2]:6379", "[fd00:3::3]:6379"];
    let resolved = judged(r#"["10.255.0.1:1", "[fd00:255::1]:1"]"#, [&paris, &dublin]).unwrap();
    let found = |v4: &str, v6: &str| (Some(v4.to_owned()), Some(v6.to_owned()));
    assert_eq!(addresses(&resolved, 0), found("10.2.1.2:6379", "[fd00:2::2]:6379"));
    assert_eq!(addresses(&resolved, 1), found("10.3.1.2:6379", "[fd00:3::2]:6379"));
}

/// The contract's example: VIPs of both versions, one member a literal IPv4 endpoint, the other a name.
#[test]
fn one_member_of_a_version_is_enough_and_the_others_are_warned_of() {
    let both = r#"["10.255.0.1:1", "[fd00:255::1]:1"]"#;
    let loaded = loaded(both, ["10.2.1.2:6379", NAMES[1]]);
    let judged = |dublin: &[&str]| {
        let answer = |texts: &[&str]| Ok(texts.iter().map(|text| text.parse().unwrap()).collect());
        resolve::judge(&loaded, vec![vec![answer(&["10.2.1.2:6379"]), answer(dublin)]]).unwrap()
    };
    let warning = |member: &str, family: &str, vip: &str| {
        format!(
            "member {member:?} of service \"orders\" has no {family} address: connections to VIP {vip} are refused \
             while it is active; give it an endpoint that has one, or put the {family} VIP into a service of its own"
        )
    };
    let paris = warning("paris", "IPv6", "[fd00:255::1]:1");
    let partial = |resolved: &Resolved| resolve::partial_members(&loaded, resolved);
    assert_eq!(partial(&judged(&["10.3.1.2:6379", "[fd00:3::2]:6379"])), std::slice::from_ref(&paris));
    let dublin = warning("dublin", "IPv4", "10.255.0.1:1");
    let of_both = partial(&judged(&["[fd00:3::2]:6379"]));
    assert_eq!(of_both, [paris, dublin]);
    assert_eq!(partial(&judged(&["10.3.1.2:6379", "[fd00:3::2]:6379"])), of_both[..1]);
}

#[test]
fn what_an_endpoint_must_not_resolve_to() {
    let both = r#"["10.255.0.1:1", "[fd00:255::1]:1"]"#;
    let v4 = r#"["10.255.0.1:1"]"#;
    let table = [
        ("nothing", judged(v4, [&[], &["10.3.1.2:6379"]])),
        ("only what no member can have", judged(v4, [&["0.0.0.0:6379"], &["10.3.1.2:6379"]])),
        ("only one of two IP versions", judged(both, [&["10.2.1.2:6379"], &["10.3.1.2:6379"]])),
        ("the address of a VIP", judged(v4, [&["10.255.0.1:6379"], &["10.3.1.2:6379"]])),
    ]
    .map(|(title, result)| format!("{title}\n{}\n", result.unwrap_err()))
    .join("\n");
    insta::assert_snapshot!(table);
}

/// A host without IPv6 must not stumble over the IPv6 address of a name that it would never use.
#[test]
fn an_address_that_no_vip_leads_to_is_left_out() {
    let both = ["10.2.1.2:6379", "[fd00:2::2]:6379"];
    let resolved = judged(r#"["10.255.0.1:1"]"#, [&both, &both]).unwrap();
    assert_eq!(addresses(&resolved, 0), (Some("10.2.1.2:6379".to_owned()), None));
    let resolved = judged(r#"["[fd00:255::1]:1"]"#, [&both, &both]).unwrap();
    assert_eq!(addresses(&resolved, 1), (None, Some("[fd00:2::2]:6379".to_owned())));
}
