//! A legal file gives the model that it should, each wrong one the message that it should.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use super::*;
use crate::decide::detection::{self, Prompt, Trouble};
use crate::model::{
    Access, Agent, Application, Attach, Authorities, Breaker, Check, CheckKind, Combine, Config, Datapath,
    Detect, Effect, Endpoint, Failback, FailbackMode, FlowPolicy, Hook, HookFailure, HookRun, HookWhen,
    Identity, IdleTimeouts, Initial, Login, Member, OnAllDown, OnStop, OpenLimit, Policy, PortRange, Profile,
    RedisErrorKind, Role, Secret, Service, Signals, SwitchKind, Tls, Trust, Url, User,
};

mod application;
mod documented;
mod host;
mod properties;
mod resolving;
mod shards;
mod witness;
mod wrong;

/// A configuration of these services with these members.
pub(crate) fn configuration(services: &[(&str, &[&str])]) -> Config {
    let mut text = String::new();
    for (number, (service, members)) in services.iter().enumerate() {
        text += &format!("[[service]]\nname = {service:?}\nvips = [\"192.0.2.{}:6379\"]\n", number + 1);
        for (place, member) in members.iter().enumerate() {
            let endpoint = format!("198.51.100.{}:6379", number * 10 + place + 1);
            text += &format!("[[service.member]]\nname = {member:?}\nendpoint = {endpoint:?}\n");
        }
    }
    parse(Path::new("test.toml"), &text).unwrap().config
}

/// Every key that is built, none with its default.
const FULL: &str = include_str!("tests/full.toml");

/// Nothing that need not be said.
const MINIMAL: &str = r#"
[[service]]
name = "orders"
vips = ["10.255.0.1:6379"]
[[service.member]]
name = "paris"
endpoint = "10.2.1.2:6379"
"#;

/// A certificate and its private key, as PEM.
static CERTIFICATE: LazyLock<(String, String)> = LazyLock::new(new_certificate);

fn new_certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["orders.example.com".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// A directory with passwords and certificates; a configuration is parsed as if it stood there.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("redirector-config-{}-{number}", process::id()));
        fs::create_dir(&path).unwrap();
        let directory = Self(path);
        directory.write("orders.password", b"hunter2\n");
        directory.write("dublin.password", b"swordfish");
        directory.write("application.password", b"opensesame\n");
        directory.write("empty.password", b"\n");
        directory.write("latin1.password", b"h\xfcnter");
        directory.write("large.password", &[b'x'; 5000]);
        directory.write("sessions-password", b"xyzzy\n");
        let (certificate, key) = &*CERTIFICATE;
        directory.write("ca.pem", certificate.as_bytes());
        directory.write("probe.pem", certificate.as_bytes());
        directory.write("probe.key", key.as_bytes());
        directory.write("other.key", new_certificate().1.as_bytes());
        directory
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.0.join(name), content).unwrap();
    }

    fn parse(&self, text: &str) -> Result<Config, Error> {
        let credentials = Some(self.0.clone());
        parse_with(&self.0.join("redirector.toml"), text, credentials).map(|loaded| loaded.config)
    }

    /// The message, as if the directory were /etc.
    fn message(&self, text: &str) -> String {
        match self.parse(text) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.to_string().replace(self.0.to_str().unwrap(), "/etc"),
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn vips<const N: usize>(vips: [&str; N]) -> Vec<SocketAddr> {
    vips.iter().map(|vip| vip.parse().unwrap()).collect()
}

/// That of the full legal file.
fn tls(server_name: &str) -> Option<Tls> {
    let (certificate, key) = CERTIFICATE.clone();
    let identity = Identity { certificate: certificate.clone(), key: Secret::new(key) };
    let trust = Trust { authorities: Authorities::Pem(certificate), identity: Some(identity) };
    Some(Tls { server_name: Some(server_name.to_owned()), trust: Arc::new(trust) })
}

/// In clear.
fn access(host: &str, login: Login) -> Access {
    Access { login, tls: None, host: host.to_owned() }
}

fn login(username: &str, password: &str) -> Login {
    Login { username: Some(username.to_owned()), password: Some(Secret::new(password.to_owned())) }
}

#[test]
fn programs_are_attached_in_the_way_that_is_said() {
    for (word, attach) in [("auto", Attach::Auto), ("tcx", Attach::Tcx), ("clsact", Attach::Clsact)] {
        let text = format!("[datapath]\nattach = \"{word}\"\n{MINIMAL}");
        assert_eq!(parse(Path::new("redirector.toml"), &text).unwrap().config.datapath.attach, attach);
    }
    let message = Directory::new().message(&format!("[datapath]\nattach = \"xdp\"\n{MINIMAL}"));
    assert!(message.contains(r#"`attach` does not know "xdp"; use "auto", "tcx" or "clsact""#), "{message}");
}

#[test]
fn what_is_not_said_has_the_defaults_of_the_contract() {
    let expected = Config {
        agent: Agent {
            control_socket: "/run/redirector/control.sock".into(),
            state_dir: "/var/lib/redirector".into(),
            operator_group: None,
            metrics_listen: None,
            record: None,
        },
        datapath: Datapath {
            device: "redirector0".to_owned(),
            uplinks: Vec::new(),
            pin_dir: "/sys/fs/bpf/redirector".into(),
            max_flows: 262_144,
            source_addresses: Vec::new(),
            port_range: PortRange { first: 10_000, last: 32_767 },
            idle_timeouts: IdleTimeouts {
                opening: Duration::from_secs(30),
                established: Duration::from_secs(24 * 60 * 60),
                closing: Duration::from_secs(120),
            },
            half_open_per_source: None,
            half_open_per_service: None,
            on_stop: OnStop::Keep,
            attach: Attach::Auto,
        },
        services: vec![Service {
            name: "orders".to_owned(),
            vips: vips(["10.255.0.1:6379"]),
            on_failover: FlowPolicy::Reset,
            on_failback: FlowPolicy::Drain,
            drain_timeout: Duration::from_secs(30),
            reset_over: Duration::ZERO,
            signals: Signals::Act,
            breaker: None,
            limit: None,
            on_all_down: OnAllDown::Stay,
            initial: Initial::Any,
            initial_timeout: Duration::from_secs(5),
            failback: Failback {
                mode: FailbackMode::Auto,
                healthy_for: Duration::from_secs(60),
                hold_down: Duration::from_secs(30),
                flap_half_life: Duration::from_secs(600),
            },
            profile: Profile::Balanced,
            combine: Combine::All,
            checks: vec![Check {
                name: "ping".to_owned(),
                kind: CheckKind::Ping,
                interval: Duration::from_secs(1),
                fast_interval: Duration::from_millis(50),
                timeout: Duration::from_secs(1),
                fall: 3,
                rise: 2,
                effect: Effect::Count,
                down_interval: Duration::from_secs(1),
                jitter_percent: 10,
                probes: 1,
                probe_delay: Duration::from_millis(100),
                policy: Policy::All,
                detect: Detect {
                    silence_tolerance: Duration::from_millis(300),
                    stall_tolerance: Duration::from_secs(1),
                    refused_tolerance: Duration::ZERO,
                },
                ..Check::of(CheckKind::Ping)
            }],
            hooks: Vec::new(),
            application: Application::default(),
            members: vec![Member {
                name: "paris".to_owned(),
                endpoint: Endpoint { host: "10.2.1.2".to_owned(), port: 6379 },
                weight: 100,
                access: access("10.2.1.2", Login::default()),
                rest: None,
                checks: vec![Check::of(CheckKind::Ping)],
            }],
        }],
    };
    assert_eq!(parse(Path::new("redirector.toml"), MINIMAL).unwrap().config, expected);
}

/// Those of the full legal file.
fn hooks() -> Vec<Hook> {
    let user = User { name: "7:8".to_owned(), uid: 7, gid: 8 };
    let authorities = Authorities::Pem(CERTIFICATE.0.clone());
    let (host, path) = ("hooks.example.com".to_owned(), "/secret".to_owned());
    vec![
        Hook {
            name: "/usr/bin/may-switch".to_owned(),
            when: HookWhen::Before,
            kinds: vec![SwitchKind::Manual],
            timeout: Duration::from_secs(3),
            on_failure: HookFailure::GoOn,
            run: HookRun::Command { command: vec!["/usr/bin/may-switch".to_owned(), "now".to_owned()], user },
        },
        Hook {
            name: "https://hooks.example.com".to_owned(),
            when: HookWhen::After,
            kinds: vec![SwitchKind::Initial, SwitchKind::Failover, SwitchKind::Failback, SwitchKind::Manual],
            timeout: Duration::from_secs(5),
            on_failure: HookFailure::Veto,
            run: HookRun::Url {
                url: Url { is_https: true, host, port: 443, path },
                tls: Some(Tls {
                    server_name: Some("other.example.com".to_owned()),
                    trust: Arc::new(Trust { authorities, identity: None }),
                }),
            },
        },
    ]
}

#[test]
fn hooks_that_cannot_be_meant_are_faults() {
    let message = |hook: &str| {
        Directory::new().message(
            &MINIMAL.replace("[[service.member]]", &format!("[[service.hook]]\n{hook}\n[[service.member]]")),
        )
    };
    let before = "when = \"before\"\ncommand = [\"/bin/true\"]";
    for (hook, words) in [
        (before.to_owned(), "accepted"),
        ("command = [\"/bin/true\"]".to_owned(), "`when` is missing"),
        ("when = \"after\"".to_owned(), "a hook without `command` or `url`; add one of them"),
        (format!("{before}\nurl = \"http://a.example\""), "`command` and `url` in one hook"),
        (format!("{before}\nca_file = \"ca.pem\""), "`ca_file` means nothing to a hook with `command`"),
        (before.replace("/bin/true", "true"), "the program \"true\" is not an absolute path"),
        (format!("{before}\nkinds = [\"failover\"]"), "a hook before a switch of kind \"failover\""),
        (format!("{before}\nkinds = [\"fallback\"]"), "`kinds` does not know \"fallback\""),
        (format!("{before}\ntimeout = \"21s\""), "longer than 20s together"),
        (
            "when = \"after\"\ncommand = [\"/bin/true\"]\non_failure = \"veto\"".to_owned(),
            "`on_failure` of a hook after the switch",
        ),
    ] {
        let said = message(&hook);
        assert!(said.contains(words), "{hook}: {said}");
    }
}

#[test]
fn every_key_that_is_built_reaches_the_model() {
    let detect = Detect {
        silence_tolerance: Duration::from_millis(350),
        stall_tolerance: Duration::from_secs(2),
        refused_tolerance: Duration::from_secs(6),
    };
    let checks = vec![
        Check {
            name: "quick".to_owned(),
            kind: CheckKind::Tcp,
            interval: Duration::from_millis(500),
            fast_interval: Duration::from_millis(20),
            timeout: Duration::from_millis(250),
            fall: 5,
            rise: 4,
            effect: Effect::Veto,
            down_interval: Duration::from_secs(3),
            jitter_percent: 25,
            probes: 3,
            probe_delay: Duration::from_millis(150),
            policy: Policy::Majority,
            detect,
            ..Check::of(CheckKind::Tcp)
        },
        Check {
            name: "ping".to_owned(),
            kind: CheckKind::Ping,
            interval: Duration::from_millis(40),
            fast_interval: Duration::from_millis(10),
            timeout: Duration::from_millis(500),
            fall: 3,
            rise: 2,
            down_interval: Duration::from_millis(40),
            detect,
            role: Role::Primary,
            ..Check::of(CheckKind::Ping)
        },
        Check {
            name: "write".to_owned(),
            counted_errors: vec![RedisErrorKind::Loading, RedisErrorKind::OutOfMemory],
            detect,
            ..Check::with(
                CheckKind::SetGet { prefix: "health:".to_owned(), expiry: Duration::from_secs(90) },
                Profile::Fast,
            )
        },
    ];
    let mut checks_of_paris = checks.clone();
    checks_of_paris[0] = Check {
        timeout: Duration::from_secs(2),
        fall: 7,
        down_interval: Duration::from_secs(4),
        jitter_percent: 5,
        probes: 2,
        probe_delay: Duration::from_millis(10),
        policy: Policy::Any,
        ..checks_of_paris[0].clone()
    };
    let orders = Service {
        name: "orders".to_owned(),
        vips: vips(["10.255.0.1:6379", "[fd00:255::1]:6379"]),
        on_failover: FlowPolicy::Keep,
        on_failback: FlowPolicy::Reset,
        drain_timeout: Duration::from_secs(90),
        reset_over: Duration::from_secs(3),
        signals: Signals::Observe,
        breaker: Some(Breaker {
            minimum_failures: 50,
            failure_rate: 25,
            window: Duration::from_secs(4),
            in_a_row: 7,
            open_for: Duration::from_secs(20),
        }),
        limit: Some(OpenLimit { new_connections: 1500, burst: 40 }),
        on_all_down: OnAllDown::Refuse,
        initial: Initial::Majority,
        initial_timeout: Duration::from_secs(7),
        failback: Failback {
            mode: FailbackMode::Manual,
            healthy_for: Duration::from_secs(120),
            hold_down: Duration::ZERO,
            flap_half_life: Duration::from_secs(300),
        },
        profile: Profile::Fast,
        combine: Combine::AtLeast(1),
        checks: checks.clone(),
        hooks: Vec::new(),
        application: Application::default(),
        members: vec![
            Member {
                name: "paris".to_owned(),
                endpoint: Endpoint { host: "redis.paris.example.com".to_owned(), port: 6379 },
                weight: 10,
                access: Access {
                    tls: tls("orders.example.com"),
                    ..access("redis.paris.example.com", login("probe", "hunter2"))
                },
                checks: checks_of_paris,
                rest: None,
            },
            Member {
                name: "dublin".to_owned(),
                endpoint: Endpoint { host: "redis.dublin.example.com".to_owned(), port: 12_000 },
                weight: 5,
                access: Access {
                    tls: tls("dublin.example.com"),
                    ..access("redis.dublin.example.com", login("probe", "swordfish"))
                },
                checks,
                rest: None,
            },
        ],
    };
    let config = Directory::new().parse(FULL).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        config.agent,
        Agent {
            control_socket: "/run/other/control.sock".into(),
            state_dir: "/var/lib/other".into(),
            operator_group: Some("operators".to_owned()),
            metrics_listen: Some("[::1]:9110".parse().unwrap()),
            record: Some("/var/lib/other/record.jsonl".into()),
        }
    );
    let datapath = Datapath {
        device: "redirector1".to_owned(),
        uplinks: vec!["eth0".to_owned(), "eth1".to_owned()],
        pin_dir: "/sys/fs/bpf/other".into(),
        max_flows: 16,
        source_addresses: vec!["10.1.0.3".parse().unwrap(), "fd01::3".parse().unwrap()],
        port_range: PortRange { first: 1024, last: 1024 },
        idle_timeouts: IdleTimeouts {
            opening: Duration::from_secs(5),
            established: Duration::from_secs(3600),
            closing: Duration::from_secs(10),
        },
        half_open_per_source: Some(7),
        half_open_per_service: Some(9),
        on_stop: OnStop::Detach,
        attach: Attach::Auto,
    };
    assert_eq!(config.datapath, datapath);
    assert_eq!(config.services[0], orders);
    let sessions = &config.services[1];
    assert_eq!(sessions.vips, vips(["[fd00:255::2]:6379"]));
    assert_eq!(sessions.initial, Initial::All);
    assert_eq!(sessions.failback.mode, FailbackMode::Never);
    assert_eq!((sessions.profile, sessions.combine), (Profile::Patient, Combine::Any));
    assert_eq!(sessions.members[0].endpoint, Endpoint { host: "fd00:2::2".to_owned(), port: 6379 });
    assert_eq!(
        sessions.members[0].access,
        access("fd00:2::2", Login { username: None, password: Some(Secret::new("xyzzy".to_owned())) })
    );
    assert_eq!(sessions.hooks, hooks());
    assert_eq!(config.services.len(), 2);
}

#[test]
fn a_profile_says_what_is_not_written_and_no_more() {
    for (word, profile) in Profile::WORDS {
        let defaults = profile.defaults();
        let text = MINIMAL.replace("name = \"orders\"", &format!("name = \"orders\"\nprofile = \"{word}\""));
        let service = parse(Path::new("redirector.toml"), &text).unwrap().config.services.remove(0);
        let expected = Failback {
            mode: FailbackMode::Auto,
            healthy_for: defaults.healthy_for,
            hold_down: defaults.hold_down,
            flap_half_life: Duration::from_secs(600),
        };
        assert_eq!(service.failback, expected);
        assert_eq!(service.initial_timeout, defaults.initial_timeout);
        assert_eq!(service.drain_timeout, defaults.drain_timeout);
        assert_eq!(service.checks, [Check::with(CheckKind::Ping, profile)]);

        let written = "\n[service.failback]\nhold_down = \"1ms\"\n[service.detect]\nstall_tolerance = \"77ms\"\n\
                       [[service.check]]\nfall = 9\n";
        let service =
            parse(Path::new("redirector.toml"), &(text + written)).unwrap().config.services.remove(0);
        assert_eq!(service.failback, Failback { hold_down: Duration::from_millis(1), ..expected });
        let check = Check {
            fall: 9,
            detect: Detect { stall_tolerance: Duration::from_millis(77), ..defaults.detect },
            ..Check::with(CheckKind::Ping, profile)
        };
        assert_eq!((&service.checks, &service.members[0].checks), (&vec![check.clone()], &vec![check]));
    }
}

/// The table of profiles in the docs, row by row.
#[test]
fn the_documented_profiles_are_those_of_the_code() {
    let page = include_str!("../../../docs/configuration.md");
    let time = |time: Duration| format!("{:?}", humantime::format_duration(time).to_string());
    let all = [Profile::Fast, Profile::Balanced, Profile::Patient].map(Profile::defaults);
    let row = |key: &str, shown: [String; 3]| {
        let [fast, balanced, patient] = shown.map(|shown| format!("`{shown}`"));
        let row = format!("| `{key}` | {fast} | {balanced} | {patient} |");
        assert!(page.contains(&row), "docs/configuration.md has no row {row}");
    };
    row("interval", all.map(|all| time(all.interval)));
    row("fast_interval", all.map(|all| time(all.fast_interval)));
    row("timeout", all.map(|all| time(all.timeout)));
    row("fall", all.map(|all| all.fall.to_string()));
    row("rise", all.map(|all| all.rise.to_string()));
    row("silence_tolerance", all.map(|all| time(all.detect.silence_tolerance)));
    row("stall_tolerance", all.map(|all| time(all.detect.stall_tolerance)));
    row("refused_tolerance", all.map(|all| time(all.detect.refused_tolerance)));
    row("initial_timeout", all.map(|all| time(all.initial_timeout)));
    row("drain_timeout", all.map(|all| time(all.drain_timeout)));
    row("healthy_for", all.map(|all| time(all.healthy_for)));
    row("hold_down", all.map(|all| time(all.hold_down)));
    let prompts = [(Prompt::Interval, ""), (Prompt::Signal, ", with traffic")];
    for (trouble, (prompt, with)) in
        Trouble::ALL.into_iter().flat_map(|of| prompts.map(|prompt| (of, prompt)))
    {
        let [fast, balanced, patient] = [Profile::Fast, Profile::Balanced, Profile::Patient].map(|profile| {
            let check = Check::with(CheckKind::Ping, profile);
            detection::of_check(&check, trouble, Duration::ZERO, prompt)
                .unwrap()
                .as_nanos()
                .div_ceil(1_000_000)
        });
        let name = format!("{trouble:?}").to_lowercase();
        let row = format!("| {name}{with} | {fast} | {balanced} | {patient} |");
        assert!(page.contains(&row), "docs/configuration.md has no row {row}");
    }
}

#[test]
fn one_newline_at_the_end_of_a_password_file_is_not_part_of_the_password() {
    let directory = Directory::new();
    for (content, password) in
        [("a b", "a b"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a \n", " a ")]
    {
        directory.write("orders.password", content.as_bytes());
        let config = directory.parse(FULL).unwrap();
        let read = config.services[0].members[0].access.login.password.as_ref();
        assert_eq!(read.map(Secret::expose), Some(password), "{content:?}");
    }
}

#[test]
fn the_example_that_is_shipped_is_legal_and_names_every_key() {
    let example = include_str!("../../../packaging/redirector.toml");
    let path = Path::new("packaging/redirector.toml");
    parse(path, example).unwrap_or_else(|error| panic!("{error}"));
    for_each_section(&keys::ROOT, &mut |section| {
        assert!(example.contains(section.header), "{}", section.header);
        for (key, _) in section.built {
            assert!(example.contains(&format!("{key} = ")), "{key} of {}", section.header);
        }
    });
}

#[test]
fn the_examples_in_messages_are_legal() {
    let mut text = String::new();
    for_each_section(&keys::ROOT, &mut |section| {
        if section.header == "[[service.check]]" {
            text += &checks_with_every_key(section);
            return;
        }
        if section.header == "[[service.hook]]" {
            text += &hooks_with_every_key(section);
            return;
        }
        text += &format!("{}\n", section.header);
        // Where an http check asks is overridden in the checks named after these keys.
        let is_elsewhere = |key: &str| {
            section.header == "[[service.member.check]]" && ["url", "path", "port"].contains(&key)
        };
        // It excludes `password_file`.
        for (key, example) in section.built.iter().filter(|(key, _)| *key != "password_credential") {
            if is_elsewhere(key) {
                text += &format!("{}\nname = {key:?}\n{example}\n", section.header);
            } else {
                text += &format!("{}\n", example.replace("/etc/redirector/", ""));
            }
        }
    });
    let directory = Directory::new();
    directory.parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let credential =
        text.replacen("password_file = \"orders.password\"", "password_credential = \"orders-password\"", 1);
    directory.write("orders-password", b"xyzzy");
    directory.parse(&credential).unwrap_or_else(|error| panic!("{error}\n{credential}"));
}

/// A check for each key, of a kind that has it.
fn checks_with_every_key(section: &keys::Keys) -> String {
    let mut text = String::new();
    for (key, example) in section.built {
        let kinds = check::KEYS_OF_KINDS.iter().find(|(known, _)| known == key).map(|(_, kinds)| *kinds);
        let kind = kinds.map_or("ping", |kinds| kinds[0]);
        text += section.header;
        match *key {
            "name" => text += &format!("\nkind = \"{kind}\"\n{example}\n"),
            "kind" => text += &format!("\nname = \"{key}\"\n{example}\n"),
            // Some keys are of use beside another one only.
            "user" => {
                text +=
                    &format!("\nname = \"{key}\"\nkind = \"{kind}\"\ncommand = [\"/check\"]\n{example}\n");
            }
            "port" | "status" | "contains" => {
                text += &format!("\nname = \"{key}\"\nkind = \"{kind}\"\npath = \"/health\"\n{example}\n");
            }
            _ => text += &format!("\nname = \"{key}\"\nkind = \"{kind}\"\n{example}\n"),
        }
    }
    text
}

/// A hook for each key, beside those that it needs.
fn hooks_with_every_key(section: &keys::Keys) -> String {
    let example = |key: &str| section.example(key);
    let of = |(key, _): &(&str, &str)| {
        // Those before a switch have little time together.
        let short = if *key == "timeout" { "" } else { "timeout = \"1s\"" };
        let others: &[&str] = match *key {
            "command" | "url" => &["when"],
            "when" => &["command"],
            "ca_file" | "server_name" => &["when", "url"],
            _ => &["when", "command"],
        };
        let lines = others.iter().map(|key| example(key)).chain([example(key)]);
        format!("{}\n{short}\n{}\n", section.header, lines.collect::<Vec<_>>().join("\n"))
    };
    let text: String = section.built.iter().map(of).collect();
    text.replace("/etc/redirector/", "").replace("5s", "1s")
}

fn for_each_section(keys: &'static keys::Keys, visit: &mut impl FnMut(&'static keys::Keys)) {
    visit(keys);
    for (_, section) in keys.sections {
        for_each_section(section, visit);
    }
}
