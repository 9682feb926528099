//! A world in virtual time: a core, the members that it probes, and the prober between them.
//!
//! Members have a condition that a test changes; [`World::run`] lets probes and deadlines happen in the order
//! of time, as the agent does, and remembers every action. A run of an hour takes milliseconds.

use std::time::Duration;

use crate::{
    decide::{Action, Core, MemberView, Pace, Resumed, Switch, Time, View},
    model::{
        Cause, Check, CheckId, CheckKind, Endpoint, Epoch, Failback, FailbackMode, Failure, FlowPolicy,
        Initial, Login, Member, MemberId, MemberState, OnAllDown, Phase, ProbeOutcome, RedisErrorKind,
        Service, ServiceState, SwitchKind,
    },
};

pub(super) const PARIS: MemberId = MemberId(0);
pub(super) const DUBLIN: MemberId = MemberId(1);
pub(super) const OSLO: MemberId = MemberId(2);

/// How a member answers probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Alive,
    Dead,
    /// It answers, but refuses the probe's credentials.
    WrongPassword,
    /// No probe ever ends.
    NeverProbed,
}
pub(super) use Condition::{Alive, Dead, NeverProbed, WrongPassword};

pub(super) const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub(super) fn pass() -> ProbeOutcome {
    ProbeOutcome::Passed { latency: Duration::from_micros(300) }
}

pub(super) fn fail() -> ProbeOutcome {
    ProbeOutcome::Failed(Failure { phase: Phase::Connect, cause: Cause::Refused })
}

pub(super) fn inconclusive() -> ProbeOutcome {
    let cause =
        Cause::Redis(RedisErrorKind::Credentials, "WRONGPASS invalid username-password pair".to_owned());
    ProbeOutcome::Failed(Failure { phase: Phase::Authenticate, cause })
}

pub(super) fn check() -> Check {
    Check { kind: CheckKind::Ping, interval: s(1), fast_interval: ms(50), timeout: s(1), fall: 3, rise: 2 }
}

pub(super) fn member(name: &str, weight: u32) -> Member {
    Member {
        name: name.to_owned(),
        endpoint: Endpoint { host: "192.0.2.1".to_owned(), port: 6379 },
        weight,
        login: Login::default(),
    }
}

/// The contract's example: paris at 100, dublin at 50, all defaults.
pub(super) fn orders() -> Service {
    Service {
        name: "orders".to_owned(),
        vips: vec!["10.255.0.1:6379".parse().unwrap()],
        on_failover: FlowPolicy::Reset,
        on_failback: FlowPolicy::Drain,
        drain_timeout: s(30),
        on_all_down: OnAllDown::Stay,
        initial: Initial::Any,
        initial_timeout: s(5),
        failback: Failback { mode: FailbackMode::Auto, healthy_for: s(60), hold_down: s(30) },
        checks: vec![check()],
        members: vec![member("paris", 100), member("dublin", 50)],
    }
}

/// The same with oslo at `weight` as the third.
pub(super) fn with_oslo(weight: u32) -> Service {
    let mut service = orders();
    service.members.push(member("oslo", weight));
    service
}

pub(super) struct World {
    pub(super) core: Core,
    pub(super) now: Time,
    /// Everything that the core wanted done, and when.
    pub(super) done: Vec<(Time, Action)>,
    service: Service,
    members: Vec<Probed>,
}

/// A member with its prober.
struct Probed {
    condition: Condition,
    pace: Pace,
    next_probe: Time,
}

impl World {
    /// All members alive and not probed yet. The origin lies an hour back, as the boot of a machine does.
    pub(super) fn new(service: Service) -> Self {
        Self::resumed(service, None)
    }

    pub(super) fn resumed(service: Service, resumed: Option<Resumed>) -> Self {
        let now = Time(s(3600));
        let probed = || Probed { condition: Alive, pace: Pace::Fast, next_probe: now };
        let members = service.members.iter().map(|_| probed()).collect();
        let core = Core::new(service.clone(), resumed, now);
        let mut world = Self { core, now, done: Vec::new(), service, members };
        world.drain_actions();
        world
    }

    /// A world in which the first choice was made and every probe runs at the normal pace; its story so far is
    /// forgotten.
    pub(super) fn settled(service: Service) -> Self {
        let mut world = Self::new(service);
        world.run(s(10));
        world.done.clear();
        world
    }

    /// From now on.
    pub(super) fn is(&mut self, member: MemberId, condition: Condition) -> &mut Self {
        self.members[member.0].condition = condition;
        self
    }

    /// One probe more, now, of every check.
    pub(super) fn probe(&mut self, member: MemberId, outcome: &ProbeOutcome) -> &mut Self {
        for check in 0..self.service.checks.len() {
            self.core.on_probe(self.now, member, CheckId(check), outcome);
            self.drain_actions();
        }
        self
    }

    /// Lets `duration` pass with all that happens in it.
    pub(super) fn run(&mut self, duration: Duration) -> &mut Self {
        let end = self.now + duration;
        loop {
            let next_probe = self.members.iter().map(|member| member.next_probe).min().unwrap();
            let deadline = self.core.next_deadline().filter(|deadline| *deadline <= next_probe);
            let next = deadline.unwrap_or(next_probe);
            if next > end {
                break;
            }
            self.now = next.max(self.now);
            if deadline.is_some() {
                self.core.on_deadline(self.now);
                self.drain_actions();
            } else {
                self.probe_due_members();
            }
        }
        self.now = end;
        self
    }

    /// The agent is not scheduled for `duration`: what was due in it has not happened yet.
    pub(super) fn sleep(&mut self, duration: Duration) -> &mut Self {
        self.now = self.now + duration;
        self
    }

    fn probe_due_members(&mut self) {
        for index in 0..self.members.len() {
            if self.members[index].next_probe > self.now {
                continue;
            }
            match self.members[index].condition {
                Alive => self.probe(MemberId(index), &pass()),
                Dead => self.probe(MemberId(index), &fail()),
                WrongPassword => self.probe(MemberId(index), &inconclusive()),
                NeverProbed => self,
            };
            let check = &self.service.checks[0];
            let interval = match self.members[index].pace {
                Pace::Normal => check.interval,
                Pace::Fast => check.fast_interval,
            };
            self.members[index].next_probe = self.now + interval;
        }
    }

    fn drain_actions(&mut self) {
        while let Some(action) = self.core.poll_action() {
            if let Action::Pace { member, pace } = action {
                assert_ne!(self.members[member.0].pace, pace, "a pace is said only when it changes");
                self.members[member.0].pace = pace;
            }
            self.done.push((self.now, action));
        }
    }

    /// What `status` would say.
    pub(super) fn view(&self) -> View {
        self.core.view(self.now)
    }

    pub(super) fn member(&self, member: MemberId) -> MemberView {
        self.view().members[member.0].clone()
    }

    pub(super) fn pace(&self, member: MemberId) -> Pace {
        self.members[member.0].pace
    }

    pub(super) fn switches(&self) -> Vec<&Switch> {
        let actions = self.done.iter().map(|(_, action)| action);
        actions
            .filter_map(|action| match action {
                Action::Switch(switch) => Some(switch),
                _ => None,
            })
            .collect()
    }

    pub(super) fn floors(&self) -> Vec<(Time, Epoch)> {
        let floor = |(at, action): &(Time, Action)| match action {
            Action::RaiseFloor { epoch } => Some((*at, *epoch)),
            _ => None,
        };
        self.done.iter().filter_map(floor).collect()
    }

    /// Exactly one switch was made since the story began; returns it.
    #[track_caller]
    pub(super) fn the_switch(&self) -> &Switch {
        match self.switches()[..] {
            [switch] => switch,
            ref switches => panic!("one switch expected, not {switches:#?}"),
        }
    }

    #[track_caller]
    pub(super) fn assert_active(&self, member: MemberId, state: ServiceState) {
        let view = self.view();
        assert_eq!((view.active, view.state), (Some(member), state));
    }

    #[track_caller]
    pub(super) fn assert_held(&self) {
        let view = self.view();
        assert_eq!((view.active, view.state), (None, ServiceState::Held));
    }

    #[track_caller]
    pub(super) fn assert_state(&self, member: MemberId, state: MemberState) {
        assert_eq!(self.member(member).state, state);
    }

    #[track_caller]
    pub(super) fn assert_no_switch(&self) {
        assert_eq!(self.switches(), Vec::<&Switch>::new());
    }

    /// One switch was made since the story began: of this kind, to this member, this long after `from`.
    #[track_caller]
    pub(super) fn assert_switched(&self, kind: SwitchKind, to: MemberId, from: Time, after: Duration) {
        let switch = self.the_switch();
        assert_eq!((switch.kind, switch.to), (kind, Some(to)));
        assert_eq!(switch.at.since(from), after);
    }
}
