//! An hour of what happens every day, in virtual time and with the default profile: packets are lost, queues fill, servers
//! pause, and the kernel's signals speak of all of it. Nobody is left. And trouble that stays is seen in the middle of it.
//!
//! `REDIRECTOR_NOISE_HOURS` says how many hours are tried; a hundred take a minute in a release build.

use std::{env, time::Duration};

use self::path::{Chance, Opened, Path, ROUND_TRIP};
use super::world::*;
use crate::{
    decide::{
        Action, Core, Switch, Time,
        detection::{self, Prompt, Trouble},
    },
    model::{
        Cause, Check, CheckId, Failure, FailureKind, LOOK_AFTER, MemberId, MemberState, Pace, Phase,
        ProbeOutcome, Service, Signal, SignalKind,
    },
};

mod path;

/// How often the programs tell of one kind of signal of a member, at most.
const REPORT: Duration = ms(10);

/// What live traffic shows of the active member although it is well, each with the probability of a report in [`REPORT`].
const ALARMS: [(SignalKind, f64); 6] = [
    // Five thousand segments a second, one in a hundred of them lost.
    (SignalKind::Retransmitted, 0.4),
    // Twenty new connections a second, two in a hundred of their SYNs or the answers to them lost.
    (SignalKind::Unanswered, 0.004),
    // A container whose firewall answers all of its packets with resets, and which tries again and again.
    (SignalKind::Refused, 0.2),
    (SignalKind::Reset, 0.2),
    // The server closes connections that were idle for long.
    (SignalKind::Closed, 0.01),
    // At night one client is left, and its only segment is lost.
    (SignalKind::Silent, 0.0002),
];

/// Who says when the probers look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looks {
    /// The core.
    AsDecided,
    /// Every signal does, once in `fast_interval`: the most that there could be.
    AtEverySignal,
}

/// A prober of a member, and the way there.
struct Prober {
    member: MemberId,
    path: Path,
    connected: bool,
    failures: u32,
    pace: Pace,
    /// Of the newest probe.
    started: Time,
    /// When the probe that is under way ends, and how.
    probing: Option<(Time, ProbeOutcome)>,
    /// Of the newest probe that ended.
    ended: Time,
    refused: bool,
    /// By how much of its interval the rest that goes on is shorter: at least 0, less than 1.
    jitter: f64,
    /// It is to probe now, at this moment.
    asked: Option<Time>,
}

impl Prober {
    fn new(member: MemberId, now: Time, seed: u64) -> Self {
        let path = Path { chance: Chance(seed), fault: None };
        Self {
            member,
            path,
            connected: false,
            failures: 0,
            pace: Pace::Fast,
            started: now,
            probing: None,
            ended: now,
            refused: false,
            jitter: 0.0,
            asked: Some(now),
        }
    }

    /// As in `probe.rs`: over the connection that was kept, and if that is not answered, over a new one.
    fn start(&mut self, check: &Check, now: Time) {
        (self.started, self.asked) = (now, None);
        let limits = if self.failures < check.fall {
            check.limits(ROUND_TRIP, ROUND_TRIP)
        } else {
            check.patient_limits()
        };
        let last = now + limits.answer;
        let mut at = now;
        if std::mem::take(&mut self.connected) {
            match self.path.ask(now) {
                Some(answered) if answered <= now + limits.kept() => return self.passes(answered),
                // The connection was reset: so the host says at once.
                _ if self.path.trouble(now) == Some(Trouble::Crash) => {}
                _ => at = now + limits.kept(),
            }
        }
        let patience = last.min(at + limits.silence.unwrap_or(limits.answer));
        self.probing = Some(match self.path.open(at) {
            Opened::Refused(answered) if answered <= patience => {
                (answered, failed(Phase::Connect, Cause::Refused))
            }
            Opened::At(opened) if opened <= patience => match self.path.ask(opened) {
                Some(answered) if answered <= last => return self.passes(answered),
                _ => (last, failed(Phase::Command, Cause::TimedOut(last.since(now)))),
            },
            _ => (patience, failed(Phase::Connect, Cause::TimedOut(patience.since(at)))),
        });
    }

    fn passes(&mut self, at: Time) {
        self.connected = true;
        self.probing = Some((at, ProbeOutcome::Passed { latency: at.since(self.started) }));
    }

    /// When it does something next: its probe ends, or another one begins.
    fn due(&self, check: &Check) -> Time {
        if let Some((ends, _)) = self.probing {
            return ends;
        }
        let interval = match self.pace {
            _ if self.refused && self.failures < check.fall => check.after_refusal(self.failures),
            Pace::Normal => check.interval.mul_f64(1.0 - self.jitter),
            Pace::Fast => check.fast_interval,
            Pace::Down => check.down_interval.mul_f64(1.0 - self.jitter),
        };
        let next = self.asked.unwrap_or(self.started + interval);
        // Its kept connection ends with the server.
        let crash = self.path.fault.filter(|(trouble, _)| self.connected && *trouble == Trouble::Crash);
        let next = crash.map_or(next, |(_, at)| next.min(at));
        next.max(self.ended)
    }
}

fn failed(phase: Phase, cause: Cause) -> ProbeOutcome {
    ProbeOutcome::Failed(Failure { phase, cause })
}

/// A host with its agent.
struct Host {
    check: Check,
    core: Core,
    now: Time,
    probers: [Prober; 2],
    chance: Chance,
    looks: Looks,
    next_report: Time,
    /// When a signal last made the probers of paris look.
    looked: Time,
    /// The end of the pause that was told, or the beginning of the trouble.
    told: Time,
    story: Story,
}

/// What came of it.
#[derive(Default)]
struct Story {
    switches: Vec<Switch>,
    downs: Vec<(Time, String)>,
    probes: [u64; 2],
    failures: [u64; 2],
    signals: u64,
    looks: u64,
}

impl Host {
    /// Settled: paris is active, both members are up.
    fn new(service: &Service, looks: Looks, seed: u64) -> Self {
        let now = Time(s(3600));
        let known: Vec<_> = [PARIS, DUBLIN].map(|member| offered(&[address(member, 0)])).into();
        let core = Core::new(service.clone(), &known, None, now);
        let probers = [(PARIS, 1), (DUBLIN, 2)].map(|(member, salt)| Prober::new(member, now, seed ^ salt));
        let mut host = Self {
            check: service.checks[0].clone(),
            core,
            now,
            probers,
            chance: Chance(seed),
            looks,
            next_report: now + REPORT,
            looked: now,
            told: now,
            story: Story::default(),
        };
        host.run(s(2));
        host.story = Story::default();
        host
    }

    /// Lets this much time pass, or until somebody was left.
    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.story.switches.iter().all(|switch| switch.from.is_none()) {
            let probe = self.probers.iter().map(|prober| prober.due(&self.check)).min().expect("two");
            let next = probe.min(self.next_report);
            let deadline = self.core.next_deadline().filter(|deadline| *deadline < next);
            let next = deadline.unwrap_or(next);
            if next > end {
                break;
            }
            self.now = next.max(self.now);
            if deadline.is_some() {
                self.core.on_deadline(self.now);
            } else if probe <= self.now {
                self.probe();
            } else {
                self.report();
            }
            self.carry_out();
        }
    }

    fn probe(&mut self) {
        let (now, check) = (self.now, &self.check);
        for prober in self.probers.iter_mut().filter(|prober| prober.due(check) <= now) {
            let Some((_, outcome)) = prober.probing.take() else {
                prober.start(check, now);
                continue;
            };
            let member = prober.member;
            self.story.probes[member.0] += 1;
            let kind = match &outcome {
                ProbeOutcome::Failed(failure) => Some(failure.kind()),
                _ => None,
            };
            prober.failures = if kind.is_some() { prober.failures + 1 } else { 0 };
            self.story.failures[member.0] += u64::from(kind.is_some());
            (prober.ended, prober.refused) = (now, kind == Some(FailureKind::Refused));
            prober.jitter = prober.path.chance.part() * f64::from(check.jitter_percent) / 100.0;
            self.core.on_probe(now, member, address(member, 0), CheckId(0), &outcome);
        }
    }

    /// What the programs tell of the active member, and what the agent sees when it looks at it.
    fn report(&mut self) {
        self.next_report = self.now + REPORT;
        for (kind, probability) in ALARMS {
            if self.chance.happens(probability) {
                self.signal(kind, Duration::ZERO);
            }
        }
        let (paris, since) = (&self.probers[PARIS.0].path, self.now.ago(LOOK_AFTER));
        let trouble = paris.fault.filter(|(_, at)| *at <= since);
        let paused = paris.paused(since).filter(|_| paris.paused(self.now).is_some());
        let unanswered = trouble
            .map(|(trouble, at)| match trouble {
                Trouble::Crash => (SignalKind::Refused, at),
                Trouble::Silence => (SignalKind::Silent, at),
                Trouble::Stall => (SignalKind::Stalled, at),
            })
            .or(paused.map(|end| (SignalKind::Stalled, end)));
        // What was asked is a signal once.
        if let Some((kind, at)) = unanswered.filter(|(_, at)| *at != self.told) {
            self.told = at;
            self.signal(kind, LOOK_AFTER);
        }
    }

    fn signal(&mut self, kind: SignalKind, ago: Duration) {
        self.story.signals += 1;
        self.core.on_signal(self.now, PARIS, &Signal { kind, ago, count: 1 });
        if self.looks == Looks::AtEverySignal && self.now.since(self.looked) >= self.check.fast_interval {
            self.looked = self.now;
            self.look(PARIS);
        }
    }

    fn look(&mut self, member: MemberId) {
        let prober = &mut self.probers[member.0];
        if prober.probing.is_none() {
            prober.asked = Some(self.now);
            self.story.looks += 1;
        }
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::Pace { member, pace, .. } => self.probers[member.0].pace = pace,
                Action::Round { member } | Action::Look { member } => self.look(member),
                Action::MemberChanged { state: MemberState::Down, reason, .. } => {
                    self.story.downs.push((self.now, reason));
                }
                Action::Switch(switch) => self.story.switches.push(switch),
                _ => {}
            }
        }
    }
}

fn hours() -> u64 {
    env::var("REDIRECTOR_NOISE_HOURS").ok().and_then(|hours| hours.parse().ok()).unwrap_or(1)
}

#[test]
fn an_hour_of_noise_moves_nobody() {
    moves_nobody(Looks::AsDecided, 3_000);
}

/// What the core leaves out is not what it rests on.
#[test]
fn nor_does_it_when_every_signal_is_looked_at() {
    moves_nobody(Looks::AtEverySignal, 30_000);
}

/// Whatever the signals make the probers look; so often at least.
fn moves_nobody(looks: Looks, at_least: u64) {
    let (mut left, mut down) = (0, 0);
    for seed in 1..=hours() {
        let mut host = Host::new(&orders(), looks, seed);
        host.run(s(3600));
        let Story { switches, downs, probes, failures, signals, looks } = &host.story;
        println!(
            "hour {seed}: {signals} signals, {looks} looks; probes {probes:?}, of which failed {failures:?}"
        );
        if !downs.is_empty() {
            println!("hour {seed}: {downs:?} {switches:?}");
        }
        // Else nothing would be shown.
        assert!(*signals > 100_000 && *looks > at_least && failures.iter().all(|failures| *failures > 30));
        left += switches.len();
        down += downs.len();
    }
    assert_eq!((left, down), (0, 0), "members were left, and went down, without need");
}

/// What tells that the test above shows something: among the same noise the same core leaves a member in time.
#[test]
fn trouble_is_seen_in_the_noise() {
    let check = check();
    for trouble in Trouble::ALL {
        let limit = match trouble {
            // Three answers, which may wait in the queue, and one or two of them may be lost.
            Trouble::Crash => ms(300),
            // Seen at once; but the probe that is under way may have connected before, and wait for an answer first.
            Trouble::Silence | Trouble::Stall => {
                let worst = detection::of_check(&check, trouble, ROUND_TRIP, Prompt::Signal);
                worst.expect("a ping sees it") + check.limits(ROUND_TRIP, ROUND_TRIP).answer + ms(50)
            }
        };
        let least = check.detect.tolerance(trouble.failure());
        for seed in 1..=40 {
            let mut host = Host::new(&orders(), Looks::AsDecided, seed);
            let wait = s(10) + Chance(seed).within(s(20));
            // Known beforehand: a probe that is under way then has no answer either.
            let since = host.now + wait;
            host.probers[PARIS.0].path.fault = Some((trouble, since));
            host.run(wait);
            assert!(host.story.switches.is_empty(), "{:?}", host.story.switches);
            host.run(s(10));
            let left = host.story.switches.first().map(|switch| switch.at.since(since));
            let left = left.unwrap_or_else(|| panic!("{trouble:?} after {wait:?} was not seen"));
            assert!(left <= limit, "{trouble:?} after {wait:?}: seen after {left:?}, the limit is {limit:?}");
            // A pause or a lost packet just before may have begun to count.
            assert!(left + ms(800) >= least, "{trouble:?} after {wait:?}: seen after {left:?}");
        }
    }
}
