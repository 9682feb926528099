//! `exec` with real commands. As root they run as `nobody`; else as whoever runs the tests.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use redirector::{
    model::{
        Access, Cause, Check, CheckKind, Endpoint, Exec, ExecOf, Failure, Phase, ProbeOutcome, User, Verdict,
    },
    probe::once,
};
use rustix::process::{getegid, geteuid};

use crate::{Prober, check, temp::TempDir, trouble};

fn user() -> User {
    if geteuid().is_root() {
        return User { name: "nobody".to_owned(), uid: 65_534, gid: 65_534 };
    }
    User { name: "me".to_owned(), uid: geteuid().as_raw(), gid: getegid().as_raw() }
}

fn command(command: &[&str]) -> Check {
    let of = ExecOf {
        service: "orders".to_owned(),
        member: "paris".to_owned(),
        endpoint: Endpoint { host: "redis.example.com".to_owned(), port: 6379 },
    };
    let command = command.iter().map(|word| (*word).to_owned()).collect();
    check(CheckKind::Exec(Exec { command, user: user(), of: Some(of) }))
}

fn shell(script: &str) -> Check {
    command(&["/bin/sh", "-c", script])
}

fn address() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 6379))
}

async fn probe(check: &Check) -> ProbeOutcome {
    once(check, address(), &Access::default()).await
}

/// A directory that every user may write to.
fn writable() -> TempDir {
    let directory = TempDir::new();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("the directory is ours");
    directory
}

fn lines(path: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path).expect("a file of text");
    let pairs = text.lines().filter_map(|line| line.split_once(['=', ':']));
    pairs.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect()
}

#[tokio::test]
async fn the_exit_status_decides_and_the_first_line_is_the_reason() {
    let cases = [
        ("echo fine", Verdict::Pass, "ok in"),
        ("echo 'lag 9 s'; echo more; exit 1", Verdict::Fail, "lag 9 s (exit status 1)"),
        ("echo; echo broken >&2; exit 2", Verdict::Fail, "broken (exit status 2)"),
        ("exit 3", Verdict::Fail, "exit status 3"),
        (
            "echo 'API gone'; exit 75",
            Verdict::Inconclusive,
            "command: API gone (exit status 75) (not counted)",
        ),
        ("kill -SEGV $$", Verdict::Inconclusive, "command: ended by signal 11 (not counted)"),
        ("printf 'a\\033[2Jb\\001\\377\\n'; exit 1", Verdict::Fail, "a\\u{1b}[2Jb"),
    ];
    for (script, verdict, words) in cases {
        let outcome = probe(&shell(script)).await;
        assert_eq!(outcome.verdict(), verdict, "{script}: {outcome}");
        let text = outcome.to_string();
        assert!(text.contains(words) && !text.contains("more"), "{script}: {text}");
        assert!(!text.contains(char::is_control), "{script}: {text:?}");
    }
}

#[tokio::test]
async fn the_environment_is_what_is_documented_and_nothing_else() {
    let directory = writable();
    let file = directory.path().join("environment");
    let outcome = probe(&shell(&format!("/usr/bin/env > {}", file.display()))).await;
    assert_eq!(outcome.verdict(), Verdict::Pass, "{outcome}");
    let mut found = lines(&file);
    // The shell's own.
    for own in ["PWD", "OLDPWD", "SHLVL", "_"] {
        found.remove(own);
    }
    let expected = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("REDIRECTOR_SERVICE", "orders"),
        ("REDIRECTOR_MEMBER", "paris"),
        ("REDIRECTOR_ENDPOINT", "redis.example.com:6379"),
        ("REDIRECTOR_ADDRESS", "192.0.2.1"),
        ("REDIRECTOR_PORT", "6379"),
        ("REDIRECTOR_TIMEOUT_MS", "10000"),
    ];
    let expected: BTreeMap<_, _> = expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_command_has_no_privileges_and_limits() {
    let directory = writable();
    let at = directory.path().display();
    let script =
        format!("cat /proc/self/status > {at}/status; cat /proc/self/limits > {at}/limits; pwd > {at}/pwd");
    let outcome = probe(&shell(&script)).await;
    assert_eq!(outcome.verdict(), Verdict::Pass, "{outcome}");

    let status = lines(&directory.path().join("status"));
    let User { uid, gid, .. } = user();
    let four = |id: u32| [id.to_string(), id.to_string(), id.to_string(), id.to_string()].join("\t");
    assert_eq!((&status["Uid"], &status["Gid"]), (&four(uid), &four(gid)));
    assert_eq!(status["NoNewPrivs"], "1");
    if geteuid().is_root() {
        assert_eq!(status["Groups"], "");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status[set], "0".repeat(16), "{set}");
        }
    }
    let limits = fs::read_to_string(directory.path().join("limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!((limit("Max core file size"), limit("Max open files")), ("0".to_owned(), "256".to_owned()));
    assert_eq!(fs::read_to_string(directory.path().join("pwd")).unwrap(), "/\n");

    // All of that was of one thread: this process has what it had.
    assert_eq!(lines(Path::new("/proc/self/status"))["NoNewPrivs"], "0");
}

/// Setuid programs are what `no_new_privs` is for.
#[tokio::test]
async fn setuid_programs_give_nothing_back() {
    if !geteuid().is_root() {
        return;
    }
    let directory = writable();
    let id = directory.path().join("id");
    fs::copy("/usr/bin/id", &id).unwrap();
    fs::set_permissions(&id, fs::Permissions::from_mode(0o4755)).unwrap();
    let outcome = probe(&shell(&format!("echo $({} -u); exit 1", id.display()))).await;
    assert_eq!(outcome.to_string(), "65534 (exit status 1)");
}

/// Whether there is such a process, dead ones that nobody reaped aside: those of a group go to the first process of the
/// container, and it may not look after them.
fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).is_some_and(|state| state != "Z")
}

async fn dies(pid: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while lives(pid) {
        assert!(Instant::now() < deadline, "process {pid} lives");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The processes that a script wrote into its directory, itself first.
async fn processes(directory: &TempDir, count: usize) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let text = fs::read_to_string(directory.path().join("pids")).unwrap_or_default();
        let pids: Vec<_> = text.lines().map(str::to_owned).collect();
        if pids.len() == count {
            return pids;
        }
        assert!(Instant::now() < deadline, "{text}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One that starts others, which ignore what can be ignored.
fn family(directory: &TempDir, end: &str) -> Check {
    let pids = directory.path().join("pids");
    let pids = pids.display();
    shell(&format!(
        "trap '' TERM HUP INT; echo $$ > {pids}; sleep 1000 & echo $! >> {pids}; \
         (sleep 1000 & echo $! >> {pids}; wait) & echo $! >> {pids}; {end}"
    ))
}

#[tokio::test]
async fn the_time_limit_ends_the_command_and_all_that_it_started() {
    let directory = writable();
    let mut check = family(&directory, "wait");
    check.timeout = Duration::from_millis(500);
    let started = Instant::now();
    let outcome = probe(&check).await;
    let expected = Failure { phase: Phase::Command, cause: Cause::TimedOut(check.timeout) };
    assert_eq!(outcome, ProbeOutcome::Failed(expected));
    assert!(started.elapsed() < Duration::from_secs(5));
    let pids = processes(&directory, 4).await;
    for pid in &pids {
        dies(pid).await;
    }
    // The first is the agent's own child: it is reaped.
    let deadline = Instant::now() + Duration::from_secs(10);
    while Path::new(&format!("/proc/{}", pids[0])).exists() {
        assert!(Instant::now() < deadline, "a zombie is left");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_a_command_leaves_behind_ends_with_it() {
    let directory = writable();
    let outcome = probe(&family(&directory, "sleep 0.2; exit 0")).await;
    assert_eq!(outcome.verdict(), Verdict::Pass, "{outcome}");
    for pid in processes(&directory, 4).await {
        dies(&pid).await;
    }
}

#[tokio::test]
async fn a_prober_that_goes_ends_its_command() {
    let directory = writable();
    let prober = Prober::start(family(&directory, "wait"), address());
    let pids = processes(&directory, 4).await;
    assert!(pids.iter().all(|pid| lives(pid)));
    drop(prober);
    for pid in pids {
        dies(&pid).await;
    }
}

#[tokio::test]
async fn after_a_run_that_took_too_long_comes_a_good_one() {
    let directory = writable();
    let mark = directory.path().join("mark");
    let mark = mark.display();
    let mut check = shell(&format!("[ -e {mark} ] || {{ touch {mark}; sleep 1000; }}"));
    (check.interval, check.timeout) = (Duration::from_millis(10), Duration::from_millis(500));
    let mut prober = Prober::start(check, address());
    assert_eq!(prober.outcome().await.verdict(), Verdict::Fail);
    let outcome = prober.outcome().await;
    assert_eq!(outcome.verdict(), Verdict::Pass, "{outcome}");
}

#[tokio::test]
async fn output_without_end_hurts_nobody() {
    let mut check = command(&["/usr/bin/yes"]);
    check.timeout = Duration::from_millis(300);
    assert_eq!(probe(&check).await.verdict(), Verdict::Fail);

    // More than a pipe holds, on both.
    let outcome =
        probe(&shell("head -c 300000 /dev/zero | tr '\\0' a; head -c 300000 /dev/zero >&2; exit 1")).await;
    assert_eq!(outcome.verdict(), Verdict::Fail);
    let text = outcome.to_string();
    assert!(text.starts_with("aaaa") && text.ends_with("(exit status 1)") && text.len() < 200, "{text}");
}

#[tokio::test]
async fn a_command_that_cannot_be_run_says_nothing_about_the_member() {
    let directory = writable();
    let file = directory.path().join("check");
    fs::write(&file, "exit 1").unwrap();
    let file = file.to_str().unwrap();
    for (program, words) in
        [("/nowhere/check", "No such file"), ("/usr", "ermission denied"), (file, "ermission denied")]
    {
        let outcome = probe(&command(&[program])).await;
        assert!(matches!(trouble(&outcome), (Phase::Command, Cause::Reported(_))), "{outcome:?}");
        let text = outcome.to_string();
        assert!(text.starts_with("command: ") && text.contains(program) && text.contains(words), "{text}");
    }
    let outcome = probe(&shell("no-such-tool --ping")).await;
    assert!(
        outcome.verdict() == Verdict::Inconclusive && outcome.to_string().contains("no-such-tool"),
        "{outcome}"
    );
}

/// All of this process's tests share its one thread with the commands, as all probers of an agent do.
#[tokio::test]
async fn a_command_keeps_nobody_waiting() {
    let check = shell("sleep 0.5");
    let mut slow = std::pin::pin!(probe(&check));
    let mut longest = Duration::ZERO;
    loop {
        let began = Instant::now();
        tokio::select! {
            outcome = &mut slow => {
                assert_eq!(outcome.verdict(), Verdict::Pass, "{outcome}");
                break;
            }
            () = tokio::time::sleep(Duration::from_millis(1)) => longest = longest.max(began.elapsed()),
        }
    }
    assert!(longest < Duration::from_millis(300), "{longest:?}");
}
