//! The probe's own credentials: what a member refuses says nothing about it.

use std::time::Duration;

use redirector::{
    model::{CheckKind, Phase, RedisErrorKind, Verdict},
    probe::once,
};

use crate::{check, kinds, login, passed, redis_error, run::Prober, server::Redis};

/// A password that is changed locks the next connection out; the one that is kept stays in.
#[tokio::test]
async fn a_password_that_is_changed_makes_outcomes_inconclusive() {
    let redis = Redis::start(&["--requirepass", "sesame"]);
    let mut client = redis.client();
    redis::cmd("AUTH").arg("sesame").exec(&mut client).unwrap();
    let set = |client: &mut redis::Connection, password: &str| {
        redis::cmd("CONFIG").arg("SET").arg("requirepass").arg(password).exec(client).unwrap();
        redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").exec(client).unwrap();
    };
    let mut check = check(CheckKind::Ping);
    check.interval = Duration::from_millis(20);
    let mut prober = Prober::start_normal(check, redis.address(), login(None, Some("sesame")));
    prober.passes().await;

    set(&mut client, "other");
    let report = loop {
        // A pass or two may have been on their way.
        let report = prober.next().await;
        if report.outcome.verdict() != Verdict::Pass {
            break report;
        }
    };
    assert_eq!(report.outcome.verdict(), Verdict::Inconclusive);
    assert_eq!(redis_error(&report.outcome), Some((Phase::Authenticate, RedisErrorKind::WrongPass)));
    assert_eq!(
        report.outcome.to_string(),
        "Redis error: AUTH was refused: wrong user or password (not counted)"
    );

    set(&mut client, "sesame");
    while prober.next().await.outcome.verdict() != Verdict::Pass {}
}

#[tokio::test]
async fn a_user_without_rights_says_nothing_about_the_member() {
    let user = ["--user", "probe", "on", ">sesame", "resetkeys", "~elsewhere:*", "-@all", "+set"];
    let redis = Redis::start(&user);
    for kind in kinds::of_redis() {
        let outcome =
            once(&check(kind.clone()), redis.address(), &login(Some("probe"), Some("sesame"))).await;
        assert_eq!(redis_error(&outcome), Some((Phase::Command, RedisErrorKind::NoPerm)), "{kind:?}");
        assert_eq!(outcome.verdict(), Verdict::Inconclusive, "{kind:?}");
    }
}

/// The rights that docs/checks names are enough.
#[tokio::test]
async fn the_rights_that_are_documented_are_enough() {
    let user = [
        "--user",
        "probe",
        "on",
        ">sesame",
        "-@all",
        "+ping",
        "+echo",
        "+role",
        "+set",
        "+get",
        "~redirector:probe:*",
    ];
    let redis = Redis::start(&user);
    for kind in kinds::of_redis() {
        let mut check = check(kind.clone());
        check.role = redirector::model::Role::Primary;
        let outcome = once(&check, redis.address(), &login(Some("probe"), Some("sesame"))).await;
        assert!(passed(&outcome), "{kind:?}: {outcome}");
    }
}
