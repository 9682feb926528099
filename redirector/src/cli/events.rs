//! `redirector events`: what happened, and what happens, a line each.

use std::{
    io::{self, Write},
    ops::ControlFlow::{Break, Continue},
    path::Path,
    time::Duration,
};

use super::{EventsArgs, Exit, Output, status::short};
use crate::{
    control::client::{self, ClientError},
    telemetry::{Event, Record, Selection},
};

/// Writes events to `out` and errors to `err`, which are standard output and error outside tests.
///
/// An output that nobody reads any more (`events | head`) is no failure.
pub async fn run(socket: &Path, args: &EventsArgs, out: &mut impl Write, err: &mut impl Write) -> Exit {
    let selection = Selection { since: args.since, service: args.service.clone(), follow: args.follow };
    let mut written = Ok(());
    let read = client::events(socket, &selection, |line| {
        written = write(line, args.output, out);
        if written.is_ok() { Continue(()) } else { Break(()) }
    });
    // There is no place left to complain about an unwritable standard error.
    match (read.await, written) {
        (_, Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
        (_, Err(error)) => {
            let _ = writeln!(err, "error: cannot write the events: {error}; check where the output goes");
            Exit::Failed
        }
        (Ok(()), Ok(())) => Exit::Done,
        (Err(error), Ok(())) => {
            let _ = writeln!(err, "error: {error}");
            match error {
                ClientError::NotRunning { .. } => Exit::NotRunning,
                ClientError::Failed { .. } => Exit::Failed,
            }
        }
    }
}

/// Each line at once: whoever follows waits for it.
fn write(line: &str, output: Output, out: &mut impl Write) -> io::Result<()> {
    match (output, serde_json::from_str::<Record>(line)) {
        (Output::Table, Ok(record)) => writeln!(out, "{}", text(&record).replace(char::is_control, "?"))?,
        // For scripts, or an event of another release.
        _ => writeln!(out, "{line}")?,
    }
    out.flush()
}

/// Time, event, service, member, and what else there is to say.
fn text(record: &Record) -> String {
    let event = &record.event;
    let or_none = |name: Option<&str>| name.unwrap_or("-").to_owned();
    let (service, member) = (or_none(event.service()), or_none(event.member()));
    let (name, words) = (event.name(), words(event));
    format!("{}  {name:<18}  {service:<12}  {member:<12}  {words}", record.at).trim_end().to_owned()
}

/// What an event says besides its name, service and member.
fn words(event: &Event) -> String {
    let none = || "none".to_owned();
    let millis = |time: f64| format!("{time:.1} ms");
    match event {
        Event::Started { release, pid, services } => {
            format!("release {release}, process {pid}, services: {services}")
        }
        Event::Stopping { on_stop } => format!("on_stop = {on_stop:?}").to_lowercase(),
        Event::TookOver { epoch, .. } => format!("epoch {epoch}"),
        Event::Ready {} => String::new(),
        Event::Switch { from, to, kind, reason, epoch, policy, detected_in_ms, .. } => {
            let (from, to) = (from.clone().unwrap_or_else(none), to.clone().unwrap_or_else(none));
            let detected =
                detected_in_ms.map(|time| format!(", detected in {}", millis(time))).unwrap_or_default();
            format!("{kind} from {from} to {to}, epoch {epoch}, flows: {policy}{detected}; {reason}")
        }
        Event::FlowsReset { reset, waiting, after_ms, .. } => {
            format!("{reset} reset after {}, {waiting} with their next packet", millis(*after_ms))
        }
        Event::MemberChanged { state, reason, trouble, borne_ms, signal, .. } => {
            let borne = trouble.zip(*borne_ms);
            let borne = borne.map(|(kind, time)| format!(", {kind} borne for {}", millis(time)));
            let signal = signal.as_ref().map(|signal| format!(", seen by the signal {signal}"));
            format!("{state}: {reason}{}{}", borne.unwrap_or_default(), signal.unwrap_or_default())
        }
        Event::Signal { signal, count, began_ms, looked, .. } => {
            let looked = if *looked { "" } else { ", only observed" };
            format!("{signal}, {count} times, the newest began {} before{looked}", millis(*began_ms))
        }
        Event::AddressChanged { address, state, reason, .. } => format!("{address} {state}: {reason}"),
        Event::AddressesChanged { from, to, left_out, .. } if *left_out == 0 => {
            format!("from {from} to {to}")
        }
        Event::AddressesChanged { from, to, left_out, .. } => {
            format!("from {from} to {to}, {left_out} left out")
        }
        Event::Offered { offered, left_out, .. } => {
            let list = |all: &[_]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            if left_out.is_empty() {
                list(offered)
            } else {
                format!("{}; left out: {}", list(offered), list(left_out))
            }
        }
        Event::AddressReset { address, removed, .. } => {
            format!("{address}{}", if *removed { ", removed" } else { "" })
        }
        Event::DrainBegan { epoch, lasts_ms, .. } => {
            format!("epoch {epoch}, for {}", short(Duration::from_millis(*lasts_ms)))
        }
        Event::DrainEnded { epoch, reason: None, .. } => format!("epoch {epoch}"),
        Event::DrainEnded { epoch, reason: Some(reason), .. } => format!("epoch {epoch}, early: {reason}"),
        Event::CheckInconclusive { address, check, reason, .. }
        | Event::CheckConclusive { address, check, reason, .. } => format!("{check} {address}: {reason}"),
        Event::Operator { verb, who, reason, result, message, dry_run, .. } => {
            let user = who.login.clone().or(who.user.clone()).unwrap_or_else(|| format!("uid {}", who.uid));
            let reason = reason.as_ref().map(|reason| format!(", because: {reason}")).unwrap_or_default();
            let dry_run = if *dry_run { ", dry run" } else { "" };
            format!("{verb} by {user}{dry_run}{reason}; {result}: {message}")
        }
        Event::Reload { changes, error: None, .. } => changes.join("; "),
        Event::Reload { error: Some(error), .. } => format!("not done: {error}"),
        Event::NetworkRestored { what } => what.clone(),
        Event::Late { late_ms, more } => format!("by {}, and {more} times before", millis(*late_ms)),
        Event::Hook { hook, when, done, result, took_ms, .. } => {
            let done = if *done { "done" } else { "failed" };
            format!("{hook} {when} the switch: {done} in {}: {result}", millis(*took_ms))
        }
        Event::Error { message, .. } => message.clone(),
        Event::Lost { events } => format!("{events} events: too slow to follow; `events --since` has them"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::model::{FlowPolicy, MemberState, SwitchKind, TroubleKind};

    #[test]
    fn a_line_tells_the_story() {
        let (service, member) = ("orders".to_owned(), "paris".to_owned());
        let events = [
            Event::Started { release: "0.1.0".into(), pid: 77, services: 2 },
            Event::MemberChanged {
                service: service.clone(),
                member: member.clone(),
                state: MemberState::Down,
                reason: "ping: connection refused (2 in a row)\n".into(),
                trouble: Some(TroubleKind::Refused),
                borne_ms: Some(1.5),
                signal: Some("closed".into()),
                signalled_ms: Some(4.0),
            },
            Event::Switch {
                service: service.clone(),
                from: Some(member.clone()),
                to: None,
                kind: SwitchKind::Failover,
                reason: "paris is down".into(),
                epoch: 7,
                policy: FlowPolicy::Reset,
                reset_over_ms: None,
                trouble: None,
                borne_ms: None,
                detected_in_ms: Some(51.234),
                outage_at_most_ms: Some(151.0),
            },
            Event::FlowsReset {
                service: Some(service),
                member: Some(member),
                epoch: Some(7),
                reset: 12,
                waiting: 3,
                after_ms: 1.9,
            },
        ];
        let mut out = Vec::new();
        for (sequence, event) in (1..).zip(events) {
            let line = serde_json::to_string(&Record::new(sequence, SystemTime::UNIX_EPOCH, event)).unwrap();
            write(&line, Output::Table, &mut out).unwrap();
        }
        write(r#"{"event": "of another release"}"#, Output::Table, &mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r#"
        1970-01-01T00:00:00.000Z  started             -             -             release 0.1.0, process 77, services: 2
        1970-01-01T00:00:00.000Z  member_changed      orders        paris         down: ping: connection refused (2 in a row)?, refused borne for 1.5 ms, seen by the signal closed
        1970-01-01T00:00:00.000Z  switch              orders        -             failover from paris to none, epoch 7, flows: reset, detected in 51.2 ms; paris is down
        1970-01-01T00:00:00.000Z  flows_reset         orders        paris         12 reset after 1.9 ms, 3 with their next packet
        {"event": "of another release"}
        "#);
    }
}
