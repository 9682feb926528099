//! The capabilities of a process: those that an agent does not start without, and what is lost without the others. The
//! README has the same table.

use anyhow::{Context as _, Result, bail};

/// A capability, by its number in `include/uapi/linux/capability.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Capability(u32, &'static str);

const SYS_ADMIN: Capability = Capability(21, "CAP_SYS_ADMIN");

/// Without one of them an agent does not start.
const NEEDED: [Capability; 3] =
    [Capability(12, "CAP_NET_ADMIN"), Capability(38, "CAP_PERFMON"), Capability(39, "CAP_BPF")];

/// An agent starts without them, and does less.
const USEFUL: [(Capability, &str, bool); 7] = [
    (
        SYS_ADMIN,
        "no network namespace is entered, so that clients in containers are sent resets only, and filters of clsact (Linux \
         before 6.6) cannot be told from those of others",
        false,
    ),
    (
        Capability(19, "CAP_SYS_PTRACE"),
        "network namespaces that only processes of others stand for are not entered: their clients are sent resets only",
        false,
    ),
    (
        Capability(13, "CAP_NET_RAW"),
        "clients that wait on other hosts, or in containers that cannot be entered, are not woken at a switch",
        false,
    ),
    (Capability(7, "CAP_SETUID"), COMMANDS, true),
    (Capability(6, "CAP_SETGID"), COMMANDS, true),
    (Capability(5, "CAP_KILL"), "commands of checks and hooks are not ended when their time is over", true),
    (
        Capability(8, "CAP_SETPCAP"),
        "the bounding set of commands is not emptied, which gives them nothing (`no_new_privs`)",
        true,
    ),
];

const COMMANDS: &str = "commands of checks and hooks cannot be run as their user";

/// A capability that an agent can do without, and this process lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub name: &'static str,
    /// What is lost.
    pub lost: &'static str,
    /// Whether only the commands of `exec` checks and of hooks want it.
    pub for_commands: bool,
}

/// Refuses a process, by its `/proc/self/status`, that may not do what an agent does.
pub(super) fn check(status: &str) -> Result<()> {
    let has = effective(status)?;
    // CAP_SYS_ADMIN stands for the two that were split from it.
    let stands_in = |needed: &Capability| needed.0 >= 38 && has(SYS_ADMIN);
    let missing = NEEDED.iter().filter(|needed| !has(**needed) && !stands_in(needed));
    let missing: Vec<_> = missing.map(|Capability(_, name)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "this process lacks {}, so it can change neither programs nor devices; run it as root",
        missing.join(", ")
    )
}

/// What of the others such a process lacks.
pub(super) fn missing(status: &str) -> Result<Vec<Missing>> {
    let has = effective(status)?;
    let missing = USEFUL.iter().filter(|(capability, ..)| !has(*capability));
    Ok(missing
        .map(|(Capability(_, name), lost, for_commands)| Missing { name, lost, for_commands: *for_commands })
        .collect())
}

/// Whether a capability is in the effective set.
fn effective(status: &str) -> Result<impl Fn(Capability) -> bool> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .context("/proc/self/status has no CapEff")?;
    Ok(move |Capability(bit, _)| effective & 1 << bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        let all = "Name:\tx\nCapEff:\t000001ffffffffff\n";
        assert!(check(all).is_ok());
        let admin_only = format!("CapEff:\t{:016x}\n", 1_u64 << 21 | 1 << 12);
        assert!(check(&admin_only).is_ok());
        let error = check("CapEff:\t0000000000000000\n").unwrap_err().to_string();
        assert!(error.contains("CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF") && error.contains("root"), "{error}");
    }

    #[test]
    fn what_an_agent_can_do_without_is_named_with_what_is_lost() {
        let names =
            |status: &str| missing(status).unwrap().iter().map(|missing| missing.name).collect::<Vec<_>>();
        assert_eq!(names("CapEff:\t000001ffffffffff\n"), [] as [&str; 0]);
        let needed_only = format!("CapEff:\t{:016x}\n", 1_u64 << 12 | 1 << 38 | 1 << 39);
        assert!(check(&needed_only).is_ok());
        assert_eq!(names(&needed_only).len(), USEFUL.len());
        let but_raw = format!("CapEff:\t{:016x}\n", ((1_u64 << 41) - 1) & !(1 << 13));
        assert_eq!(names(&but_raw), ["CAP_NET_RAW"]);
    }
}
