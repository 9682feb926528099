//! The worst cases that `check` prints, against core and probers in virtual time; and what a tolerance promises.

use std::time::Duration;

use proptest::prelude::*;

use super::world::*;
use crate::{
    decide::{
        Action, Core, Time,
        detection::{self, Prompt, Trouble},
    },
    model::{
        Cause, Check, CheckId, CheckKind, Combine, Detect, Effect, Failure, FailureKind, LOOK_AFTER,
        MemberId, MemberState, Pace, Phase, Policy, ProbeOutcome, Profile, Service, Signal, SignalKind,
    },
};

/// How long a probe of a member that is well takes.
const LATENCY: Duration = Duration::from_micros(300);

/// One prober of `probe.rs`, in virtual time.
struct Prober {
    check: Check,
    connected: bool,
    failures: u32,
    /// Of the newest round.
    started: Time,
    /// When the round that is under way ends, and how; `None`: it rests.
    probing: Option<(Time, ProbeOutcome)>,
    /// Another one follows at once.
    wanted: bool,
    refused: bool,
}

/// Trouble that begins at a moment and does not end.
#[derive(Clone, Copy)]
struct Fault {
    trouble: Trouble,
    at: Time,
}

impl Prober {
    /// Runs a round that starts now.
    fn start(&mut self, now: Time, fault: Fault) {
        (self.started, self.wanted) = (now, false);
        let (mut passes, mut failures, mut at) = (0, 0, now);
        for left in (0..self.check.probes).rev() {
            let (end, outcome) = self.probe(at, fault);
            let passed = matches!(outcome, ProbeOutcome::Passed { .. });
            if passed {
                passes += 1;
            } else {
                failures += 1;
            }
            let decided = match self.check.policy {
                Policy::All => failures > 0,
                Policy::Majority => passes > failures + left || failures >= passes + left,
                Policy::Any => passes > 0,
            };
            self.probing = Some((end, outcome));
            if decided || left == 0 {
                break;
            }
            at = end.max(at + self.check.probe_delay);
        }
    }

    fn probe(&mut self, at: Time, fault: Fault) -> (Time, ProbeOutcome) {
        let sees = self.check.kind.sees(fault.trouble.failure());
        if at + LATENCY <= fault.at || !sees {
            self.connected = self.check.kind.keeps_a_connection();
            return (at + LATENCY, ProbeOutcome::Passed { latency: LATENCY });
        }
        // Crashed meanwhile, or before: the kept connection is gone.
        let connected = self.connected && fault.trouble != Trouble::Crash;
        self.connected = false;
        let limits = if self.failures < self.check.fall {
            self.check.limits(LATENCY, LATENCY)
        } else {
            self.check.patient_limits()
        };
        let silence = limits.silence.unwrap_or(limits.answer);
        let failed = |phase, cause| ProbeOutcome::Failed(Failure { phase, cause });
        let timed_out = |phase, after: Duration| (at + after, failed(phase, Cause::TimedOut(after)));
        match fault.trouble {
            Trouble::Crash => (at.max(fault.at) + LATENCY, failed(Phase::Connect, Cause::Refused)),
            Trouble::Silence if connected => {
                timed_out(Phase::Connect, limits.answer.min(limits.kept() + silence))
            }
            Trouble::Silence => timed_out(Phase::Connect, limits.answer.min(silence)),
            Trouble::Stall => timed_out(Phase::Command, limits.answer),
        }
    }

    fn next_start(&self, pace: Pace, fault: Fault, ended: Time) -> Time {
        let interval = match pace {
            _ if self.refused && self.failures < self.check.fall => self.check.after_refusal(self.failures),
            Pace::Normal => self.check.interval,
            Pace::Fast => self.check.fast_interval,
            Pace::Down => self.check.down_interval,
        };
        let next = ended.max(self.started + interval);
        let is_seen = fault.trouble == Trouble::Crash && self.connected;
        if is_seen && next > fault.at { fault.at.max(ended) } else { next }
    }
}

/// The signal that comes last of those that such trouble must give, and when: somebody asked when it began.
fn signal(fault: Fault) -> (Time, Signal) {
    let (kind, after) = match fault.trouble {
        Trouble::Crash => (SignalKind::Closed, LATENCY),
        // A tick of the kernel more.
        Trouble::Silence => (SignalKind::Silent, LOOK_AFTER + ms(10)),
        Trouble::Stall => (SignalKind::Stalled, LOOK_AFTER + ms(10)),
    };
    (fault.at + after, Signal { kind, ago: after, count: 1 })
}

/// Members that are well until paris is in trouble `after` the start. When paris was left, counted from then.
fn left_after(service: &Service, trouble: Trouble, after: Duration, prompt: Prompt) -> Option<Duration> {
    let start = Time(s(3600));
    let fault = Fault { trouble, at: start + after };
    let healthy = Fault { trouble, at: start + s(1_000_000) };
    let known: Vec<_> = (0..2).map(|member| offered(&[address(MemberId(member), 0)])).collect();
    let mut core = Core::new(service.clone(), &known, None, start);
    let mut paces = [Pace::Fast; 2];
    let mut probers: Vec<(usize, CheckId, Prober, Time)> = Vec::new();
    for member in 0..2 {
        for (number, check) in service.checks.iter().enumerate() {
            let mut prober = Prober {
                check: check.clone(),
                connected: false,
                failures: 0,
                started: start,
                probing: None,
                wanted: false,
                refused: false,
            };
            prober.start(start, if member == 0 { fault } else { healthy });
            probers.push((member, CheckId(number), prober, start));
        }
    }
    let end = fault.at + s(600);
    let mut signal = (prompt == Prompt::Signal).then(|| signal(fault));
    loop {
        let due = |(member, _, prober, ended): &(usize, CheckId, Prober, Time)| {
            let fault = if *member == 0 { fault } else { healthy };
            match &prober.probing {
                Some((ends, _)) => *ends,
                None if prober.wanted => *ended,
                None => prober.next_start(paces[*member], fault, *ended),
            }
        };
        let (at, which) = probers.iter().map(due).zip(0..).min().expect("there are probers");
        let mut now = at;
        if let Some(deadline) = core.next_deadline().filter(|deadline| *deadline < at) {
            core.on_deadline(deadline);
            now = deadline;
        } else if let Some((at, signal)) = signal.take_if(|(when, _)| *when <= at) {
            core.on_signal(at, PARIS, &signal);
            now = at;
        } else {
            if at > end {
                return None;
            }
            let (member, check, prober, ended) = &mut probers[which];
            if let Some((_, outcome)) = prober.probing.take() {
                let kind = match &outcome {
                    ProbeOutcome::Failed(failure) => Some(failure.kind()),
                    _ => None,
                };
                prober.failures = if kind.is_some() { prober.failures + 1 } else { 0 };
                prober.refused = kind == Some(Trouble::Crash.failure());
                *ended = at;
                core.on_probe(at, MemberId(*member), address(MemberId(*member), 0), *check, &outcome);
            } else {
                prober.start(at, if *member == 0 { fault } else { healthy });
            }
        }
        while let Some(action) = core.poll_action() {
            match action {
                Action::Pace { member, pace, .. } => paces[member.0] = pace,
                Action::Look { member } => {
                    for (_, _, prober, _) in probers.iter_mut().filter(|(of, ..)| *of == member.0) {
                        if prober.probing.is_none() {
                            prober.start(now, fault);
                        } else {
                            prober.wanted = true;
                        }
                    }
                }
                Action::Switch(switch) if switch.from == Some(PARIS) => {
                    return Some(switch.at.since(fault.at));
                }
                _ => {}
            }
        }
    }
}

fn service_with(checks: Vec<Check>, combine: Combine) -> Service {
    with_checks(Service { combine, ..orders() }, checks)
}

/// The printed time is not only never exceeded: it is reached, when the trouble begins just after a probe has passed.
#[test]
fn the_worst_case_is_the_worst_case() {
    for (word, profile) in Profile::WORDS {
        for kind in [CheckKind::Ping, CheckKind::Tcp] {
            for trouble in Trouble::ALL {
                for prompt in [Prompt::Interval, Prompt::Signal] {
                    let check = Check { jitter_percent: 0, ..Check::with(kind.clone(), profile) };
                    let printed = detection::of_check(&check, trouble, LATENCY, prompt);
                    // Just after the answer to the third probe.
                    let after = LATENCY + check.interval * 2 + Duration::from_nanos(1);
                    let service = service_with(vec![check], Combine::All);
                    let measured = left_after(&service, trouble, after, prompt);
                    let (Some(printed), Some(measured)) = (printed, measured) else {
                        assert_eq!((printed, measured), (None, None), "{word} {kind:?} {trouble:?}");
                        continue;
                    };
                    assert!(measured <= printed, "{word} {kind:?} {trouble:?}: {measured:?} of {printed:?}");
                    // A signal during a probe spares the wait before the next one, after a refusal a millisecond.
                    let spared = if prompt == Prompt::Signal { ms(1) } else { Duration::ZERO };
                    assert!(
                        printed - measured <= LATENCY * 2 + spared,
                        "{word} {kind:?} {trouble:?}: {measured:?} of {printed:?}"
                    );
                }
            }
        }
    }
}

/// What DESIGN.md asks for, as far as probes alone can give it.
#[test]
fn the_profiles_keep_what_they_promise() {
    let ping = |profile| Check::with(CheckKind::Ping, profile);
    let prompt = Prompt::Interval;
    let worst = |profile, trouble| detection::of_check(&ping(profile), trouble, LATENCY, prompt).unwrap();
    for profile in [Profile::Fast, Profile::Balanced] {
        assert!(worst(profile, Trouble::Crash) < ms(10));
    }
    assert!(worst(Profile::Fast, Trouble::Silence) < ms(150));
    assert!(worst(Profile::Fast, Trouble::Stall) < ms(150));
    let prompt = Prompt::Signal;
    let with_traffic =
        |profile, trouble| detection::of_check(&ping(profile), trouble, LATENCY, prompt).unwrap();
    assert!(with_traffic(Profile::Balanced, Trouble::Crash) < ms(10));
    assert!(with_traffic(Profile::Balanced, Trouble::Silence) < ms(500));
    assert!(with_traffic(Profile::Balanced, Trouble::Stall) < ms(1500));
    for trouble in Trouble::ALL {
        assert!(with_traffic(Profile::Fast, trouble) < ms(150));
    }
    assert!(worst(Profile::Patient, Trouble::Crash) >= s(5));
}

#[test]
fn combining_decides_which_check_is_waited_for() {
    let quick = Check { interval: ms(100), ..Check::of(CheckKind::Ping) };
    let slow = Check { interval: s(5), ..Check::of(CheckKind::Ping) };
    let blind = Check::of(CheckKind::Tcp);
    let worst = |checks: &[&Check], combine, trouble| {
        let checks: Vec<_> = checks.iter().map(|check| (*check, LATENCY)).collect();
        detection::of_member(&checks, combine, trouble, Prompt::Interval)
    };
    let of = |check| detection::of_check(check, Trouble::Stall, LATENCY, Prompt::Interval);
    assert_eq!(worst(&[&quick, &slow, &blind], Combine::All, Trouble::Stall), of(&quick));
    assert_eq!(worst(&[&quick, &slow], Combine::Any, Trouble::Stall), of(&slow));
    assert_eq!(worst(&[&quick, &slow, &blind], Combine::Any, Trouble::Stall), None);
    assert_eq!(worst(&[&quick, &slow, &blind], Combine::AtLeast(2), Trouble::Stall), of(&slow));
    let veto = Check { effect: Effect::Veto, ..quick.clone() };
    let gate = Check { effect: Effect::Gate, ..quick.clone() };
    assert_eq!(worst(&[&veto, &blind], Combine::Any, Trouble::Stall), of(&quick));
    assert_eq!(worst(&[&gate, &blind], Combine::All, Trouble::Stall), None);
}

#[test]
fn load_counts_probes_and_connections() {
    let steady = |kind| Check { jitter_percent: 0, ..Check::of(kind) };
    let rounds = Check { probes: 3, policy: Policy::Majority, ..steady(CheckKind::Tcp) };
    let load = detection::load(&[steady(CheckKind::Ping), rounds]);
    assert_eq!(load.connections, 1);
    assert_eq!((load.normal.probes, load.normal.connections), (3.0, 2.0));
    assert_eq!((load.in_doubt.probes, load.in_doubt.connections), (35.0, 35.0));
}

fn any_check() -> impl Strategy<Value = Check> {
    let times = (20_u64..400, 5_u64..60, 20_u64..600, 1_u32..5);
    let rounds =
        (1_u32..4, 0_u64..20, prop::sample::select(vec![Policy::All, Policy::Majority, Policy::Any]));
    let tolerances = (10_u64..800, 10_u64..800, 0_u64..400);
    let kind = prop::sample::select(vec![CheckKind::Ping, CheckKind::Tcp]);
    let effect = prop::sample::select(vec![Effect::Count, Effect::Count, Effect::Veto]);
    (times, rounds, tolerances, kind, effect).prop_map(|(times, rounds, tolerances, kind, effect)| {
        let (interval, fast, timeout, fall) = times;
        let (probes, delay, policy) = rounds;
        let (silence, stall, refused) = tolerances;
        let interval = ms(interval.max(delay * u64::from(probes - 1) + 2));
        Check {
            effect,
            interval,
            fast_interval: ms(fast).min(interval),
            down_interval: interval,
            timeout: ms(timeout),
            fall,
            probes,
            probe_delay: ms(delay),
            policy,
            detect: Detect {
                silence_tolerance: ms(silence),
                stall_tolerance: ms(stall),
                refused_tolerance: ms(refused),
            },
            ..Check::of(kind)
        }
    })
}

proptest! {
    /// Whenever the trouble begins: not before its tolerance, and not after the printed worst case.
    #[test]
    fn a_member_is_left_in_time_and_not_too_early(
        checks in prop::collection::vec(any_check(), 1..4),
        combine in prop::sample::select(vec![Combine::All, Combine::Any, Combine::AtLeast(1)]),
        trouble in prop::sample::select(Trouble::ALL.to_vec()),
        after in 400_000_u64..2_000_000,
        prompt in prop::sample::select(vec![Prompt::Interval, Prompt::Signal]),
    ) {
        let least = checks.iter().map(|check| check.detect.tolerance(trouble.failure())).min().unwrap();
        let watching: Vec<_> = checks.iter().map(|check| (check, LATENCY)).collect();
        let printed = detection::of_member(&watching, combine, trouble, prompt);
        let service = service_with(checks, combine);
        let measured = left_after(&service, trouble, Duration::from_micros(after), prompt);
        match (printed, measured) {
            (Some(printed), Some(measured)) => {
                prop_assert!(measured <= printed, "{measured:?}, printed {printed:?}");
                // The answer that was lost may have been asked for just before.
                prop_assert!(measured + LATENCY * 2 >= least, "{measured:?}, tolerance {least:?}");
            }
            unseen => prop_assert_eq!(unseen, (None, None)),
        }
    }
}

/// The state of paris, after these outcomes at these milliseconds, each of a probe that ended then.
fn state_after(detect: Detect, outcomes: &[(u64, ProbeOutcome)]) -> (World, Time) {
    let mut world = World::new(with_checks(orders(), vec![Check { detect, ..check() }]));
    let start = world.now;
    world.probe(PARIS, &pass()).probe(DUBLIN, &pass());
    for (at, outcome) in outcomes {
        let at = start + ms(*at);
        while let Some(deadline) = world.core.next_deadline().filter(|deadline| *deadline < at) {
            world.core.on_deadline(deadline);
        }
        world.now = at;
        world.probe(PARIS, outcome);
    }
    (world, start)
}

fn silent(after: u64) -> ProbeOutcome {
    ProbeOutcome::Failed(Failure { phase: Phase::Connect, cause: Cause::TimedOut(ms(after)) })
}

fn stalled(after: u64) -> ProbeOutcome {
    ProbeOutcome::Failed(Failure { phase: Phase::Command, cause: Cause::TimedOut(ms(after)) })
}

const BALANCED: Detect = Profile::Balanced.defaults().detect;

#[test]
fn a_tolerance_counts_from_the_start_of_the_first_probe_and_ends_without_another() {
    let (mut world, start) =
        state_after(BALANCED, &[(200, silent(100)), (250, silent(50)), (300, silent(50))]);
    world.assert_state(PARIS, MemberState::Up);
    assert_eq!(
        world.member(PARIS).reason,
        "ping: connect timed out after 50ms (3 in a row, borne for 300ms)"
    );
    assert_eq!(world.core.next_deadline(), Some(start + ms(400)));
    world.core.on_deadline(start + ms(399));
    world.assert_state(PARIS, MemberState::Up);
    world.core.on_deadline(start + ms(400));
    world.assert_state(PARIS, MemberState::Down);
}

#[test]
fn a_stall_of_half_a_second_is_borne() {
    let outcomes = [(334, stalled(334)), (500, pass())];
    let (mut world, _) = state_after(BALANCED, &outcomes);
    world.assert_state(PARIS, MemberState::Up);
    world.run(s(60)).assert_state(PARIS, MemberState::Up);
}

/// Each kind has its own clock; a sign of life stops that of the silence, a pass stops all.
#[test]
fn mixed_failures_are_borne_until_one_kind_of_them_is_too_much() {
    // A host that is slow to answer the SYN and then stalls: no silence.
    let (world, start) =
        state_after(BALANCED, &[(100, silent(100)), (200, silent(100)), (400, stalled(150))]);
    assert_eq!(world.core.next_deadline(), Some(start + ms(1250)));
    // It crashes at last: refusals are not borne.
    let (world, _) = state_after(BALANCED, &[(300, stalled(300)), (600, stalled(300)), (700, fail())]);
    world.assert_state(PARIS, MemberState::Down);
    // It starts again: first it refuses, then it stalls. The five seconds count from the first refusal.
    let patient = Detect { refused_tolerance: s(5), stall_tolerance: s(10), ..BALANCED };
    let outcomes = [(0, fail()), (1000, fail()), (2000, fail()), (4000, stalled(1000))];
    let (world, start) = state_after(patient, &outcomes);
    assert_eq!(world.core.next_deadline(), Some(start + s(5)));
    let (world, _) = state_after(patient, &[(0, fail()), (1000, fail()), (2000, fail()), (4000, pass())]);
    assert_eq!(world.core.next_deadline(), None);
}

#[test]
fn an_answer_that_comes_with_the_end_of_the_tolerance_counts() {
    let (mut world, start) =
        state_after(BALANCED, &[(100, silent(100)), (200, silent(100)), (280, silent(80))]);
    assert_eq!(world.core.next_deadline(), Some(start + ms(300)));
    world.now = start + ms(300);
    world.probe(PARIS, &pass()).assert_state(PARIS, MemberState::Up);
    assert_eq!(world.core.next_deadline(), None);
}

/// One outcome, this many milliseconds after the one before.
#[derive(Clone, Debug)]
struct Ended {
    after: u64,
    outcome: ProbeOutcome,
}

fn ended() -> impl Strategy<Value = Ended> {
    let answered = prop::sample::select(vec![
        pass(),
        fail(),
        fail(),
        ProbeOutcome::Failed(Failure { phase: Phase::Command, cause: Cause::WrongAnswer("?".to_owned()) }),
    ]);
    let waited = (1_u64..400, any::<bool>())
        .prop_map(|(waited, stall)| if stall { stalled(waited) } else { silent(waited) });
    (1_u64..400, prop_oneof![2 => answered, 3 => waited]).prop_map(|(after, outcome)| {
        // A probe does not begin before the one before it has ended.
        let waited = match &outcome {
            ProbeOutcome::Failed(failure) => failure.waited(),
            _ => Duration::ZERO,
        };
        Ended { after: after.max(u64::try_from(waited.as_millis()).unwrap()), outcome }
    })
}

/// Looks back over all failures since the last pass: whether there are enough, and one kind of them has lasted too long.
fn is_too_much(series: &[(Time, Failure)], check: &Check, now: Time) -> bool {
    let kinds = [FailureKind::Silence, FailureKind::Stall, FailureKind::Refused, FailureKind::Other];
    let lasts = |kind: FailureKind| {
        let since_sign_of_life = match kind {
            FailureKind::Silence => {
                series.iter().rposition(|(_, failure)| failure.kind() != kind).map_or(0, |at| at + 1)
            }
            _ => 0,
        };
        let first = series[since_sign_of_life..].iter().find(|(_, failure)| failure.kind() == kind);
        first.is_some_and(|(at, failure)| at.ago(failure.waited()) + check.detect.tolerance(kind) <= now)
    };
    series.len() >= check.fall as usize && kinds.into_iter().any(lasts)
}

proptest! {
    /// The clocks of a check against a look back over its whole history, at every outcome and every deadline.
    #[test]
    fn tolerances_equal_a_look_back_over_the_history(
        fall in 1_u32..5,
        tolerances in (10_u64..900, 10_u64..900, 0_u64..900),
        history in prop::collection::vec(ended(), 0..40),
    ) {
        let (silence, stall, refused) = tolerances;
        let detect = Detect {
            silence_tolerance: ms(silence),
            stall_tolerance: ms(stall),
            refused_tolerance: ms(refused),
        };
        let check = Check { fall, rise: 1, detect, ..check() };
        let mut world = World::new(with_checks(orders(), vec![check.clone()]));
        world.probe(PARIS, &pass()).probe(DUBLIN, &pass());
        let mut series: Vec<(Time, Failure)> = Vec::new();
        let mut down = false;
        for Ended { after, outcome } in history {
            let at = world.now + ms(after);
            while let Some(deadline) = world.core.next_deadline().filter(|deadline| *deadline < at) {
                let just_before = Time(deadline.0 - Duration::from_nanos(1));
                prop_assert!(down || !is_too_much(&series, &check, just_before), "too late");
                world.core.on_deadline(deadline);
                down |= is_too_much(&series, &check, deadline);
                prop_assert_eq!(world.member(PARIS).state == MemberState::Down, down);
            }
            world.now = at;
            world.probe(PARIS, &outcome);
            match outcome {
                ProbeOutcome::Failed(failure) => series.push((at, failure)),
                _ => {
                    series.clear();
                    down = false;
                }
            }
            down |= is_too_much(&series, &check, at);
            prop_assert_eq!(world.member(PARIS).state == MemberState::Down, down);
        }
    }
}
