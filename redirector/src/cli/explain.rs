//! `redirector explain`: why this member, since when, and what would change it; of a service, or of one connection.

mod flow;

use std::{
    fmt,
    io::{self, Write},
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use clap::Args;

use super::{
    Exit, Output, service_name,
    status::short,
    table::{Align, Table},
};
use crate::{
    control::{
        client,
        explain::{Explained, MemberReadiness},
    },
    decide::{
        BreakerExplanation, CheckExplanation, Explanation, MemberExplanation, SignalExplanation,
        SwitchExplanation, Timer,
    },
};

/// `explain`
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// Service
    #[arg(value_parser = service_name)]
    pub service: String,
    /// Explain one connection, by the client's address and port; IPv6 in brackets
    #[arg(long, value_name = "ADDR:PORT", value_parser = client_address)]
    pub flow: Option<SocketAddr>,
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

fn client_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "this is no address with a port; write both, like 10.0.0.1:50000 or [fd00::1]:50000, as `redirector flows` shows them"
            .to_owned()
    })
}

/// Writes the explanation to `out` and errors to `err`, which are standard output and error outside tests.
///
/// An output that nobody reads any more (`explain | head`) is no failure.
pub async fn run(socket: &Path, args: &ExplainArgs, out: &mut impl Write, err: &mut impl Write) -> Exit {
    let written = match args.flow {
        None => {
            client::explain(socket, &args.service).await.map(|explained| write(&explained, args.output, out))
        }
        Some(client) => flow::explain(socket, &args.service, client)
            .await
            .map(|flows| flow::write(&flows, args.output, out)),
    };
    super::finish("explanation", written, err)
}

fn write(explained: &Explained, output: Output, out: &mut impl Write) -> io::Result<()> {
    match output {
        Output::Table => {
            write!(out, "{}", Page(&explained.explanation))?;
            write_readiness(&explained.readiness, out)?;
        }
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, explained)?;
            writeln!(out)?;
        }
    }
    out.flush()
}

/// What would hurt applications after a switch; nothing where nothing was found.
fn write_readiness(members: &[MemberReadiness], out: &mut impl Write) -> io::Result<()> {
    let is_silent = |member: &MemberReadiness| {
        member.readiness.findings.is_empty() && member.readiness.ready_unknown.is_empty()
    };
    if members.iter().all(is_silent) {
        return Ok(());
    }
    writeln!(out, "\nafter a switch applications would meet (this decides nothing)")?;
    for MemberReadiness { member, readiness } in members {
        for finding in &readiness.findings {
            writeln!(out, "  {}  {member}: {}", finding.severity, plain(&finding.text))?;
        }
        for why in &readiness.ready_unknown {
            writeln!(out, "  unknown  {member}: {}", plain(why))?;
        }
    }
    Ok(())
}

/// For people: from the decision down to the probes that it rests on.
struct Page<'a>(&'a Explanation);

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let explanation = self.0;
        write_decision(f, explanation)?;
        writeln!(f, "\nwhat would change it")?;
        for change in &explanation.would_change {
            writeln!(f, "  {}", plain(change))?;
        }
        if !explanation.timers.is_empty() {
            writeln!(f, "\n{}", timers(&explanation.timers).to_string().trim_end())?;
        }
        writeln!(f, "\n{}", members(&explanation.members).to_string().trim_end())?;
        writeln!(f, "\n{}", checks(&explanation.members).to_string().trim_end())?;
        write_traffic(f, &explanation.members)
    }
}

fn write_decision(f: &mut fmt::Formatter<'_>, explanation: &Explanation) -> fmt::Result {
    let Explanation { service, state, active, epoch, last_switch, rule, orders, suspicion, .. } = explanation;
    writeln!(f, "service      {service}")?;
    writeln!(f, "state        {state}")?;
    writeln!(f, "active       {}", active.as_deref().unwrap_or("none"))?;
    writeln!(f, "epoch        {epoch}")?;
    let because = last_switch.as_ref().map_or_else(|| "-".to_owned(), because);
    writeln!(f, "because      {because}")?;
    writeln!(f, "rule         {}", plain(rule))?;
    if let Some(member) = &orders.pinned {
        let end = match orders.pin_left_ms {
            Some(left) => format!("for {} more", millis(left)),
            None => "until it is released".to_owned(),
        };
        let against = if orders.against_checks { ", although its checks fail" } else { "" };
        writeln!(f, "pinned       {member}, {end}{against}")?;
    }
    if let Some(member) = &orders.switching_to {
        writeln!(f, "switching    to {member}, when its checks have answered")?;
    }
    if orders.paused {
        writeln!(f, "paused       yes")?;
    }
    match suspicion {
        Some(why) => writeln!(f, "suspicion    this host suspects itself: {}", plain(why)),
        None => Ok(()),
    }
}

/// `failover from paris to dublin, 12m ago: member "paris" down: …`
fn because(SwitchExplanation { from, to, kind, reason, ago_ms }: &SwitchExplanation) -> String {
    let name = |member: &Option<String>| member.as_deref().unwrap_or("none").to_owned();
    format!("{kind} from {} to {}, {} ago: {}", name(from), name(to), millis(*ago_ms), plain(reason))
}

fn timers(timers: &[Timer]) -> Table<4> {
    let mut table = Table::new([
        ("timer", Align::Left),
        ("member", Align::Left),
        ("left", Align::Right),
        ("then", Align::Left),
    ]);
    for Timer { name, member, left_ms, then } in timers {
        let member = member.as_deref().unwrap_or("-");
        table.row([name.to_string(), member.to_owned(), millis(*left_ms), then.clone()]);
    }
    table
}

fn members(members: &[MemberExplanation]) -> Table<7> {
    let mut table = Table::new([
        ("member", Align::Left),
        ("state", Align::Left),
        ("for", Align::Right),
        ("weight", Align::Right),
        ("flaps", Align::Right),
        ("eligible", Align::Left),
        ("reason", Align::Left),
    ]);
    for member in members {
        let mut weight = member.weight.to_string();
        if let Some(configured) = member.configured_weight {
            weight += &format!(" (configured: {configured})");
        }
        let mut eligible = match &member.obstacle {
            Some(obstacle) => format!("no: {obstacle}"),
            None => "yes".to_owned(),
        };
        if let Some(gate) = &member.gate {
            eligible += &format!("; no failback or switch: {gate}");
        }
        if !member.fresh {
            eligible += "; its answers are old";
        }
        table.row([
            member.name.clone(),
            member.state.to_string(),
            millis(member.for_ms),
            weight,
            format!("{:.1}", member.flap_score),
            eligible,
            member.reason.clone(),
        ]);
    }
    table
}

/// What traffic has shown; nothing where it has shown nothing.
fn write_traffic(f: &mut fmt::Formatter<'_>, members: &[MemberExplanation]) -> fmt::Result {
    if members.iter().all(|member| member.signals.is_empty() && member.breaker.is_none()) {
        return Ok(());
    }
    writeln!(f, "\nwhat traffic has shown")?;
    for member in members {
        for SignalExplanation { signal, count, ago_ms } in &member.signals {
            writeln!(f, "  {}: {signal} {count} times, the newest {} ago", member.name, millis(*ago_ms))?;
        }
        if let Some(BreakerExplanation { state, for_ms, attempts, failures, in_a_row }) = &member.breaker {
            let since = for_ms.map(|time| format!(" for {}", millis(time))).unwrap_or_default();
            writeln!(
                f,
                "  {}: breaker {state}{since}; {failures} of {attempts} attempts failed, {in_a_row} in a row",
                member.name
            )?;
        }
    }
    Ok(())
}

fn checks(members: &[MemberExplanation]) -> Table<8> {
    let mut table = Table::new([
        ("member", Align::Left),
        ("address", Align::Left),
        ("check", Align::Left),
        ("effect", Align::Left),
        ("state", Align::Left),
        ("answered", Align::Right),
        ("count", Align::Left),
        ("newest outcome", Align::Left),
    ]);
    for member in members {
        for address in &member.addresses {
            for check in &address.checks {
                table.row([
                    member.name.clone(),
                    address.address.to_string(),
                    check.name.clone(),
                    check.effect.to_string(),
                    check.state.to_string(),
                    check
                        .answered_ms_ago
                        .map_or_else(|| "-".to_owned(), |ago| format!("{} ago", millis(ago))),
                    count(check),
                    check.reason.clone(),
                ]);
            }
        }
    }
    table
}

/// How far a check is on its way to another state.
fn count(check: &CheckExplanation) -> String {
    let CheckExplanation { state, passes, rise, failures, fall, fails_in_ms, .. } = check;
    let mut text = match state.as_ref() {
        "failing" if *passes > 0 => format!("{passes} of {rise} passes"),
        "failing" => "-".to_owned(),
        _ if *failures > 0 => format!("{failures} of {fall} failures"),
        _ => "-".to_owned(),
    };
    if let Some(left) = fails_in_ms {
        text = format!("{text}, fails in {}", millis(*left)).trim_start_matches("-, ").to_owned();
    }
    text
}

/// Text of others on a line of its own.
fn plain(text: &str) -> String {
    text.replace(char::is_control, "?")
}

fn millis(milliseconds: u64) -> String {
    short(Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests;
