//! The promises of [`crate::decide`], over random services and random schedules.
//!
//! Each step of a schedule hands in one thing; [`Witness`] sees what every caller sees, views and actions, and
//! knows nothing of how the core works.

use std::time::Duration;

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::world::{check, fail, inconclusive, member, orders, pass};
use crate::{
    decide::{Action, Core, Resumed, ResumedSwitch, Switch, Time, View},
    model::{
        Check, CheckId, Epoch, Failback, FailbackMode, FlowPolicy, Initial, MemberId, MemberState, OnAllDown,
        Service, SwitchKind, Verdict,
    },
};

/// One call, after `wait` milliseconds.
#[derive(Clone, Debug)]
struct Step {
    wait: u64,
    event: Event,
}

#[derive(Clone, Debug)]
enum Event {
    /// Member and check are taken modulo the service's numbers.
    Probe {
        member: usize,
        check: usize,
        verdict: Verdict,
    },
    Deadline,
    /// A clock that went back by some milliseconds.
    DeadlineInThePast(u64),
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
            Service {
                on_failover,
                on_failback,
                drain_timeout,
                on_all_down,
                initial,
                initial_timeout,
                failback,
                checks,
                members,
                ..orders()
            }
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

fn step() -> impl Strategy<Value = Step> {
    let verdict = prop_oneof![
        5 => Just(Verdict::Pass),
        5 => Just(Verdict::Fail),
        1 => Just(Verdict::Inconclusive),
    ];
    let probe = (0_usize..4, 0_usize..2, verdict).prop_map(|(member, check, verdict)| Event::Probe {
        member,
        check,
        verdict,
    });
    let event = prop_oneof![
        12 => probe,
        2 => Just(Event::Deadline),
        1 => (0_u64..3000).prop_map(Event::DeadlineInThePast),
    ];
    let wait = prop_oneof![4 => 0_u64..100, 2 => 0_u64..3000, 1 => Just(0)];
    (wait, event).prop_map(|(wait, event)| Step { wait, event })
}

fn schedule() -> impl Strategy<Value = (Service, Option<Resumed>, Vec<Step>)> {
    service().prop_flat_map(|service| {
        let resumed = option::of(resumed(service.members.len()));
        (Just(service), resumed, vec(step(), 0..200))
    })
}

const START: Time = Time(Duration::from_secs(3600));

/// Drives a core through a schedule and sees what every caller sees.
struct Witness {
    service: Service,
    core: Core,
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
    fn new(service: Service, resumed: Option<Resumed>) -> Self {
        let core = Core::new(service.clone(), resumed.clone(), START);
        let choosing = resumed.as_ref().is_none_or(|resumed| resumed.active.is_none());
        let floor = resumed.as_ref().map_or(Epoch(0), |resumed| resumed.floor);
        let last = resumed.and_then(|resumed| resumed.last).filter(|last| last.kind != SwitchKind::Manual);
        let mut witness = Self {
            before: core.view(START),
            up_since: vec![None; service.members.len()],
            last_switch: last.map(|last| START.ago(last.age)),
            now: START,
            actions: Vec::new(),
            service,
            core,
            floor,
            choosing,
        };
        witness.look(false);
        witness
    }

    fn run(mut self, steps: &[Step]) -> Self {
        for step in steps {
            self.now = self.now + Duration::from_millis(step.wait);
            self.step(&step.event);
        }
        self
    }

    fn step(&mut self, event: &Event) {
        match *event {
            Event::Probe { member, check, verdict } => {
                let member = MemberId(member % self.service.members.len());
                let check = CheckId(check % self.service.checks.len());
                let outcome = match verdict {
                    Verdict::Pass => pass(),
                    Verdict::Fail => fail(),
                    Verdict::Inconclusive => {
                        // Were there a switch now, it would be time's, not this outcome's.
                        self.core.on_deadline(self.now);
                        self.look(false);
                        inconclusive()
                    }
                };
                self.core.on_probe(self.now, member, check, &outcome);
                self.look(verdict == Verdict::Inconclusive);
            }
            Event::Deadline => {
                self.core.on_deadline(self.now);
                self.look(false);
            }
            Event::DeadlineInThePast(back) => {
                self.core.on_deadline(self.now);
                self.look(false);
                self.core.on_deadline(self.now.ago(Duration::from_millis(back)));
                self.look(true);
            }
        }
    }

    /// Compares what is with what was; `nothing` may be switched or raised.
    fn look(&mut self, nothing: bool) {
        let after = self.core.view(self.now);
        for (since, member) in self.up_since.iter_mut().zip(&after.members) {
            *since = (member.state == MemberState::Up).then(|| since.unwrap_or(self.now));
        }
        let mut switched = None;
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
                Action::Pace { .. } | Action::MemberChanged { .. } => {}
            }
            self.actions.push(action);
        }
        if switched.is_none() {
            assert_eq!((after.active, after.epoch), (self.before.active, self.before.epoch));
        }
        self.check_standing(&after);
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
        let Failback { mode, healthy_for, hold_down } = self.service.failback;
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

    fn is_failback(&self, after: &View) -> bool {
        after.last.as_ref().is_some_and(|last| last.kind == SwitchKind::Failback)
    }

    /// Calls only at the deadlines from here on, as an agent whose probes all hang.
    fn run_out(&mut self) {
        // Each drain, each failback (it goes up in weight) and the first choice want one call at most.
        for _ in 0..300 {
            let Some(deadline) = self.core.next_deadline() else {
                return;
            };
            self.now = deadline;
            self.step(&Event::Deadline);
        }
        panic!("deadlines without an end");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_the_core_promises_holds_in_every_schedule((service, resumed, steps) in schedule()) {
        let mut witness = Witness::new(service, resumed).run(&steps);
        witness.run_out();
    }

    #[test]
    fn the_same_calls_give_the_same_actions((service, resumed, steps) in schedule()) {
        let run = || Witness::new(service.clone(), resumed.clone()).run(&steps);
        let (one, other) = (run(), run());
        prop_assert_eq!(one.actions, other.actions);
        prop_assert_eq!(one.before, other.before);
    }

    /// Calls at deadlines that are not due, or a second time, change nothing: the agent's timers may be sloppy.
    #[test]
    fn superfluous_deadline_calls_change_nothing((service, resumed, steps) in schedule()) {
        let plain = Witness::new(service.clone(), resumed.clone()).run(&steps);
        let doubled = steps.iter().flat_map(|step| {
            let again = Step { wait: 0, event: Event::Deadline };
            [step.clone(), again.clone(), again]
        });
        let sloppy = Witness::new(service, resumed).run(&doubled.collect::<Vec<_>>());
        prop_assert_eq!(plain.actions, sloppy.actions);
    }
}
