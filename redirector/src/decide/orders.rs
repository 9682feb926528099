//! What an operator has said and still holds: the pin, drained members, the pause, weights.
//!
//! The core keeps it by member number; [`Orders`] is the same by name, for the disk: an agent that is restarted, with
//! another configuration perhaps, goes on with it. Of a member that is not there any more, and of a weight that the
//! configuration has changed since, nothing is left then.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Action, Core, Time};
use crate::model::{MemberId, MemberState, Service};

/// What an operator has said and still holds, to be kept over a restart. Times are the caller's: an expiry is to be kept
/// by the time of day, because it goes on while no agent runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// The member that stays active.
    pub pin: Option<Pin>,
    /// Whether nothing automatic moves the service.
    pub paused: bool,
    /// Members that are taken out of the choice, and how.
    pub drained: BTreeMap<String, Drained>,
    /// Weights other than the configuration's.
    pub weights: BTreeMap<String, Weight>,
}

/// A member that an operator chose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Its name.
    pub member: String,
    /// When the pin ends by itself; `None`: never.
    pub until: Option<Time>,
    /// It is not left for being down: it was not up when it was forced, nor since.
    pub against_checks: bool,
    /// The operator's own words.
    pub reason: String,
}

/// A member's weight by order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weight {
    /// What holds.
    pub now: u32,
    /// What the configuration said when the order was given. With another one it ends.
    pub configured: u32,
}

/// The same by member number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StandingOrders {
    pub(super) pin: Option<Pinned>,
    pub(super) paused: bool,
    /// One for each member, as the others here.
    pub(super) drained: Vec<Option<Drained>>,
    /// What holds is in the service itself too.
    pub(super) weights: Vec<Option<Weight>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pinned {
    pub(super) member: MemberId,
    pub(super) until: Option<Time>,
    pub(super) against_checks: bool,
    pub(super) reason: String,
}

/// How a member was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// It is left without a round of checks of the other and without regard to gates.
    pub force: bool,
}

impl StandingOrders {
    /// Nothing was said.
    pub(super) fn none(members: usize) -> Self {
        Self { drained: vec![None; members], weights: vec![None; members], ..Self::default() }
    }

    pub(super) fn is_drained(&self, member: MemberId) -> bool {
        self.drained[member.0].is_some()
    }

    /// Whether `member` is not to be left although its checks say that it is down.
    pub(super) fn against_checks(&self, member: MemberId) -> bool {
        self.pin.as_ref().is_some_and(|pin| pin.against_checks && pin.member == member)
    }

    fn named(&self, service: &Service) -> Orders {
        let name = |member: usize| service.members[member].name.clone();
        let pin = self.pin.clone().map(|Pinned { member, until, against_checks, reason }| Pin {
            member: name(member.0),
            until,
            against_checks,
            reason,
        });
        let drained = self.drained.iter().enumerate();
        let weights = self.weights.iter().enumerate();
        Orders {
            pin,
            paused: self.paused,
            drained: drained.filter_map(|(member, drained)| Some((name(member), (*drained)?))).collect(),
            weights: weights.filter_map(|(member, weight)| Some((name(member), (*weight)?))).collect(),
        }
    }
}

impl Core {
    /// What an operator has said and still holds.
    #[must_use]
    pub fn orders(&self) -> Orders {
        self.orders.named(&self.service)
    }

    /// Goes on with what an operator said to an earlier agent. To be called right after [`Self::new`].
    pub fn take_up(&mut self, now: Time, kept: &Orders) {
        self.now = self.now.max(now);
        let names: Vec<_> = self.service.members.iter().map(|member| member.name.clone()).collect();
        let find = |name: &str| names.iter().position(|known| known == name);
        self.orders.paused = kept.paused;
        self.orders.pin = kept.pin.as_ref().and_then(|pin| {
            let member = MemberId(find(&pin.member)?);
            let Pin { until, against_checks, ref reason, .. } = *pin;
            Some(Pinned { member, until, against_checks, reason: reason.clone() })
        });
        for (name, drained) in &kept.drained {
            if let Some(member) = find(name) {
                self.orders.drained[member] = Some(*drained);
            }
        }
        for (name, weight) in &kept.weights {
            let Some(member) = find(name) else { continue };
            let holds = &mut self.service.members[member].weight;
            if *holds == weight.configured {
                self.orders.weights[member] = Some(*weight);
                *holds = weight.now;
            }
        }
        // Of what is said of a member or a weight that is not there any more, nothing is kept.
        self.kept_orders = self.orders.clone();
        if self.orders() != *kept {
            self.actions.push_back(Action::Orders(self.orders()));
        }
        self.settle();
    }

    /// Ends what has run out, and what the checks have overtaken.
    pub(super) fn expire_orders(&mut self) {
        let now = self.now;
        self.orders.pin.take_if(|pin| pin.until.is_some_and(|until| until <= now));
        if let Some(pin) = &mut self.orders.pin
            && self.members[pin.member.0].state() == MemberState::Up
        {
            pin.against_checks = false;
        }
    }

    /// Says what is to be kept, if that is new.
    pub(super) fn keep_orders(&mut self) {
        // Without orders, which is nearly always, nothing is built.
        if self.orders == self.kept_orders {
            return;
        }
        self.kept_orders = self.orders.clone();
        self.actions.push_back(Action::Orders(self.orders()));
    }
}
