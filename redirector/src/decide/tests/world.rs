//! A world in virtual time: a core, the members that it probes, and the prober between them.
//!
//! Members have a condition that a test changes; [`World::run`] lets probes and deadlines happen in the order
//! of time, as the agent does, and remembers every action. A run of an hour takes milliseconds.

use std::{net::SocketAddr, time::Duration};

use crate::{
    decide::{
        Accepted, Action, AddressView, Command, Core, MemberView, Refused, Resumed, Switch, Time, View,
    },
    model::{
        Access, Application, Cause, Check, CheckId, CheckKind, Combine, Endpoint, Epoch, Failback,
        FailbackMode, Failure, FlowPolicy, Initial, Member, MemberId, MemberState, Offer, OnAllDown, Pace,
        Phase, ProbeOutcome, Profile, RedisErrorKind, Service, ServiceState, Signal, SignalKind, Signals,
        SwitchKind, Traffic,
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
        Cause::Redis(RedisErrorKind::WrongPass, "WRONGPASS invalid username-password pair".to_owned());
    ProbeOutcome::Inconclusive(Failure { phase: Phase::Authenticate, cause })
}

pub(super) fn check() -> Check {
    Check::of(CheckKind::Ping)
}

pub(super) fn member(name: &str, weight: u32) -> Member {
    Member {
        name: name.to_owned(),
        endpoint: Endpoint { host: "192.0.2.1".to_owned(), port: 6379 },
        weight,
        access: Access::default(),
        rest: None,
        checks: vec![check()],
    }
}

/// The same checks for every member.
pub(super) fn with_checks(mut service: Service, checks: Vec<Check>) -> Service {
    service.members.iter_mut().for_each(|member| member.checks.clone_from(&checks));
    Service { checks, ..service }
}

/// The contract's example: paris at 100, dublin at 50, all defaults.
pub(super) fn orders() -> Service {
    Service {
        name: "orders".to_owned(),
        vips: vec!["10.255.0.1:6379".parse().unwrap()],
        on_failover: FlowPolicy::Reset,
        on_failback: FlowPolicy::Drain,
        drain_timeout: s(30),
        reset_over: Duration::ZERO,
        signals: Signals::Act,
        breaker: None,
        limit: None,
        on_all_down: OnAllDown::Stay,
        initial: Initial::Any,
        initial_timeout: s(5),
        failback: Failback {
            mode: FailbackMode::Auto,
            healthy_for: s(60),
            hold_down: s(30),
            flap_half_life: s(600),
        },
        profile: Profile::Balanced,
        combine: Combine::All,
        checks: vec![check()],
        hooks: Vec::new(),
        application: Application::default(),
        members: vec![member("paris", 100), member("dublin", 50)],
    }
}

/// The same with oslo at `weight` as the third.
pub(super) fn with_oslo(weight: u32) -> Service {
    let mut service = orders();
    service.members.push(member("oslo", weight));
    service
}

/// The `number`th address of a member: `192.0.2.10:6379`, `192.0.2.11:6379`, …
pub(super) fn address(member: MemberId, number: u8) -> SocketAddr {
    let member = u8::try_from(member.0).expect("few members");
    ([192, 0, 2, 10 * (member + 1) + number], 6379).into()
}

/// All of `addresses`, offered.
pub(super) fn offered(addresses: &[SocketAddr]) -> Vec<Offer> {
    addresses.iter().map(|address| Offer { address: *address, offered: true }).collect()
}

/// Until its next deadline a core has nothing to do: called before it, it does nothing and knows nothing new. The calls that
/// an agent makes without need are many, and a recording leaves them out.
#[track_caller]
pub(super) fn assert_at_rest(core: &Core) {
    let deadline = core.next_deadline();
    let later = deadline.is_none_or(|deadline| deadline > core.now);
    assert!(later, "a deadline that is not ahead would make the agent spin");
    // A day is longer than anything that is waited for.
    let before = deadline.map_or(core.now + s(86400), |deadline| deadline.ago(Duration::from_nanos(1)));
    for now in [core.now, before] {
        let mut idle = core.clone();
        idle.on_deadline(now);
        assert_eq!(idle.poll_action(), None, "not due before {deadline:?}");
        idle.now = core.now;
        assert!(idle == *core, "not due before {deadline:?}");
    }
}

pub(super) struct World {
    pub(super) core: Core,
    pub(super) now: Time,
    /// Everything that the core wanted done, and when.
    pub(super) done: Vec<(Time, Action)>,
    service: Service,
    members: Vec<Vec<Probed>>,
}

/// An address with its prober.
struct Probed {
    address: SocketAddr,
    condition: Condition,
    pace: Pace,
    next_probe: Time,
    /// A round asked for a probe while one was made.
    asked: bool,
}

impl World {
    /// All members alive and not probed yet. The origin lies an hour back, as the boot of a machine does.
    pub(super) fn new(service: Service) -> Self {
        Self::resumed(service, None)
    }

    pub(super) fn resumed(service: Service, resumed: Option<Resumed>) -> Self {
        Self::resumed_at(Time(s(3600)), service, resumed)
    }

    pub(super) fn resumed_at(now: Time, service: Service, resumed: Option<Resumed>) -> Self {
        let addresses: Vec<_> =
            (0..service.members.len()).map(|member| [address(MemberId(member), 0)]).collect();
        let known: Vec<_> = addresses.iter().map(|addresses| offered(addresses)).collect();
        let members = addresses.iter().map(|[address]| vec![Probed::new(*address, now)]).collect();
        let core = Core::new(service.clone(), &known, resumed, now);
        let mut world = Self { core, now, done: Vec::new(), service, members };
        world.drain_actions();
        world
    }

    /// A resolver says that these are a member's addresses now. New ones are alive.
    pub(super) fn has(&mut self, member: MemberId, addresses: &[SocketAddr]) -> &mut Self {
        let mut before = std::mem::take(&mut self.members[member.0]);
        for address in addresses {
            let known = before.iter().position(|probed| probed.address == *address);
            let probed = known.map_or_else(|| Probed::new(*address, self.now), |at| before.swap_remove(at));
            self.members[member.0].push(probed);
        }
        self.core.on_addresses(self.now, member, addresses);
        self.drain_actions();
        self
    }

    /// A world in which the first choice was made and every probe runs at the normal pace; its story so far is
    /// forgotten.
    pub(super) fn settled(service: Service) -> Self {
        let mut world = Self::new(service);
        world.run(s(10));
        world.done.clear();
        world
    }

    /// The kernel has seen something, just now.
    pub(super) fn signal(&mut self, member: MemberId, kind: SignalKind) -> &mut Self {
        let signal = Signal { kind, ago: Duration::ZERO, count: 1 };
        self.core.on_signal(self.now, member, &signal);
        self.drain_actions();
        self
    }

    /// Clients have met this.
    pub(super) fn traffic(&mut self, member: MemberId, traffic: Traffic) -> &mut Self {
        self.core.on_traffic(self.now, member, traffic);
        self.drain_actions();
        self
    }

    /// When the probers of a member looked because of a signal.
    pub(super) fn looks(&self, member: MemberId) -> Vec<Time> {
        let looks = self.done.iter().filter(|(_, action)| *action == Action::Look { member });
        looks.map(|(at, _)| *at).collect()
    }

    /// An operator wants something.
    pub(super) fn order(&mut self, command: &Command) -> Result<Accepted, Refused> {
        let answer = self.core.on_operator(self.now, command);
        self.drain_actions();
        answer
    }

    /// The members of whom a round was asked, and when.
    pub(super) fn rounds(&self) -> Vec<(Time, MemberId)> {
        let round = |(at, action): &(Time, Action)| match action {
            Action::Round { member } => Some((*at, *member)),
            _ => None,
        };
        self.done.iter().filter_map(round).collect()
    }

    /// What came of the switches that waited for their rounds.
    pub(super) fn answers(&self) -> Vec<Result<(), Refused>> {
        let answer = |(_, action): &(Time, Action)| match action {
            Action::Answer { result } => Some(result.clone()),
            _ => None,
        };
        self.done.iter().filter_map(answer).collect()
    }

    /// The agent was not scheduled for `by`, and notices it.
    pub(super) fn late(&mut self, by: Duration) -> &mut Self {
        self.sleep(by);
        self.core.on_late(self.now, by);
        self
    }

    /// A reload; new members have no address yet.
    pub(super) fn reload(&mut self, service: Service, origins: &[Option<MemberId>]) -> &mut Self {
        self.core.set_service(self.now, service.clone(), origins);
        let mut old: Vec<_> = std::mem::take(&mut self.members).into_iter().map(Some).collect();
        let carried = |from: &Option<MemberId>| from.and_then(|from| old[from.0].take()).unwrap_or_default();
        self.members = origins.iter().map(carried).collect();
        self.service = service;
        self.drain_actions();
        self
    }

    /// From now on.
    pub(super) fn is(&mut self, member: MemberId, condition: Condition) -> &mut Self {
        self.members[member.0].iter_mut().for_each(|probed| probed.condition = condition);
        self
    }

    /// One of several addresses is, from now on.
    pub(super) fn address_is(&mut self, address: SocketAddr, condition: Condition) -> &mut Self {
        let probed = self.members.iter_mut().flatten().find(|probed| probed.address == address);
        probed.expect("an address of a member").condition = condition;
        self
    }

    /// One probe more, now, of every check at every address.
    pub(super) fn probe(&mut self, member: MemberId, outcome: &ProbeOutcome) -> &mut Self {
        for number in 0..self.members[member.0].len() {
            self.probe_address(member, self.members[member.0][number].address, outcome);
        }
        self
    }

    pub(super) fn probe_address(
        &mut self,
        member: MemberId,
        address: SocketAddr,
        outcome: &ProbeOutcome,
    ) -> &mut Self {
        for check in 0..self.service.checks.len() {
            self.core.on_probe(self.now, member, address, CheckId(check), outcome);
            self.drain_actions();
        }
        self
    }

    /// That many failures in a row at one address, now.
    pub(super) fn fail_address(&mut self, member: MemberId, address: SocketAddr, times: u32) {
        for _ in 0..times {
            self.probe_address(member, address, &fail());
        }
    }

    /// Lets `duration` pass with all that happens in it.
    pub(super) fn run(&mut self, duration: Duration) -> &mut Self {
        let end = self.now + duration;
        loop {
            let probed = self.members.iter().flatten();
            let next_probe = probed.map(|probed| probed.next_probe).min().unwrap();
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
        for member in 0..self.members.len() {
            for number in 0..self.members[member].len() {
                let probed = &self.members[member][number];
                if probed.next_probe > self.now {
                    continue;
                }
                let outcome = match probed.condition {
                    // It was asked for at this very moment.
                    Alive if probed.asked => Some(ProbeOutcome::Passed { latency: Duration::ZERO }),
                    Alive => Some(pass()),
                    Dead => Some(fail()),
                    WrongPassword => Some(inconclusive()),
                    NeverProbed => None,
                };
                let address = probed.address;
                self.members[member][number].asked = false;
                if let Some(outcome) = outcome {
                    self.probe_address(MemberId(member), address, &outcome);
                }
                let check = &self.service.checks[0];
                let probed = &mut self.members[member][number];
                if probed.asked {
                    continue;
                }
                probed.next_probe = self.now
                    + match probed.pace {
                        Pace::Normal => check.interval,
                        Pace::Fast => check.fast_interval,
                        Pace::Down => check.down_interval,
                    };
            }
        }
    }

    pub(super) fn drain_actions(&mut self) {
        while let Some(action) = self.core.poll_action() {
            if let Action::Pace { member, address, pace } = action {
                let all = &mut self.members[member.0];
                let probed = all.iter_mut().find(|probed| probed.address == address).expect("it is probed");
                assert_ne!(probed.pace, pace, "a pace is said only when it changes");
                probed.pace = pace;
            }
            if let Action::Round { member } | Action::Look { member } = action {
                for probed in &mut self.members[member.0] {
                    (probed.next_probe, probed.asked) = (self.now, true);
                }
            }
            if let Action::Ask { member, address } = action {
                let all = &mut self.members[member.0];
                let probed = all.iter_mut().find(|probed| probed.address == address).expect("it is probed");
                (probed.next_probe, probed.asked) = (self.now, true);
            }
            self.done.push((self.now, action));
        }
        assert_at_rest(&self.core);
    }

    /// What `status` would say.
    pub(super) fn view(&self) -> View {
        self.core.view(self.now)
    }

    pub(super) fn member(&self, member: MemberId) -> MemberView {
        self.view().members[member.0].clone()
    }

    pub(super) fn pace(&self, member: MemberId) -> Pace {
        self.members[member.0][0].pace
    }

    pub(super) fn address(&self, member: MemberId, address: SocketAddr) -> AddressView {
        let view = self.member(member).addresses.into_iter().find(|view| view.address == address);
        view.expect("an address of the member")
    }

    /// The addresses that new flows to a member may go to.
    pub(super) fn offered(&self, member: MemberId) -> Vec<SocketAddr> {
        let views = self.member(member).addresses;
        views.iter().filter(|view| view.offered).map(|view| view.address).collect()
    }

    /// Addresses whose flows were reset, and when.
    pub(super) fn resets(&self) -> Vec<(Time, SocketAddr)> {
        let reset = |(at, action): &(Time, Action)| match action {
            Action::ResetAddress { address, .. } => Some((*at, *address)),
            _ => None,
        };
        self.done.iter().filter_map(reset).collect()
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
    pub(super) fn the_last_switch(&self) -> &Switch {
        self.switches().last().expect("there was a switch")
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

impl Probed {
    fn new(address: SocketAddr, now: Time) -> Self {
        Self { address, condition: Alive, pace: Pace::Fast, next_probe: now, asked: false }
    }
}
