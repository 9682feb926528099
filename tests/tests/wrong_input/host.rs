//! A host that cannot, or things on it that are somebody else's: exit code 1 (2 where the file is what must change).

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result, ensure};
use redirector_tests::{Lab, Offloads, Scenario, binary, wait_until};

use super::{
    attempt::{Attempt, Before, FAILED, START, directory, end, nothing_is_left},
    devices,
};

/// Numbers of `include/uapi/linux/capability.h`.
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

fn scenario() -> Scenario {
    Scenario::new(Offloads::On)
}

/// Both verbs that change the kernel are refused, and nothing is left.
fn both_refused(lab: &Lab, attempt: &Attempt, fragments: &[&str]) -> Result<()> {
    for verb in ["run", "uninstall"] {
        attempt.refused(verb, FAILED, fragments).with_context(|| verb.to_owned())?;
        nothing_is_left(lab)?;
    }
    Ok(())
}

/// A kernel that says it is 2.6: what `setarch --uname-2.6` does.
#[test]
fn an_old_kernel_is_named_with_the_one_that_is_needed() {
    scenario().run(|lab| {
        let attempt = Attempt::new(lab).before(|| {
            const UNAME26: libc::c_ulong = 0x0002_0000;
            // SAFETY: sets a flag of the calling process.
            if unsafe { libc::personality(UNAME26) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        });
        both_refused(
            lab,
            &attempt,
            &["kernel is too old", "Linux 2.6 runs", "6.1 or newer", "boot a newer kernel"],
        )
    });
}

/// Takes capabilities from everything that the calling process executes.
pub(crate) fn drop_capabilities(capabilities: &[u32]) -> io::Result<()> {
    for capability in capabilities {
        // SAFETY: changes the bounding set of the calling thread, the only one after a fork.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, *capability, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn become_nobody() -> io::Result<()> {
    const NOBODY: libc::uid_t = 65534;
    // SAFETY: change the ids of the calling process.
    let done = unsafe {
        libc::setresgid(NOBODY, NOBODY, NOBODY) == 0 && libc::setresuid(NOBODY, NOBODY, NOBODY) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[test]
fn missing_privileges_are_named() {
    scenario().run(|lab| {
        let cases: [(Before, &str); 4] = [
            (|| drop_capabilities(&[NET_ADMIN]), "lacks CAP_NET_ADMIN, so"),
            (|| drop_capabilities(&[BPF, SYS_ADMIN]), "lacks CAP_BPF, so"),
            (|| drop_capabilities(&[PERFMON, SYS_ADMIN]), "lacks CAP_PERFMON, so"),
            (become_nobody, "lacks CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF, so"),
        ];
        for (before, fragment) in cases {
            both_refused(lab, &Attempt::new(lab).before(before), &[fragment, "run it as root"])?;
        }
        Ok(())
    });
}

/// What the message asks for is enough: with these three capabilities and no other the agent starts.
#[test]
fn the_privileges_that_are_asked_for_are_enough() {
    scenario().run(|lab| {
        let mut agent = lab.agent(&lab.config())?;
        agent.terminate()?;
        let status = || agent.verb(&["status", "-o", "json"]).is_ok_and(|output| output.status.success());
        // Over nothing, and over what the run before has left.
        for start in ["first", "second"] {
            if start == "first" {
                agent.uninstall()?;
            }
            let mut command = lab.app().command(binary()?);
            command.arg("run").arg("--config").arg(agent.config_file());
            let but_three = || {
                let last = (0..=63_u32).take_while(|number| capability_exists(*number));
                for number in last.filter(|number| ![NET_ADMIN, PERFMON, BPF].contains(number)) {
                    drop_capabilities(&[number])?;
                }
                Ok(())
            };
            // SAFETY: the closure makes system calls, takes no lock and allocates nothing.
            unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, but_three) };
            let mut process = lab.app().spawn("agent with three capabilities", command)?;
            wait_until("it answers", START, status).with_context(|| process.log().text())?;
            process.signal(rustix::process::Signal::TERM)?;
            ensure!(process.wait(START)?.success(), "{start}: {}", process.log().text());
        }
        Ok(())
    });
}

fn capability_exists(number: u32) -> bool {
    // SAFETY: asks for a bit of the calling thread's bounding set.
    unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) >= 0 }
}

#[test]
fn places_that_cannot_hold_pins_are_refused() {
    scenario().run(|lab| {
        let (config, dir) = (lab.config(), directory(&lab.config()));
        let pins = config.pin_dir().display().to_string();
        let with = |pin_dir: &str| Attempt::new(lab).replace(&pins, pin_dir);

        let elsewhere = dir.join("pins").display().to_string();
        let fragments = [&*elsewhere, "not on a BPF file system", "mount -t bpf", "pin_dir"];
        for verb in ["run", "check"] {
            with(&elsewhere).refused(verb, FAILED, &fragments)?;
        }
        ensure!(!Path::new(&elsewhere).exists(), "{elsewhere} is left");
        nothing_is_left(lab)?;

        // Found here: `uninstall` would have removed what other programs pin there.
        let fragments = ["/sys/fs/bpf is a whole file system", "a directory below it"];
        both_refused(lab, &with("/sys/fs/bpf"), &fragments)?;
        with("/sys/fs/bpf").refused("check", FAILED, &fragments)?;

        // Found here: with a name that a BPF file system does not allow, the directories above it were left.
        let dotted = format!("{pins}/a/b.c");
        with(&dotted).refused("run", FAILED, &[&dotted, "Operation not permitted", "without dots"])?;
        nothing_is_left(lab)?;

        // Found here: directories above the pin directory were left when a start failed.
        let deep = format!("{pins}/deep/deeper");
        let attempt =
            with(&deep).replace(&config.control_socket().display().to_string(), "/proc/nosuch/socket");
        attempt.refused(
            "run",
            FAILED,
            &["/proc/nosuch/socket", "directory cannot be made", "control_socket"],
        )?;
        nothing_is_left(lab)
    });
}

/// Found in use: `check` called a file valid that `run` refused, or that had nowhere to keep anything.
#[test]
fn a_path_to_something_of_another_kind_is_named() {
    scenario().run(|lab| {
        let dir = directory(&lab.config());
        fs::write(dir.join("file"), "precious")?;
        fs::create_dir(dir.join("dir"))?;
        let socket = lab.config().control_socket().display().to_string();
        let state = dir.join("state").display().to_string();
        for (key, path, found, kind) in [
            ("control_socket", "file/socket", "file", "directory"),
            ("control_socket", "file", "file", "socket"),
            ("control_socket", "dir", "dir", "socket"),
            ("state_dir", "file", "file", "directory"),
            ("state_dir", "file/state", "file", "directory"),
            ("record", "dir", "dir", "file"),
            ("record", "file/record", "file", "directory"),
        ] {
            let (path, found) = (dir.join(path).display().to_string(), dir.join(found).display().to_string());
            let attempt = match key {
                "control_socket" => Attempt::new(lab).replace(&socket, &path),
                "state_dir" => Attempt::new(lab).replace(&state, &path),
                _ => Attempt::with(lab, &lab.config().agent_line(&format!("record = {path:?}")).to_string()),
            };
            let needs = format!("`{key}` needs {found} to be a {kind}");
            for verb in ["run", "check"] {
                attempt
                    .refused_at(verb, key, &[&needs, "move it away", key])
                    .with_context(|| format!("{verb}: {key} = {path}"))?;
                nothing_is_left(lab)?;
            }
        }
        ensure!(fs::read_to_string(dir.join("file"))? == "precious", "the file was touched");
        Ok(())
    });
}

#[test]
fn an_address_for_metrics_that_is_not_of_this_host_is_named() {
    scenario().run(|lab| {
        let with = |line: &str| Attempt::with(lab, &lab.config().agent_line(line).to_string());
        let attempt = with("metrics_listen = \"10.9.9.9:9109\"");
        let fragments =
            ["metrics_listen 10.9.9.9:9109", "does not have that address", "change metrics_listen"];
        for verb in ["run", "check"] {
            attempt.refused(verb, FAILED, &fragments)?;
            nothing_is_left(lab)?;
        }
        // Where an agent listens, `check` is not in its way, nor the other way round.
        let line = "metrics_listen = \"127.0.0.1:9109\"";
        let _agent = lab.agent(&lab.config().agent_line(line))?;
        let ended = with(line).run("check")?;
        ensure!(ended.code == 0, "{ended:#?}");
        Ok(())
    });
}

/// A device with the VIP device's name is taken over only if it is one; what is somebody else's stays.
#[test]
fn devices_of_somebody_else_are_left_alone() {
    scenario().run(|lab| {
        let app = lab.app();
        let there = |name: &str| app.offloads(name).is_ok();
        let refused = |fragment: &str| -> Result<()> {
            let attempt = Attempt::new(lab);
            for verb in ["run", "check"] {
                let fragments = [fragment, "choose another name in [datapath] device", "ip link del"];
                attempt.refused(verb, FAILED, &fragments)?;
            }
            ensure!(!lab.config().pin_dir().exists(), "pins are left");
            ensure!(!lab.config().control_socket().exists(), "the control socket is left");
            let ended = attempt.run("uninstall")?;
            ensure!(ended.code == 0, "{ended:#?}");
            Ok(())
        };

        devices::veth(app, "redirector0", "mine")?;
        refused("a device redirector0 that is no veth pair with redirector0-p")?;
        ensure!(there("redirector0") && there("mine"), "a veth of somebody else is gone");
        // Found here: any device with the peer's name made it ours.
        devices::bridge(app, "redirector0-p")?;
        refused("a device redirector0 that is no veth pair with redirector0-p")?;
        ensure!(there("redirector0") && there("redirector0-p"), "a device of somebody else is gone");
        devices::remove(app, "redirector0")?;

        refused("a device redirector0-p, the name that the other end of redirector0 shall have")?;
        ensure!(!there("redirector0") && there("redirector0-p"), "a bridge of somebody else is gone");
        devices::remove(app, "redirector0-p")?;

        devices::bridge(app, "redirector0")?;
        refused("a device redirector0 that is no veth pair with redirector0-p")?;
        ensure!(there("redirector0"), "a bridge of somebody else is gone");
        devices::remove(app, "redirector0")?;
        nothing_is_left(lab)
    });
}

/// Found here: the agent replaced a route that somebody had made for a VIP's address.
#[test]
fn a_route_of_somebody_else_is_left_alone() {
    scenario().run(|lab| {
        devices::unreachable(lab.app(), [10, 255, 0, 1].into(), true)?;
        let attempt = Attempt::new(lab);
        let fragments =
            ["service \"orders\"", "a route for the VIP's address 10.255.0.1", "ip route del 10.255.0.1"];
        attempt.refused_at("run", "\"10.255.0.1:6379\"", &fragments)?;
        // It can be removed, so it is there.
        devices::unreachable(lab.app(), [10, 255, 0, 1].into(), false)?;
        nothing_is_left(lab)
    });
}

/// Wrong usage of the command line is clap's, with the exit code of the contract.
#[test]
fn wrong_usage_exits_with_two() {
    scenario().run(|lab| {
        for arguments in [&["stats"][..], &["run", "--confg", "x"], &["status", "a/b"]] {
            let mut command = lab.app().command(binary()?);
            command.args(arguments);
            let ended = end(lab.app(), command)?;
            ensure!(ended.code == 2 && ended.stderr.starts_with("error: "), "{arguments:?}: {ended:#?}");
        }
        Ok(())
    });
}
