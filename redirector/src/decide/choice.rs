//! Who should be active: pure functions over what is known now.
//!
//! What an operator said comes first, but for one thing: a member that is down is left at once.
//!
//! * *No member was chosen yet:* wait until every member has a verdict and enough of them are up, or until the
//!   time is up; then take the best that is up.
//! * *The active member is down:* leave it at once for the best that is up. No damping applies. Not while the service is
//!   paused, nor when an operator forced that member on the service while it was down already.
//! * *An operator asked for a switch:* go there, when a round of checks has passed.
//! * *The active member is drained:* go to the best other one that is up, in the same way.
//! * *The active member is up:* go to a heavier one that has been up for `healthy_for` (longer, if it went down often lately)
//!   and whose gate is open, after `hold_down`, when a round of checks has passed. Not while a pin holds.
//! * *The service is held:* take the first member that comes up.
//!
//! A member that is unknown is neither left nor gone to; one that is drained is not gone to. The best is the pinned one, then
//! the heaviest; of equals the one that the configuration names first. An equal is no reason to move. One whose verdict is old, or
//! that has begun to fail together with the active one, comes behind all others.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use super::{
    Core,
    member::Member,
    orders::Drained,
    proof::PAUSE_AFTER_ROUND,
    time::{Time, in_words},
};
use crate::model::{FailbackMode, Initial, MemberId, MemberState, OnAllDown, Service, SwitchKind};

/// Where new connections go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Standing {
    /// Nowhere: no member was chosen yet.
    Choosing {
        /// When not every member is waited for any longer; `None`: that time has passed.
        until: Option<Time>,
    },
    /// To this member.
    Active(MemberId),
    /// Nowhere: every member was down, and the service refuses then.
    Held,
}

impl Standing {
    pub(super) fn active(self) -> Option<MemberId> {
        match self {
            Self::Active(member) => Some(member),
            Self::Choosing { .. } | Self::Held => None,
        }
    }
}

/// A switch that should be made.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) to: Option<MemberId>,
    pub(super) kind: SwitchKind,
    pub(super) reason: String,
    /// Only when a round of checks of the member has passed.
    pub(super) round: bool,
}

impl Choice {
    fn automatic(to: Option<MemberId>, kind: SwitchKind, reason: String) -> Self {
        Self { to, kind, reason, round: kind == SwitchKind::Failback }
    }
}

/// All that the choice depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation<'a> {
    pub(super) core: &'a Core,
    pub(super) now: Time,
}

impl Situation<'_> {
    /// The switch that should be made now; `None`: all stays as it is.
    pub(super) fn choose(&self) -> Option<Choice> {
        // One that has been proven already is no slower than a failover, and spares a second switch.
        let proven = || self.manual(false).filter(|choice| self.core.is_proven(choice));
        if let Some(choice) = self.manual(true).or_else(proven) {
            return Some(choice);
        }
        let paused = self.core.orders.paused;
        let Standing::Active(active) = self.core.standing else {
            let automatic = match self.core.standing {
                _ if paused => None,
                Standing::Choosing { until } => self.first_choice(until.is_none()),
                Standing::Active(_) | Standing::Held => self.take_up_again(),
            };
            // Who asks for one member does not want none meanwhile.
            return automatic.or_else(|| self.manual(false));
        };
        self.failover(active)
            .or_else(|| self.manual(false))
            .or_else(|| self.leave_drained(active))
            .or_else(|| self.failback(active))
    }

    /// When the next switch is due, or a doubt is over, if no probe says anything new; may have passed.
    pub(super) fn next_move(&self) -> Option<Time> {
        let active = self.core.standing.active()?;
        let doubt = self.core.doubt(active, self.now).filter(|_| self.may_be_left(active));
        let drained = self.drained(active).filter(|drained| !drained.force);
        let again = self.candidates().filter_map(|member| drained.and_then(|_| self.asked_again(member)));
        let failback = self.candidates().filter_map(|member| self.failback_at(active, member));
        // A time that has passed waits for something else.
        let ahead = again.chain(failback).filter(|at| *at > self.now);
        doubt.map(|doubt| doubt.until).into_iter().chain(ahead).min()
    }

    /// Whether the active member is down, and nothing but a doubt keeps it.
    fn may_be_left(&self, active: MemberId) -> bool {
        let orders = &self.core.orders;
        self.state(active) == MemberState::Down && !orders.paused && !orders.against_checks(active)
    }

    fn manual(&self, force: bool) -> Option<Choice> {
        let manual = self.core.manual.as_ref().filter(|manual| manual.force == force)?;
        let mut reason = format!("switched to member {} by an operator", self.name(manual.to));
        if !manual.reason.is_empty() {
            reason = format!("{reason}: {}", manual.reason);
        }
        Some(Choice { to: Some(manual.to), kind: SwitchKind::Manual, reason, round: !force })
    }

    fn leave_drained(&self, active: MemberId) -> Option<Choice> {
        let force = self.drained(active)?.force;
        let asked_lately = |member| self.asked_again(member).is_some_and(|again| again > self.now);
        let may = |member: &MemberId| {
            self.core.is_up(*member)
                && (force || self.member(*member).gate().is_none() && !asked_lately(*member))
        };
        let others = self.candidates().filter(may);
        let best = if force { self.best(others, active) } else { self.best_to_ask(others, active) }?;
        let reason = format!("member {} was drained by an operator", self.name(active));
        Some(Choice { to: Some(best), kind: SwitchKind::Manual, reason, round: !force })
    }

    fn first_choice(&self, time_is_up: bool) -> Option<Choice> {
        if !time_is_up && !self.enough_is_known() {
            return None;
        }
        let best = self.best_up(None)?;
        let reason = format!(
            "first choice: member {} has weight {} and is the best of {} up, {} down, {} unknown",
            self.name(best),
            self.weight(best),
            self.count(MemberState::Up),
            self.count(MemberState::Down),
            self.count(MemberState::Unknown),
        );
        Some(Choice::automatic(Some(best), SwitchKind::Initial, reason))
    }

    /// Whether every member has a verdict, and as many are up as `initial` asks for.
    fn enough_is_known(&self) -> bool {
        let up = self.count(MemberState::Up);
        let enough_up = match self.service().initial {
            Initial::Any => up >= 1,
            Initial::Majority => up * 2 > self.candidates().count(),
            Initial::All => up == self.candidates().count(),
        };
        enough_up && self.count(MemberState::Unknown) == 0
    }

    fn failover(&self, active: MemberId) -> Option<Choice> {
        if !self.may_be_left(active) || self.core.doubt(active, self.now).is_some() {
            return None;
        }
        let why = self.member(active).down_because().unwrap_or_default();
        let left = format!("member {} down: {why}", self.name(active));
        if let Some(best) = self.best_up(Some(active)) {
            return Some(Choice::automatic(Some(best), SwitchKind::Failover, left));
        }
        let all_down = self.candidates().all(|member| self.state(member) == MemberState::Down);
        let refuse = all_down && self.service().on_all_down == OnAllDown::Refuse;
        refuse.then(|| {
            let reason = format!("{left}, and no other member is up");
            Choice::automatic(None, SwitchKind::Failover, reason)
        })
    }

    fn failback(&self, active: MemberId) -> Option<Choice> {
        let due = |member: &MemberId| self.failback_at(active, *member).is_some_and(|at| at <= self.now);
        let better = self.best_to_ask(self.candidates().filter(due), active)?;
        let up_for = self.now.since(self.member(better).up_since()?);
        let reason = format!(
            "member {} has weight {} over {} and was up for {}",
            self.name(better),
            self.weight(better),
            self.weight(active),
            in_words(up_for),
        );
        Some(Choice::automatic(Some(better), SwitchKind::Failback, reason))
    }

    fn take_up_again(&self) -> Option<Choice> {
        let best = self.best_up(None)?;
        let reason = format!("member {} came up while no member was active", self.name(best));
        Some(Choice::automatic(Some(best), SwitchKind::Failover, reason))
    }

    /// When `member` may be failed back to; `None`: not as things are.
    pub(super) fn failback_at(&self, active: MemberId, member: MemberId) -> Option<Time> {
        let failback = &self.service().failback;
        let orders = &self.core.orders;
        let wanted = failback.mode == FailbackMode::Auto
            && orders.pin.is_none()
            && !orders.paused
            && !orders.is_drained(member)
            && self.state(active) == MemberState::Up
            && self.weight(member) > self.weight(active)
            && self.member(member).gate().is_none();
        let up_since = self.member(member).up_since().filter(|_| wanted)?;
        let needed = self.core.flaps[member.0].healthy_for(failback);
        // A failure in the round is a break.
        let rejected = self.core.rejected[member.0].map(|at| at + needed.max(PAUSE_AFTER_ROUND));
        let vetoed = self.core.veto(member, self.now).map(|vetoed| vetoed.until);
        let held = self.core.hold_until.max(self.core.unseen_until);
        let after = [rejected, vetoed].into_iter().flatten().fold(held, Time::max);
        Some((up_since + needed).max(after))
    }

    /// When a member that has failed a round, or that hooks refused, may be asked again in place of one that is drained.
    fn asked_again(&self, member: MemberId) -> Option<Time> {
        let rejected = self.core.rejected[member.0].map(|at| at + PAUSE_AFTER_ROUND);
        let vetoed = self.core.veto(member, self.now).map(|vetoed| vetoed.until);
        rejected.max(vetoed).filter(|again| *again > self.now)
    }

    /// What keeps `member` from becoming active now; `None`: nothing, or it is the active one and up.
    ///
    /// A member that is not better than the active one stands by: nothing keeps it from taking over. A better
    /// one is told what the failback to it waits for, though a failover would take it without waiting.
    pub(super) fn obstacle(&self, member: MemberId) -> Option<String> {
        if self.core.orders.is_drained(member) {
            return Some("taken out by an operator".to_owned());
        }
        match self.state(member) {
            MemberState::Unknown | MemberState::Drained => return Some("no verdict yet".to_owned()),
            MemberState::Down => {
                let why = self.member(member).down_because().unwrap_or_default();
                return Some(format!("down: {why}"));
            }
            MemberState::Up => {}
        }
        let active = self.core.standing.active();
        if self.core.orders.paused && active != Some(member) {
            return Some("automatic switches are paused by an operator".to_owned());
        }
        match self.core.standing {
            Standing::Choosing { until: Some(until) } => {
                let left = in_words(until.since(self.now));
                Some(format!("the first choice waits for other members, at most {left} more"))
            }
            Standing::Active(active) if self.weight(member) > self.weight(active) => {
                self.failback_obstacle(active, member)
            }
            Standing::Active(_) | Standing::Choosing { until: None } | Standing::Held => None,
        }
    }

    /// The same rules as [`Self::failback_at`], in words.
    fn failback_obstacle(&self, active: MemberId, member: MemberId) -> Option<String> {
        let failback = &self.service().failback;
        match failback.mode {
            FailbackMode::Auto => {}
            FailbackMode::Manual => return Some("failback is left to an operator".to_owned()),
            FailbackMode::Never => return Some("failback is switched off".to_owned()),
        }
        if let Some(pin) = &self.core.orders.pin {
            return Some(format!("an operator has pinned member {}", self.name(pin.member)));
        }
        if self.state(active) != MemberState::Up {
            return Some(format!("the active member {} has no verdict yet", self.name(active)));
        }
        if let Some(why) = self.member(member).gate() {
            return Some(format!("its gate fails: {why}"));
        }
        let up_for = self.now.since(self.member(member).up_since()?);
        let needed = self.core.flaps[member.0].healthy_for(failback);
        if up_for < needed {
            let flaps =
                if needed > failback.healthy_for { ", because it went down often lately" } else { "" };
            return Some(format!("healthy for {} of {}{flaps}", in_words(up_for), in_words(needed)));
        }
        let unseen = self.core.unseen_until.since(self.now);
        if !unseen.is_zero() {
            return Some(format!("the agent was late, and must see it up for {} more", in_words(unseen)));
        }
        let hold = self.core.hold_until.since(self.now);
        if !hold.is_zero() {
            return Some(format!("hold-down for {} more", in_words(hold)));
        }
        let again = self.failback_at(active, member)?.since(self.now);
        if let Some(vetoed) = self.core.veto(member, self.now).filter(|_| !again.is_zero()) {
            return Some(format!("{}; again in {}", vetoed.why, in_words(again)));
        }
        if !again.is_zero() {
            return Some(format!("its round of checks failed; again in {}", in_words(again)));
        }
        let asked = self.core.round.as_ref().is_some_and(|round| round.member == member);
        let waits = match self.core.hooks_asked_until() {
            Some(until) => format!("waits for hooks, at most {} more", in_words(until.since(self.now))),
            None => "its round of checks is under way".to_owned(),
        };
        asked.then_some(waits)
    }

    /// The best of those that are up and that `may` be taken.
    pub(super) fn best_of_those_up(
        &self,
        may: impl Fn(&MemberId) -> bool,
        active: MemberId,
    ) -> Option<MemberId> {
        self.best(self.candidates().filter(|member| self.core.is_up(*member) && may(member)), active)
    }

    /// The best of all that are up, to take over from `active`.
    fn best_up(&self, active: Option<MemberId>) -> Option<MemberId> {
        let up = self.candidates().filter(|member| self.core.is_up(*member));
        match active {
            Some(active) => self.best(up, active),
            None => self.heaviest(up),
        }
    }

    /// The best to take over at once.
    fn best(&self, members: impl Iterator<Item = MemberId>, active: MemberId) -> Option<MemberId> {
        self.first_by_rank(members, active, |member| self.core.is_fresh(member))
    }

    /// The best to begin a round for. While one is asked, the age of its answers is no reason to ask another one instead:
    /// its round brings new ones, or ends it.
    fn best_to_ask(&self, members: impl Iterator<Item = MemberId>, active: MemberId) -> Option<MemberId> {
        let asked = self.core.round.as_ref().map(|round| round.member);
        self.first_by_rank(members, active, |member| asked == Some(member) || self.core.is_fresh(member))
    }

    /// The first of equals is taken: `min_by_key` does so.
    fn first_by_rank(
        &self,
        members: impl Iterator<Item = MemberId>,
        active: MemberId,
        is_fresh: impl Fn(MemberId) -> bool,
    ) -> Option<MemberId> {
        members.min_by_key(|member| {
            let unsure = self.core.fails_with(*member, active) || !is_fresh(*member);
            (unsure, !self.is_pinned(*member), Reverse(self.weight(*member)))
        })
    }

    fn heaviest(&self, members: impl Iterator<Item = MemberId>) -> Option<MemberId> {
        members.min_by_key(|member| (!self.is_pinned(*member), Reverse(self.weight(*member))))
    }

    fn is_pinned(&self, member: MemberId) -> bool {
        self.core.orders.pin.as_ref().is_some_and(|pin| pin.member == member)
    }

    fn drained(&self, member: MemberId) -> Option<Drained> {
        self.core.orders.drained[member.0]
    }

    /// Members that may be chosen.
    fn candidates(&self) -> impl Iterator<Item = MemberId> {
        self.core.candidates()
    }

    fn count(&self, state: MemberState) -> usize {
        self.candidates().filter(|member| self.state(*member) == state).count()
    }

    fn service(&self) -> &Service {
        &self.core.service
    }

    fn member(&self, member: MemberId) -> &Member {
        &self.core.members[member.0]
    }

    fn state(&self, member: MemberId) -> MemberState {
        self.member(member).state()
    }

    fn weight(&self, member: MemberId) -> u32 {
        self.service().members[member.0].weight
    }

    /// Quoted, as messages name a member.
    fn name(&self, member: MemberId) -> String {
        format!("{:?}", self.service().members[member.0].name)
    }
}
