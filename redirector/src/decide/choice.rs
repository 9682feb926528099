//! Who should be active: pure functions over what is known now.
//!
//! One rule each for the four situations that a service can be in:
//!
//! * *No member was chosen yet:* wait until every member has a verdict and enough of them are up, or until the
//!   time is up; then take the best that is up.
//! * *The active member is down:* leave it at once for the best that is up. No damping applies.
//! * *The active member is up:* go to a heavier one that has been up for `healthy_for`, after `hold_down`.
//! * *The service is held:* take the first member that comes up.
//!
//! A member that is unknown is neither left nor gone to. The best is the heaviest; of equals the one that the
//! configuration names first. An equal is no reason to move.

use std::cmp::Reverse;

use super::{
    member::Member,
    time::{Time, in_words},
};
use crate::model::{FailbackMode, Initial, MemberId, MemberState, OnAllDown, Service, SwitchKind};

/// Where new connections go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

/// All that the choice depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation<'a> {
    pub(super) service: &'a Service,
    pub(super) members: &'a [Member],
    pub(super) standing: Standing,
    /// No failback before this.
    pub(super) hold_until: Time,
    pub(super) now: Time,
}

impl Situation<'_> {
    /// The switch that should be made now; `None`: all stays as it is.
    pub(super) fn choose(&self) -> Option<Choice> {
        match self.standing {
            Standing::Choosing { until } => self.first_choice(until.is_none()),
            Standing::Active(active) => match self.state(active) {
                MemberState::Down => self.failover(active),
                MemberState::Up => self.failback(active),
                MemberState::Unknown | MemberState::Drained => None,
            },
            Standing::Held => self.take_up_again(),
        }
    }

    fn first_choice(&self, time_is_up: bool) -> Option<Choice> {
        if !time_is_up && !self.enough_is_known() {
            return None;
        }
        let best = self.best_up()?;
        let reason = format!(
            "first choice: member {} has weight {} and is the best of {} up, {} down, {} unknown",
            self.name(best),
            self.weight(best),
            self.count(MemberState::Up),
            self.count(MemberState::Down),
            self.count(MemberState::Unknown),
        );
        Some(Choice { to: Some(best), kind: SwitchKind::Initial, reason })
    }

    /// Whether every member has a verdict, and as many are up as `initial` asks for.
    fn enough_is_known(&self) -> bool {
        let up = self.count(MemberState::Up);
        let enough_up = match self.service.initial {
            Initial::Any => up >= 1,
            Initial::Majority => up * 2 > self.members.len(),
            Initial::All => up == self.members.len(),
        };
        enough_up && self.count(MemberState::Unknown) == 0
    }

    fn failover(&self, active: MemberId) -> Option<Choice> {
        let why = self.members[active.0].down_because().unwrap_or_default();
        let left = format!("member {} down: {why}", self.name(active));
        if let Some(best) = self.best_up() {
            return Some(Choice { to: Some(best), kind: SwitchKind::Failover, reason: left });
        }
        let all_down = self.count(MemberState::Down) == self.members.len();
        let refuse = all_down && self.service.on_all_down == OnAllDown::Refuse;
        refuse.then(|| Choice {
            to: None,
            kind: SwitchKind::Failover,
            reason: format!("{left}, and no other member is up"),
        })
    }

    fn failback(&self, active: MemberId) -> Option<Choice> {
        let due = |member: &MemberId| self.failback_at(active, *member).is_some_and(|at| at <= self.now);
        let better = self.best(self.ids().filter(due))?;
        let up_for = self.now.since(self.members[better.0].up_since()?);
        let reason = format!(
            "member {} has weight {} over {} and was up for {}",
            self.name(better),
            self.weight(better),
            self.weight(active),
            in_words(up_for),
        );
        Some(Choice { to: Some(better), kind: SwitchKind::Failback, reason })
    }

    fn take_up_again(&self) -> Option<Choice> {
        let best = self.best_up()?;
        let reason = format!("member {} came up while no member was active", self.name(best));
        Some(Choice { to: Some(best), kind: SwitchKind::Failover, reason })
    }

    /// When the next failback is due if no probe says anything new.
    pub(super) fn next_failback(&self) -> Option<Time> {
        let active = self.standing.active()?;
        self.ids().filter_map(|member| self.failback_at(active, member)).min()
    }

    /// When `member` may be failed back to; `None`: not as things are.
    fn failback_at(&self, active: MemberId, member: MemberId) -> Option<Time> {
        let failback = &self.service.failback;
        let wanted = failback.mode == FailbackMode::Auto
            && self.state(active) == MemberState::Up
            && self.weight(member) > self.weight(active);
        let up_since = self.members[member.0].up_since().filter(|_| wanted)?;
        Some((up_since + failback.healthy_for).max(self.hold_until))
    }

    /// What keeps `member` from becoming active now; `None`: nothing, or it is the active one and up.
    ///
    /// A member that is not better than the active one stands by: nothing keeps it from taking over. A better
    /// one is told what the failback to it waits for, though a failover would take it without waiting.
    pub(super) fn obstacle(&self, member: MemberId) -> Option<String> {
        match self.state(member) {
            MemberState::Unknown => return Some("no verdict yet".to_owned()),
            MemberState::Drained => return Some("taken out by an operator".to_owned()),
            MemberState::Down => {
                let why = self.members[member.0].down_because().unwrap_or_default();
                return Some(format!("down: {why}"));
            }
            MemberState::Up => {}
        }
        match self.standing {
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
        let failback = &self.service.failback;
        match failback.mode {
            FailbackMode::Auto => {}
            FailbackMode::Manual => return Some("failback is left to an operator".to_owned()),
            FailbackMode::Never => return Some("failback is switched off".to_owned()),
        }
        if self.state(active) != MemberState::Up {
            return Some(format!("the active member {} has no verdict yet", self.name(active)));
        }
        let up_for = self.now.since(self.members[member.0].up_since()?);
        if up_for < failback.healthy_for {
            return Some(format!("healthy for {} of {}", in_words(up_for), in_words(failback.healthy_for)));
        }
        let hold = self.hold_until.since(self.now);
        (!hold.is_zero()).then(|| format!("hold-down for {} more", in_words(hold)))
    }

    pub(super) fn best_up(&self) -> Option<MemberId> {
        self.best(self.ids().filter(|member| self.state(*member) == MemberState::Up))
    }

    /// The heaviest; `min_by_key` takes the first of equals.
    fn best(&self, members: impl Iterator<Item = MemberId>) -> Option<MemberId> {
        members.min_by_key(|member| Reverse(self.weight(*member)))
    }

    fn ids(&self) -> impl Iterator<Item = MemberId> + use<> {
        (0..self.members.len()).map(MemberId)
    }

    fn count(&self, state: MemberState) -> usize {
        self.members.iter().filter(|health| health.state() == state).count()
    }

    fn state(&self, member: MemberId) -> MemberState {
        self.members[member.0].state()
    }

    fn weight(&self, member: MemberId) -> u32 {
        self.service.members[member.0].weight
    }

    /// Quoted, as messages name a member.
    fn name(&self, member: MemberId) -> String {
        format!("{:?}", self.service.members[member.0].name)
    }
}
