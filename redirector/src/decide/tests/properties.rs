//! The promises of [`crate::decide`], over random services and random schedules.
//!
//! Each step of a schedule hands in one thing; [`Witness`] sees what every caller sees, views and actions, and
//! knows nothing of how the core works.

use std::{net::SocketAddr, time::Duration};

use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{select, subsequence},
};

use super::world::{address, check, fail, inconclusive, member, orders, pass, with_checks};
use crate::{
    decide::{Action, Core, Resumed, ResumedSwitch, Switch, Time, View},
    model::{
        Check, CheckId, Epoch, Failback, FailbackMode, FlowPolicy, Initial, MemberId, MemberState, Offer,
        OnAllDown, Service, SwitchKind, Verdict,
    },
};

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
    (mode, seconds(), seconds()).prop_map(|(mode, healthy_for, hold_down)| Failback {
        flap_half_life: Duration::ZERO,
        mode,
        healthy_for,
        hold_down,
    })
}

fn service() -> impl Strategy<Value = Service> {
    let checks = vec((1_u32..4, 1_u32..4).prop_map(|(fall, rise)| Check { fall, rise, ..check() }), 1..3);
    // Few different weights, so that many are equal.
    let members = vec((1_u32..4).prop_map(|weight| member("m", weight)), 1..5);
    let initial = select(vec![Initial::Any, Initial::Majority, Initial::All]);
    let on_all_down = select(vec![OnAllDown::Stay, OnAllDown::Refuse]);
    let policies = (flow_policy(), flow_policy(), seconds());
    (checks, members, initial, seconds(), on_all_down, policies, failback()).prop_map(
        |(checks, members, initial, initial_timeout, on_all_down, policies, failback)| {
            let (on_failover, on_failback, drain_timeout) = policies;
            let service = Service {
                on_failover,
                on_failback,
                drain_timeout,
                on_all_down,
                initial,
                initial_timeout,
                failback,
                members,
                ..orders()
            };
            with_checks(service, checks)
        },
    )
}

fn resumed(members: usize) -> impl Strategy<Value = Resumed> {
    let kinds = vec![SwitchKind::Initial, SwitchKind::Failover, SwitchKind::Failback, SwitchKind::Manual];
    let last =
        (option::of(0..members), select(kinds), 0_u64..8000).prop_map(|(from, kind, age)| ResumedSwitch {
            from: from.map(MemberId),
            kind,
            reason: String::new(),
            age: Duration::from_millis(age),
        });
    (option::of(0..members), 1_u32..9, 0_u32..9, option::of(last)).prop_map(|(active, epoch, floor, last)| {
        let active = active.map(MemberId);
        Resumed { active, epoch: Epoch(epoch), floor: Epoch(floor.min(epoch)), last }
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

fn step() -> impl Strategy<Value = Step> {
    let verdict = prop_oneof![
        5 => Just(Verdict::Pass),
        5 => Just(Verdict::Fail),
        1 => Just(Verdict::Inconclusive),
    ];
    let which = prop_oneof![3 => Just(0), 2 => 0_usize..5];
    let probe = (0_usize..4, which, 0_usize..2, verdict)
        .prop_map(|(member, address, check, verdict)| Event::Probe { member, address, check, verdict });
    let addresses =
        (0_usize..4, which_addresses()).prop_map(|(member, which)| Event::Addresses { member, which });
    let event = prop_oneof![20 => probe, 3 => Just(Event::Deadline), 1 => addresses];
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
}

fn schedule() -> impl Strategy<Value = (Start, Vec<Step>)> {
    service().prop_flat_map(|service| {
        let members = service.members.len();
        let first = prop_oneof![2 => Just(vec![0]), 1 => which_addresses()];
        let begin = (known(members), option::of(resumed(members)), vec(first, members));
        let start = (Just(service), begin).prop_map(|(service, (known, resumed, first))| Start {
            service,
            known,
            resumed,
            first,
        });
        (start, vec(step(), 0..200))
    })
}

const START: Time = Time(Duration::from_secs(3600));

/// Drives a core through a schedule and sees what every caller sees.
struct Witness {
    service: Service,
    core: Core,
    clock: Time,
    /// The latest time that the core was told.
    now: Time,
    before: View,
    floor: Epoch,
    /// Whether the first choice is still to be made.
    choosing: bool,
    /// Since when each member has been up without a break.
    up_since: Vec<Option<Time>>,
    /// When the newest automatic switch was made, as far as this agent knows.
    last_switch: Option<Time>,
    actions: Vec<Action>,
}

impl Witness {
    fn new(Start { service, known, resumed, first }: Start) -> Self {
        let core = Core::new(service.clone(), &known, resumed.clone(), START);
        let choosing = resumed.as_ref().is_none_or(|resumed| resumed.active.is_none());
        let floor = resumed.as_ref().map_or(Epoch(0), |resumed| resumed.floor);
        let last = resumed.and_then(|resumed| resumed.last).filter(|last| last.kind != SwitchKind::Manual);
        let mut witness = Self {
            before: core.view(START),
            up_since: vec![None; service.members.len()],
            last_switch: last.map(|last| START.ago(last.age)),
            clock: START,
            now: START,
            actions: Vec::new(),
            service,
            core,
            floor,
            choosing,
        };
        witness.look(false, None);
        for (member, which) in first.into_iter().enumerate() {
            witness.call(START, &Event::Addresses { member, which });
        }
        witness
    }

    fn run(mut self, steps: &[Step]) -> Self {
        for step in steps {
            self.clock = self.clock + Duration::from_millis(step.wait);
            self.call(self.clock.ago(Duration::from_millis(step.late)), &step.event);
        }
        self
    }

    fn call(&mut self, told: Time, event: &Event) {
        self.now = self.now.max(told);
        match *event {
            Event::Addresses { member, ref which } => {
                let member = MemberId(member % self.service.members.len());
                let addresses: Vec<_> = which.iter().map(|number| pool(member)[*number]).collect();
                self.core.on_addresses(told, member, &addresses);
                let has: Vec<_> = self.core.view(self.now).members[member.0]
                    .addresses
                    .iter()
                    .map(|view| view.address)
                    .collect();
                assert_eq!(has, addresses);
                self.look(false, Some(member));
            }
            Event::Probe { member, address, check, verdict } => {
                let member = MemberId(member % self.service.members.len());
                let check = CheckId(check % self.service.checks.len());
                let outcome = match verdict {
                    Verdict::Pass => pass(),
                    Verdict::Fail => fail(),
                    Verdict::Inconclusive => {
                        // What time alone brings about is not this outcome's doing.
                        self.call(told, &Event::Deadline);
                        inconclusive()
                    }
                };
                self.core.on_probe(told, member, pool(member)[address], check, &outcome);
                self.look(verdict == Verdict::Inconclusive, Some(member));
            }
            Event::Deadline => {
                let early = self.core.next_deadline().is_none_or(|deadline| deadline > self.now);
                self.core.on_deadline(told);
                self.look(early, None);
            }
        }
    }

    /// Compares what is with what was. With `nothing`, no switch, no floor and no change of the addresses may have come of
    /// the call; none but those of `about` ever.
    fn look(&mut self, nothing: bool, about: Option<MemberId>) {
        let after = self.core.view(self.now);
        for (since, member) in self.up_since.iter_mut().zip(&after.members) {
            *since = (member.state == MemberState::Up).then(|| since.unwrap_or(self.now));
        }
        let mut switched = None;
        let mut reset = Vec::new();
        while let Some(action) = self.core.poll_action() {
            match &action {
                Action::Switch(switch) => {
                    assert!(!nothing, "no reason for {switch:?}");
                    assert_eq!(switched, None, "at most one switch a call");
                    self.check_switch(switch, &after);
                    switched = Some(switch.clone());
                }
                Action::RaiseFloor { epoch } => {
                    assert!(!nothing, "no reason to raise the floor to {epoch}");
                    assert!(
                        *epoch > self.floor && *epoch <= after.epoch,
                        "floor {epoch} after {}",
                        self.floor
                    );
                    self.floor = *epoch;
                }
                Action::Offer { member, addresses } => {
                    assert!(!nothing && about == Some(*member), "no reason to offer {addresses:?}");
                    assert_eq!(switched, None, "where flows may go is said before they are sent there");
                    assert_eq!(*addresses, offers(&after, *member));
                    assert_ne!(*addresses, offers(&self.before, *member), "said twice");
                }
                Action::ResetAddress { member, address, removed } => {
                    assert!(!nothing, "no reason to reset {address}");
                    let now = offers(&after, *member).into_iter().find(|offer| offer.address == *address);
                    assert_eq!(now.is_none(), *removed);
                    assert!(now.is_none_or(|offer| !offer.offered), "{address} is in use");
                    reset.push(*address);
                }
                Action::Round { .. }
                | Action::Answer { .. }
                | Action::Orders(_)
                | Action::Pace { .. }
                | Action::AddressChanged { .. }
                | Action::MemberChanged { .. } => {}
            }
            self.actions.push(action);
        }
        if switched.is_none() {
            assert_eq!((after.active, after.epoch), (self.before.active, self.before.epoch));
        }
        self.check_standing(&after);
        for member in (0..self.service.members.len()).map(MemberId) {
            self.check_offers(member, &after, &reset);
        }
        assert!(self.core.next_deadline().is_none_or(|deadline| deadline > self.now), "a busy loop");
        self.before = after;
    }

    fn check_switch(&mut self, switch: &Switch, after: &View) {
        assert_eq!(switch.epoch, Epoch(self.before.epoch.0 + 1));
        assert_eq!(after.epoch, switch.epoch);
        assert_eq!((switch.from, switch.to, switch.at), (self.before.active, after.active, self.now));
        assert_ne!(switch.from, switch.to);
        match switch.to {
            Some(to) => assert_eq!(after.members[to.0].state, MemberState::Up, "gone to"),
            None => {
                assert_eq!(self.service.on_all_down, OnAllDown::Refuse);
                assert!(after.members.iter().all(|member| member.state == MemberState::Down));
            }
        }
        match switch.from {
            None => assert_eq!(switch.policy, FlowPolicy::Keep),
            Some(from) if after.members[from.0].state == MemberState::Down => {
                assert_eq!((switch.kind, switch.policy), (SwitchKind::Failover, self.service.on_failover));
            }
            Some(from) => self.check_failback(switch, from, after),
        }
        if self.choosing {
            self.check_first_choice(switch, after);
        }
        if switch.policy == FlowPolicy::Reset {
            self.floor = switch.epoch;
        }
        self.choosing = false;
        self.last_switch = Some(self.now);
    }

    fn check_failback(&self, switch: &Switch, from: MemberId, after: &View) {
        let Failback { mode, healthy_for, hold_down, .. } = self.service.failback;
        assert_eq!((switch.kind, switch.policy), (SwitchKind::Failback, self.service.on_failback));
        assert_eq!(mode, FailbackMode::Auto);
        assert_eq!(after.members[from.0].state, MemberState::Up, "unknown is not left");
        let to = switch.to.expect("a failback goes to a member");
        let weight = |member: MemberId| self.service.members[member.0].weight;
        assert!(weight(to) > weight(from));
        let up_since = self.up_since[to.0].expect("a failback goes to a member that is up");
        assert!(self.now.since(up_since) >= healthy_for, "healthy_for");
        let held = self.last_switch.is_none_or(|last| self.now.since(last) >= hold_down);
        assert!(held, "hold_down");
    }

    fn check_first_choice(&self, switch: &Switch, after: &View) {
        assert_eq!(switch.kind, SwitchKind::Initial);
        let count = |state| after.members.iter().filter(|member| member.state == state).count();
        let (all, up) = (after.members.len(), count(MemberState::Up));
        let enough = match self.service.initial {
            Initial::Any => 1,
            Initial::Majority => all / 2 + 1,
            Initial::All => all,
        };
        let known = count(MemberState::Unknown) == 0 && up >= enough;
        assert!(known || self.now.since(START) >= self.service.initial_timeout, "decided too early");
    }

    /// What must be so after every call.
    fn check_standing(&self, after: &View) {
        let up = |(_, member): &(usize, &crate::decide::MemberView)| member.state == MemberState::Up;
        let heaviest_up =
            after.members.iter().enumerate().filter(up).map(|(index, _)| self.service.members[index].weight);
        let heaviest_up = heaviest_up.max();
        match after.active {
            Some(active) => {
                let down = after.members[active.0].state == MemberState::Down;
                assert!(!(down && heaviest_up.is_some()), "a dead member is active and another one is up");
                let moved = self.before.active != Some(active) && !self.is_failback(after);
                assert!(!moved || heaviest_up == Some(self.service.members[active.0].weight), "not the best");
            }
            None if self.choosing => {
                let time_is_up = self.now.since(START) >= self.service.initial_timeout;
                assert!(!(time_is_up && heaviest_up.is_some()), "nobody was chosen in time");
            }
            None => assert_eq!(heaviest_up, None, "held, and a member is up"),
        }
    }

    /// Which addresses of a member new flows may go to, and what becomes of the flows of the others.
    fn check_offers(&self, member: MemberId, after: &View, reset: &[SocketAddr]) {
        let (before, now) = (offers(&self.before, member), offers(after, member));
        let was_offered = |address| before.iter().any(|offer| offer.address == address && offer.offered);
        let views = &after.members[member.0].addresses;
        let learned = !now.is_empty() && now != before;
        for v6 in [false, true] {
            let version: Vec<_> = views.iter().filter(|view| view.address.is_ipv6() == v6).collect();
            let some_up = version.iter().any(|view| view.state == MemberState::Up);
            let some_offered = version.iter().any(|view| view.offered);
            assert!(version.is_empty() || some_offered || !learned, "nothing is offered");
            let old_ones = version.iter().any(|view| was_offered(view.address));
            for view in version {
                match view.state {
                    MemberState::Up => assert!(view.offered, "{} is up and left out", view.address),
                    MemberState::Down => {
                        assert!(!(some_up && view.offered), "{} is down and offered", view.address);
                    }
                    _ if was_offered(view.address) => assert!(view.offered, "left out before a verdict"),
                    _ => assert!(!(view.offered && (some_up || old_ones)), "{} is not proven", view.address),
                }
            }
        }
        for left in before.iter().filter(|offer| offer.offered).map(|offer| offer.address) {
            let policy = match now.iter().find(|offer| offer.address == left) {
                Some(offer) if offer.offered => continue,
                Some(_) => self.service.on_failover,
                None => self.service.on_failback,
            };
            assert!(policy != FlowPolicy::Reset || reset.contains(&left), "the flows of {left} go on");
            assert!(
                policy != FlowPolicy::Keep || !reset.contains(&left),
                "the flows of {left} were to go on"
            );
        }
    }

    fn is_failback(&self, after: &View) -> bool {
        after.last.as_ref().is_some_and(|last| last.kind == SwitchKind::Failback)
    }

    /// Calls only at the deadlines from here on, as an agent whose probes all hang.
    fn run_out(&mut self) {
        // Each drain, each address that was left, each failback (it goes up in weight) and the first choice want one
        // call at most.
        for _ in 0..600 {
            let Some(deadline) = self.core.next_deadline() else {
                return;
            };
            self.call(deadline, &Event::Deadline);
        }
        panic!("deadlines without an end");
    }
}

fn offers(view: &View, member: MemberId) -> Vec<Offer> {
    let offer = |view: &crate::decide::AddressView| Offer { address: view.address, offered: view.offered };
    view.members[member.0].addresses.iter().map(offer).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_the_core_promises_holds_in_every_schedule((start, steps) in schedule()) {
        let mut witness = Witness::new(start).run(&steps);
        witness.run_out();
    }

    #[test]
    fn the_same_calls_give_the_same_actions((start, steps) in schedule()) {
        let run = || Witness::new(start.clone()).run(&steps);
        let (one, other) = (run(), run());
        prop_assert_eq!(one.actions, other.actions);
        prop_assert_eq!(one.before, other.before);
    }

    /// Calls at deadlines that are not due, or a second time, change nothing: the agent's timers may be sloppy.
    #[test]
    fn superfluous_deadline_calls_change_nothing((start, steps) in schedule()) {
        let plain = Witness::new(start.clone()).run(&steps);
        let doubled = steps.iter().flat_map(|step| {
            let again = Step { wait: 0, event: Event::Deadline, ..step.clone() };
            [step.clone(), again.clone(), again]
        });
        let sloppy = Witness::new(start).run(&doubled.collect::<Vec<_>>());
        prop_assert_eq!(plain.actions, sloppy.actions);
    }
}
