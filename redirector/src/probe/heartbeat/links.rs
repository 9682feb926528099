//! Who hears whom: what the messages of a heartbeat say about each member.
//!
//! No sockets and no clock: times are handed in, as what passed since the heartbeat began. Each message carries the time
//! at which it was sent, which the same process reads when it comes back, so no two clocks are compared.
//!
//! A *link* leads from the member that a message was published through to one that subscribed, and a message that was
//! accepted and does not arrive within the tolerance breaks it. A link is judged only while both its ends work: a member
//! that accepts no message says nothing about the others, and one that does not even hear itself has another fault than
//! its replication. What arrives but is older than the tolerance breaks a link as well: the data behind it is as old.

use std::{collections::VecDeque, time::Duration};

use crate::model::{Cause, Failure, HeartbeatFault, Phase, ProbeOutcome, RedisErrorKind};

use super::super::slots::Slots;

/// How finely accepted messages are remembered: so many within one tolerance. A late message is noticed late by that
/// fraction at most, and a short interval costs no memory.
const REMEMBERED: u32 = 64;

/// All members of a service, and every link between them.
#[derive(Debug)]
pub(super) struct Links {
    tolerance: Duration,
    /// One for each channel: the slots that it stands for. One channel for all: nothing.
    channels: Vec<Option<Slots>>,
    /// Redis errors that count.
    counted: Vec<RedisErrorKind>,
    members: Vec<End>,
}

/// One member, as publisher and as subscriber.
#[derive(Debug)]
struct End {
    name: String,
    /// Whether it accepted the newest message.
    speaks: Works,
    /// Since when the subscription stands.
    listens: Works,
    /// When messages were sent that it accepted, oldest first, thinned out.
    accepted: VecDeque<Duration>,
    /// By member that it comes from, then by channel.
    heard: Vec<Vec<Option<Heard>>>,
}

#[derive(Debug)]
enum Works {
    NotYet,
    Since(Duration),
    Not(Failure),
}

/// The newest message of a channel.
#[derive(Clone, Copy, Debug)]
struct Heard {
    sent: Duration,
    arrived: Duration,
}

/// What is known of one link.
enum Link {
    /// The newest message took so long.
    Works(Duration),
    /// Nothing was due yet.
    TooEarly,
    /// Since when, and in which channels, if not in all.
    Broken(Broken),
    /// The publisher is not fit to say anything.
    NotJudged,
}

struct Broken {
    /// Since the newest message that did arrive, or since the subscription.
    silent: Duration,
    /// Messages arrive, and are so old.
    late: Option<Duration>,
    channels: String,
}

impl Links {
    pub(super) fn new(
        names: impl Iterator<Item = String>,
        channels: Vec<Option<Slots>>,
        tolerance: Duration,
        counted: Vec<RedisErrorKind>,
    ) -> Self {
        let names: Vec<_> = names.collect();
        let heard = vec![vec![None; channels.len()]; names.len()];
        let end = |name| End {
            name,
            speaks: Works::NotYet,
            listens: Works::NotYet,
            accepted: VecDeque::new(),
            heard: heard.clone(),
        };
        Self { members: names.into_iter().map(end).collect(), tolerance, channels, counted }
    }

    pub(super) fn tolerance(&self) -> Duration {
        self.tolerance
    }

    /// A member accepted the message of each channel that was sent then.
    pub(super) fn on_accepted(&mut self, member: usize, sent: Duration) {
        let end = &mut self.members[member];
        if !matches!(end.speaks, Works::Since(_)) {
            end.speaks = Works::Since(sent);
        }
        let apart = self.tolerance / REMEMBERED;
        if end.accepted.back().is_none_or(|newest| sent >= *newest + apart) {
            end.accepted.push_back(sent);
        }
        while end.accepted.front().is_some_and(|oldest| *oldest + self.tolerance * 2 < sent) {
            end.accepted.pop_front();
        }
    }

    /// A member did not accept a message. Those before it are not waited for any more: it may have failed before it sent
    /// them on.
    pub(super) fn on_not_accepted(&mut self, member: usize, failure: Failure) {
        let end = &mut self.members[member];
        end.speaks = Works::Not(failure);
        end.accepted.clear();
    }

    /// A member's subscription stands from now on, over a new connection: what was published before is not heard.
    pub(super) fn on_subscribed(&mut self, member: usize, now: Duration) {
        let end = &mut self.members[member];
        // Made anew because it was silent, it does not excuse the silence.
        if !matches!(end.listens, Works::Since(_)) {
            end.listens = Works::Since(now);
            end.heard.iter_mut().flatten().for_each(|heard| *heard = None);
        }
    }

    /// A member's subscription ended, and there is no new one for this reason.
    pub(super) fn on_not_subscribed(&mut self, member: usize, failure: Failure) {
        self.members[member].listens = Works::Not(failure);
    }

    /// A message that was published through `from` arrived at `at`. Messages of others (of another process, say, that
    /// uses the same channel) name members or channels that there are none of.
    pub(super) fn on_heard(&mut self, at: usize, from: usize, channel: usize, sent: Duration, now: Duration) {
        let end = self.members.get_mut(at).and_then(|end| end.heard.get_mut(from)?.get_mut(channel));
        if let Some(heard) = end.filter(|heard| heard.is_none_or(|newest| newest.sent < sent)) {
            *heard = Some(Heard { sent, arrived: now });
        }
    }

    /// Whether a member accepts messages and hears none of its own: its subscription may be a dead connection.
    pub(super) fn is_deaf(&self, member: usize, now: Duration) -> bool {
        matches!(self.link(member, member, now), Link::Broken(_))
    }

    /// Whether an answer is near: something was never heard that may well come within the tolerance.
    pub(super) fn is_waiting(&self, now: Duration) -> bool {
        let pairs =
            (0..self.members.len()).flat_map(|at| (0..self.members.len()).map(move |from| (at, from)));
        pairs.into_iter().any(|(at, from)| {
            matches!(self.members[at].listens, Works::Since(_))
                && matches!(self.link(at, from, now), Link::TooEarly)
        })
    }

    /// What is to be said of one member.
    pub(super) fn outcome(&self, member: usize, now: Duration) -> ProbeOutcome {
        let end = &self.members[member];
        for works in [&end.listens, &end.speaks] {
            match works {
                Works::Since(_) => {}
                Works::NotYet => return too_early("its connections are being made"),
                Works::Not(failure) => return ProbeOutcome::of(failure.clone(), &self.counted),
            }
        }
        let own = match self.link(member, member, now) {
            Link::Broken(broken) => return self.does_not_hear_itself(&broken),
            Link::Works(latency) => latency,
            Link::TooEarly | Link::NotJudged => return too_early("its own message has not arrived yet"),
        };
        self.of_others(member, own, now)
    }

    /// The same of a member that hears itself after `own`.
    fn of_others(&self, member: usize, own: Duration, now: Duration) -> ProbeOutcome {
        let (mut latency, mut broken, mut early, mut unfit) = (own, Vec::new(), Vec::new(), Vec::new());
        let mut works = false;
        for from in (0..self.members.len()).filter(|from| *from != member) {
            match self.link(member, from, now) {
                Link::Works(took) => (works, latency) = (true, latency.max(took)),
                Link::Broken(what) => broken.push((from, what)),
                Link::TooEarly => early.push(from),
                Link::NotJudged => unfit.push(from),
            }
        }
        if !broken.is_empty() {
            return self.is_stale(member, &broken, now);
        }
        if !early.is_empty() {
            return too_early(&format!("no message from {} yet", self.names(&early)));
        }
        // Whoever is down cannot be behind; whoever cannot be asked may well be ahead.
        let cannot_be_asked: Vec<_> = unfit.into_iter().filter(|from| !self.is_down(*from)).collect();
        if !works && !cannot_be_asked.is_empty() {
            let names = self.names(&cannot_be_asked);
            let text =
                format!("nothing can be published through {names}, so nothing is known of its replication");
            return inconclusive(HeartbeatFault::Unknown, text);
        }
        ProbeOutcome::Passed { latency }
    }

    /// Whether a member fails by itself, in a way that counts.
    fn is_down(&self, member: usize) -> bool {
        let end = &self.members[member];
        let failures = [&end.speaks, &end.listens].into_iter().filter_map(|works| match works {
            Works::Not(failure) => Some(failure),
            Works::NotYet | Works::Since(_) => None,
        });
        failures.clone().count() > 0
            && failures.into_iter().all(|failure| {
                matches!(ProbeOutcome::of(failure.clone(), &self.counted), ProbeOutcome::Failed(_))
            })
    }

    fn link(&self, at: usize, from: usize, now: Duration) -> Link {
        let (subscriber, publisher) = (&self.members[at], &self.members[from]);
        let Works::Since(since) = subscriber.listens else { return Link::TooEarly };
        match publisher.speaks {
            Works::Since(_) => {}
            Works::NotYet => return Link::TooEarly,
            Works::Not(_) => return Link::NotJudged,
        }
        if at != from && matches!(self.link(from, from, now), Link::Broken(_)) {
            return Link::NotJudged;
        }
        let (mut broken, mut is_early) = (Vec::new(), false);
        let (mut latency, mut silent, mut late) = (Duration::ZERO, Duration::ZERO, None);
        for (channel, heard) in subscriber.heard[from].iter().enumerate() {
            let due = publisher.accepted.iter().find(|sent| match heard {
                Some(heard) => **sent > heard.sent,
                None => **sent >= since,
            });
            let overdue = due.is_some_and(|due| now.saturating_sub(*due) > self.tolerance);
            match heard {
                _ if overdue => {
                    broken.push(channel);
                    silent = silent.max(now.saturating_sub(heard.map_or(since, |heard| heard.arrived)));
                    let age = heard.map(|heard| heard.arrived.saturating_sub(heard.sent));
                    late = late.max(age.filter(|age| *age > self.tolerance));
                }
                Some(heard) => latency = latency.max(heard.arrived.saturating_sub(heard.sent)),
                None => is_early = true,
            }
        }
        if !broken.is_empty() {
            Link::Broken(Broken { silent, late, channels: self.in_channels(&broken) })
        } else if is_early {
            Link::TooEarly
        } else {
            Link::Works(latency)
        }
    }

    fn does_not_hear_itself(&self, broken: &Broken) -> ProbeOutcome {
        let text = format!(
            "it accepts messages, but its own subscription has heard none of its own{} for {} (tolerance {}): the fault is \
             the member's own, not its replication's",
            broken.channels,
            seconds(broken.silent),
            humantime::format_duration(self.tolerance)
        );
        failed(HeartbeatFault::Local, text)
    }

    /// `broken` leads to `member`. The other way is told apart: it says on which side to look.
    fn is_stale(&self, member: usize, broken: &[(usize, Broken)], now: Duration) -> ProbeOutcome {
        let said = broken.iter().map(|(from, what)| {
            let (name, tolerance) = (&self.members[*from].name, humantime::format_duration(self.tolerance));
            let back = match self.link(*from, member, now) {
                Link::Works(_) => ", messages the other way arrive",
                Link::Broken(_) => ", nor do messages the other way arrive",
                Link::TooEarly | Link::NotJudged => "",
            };
            match what.late {
                Some(late) => format!(
                    "messages from {name}{} arrive {} late (tolerance {tolerance}){back}",
                    what.channels,
                    seconds(late)
                ),
                None => format!(
                    "no message from {name}{} for {} (tolerance {tolerance}){back}",
                    what.channels,
                    seconds(what.silent)
                ),
            }
        });
        let names = self.names(&broken.iter().map(|(from, _)| *from).collect::<Vec<_>>());
        let said: Vec<_> = said.collect();
        let text = format!("{}; own messages arrive: replication from {names} is broken", said.join("; "));
        failed(HeartbeatFault::Replication, text)
    }

    /// Nothing, if all are meant.
    fn in_channels(&self, broken: &[usize]) -> String {
        if broken.len() == self.channels.len() {
            return String::new();
        }
        let mut all = Slots::default();
        broken
            .iter()
            .filter_map(|channel| self.channels[*channel].as_ref())
            .for_each(|slots| all.join(slots));
        format!(" in {all}")
    }

    fn names(&self, members: &[usize]) -> String {
        let names: Vec<_> = members.iter().map(|member| self.members[*member].name.as_str()).collect();
        match names.as_slice() {
            [several @ .., last] if !several.is_empty() => format!("{} and {last}", several.join(", ")),
            _ => names.concat(),
        }
    }
}

fn failed(fault: HeartbeatFault, text: String) -> ProbeOutcome {
    ProbeOutcome::Failed(Failure { phase: Phase::Command, cause: Cause::Heartbeat(fault, text) })
}

fn too_early(text: &str) -> ProbeOutcome {
    inconclusive(HeartbeatFault::TooEarly, text.to_owned())
}

fn inconclusive(fault: HeartbeatFault, text: String) -> ProbeOutcome {
    let cause = Cause::Heartbeat(fault, text);
    ProbeOutcome::Inconclusive(Failure { phase: Phase::Command, cause })
}

/// Whether the outcome only says that it is too early for one.
pub(super) fn is_too_early(outcome: &ProbeOutcome) -> bool {
    matches!(
        outcome,
        ProbeOutcome::Inconclusive(Failure { cause: Cause::Heartbeat(HeartbeatFault::TooEarly, _), .. })
    )
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests;
