//! Looks at the readiness of real Redis servers, each with something that would hurt applications, or with nothing.
#![allow(clippy::unwrap_used, reason = "a test: what is odd shall panic")]

use std::{
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use redirector::{
    model::{Access, Application, Endpoint, Login, Rest, Secret, Url},
    readiness::{Finding, MemberLooks, Readiness, Severity, Target, judge, look},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    certificates::{Authority, Certificate},
    login,
    server::{Redis, free_address, tcp},
};

const NAME: &str = "orders.example.com";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// In clear, and nothing is known of applications.
fn target(access: Access) -> Target {
    Target {
        service: "orders".to_owned(),
        member: "paris".to_owned(),
        endpoint: Endpoint { host: "paris.example.com".to_owned(), port: 6379 },
        access,
        application: Application::default(),
        rest: None,
        vips: vec!["10.255.0.1:6379".parse().unwrap()],
    }
}

/// The readiness of members, each with one address.
async fn of_all(members: &[(&Target, SocketAddr)]) -> Vec<Readiness> {
    let mut looks = Vec::new();
    for (target, address) in members {
        let seen = look(target, *address).await;
        looks.push(MemberLooks { member: target.member.clone(), looks: vec![(*address, Some(seen))] });
    }
    judge(&looks)
}

async fn of(target: &Target, address: SocketAddr) -> Readiness {
    of_all(&[(target, address)]).await.remove(0)
}

/// Kind, severity and words of all findings.
fn shown(readiness: &Readiness) -> Vec<(&'static str, Severity, String)> {
    let findings = readiness.findings.iter();
    findings.map(|found| (found.finding.kind(), found.finding.severity(), found.to_string())).collect()
}

fn is_well(readiness: &Readiness) -> bool {
    readiness.ready == Some(true) && readiness.findings.is_empty() && readiness.unknown.is_empty()
}

/// With applications that verify `name`.
async fn over_tls(
    authority: &Authority,
    certificate: &Certificate,
    host: &str,
    name: Option<&str>,
) -> Readiness {
    let redis = Redis::start_tls(authority, certificate, &[]);
    let mut target = target(authority.access(host));
    target.application.server_name = name.map(str::to_owned);
    of(&target, redis.address()).await
}

#[tokio::test]
async fn a_certificate_for_the_name_that_applications_verify_is_well() {
    let authority = Authority::new("ours");
    let certificate = authority.issue_for(&["paris.example.com", NAME], 90 * DAY);
    for name in [None, Some(NAME)] {
        let readiness = over_tls(&authority, &certificate, "paris.example.com", name).await;
        assert!(is_well(&readiness), "{name:?}: {readiness:?}");
        let left = readiness.certificate_expires.unwrap().duration_since(SystemTime::now()).unwrap();
        assert!(left > 89 * DAY && left <= 90 * DAY, "{left:?}");
    }
}

#[tokio::test]
async fn a_name_that_is_not_in_the_certificate_is_a_problem() {
    let authority = Authority::new("ours");
    let certificate = authority.issue_for(&["paris.example.com"], 90 * DAY);
    let words = "the member's certificate is not for \"orders.example.com\", it has paris.example.com; set `server_name` to \
                 a name that it has, or renew it with this one";
    let expected = [("certificate_name", Severity::Problem, words.to_owned())];
    // Checks that verify another name are content.
    let readiness = over_tls(&authority, &certificate, "paris.example.com", Some(NAME)).await;
    assert_eq!((shown(&readiness).as_slice(), readiness.ready), (expected.as_slice(), Some(false)));
    assert!(readiness.certificate_expires.is_some() && readiness.unknown.is_empty(), "{readiness:?}");
    // Where applications verify what checks do.
    for name in [None, Some(NAME)] {
        let readiness = over_tls(&authority, &certificate, NAME, name).await;
        assert_eq!((shown(&readiness).as_slice(), readiness.ready), (expected.as_slice(), Some(false)));
    }
}

#[tokio::test]
async fn a_certificate_that_expires_soon_is_a_warning_and_one_that_did_a_problem() {
    let authority = Authority::new("ours");
    let soon = authority.issue_for(&[NAME], 3 * DAY + Duration::from_secs(3600));
    let readiness = over_tls(&authority, &soon, NAME, None).await;
    let [(kind, severity, words)] = &shown(&readiness)[..] else { panic!("{readiness:?}") };
    assert_eq!((*kind, *severity, readiness.ready), ("certificate_expires", Severity::Warning, Some(true)));
    assert!(words.ends_with("(in 3 days); renew it"), "{words}");

    let readiness = over_tls(&authority, &authority.issue_expired(&[NAME]), NAME, None).await;
    let words = "the member's certificate expired at 2021-02-03T00:00:00Z; renew it";
    assert_eq!(shown(&readiness), [("certificate_expired", Severity::Problem, words.to_owned())]);
}

/// What only concerns the checks' own certificate is no finding.
#[tokio::test]
async fn a_client_certificate_that_is_missing_leaves_unknown() {
    let authority = Authority::new("ours");
    for version in ["TLSv1.2", "TLSv1.3"] {
        let options = ["--tls-auth-clients", "yes", "--tls-protocols", version];
        let redis = Redis::start_tls(&authority, &authority.issue(&[NAME]), &options);
        let readiness = of(&target(authority.access(NAME)), redis.address()).await;
        assert!(readiness.findings.is_empty(), "{version}: {readiness:?}");
        assert!(readiness.unknown[0].contains("asks for a client certificate"), "{version}: {readiness:?}");
    }
}

/// A server with a user `app` of these rights, and another that may do everything.
async fn with_rights(rights: &[&str], password: &str) -> [Readiness; 2] {
    let server = |rights: &[&str]| Redis::start(&[&["--user", "app", "on", ">sesame"], rights].concat());
    let (one, other) = (server(rights), server(&["allkeys", "+@all"]));
    let mut target = target(Access::default());
    target.application.login =
        Login { username: Some("app".to_owned()), password: Some(Secret::new(password.to_owned())) };
    of_all(&[(&target, one.address()), (&target, other.address())]).await.try_into().unwrap()
}

#[tokio::test]
async fn applications_that_can_log_in_and_read_are_well() {
    // Keys are the applications' own business.
    for keys in ["allkeys", "~orders:*"] {
        let judged = with_rights(&[keys, "+@all"], "sesame").await;
        assert!(judged.iter().all(is_well), "{keys}: {judged:?}");
    }
}

#[tokio::test]
async fn a_password_of_applications_that_is_refused_is_a_problem() {
    let [readiness, _] = with_rights(&["allkeys", "+@all"], "hunter2").await;
    let words = "applications cannot log in: AUTH was refused: wrong user or password; create their user with the same \
                 password at every member, or correct [service.application]";
    assert_eq!(shown(&readiness), [("credentials", Severity::Problem, words.to_owned())]);
    assert_eq!(readiness.ready, Some(false));
}

#[tokio::test]
async fn applications_without_rights_are_a_problem_where_others_let_them() {
    let [readiness, other] = with_rights(&["allkeys", "-@all", "+ping"], "sesame").await;
    let [(kind, severity, _)] = &shown(&readiness)[..] else { panic!("{readiness:?}") };
    assert_eq!((*kind, *severity, readiness.ready), ("permission", Severity::Problem, Some(false)));
    assert!(is_well(&other), "{other:?}");
}

/// The checks' user may not say INFO: nothing is found, and nothing is made up.
#[tokio::test]
async fn rights_that_the_checks_miss_leave_unknown() {
    let redis = Redis::start(&["--user", "probe", "on", ">sesame", "-@all", "+ping"]);
    let readiness = of(&target(login(Some("probe"), Some("sesame"))), redis.address()).await;
    assert_eq!((readiness.ready, readiness.findings.len(), readiness.unknown.len()), (Some(true), 0, 1));
    let words = &readiness.unknown[0];
    assert!(words.starts_with("INFO: Redis error: NOPERM") && words.contains("+info"), "{words}");

    let readiness = of(&target(login(Some("probe"), Some("hunter2"))), redis.address()).await;
    assert_eq!((readiness.ready, readiness.findings.len()), (None, 0));
    assert!(readiness.unknown[0].contains("AUTH was refused"), "{readiness:?}");
    assert!(!format!("{readiness:?}").contains("hunter2"));
}

#[tokio::test]
async fn members_with_other_settings_are_found() {
    let small = Redis::start(&["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"]);
    let large = Redis::start(&["--maxmemory", "128mb", "--maxmemory-policy", "noeviction"]);
    let (mut one, mut other) = (target(Access::default()), target(Access::default()));
    (one.member, other.member) = ("paris".to_owned(), "dublin".to_owned());
    let judged = of_all(&[(&one, small.address()), (&other, large.address())]).await;
    let memory =
        "maxmemory is 64 MiB, at dublin 128 MiB; raise it, or this member evicts or refuses writes first";
    assert_eq!(shown(&judged[0]), [("maxmemory", Severity::Warning, memory.to_owned())]);
    let policy = "maxmemory-policy is noeviction, at paris allkeys-lru; set the same at every member";
    assert_eq!(shown(&judged[1]), [("maxmemory_policy", Severity::Warning, policy.to_owned())]);
    assert!(judged.iter().all(|readiness| readiness.ready == Some(true)));
}

#[tokio::test]
async fn a_cluster_that_leads_around_the_vip_is_found() {
    let start = |ip: &str| {
        // By default it is 10000 above the port, where clients and other servers have theirs.
        let bus = free_address().port().to_string();
        let redis = Redis::start(&[
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &bus,
            "--cluster-announce-ip",
            ip,
            "--cluster-announce-port",
            "6379",
        ]);
        let _: String = redis.run(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
        redis
    };
    let redis = start("192.0.2.9");
    let readiness = of(&target(Access::default()), redis.address()).await;
    let words = "the OSS Cluster API is on and names 192.0.2.9:6379: clients that follow it connect around the VIP; switch \
                 it off for this database, or let applications use clients without it";
    assert_eq!(shown(&readiness), [("cluster_api", Severity::Warning, words.to_owned())]);
    // It may name the VIP itself.
    let redis = start("10.255.0.1");
    let readiness = of(&target(Access::default()), redis.address()).await;
    assert!(is_well(&readiness), "{readiness:?}");
}

#[tokio::test]
async fn room_for_clients_that_is_nearly_taken_is_found() {
    let redis = Redis::start(&["--maxclients", "10"]);
    let mut clients: Vec<_> = (0..8).map(|_| redis.client()).collect();
    let target = target(Access::default());
    let readiness = of(&target, redis.address()).await;
    assert!(is_well(&readiness), "{readiness:?}");

    clients.push(redis.client());
    let readiness = of(&target, redis.address()).await;
    assert_eq!(readiness.findings[0].finding, Finding::Maxclients { connected: 10, most: 10 });
    assert_eq!(readiness.ready, Some(true));

    clients.push(redis.client());
    let readiness = of(&target, redis.address()).await;
    assert_eq!(readiness.findings[0].finding, Finding::MaxclientsReached);
    assert_eq!(readiness.ready, Some(false));
}

/// A REST API that answers every question so.
async fn api(status: &'static str, body: &'static str) -> (Rest, tokio::task::JoinSet<()>) {
    let (address, guard) = tcp(move |mut stream| async move {
        let mut question = [0; 4096];
        let read = stream.read(&mut question).await.unwrap_or(0);
        let question = String::from_utf8_lossy(&question[..read]).into_owned();
        // Without `fields` passwords come back.
        assert!(question.starts_with("GET /v1/bdbs/7?fields=uid,crdt,crdt_guid HTTP/1.1"), "{question}");
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    })
    .await;
    let rest = Rest {
        url: Url {
            is_https: false,
            host: address.ip().to_string(),
            port: address.port(),
            path: "/".to_owned(),
        },
        login: login(Some("viewer"), Some("sesame")).login,
        tls: None,
        uid: Some(7),
    };
    (rest, guard)
}

/// One test for all that concerns Redis Software: the port of its discovery service is fixed.
#[tokio::test]
async fn members_of_redis_software_are_known_by_their_guid_and_their_discovery() {
    let redis = Redis::start(&[]);
    let mut guards = Vec::new();
    let mut members = Vec::new();
    for (status, body) in [
        ("200 OK", r#"{"uid": 7, "crdt": true, "crdt_guid": "one"}"#),
        ("200 OK", r#"{"uid": 7, "crdt": true, "crdt_guid": "two"}"#),
        ("200 OK", r#"{"uid": 7, "crdt": false}"#),
        ("200 OK", r#"{"uid": 7, "crdt": true}"#),
        ("401 Unauthorized", ""),
        ("200 OK", r#"{"uid": 7, "crdt": true, "crdt_guid": "one"}"#),
    ] {
        let (rest, guard) = api(status, body).await;
        guards.push(guard);
        let mut target = target(Access::default());
        (target.member, target.rest) = (format!("m{}", members.len()), Some(rest));
        members.push(target);
    }
    let of_members = || async {
        of_all(&members.iter().map(|target| (target, redis.address())).collect::<Vec<_>>()).await
    };
    let judged = of_members().await;
    let kinds: Vec<Vec<_>> =
        judged.iter().map(|readiness| shown(readiness).iter().map(|(kind, ..)| *kind).collect()).collect();
    let (none, other) = (Vec::<&str>::new(), vec!["crdt_guid"]);
    assert_eq!(kinds, [&none, &other, &other, &none, &none, &none].map(Clone::clone));
    let unknown: Vec<_> = judged.iter().map(|readiness| readiness.unknown.join(", ")).collect();
    assert_eq!([&unknown[0], &unknown[1], &unknown[2], &unknown[5]], ["", "", "", ""]);
    assert!(unknown[3].contains("does not say to which Active-Active database 7 belongs"), "{}", unknown[3]);
    assert!(
        unknown[4].contains("crdt_guid: REST API:") && unknown[4].contains("status 401"),
        "{}",
        unknown[4]
    );

    let _discovery = std::net::TcpListener::bind(("127.0.0.1", 8001)).expect("nobody else uses this port");
    let judged = of_members().await;
    assert!(judged.iter().all(|readiness| shown(readiness).iter().any(|(kind, ..)| *kind == "discovery")));
}

#[tokio::test]
async fn a_member_that_is_not_there_or_silent_leaves_unknown_and_is_not_waited_for() {
    let readiness = of(&target(Access::default()), free_address()).await;
    assert_eq!((readiness.ready, readiness.findings.len()), (None, 0));
    assert_eq!(readiness.unknown, ["the member: connection refused"]);

    let (address, _guard) = tcp(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let started = Instant::now();
    let readiness = of(&target(Access::default()), address).await;
    assert_eq!(readiness.unknown, ["INFO: command timed out after 5s"]);
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
}

/// What a member says is shown to people.
#[tokio::test]
async fn what_a_member_says_is_quoted() {
    let (address, _guard) = tcp(|mut stream| async move {
        let text = "redis_version:1.0.\u{1b}[2J\r\nmaxmemory_policy:\u{1b}[2J\r\n";
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(format!("${}\r\n{text}\r\n", text.len()).as_bytes()).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let redis = Redis::start(&[]);
    let target = target(Access::default());
    let judged = of_all(&[(&target, redis.address()), (&target, address)]).await;
    let words: Vec<_> = shown(&judged[1]).into_iter().map(|(.., words)| words).collect();
    assert_eq!(words.len(), 2, "{words:?}");
    assert!(words.iter().all(|words| words.contains("\\u{1b}") && !words.contains('\u{1b}')), "{words:?}");
}

/// The rights that docs/readiness.md names are enough.
#[tokio::test]
async fn the_rights_that_are_documented_are_enough() {
    let bus = free_address().port().to_string();
    let redis = Redis::start(&[
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &bus,
        "--user",
        "probe",
        "on",
        ">sesame",
        "-@all",
        "+info",
        "+cluster|slots",
    ]);
    let readiness = of(&target(login(Some("probe"), Some("sesame"))), redis.address()).await;
    assert!(is_well(&readiness), "{readiness:?}");
}
