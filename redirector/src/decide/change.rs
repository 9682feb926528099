//! A configuration that was reloaded: the service is another one, and what is known of it is carried over.

use std::net::SocketAddr;

use super::{
    Action, Core, Refused, Time,
    answers::Answers,
    choice::{Choice, Standing},
    flap::Flap,
    health::Change,
    member::Member,
    orders::StandingOrders,
    signals::Seen,
};
use crate::model::{Check, CheckId, MemberId, MemberState, Service, Signals, SwitchKind};

impl Core {
    /// Whether [`Self::leave_removed`] has anything to do.
    #[must_use]
    pub fn would_leave(&self, members: &[Option<MemberId>]) -> bool {
        matches!(self.standing, Standing::Active(active) if !members.contains(&Some(active)))
    }

    /// First step of a reload, still with the old members: leaves the active one if it is to be removed, as an operator does
    /// who drains it ([`Service::on_failback`], or `on_failover` if it is down). The caller carries out the actions and then
    /// calls [`Self::set_service`]. `members` is what is handed in there.
    ///
    /// # Errors
    ///
    /// The active member is to be removed and no other that stays is up. Nothing has changed; the reload should be refused as
    /// a whole. With `force` this is no error: the service is without an active member until one comes up.
    pub fn leave_removed(
        &mut self,
        now: Time,
        members: &[Option<MemberId>],
        force: bool,
    ) -> Result<(), Refused> {
        let now = self.now.max(now);
        let Standing::Active(active) = self.standing else { return Ok(()) };
        if members.contains(&Some(active)) {
            return Ok(());
        }
        let stays = |member: &MemberId| members.contains(&Some(*member));
        let Some(best) = self.situation(now).best_of_those_up(stays, active) else {
            let name = &self.service.members[active.0].name;
            return if force {
                Ok(())
            } else {
                let reason = format!("member {name:?} is active, and no member that stays is up");
                Err(Refused::new(reason, "keep it until another one is up, or force the reload"))
            };
        };
        let name = &self.service.members[active.0].name;
        let reason = format!("member {name:?} is removed from the configuration");
        // Only now: a call that changes nothing passes over nothing that was due.
        self.now = now;
        self.switch(Choice { to: Some(best), kind: SwitchKind::Manual, reason, round: false });
        self.settle();
        Ok(())
    }

    /// Second step of a reload: the service is `service` now, and each of its members was the one of `members` before, or is
    /// new (`None`). Numbers of members and checks are those of `service` from here on, also in the actions that follow: the
    /// caller has carried out all earlier ones. Addresses of new members come with [`Self::on_addresses`], also of those whose
    /// endpoint is another one.
    ///
    /// Carried over are the active member, epoch, drains, states; of each check of the same name and kind what it has
    /// counted (a new check is unknown, so its member may be for one probe); flap scores; what an operator has said, but
    /// for members that are gone, and weights where the configuration has another one now. A switch that waits is called off.
    ///
    /// The flows of a member that is gone and was not active are the caller's business: the core does not know it any more.
    ///
    /// # Panics
    ///
    /// When `members` has another length than the members of `service`, or an old member twice.
    pub fn set_service(&mut self, now: Time, service: Service, members: &[Option<MemberId>]) {
        assert_eq!(members.len(), service.members.len(), "one origin for each member");
        self.now = self.now.max(now);
        self.call_off("the configuration was reloaded");
        self.round = None;
        self.rearm(&service);
        let new_number = |old: MemberId| members.iter().position(|from| *from == Some(old)).map(MemberId);
        self.standing = match self.standing {
            Standing::Active(old) => {
                new_number(old).map_or(Standing::Choosing { until: None }, Standing::Active)
            }
            other => other,
        };
        if let Some(last) = &mut self.last {
            last.from = last.from.and_then(new_number);
            last.to = last.to.and_then(new_number);
        }
        self.leaving.renumber(new_number);
        self.drains.renumber(new_number);
        // They are kept by name, and by that nothing is new unless a member is gone.
        if self.kept_drains.members().into_iter().all(|member| new_number(member).is_some()) {
            self.kept_drains.renumber(new_number);
        }
        let orders = self.orders();
        self.orders = self.carried_orders(&service, members);
        let old = std::mem::replace(&mut self.service, service);
        for (member, order) in self.service.members.iter_mut().zip(&self.orders.weights) {
            member.weight = order.map_or(member.weight, |weight| weight.now);
        }
        // By number it is another one in any case; by name it may be the same.
        self.kept_orders = self.orders.clone();
        if self.orders() != orders {
            self.actions.push_back(Action::Orders(self.orders()));
        }
        let changes = self.carry_members(&old, members);
        self.settle();
        for (member, changes) in changes {
            self.tell_member(member);
            for (address, change) in changes {
                self.tell_address(member, address, change);
            }
        }
    }

    /// A hold-down under way lasts as long as the new one says.
    fn rearm(&mut self, service: &Service) {
        let (old, new) = (self.service.failback.hold_down, service.failback.hold_down);
        let longer = new.saturating_sub(old);
        self.hold_until = (self.hold_until + longer).ago(old.saturating_sub(new));
        if let Standing::Choosing { until: Some(until) } = &mut self.standing {
            let (old, new) = (self.service.initial_timeout, service.initial_timeout);
            *until = (*until + new.saturating_sub(old)).ago(old.saturating_sub(new));
        }
    }

    fn carried_orders(&self, service: &Service, members: &[Option<MemberId>]) -> StandingOrders {
        let new_number = |old: MemberId| members.iter().position(|from| *from == Some(old)).map(MemberId);
        let pin = self.orders.pin.clone();
        StandingOrders {
            pin: pin.and_then(|mut pin| {
                pin.member = new_number(pin.member)?;
                Some(pin)
            }),
            paused: self.orders.paused,
            drained: members.iter().map(|from| self.orders.drained[(*from)?.0]).collect(),
            weights: (members.iter().zip(&service.members))
                .map(|(from, member)| {
                    self.orders.weights[(*from)?.0].filter(|weight| weight.configured == member.weight)
                })
                .collect(),
        }
    }

    /// Returns what the checks that are others now have changed.
    fn carry_members(
        &mut self,
        old: &Service,
        members: &[Option<MemberId>],
    ) -> Vec<(MemberId, Vec<(SocketAddr, Change)>)> {
        let mut changes = Vec::new();
        let mut before: Vec<_> = std::mem::take(&mut self.members).into_iter().map(Some).collect();
        let mut answers = Vec::new();
        for (number, from) in members.iter().enumerate() {
            let checks = &self.service.members[number].checks;
            let Some(from) = from else {
                self.members.push(Member::new(&[], checks, self.service.combine, self.now));
                answers.push(Answers::default());
                continue;
            };
            let origins = origins(&old.members[from.0].checks, checks);
            let mut member = before[from.0].take().expect("an old member is the origin of one new one");
            let changed = member.set_checks(checks, &origins, self.service.combine, self.now);
            // What was counted at another address says nothing of this one.
            let is_new = (old.breaker, old.signals) != (self.service.breaker, self.service.signals)
                || old.members[from.0].endpoint != self.service.members[number].endpoint;
            let acts = self.service.signals == Signals::Act;
            member.set_breaker(self.service.breaker.as_ref().filter(|_| acts), is_new, self.now);
            self.members.push(member);
            changes.push((MemberId(number), changed));
            let mut carried = std::mem::take(&mut self.answers[from.0]);
            carried.rearrange(&origins);
            answers.push(carried);
        }
        self.answers = answers;
        self.offered = carried(&self.offered, members, Vec::new());
        self.told = carried(&self.told, members, MemberState::Unknown);
        self.flaps = carried(&self.flaps, members, Flap::default());
        self.rejected = carried(&self.rejected, members, None);
        self.heard_again = carried(&self.heard_again, members, None);
        self.seen = carried(&self.seen, members, Seen::default());
        for (seen, member) in self.seen.iter_mut().zip(&self.service.members) {
            seen.set_checks(&member.checks);
        }
        if old.signals != self.service.signals {
            self.seen.iter_mut().for_each(Seen::begin_anew);
        }
        self.vetoed = carried(&self.vetoed, members, None);
        for (member, _) in &changes {
            self.offer_and_leave(*member);
        }
        changes
    }
}

/// Which old check each new one goes on: that of the same name and kind.
fn origins(old: &[Check], new: &[Check]) -> Vec<Option<CheckId>> {
    let origin = |check: &Check| {
        let same = |old: &Check| (&old.name, &old.kind) == (&check.name, &check.kind);
        old.iter().position(same).map(CheckId)
    };
    new.iter().map(origin).collect()
}

fn carried<T: Clone>(old: &[T], members: &[Option<MemberId>], new: T) -> Vec<T> {
    members.iter().map(|from| from.map_or_else(|| new.clone(), |from| old[from.0].clone())).collect()
}
