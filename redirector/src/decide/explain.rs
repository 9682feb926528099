//! Why a service is as it is, and what would change it: the whole chain from a check's newest answer to the choice.
//!
//! Plain data for people and scripts. Times are milliseconds from the moment of the question: how long ago, or how much is
//! left.

use std::{borrow::Cow, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Core, Time,
    breaker::Counts,
    choice::{Situation, Standing},
    health::{CheckHealth, CheckState, Health},
    signals::Kind,
    time::in_words,
};
use crate::model::{CheckId, FailbackMode, MemberId, MemberState, ServiceState, SwitchKind};

/// A service at one moment, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Its name.
    pub service: String,
    /// How it is.
    pub state: ServiceState,
    /// Where new connections go; `None`: they are refused.
    pub active: Option<String>,
    /// Grows by one with each switch.
    pub epoch: u32,
    /// The newest switch: the rule that made the present choice.
    pub last_switch: Option<SwitchExplanation>,
    /// The rule that holds now, in words.
    pub rule: String,
    /// What an operator has said and still holds.
    pub orders: OrdersExplanation,
    /// Why this host suspects itself.
    pub suspicion: Option<String>,
    /// What runs, the next to end first.
    pub timers: Vec<Timer>,
    /// What would change the decision, in words.
    pub would_change: Vec<String>,
    /// In the order of the configuration.
    pub members: Vec<MemberExplanation>,
}

/// The newest switch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SwitchExplanation {
    /// The member that was left.
    pub from: Option<String>,
    /// The member that was chosen.
    pub to: Option<String>,
    /// By which rule.
    pub kind: SwitchKind,
    /// In words.
    pub reason: String,
    /// How long ago.
    pub ago_ms: u64,
}

/// What an operator has said and still holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OrdersExplanation {
    /// The pinned member.
    pub pinned: Option<String>,
    /// Until the pin ends; `None`: until it is released, or there is none.
    pub pin_left_ms: Option<u64>,
    /// The pinned member is not left for being down.
    pub against_checks: bool,
    /// Nothing automatic moves the service.
    pub paused: bool,
    /// The member that an operator wants active, while its round of checks is under way.
    pub switching_to: Option<String>,
}

/// Something that ends by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timer {
    /// Which one: `hold_down`, `healthy_for`, `pin`, `drain`, `first_choice`, `round`, `hooks`, `doubt`, `breaker`,
    /// `look`, `tolerance`.
    pub name: Cow<'static, str>,
    /// The member that it is about.
    pub member: Option<String>,
    /// How much is left.
    pub left_ms: u64,
    /// What happens then, in words.
    pub then: String,
}

/// A member at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberExplanation {
    /// Its name.
    pub name: String,
    /// What its checks say, or that it was taken out by an operator.
    pub state: MemberState,
    /// What its checks say in any case.
    pub checks_say: MemberState,
    /// For how long they have said so.
    pub for_ms: u64,
    /// Why, in words.
    pub reason: String,
    /// Its weight now.
    pub weight: u32,
    /// What the configuration says, where an operator has said otherwise.
    pub configured_weight: Option<u32>,
    /// Taken out by an operator.
    pub drained: bool,
    /// What keeps it from becoming active now; `None`: nothing, or it is active and up.
    pub obstacle: Option<String>,
    /// Why no living member is left for it: a gate. `None`: no gate bars it.
    pub gate: Option<String>,
    /// Whether its newest answers are as new as they should be.
    pub fresh: bool,
    /// How often it went down lately.
    pub flap_score: f64,
    /// How long it must be up without a break before a failback.
    pub healthy_for_ms: u64,
    /// What its traffic has shown, kind by kind.
    #[serde(default)]
    pub signals: Vec<SignalExplanation>,
    /// The breaker; `None`: the service has none.
    #[serde(default)]
    pub breaker: Option<BreakerExplanation>,
    /// IPv4 first.
    pub addresses: Vec<AddressExplanation>,
}

/// Signals of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignalExplanation {
    /// Which kind; each error is one.
    pub signal: String,
    /// How often it was seen since the agent started.
    pub count: u64,
    /// How long ago the newest came.
    pub ago_ms: u64,
}

/// The breaker of a member at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BreakerExplanation {
    /// `closed`, `open` or `half_open`.
    pub state: Cow<'static, str>,
    /// For how long it has not been closed; `None`: it is.
    pub for_ms: Option<u64>,
    /// Attempts of clients within the window.
    pub attempts: u64,
    /// How many of them failed.
    pub failures: u64,
    /// Failures in a row, at least.
    pub in_a_row: u32,
}

/// An address at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AddressExplanation {
    /// The address.
    pub address: SocketAddr,
    /// What its checks say.
    pub state: MemberState,
    /// Whether new flows may go there.
    pub offered: bool,
    /// In the order of the configuration.
    pub checks: Vec<CheckExplanation>,
}

/// A check of an address at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckExplanation {
    /// Its name.
    pub name: String,
    /// What it is good for: `count`, `veto`, `gate`, `observe`.
    pub effect: Cow<'static, str>,
    /// `unknown`, `passing` or `failing`.
    pub state: Cow<'static, str>,
    /// Its newest outcome, and how far a count has come.
    pub reason: String,
    /// Consecutive, up to now.
    pub passes: u32,
    /// How many make it pass when it fails.
    pub rise: u32,
    /// Consecutive, up to now.
    pub failures: u32,
    /// How many make it fail.
    pub fall: u32,
    /// How long ago the newest outcome came; `None`: none did.
    pub answered_ms_ago: Option<u64>,
    /// When it fails unless it passes before: the rest of its tolerance.
    pub fails_in_ms: Option<u64>,
}

impl Core {
    /// Why the service is as it is at `now`, and what would change it.
    #[must_use]
    pub fn explain(&self, now: Time) -> Explanation {
        let now = now.max(self.now);
        let mut timers = self.timers(now);
        timers.sort_by_key(|timer| timer.left_ms);
        let pin = self.orders.pin.as_ref();
        let last_switch = self.last.as_ref().map(|last| SwitchExplanation {
            from: last.from.map(|member| self.name_of(member)),
            to: last.to.map(|member| self.name_of(member)),
            kind: last.kind,
            reason: last.reason.clone(),
            ago_ms: millis(now.since(last.at)),
        });
        Explanation {
            service: self.service.name.clone(),
            state: self.state(),
            active: self.standing.active().map(|member| self.name_of(member)),
            epoch: self.epoch.0,
            last_switch,
            rule: self.rule(now),
            orders: OrdersExplanation {
                pinned: pin.map(|pin| self.name_of(pin.member)),
                pin_left_ms: pin.and_then(|pin| Some(millis(pin.until?.since(now)))),
                against_checks: pin.is_some_and(|pin| pin.against_checks),
                paused: self.orders.paused,
                switching_to: self.manual.as_ref().map(|manual| self.name_of(manual.to)),
            },
            suspicion: self.suspicion_in_words(now),
            timers,
            would_change: self.would_change(now),
            members: (0..self.members.len())
                .map(|member| self.explain_member(MemberId(member), now))
                .collect(),
        }
    }

    /// The rule that holds now.
    fn rule(&self, now: Time) -> String {
        let paused = self.orders.paused;
        let active = match self.standing {
            _ if paused && self.standing.active().is_none() => {
                return "paused by an operator: no member is chosen".to_owned();
            }
            Standing::Choosing { until: Some(_) } => {
                return format!(
                    "no member was chosen yet: every member must have a verdict, and {} be up",
                    match self.service.initial {
                        crate::model::Initial::Any => "one",
                        crate::model::Initial::Majority => "more than half",
                        crate::model::Initial::All => "all",
                    }
                );
            }
            Standing::Choosing { until: None } => return "the first member that is up is taken".to_owned(),
            Standing::Held => {
                return "all members were down, and new connections are refused: the first that comes up is taken"
                    .to_owned();
            }
            Standing::Active(active) => active,
        };
        let name = self.name_of(active);
        match self.members[active.0].state() {
            MemberState::Down if paused => format!("{name} is down and stays active: paused by an operator"),
            MemberState::Down if self.orders.against_checks(active) => {
                format!("{name} is down and stays active: forced by an operator")
            }
            MemberState::Down => match self.doubt(active, now) {
                Some(doubt) => format!("{name} is down and not left yet: {}", doubt.why),
                None => format!("{name} is down and stays active: no other member is up"),
            },
            _ if self.orders.is_drained(active) => {
                format!("{name} is drained and stays active until another member may take over")
            }
            MemberState::Unknown | MemberState::Drained => {
                format!("{name} has no verdict: it is neither left nor gone to")
            }
            MemberState::Up if paused => format!("{name} stays active: paused by an operator"),
            MemberState::Up if self.orders.pin.is_some() => {
                format!("{name} is up; no failback while a pin holds")
            }
            MemberState::Up if self.state() == ServiceState::Ok => {
                format!("{name} is up, and no member has a higher weight")
            }
            MemberState::Up => {
                format!("{name} is up; a member of a higher weight is returned to when it may be")
            }
        }
    }

    fn timers(&self, now: Time) -> Vec<Timer> {
        let mut timers = Vec::new();
        let mut add = |name: &'static str, member: Option<MemberId>, at: Time, then: String| {
            if at > now {
                let member = member.map(|member| self.name_of(member));
                timers.push(Timer { name: name.into(), member, left_ms: millis(at.since(now)), then });
            }
        };
        if let Standing::Choosing { until: Some(until) } = self.standing {
            add("first_choice", None, until, "the best member that is up is taken".to_owned());
        }
        if self.standing.active().is_some() {
            add("hold_down", None, self.hold_until, "a failback may be made again".to_owned());
        }
        if let Some(pin) = &self.orders.pin
            && let Some(until) = pin.until
        {
            add("pin", Some(pin.member), until, "the pin ends".to_owned());
        }
        if let Some(at) = self.drains.next_deadline() {
            add("drain", None, at, "flows that are left on members that were left are reset".to_owned());
        }
        if let Some(round) = &self.round {
            let then = "checks that have not answered count as failed".to_owned();
            add("round", Some(round.member), round.until, then);
        }
        if let (Some(round), Some(until)) = (&self.round, self.hooks_asked_until()) {
            let then = "hooks that have not answered have failed".to_owned();
            add("hooks", Some(round.member), until, then);
        }
        if let Some(active) = self.standing.active() {
            let down = self.members[active.0].state() == MemberState::Down;
            if let Some(doubt) = self.doubt(active, now).filter(|_| down) {
                add("doubt", Some(active), doubt.until, "it is left, whatever was heard".to_owned());
            }
        }
        for (member, doubt) in self.doubted_drains(now) {
            let then = format!("its flows are reset, whatever was heard; {}", doubt.why);
            add("doubt", Some(member), doubt.until, then);
        }
        for (member, address, doubt) in self.doubted_addresses(now) {
            let then = format!("the flows of {address} are reset, whatever was heard; {}", doubt.why);
            add("doubt", Some(member), doubt.until, then);
        }
        for (number, member) in self.members.iter().enumerate() {
            let id = MemberId(number);
            if let Some(since) = member.up_since() {
                let healthy_for = self.flaps[number].healthy_for(&self.service.failback);
                add("healthy_for", Some(id), since + healthy_for, "it may be returned to".to_owned());
            }
            if let Some(at) = member.breaker().next_deadline() {
                add("breaker", Some(id), at, "its checks must pass anew".to_owned());
            }
            if let Some(at) = self.look_due(id) {
                add("look", Some(id), at, "its probers look because of a signal".to_owned());
            }
            if let Some(at) = member.next_tolerance() {
                add("tolerance", Some(id), at, "a check fails unless it passes before".to_owned());
            }
        }
        timers
    }

    fn would_change(&self, now: Time) -> Vec<String> {
        let mut changes = Vec::new();
        let Standing::Active(active) = self.standing else {
            if self.orders.paused {
                return vec!["`resume`: nothing automatic happens until then".to_owned()];
            }
            return vec!["a member that comes up".to_owned()];
        };
        let situation = self.situation(now);
        if self.orders.paused {
            changes.push("nothing automatic: paused until `resume`".to_owned());
        } else {
            let name = self.name_of(active);
            changes.push(match situation.best_of_those_up(|member| *member != active, active) {
                Some(next) => format!("failover to {} as soon as {name} is down", self.name_of(next)),
                None => format!("failover to the first other member that comes up, if {name} is down then"),
            });
        }
        if let Some(pin) = &self.orders.pin {
            let end = match pin.until {
                Some(until) => format!("for {} more", in_words(until.since(now))),
                None => "until `release`".to_owned(),
            };
            changes.push(format!("no failback: {} is pinned {end}", self.name_of(pin.member)));
        }
        for member in self.candidates().filter(|member| *member != active) {
            changes.extend(self.failback_in_words(&situation, active, member, now));
        }
        changes
    }

    /// What a failback to `member` waits for, if it is better than the active one.
    fn failback_in_words(
        &self,
        situation: &Situation<'_>,
        active: MemberId,
        member: MemberId,
        now: Time,
    ) -> Option<String> {
        let weight = |member: MemberId| self.service.members[member.0].weight;
        if weight(member) <= weight(active) || self.orders.paused || self.orders.pin.is_some() {
            return None;
        }
        let name = self.name_of(member);
        if self.service.failback.mode != FailbackMode::Auto {
            return Some(format!(
                "`switch` to {name}: its weight is higher, and the agent does not fail back"
            ));
        }
        if let Some(at) = situation.failback_at(active, member) {
            let left = at.since(now);
            return Some(if left.is_zero() {
                format!("failback to {name} when its round of checks has passed")
            } else {
                format!("failback to {name} in {} if it stays up", in_words(left))
            });
        }
        situation.obstacle(member).map(|obstacle| format!("no failback to {name} yet: {obstacle}"))
    }

    fn explain_member(&self, id: MemberId, now: Time) -> MemberExplanation {
        let member = &self.members[id.0];
        let (state, reason) = self.shown(id);
        let addresses = member.addresses().map(|(address, health, offered)| AddressExplanation {
            address,
            state: health.state(),
            offered,
            checks: self.explain_checks(id, address, health, now),
        });
        MemberExplanation {
            name: self.name_of(id),
            state,
            checks_say: member.state(),
            for_ms: millis(now.since(member.since())),
            reason,
            weight: self.service.members[id.0].weight,
            configured_weight: self.orders.weights[id.0].map(|weight| weight.configured),
            drained: self.orders.is_drained(id),
            obstacle: self.situation(now).obstacle(id),
            gate: member.gate(),
            fresh: self.is_fresh(id),
            flap_score: self.flaps[id.0].score(now, self.service.failback.flap_half_life),
            healthy_for_ms: millis(self.flaps[id.0].healthy_for(&self.service.failback)),
            signals: self.explain_signals(id, now),
            breaker: self.explain_breaker(id, now),
            addresses: addresses.collect(),
        }
    }

    fn explain_signals(&self, id: MemberId, now: Time) -> Vec<SignalExplanation> {
        let explain = |kind: &Kind| {
            let (at, newest) = kind.newest;
            SignalExplanation {
                signal: newest.kind.to_string(),
                count: kind.total,
                ago_ms: millis(now.since(at)),
            }
        };
        self.seen[id.0].kinds().map(explain).collect()
    }

    fn explain_breaker(&self, id: MemberId, now: Time) -> Option<BreakerExplanation> {
        let settings = self.service.breaker.as_ref()?;
        let breaker = self.members[id.0].breaker();
        let Counts { attempts, failures, row } = breaker.counts(now, settings);
        Some(BreakerExplanation {
            state: breaker.state().name().into(),
            for_ms: breaker.since().map(|since| millis(now.since(since))),
            attempts,
            failures,
            in_a_row: row,
        })
    }

    fn explain_checks(
        &self,
        id: MemberId,
        address: SocketAddr,
        health: &Health,
        now: Time,
    ) -> Vec<CheckExplanation> {
        let explain = |(number, check): (usize, &CheckHealth)| CheckExplanation {
            name: check.name.clone(),
            effect: check.effect.name().into(),
            state: match check.state() {
                CheckState::Unknown => "unknown",
                CheckState::Passing => "passing",
                CheckState::Failing => "failing",
            }
            .into(),
            reason: check.reason(),
            passes: check.passes,
            rise: check.rise,
            failures: check.failures,
            fall: check.fall,
            answered_ms_ago: (self.answers[id.0].of(address, CheckId(number)))
                .map(|answer| millis(now.since(answer.at))),
            fails_in_ms: check.fails_at().map(|at| millis(at.since(now))),
        };
        health.checks().iter().enumerate().map(explain).collect()
    }

    /// How a member is called.
    ///
    /// # Panics
    ///
    /// When `member` is not of the service.
    #[must_use]
    pub fn name_of(&self, member: MemberId) -> String {
        self.service.members[member.0].name.clone()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
