//! Comparisons of members, and what a member's looks come to.

use std::time::{Duration, UNIX_EPOCH};

use super::*;

fn look(facts: Facts) -> Look {
    Look {
        at: UNIX_EPOCH + Duration::from_secs(9),
        is_inside: true,
        certificate_expires: None,
        findings: Vec::new(),
        unknown: Vec::new(),
        facts,
    }
}

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 6379))
}

fn member(name: &str, looks: Vec<Look>) -> MemberLooks {
    let looks = (1..).zip(looks).map(|(number, look)| (address(number), Some(look)));
    MemberLooks { member: name.to_owned(), looks: looks.collect() }
}

/// Members m0, m1, … with these facts: what is found, and at whom.
fn found(facts: impl IntoIterator<Item = Facts>) -> Vec<(usize, String)> {
    let members: Vec<_> = (facts.into_iter().enumerate())
        .map(|(number, facts)| member(&format!("m{number}"), vec![look(facts)]))
        .collect();
    let judged = judge(&members);
    let findings = judged.iter().enumerate().flat_map(|(number, readiness)| {
        readiness.findings.iter().map(move |found| (number, format!("{} {found}", found.finding.kind())))
    });
    findings.collect()
}

fn maxmemory(bytes: u64) -> Facts {
    Facts { maxmemory: Some(bytes), ..Facts::default() }
}

#[test]
fn less_memory_than_the_largest_is_found_at_the_smaller() {
    let words =
        "maxmemory maxmemory is 1 GiB, at m1 2 GiB; raise it, or this member evicts or refuses writes first";
    assert_eq!(found([maxmemory(1 << 30), maxmemory(2 << 30)]), [(0, words.to_owned())]);
    let words = "maxmemory maxmemory is 1 GiB, at m0 without a limit; raise it, or this member evicts or refuses writes \
                 first";
    assert_eq!(found([maxmemory(0), maxmemory(1 << 30), Facts::default()]), [(1, words.to_owned())]);
    for alike in
        [[maxmemory(0), maxmemory(0)], [maxmemory(100), maxmemory(91)], [maxmemory(1), Facts::default()]]
    {
        assert!(found(alike.clone()).is_empty(), "{alike:?}");
    }
}

#[test]
fn an_older_version_is_found_and_a_patch_is_not() {
    let version = |text: &str| Facts { version: Some(text.to_owned()), ..Facts::default() };
    let old = "version version 6.2.14 is older than 7.2.4 of m1; upgrade it, or let applications use only what it has";
    assert_eq!(found([version("6.2.14"), version("7.2.4"), version("7.2.1")]), [(0, old.to_owned())]);
    assert!(found([version("7.2.4"), version("7.2.1"), version("unstable")]).is_empty());
}

#[test]
fn what_most_members_have_is_usual() {
    let policy = |text: &str| Facts { maxmemory_policy: Some(text.to_owned()), ..Facts::default() };
    let odd = "maxmemory_policy maxmemory-policy is noeviction, at m1, m2 allkeys-lru; set the same at every member";
    let three = [policy("noeviction"), policy("allkeys-lru"), policy("allkeys-lru")];
    assert_eq!(found(three), [(0, odd.to_owned())]);
    let second =
        "maxmemory_policy maxmemory-policy is allkeys-lru, at m0 noeviction; set the same at every member";
    assert_eq!(found([policy("noeviction"), policy("allkeys-lru")]), [(1, second.to_owned())]);
}

#[test]
fn another_database_is_a_problem() {
    let guid = |guid: Option<&str>| Facts { crdt_guid: Some(guid.map(str::to_owned)), ..Facts::default() };
    let judged = judge(&[
        member("paris", vec![look(guid(Some("one")))]),
        member("dublin", vec![look(guid(Some("two")))]),
        member("oslo", vec![look(guid(None))]),
        member("rome", vec![look(Facts::default())]),
        member("bern", vec![look(guid(Some("one")))]),
    ]);
    let ready: Vec<_> = judged.iter().map(|readiness| readiness.ready).collect();
    assert_eq!(ready, [Some(true), Some(false), Some(false), Some(true), Some(true)]);
    let words = judged[1].findings[0].to_string();
    assert!(
        words.starts_with("it is a member of the Active-Active database two, paris, bern of one"),
        "{words}"
    );
    assert!(found([guid(None), guid(None)]).is_empty());
}

/// Applications that never say GET need no right to.
#[test]
fn a_right_that_is_missing_everywhere_is_a_warning() {
    let may = |may: bool| Facts { may_get: Some(may), ..Facts::default() };
    let severities = |facts: Vec<Facts>| {
        let members: Vec<_> = facts.into_iter().map(|facts| member("m", vec![look(facts)])).collect();
        let judged = judge(&members);
        judged
            .iter()
            .map(|one| one.findings.first().map(|found| found.finding.severity()))
            .collect::<Vec<_>>()
    };
    assert_eq!(severities(vec![may(false), may(true)]), [Some(Severity::Problem), None]);
    assert_eq!(severities(vec![may(false), may(false)]), [Some(Severity::Warning); 2]);
}

#[test]
fn what_holds_at_some_addresses_says_so() {
    let reached = Finding::MaxclientsReached;
    let near = |connected| Finding::Maxclients { connected, most: 100 };
    let mut one = look(Facts::default());
    one.findings = vec![near(95), reached.clone()];
    let mut two = look(Facts::default());
    two.findings = vec![near(96)];
    let judged = judge(&[member("paris", vec![one, two])]).remove(0);
    let expected =
        [Found { finding: reached, at: vec![address(1)] }, Found { finding: near(95), at: Vec::new() }];
    assert_eq!(judged.findings, expected);
    assert!(judged.findings[0].to_string().ends_with(" (at 192.0.2.1:6379)"));
}

#[test]
fn ready_takes_a_look_at_every_address() {
    let of = |looks: Vec<(SocketAddr, Option<Look>)>| {
        judge(&[MemberLooks { member: "m".to_owned(), looks }]).remove(0)
    };
    let inside = look(Facts::default());
    let outside = Look { is_inside: false, unknown: vec!["no".to_owned()], ..inside.clone() };
    assert_eq!(of(Vec::new()), Readiness::default());
    assert_eq!(of(vec![(address(1), Some(inside.clone())), (address(2), None)]).ready, None);
    assert_eq!(of(vec![(address(1), Some(inside.clone())), (address(2), Some(outside.clone()))]).ready, None);
    assert_eq!(of(vec![(address(1), Some(inside))]).ready, Some(true));
    assert_eq!(of(vec![(address(1), Some(outside))]).unknown, ["no"]);
}
