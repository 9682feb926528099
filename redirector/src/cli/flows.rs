//! `redirector flows`: asks the agent for flows, or how many there are, and shows what it says.

use std::{
    io::{self, Write},
    path::Path,
    time::Duration,
};

use super::{
    Exit, FlowsArgs, Output,
    status::short,
    table::{Align, Table},
};
use crate::control::{
    client::{self, FlowLines},
    flows::{Filter, FlowStatus, Total, Totals},
    status::VERSION,
};

/// Writes the flows to `out` and errors to `err`, which are standard output and error outside tests.
///
/// An output that nobody reads any more (`flows | head`) is no failure.
pub async fn run(socket: &Path, args: &FlowsArgs, out: &mut impl Write, err: &mut impl Write) -> Exit {
    let filter = filter(args);
    let (written, matched) = if args.totals {
        let totals = client::totals(socket, &filter).await;
        let matched = totals.as_ref().map_or(0, |totals| totals.flows);
        (totals.map(|totals| write_totals(&totals, args.output, out)), matched)
    } else {
        let limit = if args.limit == 0 { u64::MAX } else { args.limit };
        let flows = client::flows(socket, &filter, limit).await;
        let matched = flows.as_ref().map_or(0, |flows| flows.matched);
        (flows.map(|flows| write_flows(&flows, args.output, out)), matched)
    };
    if let (Ok(_), 0, Some(meant)) = (&written, matched, args.client.and_then(|client| client.with_a_port()))
    {
        // There is no place left to complain about an unwritable standard error.
        let _ = writeln!(err, "no flow of that address; if a port was meant, write {meant}");
    }
    super::finish("flows", written, err)
}

fn filter(args: &FlowsArgs) -> Filter {
    Filter {
        service: args.service.clone(),
        member: args.member.clone(),
        client: args.client,
        state: args.state,
        idle_over: args.idle_over,
        stale: args.stale,
    }
}

fn write_flows(list: &FlowLines, output: Output, out: &mut impl Write) -> io::Result<()> {
    match output {
        Output::Json => write_documents(list, out)?,
        Output::Table => {
            let mut flows = list.flows().collect::<serde_json::Result<Vec<_>>>()?;
            let shown = flows.len() as u64;
            // The flow table has no order; people look for one service, one member, one client.
            flows.sort_by(|a, b| (&a.service, &a.member, a.client).cmp(&(&b.service, &b.member, b.client)));
            write!(out, "{}", table(&flows))?;
            if shown < list.matched {
                writeln!(out, "\n{shown} of {} flows; narrow them down, or raise --limit", list.matched)?;
            }
        }
    }
    out.flush()
}

/// One document; a line for each flow, as the agent sent it.
fn write_documents(list: &FlowLines, out: &mut impl Write) -> io::Result<()> {
    write!(out, "{{\"version\": {VERSION}, \"matched\": {}, \"flows\": [", list.matched)?;
    for (number, line) in list.lines().enumerate() {
        write!(out, "{}\n  {line}", if number == 0 { "" } else { "," })?;
    }
    writeln!(out, "\n]}}")
}

fn table(flows: &[FlowStatus]) -> Table<10> {
    let mut table = Table::new([
        ("service", Align::Left),
        ("member", Align::Left),
        ("client", Align::Left),
        ("vip", Align::Left),
        ("source", Align::Left),
        ("address", Align::Left),
        ("state", Align::Left),
        ("epoch", Align::Right),
        ("idle", Align::Right),
        ("age", Align::Right),
    ]);
    for flow in flows {
        let mut state = flow.state.to_string();
        if flow.stale {
            state += ", stale";
        }
        if flow.local {
            state += ", local";
        }
        table.row([
            or_gone(flow.service.as_deref()),
            or_gone(flow.member.as_deref()),
            flow.client.to_string(),
            flow.vip.to_string(),
            flow.source.to_string(),
            flow.address.to_string(),
            state,
            flow.epoch.to_string(),
            short(Duration::from_millis(flow.idle_ms)),
            short(Duration::from_millis(flow.age_ms)),
        ]);
    }
    table
}

fn write_totals(totals: &Totals, output: Output, out: &mut impl Write) -> io::Result<()> {
    match output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, totals)?;
            writeln!(out)?;
        }
        Output::Table => {
            let mut table = Table::new([
                ("service", Align::Left),
                ("member", Align::Left),
                ("state", Align::Left),
                ("flows", Align::Right),
                ("stale", Align::Right),
                ("local", Align::Right),
            ]);
            for Total { service, member, state, flows, stale, local } in &totals.totals {
                let state = state.to_string();
                let [flows, stale, local] = [flows, stale, local].map(ToString::to_string);
                table.row([
                    or_gone(service.as_deref()),
                    or_gone(member.as_deref()),
                    state,
                    flows,
                    stale,
                    local,
                ]);
            }
            write!(out, "{table}\n{} flows\n", totals.flows)?;
        }
    }
    out.flush()
}

/// A name; a flow may have outlived its service or member.
fn or_gone(name: Option<&str>) -> String {
    name.unwrap_or("-").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::flows::FlowState;

    #[test]
    fn a_row_has_both_sides_of_a_flow() {
        let flow = FlowStatus {
            service: Some("orders".into()),
            member: Some("paris".into()),
            client: "10.1.0.2:40000".parse().unwrap(),
            vip: "10.255.0.1:6379".parse().unwrap(),
            source: "10.1.0.2:12345".parse().unwrap(),
            address: "10.2.1.2:6379".parse().unwrap(),
            state: FlowState::Established,
            stale: false,
            local: true,
            epoch: 7,
            idle_ms: 1250,
            age_ms: 8_000_000,
        };
        let gone = FlowStatus {
            service: None,
            member: None,
            client: "[fd30::2]:40000".parse().unwrap(),
            stale: true,
            local: false,
            ..flow.clone()
        };
        insta::assert_snapshot!(table(&[flow, gone]), @r"
        service  member  client           vip              source          address        state               epoch  idle  age
        orders   paris   10.1.0.2:40000   10.255.0.1:6379  10.1.0.2:12345  10.2.1.2:6379  established, local      7  1.2s   2h
        -        -       [fd30::2]:40000  10.255.0.1:6379  10.1.0.2:12345  10.2.1.2:6379  established, stale      7  1.2s   2h
        ");
    }
}
