//! `redirector flows`, with an agent behind the socket that has two flows.

use redirector::{
    cli::{Exit, FlowsArgs, Output, flows},
    control::{
        ErrorText,
        flows::{Filter, FlowState, FlowStatus, ListEnd, Total, Totals},
        server::Request,
        status::VERSION,
    },
};
use serde_json::Value;

use crate::{Agent, http::curl, socket_in, temp::TempDir};

const ARGS: FlowsArgs = FlowsArgs {
    service: None,
    member: None,
    client: None,
    state: None,
    idle_over: None,
    stale: false,
    totals: false,
    limit: 1000,
    output: Output::Json,
};

fn flow(client: &str) -> FlowStatus {
    FlowStatus {
        service: Some("orders".into()),
        member: Some("paris".into()),
        client: client.parse().expect("an address"),
        vip: "10.255.0.1:6379".parse().expect("an address"),
        source: "10.1.0.2:12345".parse().expect("an address"),
        address: "10.2.1.2:6379".parse().expect("an address"),
        state: FlowState::Established,
        stale: false,
        local: true,
        epoch: 7,
        idle_ms: 1250,
        age_ms: 2000,
    }
}

fn totals() -> Totals {
    let (service, member) = (Some("orders".into()), Some("paris".into()));
    let total = Total { service, member, state: FlowState::Established, flows: 2, stale: 0, local: 2 };
    Totals { version: VERSION, flows: 2, totals: vec![total] }
}

/// An agent that knows no service but `orders`, and breaks a list off when it is asked for closing flows.
fn agent() -> Agent {
    let known = |filter: &Filter| match filter.service.as_deref() {
        None | Some("orders") => Ok(()),
        Some(name) => Err(ErrorText { message: format!("no {name}"), next: "check the name".into() }),
    };
    Agent::start_with(move |request| match request {
        Request::Status { .. }
        | Request::Operate { .. }
        | Request::Explain { .. }
        | Request::Reload { .. }
        | Request::Events { .. }
        | Request::Denied(_) => panic!("nobody asks"),
        Request::Totals { filter, reply, .. } => drop(reply.send(known(&filter).map(|()| totals()))),
        Request::Flows { filter, limit, lines, reply, .. } => {
            reply.send(known(&filter)).expect("the server waits");
            let flows = ["10.1.0.2:40000", "10.1.0.2:40001"].map(flow);
            for flow in flows.iter().take(usize::try_from(limit).unwrap_or(usize::MAX)) {
                let line = serde_json::to_string(flow).expect("it serializes") + "\n";
                lines.try_send(line.into()).expect("there is room");
            }
            if filter.state != Some(FlowState::Closing) {
                let end = serde_json::to_string(&ListEnd { matched: 2 }).expect("it serializes") + "\n";
                lines.try_send(end.into()).expect("there is room");
            }
        }
    })
}

/// Exit, standard output, standard error.
async fn run(agent: &Agent, args: &FlowsArgs) -> (Exit, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = flows::run(agent.socket(), args, &mut out, &mut err).await;
    (exit, String::from_utf8(out).expect("text"), String::from_utf8(err).expect("text"))
}

#[tokio::test]
async fn json_is_one_document() {
    let agent = agent();
    for (limit, shown) in [(1000, 2), (0, 2), (1, 1)] {
        let (exit, out, err) = run(&agent, &FlowsArgs { limit, ..ARGS }).await;
        assert_eq!((exit, err.as_str()), (Exit::Done, ""));
        let document: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&document["version"], &document["matched"]), (&VERSION.into(), &2.into()));
        let flows = document["flows"].as_array().unwrap();
        assert_eq!(flows.len(), shown, "limit {limit}");
        assert_eq!(serde_json::from_value::<FlowStatus>(flows[0].clone()).unwrap(), flow("10.1.0.2:40000"));
    }
}

#[tokio::test]
async fn a_table_that_is_not_whole_says_so() {
    let (exit, out, _) = run(&agent(), &FlowsArgs { limit: 1, output: Output::Table, ..ARGS }).await;
    assert_eq!(exit, Exit::Done);
    assert!(out.contains("10.1.0.2:40000") && !out.contains("10.1.0.2:40001"), "{out}");
    assert!(out.contains("1 of 2 flows; "), "{out}");
}

#[tokio::test]
async fn totals_are_a_document_and_a_table() {
    let (exit, out, _) = run(&agent(), &FlowsArgs { totals: true, ..ARGS }).await;
    assert_eq!(exit, Exit::Done);
    assert_eq!(serde_json::from_str::<Totals>(&out).unwrap(), totals());
    let (_, out, _) = run(&agent(), &FlowsArgs { totals: true, output: Output::Table, ..ARGS }).await;
    assert!(out.ends_with("\n2 flows\n") && out.contains("orders   paris   established"), "{out}");
}

/// A reader would take half of the flows for all of them.
#[tokio::test]
async fn a_list_that_breaks_off_is_an_error() {
    let args = FlowsArgs { state: Some(FlowState::Closing), ..ARGS };
    let (exit, out, err) = run(&agent(), &args).await;
    assert_eq!((exit, out.as_str()), (Exit::Failed, ""));
    assert!(err.contains("the list breaks off"), "{err}");
}

#[tokio::test]
async fn what_is_not_there_and_who_does_not_run_have_their_exit_codes() {
    for totals in [false, true] {
        let args = FlowsArgs { service: Some("carts".into()), totals, ..ARGS };
        let (exit, out, err) = run(&agent(), &args).await;
        assert_eq!(
            (exit, out.as_str(), err.as_str()),
            (Exit::Failed, "", "error: no carts; check the name\n")
        );
        let directory = TempDir::new();
        let mut err = Vec::new();
        let exit = flows::run(&socket_in(&directory), &args, &mut Vec::new(), &mut err).await;
        assert_eq!(exit, Exit::NotRunning);
    }
}

#[tokio::test]
async fn a_wrong_query_is_told_what_is_right() {
    for query in ["?state=open", "?what=1", "?limit=x", "?client=nowhere"] {
        let (head, body) = curl(&agent(), "GET", &format!("/v1/flows{query}")).await;
        assert!(head.starts_with("http/1.1 400"), "{query}: {head}");
        assert!(body.contains("idle_over_ms"), "{query}: {body}");
    }
    assert!(curl(&agent(), "POST", "/v1/flows").await.0.starts_with("http/1.1 405"));
}
