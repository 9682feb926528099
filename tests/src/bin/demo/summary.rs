//! The end: one table, a column a switch.

use std::{
    io,
    time::{Duration, Instant},
};

use crate::{
    Fault,
    clients::{COMMANDS, CONNECTIONS, Waiting},
    screen::{Screen, Tone},
    story::Act,
    tally::{Switch, Tally},
    words::{count, many, ms},
};

/// Columns of the table, in characters.
const LABEL: usize = 44;
const FIGURE: usize = 16;

pub(crate) fn write(
    screen: &mut Screen,
    fault: Fault,
    acts: [&Act; 2],
    tally: &Tally,
    time: Duration,
) -> io::Result<()> {
    let mut row = |tone, label: &str, cell: &dyn Fn(&Act) -> String| {
        let cells = acts.map(|act| format!("{:>FIGURE$}", cell(act)));
        screen.say(tone, &format!("  {label:LABEL$}{}{}", cells[0], cells[1]))
    };
    row(Tone::Plain, "", &|_| String::new())?;
    row(Tone::Title, "Summary", &|act| {
        act.status.last_switch.as_ref().map_or_else(String::new, |s| s.kind.to_string())
    })?;
    row(Tone::Quiet, "", &|act| format!("{} to {}", act.from, act.seen.to))?;
    row(Tone::Good, "longest time without an answer", &|act| figure(act.seen.longest_silence()))?;
    row(Tone::Plain, &format!("all {CONNECTIONS} connections are served"), &|act| {
        after(&act.seen, act.seen.all_served())
    })?;
    for client in Waiting::ALL {
        let wait = |act: &Act| act.seen.waits[client as usize];
        row(Tone::Plain, &format!("{} is woken", client.name()), &|act| after(&act.seen, wait(act).woken))?;
        row(Tone::Plain, &format!("{} waits at the other member", client.name()), &|act| {
            after(&act.seen, wait(act).waits)
        })?;
    }
    row(Tone::Plain, "commands that failed", &|act| count(act.seen.failed))?;
    row(Tone::Plain, "connections refused meanwhile", &|act| count(act.seen.refused))?;
    row(Tone::Plain, "status of the service", &|act| act.status.state.to_string())?;
    row(Tone::Plain, "active member, epoch", &|act| {
        format!("{}, {}", act.status.active.as_deref().unwrap_or("none"), act.status.epoch)
    })?;
    row(Tone::Plain, "", &|_| String::new())?;

    let counted = match fault {
        Fault::Crash => "the kill",
        Fault::Freeze => "the freeze",
        Fault::BlackHole => "the black hole",
    };
    let [failed, refused] =
        [acts.map(|act| act.seen.failed), acts.map(|act| act.seen.refused)].map(|all| all.iter().sum());
    screen.say_all(
        Tone::Quiet,
        &format!(
            "  Times \"+\" count from {counted}, and in the failback from the first client that saw it.\n\
             \x20 In {:.1} s {} were answered, {} and {} failed.\n\
             \x20 No host saw a packet with a wrong checksum.",
            time.as_secs_f64(),
            many(tally.rounds * COMMANDS, "command"),
            many(failed, "command"),
            many(refused, "attempt") + " to connect",
        ),
    )
}

fn figure(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| format!("{} ms", ms(time)))
}

fn after(switch: &Switch, at: Option<Instant>) -> String {
    let time = at.zip(switch.since).map(|(at, since)| at.saturating_duration_since(since));
    time.map_or_else(|| "-".to_owned(), |time| format!("+{} ms", ms(time)))
}
