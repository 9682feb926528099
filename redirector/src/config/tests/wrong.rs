//! Each wrong file and its message. The snapshots show title, what was written, and the message.

use std::fmt::Write as _;

use super::*;

/// Changes of one line of the full legal file: title, line as it is, lines as they are written instead.
type Changes = &'static [(&'static str, &'static str, &'static str)];

/// Title and message of every change.
fn messages(changes: Changes) -> String {
    let directory = Directory::new();
    let mut table = String::new();
    for (title, line, written) in changes {
        assert!(FULL.contains(&format!("{line}\n")), "{title}: {line:?} is no line of the legal file");
        let text = FULL.replacen(&format!("{line}\n"), &format!("{written}\n"), 1);
        let shown = if written.is_empty() { format!("without {line}") } else { (*written).to_owned() };
        let indented = shown.replace('\n', "\n    ");
        write!(table, "{title}\n    {indented}\n{}\n\n", directory.message(&text)).unwrap();
    }
    table
}

/// The same for whole files.
fn messages_of_files(files: &[(&str, &str)]) -> String {
    let directory = Directory::new();
    let mut table = String::new();
    for (title, text) in files {
        let indented = text.replace('\n', "\n    ");
        write!(table, "{title}\n    {indented}\n{}\n\n", directory.message(text)).unwrap();
    }
    table
}

#[test]
fn syntax_and_types() {
    let table = messages_of_files(&[
        ("empty file", ""),
        ("string without its end", "[agent]\nstate_dir = \"/var"),
        ("key without value", "[agent]\nstate_dir ="),
        ("bracket without its end", "[[service]\n"),
        ("key given twice", "[agent]\nstate_dir = \"/a\"\nstate_dir = \"/b\""),
        ("section given twice", "[agent]\n[agent]"),
        ("one table where several are expected", "[service]\nname = \"orders\""),
        ("a number where tables are expected", "service = 1"),
        ("numbers where tables are expected", "service = [1]"),
        ("no service in the array", "service = []"),
        ("several tables where one is expected", "[[agent]]"),
        ("column counts characters, not bytes", "service = [\"ä\", 1]"),
        ("service with nothing in it", "[[service]]"),
        (
            "no member in the array",
            "[[service]]\nname = \"orders\"\nvips = [\"10.255.0.1:6379\"]\nmember = []",
        ),
        (
            "VIPs that a literal member cannot serve",
            "[[service]]\nname = \"orders\"\nvips = [\"10.255.0.1:6379\", \"[fd00:255::1]:6379\"]\n\
             member = [{ name = \"paris\", endpoint = \"10.2.1.2:6379\" }]",
        ),
    ]);
    insta::assert_snapshot!(table);
}

#[test]
fn keys() {
    let table = messages(&[
        ("misspelt key", "weight = 10", "wieght = 10"),
        ("misspelt section", "[service.failback]", "[service.failbak]"),
        ("key of another section", "max_flows = 16", "max_flows = 16\nweight = 10"),
        ("section at the wrong level", "[service.failback]", "[failback]"),
        ("key of nothing", "fall = 5", "fall = 5\ncolour = \"blue\""),
        ("section of nothing", "[agent]", "[fleet]\n[agent]"),
        (
            "key that is not built: tls",
            "username = \"probe\"",
            "username = \"probe\"\ntls = { ca_file = \"/etc/ca.pem\" }",
        ),
        ("profile of nothing", "profile = \"fast\"", "profile = \"quick\""),
        ("check of nothing", "kind = \"tcp\"", "kind = \"icmp\""),
    ]);
    insta::assert_snapshot!(table);
}

#[test]
fn health() {
    let table = messages(&[
        ("combination of nothing", "combine = \"at_least\"", "combine = \"most\""),
        ("no number to combine with", "at_least = 1", ""),
        ("more than there are checks that count", "at_least = 1", "at_least = 3"),
        ("none of them", "at_least = 1", "at_least = 0"),
        ("a number that nobody asks for", "combine = \"at_least\"", "combine = \"all\""),
        ("tolerance without unit", "silence_tolerance = \"350ms\"", "silence_tolerance = \"350\""),
        ("tolerance that is none", "silence_tolerance = \"350ms\"", "silence_tolerance = \"0ms\""),
        ("tolerance shorter than a hiccup", "stall_tolerance = \"2s\"", "stall_tolerance = \"9ms\""),
        ("tolerance of a year", "refused_tolerance = \"6s\"", "refused_tolerance = \"1y\""),
        ("effect of nothing", "effect = \"veto\"", "effect = \"block\""),
        ("no interval while down", "down_interval = \"3s\"", "down_interval = \"0s\""),
        ("jitter of more than half", "jitter_percent = 25", "jitter_percent = 51"),
        ("no probe", "probes = 3", "probes = 0"),
        ("a round that is longer than the interval", "probe_delay = \"150ms\"", "probe_delay = \"300ms\""),
        ("policy of nothing", "policy = \"majority\"", "policy = \"most\""),
    ]);
    let only_gates = messages_of_files(&[(
        "no check decides",
        "[[service]]\nname = \"orders\"\nvips = [\"10.255.0.1:6379\"]\n[[service.check]]\neffect = \"gate\"\n\
         [[service.check]]\nname = \"seen\"\neffect = \"observe\"\n\
         [[service.member]]\nname = \"paris\"\nendpoint = \"10.2.1.2:6379\"",
    )]);
    insta::assert_snapshot!(table + &only_gates);
}

#[test]
fn traffic() {
    let table = messages(&[
        ("a breaker that sees nothing", "signals = \"observe\"", "signals = \"off\""),
        ("signals of nothing", "signals = \"observe\"", "signals = \"ignore\""),
        ("resets over no time", "reset_over = \"3s\"", "reset_over = \"-1s\""),
        ("no failure", "minimum_failures = 50", "minimum_failures = 0"),
        ("more than all", "failure_rate = 25", "failure_rate = 101"),
        ("a rate as the libraries write it", "failure_rate = 25", "failure_rate = 0.1"),
        ("window shorter than two looks", "window = \"4s\"", "window = \"100ms\""),
        ("open for no time", "open_for = \"20s\"", "open_for = \"0s\""),
        ("nobody may connect", "new_connections = 1500", "new_connections = 0"),
        ("a limit without a number", "new_connections = 1500", ""),
        ("no burst", "burst = 40", "burst = 0"),
    ]);
    insta::assert_snapshot!(table);
}

#[test]
fn a_burst_that_is_not_written_is_a_fifth() {
    for (new_connections, burst) in [(1500, 300), (3, 1)] {
        let text = FULL
            .replace("new_connections = 1500\nburst = 40", &format!("new_connections = {new_connections}"));
        let config = Directory::new().parse(&text).unwrap();
        assert_eq!(config.services[0].limit.unwrap(), OpenLimit { new_connections, burst });
    }
}

#[test]
fn agent_and_datapath() {
    let table = messages(&[
        (
            "relative socket",
            "control_socket = \"/run/other/control.sock\"",
            "control_socket = \"control.sock\"",
        ),
        (
            "socket with a path longer than sun_path",
            "control_socket = \"/run/other/control.sock\"",
            "control_socket = \"/run/0123456789/0123456789/0123456789/0123456789/0123456789/0123456789/0123456789/\
             0123456789/0123456789/control.sock\"",
        ),
        ("relative state_dir", "state_dir = \"/var/lib/other\"", "state_dir = \"./state\""),
        ("NUL in a path", "state_dir = \"/var/lib/other\"", "state_dir = \"/var/\\u0000lib\""),
        ("a number for a path", "state_dir = \"/var/lib/other\"", "state_dir = 5"),
        ("no name of a group", "operator_group = \"operators\"", "operator_group = \"\""),
        ("two names of groups", "operator_group = \"operators\"", "operator_group = [\"adm\", \"wheel\"]"),
        ("a line of /etc/group", "operator_group = \"operators\"", "operator_group = \"adm:x:4\""),
        ("metrics at a name", "\"[::1]:9110\"", "\"localhost:9110\""),
        ("metrics without a port", "\"[::1]:9110\"", "\"127.0.0.1\""),
        ("metrics at port 0", "\"[::1]:9110\"", "\"[::1]:0\""),
        ("hook that is not built: xdp", "hooks = [\"tc\"]", "hooks = [\"xdp\"]"),
        ("hook that is not built: connect", "hooks = [\"tc\"]", "hooks = [\"tc\", \"connect\"]"),
        ("hook of nothing", "hooks = [\"tc\"]", "hooks = [\"tcx\"]"),
        ("no hook", "hooks = [\"tc\"]", "hooks = []"),
        ("hook given twice", "hooks = [\"tc\"]", "hooks = [\"tc\", \"tc\"]"),
        ("hook without brackets", "hooks = [\"tc\"]", "hooks = \"tc\""),
        ("hook that is a number", "hooks = [\"tc\"]", "hooks = [1]"),
        ("device name too long", "device = \"redirector1\"", "device = \"redirector1234\""),
        ("device name with a slash", "device = \"redirector1\"", "device = \"redir/0\""),
        ("device name empty", "device = \"redirector1\"", "device = \"\""),
        ("device name that is a pattern", "device = \"redirector1\"", "device = \"redir%d\""),
        ("no uplink", "uplinks = [\"eth0\", \"eth1\"]", "uplinks = []"),
        ("uplink given twice", "uplinks = [\"eth0\", \"eth1\"]", "uplinks = [\"eth0\", \"eth0\"]"),
        ("uplink that is the VIP device", "uplinks = [\"eth0\", \"eth1\"]", "uplinks = [\"redirector1\"]"),
        ("relative pin_dir", "pin_dir = \"/sys/fs/bpf/other\"", "pin_dir = \"redirector\""),
        ("flow table too small", "max_flows = 16", "max_flows = 15"),
        ("flow table too large", "max_flows = 16", "max_flows = 16_777_217"),
        ("flow table negative", "max_flows = 16", "max_flows = -1"),
        ("flow table beyond every integer", "max_flows = 16", "max_flows = 0xffffffffffffffffffffffffff"),
        ("flow table that is a string", "max_flows = 16", "max_flows = \"16\""),
        ("flow table that is a fraction", "max_flows = 16", "max_flows = 1.5"),
        (
            "source address that is a name",
            "source_addresses = [\"10.1.0.3\", \"fd01::3\"]",
            "source_addresses = [\"eth0\"]",
        ),
        (
            "source address with a port",
            "source_addresses = [\"10.1.0.3\", \"fd01::3\"]",
            "source_addresses = [\"10.1.0.3:80\"]",
        ),
        (
            "loopback source address",
            "source_addresses = [\"10.1.0.3\", \"fd01::3\"]",
            "source_addresses = [\"127.0.0.1\"]",
        ),
        (
            "unspecified source address",
            "source_addresses = [\"10.1.0.3\", \"fd01::3\"]",
            "source_addresses = [\"::\"]",
        ),
        (
            "source address twice",
            "source_addresses = [\"10.1.0.3\", \"fd01::3\"]",
            "source_addresses = [\"10.1.0.3\", \"10.1.0.3\"]",
        ),
        ("one port", "port_range = \"1024-1024\"", "port_range = \"10000\""),
        ("range that is no range", "port_range = \"1024-1024\"", "port_range = \"low-high\""),
        ("range with a sign", "port_range = \"1024-1024\"", "port_range = \"+2000-3000\""),
        ("range that starts too low", "port_range = \"1024-1024\"", "port_range = \"1023-2000\""),
        ("range that ends before it starts", "port_range = \"1024-1024\"", "port_range = \"3000-2000\""),
        ("range beyond the last port", "port_range = \"1024-1024\"", "port_range = \"3000-65536\""),
        (
            "recording beside the configuration",
            "record = \"/var/lib/other/record.jsonl\"",
            "record = \"record.jsonl\"",
        ),
        ("word of nothing", "on_stop = \"detach\"", "on_stop = \"leave\""),
        ("boolean for a word", "on_stop = \"detach\"", "on_stop = true"),
    ]);
    insta::assert_snapshot!(table);
}

const VIPS: &str = "vips = [\"10.255.0.1:6379\", \"[fd00:255::1]:6379\"]";

#[test]
fn services() {
    let table = messages(&[
        ("no name", "name = \"orders\"", ""),
        ("empty name", "name = \"orders\"", "name = \"\""),
        ("name with a space", "name = \"orders\"", "name = \"my orders\""),
        (
            "name too long",
            "name = \"orders\"",
            "name = \"orders-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789\"",
        ),
        ("name that is a number", "name = \"orders\"", "name = 7"),
        ("name used twice", "name = \"sessions\"", "name = \"orders\""),
        ("no VIPs", VIPS, ""),
        ("empty VIPs", VIPS, "vips = []"),
        ("VIP without brackets", VIPS, "vips = \"10.255.0.1:6379\""),
        ("VIP without port", VIPS, "vips = [\"10.255.0.1\"]"),
        ("VIP with port 0", VIPS, "vips = [\"10.255.0.1:0\"]"),
        ("VIP with a port out of range", VIPS, "vips = [\"10.255.0.1:65536\"]"),
        ("VIP that is a name", VIPS, "vips = [\"redis.example.com:6379\"]"),
        ("IPv6 VIP without brackets", VIPS, "vips = [\"fd00:255::1:6379\"]"),
        ("IPv6 VIP with half its brackets", VIPS, "vips = [\"[fd00:255::1\"]"),
        ("IPv6 VIP that is v4-mapped", VIPS, "vips = [\"[::ffff:10.255.0.1]:6379\"]"),
        ("IPv6 VIP that is link-local", VIPS, "vips = [\"[fe80::1]:6379\"]"),
        ("IPv6 VIP with a zone", VIPS, "vips = [\"[fd00:255::1%2]:6379\"]"),
        ("unspecified VIPs", VIPS, "vips = [\"0.0.0.0:6379\", \"[::]:6379\"]"),
        ("multicast VIPs", VIPS, "vips = [\"224.0.0.1:6379\", \"[ff02::1]:6379\"]"),
        ("loopback VIPs", VIPS, "vips = [\"127.0.0.1:6379\", \"[::1]:6379\"]"),
        ("broadcast VIP", VIPS, "vips = [\"255.255.255.255:6379\"]"),
        ("VIP twice in one service", VIPS, "vips = [\"10.255.0.1:6379\", \"10.255.0.1:6379\"]"),
        ("VIP twice in two spellings", VIPS, "vips = [\"[fd00::1]:6379\", \"[fd00:0::1]:6379\"]"),
        ("VIP of another service", VIPS, "vips = [\"[fd00:255::2]:6379\"]"),
        ("policy of nothing", "on_failover = \"keep\"", "on_failover = \"kill\""),
        ("time without unit", "drain_timeout = \"90s\"", "drain_timeout = \"90\""),
        ("time that is a number", "drain_timeout = \"90s\"", "drain_timeout = 90"),
        ("time of zero", "drain_timeout = \"90s\"", "drain_timeout = \"0s\""),
        ("time without end", "initial_timeout = \"7s\"", "initial_timeout = \"100years\""),
        ("time that is empty", "initial_timeout = \"7s\"", "initial_timeout = \"\""),
        ("failback of nothing", "mode = \"manual\"", "mode = \"slow\""),
        ("half-life of nothing", "flap_half_life = \"5m\"", "flap_half_life = \"slow\""),
        ("no member", "[[service.member]]\nname = \"paris\"\nendpoint = \"[fd00:2::2]:6379\"", ""),
        ("check without interval", "interval = \"500ms\"", "interval = \"0s\""),
        ("fast_interval of zero", "fast_interval = \"20ms\"", "fast_interval = \"0ms\""),
        ("fast_interval longer than interval", "fast_interval = \"20ms\"", "fast_interval = \"2s\""),
        ("probe without time", "timeout = \"250ms\"", "timeout = \"0ms\""),
        ("fall of 0", "fall = 5", "fall = 0"),
        ("rise of 0", "rise = 4", "rise = 0"),
    ]);
    insta::assert_snapshot!(table);
}

const PARIS: &str = "endpoint = \"redis.paris.example.com:6379\"";

#[test]
fn members() {
    let table = messages(&[
        ("no name", "name = \"paris\"", ""),
        ("name used twice", "name = \"dublin\"", "name = \"paris\""),
        ("no endpoint", PARIS, ""),
        ("endpoint without port", PARIS, "endpoint = \"redis.paris.example.com\""),
        ("endpoint with port 0", PARIS, "endpoint = \"redis.paris.example.com:0\""),
        ("endpoint with a port out of range", PARIS, "endpoint = \"redis.paris.example.com:65536\""),
        ("endpoint with a signed port", PARIS, "endpoint = \"redis.paris.example.com:+6379\""),
        ("endpoint without host", PARIS, "endpoint = \":6379\""),
        ("endpoint with an illegal host", PARIS, "endpoint = \"redis paris:6379\""),
        ("endpoint that is a URL", PARIS, "endpoint = \"redis://:hunter2@paris.example.com:6379\""),
        ("endpoint with half an address", PARIS, "endpoint = \"10.2.1:6379\""),
        ("endpoint with an address out of range", PARIS, "endpoint = \"10.2.1.256:6379\""),
        ("IPv6 endpoint without brackets", PARIS, "endpoint = \"fd00:2::2:6379\""),
        ("name in brackets", PARIS, "endpoint = \"[redis.paris.example.com]:6379\""),
        ("unspecified endpoint", PARIS, "endpoint = \"0.0.0.0:6379\""),
        ("v4-mapped endpoint", PARIS, "endpoint = \"[::ffff:10.2.1.2]:6379\""),
        ("endpoint with a VIP's address", PARIS, "endpoint = \"[fd00:255::2]:12000\""),
        ("IPv4 member of an IPv6 VIP", "endpoint = \"[fd00:2::2]:6379\"", "endpoint = \"10.2.1.2:6379\""),
        ("weight of 0", "weight = 10", "weight = 0"),
        ("weight out of range", "weight = 10", "weight = 4294967296"),
        ("several faults", "weight = 10", "weight = 0\ncolour = \"blue\"\nrest = {}"),
    ]);
    insta::assert_snapshot!(table);
}

#[test]
fn logins() {
    let table = messages(&[
        (
            "password file that is not there",
            "password_file = \"orders.password\"",
            "password_file = \"other.password\"",
        ),
        ("password file that is a directory", "password_file = \"orders.password\"", "password_file = \".\""),
        (
            "password file that is empty",
            "password_file = \"orders.password\"",
            "password_file = \"empty.password\"",
        ),
        (
            "password file that is not text",
            "password_file = \"orders.password\"",
            "password_file = \"latin1.password\"",
        ),
        (
            "password file that is large",
            "password_file = \"dublin.password\"",
            "password_file = \"large.password\"",
        ),
        ("user without password", "password_file = \"orders.password\"", ""),
        ("empty user", "username = \"probe\"", "username = \"\""),
        ("login without keys", "[service.redis]", "redis = \"probe:hunter2\"\n[service.redis2]"),
        ("password in the file", "password_file = \"orders.password\"", "password = \"hunter2\""),
        (
            "password twice",
            "password_file = \"orders.password\"",
            "password_file = \"orders.password\"\npassword_credential = \"sessions-password\"",
        ),
        (
            "credential that is not there",
            "password_credential = \"sessions-password\"",
            "password_credential = \"other\"",
        ),
        (
            "credential that is a path",
            "password_credential = \"sessions-password\"",
            "password_credential = \"../shadow\"",
        ),
    ]);
    insta::assert_snapshot!(table);
}

#[test]
fn a_credential_takes_systemd() {
    let text = FULL.replace("sessions-password", "orders-password");
    let error = parse_with(Path::new("/etc/redirector.toml"), &text, None).unwrap_err().to_string();
    let line = error.lines().find(|line| line.contains("credential")).unwrap();
    assert_eq!(
        line.split_once(": ").unwrap().1,
        "service \"sessions\": `password_credential` \"orders-password\" without \
         $CREDENTIALS_DIRECTORY, which systemd sets for a service that has credentials; add \
         LoadCredential=orders-password:PATH to the unit; outside of it set CREDENTIALS_DIRECTORY, or use \
         `password_file`"
    );
}

#[test]
fn tls_that_cannot_be() {
    const TLS: &str = r#"tls = { ca_file = "ca.pem", server_name = "orders.example.com", certificate_file = "probe.pem", key_file = "probe.key" }"#;
    let table = messages(&[
        ("authorities that are not there", TLS, r#"tls = { ca_file = "other.pem" }"#),
        ("authorities that are none", TLS, r#"tls = { ca_file = "orders.password" }"#),
        ("a key as authority", TLS, r#"tls = { ca_file = "probe.key" }"#),
        ("certificate without key", TLS, r#"tls = { ca_file = "ca.pem", certificate_file = "probe.pem" }"#),
        ("key without certificate", TLS, r#"tls = { ca_file = "ca.pem", key_file = "probe.key" }"#),
        (
            "key that is none",
            TLS,
            r#"tls = { ca_file = "ca.pem", certificate_file = "probe.pem", key_file = "ca.pem" }"#,
        ),
        (
            "key of another certificate",
            TLS,
            r#"tls = { ca_file = "ca.pem", certificate_file = "probe.pem", key_file = "other.key" }"#,
        ),
        ("name that no certificate has", TLS, r#"tls = { ca_file = "ca.pem", server_name = "a b" }"#),
        ("name with a port", TLS, r#"tls = { ca_file = "ca.pem", server_name = "a:6379" }"#),
        ("unknown key", TLS, r#"tls = { ca = "ca.pem", ca_file = "ca.pem" }"#),
        ("no table", r#"tls = { server_name = "dublin.example.com" }"#, "tls = true"),
        (
            "another key by a member",
            r#"tls = { server_name = "dublin.example.com" }"#,
            r#"tls = { key_file = "other.key" }"#,
        ),
    ]);
    insta::assert_snapshot!(table);
}

#[test]
fn checks_that_cannot_be() {
    let table = messages(&[
        ("key of another kind", "kind = \"set_get\"", "kind = \"echo\""),
        ("role of a kind that does not ask", "kind = \"tcp\"", "kind = \"tcp\"\nrole = \"primary\""),
        ("unknown role", "role = \"primary\"", "role = \"replica\""),
        ("unknown error", "counted_errors = [\"LOADING\", \"OOM\"]", "counted_errors = [\"ERR\"]"),
        ("error twice", "counted_errors = [\"LOADING\", \"OOM\"]", "counted_errors = [\"OOM\", \"OOM\"]"),
        ("credentials", "counted_errors = [\"LOADING\", \"OOM\"]", "counted_errors = [\"NOPERM\"]"),
        ("empty prefix", "prefix = \"health:\"", "prefix = \"\""),
        ("value that is gone too early", "expiry = \"90s\"", "expiry = \"500ms\""),
        ("check that the service does not have", "name = \"quick\"\ntimeout = \"2s\"", "name = \"slow\""),
        ("check without a name", "name = \"quick\"\ntimeout = \"2s\"", "timeout = \"2s\""),
        (
            "check twice",
            "name = \"quick\"\ntimeout = \"2s\"",
            "name = \"quick\"\n[[service.member.check]]\nname = \"quick\"",
        ),
        ("override that does not fit", "timeout = \"2s\"", "fast_interval = \"10s\""),
        ("key that is not for a member", "timeout = \"2s\"", "kind = \"tcp\""),
    ]);
    insta::assert_snapshot!(table);
}

#[test]
fn no_redis_error_needs_to_count() {
    let text = FULL.replace("counted_errors = [\"LOADING\", \"OOM\"]", "counted_errors = []");
    let config = Directory::new().parse(&text).unwrap();
    assert!(config.services[0].checks[2].counted_errors.is_empty());
}

/// Invariant 12. The password files hold "hunter2" and "swordfish"; the tables above write them elsewhere too.
#[test]
fn no_message_contains_a_password() {
    let table = messages(&[
        ("in an endpoint", PARIS, "endpoint = \"redis://:hunter2@redis.example.com:6379\""),
        ("in a key of its own", "username = \"probe\"", "username = \"probe\"\npassword = \"hunter2\""),
        ("in place of the section", "[service.redis]", "redis = \"hunter2\"\n[service.login]"),
        ("beside another fault", "weight = 10", "weight = 0"),
    ]);
    let messages: Vec<_> = table.lines().filter(|line| line.starts_with("/etc/")).collect();
    assert!(messages.len() >= 4, "{table}");
    assert!(messages.iter().all(|line| !line.contains("hunter2") && !line.contains("swordfish")), "{table}");
}

#[test]
fn files_that_cannot_be_read() {
    let directory = Directory::new();
    let message = |name: &str| {
        let error = load(&directory.0.join(name)).unwrap_err();
        error.to_string().replace(directory.0.to_str().unwrap(), "/etc")
    };
    directory.write("latin1.toml", b"[agent]\n# \xfcber\n");
    let table = ["other.toml", ".", "latin1.toml"].map(message).join("\n");
    insta::assert_snapshot!(table);
}
