//! The keys of `lag`, `http` and `exec`, and of `[service.member.rest]`.

use std::{fmt::Write as _, sync::Arc};

use super::*;
use crate::model::{
    Authorities, Effect, Exec, ExecOf, Http, HttpTarget, Lag, LagOf, Rest, Tls, Trust, Url, User,
};

const WITNESS: &str = include_str!("witness.toml");

fn url(host: &str, port: u16, path: &str) -> Url {
    Url { is_https: true, host: host.to_owned(), port, path: path.to_owned() }
}

/// With the certificate of the directory.
fn tls(server_name: &str) -> Tls {
    let trust = Trust { authorities: Authorities::Pem(CERTIFICATE.0.clone()), identity: None };
    Tls { server_name: Some(server_name.to_owned()), trust: Arc::new(trust) }
}

fn checks() -> Vec<Check> {
    let endpoint = Endpoint { host: "redis-12000.dublin.example.com".to_owned(), port: 12_000 };
    let rest = Rest {
        url: url("cluster.dublin.example.com", 9443, "/"),
        login: login("viewer", "swordfish"),
        tls: Some(tls("dublin.example.com")),
        uid: Some(7),
    };
    let lag = |milliseconds, extended| {
        let of = Some(LagOf { rest: rest.clone(), endpoint: endpoint.clone() });
        CheckKind::Lag(Lag { tolerance: Duration::from_millis(milliseconds), extended, of })
    };
    let monitor = Http {
        target: HttpTarget::Url(url("monitor.example.com", 443, "/redis?region=eu")),
        tls: Some(Tls { server_name: None, trust: Arc::new(Trust::system()) }),
        status: vec![200..=200, 210..=220],
        contains: Some("role: primary".to_owned()),
    };
    let sidecar = Http {
        target: HttpTarget::Path { path: "/health".to_owned(), port: Some(8443) },
        tls: Some(tls("sidecar.example.com")),
        status: vec![200..=200],
        contains: None,
    };
    let exec = Exec {
        command: ["/usr/local/lib/check", "-v", "-v", ""].map(str::to_owned).to_vec(),
        user: User { name: "990:991".to_owned(), uid: 990, gid: 991 },
        of: Some(ExecOf {
            service: "orders".to_owned(),
            member: "dublin".to_owned(),
            endpoint: endpoint.clone(),
        }),
    };
    let ten = Duration::from_secs(10);
    vec![
        Check { effect: Effect::Observe, ..Check::of(lag(750, true)) },
        Check { name: "available".to_owned(), ..Check::of(lag(5000, false)) },
        Check { name: "monitor".to_owned(), ..Check::of(CheckKind::Http(monitor)) },
        Check { name: "sidecar".to_owned(), ..Check::of(CheckKind::Http(sidecar)) },
        Check { interval: ten, down_interval: ten, ..Check::of(CheckKind::Exec(exec)) },
    ]
}

#[test]
fn every_key_reaches_the_model() {
    let config = Directory::new().parse(WITNESS).unwrap_or_else(|error| panic!("{error}"));
    let service = &config.services[0];
    assert_eq!(service.members[0].checks, checks());
    // The service's own list is of no member.
    assert!(service.checks.iter().all(|check| match &check.kind {
        CheckKind::Lag(lag) => lag.of.is_none(),
        CheckKind::Exec(exec) => exec.of.is_none(),
        _ => true,
    }));
}

#[test]
fn a_member_may_have_a_server_of_its_own() {
    let config = Directory::new().parse(WITNESS).unwrap_or_else(|error| panic!("{error}"));
    let mut expected = checks();
    for (check, target) in expected[2..].iter_mut().zip([
        HttpTarget::Url(Url { is_https: false, ..url("10.3.1.9", 80, "/dublin") }),
        HttpTarget::Path { path: "/healthz".to_owned(), port: Some(8443) },
    ]) {
        let CheckKind::Http(http) = &mut check.kind else { panic!("{check:?}") };
        http.target = target;
        http.tls = http.tls.take().filter(|_| check.name == "sidecar");
    }
    expected.iter_mut().for_each(|check| of("cork", "10.3.1.2", &mut check.kind));
    assert_eq!(config.services[0].members[1].checks, expected);
}

/// Turns the check of one member into that of another.
fn of(member: &str, host: &str, kind: &mut CheckKind) {
    match kind {
        CheckKind::Lag(lag) => {
            let of = lag.of.as_mut().expect("a check of a member");
            of.endpoint.host = host.to_owned();
            (of.rest.tls, of.rest.uid) = (None, None);
            of.rest.url = Url { is_https: false, ..url("10.3.1.2", 8080, "/") };
        }
        CheckKind::Exec(exec) => {
            let of = exec.of.as_mut().expect("a check of a member");
            (of.member, of.endpoint.host) = (member.to_owned(), host.to_owned());
        }
        _ => {}
    }
}

#[test]
fn what_is_not_said_has_its_default() {
    let text = format!(
        "{MINIMAL}[service.member.rest]\nurl = \"http://127.0.0.1:8080\"\nusername = \"v\"\npassword_file = \"orders.password\"\n\
         [[service.check]]\nkind = \"lag\"\n[[service.check]]\nkind = \"http\"\npath = \"/\"\n\
         [[service.check]]\nkind = \"exec\"\ncommand = [\"/bin/true\"]\n"
    );
    let config = Directory::new().parse(&text).unwrap_or_else(|error| panic!("{error}"));
    let [lag, http, exec] = config.services[0].members[0].checks.as_slice() else { panic!("three checks") };
    for check in [lag, http, exec] {
        let times = [check.interval, check.fast_interval, check.timeout, check.down_interval];
        assert_eq!(times.map(|time| time.as_secs()), [5, 1, 3, 5], "{}", check.name);
    }
    assert_eq!([lag.effect, http.effect, exec.effect], [Effect::Gate, Effect::Count, Effect::Count]);
    let CheckKind::Lag(Lag { tolerance, extended: true, of: Some(of) }) = &lag.kind else {
        panic!("{lag:?}")
    };
    assert_eq!(*tolerance, Duration::from_secs(5));
    assert_eq!((&of.rest.tls, of.rest.uid), (&None, None));
    let CheckKind::Http(Http { tls: None, status, contains: None, .. }) = &http.kind else {
        panic!("{http:?}")
    };
    assert_eq!(status, &[200..=200]);
    let CheckKind::Exec(Exec { user, .. }) = &exec.kind else { panic!("{exec:?}") };
    assert_eq!((user.name.as_str(), user.uid), ("nobody", 65_534));
}

#[test]
fn wrong_values() {
    let changes = [
        ("tolerance that is no time", "tolerance = \"750ms\"", "tolerance = 750"),
        ("tolerance of zero", "tolerance = \"750ms\"", "tolerance = \"0s\""),
        ("tolerance with a fraction", "tolerance = \"750ms\"", "tolerance = \"1500us\""),
        ("extended that is a word", "extended = false", "extended = \"no\""),
        ("tolerance that nobody asks for", "extended = false", "extended = false\ntolerance = \"1s\""),
        ("key of another kind", "extended = false", "extended = false\nstatus = \"200\""),
        (
            "url that is a host",
            "url = \"https://monitor.example.com/redis?region=eu\"",
            "url = \"monitor.example.com\"",
        ),
        (
            "url with a user",
            "url = \"https://monitor.example.com/redis?region=eu\"",
            "url = \"https://me:hunter2@monitor.example.com\"",
        ),
        (
            "url with a fragment",
            "url = \"https://monitor.example.com/redis?region=eu\"",
            "url = \"https://monitor.example.com/#redis\"",
        ),
        ("neither url nor path", "url = \"https://monitor.example.com/redis?region=eu\"", ""),
        (
            "both url and path",
            "path = \"/health\"",
            "path = \"/health\"\nurl = \"http://monitor.example.com\"",
        ),
        ("path without its slash", "path = \"/health\"", "path = \"health\""),
        ("path with a space", "path = \"/health\"", "path = \"/my health\""),
        ("port 0", "port = 8443", "port = 0"),
        ("port out of range", "port = 8443", "port = 65536"),
        ("status of nothing", "status = \"200, 210-220\"", "status = \"ok\""),
        ("status that is a number", "status = \"200, 210-220\"", "status = 200"),
        ("status that is none", "status = \"200, 210-220\"", "status = \"200-1000\""),
        ("status that ends before it starts", "status = \"200, 210-220\"", "status = \"299-200\""),
        ("nothing to look for", "contains = \"role: primary\"", "contains = \"\""),
        (
            "tls for http",
            "url = \"https://monitor.example.com/redis?region=eu\"",
            "url = \"http://monitor.example.com\"\ntls = {}",
        ),
        ("no command", "command = [\"/usr/local/lib/check\", \"-v\", \"-v\", \"\"]", ""),
        ("empty command", "command = [\"/usr/local/lib/check\", \"-v\", \"-v\", \"\"]", "command = []"),
        (
            "command in one string",
            "command = [\"/usr/local/lib/check\", \"-v\", \"-v\", \"\"]",
            "command = \"/bin/check -v\"",
        ),
        (
            "command to be looked for",
            "command = [\"/usr/local/lib/check\", \"-v\", \"-v\", \"\"]",
            "command = [\"check\"]",
        ),
        (
            "command with a number",
            "command = [\"/usr/local/lib/check\", \"-v\", \"-v\", \"\"]",
            "command = [\"/check\", 5]",
        ),
        (
            "command with a NUL",
            "command = [\"/usr/local/lib/check\", \"-v\", \"-v\", \"\"]",
            "command = [\"/check\", \"\\u0000\"]",
        ),
        ("root as user", "user = \"990:991\"", "user = \"root\""),
        ("user that is not there", "user = \"990:991\"", "user = \"no-such-user\""),
        ("member without rest", "[service.member.rest]", "[service.member.redis]"),
        ("rest without url", "url = \"https://cluster.dublin.example.com:9443/\"", ""),
        (
            "rest without port",
            "url = \"https://cluster.dublin.example.com:9443/\"",
            "url = \"https://cluster.dublin.example.com\"",
        ),
        (
            "rest with a path",
            "url = \"https://cluster.dublin.example.com:9443/\"",
            "url = \"https://cluster.dublin.example.com:9443/v1/bdbs\"",
        ),
        (
            "rest without https",
            "url = \"https://cluster.dublin.example.com:9443/\"",
            "url = \"http://cluster.dublin.example.com:8080\"",
        ),
        ("rest without user", "username = \"viewer\"", ""),
        ("user with a colon", "username = \"viewer\"", "username = \"viewer:hunter2\""),
        ("rest without password", "password_file = \"dublin.password\"", ""),
        (
            "authorities that are none",
            "ca_file = \"ca.pem\"\nserver_name = \"dublin.example.com\"",
            "ca_file = \"empty.password\"",
        ),
        (
            "server_name that is none",
            "server_name = \"dublin.example.com\"",
            "server_name = \"dublin example\"",
        ),
        ("uid of zero", "uid = 7", "uid = 0"),
        ("path for a url", "path = \"/healthz\"", "url = \"http://127.0.0.1\""),
        ("port for a url", "url = \"http://10.3.1.9/dublin\"", "port = 80"),
        ("key that is not overridden", "url = \"http://10.3.1.9/dublin\"", "contains = \"x\""),
        (
            "target of another kind",
            "name = \"sidecar\"\npath = \"/healthz\"",
            "name = \"exec\"\npath = \"/healthz\"",
        ),
        ("key of nothing", "uid = 7", "uid = 7\npassword = \"hunter2\""),
    ];
    let directory = Directory::new();
    let mut table = String::new();
    for (title, line, written) in changes {
        assert!(WITNESS.contains(&format!("{line}\n")), "{title}: {line:?} is no line of the legal file");
        let text = WITNESS.replacen(&format!("{line}\n"), &format!("{written}\n"), 1);
        let message = directory.message(&text);
        assert!(!message.contains("hunter2") && !message.contains("swordfish"), "{message}");
        let shown = if written.is_empty() { format!("without {line}") } else { written.to_owned() };
        write!(table, "{title}\n    {}\n{message}\n\n", shown.replace('\n', "\n    ")).unwrap();
    }
    insta::assert_snapshot!(table);
}
