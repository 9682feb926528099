//! `[service.application]`: what it comes to, and what is wrong with it.

use super::*;
use crate::model::Application;

/// Every key, none with its default.
const WHOLE: &str = r#"
[[service]]
name = "orders"
vips = ["10.255.0.1:6379"]
[service.redis]
tls = { ca_file = "ca.pem" }
[service.application]
username = "app"
password_file = "orders.password"
server_name = "orders.internal"
ready_every = "30s"
[[service.member]]
name = "paris"
endpoint = "10.2.1.2:6379"
"#;

fn application(text: &str) -> Application {
    Directory::new().parse(text).unwrap_or_else(|error| panic!("{error}")).services.remove(0).application
}

#[test]
fn every_key_reaches_the_model() {
    let expected = Application {
        login: login("app", "hunter2"),
        server_name: Some("orders.internal".to_owned()),
        ready_every: Duration::from_secs(30),
    };
    assert_eq!(application(WHOLE), expected);
    assert_eq!(expected.of_the_agent(), expected);
}

#[test]
fn without_the_section_there_is_nobody_to_log_in_as() {
    let found = application(MINIMAL);
    assert_eq!(found, Application::default());
    assert_eq!((found.login, found.ready_every), (Login::default(), Duration::from_secs(60)));
}

/// The other facts take no credentials of applications.
#[test]
fn at_zero_the_agent_looks_without_them() {
    let found = application(&WHOLE.replace("30s", "0s"));
    assert_eq!(found.login, login("app", "hunter2"));
    assert_eq!(found.of_the_agent().login, Login::default());
    assert_eq!(found.every(), Duration::from_secs(60));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let directory = Directory::new();
    for (line, written, message) in [
        (
            "password_file = \"orders.password\"",
            "",
            "8:12: service \"orders\": `username` without `password_file` or `password_credential`; name the file with the \
             password that applications use, or remove `username`",
        ),
        (
            "tls = { ca_file = \"ca.pem\" }",
            "",
            "10:15: service \"orders\": `server_name` where no member is reached by TLS; add `tls` to [service.redis], or \
             remove `server_name`",
        ),
        (
            "ready_every = \"30s\"",
            "ready_every = \"200ms\"",
            "11:15: service \"orders\": `ready_every` is 200ms, under 1s; give at least 1s, or 0s for no look with the \
             applications' login",
        ),
        (
            "server_name = \"orders.internal\"",
            "server_name = \"orders.internal:6379\"",
            "10:15: service \"orders\": `server_name` \"orders.internal:6379\" is neither a DNS name nor an address; give \
             a DNS name or an address, without a port",
        ),
        (
            "ready_every = \"30s\"",
            "tls = {}",
            "11:1: service \"orders\": unknown key `tls` in [service.application]; it belongs in [service.redis.tls]",
        ),
    ] {
        assert!(WHOLE.contains(line), "{line}");
        let found = directory.message(&WHOLE.replacen(line, written, 1));
        assert_eq!(found.trim_end(), format!("/etc/redirector.toml:{message}"));
    }
}
