//! The promises of [`crate::decide`], over random services and random schedules.
//!
//! Each step of a schedule hands in one thing; [`Witness`] sees what every caller sees, views and actions, and
//! knows nothing of how the core works.
//!
//! `REDIRECTOR_SCHEDULES` says how many schedules are tried; 100000 take some minutes in a release build.

use std::{net::SocketAddr, time::Duration};

use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{select, subsequence},
};

use self::witness::Witness;
use super::world::{address, check, member, orders, with_checks};
use crate::{
    decide::{Action, Command, Drain, Draining, Resumed, ResumedSwitch, Spread},
    model::{
        Breaker, Check, Combine, Effect, Epoch, Failback, FailbackMode, FlowPolicy, Initial, MemberId, Offer,
        OnAllDown, RedisErrorKind, Service, Signal, SignalKind, Signals, SwitchKind, Traffic, Verdict,
    },
};

mod witness;

/// One call, after `wait` milliseconds, by somebody who read the clock `late` milliseconds ago.
#[derive(Clone, Debug)]
struct Step {
    wait: u64,
    late: u64,
    event: Event,
}

#[derive(Clone, Debug)]
enum Event {
    /// Member and check are taken modulo the service's numbers; the address may be one that the member does not have.
    Probe {
        member: usize,
        address: usize,
        check: usize,
        verdict: Verdict,
    },
    /// Which of the [`pool`].
    Addresses {
        member: usize,
        which: Vec<usize>,
    },
    Deadline,
    /// By so many milliseconds.
    Late(u64),
    /// Members are taken modulo the service's number, here and below.
    Signal(usize, Signal),
    Traffic(usize, Traffic),
    Operator(Command),
    Reload(Reload),
}

/// What a reload changes.
#[derive(Clone, Debug)]
struct Reload {
    /// Which of the members stay; all the others are removed.
    stay: [bool; 4],
    /// The first of them becomes the last.
    rotate: bool,
    /// A new member of this weight comes first.
    new: Option<u32>,
    /// The weight of the last member.
    weight: u32,
    /// The last check is removed, or one is added.
    checks: bool,
    failback: Failback,
    /// Also without any member to go to.
    force: bool,
}

fn seconds() -> impl Strategy<Value = Duration> {
    select(vec![0_u64, 1, 2, 5]).prop_map(Duration::from_secs)
}

fn flow_policy() -> impl Strategy<Value = FlowPolicy> {
    select(vec![FlowPolicy::Reset, FlowPolicy::Drain, FlowPolicy::Keep])
}

fn failback() -> impl Strategy<Value = Failback> {
    // Mostly `auto`: the other modes have little to get wrong.
    let mode = prop_oneof![
        4 => Just(FailbackMode::Auto),
        1 => Just(FailbackMode::Manual),
        1 => Just(FailbackMode::Never),
    ];
    let half_life = select(vec![0_u64, 10]).prop_map(Duration::from_secs);
    (mode, seconds(), seconds(), half_life).prop_map(|(mode, healthy_for, hold_down, flap_half_life)| {
        Failback { flap_half_life, mode, healthy_for, hold_down }
    })
}

fn service() -> impl Strategy<Value = Service> {
    // Few different weights, so that many are equal.
    let members = vec(1_u32..4, 1..5).prop_map(|weights| {
        let named = |(number, weight)| member(&format!("m{number}"), weight);
        weights.into_iter().enumerate().map(named).collect::<Vec<_>>()
    });
    let initial = select(vec![Initial::Any, Initial::Majority, Initial::All]);
    let on_all_down = select(vec![OnAllDown::Stay, OnAllDown::Refuse]);
    // Long drains too: members are to go down in the middle of some.
    let drain_timeout = prop_oneof![seconds(), Just(Duration::from_secs(60))];
    let policies = (flow_policy(), flow_policy(), drain_timeout, select(vec![0_u64, 0, 700]));
    let checks = (checks(), combine());
    let traffic = (signals(), option::of(breaker()));
    (checks, members, initial, seconds(), on_all_down, policies, failback(), traffic).prop_map(
        |((checks, combine), members, initial, initial_timeout, on_all_down, policies, failback, traffic)| {
            let (on_failover, on_failback, drain_timeout, reset_over) = policies;
            let (signals, breaker) = traffic;
            let service = Service {
                on_failover,
                on_failback,
                drain_timeout,
                reset_over: Duration::from_millis(reset_over),
                signals,
                breaker,
                on_all_down,
                initial,
                initial_timeout,
                failback,
                combine,
                members,
                ..orders()
            };
            with_checks(service, checks)
        },
    )
}

fn signals() -> impl Strategy<Value = Signals> {
    select(vec![Signals::Act, Signals::Act, Signals::Observe, Signals::Off])
}

/// Few attempts are enough.
fn breaker() -> impl Strategy<Value = Breaker> {
    (1_u32..20, 0_u32..80, 200_u64..3000, 0_u32..10, 100_u64..4000).prop_map(
        |(minimum_failures, failure_rate, window, in_a_row, open_for)| Breaker {
            minimum_failures,
            failure_rate,
            window: Duration::from_millis(window),
            in_a_row,
            open_for: Duration::from_millis(open_for),
        },
    )
}

fn signal() -> impl Strategy<Value = Signal> {
    let kinds = vec![
        SignalKind::Refused,
        SignalKind::Closed,
        SignalKind::Retransmitted,
        SignalKind::Silent,
        SignalKind::ErrorReply(RedisErrorKind::Loading),
    ];
    (select(kinds), 0_u64..2000, 1_u32..100).prop_map(|(kind, ago, count)| Signal {
        kind,
        ago: Duration::from_millis(ago),
        count,
    })
}

fn traffic() -> impl Strategy<Value = Traffic> {
    (0_u32..3, 0_u32..6, 0_u32..3, 0_u32..6).prop_map(|(connected, failed, answered, errors)| Traffic {
        connected,
        failed,
        answered,
        errors,
    })
}

/// One or two; the first one decides.
fn checks() -> impl Strategy<Value = Vec<Check>> {
    let first = select(vec![Effect::Count, Effect::Count, Effect::Veto]);
    let second = select(vec![Effect::Count, Effect::Veto, Effect::Gate, Effect::Observe]);
    let thresholds = || (1_u32..4, 1_u32..4);
    ((first, thresholds()), option::of((second, thresholds()))).prop_map(|(first, second)| {
        let make =
            |(number, (effect, (fall, rise)))| named_check(number, Check { effect, fall, rise, ..check() });
        [Some(first), second].into_iter().flatten().enumerate().map(make).collect()
    })
}

fn named_check(number: usize, check: Check) -> Check {
    Check { name: format!("c{number}"), ..check }
}

fn combine() -> impl Strategy<Value = Combine> {
    prop_oneof![3 => Just(Combine::All), 1 => Just(Combine::Any), 1 => Just(Combine::AtLeast(1))]
}

fn resumed(members: usize, reset_over: Duration) -> impl Strategy<Value = Resumed> {
    let kinds = vec![SwitchKind::Initial, SwitchKind::Failover, SwitchKind::Failback, SwitchKind::Manual];
    let flows = (option::of(flow_policy()), option::of(draining(members, reset_over)));
    let last = (option::of(0..members), select(kinds), 0_u64..8000, flows).prop_map(
        |(from, kind, age, (policy, drains))| ResumedSwitch {
            from: from.map(MemberId),
            kind,
            policy,
            reason: String::new(),
            age: Duration::from_millis(age),
            drains,
            is_older: false,
        },
    );
    (option::of(0..members), 1_u32..9, 0_u32..9, option::of(last)).prop_map(|(active, epoch, floor, last)| {
        let active = active.map(MemberId);
        Resumed { active, epoch: Epoch(epoch), floor: Epoch(floor.min(epoch)), last }
    })
}

/// Drains of an earlier agent, some of them over by now.
fn draining(members: usize, reset_over: Duration) -> impl Strategy<Value = Vec<Draining>> {
    let spread = select(vec![Spread::No, Spread::AtEnd, Spread::UnderWay]);
    let drain = (option::of(0..members), 0_u64..8000, spread);
    let epochs = subsequence((1..9).collect::<Vec<_>>(), 0..4);
    (epochs, vec(drain, 4)).prop_map(move |(epochs, drains)| {
        let draining = |(epoch, (from, left, spread)): (u32, (Option<usize>, u64, Spread))| {
            let left = Duration::from_millis(left);
            let left = if spread == Spread::UnderWay { left.min(reset_over) } else { left };
            let drain = Drain { epoch: Epoch(epoch), from: from.map(MemberId), spread };
            Draining { deadline: witness::START + left, drain }
        };
        epochs.into_iter().zip(drains).map(draining).collect()
    })
}

/// What a member's addresses are taken from: three of IPv4, two of IPv6.
fn pool(member: MemberId) -> [SocketAddr; 5] {
    let v6 =
        |last: u16| SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, u16::try_from(member.0).unwrap(), last], 6379));
    [address(member, 0), address(member, 1), address(member, 2), v6(1), v6(2)]
}

fn which_addresses() -> impl Strategy<Value = Vec<usize>> {
    subsequence(vec![0, 1, 2, 3, 4], 1..=5)
}

/// What an earlier agent left of each member: mostly one address that is offered.
fn known(members: usize) -> impl Strategy<Value = Vec<Vec<Offer>>> {
    let one = Just(vec![(0, true)]);
    let any = vec((0_usize..5, any::<bool>()), 0..5).prop_map(|mut known| {
        known.sort_unstable();
        known.dedup_by_key(|(number, _)| *number);
        known
    });
    vec(prop_oneof![2 => one, 1 => any], members).prop_map(|all| {
        let offers = |(member, known): (usize, Vec<(usize, bool)>)| {
            let offer =
                |(number, offered): (usize, bool)| Offer { address: pool(MemberId(member))[number], offered };
            known.into_iter().map(offer).collect()
        };
        all.into_iter().enumerate().map(offers).collect()
    })
}

fn command() -> impl Strategy<Value = Command> {
    let member = || (0_usize..4).prop_map(MemberId);
    let hold = option::of(0_u64..6000).prop_map(|hold| hold.map(Duration::from_millis));
    let force = || prop_oneof![2 => Just(false), 1 => Just(true)];
    prop_oneof![
        4 => (member(), hold, force()).prop_map(|(to, hold, force)| {
            Command::Switch { to, hold, force, reason: String::new() }
        }),
        2 => Just(Command::Release),
        2 => (member(), force()).prop_map(|(member, force)| Command::Drain { member, force }),
        3 => member().prop_map(|member| Command::Undrain { member }),
        1 => Just(Command::Pause),
        3 => Just(Command::Resume),
        2 => (member(), 0_u32..5).prop_map(|(member, weight)| Command::Weight { member, weight }),
    ]
}

fn reload() -> impl Strategy<Value = Reload> {
    let stay = vec(prop_oneof![4 => Just(true), 1 => Just(false)], 4);
    let change = (any::<bool>(), option::of(1_u32..4), 1_u32..4, any::<bool>(), any::<bool>());
    (stay, change, failback()).prop_map(|(stay, (rotate, new, weight, checks, force), failback)| Reload {
        stay: [stay[0], stay[1], stay[2], stay[3]],
        rotate,
        new,
        weight,
        checks,
        failback,
        force,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let verdict = prop_oneof![
        6 => Just(Verdict::Pass),
        5 => Just(Verdict::Fail),
        1 => Just(Verdict::Inconclusive),
    ];
    let which = prop_oneof![3 => Just(0), 2 => 0_usize..5];
    let probe = (0_usize..4, which, 0_usize..2, verdict)
        .prop_map(|(member, address, check, verdict)| Event::Probe { member, address, check, verdict });
    let addresses =
        (0_usize..4, which_addresses()).prop_map(|(member, which)| Event::Addresses { member, which });
    let event = prop_oneof![
        60 => probe,
        9 => Just(Event::Deadline),
        3 => addresses,
        5 => command().prop_map(Event::Operator),
        1 => reload().prop_map(Event::Reload),
        1 => (300_u64..5000).prop_map(Event::Late),
        5 => (0_usize..4, signal()).prop_map(|(member, signal)| Event::Signal(member, signal)),
        4 => (0_usize..4, traffic()).prop_map(|(member, traffic)| Event::Traffic(member, traffic)),
    ];
    let wait = prop_oneof![4 => 0_u64..100, 2 => 0_u64..3000, 1 => Just(0)];
    let late = prop_oneof![4 => Just(0), 1 => 0_u64..3000];
    (wait, late, event).prop_map(|(wait, late, event)| Step { wait, late, event })
}

/// What a core begins with.
#[derive(Clone, Debug)]
struct Start {
    service: Service,
    known: Vec<Vec<Offer>>,
    resumed: Option<Resumed>,
    /// The first answer of the resolver, for each member.
    first: Vec<Vec<usize>>,
    /// Whether rounds are answered at once, with passes: else only by chance.
    answers_rounds: bool,
}

fn schedule() -> impl Strategy<Value = (Start, Vec<Step>)> {
    service().prop_flat_map(|service| {
        let members = service.members.len();
        let first = prop_oneof![2 => Just(vec![0]), 1 => which_addresses()];
        let begin = (
            known(members),
            option::of(resumed(members, service.reset_over)),
            vec(first, members),
            any::<bool>(),
        );
        let start = (Just(service), begin).prop_map(|(service, (known, resumed, first, answers_rounds))| {
            Start { service, known, resumed, first, answers_rounds }
        });
        (start, vec(step(), 0..200))
    })
}

/// An earlier agent has left the second member to drain, and the probes of all members pass and fail together or alone: what cuts of
/// this host look like, and deaths.
fn drained() -> impl Strategy<Value = (Start, Vec<Step>)> {
    let of_two = service().prop_filter("there is somewhere to go", |service| service.members.len() >= 2);
    let start = (of_two, any::<bool>()).prop_map(|(service, answers_rounds)| {
        let failback = Failback { mode: FailbackMode::Never, ..service.failback };
        let drain_timeout = Duration::from_secs(60);
        let service = Service { on_failover: FlowPolicy::Reset, failback, drain_timeout, ..service };
        let members = service.members.len();
        let last = ResumedSwitch {
            from: Some(MemberId(1)),
            kind: SwitchKind::Failback,
            policy: Some(FlowPolicy::Drain),
            reason: String::new(),
            age: Duration::from_secs(1),
            drains: None,
            is_older: false,
        };
        let active = Some(MemberId(0));
        let resumed = Some(Resumed { active, epoch: Epoch(5), floor: Epoch(4), last: Some(last) });
        let offered = |member| vec![Offer { address: pool(MemberId(member))[0], offered: true }];
        let known = (0..members).map(offered).collect();
        Start { service, known, resumed, first: vec![vec![0]; members], answers_rounds }
    });
    let member = prop_oneof![3 => 0_usize..2, 1 => 0_usize..4];
    let verdict = prop_oneof![1 => Just(Verdict::Pass), 1 => Just(Verdict::Fail)];
    // Several answers in a row that say the same: one at a time is seldom enough to go down or to come up.
    let answers =
        (member, 0_usize..2, verdict, vec(0_u64..150, 1..4)).prop_map(|(member, check, verdict, waits)| {
            let event = Event::Probe { member, address: 0, check, verdict };
            waits.into_iter().map(|wait| Step { wait, late: 0, event: event.clone() }).collect::<Vec<_>>()
        });
    let others = step().prop_map(|step| vec![step]);
    let steps = vec(prop_oneof![12 => answers, 1 => others], 0..60);
    (start, steps.prop_map(|steps| steps.concat()))
}

/// Members have several addresses, and the probes of one of them or of all pass and fail: what cuts of this host look like, and deaths of
/// addresses.
fn several_addresses() -> impl Strategy<Value = (Start, Vec<Step>)> {
    let start = (service(), which_addresses(), any::<bool>()).prop_map(|(service, which, answers_rounds)| {
        let service = Service { on_failover: FlowPolicy::Reset, ..service };
        let members = service.members.len();
        let offered = |member: usize| {
            let offer = |number: &usize| Offer { address: pool(MemberId(member))[*number], offered: true };
            which.iter().map(offer).collect()
        };
        let known = (0..members).map(offered).collect();
        Start { service, known, resumed: None, first: vec![which.clone(); members], answers_rounds }
    });
    let verdict = || prop_oneof![1 => Just(Verdict::Pass), 1 => Just(Verdict::Fail)];
    // Several answers in a row that say the same: one at a time is seldom enough to go down or to come up.
    let of_one = (0_usize..2, 0_usize..5, 0_usize..2, verdict(), vec(0_u64..150, 1..4)).prop_map(
        |(member, address, check, verdict, waits)| {
            let event = Event::Probe { member, address, check, verdict };
            waits.into_iter().map(|wait| Step { wait, late: 0, event: event.clone() }).collect::<Vec<_>>()
        },
    );
    // Each in its turn, some milliseconds apart.
    let of_all = (0_usize..2, 0_usize..5, verdict(), vec(0_u64..30, 5..16)).prop_map(
        |(member, first, verdict, waits)| {
            let probe = |(number, wait): (usize, u64)| {
                let address = (first + number) % 5;
                Step { wait, late: 0, event: Event::Probe { member, address, check: 0, verdict } }
            };
            waits.into_iter().enumerate().map(probe).collect()
        },
    );
    let others = step().prop_map(|step| vec![step]);
    let steps = vec(prop_oneof![8 => of_one, 3 => of_all, 1 => others], 0..40);
    (start, steps.prop_map(|steps| steps.concat()))
}

/// How many schedules are tried.
fn schedules() -> ProptestConfig {
    let number = std::env::var("REDIRECTOR_SCHEDULES").ok().and_then(|number| number.parse().ok());
    ProptestConfig {
        cases: number.unwrap_or(600),
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(schedules())]

    #[test]
    fn what_the_core_promises_holds_in_every_schedule((start, steps) in schedule()) {
        let mut witness = Witness::new(start).run(&steps);
        witness.run_out();
    }
}

proptest! {
    #![proptest_config(fewer())]

    #[test]
    fn so_it_does_while_a_member_is_drained((start, steps) in drained()) {
        let mut witness = Witness::new(start).run(&steps);
        witness.run_out();
    }
}

proptest! {
    #![proptest_config(fewer())]

    #[test]
    fn so_it_does_where_addresses_fail_alone_and_together((start, steps) in several_addresses()) {
        let mut witness = Witness::new(start).run(&steps);
        witness.run_out();
    }
}

/// Where two lists differ first, and what stands there.
fn first_difference(one: &[Action], other: &[Action]) -> Option<(usize, [Option<Action>; 2])> {
    let at = |number| [one, other].map(|actions| actions.get(number).cloned());
    (0..one.len().max(other.len())).map(|number| (number, at(number))).find(|(_, [one, other])| one != other)
}

/// These say the same of each schedule twice, and need fewer.
fn fewer() -> ProptestConfig {
    let all = schedules();
    ProptestConfig { cases: all.cases / 4, ..all }
}

proptest! {
    #![proptest_config(fewer())]

    #[test]
    fn the_same_calls_give_the_same_actions((start, steps) in schedule()) {
        let run = || Witness::new(start.clone()).run(&steps);
        let (one, other) = (run(), run());
        prop_assert_eq!(first_difference(&one.actions, &other.actions), None);
        prop_assert_eq!(one.before, other.before);
    }

    /// Calls at deadlines that are not due, or a second time, change nothing: the agent's timers may be sloppy.
    #[test]
    fn superfluous_deadline_calls_change_nothing((start, steps) in schedule()) {
        let plain = Witness::new(start.clone()).run(&steps);
        let doubled = steps.iter().flat_map(|step| {
            let again = Step { wait: 0, event: Event::Deadline, ..step.clone() };
            // These need not tell the core what time it is.
            let is_timeless = matches!(step.event, Event::Late(_) | Event::Reload(_));
            std::iter::once(step.clone()).chain(vec![again; if is_timeless { 0 } else { 2 }])
        });
        let sloppy = Witness::new(start).run(&doubled.collect::<Vec<_>>());
        prop_assert_eq!(first_difference(&plain.actions, &sloppy.actions), None);
    }

    /// Each line goes through its text, as in a file.
    #[test]
    fn a_recording_gives_the_same_actions((start, steps) in schedule()) {
        let lived = Witness::new(start).run(&steps);
        prop_assert_eq!(first_difference(&super::record::replay(&lived.lines), &lived.actions), None);
    }
}
