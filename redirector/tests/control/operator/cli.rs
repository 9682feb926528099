//! The verbs of the command line: what they say, how they wait, and their exit codes.

use std::{path::Path, time::Duration};

use redirector::{
    cli::{
        Exit, Output,
        operator::{self, ChangeArgs, PauseArgs, SwitchArgs, UndrainArgs, WaitArgs, WeightArgs},
    },
    control::{
        client::{self, ClientError},
        flows::{FlowState, Total, Totals},
        operator::{Answer, Asked, FlowPolicy, Left, Order, Verb},
        server::Request,
        status::{ServiceState, VERSION},
    },
};

use super::{agent, answer, is_root, root_only};
use crate::{Agent, service, socket_in, status_of, temp::TempDir};

const CHANGE: ChangeArgs = ChangeArgs { reason: None, dry_run: false, output: Output::Table };

fn switch(wait: bool, timeout: u64) -> SwitchArgs {
    SwitchArgs {
        service: "orders".into(),
        member: "dublin".into(),
        hold: None,
        force: false,
        wait: WaitArgs { wait, timeout: Duration::from_millis(timeout) },
        change: CHANGE,
    }
}

/// Exit, standard output, standard error.
async fn run(socket: &Path, change: impl Into<operator::Change>) -> (Exit, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = operator::run(socket, change, &mut out, &mut err).await;
    (exit, String::from_utf8(out).expect("text"), String::from_utf8(err).expect("text"))
}

#[tokio::test]
async fn the_command_line_says_what_was_done() {
    let (agent, heard) = agent(root_only());
    if !is_root() {
        return;
    }
    let weight = WeightArgs {
        service: "orders".into(),
        member: "dublin".into(),
        weight: 7,
        change: ChangeArgs { reason: Some("why".into()), dry_run: true, ..CHANGE },
    };
    let (exit, out, err) = run(agent.socket(), weight).await;
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    assert_eq!(out, "orders: dry run, nothing is changed: it was done\n");
    let (_, asked, _) = heard.lock().unwrap().asked.pop().unwrap();
    assert_eq!((asked.reason.as_deref(), asked.dry_run), (Some("why"), true));

    let undrain = UndrainArgs {
        service: "orders".into(),
        member: "dublin".into(),
        change: ChangeArgs { output: Output::Json, ..CHANGE },
    };
    let (exit, out, _) = run(agent.socket(), undrain).await;
    let document: Answer = serde_json::from_str(&out).unwrap();
    assert_eq!((exit, document.verb), (Exit::Done, Verb::Undrain));
}

#[tokio::test]
async fn all_services_are_asked_one_after_the_other() {
    let (agent, heard) = agent(root_only());
    if !is_root() {
        return;
    }
    let all = |output| PauseArgs { service: None, all: true, change: ChangeArgs { output, ..CHANGE } };
    let resume = operator::Change::resume(all(Output::Table));
    let (exit, out, _) = run(agent.socket(), resume).await;
    assert_eq!((exit, out.as_str()), (Exit::Done, "orders: it was done\ncarts: it was done\n"));
    let (_, out, _) = run(agent.socket(), operator::Change::resume(all(Output::Json))).await;
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&document["version"], &document["services"][1]["service"]), (&1.into(), &"carts".into()));
    let (exit, out, err) = run(agent.socket(), operator::Change::pause(all(Output::Table))).await;
    assert_eq!((exit, out.as_str(), err.as_str()), (Exit::Failed, "", "error: not now; do something else\n"));
    assert_eq!(heard.lock().unwrap().asked.len(), 5);
}

#[tokio::test]
async fn exit_codes_are_those_of_the_contract() {
    let directory = TempDir::new();
    let socket = socket_in(&directory);
    let (exit, out, err) = run(&socket, switch(false, 0)).await;
    assert_eq!((exit, out.as_str()), (Exit::NotRunning, ""));
    assert!(err.contains("redirector run"), "{err}");
    let (agent, _heard) = agent(root_only());
    if !is_root() {
        return;
    }
    let nothing = SwitchArgs { service: "nothing".into(), ..switch(false, 0) };
    let (exit, _, err) = run(agent.socket(), nothing).await;
    assert_eq!((exit, err.as_str()), (Exit::Failed, "error: there is no such service; do something else\n"));
}

/// An agent whose service is left by "paris" after some looks, and whose flows there end after some more.
fn leaving(active_for: u32, flows_for: u32) -> Agent {
    let (mut looks, mut counts) = (0, 0);
    Agent::start_with(move |request| match request {
        Request::Operate { service, asked, reply, .. } => {
            let left = Left { member: "paris".into(), flows: FlowPolicy::Keep, until: None };
            let answer = Answer { left: Some(left), ..answer(service, &asked) };
            reply.send(Ok(answer)).expect("the client waits");
        }
        Request::Status { reply, .. } => {
            looks += 1;
            let mut orders = service("orders", ServiceState::Ok);
            orders.active = Some(if looks <= active_for { "paris" } else { "dublin" }.into());
            drop(reply.send(status_of(vec![orders])));
        }
        Request::Totals { filter, reply, .. } => {
            assert_eq!(
                (filter.service.as_deref(), filter.member.as_deref()),
                (Some("orders"), Some("paris"))
            );
            counts += 1;
            let total = |state, flows| Total {
                service: filter.service.clone(),
                member: filter.member.clone(),
                state,
                flows,
                stale: 0,
                local: 0,
            };
            // What is closing is not waited for.
            let open = if counts <= flows_for { 3 } else { 0 };
            let totals = vec![total(FlowState::Established, open), total(FlowState::Closing, 9)];
            drop(reply.send(Ok(Totals { version: VERSION, flows: open + 9, totals })));
        }
        _ => panic!("nobody asks"),
    })
}

#[tokio::test]
async fn waiting_ends_when_the_member_was_left() {
    if !is_root() {
        return;
    }
    let (exit, out, err) = run(leaving(2, 2).socket(), switch(true, 10_000)).await;
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    assert!(
        out.contains("go on until they end by themselves") && out.contains("no flow is left there"),
        "{out}"
    );
}

#[tokio::test]
async fn waiting_is_given_up_with_exit_code_1() {
    if !is_root() {
        return;
    }
    let (exit, out, err) = run(leaving(0, 1000).socket(), switch(true, 300)).await;
    assert_eq!(exit, Exit::Failed);
    assert!(out.contains("it was done") && out.contains("3 flows are still there"), "{out}");
    assert!(err.contains("\"paris\"") && err.contains("redirector flows --service orders"), "{err}");
    let (exit, _, err) = run(leaving(1000, 0).socket(), switch(true, 300)).await;
    assert_eq!(exit, Exit::Failed);
    assert!(err.contains("is still active") && err.contains("redirector explain orders"), "{err}");
}

#[tokio::test]
async fn an_agent_that_goes_while_it_is_waited_for_is_an_error() {
    let agent = Agent::start_with(drop);
    let asked = Asked { order: Order::Release, reason: None, dry_run: false };
    let error = client::operate(agent.socket(), "orders", &asked).await.unwrap_err();
    assert!(matches!(error, ClientError::Failed { .. }), "{error}");
}
