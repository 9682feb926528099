//! Drives a core through a schedule and sees what every caller sees.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use self::{
    addresses::KnownAddress,
    drains::{Story, resumed_drains, resumed_floor},
};
use super::{Event, Start, Step, pool};
use crate::{
    decide::{
        Accepted, Action, Command, Core, Draining, MemberView, Orders, Time, View,
        record::{Input, Line, nanos},
        tests::world::{assert_at_rest, fail, inconclusive, pass},
    },
    model::{
        CheckId, Effect, Epoch, MemberId, MemberState, Offer, ProbeOutcome, Service, Signals, SwitchKind,
        Verdict,
    },
};

mod addresses;
mod checks;
mod drains;
mod reload;

pub(super) const START: Time = Time(Duration::from_secs(3600));

pub(super) struct Witness {
    service: Service,
    core: Core,
    clock: Time,
    /// The latest time that the core was told.
    now: Time,
    pub(super) before: View,
    floor: Epoch,
    /// Members whose flows end later, and the switches that said so.
    drains: Vec<(MemberId, Epoch)>,
    /// What the newest [`Action::Drains`] said.
    kept_drains: Vec<Draining>,
    /// When the agent was late last.
    late: Option<Time>,
    /// Whether the first choice is still to be made, and at the latest when.
    choosing: Option<Time>,
    /// What only this test knows of each member, in the order of the service.
    members: Vec<Known>,
    /// When the newest automatic switch was made, as far as this agent knows.
    last_switch: Option<Time>,
    answers_rounds: bool,
    /// A switch was accepted and waits for its round.
    waits: bool,
    /// Since when the active member is down, may be left, and is not.
    kept_dead_since: Option<Time>,
    /// What the newest [`Action::Orders`] said.
    orders: Orders,
    pub(super) actions: Vec<Action>,
    /// All that was handed in, as a recording has it.
    pub(super) lines: Vec<String>,
    next_id: usize,
}

/// What the test knows of a member.
#[derive(Clone, Debug)]
struct Known {
    /// Whose addresses it has, whatever its number is.
    id: usize,
    /// Since when it has been up without a break.
    up_since: Option<Time>,
    /// The newest answer of each check at each address: when, and what.
    answers: Vec<(SocketAddr, usize, Time, Verdict)>,
    /// What the newest round still has to hear of, and whether it heard of a failure.
    round: Option<BTreeSet<(SocketAddr, usize)>>,
    /// It was drained with force.
    drained_by_force: bool,
    /// When its probers looked last because of a signal.
    looked_at: Option<Time>,
    /// What its checks have said, longer ago than the newest answers.
    stories: Vec<Story>,
    /// What its checks say of it, and since when.
    state: (MemberState, Time),
    /// When the active member was heard again, that had failed when it began to, or was not heard since.
    heard_again: Option<Time>,
    /// Since when it is drained and down, and its clients could go elsewhere.
    held_up_since: Option<Time>,
    /// What this test knows of each of its addresses.
    addresses: Vec<KnownAddress>,
}

/// What a call may bring about.
#[derive(Clone, Copy, Debug, Default)]
struct May<'a> {
    /// No switch, no floor, no change of addresses.
    nothing: bool,
    /// Addresses of this member only.
    about: Option<MemberId>,
    command: Option<&'a Command>,
}

impl Witness {
    pub(super) fn new(Start { service, known, resumed, first, answers_rounds }: Start) -> Self {
        let core = Core::new(service.clone(), &known, resumed.clone(), START);
        let choosing = resumed.as_ref().is_none_or(|resumed| resumed.active.is_none());
        let floor = resumed.as_ref().map_or(Epoch(0), |resumed| resumed_floor(&service, resumed));
        let drains = resumed.iter().flat_map(|resumed| resumed_drains(&service, resumed)).collect();
        let last = resumed.and_then(|resumed| resumed.last).filter(|last| last.kind != SwitchKind::Manual);
        let members = service.members.len();
        let mut witness = Self {
            before: core.view(START),
            members: (0..members).map(Known::new).collect(),
            next_id: members,
            last_switch: last.map(|last| START.ago(last.age)),
            choosing: choosing.then_some(START + service.initial_timeout),
            clock: START,
            now: START,
            answers_rounds,
            waits: false,
            kept_dead_since: None,
            orders: Orders::default(),
            kept_drains: Vec::new(),
            actions: Vec::new(),
            lines: Vec::new(),
            service,
            core,
            floor,
            drains,
            late: None,
        };
        witness.record_core();
        witness.look(May::default());
        for (member, which) in first.into_iter().enumerate() {
            witness.call(START, &Event::Addresses { member, which });
        }
        witness
    }

    pub(super) fn run(mut self, steps: &[Step]) -> Self {
        for step in steps {
            self.clock = self.clock + Duration::from_millis(step.wait);
            self.call(self.clock.ago(Duration::from_millis(step.late)), &step.event);
        }
        self
    }

    fn call(&mut self, told: Time, event: &Event) {
        if !matches!(event, Event::Late(_) | Event::Reload(_)) {
            self.now = self.now.max(told);
        }
        match event {
            Event::Addresses { member, which } => {
                let member = self.member(*member);
                let addresses: Vec<_> = which.iter().map(|number| self.pool(member)[*number]).collect();
                self.record(told, Input::Addresses(member, addresses.clone()));
                self.core.on_addresses(told, member, &addresses);
                self.members[member.0].keep(&addresses);
                let view = self.core.view(self.now);
                let has: Vec<_> = view.members[member.0].addresses.iter().map(|view| view.address).collect();
                assert_eq!(has, addresses);
                self.look(May { about: Some(member), ..May::default() });
            }
            Event::Probe { member, address, check, verdict } => {
                let member = self.member(*member);
                let check = check % self.service.checks.len();
                self.probe(told, member, self.pool(member)[*address], check, *verdict);
            }
            Event::Deadline => {
                let early = !self.core.is_due(self.now);
                if !early {
                    self.record(told, Input::Deadline);
                }
                self.core.on_deadline(told);
                self.look(May { nothing: early, ..May::default() });
            }
            Event::Late(by) => {
                let by = Duration::from_millis(*by);
                let nothing = !self.core.is_due(told);
                if !nothing {
                    self.now = self.now.max(told);
                }
                self.record(told, Input::Late(nanos(by)));
                self.core.on_late(told, by);
                self.late = Some(self.now.max(told));
                self.look(May { nothing, ..May::default() });
            }
            Event::Signal(member, signal) => {
                // What time alone brings about is not its doing.
                self.call(told, &Event::Deadline);
                let member = self.member(*member);
                self.record(told, Input::Signal(member, *signal));
                self.core.on_signal(told, member, signal);
                self.look(May { nothing: true, ..May::default() });
            }
            Event::Traffic(member, traffic) => {
                self.call(told, &Event::Deadline);
                let member = self.member(*member);
                self.record(told, Input::Traffic(member, *traffic));
                let all_is_well = traffic.failed + traffic.errors == 0;
                self.core.on_traffic(told, member, *traffic);
                let acts = self.service.signals == Signals::Act;
                let nothing = all_is_well || !acts || self.service.breaker.is_none();
                self.look(May { nothing, about: Some(member), ..May::default() });
            }
            Event::Operator(command) => self.command(told, command),
            Event::Reload(reload) => self.reload(told, reload),
        }
        self.answer_rounds();
    }

    fn probe(&mut self, told: Time, member: MemberId, address: SocketAddr, check: usize, verdict: Verdict) {
        let outcome = match verdict {
            Verdict::Pass => pass(),
            Verdict::Fail => fail(),
            Verdict::Inconclusive => {
                // What time alone brings about is not this outcome's doing.
                self.call(told, &Event::Deadline);
                inconclusive()
            }
        };
        self.record(told, Input::Probe(member, address, CheckId(check), (&outcome).into()));
        let known = &mut self.members[member.0];
        let asked = known.hear(&self.before.members[member.0], self.now, address, check, &outcome);
        let has = self.before.members[member.0].addresses.iter().any(|view| view.address == address);
        let decides = self.service.checks[check].effect.decides();
        if has && decides && verdict == Verdict::Pass {
            self.note_heard(member);
            self.note_heard_beside(member, address);
        }
        let known = &mut self.members[member.0];
        let failed_since = has.then(|| known.tell(self.now, address, check, verdict)).flatten();
        if let Some(since) = failed_since.filter(|_| decides) {
            self.note_back(member, since);
        }
        self.core.on_probe(told, member, address, CheckId(check), &outcome);
        let nothing = verdict == Verdict::Inconclusive && !asked;
        self.look(May { nothing, about: Some(member), ..May::default() });
    }

    fn command(&mut self, told: Time, command: &Command) {
        let command = &self.of_the_service(command);
        // What time alone brings about is not the operator's doing.
        self.call(told, &Event::Deadline);
        self.record(told, Input::Operator(command.clone()));
        let before = self.core.clone();
        let trial = self.core.try_operator(told, command);
        assert_eq!(self.core, before, "a trial changes nothing");
        let result = self.core.on_operator(told, command);
        assert_eq!(result, trial);
        match (&result, command) {
            (Ok(Accepted::Waits), _) => {
                assert!(!self.waits, "one at a time");
                self.waits = true;
            }
            (Ok(Accepted::Done), Command::Drain { member, force }) => {
                self.members[member.0].drained_by_force = *force;
            }
            (Err(refused), _) => {
                assert!(!refused.reason.is_empty() && !refused.next.is_empty());
                assert_eq!(self.core.orders(), before.orders());
            }
            _ => {}
        }
        self.look(May { nothing: result.is_err(), command: Some(command), ..May::default() });
    }

    /// With members that there are.
    fn of_the_service(&self, command: &Command) -> Command {
        let mut command = command.clone();
        match &mut command {
            Command::Switch { to: member, .. }
            | Command::Drain { member, .. }
            | Command::Undrain { member }
            | Command::Weight { member, .. } => *member = self.member(member.0),
            Command::Release | Command::Pause | Command::Resume => {}
        }
        command
    }

    /// Compares what is with what was.
    fn look(&mut self, may: May<'_>) {
        let after = self.core.view(self.now);
        self.note_states(&after);
        let May { nothing, about, .. } = may;
        let mut switched = None;
        let mut reset = Vec::new();
        let mut kept_drains = false;
        while let Some(action) = self.core.poll_action() {
            match &action {
                Action::Switch(switch) => {
                    assert!(!nothing, "no reason for {switch:?}");
                    assert_eq!(switched, None, "at most one switch a call");
                    self.check_switch(switch, &after, may.command);
                    switched = Some(switch.clone());
                }
                Action::RaiseFloor { epoch } => {
                    assert!(!nothing, "no reason to raise the floor to {epoch}");
                    let rises = *epoch > self.floor && *epoch <= after.epoch;
                    assert!(rises, "floor {epoch} after {}", self.floor);
                    self.raised(*epoch);
                }
                Action::EndDrain { member, epoch, .. } => {
                    assert!(!nothing, "no reason to end the drain of {member:?}");
                    self.check_end_of_drain(*member, *epoch, &after);
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
                Action::AskHooks { .. } => panic!("no service here has a hook: {action:?}"),
                Action::Round { member } => {
                    // Also an answer that says nothing about a member makes what is known of it new.
                    assert!(!nothing || about.is_some(), "no reason for a round of {member:?}");
                    self.members[member.0].ask(&after.members[member.0], &self.service);
                }
                Action::Ask { member, address } => {
                    assert!(!nothing, "no reason to ask {address}");
                    self.check_asked(*member, *address, &after);
                }
                Action::Answer { result } => {
                    assert!(self.waits, "nobody waits for {result:?}");
                    assert_eq!(result.is_ok(), switched.is_some() && after.pinned_or_ended(&self.core));
                    self.waits = false;
                }
                Action::Orders(orders) => {
                    assert_ne!(*orders, self.orders, "said twice");
                    self.orders = orders.clone();
                }
                Action::Drains(drains) => (self.kept_drains, kept_drains) = (drains.clone(), true),
                Action::Spread { from, epoch, over } => {
                    assert!(!nothing, "no reason to spread {epoch}");
                    // Of a switch that was just made, or of one before it whose drain is over; what an earlier agent had
                    // begun may be nearly over.
                    let is_right =
                        *epoch <= after.epoch && *epoch > self.floor && *over <= self.service.reset_over;
                    assert!(
                        is_right && !over.is_zero() && after.active != Some(*from),
                        "{epoch} over {over:?}"
                    );
                }
                Action::Look { member } => self.check_look(*member, &after),
                Action::Signal { signal, looked, .. } => {
                    assert_eq!(*looked, self.service.signals == Signals::Act);
                    assert!(signal.count > 0, "nothing new");
                }
                Action::Pace { .. } | Action::AddressChanged { .. } | Action::MemberChanged { .. } => {}
            }
            self.actions.push(action);
        }
        if switched.is_none() {
            assert_eq!((after.active, after.epoch), (self.before.active, self.before.epoch));
        }
        assert_eq!(self.core.orders(), self.orders, "what is to be kept is said");
        self.check_standing(&after, switched.as_ref());
        self.check_drains(&after);
        if kept_drains {
            self.check_kept_drains(&after);
        }
        for member in (0..self.service.members.len()).map(MemberId) {
            self.check_left_out(member, &after, &reset);
            self.check_offers(member, &after, &reset);
        }
        assert_at_rest(&self.core);
        self.before = after;
    }

    fn note_states(&mut self, after: &View) {
        for (known, member) in self.members.iter_mut().zip(&after.members) {
            let up = member.checks == MemberState::Up;
            known.up_since = up.then(|| known.up_since.unwrap_or(self.now));
            if known.state.0 != member.checks {
                known.state = (member.checks, self.now);
            }
            known.note_addresses(self.now, &member.addresses);
        }
    }

    /// Rounds that were asked for are answered with passes; so are those that begin with such an answer.
    fn answer_rounds(&mut self) {
        let unheard = |(number, known): (usize, &Known)| {
            let (address, check) = *known.round.as_ref()?.first()?;
            Some((MemberId(number), address, check))
        };
        while let Some((member, address, check)) = self.members.iter().enumerate().find_map(unheard)
            && self.answers_rounds
        {
            self.probe(self.now, member, address, check, Verdict::Pass);
        }
    }

    /// Calls only at the deadlines from here on, as an agent whose probes all hang.
    pub(super) fn run_out(&mut self) {
        // Each drain, each address that was left, each failback (it goes up in weight) and the first choice want one
        // call at most; a round that nobody answers comes again and again.
        self.answers_rounds = true;
        for _ in 0..600 {
            let Some(deadline) = self.core.next_deadline() else {
                assert!(!self.waits, "an answer is owed");
                return;
            };
            self.call(deadline, &Event::Deadline);
        }
        panic!("deadlines without an end");
    }

    fn record(&mut self, told: Time, input: Input) {
        // A deadline that was not due is not recorded, but the time that it told the core holds.
        let line = Line { at: self.now.max(told), service: self.service.name.clone(), input };
        self.lines.push(serde_json::to_string(&line).unwrap());
    }

    fn record_core(&mut self) {
        self.record(self.now, Input::Core(Box::new(self.core.clone())));
    }

    fn member(&self, number: usize) -> MemberId {
        MemberId(number % self.service.members.len())
    }

    fn pool(&self, member: MemberId) -> [SocketAddr; 5] {
        pool(MemberId(self.members[member.0].id))
    }
}

impl Known {
    fn new(id: usize) -> Self {
        Self {
            id,
            up_since: None,
            answers: Vec::new(),
            round: None,
            drained_by_force: false,
            looked_at: None,
            stories: Vec::new(),
            state: (MemberState::Unknown, Time::default()),
            heard_again: None,
            held_up_since: None,
            addresses: Vec::new(),
        }
    }

    fn keep(&mut self, addresses: &[SocketAddr]) {
        self.answers.retain(|(address, ..)| addresses.contains(address));
        self.stories.retain(|story| addresses.contains(&story.address));
        if let Some(round) = &mut self.round {
            round.retain(|(address, _)| addresses.contains(address));
        }
    }

    /// A round begins: all that is up has to answer.
    fn ask(&mut self, view: &MemberView, service: &Service) {
        let up = view.addresses.iter().filter(|view| view.state == MemberState::Up);
        let checks = service.checks.iter().enumerate().filter(|(_, check)| check.effect != Effect::Observe);
        let checks: Vec<_> = checks.map(|(number, _)| number).collect();
        let asked = up.flat_map(|view| checks.iter().map(|check| (view.address, *check)));
        self.round = Some(asked.collect());
    }

    /// Whether a round was waiting for it.
    fn hear(
        &mut self,
        view: &MemberView,
        now: Time,
        address: SocketAddr,
        check: usize,
        outcome: &ProbeOutcome,
    ) -> bool {
        if !view.addresses.iter().any(|view| view.address == address) {
            return false;
        }
        self.answers.retain(|(known, of, ..)| (*known, *of) != (address, check));
        self.answers.push((address, check, now, outcome.verdict()));
        self.round.as_mut().is_some_and(|round| round.remove(&(address, check)))
    }
}

impl View {
    /// A switch by an operator has left a pin, unless it was to take no time.
    fn pinned_or_ended(&self, core: &Core) -> bool {
        self.pinned == self.active || core.orders().pin.is_none()
    }
}

fn offers(view: &View, member: MemberId) -> Vec<Offer> {
    let offer = |view: &crate::decide::AddressView| Offer { address: view.address, offered: view.offered };
    view.members[member.0].addresses.iter().map(offer).collect()
}
