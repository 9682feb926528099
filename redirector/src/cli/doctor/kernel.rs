//! Rows about the kernel and this process.

use super::row::{Area, Row};
use crate::datapath::doctor::{
    Kernel, Trial, Trials,
    kernel::{Lockdown, Missing},
    trial::Untried,
};

/// What an agent takes of this host with its configuration.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Needs {
    /// Of the maps.
    pub(super) memory: u64,
    /// Members of all services.
    pub(super) members: usize,
    /// Whether checks or hooks run some.
    pub(super) commands: bool,
}

/// All of them.
pub(super) fn rows(kernel: &Kernel, trials: &Trials, needs: Needs) -> Vec<Row> {
    let mut rows = vec![version(kernel), capabilities(kernel, needs.commands)];
    rows.extend([
        tried("programs", &trials.programs, "the kernel takes them", PROGRAMS),
        tried("veth", &trials.veth, "can be made", VETH),
        tcx(kernel, &trials.tcx),
        tried("connection", &trials.connections[0], "carried to the member", CONNECTION).about("IPv4"),
        tried("connection", &trials.connections[1], "carried to the member", CONNECTION).about("IPv6"),
        tried("batches", &trials.batches, "the flow table is read in batches", BATCHES),
        sock_destroy(&trials.destroy),
        namespaces(&trials.namespaces),
        reset_requests(&trials.requests),
        orphans(kernel),
        route_lookup(kernel),
        ipv6_checksum(kernel),
    ]);
    rows.extend(trials.compiled.map(jit));
    rows.extend(locked_memory(kernel, needs.memory));
    rows.extend([open_files(kernel, needs.members), cgroup2(kernel)]);
    rows.extend(kernel.lockdown.map(lockdown));
    rows.extend(kernel.unprivileged_bpf_disabled.map(unprivileged_bpf));
    if kernel.filters_system_calls {
        rows.push(Row::note(Area::Kernel, "seccomp", "system calls are filtered", SECCOMP));
    }
    rows
}

const PROGRAMS: &str = "without its programs Redirector can do nothing; look at the kernel's log, and at CONFIG_BPF_SYSCALL \
                        and CONFIG_NET_CLS_ACT";
const VETH: &str = "the VIP device is a veth; load the kernel module veth (CONFIG_VETH)";
const TCX: &str = "the programs cannot be attached; boot Linux 6.6 or newer with CONFIG_NET_XGRESS";
const CONNECTION: &str =
    "no connection through a VIP would work; report it with this line and the kernel's version";
const BATCHES: &str = "a switch could reset nobody; boot Linux 5.6 or newer";
const SECCOMP: &str = "a filter without bpf(2) stops the agent; in a systemd unit no later SystemCallFilter=~@privileged \
                       may take `bpf` away again";

fn version(kernel: &Kernel) -> Row {
    let [major, minor, patch] = kernel.version;
    let found = format!("Linux {major}.{minor}.{patch}");
    match &kernel.refused {
        None => Row::good(Area::Kernel, "version", found),
        Some(sentence) => Row::bad(Area::Kernel, "version", found, sentence),
    }
}

fn capabilities(kernel: &Kernel, commands: bool) -> Row {
    if let Some(sentence) = &kernel.unprivileged {
        return Row::bad(Area::Kernel, "capabilities", "not all that are needed", sentence);
    }
    if kernel.missing.is_empty() {
        return Row::good(Area::Kernel, "capabilities", "all that are of use");
    }
    let names: Vec<_> = kernel.missing.iter().map(|missing| missing.name).collect();
    let found = format!("all that are needed, but not {}", names.join(", "));
    let without = |Missing { name, lost, .. }: &Missing| format!("without {name} {lost}");
    let lost: Vec<_> = kernel.missing.iter().map(without).collect();
    let next = format!("{}; run the agent as root, or give it what it shall do", lost.join("; "));
    if kernel.missing.iter().all(|missing| missing.for_commands && !commands) {
        return Row::note(Area::Kernel, "capabilities", found, next);
    }
    Row::warning(Area::Kernel, "capabilities", found, next)
}

/// A row for what an agent cannot do without.
fn tried(check: &'static str, trial: &Trial, works: &str, consequence: &str) -> Row {
    match trial {
        Trial::Works => Row::good(Area::Kernel, check, works),
        Trial::Fails(error) => Row::bad(Area::Kernel, check, error, consequence),
        Trial::Untried(why) => untried(check, *why),
    }
}

fn untried(check: &'static str, why: Untried) -> Row {
    let next = match why {
        Untried::NoNamespace => "run `redirector doctor` as root",
        Untried::Follows => "see to the other rows of the kernel first",
        Untried::NoIpv6 => "nothing, unless a VIP or a member has an IPv6 address",
    };
    Row::note(Area::Kernel, check, why.to_string(), next)
}

/// Where an older kernel is accepted at all, there is another way.
fn tcx(kernel: &Kernel, trial: &Trial) -> Row {
    match trial {
        Trial::Fails(error) if !kernel.since(6, 6) && kernel.refused.is_none() => Row::note(
            Area::Kernel,
            "tcx",
            format!("not before Linux 6.6 ({error})"),
            "nothing: programs are attached as filters of clsact",
        ),
        _ => tried("tcx", trial, "programs attach by links", TCX),
    }
}

fn sock_destroy(trial: &Trial) -> Row {
    match trial {
        Trial::Works => Row::good(Area::Kernel, "sock_destroy", "sockets are woken at a switch"),
        Trial::Fails(error) => Row::warning(
            Area::Kernel,
            "sock_destroy",
            error,
            "clients are sent resets at a switch instead, which one that lost packets hears a moment later; boot a kernel \
             with CONFIG_INET_DIAG_DESTROY",
        ),
        Trial::Untried(why) => untried("sock_destroy", *why),
    }
}

fn namespaces(trial: &Trial) -> Row {
    match trial {
        Trial::Works => Row::good(Area::Kernel, "namespaces", "sockets in containers are woken at a switch"),
        Trial::Fails(error) => Row::warning(
            Area::Kernel,
            "namespaces",
            error,
            "clients in containers are sent resets at a switch instead, as those on other hosts are; give the agent \
             CAP_SYS_ADMIN",
        ),
        Trial::Untried(why) => untried("namespaces", *why),
    }
}

fn reset_requests(trial: &Trial) -> Row {
    match trial {
        Trial::Works => {
            Row::good(Area::Kernel, "reset_requests", "clients elsewhere are sent resets at a switch")
        }
        Trial::Fails(error) => Row::warning(
            Area::Kernel,
            "reset_requests",
            error,
            "clients that wait on other hosts, and in containers that cannot be entered, are not woken at a switch: they \
             learn of it with the next packet of either end; give the agent CAP_NET_RAW and a kernel with CONFIG_PACKET",
        ),
        Trial::Untried(why) => untried("reset_requests", *why),
    }
}

fn orphans(kernel: &Kernel) -> Row {
    if kernel.since(6, 11) {
        return Row::good(Area::Kernel, "orphans", "closed sockets are destroyed too");
    }
    Row::note(
        Area::Kernel,
        "orphans",
        "sockets that their application closed are not destroyed (before Linux 6.11)",
        "nothing: nobody waits on them, and they are sent resets",
    )
}

fn route_lookup(kernel: &Kernel) -> Row {
    if kernel.since(6, 3) {
        return Row::good(Area::Kernel, "route_lookup", "routes are asked for without neighbours");
    }
    Row::note(
        Area::Kernel,
        "route_lookup",
        "routes are asked for together with neighbours (before Linux 6.3)",
        "nothing: asking takes a little longer, ten times a second for each flow at most",
    )
}

fn ipv6_checksum(kernel: &Kernel) -> Row {
    if kernel.since(6, 16) {
        return Row::good(Area::Kernel, "ipv6_checksum", "kept with every network card");
    }
    Row::note(
        Area::Kernel,
        "ipv6_checksum",
        "not kept for CHECKSUM_COMPLETE (before Linux 6.16)",
        "IPv6 to members behind network cards that report whole checksums may lose packets: if so, switch that off \
         (`ethtool -K DEVICE rx off`)",
    )
}

fn jit(compiled: bool) -> Row {
    if compiled {
        return Row::good(Area::Kernel, "jit", "programs are compiled");
    }
    Row::warning(
        Area::Kernel,
        "jit",
        "programs are interpreted",
        "every packet takes several times as long; sysctl -w net.core.bpf_jit_enable=1, then start the agent again",
    )
}

/// Maps count as memory of their control group from Linux 5.11 on.
fn locked_memory(kernel: &Kernel, map_bytes: u64) -> Option<Row> {
    let limit = kernel.locked_memory.filter(|limit| !kernel.since(5, 11) && *limit < map_bytes)?;
    let found = format!("at most {} MiB", limit >> 20);
    let next = format!(
        "the maps take {} MiB of locked memory on this kernel; LimitMEMLOCK=infinity in the unit, or `ulimit -l unlimited`",
        map_bytes.div_ceil(1 << 20)
    );
    Some(Row::bad(Area::Kernel, "locked_memory", found, next))
}

fn open_files(kernel: &Kernel, members: usize) -> Row {
    /// Programs, maps and links take some 100, operators and scrapers have places of their own.
    const AT_LEAST: u64 = 512;
    /// A kept connection, with `heartbeat` two, with `keyspace` one for each shard.
    const PER_MEMBER: u64 = 4;
    let enough = AT_LEAST + PER_MEMBER * members as u64;
    match kernel.open_files {
        Some(limit) if limit < enough => Row::warning(
            Area::Kernel,
            "open_files",
            format!("at most {limit}"),
            format!(
                "probes may fail for want of descriptors, and say nothing of their members then; LimitNOFILE={enough} in \
                 the unit, or `ulimit -Hn {enough}`"
            ),
        ),
        Some(limit) => Row::good(Area::Kernel, "open_files", format!("at most {limit}")),
        None => Row::good(Area::Kernel, "open_files", "any number"),
    }
}

fn cgroup2(kernel: &Kernel) -> Row {
    match &kernel.cgroup2 {
        Some(path) => Row::good(Area::Kernel, "cgroup2", format!("mounted at {}", path.display())),
        None => Row::note(
            Area::Kernel,
            "cgroup2",
            "not mounted",
            "nothing: only the hook `connect` needs it, which is not built yet",
        ),
    }
}

fn lockdown(lockdown: Lockdown) -> Row {
    let found = match lockdown {
        Lockdown::None => "none",
        Lockdown::Integrity => "integrity: programs load all the same",
        Lockdown::Confidentiality => "confidentiality: programs load all the same",
    };
    Row::good(Area::Kernel, "lockdown", found)
}

fn unprivileged_bpf(disabled: u8) -> Row {
    let found = match disabled {
        0 => "0: others may load programs too; nothing to Redirector",
        _ => "only the privileged load programs",
    };
    Row::good(Area::Kernel, "unprivileged_bpf", found)
}

#[cfg(test)]
mod tests {
    use super::{
        super::row::Verdict::{self, Bad, Good, Note, Warning},
        *,
    };

    fn new() -> Kernel {
        Kernel {
            version: [6, 18, 1],
            refused: None,
            unprivileged: None,
            missing: Vec::new(),
            filters_system_calls: false,
            lockdown: None,
            unprivileged_bpf_disabled: Some(2),
            cgroup2: Some("/sys/fs/cgroup".into()),
            locked_memory: Some(8 << 20),
            open_files: Some(1024),
        }
    }

    fn works() -> Trials {
        let works = || Trial::Works;
        Trials {
            veth: works(),
            programs: works(),
            compiled: Some(true),
            tcx: works(),
            connections: [works(), works()],
            batches: works(),
            destroy: works(),
            namespaces: works(),
            requests: works(),
        }
    }

    fn of_maps(memory: u64) -> Needs {
        Needs { memory, members: 2, commands: false }
    }

    fn verdict(rows: &[Row], check: &str) -> Option<Verdict> {
        rows.iter().filter(|row| row.check == check).map(|row| row.verdict).max()
    }

    #[test]
    fn a_new_kernel_is_good() {
        let rows = rows(&new(), &works(), of_maps(98 << 20));
        assert!(rows.iter().all(|row| row.verdict == Good && row.next.is_none()), "{rows:#?}");
    }

    #[test]
    fn what_an_older_kernel_lacks_is_noted() {
        let rows = rows(&Kernel { version: [6, 1, 0], ..new() }, &works(), of_maps(98 << 20));
        for check in ["orphans", "route_lookup", "ipv6_checksum"] {
            assert_eq!(verdict(&rows, check), Some(Note), "{check}");
        }
        assert_eq!(verdict(&rows, "locked_memory"), None, "from 5.11 on control groups count");
    }

    #[test]
    fn locked_memory_counts_before_5_11() {
        let old = Kernel { version: [5, 10, 0], ..new() };
        assert_eq!(verdict(&rows(&old, &works(), of_maps(98 << 20)), "locked_memory"), Some(Bad));
        assert_eq!(verdict(&rows(&old, &works(), of_maps(1 << 20)), "locked_memory"), None);
        let unlimited = Kernel { locked_memory: None, ..old };
        assert_eq!(verdict(&rows(&unlimited, &works(), of_maps(98 << 20)), "locked_memory"), None);
    }

    #[test]
    fn what_prevents_running_is_bad_in_the_words_of_the_refusal() {
        let sentence = "this process lacks CAP_BPF; run it as root";
        let kernel = Kernel { refused: Some("too old".into()), unprivileged: Some(sentence.into()), ..new() };
        let rows = rows(&kernel, &Trials::without_privileges(), Needs::default());
        assert_eq!((verdict(&rows, "version"), verdict(&rows, "capabilities")), (Some(Bad), Some(Bad)));
        assert_eq!(rows[1].next.as_deref(), Some(sentence));
        for check in ["programs", "veth", "tcx", "connection", "batches", "sock_destroy", "reset_requests"] {
            assert_eq!(verdict(&rows, check), Some(Note), "{check}: nothing was tried");
        }
    }

    #[test]
    fn a_trial_that_fails_is_bad_unless_an_agent_can_do_without() {
        let fails = || Trial::Fails("no".into());
        let trials = Trials {
            veth: fails(),
            programs: fails(),
            tcx: fails(),
            connections: [Trial::Works, fails()],
            batches: fails(),
            destroy: fails(),
            namespaces: fails(),
            requests: fails(),
            compiled: Some(false),
        };
        let rows = rows(&new(), &trials, Needs::default());
        for check in ["programs", "veth", "tcx", "connection", "batches"] {
            assert_eq!(verdict(&rows, check), Some(Bad), "{check}");
        }
        for check in ["sock_destroy", "namespaces", "reset_requests", "jit"] {
            assert_eq!(verdict(&rows, check), Some(Warning), "{check}");
        }
    }

    #[test]
    fn without_tcx_an_older_kernel_that_is_accepted_has_another_way() {
        let of = |version, refused| {
            let kernel = Kernel { version, refused, ..new() };
            tcx(&kernel, &Trial::Fails("EINVAL".into())).verdict
        };
        assert_eq!(of([6, 1, 0], None), Note);
        assert_eq!(of([6, 1, 0], Some("too old".into())), Bad);
        assert_eq!(of([6, 6, 0], None), Bad, "built without it");
    }

    #[test]
    fn what_is_lost_without_a_capability_is_said() {
        let of = |for_commands, commands| {
            let missing = Missing { name: "CAP_KILL", lost: "nothing ends", for_commands };
            let row = capabilities(&Kernel { missing: vec![missing], ..new() }, commands);
            assert!(
                row.found.contains("CAP_KILL") && row.next.unwrap().contains("without CAP_KILL nothing ends")
            );
            row.verdict
        };
        assert_eq!((of(true, false), of(true, true), of(false, false)), (Note, Warning, Warning));
    }

    #[test]
    fn limits_and_filters_are_named() {
        let kernel = Kernel { open_files: Some(256), cgroup2: None, filters_system_calls: true, ..new() };
        let rows = rows(&kernel, &works(), Needs::default());
        assert_eq!(verdict(&rows, "open_files"), Some(Warning));
        assert_eq!((verdict(&rows, "cgroup2"), verdict(&rows, "seccomp")), (Some(Note), Some(Note)));
    }

    #[test]
    fn many_members_take_many_files() {
        let of = |limit, members| open_files(&Kernel { open_files: limit, ..new() }, members);
        assert_eq!(of(Some(1024), 100).verdict, Good);
        let row = of(Some(1024), 1500);
        assert_eq!(row.verdict, Warning);
        assert!(row.next.is_some_and(|next| next.contains("LimitNOFILE=6512")));
        assert_eq!(of(None, 1500).verdict, Good);
    }
}
