//! `redirector explain SERVICE --flow ADDR:PORT`: why one connection is where it is, and how long it may stay there.

use std::{
    collections::HashMap,
    fmt,
    io::{self, Write},
    net::SocketAddr,
    ops::ControlFlow,
    path::Path,
    time::Duration,
};

use serde::Serialize;

use super::{because, millis, plain};
use crate::{
    cli::{Output, status::short},
    control::{
        client::{self, ClientError},
        flows::{Filter, FlowStatus},
        status::VERSION,
    },
    decide::Explanation,
    telemetry::{Event, Record, Selection},
};

/// Why the flows of one client are where they are: one for each VIP that it has connected to from this port.
#[derive(Debug, Serialize)]
pub(super) struct Flows {
    version: u32,
    flows: Vec<Flow>,
}

/// Why a flow is where it is.
#[derive(Debug, Serialize)]
pub(super) struct Flow {
    flow: FlowStatus,
    /// Why its member, in words.
    chosen: String,
    /// What becomes of it, in words.
    outlook: String,
}

/// Asks for the flow and for the decision.
pub(super) async fn explain(socket: &Path, service: &str, from: SocketAddr) -> Result<Flows, ClientError> {
    let clients = from.to_string().parse().map_err(|message| ClientError::Failed {
        message,
        next: "write ADDR:PORT, and [ADDR]:PORT for IPv6".to_owned(),
    })?;
    let filter = Filter { service: Some(service.into()), client: Some(clients), ..Filter::default() };
    let list = client::flows(socket, &filter, u64::MAX).await?;
    let explanation = client::explain(socket, service).await?.explanation;
    let switches = switches(socket, service).await?;
    let told = |flow| told(flow, &explanation, &switches);
    let flows: Vec<_> = list.flows().filter_map(Result::ok).map(told).collect();
    if flows.is_empty() {
        return Err(ClientError::Failed {
            message: format!("{service} has no flow from {from}"),
            next: format!("look for it in `redirector flows --service {service} --client {}`", from.ip()),
        });
    }
    Ok(Flows { version: VERSION, flows })
}

pub(super) fn told(flow: FlowStatus, explanation: &Explanation, switches: &Switches) -> Flow {
    let (chosen, outlook) = (chosen(&flow, explanation, switches), outlook(&flow, explanation));
    Flow { flow, chosen, outlook }
}

/// Recent switches of a service in words, by their epochs.
pub(super) type Switches = HashMap<u32, String>;

/// Those that are among the recent events.
async fn switches(socket: &Path, service: &str) -> Result<Switches, ClientError> {
    let selection = Selection { service: Some(service.into()), ..Selection::default() };
    let mut switches = Switches::new();
    client::events(socket, &selection, |line| {
        if let Ok(Record { at, event: Event::Switch { from, kind, reason, epoch, .. }, .. }) =
            serde_json::from_str(line)
        {
            let from = from.as_deref().map(|from| format!(" from {from}")).unwrap_or_default();
            switches.insert(epoch, format!("by the {kind} switch{from} at {at}: {}", plain(&reason)));
        }
        ControlFlow::Continue(())
    })
    .await?;
    Ok(switches)
}

fn chosen(flow: &FlowStatus, explanation: &Explanation, switches: &Switches) -> String {
    let member = flow.member.as_deref().unwrap_or("a member that is gone");
    let now = if flow.epoch == explanation.epoch { ", as it is now" } else { "" };
    let why = switches.get(&flow.epoch).map(|why| format!(", {why}")).unwrap_or_default();
    format!("{member} was active when it was opened, in epoch {}{now}{why}", flow.epoch)
}

fn outlook(flow: &FlowStatus, explanation: &Explanation) -> String {
    let Explanation { active, epoch, last_switch, timers, .. } = explanation;
    let (active, member) = (active.as_deref(), flow.member.as_deref());
    if flow.stale {
        return "it is stale: its member was left or its address taken away, and its next packet resets it"
            .to_owned();
    }
    if active == member {
        return "it stays: its member is active".to_owned();
    }
    let now = active.unwrap_or("none");
    let since = last_switch.as_ref().map(|last| format!(" ({})", because(last))).unwrap_or_default();
    // Drains of earlier switches may end before; the next one to end is the first that may be this flow's.
    match timers.iter().find(|timer| timer.name == "drain") {
        Some(drain) => format!(
            "{now} is active now, in epoch {epoch}{since}; it may go on while it drains, for {} or more, and is reset then",
            millis(drain.left_ms)
        ),
        None => format!("{now} is active now, in epoch {epoch}{since}; it goes on until it ends by itself"),
    }
}

pub(super) fn write(flows: &Flows, output: Output, out: &mut impl Write) -> io::Result<()> {
    match output {
        Output::Table => {
            for (number, flow) in flows.flows.iter().enumerate() {
                write!(out, "{}{flow}", if number == 0 { "" } else { "\n" })?;
            }
        }
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, flows)?;
            writeln!(out)?;
        }
    }
    out.flush()
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FlowStatus { service, member, client, vip, source, address, state, local, .. } = &self.flow;
        let name = |name: &Option<String>| name.as_deref().unwrap_or("-").to_owned();
        let of = |milliseconds| short(Duration::from_millis(milliseconds));
        writeln!(f, "flow         {client} to {vip}{}", if *local { ", a socket of this host" } else { "" })?;
        writeln!(f, "service      {}", name(service))?;
        writeln!(f, "member       {}, at {address} from {source}", name(member))?;
        writeln!(
            f,
            "state        {state} for {}, the last segment {} ago",
            of(self.flow.age_ms),
            of(self.flow.idle_ms)
        )?;
        writeln!(f, "chosen       {}", self.chosen)?;
        writeln!(f, "now          {}", self.outlook)
    }
}
