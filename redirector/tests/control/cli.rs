//! `redirector status`: output and exit codes.

use std::{
    io::{self, Write},
    path::Path,
};

use redirector::{
    cli::{Exit, Output, StatusArgs, status},
    control::status::{ServiceState, Status},
};

use crate::{Agent, service, socket_in, status_of, temp::TempDir, two_services};

fn args(service: Option<&str>, output: Output, exit_code: bool) -> StatusArgs {
    StatusArgs { service: service.map(str::to_owned), output, exit_code }
}

/// Exit, standard output, standard error.
async fn run(socket: &Path, args: &StatusArgs) -> (Exit, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = status::run(socket, args, &mut out, &mut err).await;
    (exit, String::from_utf8(out).expect("text"), String::from_utf8(err).expect("text"))
}

#[tokio::test]
async fn json_is_the_document() {
    let agent = Agent::start(two_services());
    let (exit, out, err) = run(agent.socket(), &args(None, Output::Json, false)).await;
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    let status: Status = serde_json::from_str(&out).unwrap();
    assert_eq!(status, status_of(two_services()));
    assert!(out.ends_with("}\n"));
}

#[tokio::test]
async fn the_table_has_a_block_for_each_service() {
    let agent = Agent::start(two_services());
    let (exit, out, _) = run(agent.socket(), &args(None, Output::Table, false)).await;
    assert_eq!(exit, Exit::Done);
    assert_eq!(out.matches("service      ").count(), 2, "{out}");
}

#[tokio::test]
async fn exit_code_4_says_that_a_service_is_not_ok() {
    let agent = Agent::start(two_services());
    for (service, exit_code, expected) in [
        (None, true, Exit::Degraded),
        (Some("carts"), true, Exit::Degraded),
        (Some("orders"), true, Exit::Done),
        (None, false, Exit::Done),
    ] {
        let (exit, ..) = run(agent.socket(), &args(service, Output::Table, exit_code)).await;
        assert_eq!(exit, expected, "{service:?} {exit_code}");
    }
    for state in [ServiceState::Down, ServiceState::Held] {
        let agent = Agent::start(vec![service("orders", state)]);
        let (exit, ..) = run(agent.socket(), &args(None, Output::Json, true)).await;
        assert_eq!(exit, Exit::Degraded, "{state}");
    }
}

#[tokio::test]
async fn exit_code_3_says_that_no_agent_runs() {
    let directory = TempDir::new();
    let socket = socket_in(&directory);
    let (exit, out, err) = run(&socket, &args(None, Output::Json, true)).await;
    assert_eq!((exit, out.as_str()), (Exit::NotRunning, ""));
    assert!(err.contains(socket.to_str().unwrap()) && err.contains("redirector run"), "{err}");
}

#[tokio::test]
async fn exit_code_1_says_why() {
    let agent = Agent::start(two_services());
    let (exit, out, err) = run(agent.socket(), &args(Some("order"), Output::Table, true)).await;
    assert_eq!((exit, out.as_str()), (Exit::Failed, ""));
    assert!(
        err.starts_with("error: there is no service \"order\"; there is \"orders\", \"carts\"; "),
        "{err}"
    );
}

/// Fails with an error of its kind.
struct Broken(io::ErrorKind);

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(self.0.into())
    }
}

/// `redirector status | head -1`
#[tokio::test]
async fn an_output_that_closed_early_is_no_failure_but_a_full_disk_is() {
    let agent = Agent::start(two_services());
    for output in [Output::Table, Output::Json] {
        for (kind, expected) in
            [(io::ErrorKind::BrokenPipe, Exit::Done), (io::ErrorKind::StorageFull, Exit::Failed)]
        {
            let mut err = Vec::new();
            let exit =
                status::run(agent.socket(), &args(None, output, false), &mut Broken(kind), &mut err).await;
            assert_eq!((exit, err.is_empty()), (expected, expected == Exit::Done), "{output:?}");
        }
    }
}
