//! `resolve` with the host's resolver where it needs no network, and the choice from its answers.

use std::{net::SocketAddr, sync::Arc};

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

fn addresses(resolved: &Resolved, member: usize) -> String {
    resolved.addresses(ServiceId(0), MemberId(member)).to_string()
}

/// Asks the host.
fn resolved(loaded: &Loaded) -> Result<Resolved, Error> {
    resolved_after(loaded, &Answers::default())
}

fn resolved_after(loaded: &Loaded, earlier: &Answers) -> Result<Resolved, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(resolve(loaded, &Arc::default(), earlier))
}

#[test]
fn literal_endpoints_resolve_to_themselves() {
    let resolved = resolved(&loaded(r#"["10.255.0.1:1"]"#, ["10.2.1.2:6379", "10.3.1.2:12000"])).unwrap();
    assert_eq!(addresses(&resolved, 0), "10.2.1.2:6379");
    assert_eq!(addresses(&resolved, 1), "10.3.1.2:12000");
}

#[test]
fn a_name_is_asked_of_the_resolver() {
    let resolved = resolved(&loaded(r#"["10.255.0.1:1"]"#, ["localhost:6379", "10.3.1.2:6379"])).unwrap();
    assert_eq!(addresses(&resolved, 0), "127.0.0.1:6379");
}

/// A label of 64 bytes is refused by the resolver itself, without a question to the network.
#[test]
fn a_name_that_does_not_resolve_is_named_with_the_reason() {
    let mut loaded = loaded(r#"["10.255.0.1:1"]"#, ["10.2.1.2:6379", "10.3.1.2:6379"]);
    let host = "x".repeat(64);
    loaded.config.services[0].members[1].endpoint.host.clone_from(&host);
    let message = resolved(&loaded).unwrap_err().to_string();
    let start = format!(
        r#"redirector.toml:10:20: member "dublin" of service "orders": endpoint "{host}:6379" does not resolve ("#
    );
    assert!(message.starts_with(&start), "{message}");
    assert!(message.ends_with("); check the name or give an address"), "{message}");
}

#[test]
fn where_the_resolver_fails_earlier_answers_hold() {
    let mut loaded = loaded(r#"["10.255.0.1:1"]"#, ["10.2.1.2:6379", "10.3.1.2:6379"]);
    let host = "x".repeat(64);
    loaded.config.services[0].members[1].endpoint.host.clone_from(&host);
    let earlier = [(host, vec!["10.3.1.3".parse().unwrap(), "10.3.1.4".parse().unwrap()])].into();
    let resolved = resolved_after(&loaded, &earlier).unwrap();
    assert_eq!(addresses(&resolved, 1), "10.3.1.3:6379, 10.3.1.4:6379");
}

#[test]
fn all_usable_addresses_are_taken_in_order_and_none_twice() {
    let paris = ["[fe80::1]:6379", "[fd00:2::2]:6379", "0.0.0.0:6379", "10.2.1.3:6379", "10.2.1.2:6379"];
    let dublin = ["[::ffff:10.3.1.2]:6379", "10.3.1.2:6379", "[fd00:3::2]:6379"];
    let resolved = judged(r#"["10.255.0.1:1", "[fd00:255::1]:1"]"#, [&paris, &dublin]).unwrap();
    assert_eq!(addresses(&resolved, 0), "10.2.1.2:6379, 10.2.1.3:6379, [fd00:2::2]:6379");
    assert_eq!(addresses(&resolved, 1), "10.3.1.2:6379, [fd00:3::2]:6379");
}

/// Every host must leave out the same ones, in whatever order the resolver gives them.
#[test]
fn more_addresses_than_a_member_can_have_are_left_out_in_order_and_with_a_warning() {
    let name = |text: String| -> SocketAddr { text.parse().unwrap() };
    let v4 = |count: u8| (1..=count).rev().map(move |last| name(format!("10.2.1.{last}:1")));
    let v6 = |count: u8| (1..=count).rev().map(move |last| name(format!("[fd00::{last:x}]:1")));
    let loaded = loaded(r#"["10.255.0.1:1", "[fd00:255::1]:1"]"#, ["10.2.1.2:6379", NAMES[1]]);
    for (of_v4, of_v6, kept) in
        [(20, 0, (16, 0)), (20, 20, (8, 8)), (20, 3, (13, 3)), (0, 17, (0, 16)), (9, 7, (9, 7))]
    {
        let answer: Vec<_> = v4(of_v4).chain(v6(of_v6)).collect();
        let found = accept(&loaded.config, ServiceId(0), &answer).unwrap();
        let expected: MemberAddresses = v4(kept.0).chain(v6(kept.1)).collect();
        assert_eq!(found.as_slice(), expected.as_slice());
        assert_eq!(found.left_out, usize::from(of_v4 + of_v6 - kept.0 - kept.1));

        let all = resolve::judge(
            &loaded,
            vec![vec![Ok(vec![name("10.2.1.2:1".into()), name("[fd00::2]:1".into())]), Ok(answer)]],
        );
        let warned =
            resolve::warnings(&loaded, &all.unwrap()).iter().any(|text| text.contains("more than 16"));
        assert_eq!(warned, found.left_out > 0);
    }
}

#[test]
fn an_answer_while_the_agent_runs_is_judged_as_at_the_start() {
    let loaded = loaded(r#"["10.255.0.1:1"]"#, NAMES);
    let accepted = |texts: &[&str]| {
        let answer: Vec<_> = texts.iter().map(|text| text.parse().unwrap()).collect();
        accept(&loaded.config, ServiceId(0), &answer).map(|addresses| addresses.to_string())
    };
    assert_eq!(accepted(&["[fd00::1]:1", "10.2.1.3:1", "0.0.0.0:1"]), Ok("10.2.1.3:1".to_owned()));
    assert_eq!(accepted(&["0.0.0.0:1"]), Err("it resolves to 0.0.0.0, which no member can have".to_owned()));
    let vip = "it resolves to 10.255.0.1, which is the address of a VIP";
    assert_eq!(accepted(&["10.2.1.3:1", "10.255.0.1:1"]), Err(vip.to_owned()));
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
    let partial = |resolved: &Resolved| resolve::warnings(&loaded, resolved);
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
    assert_eq!(addresses(&resolved, 0), "10.2.1.2:6379");
    let resolved = judged(r#"["[fd00:255::1]:1"]"#, [&both, &both]).unwrap();
    assert_eq!(addresses(&resolved, 1), "[fd00:2::2]:6379");
}
