//! What stands in the file and is wrong: exit code 2, with line and column.

use std::{fs, io, net::SocketAddr, os::unix::fs::PermissionsExt as _};

use anyhow::{Context as _, Result, ensure};
use redirector_tests::{Lab, Offloads, Scenario, VIP_PORT, VIP_V4, VIP_V6, Value, binary};

use super::{
    attempt::{Attempt, START, WRONG_USAGE, directory, end, nothing_is_left},
    devices,
};

fn scenario() -> Scenario {
    Scenario::new(Offloads::On)
}

/// Title, change of the file (old, new), where in the file, telling fragments.
type Case<'a> = (&'a str, [&'a str; 2], &'a str, &'a [&'a str]);

const V4: &str = "\"10.255.0.1:6379\"";
const M1: &str = "\"10.2.1.2:6379\"";

/// What the file alone, or the file and this host, cannot have.
const CASES: &[Case<'_>] = &[
    (
        "VIP twice in a service",
        [V4, "\"10.255.0.1:6379\", \"10.255.0.1:6379\""],
        "\"10.255.0.1:6379\"]",
        &["service \"orders\"", "twice", "first at", ":12:9", "remove one"],
    ),
    ("unknown key", ["weight = 100", "wieght = 100"], "wieght", &["member \"m1\"", "`wieght`", "weight"]),
    ("weight 0", ["weight = 100", "weight = 0"], "0\n", &["member \"m1\"", "`weight` is 0", "in that range"]),
    ("VIP with port 0", ["10.255.0.1:6379", "10.255.0.1:0"], "\"10.255.0.1:0", &["port 0", "give the port"]),
    ("member with port 0", ["10.2.1.2:6379", "10.2.1.2:0"], "\"10.2.1.2:0", &["port 0", "give the port"]),
    (
        "a member's address as a VIP",
        [V4, "\"10.2.1.2:7000\""],
        M1,
        &[
            "member \"m1\" of service \"orders\"",
            "has the address of a VIP of service \"orders\"",
            "give the VIP",
        ],
    ),
    (
        "an address of the host as a VIP",
        [V4, "\"10.1.0.2:6379\""],
        "\"10.1.0.2:6379\"",
        &["service \"orders\"", "VIP 10.1.0.2:6379 is an address of this host", "choose"],
    ),
    (
        "an IPv6 address of the host as a VIP",
        ["[fd00:255::1]:6379", "[fd01::2]:6379"],
        "\"[fd01::2]:6379\"",
        &["service \"orders6\"", "VIP [fd01::2]:6379 is an address of this host", "choose"],
    ),
    (
        "a name that does not resolve",
        [M1, "\"nosuch.invalid:6379\""],
        "\"nosuch.invalid:6379\"",
        &[
            "member \"m1\" of service \"orders\"",
            "\"nosuch.invalid:6379\" does not resolve (",
            "check the name",
        ],
    ),
    (
        "a VIP whose IP version no member has",
        [V4, "\"10.255.0.1:6379\", \"[fd00:255::9]:1\""],
        "\"[fd00:255::9]:1\"",
        &["service \"orders\"", "needs a member with an IPv6 address", "give a member"],
    ),
    (
        "a hook that is not built",
        ["[datapath]", "[datapath]\nhooks = [\"xdp\"]"],
        "\"xdp\"",
        &["hook `xdp` is not built yet", "use hooks = [\"tc\"]"],
    ),
    (
        "another hook that is not built",
        ["[datapath]", "[datapath]\nhooks = [\"tc\", \"connect\"]"],
        "\"connect\"",
        &["hook `connect` is not built yet", "use hooks = [\"tc\"]"],
    ),
    (
        "a source address that no packet may have",
        ["[datapath]", "[datapath]\nsource_addresses = [\"127.0.0.1\"]"],
        "\"127.0.0.1\"",
        &["source address \"127.0.0.1\" is a loopback address", "give addresses of this host"],
    ),
    (
        "a file that is no TOML",
        ["[datapath]", "[datapath"],
        "\ndevice",
        &["not valid TOML", "correct the syntax"],
    ),
];

/// `run` and `check` say the same, with the place, and nothing is left.
#[test]
fn what_stands_in_the_file_is_named_with_its_place() {
    scenario().run(|lab| {
        devices::unreachable(lab.app(), [10, 9, 9, 9].into(), true)?;
        for (title, [old, new], at, fragments) in CASES {
            let attempt = Attempt::new(lab).replace_first(old, new);
            for verb in ["run", "check"] {
                attempt.refused_at(verb, at, fragments).with_context(|| (*title).to_owned())?;
                nothing_is_left(lab).with_context(|| format!("{title}: {verb}"))?;
            }
        }
        a_vip_of_two_services(lab)?;
        Ok(())
    });
}

fn a_vip_of_two_services(lab: &Lab) -> Result<()> {
    let text = lab.config().to_string();
    let orders =
        &text[text.find("[[service]]").context("service")?..text.rfind("[[service]]").context("service")?];
    // The blank tells the two VIPs apart.
    let carts = orders.replace("\"orders\"", "\"carts\"").replace("6379\"]", "6379\" ]");
    let attempt = Attempt::with(lab, &format!("{text}\n{carts}"));
    let first = format!("first by service \"orders\" at {}:12:9", attempt.file().display());
    let fragments = ["service \"carts\": VIP 10.255.0.1:6379 is used twice", &first, "give each service"];
    attempt.refused_at("run", "\"10.255.0.1:6379\" ]", &fragments)?;
    nothing_is_left(lab)
}

#[test]
fn a_file_that_is_not_there_is_named() {
    scenario().run(|lab| {
        let file = directory(&lab.config()).join("nosuch.toml");
        for verb in ["run", "check", "uninstall"] {
            let mut command = lab.app().command(binary()?);
            command.arg(verb).arg("--config").arg(&file);
            let fragments = [&*file.to_string_lossy(), "No such file", "--config"];
            end(lab.app(), command)?.is_refusal(WRONG_USAGE, &fragments)?;
            nothing_is_left(lab)?;
        }
        Ok(())
    });
}

/// Root reads everything, so what is unreadable is missing, no file, or read without root's privilege to.
#[test]
fn a_password_file_that_cannot_be_read_is_named() {
    scenario().lab(|lab| lab.password("correct-horse")).run(|lab| {
        let dir = directory(&lab.config());
        let good = dir.join("password").display().to_string();
        let locked = dir.join("locked");
        fs::write(&locked, "correct-horse")?;
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o000))?;
        for (name, cause) in
            [("missing", "No such file"), (".", "not a regular file"), ("locked", "Permission denied")]
        {
            let file = dir.join(name).display().to_string();
            let attempt = Attempt::new(lab).replace_first(&good, &file).before(drop_file_privileges);
            let at = format!("{file:?}");
            let fragments =
                ["service \"orders\"", "password file", name, "cannot be read", cause, "correct the path"];
            for verb in ["run", "check"] {
                attempt.refused_at(verb, &at, &fragments)?;
                nothing_is_left(lab)?;
            }
            // Found here: what is to be removed does not depend on a password.
            let ended = attempt.run("uninstall")?;
            ensure!(ended.code == 0 && ended.stderr.starts_with("nothing was there"), "{ended:#?}");
        }
        Ok(())
    });
}

/// Root without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH obeys the modes of files.
fn drop_file_privileges() -> io::Result<()> {
    super::host::drop_capabilities(&[1, 2])
}

/// The contract's example: VIPs of both IP versions, and members that have one each. Connections to the VIP that the
/// active member cannot serve are refused at once.
#[test]
fn a_member_of_one_ip_version_serves_the_vip_of_that_version() {
    scenario().run(|lab| {
        let text = lab.config().to_string();
        let second = text.rfind("[[service]]").context("service")?;
        let attempt = Attempt::with(lab, &text[..second])
            .replace(V4, "\"10.255.0.1:6379\", \"[fd00:255::1]:6379\"")
            .replace("10.2.2.2:6379", "[fd02:2::2]:6379");
        let ended = attempt.run("check")?;
        ensure!(ended.code == 0 && ended.stdout.contains("is valid"), "{ended:#?}");
        for warning in [
            "member \"m1\" of service \"orders\" has no IPv6 address: connections to VIP [fd00:255::1]:6379",
            "member \"m2\" of service \"orders\" has no IPv4 address: connections to VIP 10.255.0.1:6379",
        ] {
            ensure!(ended.stderr.contains(warning), "no {warning}: {}", ended.stderr);
        }

        let mut agent = lab.agent(&lab.config())?;
        agent.terminate()?;
        agent.uninstall()?;
        fs::copy(attempt.file(), agent.config_file())?;
        agent.start()?;
        let served = |vip: SocketAddr, member: &str| -> Result<()> {
            let reply = lab.app().connect(vip)?.command(&["GET", "whoami"])?;
            ensure!(reply.text().as_deref() == Some(member), "{vip}: {reply:?}");
            Ok(())
        };
        let refused = |vip: SocketAddr| -> Result<()> {
            let error = lab.app().connect(vip).map(|_| ()).unwrap_err();
            ensure!(error.kind() == io::ErrorKind::ConnectionRefused, "{vip}: {error}");
            Ok(())
        };
        let (v4, v6) = ((VIP_V4, VIP_PORT).into(), (VIP_V6, VIP_PORT).into());
        agent.wait_active("m1", START)?;
        served(v4, "m1")?;
        refused(v6)?;
        let mut open = lab.app().connect(v4)?;
        lab.member("m1").crash()?;
        agent.wait_active("m2", START)?;
        ensure!(!matches!(open.command(&["PING"]), Ok(Value::Status(_))), "a flow stayed on m1");
        served(v6, "m2")?;
        refused(v4)
    });
}
