//! What the clients saw, summed up: figures of a switch, and the lines of the timeline that are worth a reader's time.
//! Pure: it is told what happened and when.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use redirector_tests::Failure;

use crate::{
    clients::{CONNECTIONS, Seen, Sight, Waiting},
    screen::Tone,
    words::{cause, ms},
};

/// What one waiting client went through in a switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wait {
    /// Its connection ended.
    pub(crate) woken: Option<Instant>,
    /// It waits at the new member.
    pub(crate) waits: Option<Instant>,
}

/// What the clients saw of one switch.
#[derive(Clone, Debug)]
pub(crate) struct Switch {
    /// Member that is to answer from now on.
    pub(crate) to: String,
    /// What times are counted from: the fault; for a failback (`None` at first) what the first client saw of it.
    pub(crate) since: Option<Instant>,
    /// For each connection: first answer of the new member, and the time without an answer before.
    pub(crate) moved: [Option<(Instant, Duration)>; CONNECTIONS],
    /// For each of [`Waiting::ALL`].
    pub(crate) waits: [Wait; 2],
    /// Commands that were sent and not answered.
    pub(crate) failed: usize,
    /// Connections that could not be opened.
    pub(crate) refused: usize,
}

impl Switch {
    fn new(to: &str, since: Option<Instant>) -> Self {
        let (moved, waits) = ([None; CONNECTIONS], [Wait::default(); 2]);
        Self { to: to.to_owned(), since, moved, waits, failed: 0, refused: 0 }
    }

    /// The longest time that a connection was without an answer; `None` before all are served again.
    pub(crate) fn longest_silence(&self) -> Option<Duration> {
        self.all_moved()?.into_iter().map(|(_, silence)| silence).max()
    }

    /// When the last connection was served.
    pub(crate) fn all_served(&self) -> Option<Instant> {
        self.all_moved()?.into_iter().map(|(at, _)| at).max()
    }

    fn all_moved(&self) -> Option<Vec<(Instant, Duration)>> {
        self.moved.iter().copied().collect()
    }

    /// Whether every client is where it belongs.
    pub(crate) fn is_complete(&self) -> bool {
        self.all_served().is_some() && self.waits.iter().all(|wait| wait.waits.is_some())
    }
}

/// A line of the timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) tone: Tone,
    pub(crate) text: String,
}

fn line(tone: Tone, text: impl Into<String>) -> Option<Line> {
    Some(Line { tone, text: text.into() })
}

/// Everything since the first client started.
#[derive(Debug)]
pub(crate) struct Tally {
    /// The switch that is under way or was last.
    pub(crate) switch: Switch,
    /// Rounds of commands that were answered.
    pub(crate) rounds: usize,
    /// Who gave the newest answer.
    pub(crate) answering: Option<Arc<str>>,
    /// When each connection had its last answer.
    last: [Option<Instant>; CONNECTIONS],
    /// What must not happen: a failure when no switch is under way, or after the new member had served.
    pub(crate) wrong: Vec<String>,
    /// Which of [`Waiting::ALL`] got what it waited for.
    pub(crate) delivered: [bool; 2],
}

impl Tally {
    /// The clients start; `to` is to answer them.
    pub(crate) fn new(to: &str, since: Instant) -> Self {
        Self {
            switch: Switch::new(to, Some(since)),
            rounds: 0,
            answering: None,
            last: [None; CONNECTIONS],
            wrong: Vec::new(),
            delivered: [false; 2],
        }
    }

    /// From now on clients are expected to move to `to`; returns what was seen of the switch before.
    pub(crate) fn expect(&mut self, to: &str, since: Option<Instant>) -> Switch {
        self.delivered = [false; 2];
        std::mem::replace(&mut self.switch, Switch::new(to, since))
    }

    /// Time without an answer, now: that of the connection that waits longest.
    pub(crate) fn silence(&self, now: Instant) -> Duration {
        let silent = self.last.iter().flatten().map(|last| now.saturating_duration_since(*last));
        silent.max().unwrap_or_default()
    }

    /// Takes note, and says what is to be shown.
    pub(crate) fn note(&mut self, seen: &Seen) -> Option<Line> {
        match &seen.what {
            Sight::Served { connection, by } => self.served(seen.at, *connection, by),
            Sight::Failed { connection, failure } => self.failed(seen.at, *connection, failure),
            Sight::Waits { client, at_member } => self.waits(seen.at, *client, at_member),
            Sight::Woken { client, with: Ok(_) } => {
                self.delivered[*client as usize] = true;
                None
            }
            Sight::Woken { client, with: Err(failure) } => self.woken(seen.at, *client, failure),
        }
    }

    fn served(&mut self, at: Instant, connection: usize, by: &Arc<str>) -> Option<Line> {
        self.rounds += 1;
        self.answering = Some(Arc::clone(by));
        let before = self.last[connection].replace(at);
        let switch = &mut self.switch;
        if **by != *switch.to || switch.moved[connection].is_some() {
            return None;
        }
        let since = *switch.since.get_or_insert(at);
        // Before the fault it was another switch; before the first answer there was no silence.
        switch.moved[connection] = Some((at, at.saturating_duration_since(before.unwrap_or(since))));
        let moved = switch.moved.iter().flatten().count();
        match switch.longest_silence() {
            Some(silence) if before.is_some() => line(
                Tone::Good,
                format!("{by} answers all {CONNECTIONS} connections: {} ms without an answer", ms(silence)),
            ),
            Some(_) => line(Tone::Good, format!("{by} answers all {CONNECTIONS} connections")),
            None if moved == 1 && before.is_some() => {
                line(Tone::Good, format!("{by} answers the first connection"))
            }
            None => None,
        }
    }

    fn failed(&mut self, at: Instant, connection: usize, failure: &Failure) -> Option<Line> {
        if self.switch.moved[connection].is_some() && self.switch.since.is_some() {
            return self.wrong(format!("connection {} failed: {}", connection + 1, cause(failure)));
        }
        self.switch.since.get_or_insert(at);
        if let Failure::Connect(_) = failure {
            self.switch.refused += 1;
            return match self.switch.refused {
                1 => line(Tone::Trouble, format!("a new connection is {}", cause(failure))),
                _ => None,
            };
        }
        self.switch.failed += 1;
        match self.switch.failed {
            1 => line(Tone::Trouble, format!("the first command fails: connection {}", cause(failure))),
            _ => None,
        }
    }

    fn waits(&mut self, at: Instant, client: Waiting, member: &str) -> Option<Line> {
        let wait = &mut self.switch.waits[client as usize];
        if member != self.switch.to || wait.waits.is_some() {
            return None;
        }
        self.switch.since.get_or_insert(at);
        wait.waits = Some(at);
        let again = if wait.woken.is_some() { " again" } else { "" };
        line(Tone::Good, format!("{} waits{again}, at {member}", client.name()))
    }

    fn woken(&mut self, at: Instant, client: Waiting, failure: &Failure) -> Option<Line> {
        let wait = &mut self.switch.waits[client as usize];
        if wait.waits.is_some() {
            return self.wrong(format!("{} lost its connection: {}", client.name(), cause(failure)));
        }
        self.switch.since.get_or_insert(at);
        // It may wait at the old member once more, and be woken once more, before the switch.
        wait.woken.get_or_insert(at);
        line(Tone::Trouble, format!("{} is woken: {}", client.name(), cause(failure)))
    }

    fn wrong(&mut self, text: String) -> Option<Line> {
        let line = line(Tone::Bad, text.clone());
        self.wrong.push(text);
        line
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    const fn at_ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    fn served(connection: usize, by: &str) -> Sight {
        Sight::Served { connection, by: by.into() }
    }

    fn failed(connection: usize) -> Sight {
        Sight::Failed { connection, failure: Failure::Command(ErrorKind::ConnectionAborted) }
    }

    fn waits(client: Waiting, member: &str) -> Sight {
        Sight::Waits { client, at_member: member.to_owned() }
    }

    fn woken(client: Waiting) -> Sight {
        Sight::Woken { client, with: Err(Failure::Command(ErrorKind::ConnectionAborted)) }
    }

    /// All clients are at m1 at 10 ms.
    fn at_m1() -> (Tally, Instant) {
        let start = Instant::now();
        let mut tally = Tally::new("m1", start);
        let mut note = |what| tally.note(&Seen { at: start + at_ms(10), what });
        for client in Waiting::ALL {
            note(waits(client, "m1"));
        }
        for connection in 0..CONNECTIONS {
            note(served(connection, "m1"));
        }
        assert!(tally.switch.is_complete() && tally.wrong.is_empty());
        (tally, start)
    }

    fn note_all(tally: &mut Tally, start: Instant, events: Vec<(u64, Sight)>) -> Vec<String> {
        let lines =
            events.into_iter().filter_map(|(at, what)| tally.note(&Seen { at: start + at_ms(at), what }));
        lines.map(|line| line.text).collect()
    }

    #[test]
    fn a_failover_is_measured_for_the_slowest_and_told_in_few_lines() {
        let (mut tally, start) = at_m1();
        tally.expect("m2", Some(start + at_ms(11)));
        let mut events = vec![(12, woken(Waiting::Blpop)), (12, woken(Waiting::Subscribe))];
        events.extend((0..CONNECTIONS).map(|connection| (13, failed(connection))));
        events.extend((0..CONNECTIONS).map(|connection| (60 + connection as u64, served(connection, "m2"))));
        events.extend([(70, waits(Waiting::Blpop, "m2"))]);
        let lines = note_all(&mut tally, start, events);
        assert_eq!(
            lines,
            [
                "BLPOP is woken: ended by the host (ECONNABORTED)",
                "SUBSCRIBE is woken: ended by the host (ECONNABORTED)",
                "the first command fails: connection ended by the host (ECONNABORTED)",
                "m2 answers the first connection",
                "m2 answers all 4 connections: 53.0 ms without an answer",
                "BLPOP waits again, at m2",
            ]
        );
        assert!(!tally.switch.is_complete(), "SUBSCRIBE waits nowhere yet");
        note_all(&mut tally, start, vec![(71, waits(Waiting::Subscribe, "m2"))]);
        assert!(tally.switch.is_complete() && tally.wrong.is_empty());
        assert_eq!((tally.switch.failed, tally.switch.refused), (CONNECTIONS, 0));
        assert_eq!(tally.rounds, 2 * CONNECTIONS);
    }

    #[test]
    fn a_failback_is_counted_from_its_first_sign() {
        let (mut tally, start) = at_m1();
        tally.expect("m2", None);
        note_all(&mut tally, start, vec![(500, served(0, "m1")), (501, failed(1)), (503, served(1, "m2"))]);
        assert_eq!(tally.switch.since, Some(start + at_ms(501)));
        assert_eq!(tally.switch.moved[1].map(|(_, silence)| silence), Some(at_ms(493)));
    }

    #[test]
    fn what_fails_after_it_was_served_is_wrong() {
        let (mut tally, start) = at_m1();
        note_all(&mut tally, start, vec![(20, failed(2)), (21, woken(Waiting::Blpop))]);
        assert_eq!(
            tally.wrong,
            [
                "connection 3 failed: ended by the host (ECONNABORTED)",
                "BLPOP lost its connection: ended by the host (ECONNABORTED)",
            ]
        );
    }
}
