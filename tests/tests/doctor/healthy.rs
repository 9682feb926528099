//! A host without a fault, before and after the agent is there; and what a process without privileges can say.

use std::io;

use anyhow::{Result, ensure};
use redirector_common::layout::VERSION;
use redirector_tests::{binary, new_connections_are_served_by, nothing_is_left, one_program_on_each_hook};

use super::{DEGRADED, DONE, Diagnosis, FAILED, START, Visit, scenario};

/// Numbers of `include/uapi/linux/capability.h`.
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// Everything that an agent needs was found to work, by trying it.
fn everything_works(diagnosis: &Diagnosis) -> Result<()> {
    for check in [
        "version",
        "capabilities",
        "programs",
        "veth",
        "tcx",
        "batches",
        "sock_destroy",
        "namespaces",
        "jit",
        "bpffs",
    ] {
        diagnosis.says(check, None, "good", &[])?;
    }
    for version in ["IPv4", "IPv6"] {
        diagnosis.says("connection", Some(version), "good", &["carried"])?;
    }
    Ok(())
}

#[test]
fn it_is_said_to_be_healthy_and_is_left_as_it_was() {
    scenario().run(|lab| {
        let before = Visit::new(lab).diagnose()?;
        before.exits(DONE)?;
        everything_works(&before)?;
        before.says("agent", None, "note", &["none runs", "redirector run"])?;
        before.says("pins", None, "good", &["none"])?;
        before.says("route", Some("m1 10.2.1.2:6379"), "good", &["by eth0, source 10.1.0.2, MTU 1500"])?;
        before.says("route", Some("m2 [fd02:2::2]:6379"), "good", &["by eth0, source fd01::2"])?;
        before.says("mtu", None, "good", &["1500 to every member"])?;
        before.says("vip", Some("orders 10.255.0.1:6379"), "good", &[])?;
        before.says("hook", Some("eth0 ingress"), "good", &["nothing"])?;
        nothing_is_left(lab)?;

        let agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        let with = Visit::new(lab).diagnose()?;
        with.exits(DONE)?;
        everything_works(&with)?;
        with.says("agent", None, "good", &["runs: orders ok, orders6 ok"])?;
        with.says("pins", None, "good", &["2 links", &format!("layout {VERSION}")])?;
        for hook in ["redirector0 egress", "eth0 ingress"] {
            with.says("hook", Some(hook), "good", &["ours"])?;
        }
        one_program_on_each_hook(lab)?;
        new_connections_are_served_by(lab, "m1")
    });
}

/// Without a file nothing is said about members, and the table says the same as JSON.
#[test]
fn people_get_a_table_and_what_to_do() {
    scenario().run(|lab| {
        let mut command = lab.app().command(binary()?);
        command.args(["doctor", "--socket", "/nosuch/socket"]);
        let output = lab.app().output(command)?;
        let text = String::from_utf8(output.stdout)?;
        ensure!(output.status.code() == Some(DONE), "{text}");
        let (table, next) = text.split_once("\n\nWhat to do:\n").expect("there is no forwarding in the lab");
        let row = |start: &str| table.lines().any(|line| line.starts_with(start));
        ensure!(
            row("ok    capabilities ") && row("note  ip_forward ") && row("ok    rp_filter all "),
            "{text}"
        );
        ensure!(!row("ok    route "), "{text}");
        ensure!(next.contains("note  ip_forward: nothing for processes of this host"), "{text}");
        ensure!(next.contains("/nosuch/socket"), "{text}");
        Ok(())
    });
}

fn drop_capabilities(capabilities: &[u32]) -> io::Result<()> {
    for capability in capabilities {
        // SAFETY: changes the bounding set of the calling thread, the only one after a fork.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, *capability, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[test]
fn a_missing_capability_is_named_as_run_names_it() {
    scenario().run(|lab| {
        let visit = Visit::new(lab).before(|| drop_capabilities(&[BPF, SYS_ADMIN]));
        let diagnosis = visit.diagnose()?;
        diagnosis.exits(FAILED)?;
        diagnosis.says("capabilities", None, "bad", &["CAP_BPF", "run it as root"])?;
        let (_, _, refusal) = visit.verb(&["run"])?;
        let next = diagnosis.row("capabilities", None)?["next"].as_str().unwrap_or_default();
        ensure!(refusal.contains(next), "{refusal}");
        // Nothing is said to fail that would not.
        diagnosis.says("programs", None, "note", &["not tried"])
    });
}

/// An agent needs three capabilities; with these it does less, and a namespace to try things in cannot be made.
#[test]
fn what_cannot_be_tried_is_said() {
    scenario().run(|lab| {
        let agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        let but_three = || {
            // SAFETY: asks for a bit of the calling thread's bounding set.
            let exists = |number: u32| unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) } >= 0;
            (0..=63_u32)
                .take_while(|number| exists(*number))
                .filter(|number| ![NET_ADMIN, PERFMON, BPF].contains(number))
                .try_for_each(|number| drop_capabilities(&[number]))
        };
        let diagnosis = Visit::new(lab).before(but_three).diagnose()?;
        let lost = [
            "but not CAP_SYS_ADMIN",
            "without CAP_NET_RAW clients that wait on other hosts",
            "without CAP_KILL",
        ];
        diagnosis.says("capabilities", None, "warning", &lost)?;
        diagnosis.says(
            "namespaces",
            None,
            "warning",
            &["cannot enter", "clients in containers are sent resets"],
        )?;
        diagnosis.says("programs", None, "good", &[])?;
        diagnosis.says("veth", None, "note", &["CAP_SYS_ADMIN"])?;
        diagnosis.says("hook", Some("eth0 ingress"), "note", &["as root"])?;
        diagnosis.exits(DEGRADED)
    });
}

#[test]
fn what_an_agent_left_without_one_is_a_warning() {
    scenario().run(|lab| {
        let mut agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        agent.kill()?;
        let diagnosis = Visit::new(lab).diagnose()?;
        diagnosis.says(
            "agent",
            None,
            "warning",
            &["traffic goes on", "redirector run", "redirector uninstall"],
        )?;
        diagnosis.says("hook", Some("redirector0 egress"), "good", &["ours"])?;
        diagnosis.exits(DEGRADED)
    });
}
