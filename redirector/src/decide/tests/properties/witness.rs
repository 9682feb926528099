//! Drives a core through a schedule and sees what every caller sees.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use super::{Event, Reload, Start, Step, named_check, pool};
use crate::{
    decide::{
        Accepted, Action, Command, Core, MemberView, Orders, Switch, Time, View,
        record::{Input, Line, nanos},
        tests::world::{check, fail, inconclusive, member as a_member, pass},
    },
    model::{
        CheckId, Effect, Epoch, FailbackMode, FlowPolicy, Initial, MemberId, MemberState, Offer, OnAllDown,
        ProbeOutcome, Service, SwitchKind, Verdict,
    },
};

const START: Time = Time(Duration::from_secs(3600));

pub(super) struct Witness {
    service: Service,
    core: Core,
    clock: Time,
    /// The latest time that the core was told.
    now: Time,
    pub(super) before: View,
    floor: Epoch,
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
        let floor = resumed.as_ref().map_or(Epoch(0), |resumed| resumed.floor);
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
            actions: Vec::new(),
            lines: Vec::new(),
            service,
            core,
            floor,
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
                self.record(told, Input::Late(nanos(by)));
                self.core.on_late(told, by);
                // What is suspected may be suspected for longer.
                self.kept_dead_since = None;
                self.look(May { nothing: true, ..May::default() });
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

    fn reload(&mut self, told: Time, reload: &Reload) {
        let (service, origins) = self.reloaded(reload);
        if service.members.is_empty() {
            return;
        }
        self.now = self.now.max(told);
        let active = self.before.active;
        let result = self.core.leave_removed(told, &origins, reload.force);
        let stays = active.is_none_or(|active| origins.contains(&Some(active)));
        assert!(result.is_ok() || !(stays || reload.force), "{result:?}");
        self.record_core();
        let leaves = active.filter(|_| !stays && result.is_ok());
        self.look_at_a_reload(leaves);
        if result.is_err() {
            return;
        }
        let moved = self.before.active.is_none_or(|active| origins.contains(&Some(active)));
        assert!(moved || reload.force, "the active one is gone, and another one was up");
        self.core.set_service(told, service.clone(), &origins);
        self.service = service;
        self.members = origins.iter().map(|from| self.carried(*from, reload)).collect();
        let was_active = self.before.active;
        let active =
            was_active.and_then(|old| origins.iter().position(|from| *from == Some(old)).map(MemberId));
        if active.is_none() && was_active.is_some() {
            self.choosing = Some(self.now);
        }
        self.record_core();
        let view = self.core.view(self.now);
        self.before = View { active, epoch: self.before.epoch, ..view };
        self.kept_dead_since = None;
        self.look_at_a_reload(None);
        for (number, from) in origins.iter().enumerate() {
            if from.is_none() {
                self.call(told, &Event::Addresses { member: number, which: vec![0] });
            }
        }
    }

    /// The service as it will be, and which member each of its members was.
    fn reloaded(&self, reload: &Reload) -> (Service, Vec<Option<MemberId>>) {
        let mut service = self.service.clone();
        let mut origins: Vec<_> = (0..service.members.len())
            .filter(|number| reload.stay[number % reload.stay.len()])
            .map(|number| Some(MemberId(number)))
            .collect();
        if reload.rotate && !origins.is_empty() {
            origins.rotate_left(1);
        }
        let mut members: Vec<_> =
            origins.iter().flatten().map(|from| self.service.members[from.0].clone()).collect();
        if let Some(last) = members.last_mut() {
            last.weight = reload.weight;
        }
        if let Some(weight) = reload.new.filter(|_| members.len() < 4) {
            members.insert(0, a_member(&format!("m{}", self.next_id), weight));
            origins.insert(0, None);
        }
        if reload.checks && service.checks.len() > 1 {
            service.checks.pop();
        } else if reload.checks {
            service.checks.push(named_check(1, check()));
        }
        members.iter_mut().for_each(|member| member.checks.clone_from(&service.checks));
        (Service { members, failback: reload.failback, ..service }, origins)
    }

    fn carried(&mut self, from: Option<MemberId>, reload: &Reload) -> Known {
        let Some(from) = from else {
            // Few enough that every one has addresses of its own.
            self.next_id = (self.next_id + 1) % 20;
            return Known::new((self.next_id + 19) % 20);
        };
        let mut known = self.members[from.0].clone();
        known.round = None;
        if reload.checks {
            // The second check is another one, or gone.
            known.answers.retain(|(_, check, ..)| *check == 0);
        }
        known
    }

    /// A reload makes no switch but the one away from a member that is removed.
    fn look_at_a_reload(&mut self, leaves: Option<MemberId>) {
        let after = self.core.view(self.now);
        while let Some(action) = self.core.poll_action() {
            match &action {
                Action::Switch(switch) if self.before.active.is_some() => {
                    let from = switch.from.expect("there was one");
                    let may = leaves == Some(from)
                        || after.members[from.0].checks == MemberState::Down
                        || after.members[from.0].state == MemberState::Drained;
                    assert!(may, "no reason for {switch:?}");
                    self.note_switch(switch, &after);
                }
                Action::Switch(switch) => self.note_switch(switch, &after),
                Action::RaiseFloor { epoch } => self.floor = *epoch,
                Action::Orders(orders) => self.orders = orders.clone(),
                Action::Answer { result } => {
                    assert!(self.waits && (result.is_err() || leaves.is_some()));
                    self.waits = false;
                }
                Action::Round { member } => {
                    self.members[member.0].ask(&after.members[member.0], &self.service)
                }
                _ => {}
            }
            self.actions.push(action);
        }
        assert_eq!(self.core.orders(), self.orders);
        for (known, member) in self.members.iter_mut().zip(&after.members) {
            let up = member.checks == MemberState::Up;
            known.up_since = up.then(|| known.up_since.unwrap_or(self.now));
        }
        self.before = after;
    }

    fn note_switch(&mut self, switch: &Switch, after: &View) {
        assert_eq!(switch.epoch, Epoch(self.before.epoch.0 + 1));
        match switch.to {
            Some(to) => assert_eq!(after.members[to.0].state, MemberState::Up),
            None => assert_eq!(self.service.on_all_down, OnAllDown::Refuse),
        }
        self.choosing = None;
        if switch.kind != SwitchKind::Manual {
            self.last_switch = Some(self.now);
        }
        if switch.policy == FlowPolicy::Reset {
            self.floor = switch.epoch;
        }
    }

    /// Compares what is with what was.
    fn look(&mut self, may: May<'_>) {
        let after = self.core.view(self.now);
        for (known, member) in self.members.iter_mut().zip(&after.members) {
            let up = member.checks == MemberState::Up;
            known.up_since = up.then(|| known.up_since.unwrap_or(self.now));
        }
        let May { nothing, about, .. } = may;
        let mut switched = None;
        let mut reset = Vec::new();
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
                Action::Round { member } => {
                    self.members[member.0].ask(&after.members[member.0], &self.service)
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
                Action::Pace { .. } | Action::AddressChanged { .. } | Action::MemberChanged { .. } => {}
            }
            self.actions.push(action);
        }
        if switched.is_none() {
            assert_eq!((after.active, after.epoch), (self.before.active, self.before.epoch));
        }
        assert_eq!(self.core.orders(), self.orders, "what is to be kept is said");
        self.check_standing(&after, switched.as_ref());
        for member in (0..self.service.members.len()).map(MemberId) {
            self.check_offers(member, &after, &reset);
        }
        assert!(self.core.next_deadline().is_none_or(|deadline| deadline > self.now), "a busy loop");
        self.before = after;
    }

    fn check_switch(&mut self, switch: &Switch, after: &View, command: Option<&Command>) {
        assert_eq!(switch.epoch, Epoch(self.before.epoch.0 + 1));
        assert_eq!(after.epoch, switch.epoch);
        assert_eq!((switch.from, switch.to, switch.at), (self.before.active, after.active, self.now));
        assert_ne!(switch.from, switch.to);
        let forced = match command {
            Some(Command::Switch { to, force: true, .. }) => Some(*to),
            _ => None,
        };
        match switch.to {
            Some(to) => {
                assert_ne!(after.members[to.0].state, MemberState::Drained, "gone to");
                let up = after.members[to.0].state == MemberState::Up;
                assert!(up || forced == Some(to) && switch.kind == SwitchKind::Manual, "gone to");
            }
            None => {
                assert_eq!(self.service.on_all_down, OnAllDown::Refuse);
                let down = |member: &MemberView| {
                    member.checks == MemberState::Down || member.state == MemberState::Drained
                };
                assert!(after.members.iter().all(down));
            }
        }
        assert!(switch.kind == SwitchKind::Manual || !(self.before.paused && after.paused), "it was paused");
        self.check_policy(switch, after);
        match switch.kind {
            SwitchKind::Manual => self.check_manual(switch, after, forced),
            SwitchKind::Failback => self.check_failback(switch, after),
            SwitchKind::Initial => self.check_first_choice(after),
            SwitchKind::Failover => {
                let from = switch.from.map(|from| after.members[from.0].checks);
                assert!(from.is_none_or(|state| state == MemberState::Down), "it lives");
                assert!(!self.against_checks(switch.from, after), "an operator wanted it");
            }
        }
        assert_eq!(
            self.choosing.is_some() && switch.kind != SwitchKind::Manual,
            switch.kind == SwitchKind::Initial
        );
        self.choosing = None;
        if switch.kind != SwitchKind::Manual {
            self.last_switch = Some(self.now);
        }
        if switch.policy == FlowPolicy::Reset {
            self.floor = switch.epoch;
        }
    }

    fn check_policy(&self, switch: &Switch, after: &View) {
        let expected = match switch.from {
            None => FlowPolicy::Keep,
            Some(from) if after.members[from.0].checks == MemberState::Down => self.service.on_failover,
            Some(_) => self.service.on_failback,
        };
        assert_eq!(switch.policy, expected);
    }

    /// An operator's: by force, or after a round that has heard everything, and through an open gate.
    fn check_manual(&self, switch: &Switch, after: &View, forced: Option<MemberId>) {
        let to = switch.to.expect("an operator names somebody");
        let drained = switch.from.filter(|from| after.members[from.0].state == MemberState::Drained);
        let by_force = drained.is_some_and(|from| self.members[from.0].drained_by_force);
        assert!(forced == Some(to) || drained.is_some() || self.waits, "nobody asked for {switch:?}");
        if forced != Some(to) && !by_force {
            self.check_round(to);
        }
    }

    fn check_round(&self, to: MemberId) {
        let unheard = self.members[to.0].round.as_ref().expect("a round was asked for");
        assert!(unheard.is_empty(), "not heard of: {unheard:?}");
    }

    fn check_failback(&self, switch: &Switch, after: &View) {
        let (from, to) = (switch.from.expect("some member is left"), switch.to.expect("for another one"));
        let weight = |member: MemberId| after.members[member.0].weight;
        let failback = &self.service.failback;
        assert_eq!(failback.mode, FailbackMode::Auto);
        assert_eq!(after.members[from.0].checks, MemberState::Up);
        assert!(weight(to) > weight(from), "not better");
        assert!(self.orders.pin.is_none() || self.core.orders().pin.is_none(), "a pin held");
        let up_since = self.members[to.0].up_since.expect("a failback goes to a member that is up");
        assert!(self.now.since(up_since) >= failback.healthy_for, "healthy_for");
        let held = self.last_switch.is_none_or(|last| self.now.since(last) >= failback.hold_down);
        assert!(held, "hold_down");
        self.check_round(to);
    }

    fn check_first_choice(&self, after: &View) {
        let candidates: Vec<_> =
            after.members.iter().filter(|member| member.state != MemberState::Drained).collect();
        let count = |state| candidates.iter().filter(|member| member.state == state).count();
        let (all, up) = (candidates.len(), count(MemberState::Up));
        let enough = match self.service.initial {
            Initial::Any => 1,
            Initial::Majority => all / 2 + 1,
            Initial::All => all,
        };
        let known = count(MemberState::Unknown) == 0 && up >= enough;
        assert!(known || self.choosing.is_some_and(|until| self.now >= until), "decided too early");
    }

    fn against_checks(&self, member: Option<MemberId>, view: &View) -> bool {
        let pin = self.core.orders().pin;
        member.is_some() && pin.is_some_and(|pin| pin.against_checks) && view.pinned == member
    }

    /// What must be so after every call.
    fn check_standing(&mut self, after: &View, switched: Option<&Switch>) {
        let up: Vec<_> = (0..after.members.len())
            .map(MemberId)
            .filter(|member| after.members[member.0].state == MemberState::Up)
            .collect();
        let mut is_kept = false;
        match after.active {
            Some(active) => {
                let down = after.members[active.0].checks == MemberState::Down;
                let others = up.iter().any(|member| *member != active);
                is_kept = down && others && !after.paused && !self.against_checks(Some(active), after);
                assert!(
                    !is_kept || after.suspicion.is_some(),
                    "a dead member is active and another one is up"
                );
                if switched
                    .is_some_and(|switch| matches!(switch.kind, SwitchKind::Failover | SwitchKind::Initial))
                {
                    self.check_best(active, &up, after);
                }
            }
            None if after.paused => {}
            None if self.choosing.is_some() => {
                let time_is_up = self.choosing.is_some_and(|until| self.now >= until);
                assert!(!(time_is_up && !up.is_empty()), "nobody was chosen in time");
            }
            None => assert!(up.is_empty(), "held, and a member is up"),
        }
        self.kept_dead_since = is_kept.then(|| self.kept_dead_since.unwrap_or(self.now));
        let check = &self.service.checks[0];
        let window = check.interval + check.timeout;
        let for_long = self.kept_dead_since.is_some_and(|since| self.now.since(since) >= window);
        assert!(!for_long, "a suspicion that does not end");
    }

    /// No member was better whose answers were new and good.
    fn check_best(&self, chosen: MemberId, up: &[MemberId], after: &View) {
        let rank = |member: MemberId| (after.pinned == Some(member), after.members[member.0].weight);
        let is_clean = |member: &MemberId| {
            let known = &self.members[member.0];
            after.members[member.0].addresses.iter().all(|view| {
                let deciding = |(_, check): &(usize, &crate::model::Check)| check.effect.decides();
                self.service.checks.iter().enumerate().filter(deciding).all(|(number, check)| {
                    known.answers.iter().any(|(address, of, at, verdict)| {
                        (*address, *of, *verdict) == (view.address, number, Verdict::Pass)
                            && self.now.since(*at) <= check.interval + check.timeout
                    })
                })
            })
        };
        let better = up.iter().filter(|member| rank(**member) > rank(chosen)).find(|member| is_clean(member));
        assert_eq!(better, None, "not the best");
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
            let kept = policy != FlowPolicy::Keep || !reset.contains(&left);
            assert!(kept, "the flows of {left} were to go on");
        }
    }

    /// Rounds that were asked for are answered with passes.
    fn answer_rounds(&mut self) {
        if !self.answers_rounds {
            return;
        }
        for number in 0..self.members.len() {
            let unheard = self.members[number].round.clone().unwrap_or_default();
            for (address, check) in unheard {
                self.probe(self.now, MemberId(number), address, check, Verdict::Pass);
            }
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
        Self { id, up_since: None, answers: Vec::new(), round: None, drained_by_force: false }
    }

    fn keep(&mut self, addresses: &[SocketAddr]) {
        self.answers.retain(|(address, ..)| addresses.contains(address));
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
