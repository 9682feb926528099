//! Who may: the agent as it runs, and users of this host. The control socket's own tests are in `redirector/tests/control`.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, ensure};
use redirector_tests::{Offloads, Scenario};
use rustix::{
    process::{Gid, Uid},
    thread::{set_thread_gid, set_thread_groups, set_thread_uid},
};

use super::{SOON, START, one_service, orders_of};

/// A group of every host that is not root's.
const GROUP: (&str, u32) = ("daemon", 1);

/// What `curl --unix-socket` shows another user; credentials belong to a thread.
fn curl_as(socket: &Path, groups: &[u32], method: &str, path: &str, body: &str) -> Result<String> {
    let (socket, groups): (PathBuf, Vec<_>) =
        (socket.to_owned(), groups.iter().map(|group| Gid::from_raw(*group)).collect());
    let length = body.len();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}");
    let thread = thread::spawn(move || -> Result<String> {
        set_thread_groups(&groups)?;
        set_thread_gid(Gid::from_raw(54321))?;
        set_thread_uid(Uid::from_raw(54321))?;
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    thread.join().map_err(|_| anyhow::anyhow!("it panicked"))?
}

/// Everybody may look. Who is not let in is told who they are and what to do, and is on record; who is in the group, if
/// only among other groups, is let in.
#[test]
fn who_is_not_in_the_group_is_refused_and_on_record() {
    Scenario::new(Offloads::On).run(|lab| {
        let config = one_service(lab).agent_line(&format!("operator_group = \"{}\"", GROUP.0));
        let socket = config.control_socket();
        let agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        let directory = socket.parent().context("a directory")?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
        let read = curl_as(&socket, &[4], "GET", "/v1/status/orders", "")?;
        ensure!(read.starts_with("HTTP/1.1 200"), "{read}");
        let body = r#"{"member": "m2", "reason": "for fun"}"#;
        let no = curl_as(&socket, &[4], "POST", "/v1/services/orders/switch", body)?;
        ensure!(no.starts_with("HTTP/1.1 403"), "{no}");
        ensure!(no.contains("uid 54321") && no.contains("usermod -aG daemon USER"), "{no}");
        let words =
            ["operator", "verb=\"switch\"", "member=\"m2\"", "uid=54321", "gid=54321", "reason=\"for fun\""];
        agent.wait_logged(&words, SOON)?;
        agent.wait_logged(&["uid=54321", "result=\"denied\""], SOON)?;
        ensure!(orders_of(&agent)?["active"] == "m1", "the switch was made");

        let body = r#"{"member": "m2", "reason": "it is needed"}"#;
        let yes = curl_as(&socket, &[4, GROUP.1], "POST", "/v1/services/orders/switch", body)?;
        ensure!(yes.starts_with("HTTP/1.1 200") && yes.contains("\"version\":1"), "{yes}");
        agent.wait_logged(&["operator", "uid=54321", "reason=\"it is needed\"", "result=\"done\""], SOON)?;
        let status = orders_of(&agent)?;
        ensure!(status["active"] == "m2", "{status:#}");
        let reason = status["last_switch"]["reason"].as_str().unwrap_or_default();
        ensure!(reason.contains("uid 54321") && reason.contains("it is needed"), "{status:#}");
        Ok(())
    });
}

/// A group that is written and not there is a fault of the configuration, with its place; nothing is made.
#[test]
fn a_group_that_is_not_there_is_a_fault() {
    Scenario::new(Offloads::On).run(|lab| {
        let config = one_service(lab).agent_line("operator_group = \"no-such-group\"");
        let mut agent = lab.agent_to_start(&config)?;
        let error = agent.start().err().context("it started")?;
        let error = format!("{error:#}");
        ensure!(error.contains("redirector.toml:4:18: this host has no group \"no-such-group\""), "{error}");
        ensure!(error.contains("groupadd --system no-such-group"), "{error}");
        Ok(())
    });
}
