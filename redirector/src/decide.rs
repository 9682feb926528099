//! The core: which member of a service is active, decided from probe outcomes and time.
//!
//! A state machine without sockets, clock, tasks or chance. The caller hands in what happened and when
//! ([`Core::on_probe`], [`Core::on_operator`], [`Core::on_deadline`] …), carries out what comes back ([`Core::poll_action`]), and calls
//! again at [`Core::next_deadline`] at the latest. The same calls give the same actions, always: whole outages
//! run in tests within microseconds, and a recorded one can be replayed.
//!
//! ```text
//! outcome ─▶ health: fall, rise ─▶ member ─▶ choice: who should be active ─▶ Switch ─▶ drains ─▶ RaiseFloor
//!                                      └──▶ which addresses are offered ─▶ Offer ─▶ leaving ─▶ ResetAddress
//! ```
//!
//! What holds whatever happens (the property tests state it once more, in code):
//!
//! * The epoch grows by exactly one with each switch.
//! * An active member that is down is left in the very call that says so, if another one is up. No damping delays it;
//!   only an operator (a pause, a member forced while it was down) or a suspicion that this host is at fault, which
//!   ends by itself ([`suspicion`]).
//! * An active member that is not down is left because an operator says so, or because a strictly heavier one has been up
//!   for `healthy_for` without a break, no automatic switch was made for `hold_down`, and every check of that one has
//!   just been asked once more.
//! * No automatic switch goes to a member that is not up; none at all to one that is drained.
//! * Unknown is neither up nor down: it causes no switch and no refusal.
//! * Of each IP version that a member has addresses of, at least one is offered. Where one is up, none is offered that
//!   is down.
//! * The flows of an address end early only after it was left out or removed, by the service's policy; of one that was left out only
//!   where another one of its member is up, and was heard since ([`left_out`]).
//! * A drain ends early only when its member is down, and where clients that are reset find an active member that is up.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use self::{
    answers::Answers,
    choice::{Choice, Situation, Standing},
    command::Manual,
    drains::Drains,
    flap::Flap,
    health::Change,
    hooks::Vetoed,
    leaving::Leaving,
    member::Member,
    orders::StandingOrders,
    round::Round,
    signals::Seen,
    suspicion::Suspicion,
};
use crate::model::{
    CheckId, Epoch, FlowPolicy, MemberId, MemberState, Offer, Pace, ProbeOutcome, Service, SwitchKind,
    Verdict,
};

mod action;
mod answers;
mod breaker;
mod change;
mod choice;
mod command;
pub mod detection;
mod drains;
mod early_end;
mod explain;
mod flap;
mod health;
mod hooks;
mod leaving;
mod left_out;
mod member;
mod operator;
mod orders;
mod proof;
pub mod record;
mod resume;
mod round;
mod signals;
mod suspicion;
mod time;
mod view;

#[cfg(test)]
mod tests;

pub use action::{Action, Resumed, ResumedSwitch, Switch};
pub use drains::{Drain, Draining, Spread};
pub use explain::{
    AddressExplanation, BreakerExplanation, CheckExplanation, Explanation, MemberExplanation,
    OrdersExplanation, SignalExplanation, SwitchExplanation, Timer,
};
pub use health::CheckState;
pub use operator::{Accepted, Command, Refused};
pub use orders::{Drained, Orders, Pin, Weight};
pub use time::Time;
pub use view::{AddressView, BreakerView, MemberView, View};

/// How long a gate that has failed and then says nothing bars at least: with a short `healthy_for` nobody would be missed by a
/// heartbeat before.
const SILENT_GATE_BARS: Duration = Duration::from_secs(60);

/// Decides for one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Core {
    service: Service,
    /// In the order of the configuration.
    members: Vec<Member>,
    /// What the newest [`Action::Offer`] of each member said.
    offered: Vec<Vec<Offer>>,
    /// What the newest [`Action::MemberChanged`] of each member said.
    told: Vec<MemberState>,
    /// The newest answers of each member's checks.
    answers: Vec<Answers>,
    /// How often each member went down lately.
    flaps: Vec<Flap>,
    /// When each member failed a round last.
    rejected: Vec<Option<Time>>,
    /// When the active member was heard again that had failed when each of the others began to, or had not been heard since then.
    heard_again: Vec<Option<Time>>,
    /// What hooks said against each member last.
    vetoed: Vec<Option<Vetoed>>,
    /// What the traffic of each member has shown.
    seen: Vec<Seen>,
    /// How often hooks were asked.
    asks: u64,
    standing: Standing,
    epoch: Epoch,
    last: Option<Switch>,
    /// No failback before this.
    hold_until: Time,
    /// Nor before this: the agent was late, and has not seen for as long again that members are up.
    unseen_until: Time,
    drains: Drains,
    /// What the newest [`Action::Drains`] said, or an earlier agent.
    kept_drains: Drains,
    leaving: Leaving,
    /// What an operator has said, and what was last handed out of it.
    orders: StandingOrders,
    kept_orders: StandingOrders,
    /// A switch that an operator asked for.
    manual: Option<Manual>,
    round: Option<Round>,
    suspicion: Suspicion,
    /// The latest time that was handed in.
    now: Time,
    actions: VecDeque<Action>,
}

impl Core {
    /// Begins with members that are all unknown. `known` are the addresses of each, and which of them are offered: what
    /// an earlier agent left in the kernel. Those that hold now come with [`Self::on_addresses`].
    ///
    /// With something resumed, its active member stays until there are verdicts, and a reset or drain that the
    /// earlier agent had not finished is finished: there may be actions right away.
    #[must_use]
    pub fn new(service: Service, known: &[Vec<Offer>], resumed: Option<Resumed>, now: Time) -> Self {
        let members = service.members.len();
        let mut core = Self {
            offered: known.to_vec(),
            told: vec![MemberState::Unknown; members],
            members: (known.iter().zip(&service.members))
                .map(|(known, member)| Member::new(known, &member.checks, service.combine, now))
                .collect(),
            answers: vec![Answers::default(); members],
            flaps: vec![Flap::default(); members],
            rejected: vec![None; members],
            heard_again: vec![None; members],
            vetoed: vec![None; members],
            seen: service.members.iter().map(|member| Seen::of(&member.checks)).collect(),
            asks: 0,
            standing: Standing::Choosing { until: Some(now + service.initial_timeout) },
            epoch: Epoch::default(),
            last: None,
            hold_until: now,
            unseen_until: now,
            drains: Drains::default(),
            kept_drains: Drains::default(),
            leaving: Leaving::default(),
            orders: StandingOrders::none(members),
            kept_orders: StandingOrders::none(members),
            manual: None,
            round: None,
            suspicion: Suspicion::default(),
            now,
            actions: VecDeque::new(),
            service,
        };
        if let Some(resumed) = resumed {
            core.resume(resumed);
        }
        core.settle();
        core
    }

    /// A probe of an address has ended. One that was removed meanwhile counts no more.
    ///
    /// A `now` that is before an earlier one counts as that one, here and in the other calls: the order of the calls is
    /// the order of events.
    ///
    /// # Panics
    ///
    /// When `member` or `check` is not of the service.
    pub fn on_probe(
        &mut self,
        now: Time,
        member: MemberId,
        address: SocketAddr,
        check: CheckId,
        outcome: &ProbeOutcome,
    ) {
        self.now = self.now.max(now);
        // Before deadlines that have passed meanwhile: a failback must not go to a member known to be down.
        let change = self.members[member.0].on_outcome(self.now, address, check, outcome);
        if outcome.verdict() == Verdict::Inconclusive {
            let patience = self.service.failback.healthy_for.max(SILENT_GATE_BARS);
            self.members[member.0].forget_silent_gates(self.now, patience);
        }
        if change.is_some() {
            self.note(member, address, check, outcome);
        }
        let doubt_begins = change.is_some_and(|change| change.pace == Some(Pace::Fast));
        self.weigh_signals(member, outcome.verdict(), doubt_begins);
        self.carry_on(member, Vec::new());
        if let Some(change) = change {
            self.tell_address(member, address, change);
        }
    }

    /// A member has these addresses now, and no others.
    ///
    /// Those that are new are unknown. Those that are gone lose their flows as a member does that is left although it
    /// lives ([`Service::on_failback`]).
    ///
    /// # Panics
    ///
    /// When `member` is not of the service.
    pub fn on_addresses(&mut self, now: Time, member: MemberId, addresses: &[SocketAddr]) {
        self.now = self.now.max(now);
        let gone =
            self.members[member.0].set_addresses(addresses, &self.service.members[member.0].checks, self.now);
        self.answers[member.0].retain(addresses);
        if let Some(round) = self.round.as_mut().filter(|round| round.member == member) {
            round.retain(addresses);
        }
        self.carry_on(member, gone);
    }

    /// The caller was late by `by`: it was not scheduled, or the machine slept. Probes that were under way may have failed by
    /// that alone, and nobody has seen what members bore meanwhile, or that they stayed up. So a member that goes down now is left
    /// only when a probe that began since has failed too, and a failback waits until as much was seen as was missed.
    ///
    /// Time comes with what the caller was woken by: an answer that has waited for it counts before deadlines that have passed.
    pub fn on_late(&mut self, now: Time, by: Duration) {
        let (now, window) = (self.now.max(now), self.window());
        self.suspicion.on_late(now, by, window);
        self.unseen_until = self.unseen_until.max(now + by.min(self.service.failback.healthy_for));
        self.settle();
    }

    /// Time has passed. May come early, late or twice.
    pub fn on_deadline(&mut self, now: Time) {
        self.now = self.now.max(now);
        self.settle();
    }

    /// When [`Self::on_deadline`] wants to be called; always later than the time that was handed in last.
    /// `None`: without a probe nothing will change.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let first_choice = match self.standing {
            Standing::Choosing { until } => until,
            Standing::Active(_) | Standing::Held => None,
        };
        let moves = self.situation(self.now).next_move().filter(|at| *at > self.now);
        let round = self.round.as_ref().map(|round| round.until).filter(|at| *at > self.now);
        let hooks = self.hooks_asked_until().filter(|at| *at > self.now);
        let pin = self.orders.pin.as_ref().and_then(|pin| pin.until);
        let ends =
            [self.drains.next_deadline(), self.next_end_of_a_doubted_drain(), self.next_end_of_addresses()];
        let tolerances = self.members.iter().map(Member::next_deadline);
        let look = self.next_look();
        [first_choice, moves, round, hooks, pin, look]
            .into_iter()
            .chain(ends)
            .chain(tolerances)
            .flatten()
            .min()
    }

    /// Whether the first choice is still to be made, and its time is not over.
    #[must_use]
    pub fn waits_for_first_choice(&self) -> bool {
        matches!(self.standing, Standing::Choosing { until: Some(_) })
    }

    /// Of the newest switch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Where new connections go; `None`: they are refused.
    #[must_use]
    pub fn active(&self) -> Option<MemberId> {
        self.standing.active()
    }

    /// The next thing to do. To be called until it returns `None`, after [`Self::new`] and after every `on_…`.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Draws the conclusions from what is new about a member. `gone` are addresses that it has no more.
    fn carry_on(&mut self, member: MemberId, gone: Vec<SocketAddr>) {
        self.offer_and_leave(member);
        for address in gone {
            self.leave(member, address, self.service.on_failback);
        }
        self.settle();
        self.tell_member(member);
    }

    /// Tolerances that have ended by now make checks fail. Returns what that has changed.
    fn end_tolerances(&mut self) -> Vec<(MemberId, SocketAddr, Change)> {
        let mut changed = Vec::new();
        for member in (0..self.members.len()).map(MemberId) {
            if self.members[member.0].next_deadline().is_some_and(|deadline| deadline <= self.now) {
                let changes = self.members[member.0].on_deadline(self.now);
                changed.extend(changes.into_iter().map(|(address, change)| (member, address, change)));
                self.offer_and_leave(member);
            }
        }
        changed
    }

    /// Reports on a member, if its state is new.
    fn tell_member(&mut self, member: MemberId) {
        let (state, reason) = self.shown(member);
        if state != self.told[member.0] {
            self.told[member.0] = state;
            let borne = self.borne(member).filter(|_| state == MemberState::Down);
            self.actions.push_back(Action::MemberChanged { member, state, reason, borne });
        }
    }

    /// Reports on one address.
    fn tell_address(&mut self, member: MemberId, address: SocketAddr, change: Change) {
        let reason = self.members[member.0].reason_of(address);
        if let (Some(state), Some(reason)) = (change.state, reason) {
            self.actions.push_back(Action::AddressChanged { member, address, state, reason });
        }
        if let Some(pace) = change.pace {
            self.actions.push_back(Action::Pace { member, address, pace });
        }
    }

    /// The state of a member as people see it, and why.
    fn shown(&self, member: MemberId) -> (MemberState, String) {
        let health = &self.members[member.0];
        if self.orders.is_drained(member) {
            let reason =
                format!("taken out by an operator; its checks say {}: {}", health.state(), health.reason());
            return (MemberState::Drained, reason);
        }
        (health.state(), health.reason())
    }

    /// Says which addresses of a member are offered, and leaves those that are not because they are down.
    fn offer_and_leave(&mut self, member: MemberId) {
        for address in self.offer(member) {
            self.leave(member, address, self.service.on_failover);
        }
    }

    /// Says which addresses of a member are offered, if that is new. Returns those that are left out because they are
    /// down.
    fn offer(&mut self, member: MemberId) -> Vec<SocketAddr> {
        let left_out = self.members[member.0].offer();
        let addresses = self.members[member.0].offers();
        if addresses != self.offered[member.0] {
            for offer in addresses.iter().filter(|offer| offer.offered) {
                self.leaving.forget(member, offer.address);
            }
            self.offered[member.0].clone_from(&addresses);
            self.actions.push_back(Action::Offer { member, addresses });
        }
        left_out
    }

    /// An address gets no new flows any more: what becomes of those that it has.
    fn leave(&mut self, member: MemberId, address: SocketAddr, policy: FlowPolicy) {
        match policy {
            FlowPolicy::Reset => self.leaving.begin(self.now, member, address, Duration::ZERO),
            FlowPolicy::Drain => {
                self.leaving.begin(self.now, member, address, self.service.drain_timeout);
            }
            FlowPolicy::Keep => {}
        }
    }

    /// Does whatever is due now. One switch is enough: after it the best member that may be gone to is active.
    /// Drains come last, because the switch may reset them, or begin one that takes no time.
    fn settle(&mut self) {
        let changed = self.end_tolerances();
        self.count_flaps();
        if let Standing::Choosing { until } = &mut self.standing {
            *until = until.filter(|until| *until > self.now);
        }
        self.expire_orders();
        if self.move_on() {
            // What follows from the switch follows now, and not from whichever call comes next: the round for a better
            // member than the one that was taken in a hurry, or another suspicion.
            let again = self.move_on();
            debug_assert!(!again, "the best member that may be gone to is active");
        }
        self.end_drains();
        self.end_drains_of_the_dead();
        self.end_addresses();
        self.look();
        self.keep_drains();
        self.keep_orders();
        for (member, address, change) in changed {
            self.tell_member(member);
            self.tell_address(member, address, change);
        }
    }

    /// Makes the switch that should be made, or asks for what it waits for. Returns whether it was made.
    fn move_on(&mut self) -> bool {
        self.suspect();
        self.look_after_manual();
        self.end_round();
        self.hear_hooks();
        let Some(choice) = self.situation(self.now).choose() else {
            self.round = None;
            return false;
        };
        let may_be_made = self.is_proven(&choice);
        if may_be_made {
            self.switch(choice);
        } else {
            self.ask_for_proof(&choice);
        }
        may_be_made
    }

    fn situation(&self, now: Time) -> Situation<'_> {
        Situation { core: self, now }
    }

    fn switch(&mut self, Choice { to, kind, reason, .. }: Choice) {
        let from = self.standing.active();
        let policy = self.policy(from, kind);
        self.epoch = self.epoch.next();
        self.standing = to.map_or(Standing::Held, Standing::Active);
        self.suspicion.on_switch();
        if kind != SwitchKind::Manual {
            self.hold_until = self.now + self.service.failback.hold_down;
        }
        let over = self.spread_over(from, kind, policy);
        match policy {
            FlowPolicy::Reset if !over.is_zero() => {
                self.drains.begin(self.now, over, Drain::of(self.epoch, from, Spread::UnderWay));
            }
            FlowPolicy::Reset => self.drains.supersede(),
            FlowPolicy::Drain => {
                let rest = self.service.drain_timeout;
                self.drains.begin(
                    self.now,
                    rest,
                    Drain::of(self.epoch, from, self.spread_at_end(from, kind)),
                );
            }
            FlowPolicy::Keep => {}
        }
        let borne = from.filter(|_| kind == SwitchKind::Failover).and_then(|from| self.borne(from));
        let switch = Switch { from, to, epoch: self.epoch, policy, over, kind, reason, borne, at: self.now };
        self.last = Some(switch.clone());
        self.actions.push_back(Action::Switch(switch));
        self.spread(from, self.epoch, over);
        // The round of another switch, which waits, goes on.
        self.round.take_if(|round| {
            self.manual.as_ref().is_none_or(|manual| manual.to != round.member || to == Some(manual.to))
        });
        if let Some(manual) = self.manual.take_if(|manual| to == Some(manual.to)) {
            self.pin(&manual);
            if !manual.force {
                self.actions.push_back(Action::Answer { result: Ok(()) });
            }
        }
    }

    /// What a switch does to the flows of the member that it leaves. An operator's leaves a member that lives, as a
    /// failback does, unless that one is down.
    fn policy(&self, from: Option<MemberId>, kind: SwitchKind) -> FlowPolicy {
        let (Some(from), true) = (from, kind != SwitchKind::Initial) else { return FlowPolicy::Keep };
        if kind == SwitchKind::Failover || self.members[from.0].state() == MemberState::Down {
            return self.service.on_failover;
        }
        self.service.on_failback
    }

    /// Over which time the resets of a switch are spread from its moment on; zero: all at once, or not then.
    fn spread_over(&self, from: Option<MemberId>, kind: SwitchKind, policy: FlowPolicy) -> Duration {
        let is_planned = from.is_some_and(|from| self.is_planned(from, kind));
        if is_planned && policy == FlowPolicy::Reset { self.service.reset_over } else { Duration::ZERO }
    }

    /// Whether the resets at the end of the drain that a switch begins may be spread.
    fn spread_at_end(&self, from: Option<MemberId>, kind: SwitchKind) -> Spread {
        let is_planned = from.is_some_and(|from| self.is_planned(from, kind));
        if is_planned { Spread::AtEnd } else { Spread::No }
    }

    /// Whether a switch leaves a member that lives: a dead one keeps its clients waiting.
    fn is_planned(&self, from: MemberId, kind: SwitchKind) -> bool {
        kind != SwitchKind::Failover && self.members[from.0].state() != MemberState::Down
    }
}
