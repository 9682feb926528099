//! Going on where an earlier agent stopped.

use std::time::Duration;

use super::{
    Action, Core, Draining, Resumed, ResumedSwitch, Spread, Switch,
    choice::Standing,
    drains::{Drain, Drains},
};
use crate::model::{Epoch, FlowPolicy, MemberId, SwitchKind};

impl Core {
    /// Takes over the active member, and finishes what the switches so far had begun.
    pub(super) fn resume(&mut self, resumed: Resumed) {
        let Resumed { active, epoch, floor, last } = resumed;
        self.epoch = epoch;
        if let Some(active) = active {
            self.standing = Standing::Active(active);
        }
        let Some(ResumedSwitch { from, kind, policy, reason, age, drains, is_older }) = last else {
            return;
        };
        if is_older {
            if let Some(drains) = drains {
                self.resume_drains(drains, floor);
            }
            return;
        }
        if kind != SwitchKind::Manual {
            self.hold_until = self.now + self.service.failback.hold_down.saturating_sub(age);
        }
        // No verdict says by now whether the member that was left lived then.
        let policy = policy.unwrap_or_else(|| self.policy(from, kind));
        let over = self.spread_over(from, kind, policy);
        match drains {
            Some(drains) => self.resume_drains(drains, floor),
            None if floor < epoch => self.resume_newest_drain(from, kind, policy, age),
            None => {}
        }
        let at = self.now.ago(age);
        self.last = Some(Switch { from, to: active, epoch, policy, over, kind, reason, borne: None, at });
    }

    /// Goes on with all drains. A switch that is on record and does not drain has reset or kept its flows already.
    fn resume_drains(&mut self, mut drains: Vec<Draining>, floor: Epoch) {
        self.kept_drains = Drains::resumed(drains.clone());
        let active = self.standing.active();
        // The earlier agent died between a floor and the record of it; but a member that is active again got no floor.
        let goes_on = |drain: Drain| drain.epoch > floor || active.is_some() && drain.from == active;
        drains.retain(|draining| goes_on(draining.drain) && draining.drain.epoch <= self.epoch);
        self.drains = Drains::resumed(drains);
        for Draining { deadline, drain } in self.drains.list() {
            if drain.spread == Spread::UnderWay {
                self.spread(drain.from, drain.epoch, deadline.since(self.now));
            }
        }
    }

    /// Without a record of drains: goes on with that of the newest switch, as the service would have it now.
    fn resume_newest_drain(
        &mut self,
        from: Option<MemberId>,
        kind: SwitchKind,
        policy: FlowPolicy,
        age: Duration,
    ) {
        let epoch = self.epoch;
        let over = self.spread_over(from, kind, policy);
        let rest_of = |whole: Duration| whole.saturating_sub(age);
        match policy {
            FlowPolicy::Reset if !over.is_zero() => {
                self.drains.begin(self.now, rest_of(over), Drain::of(epoch, from, Spread::UnderWay));
                self.spread(from, epoch, rest_of(over));
            }
            FlowPolicy::Reset => self.actions.push_back(Action::RaiseFloor { epoch }),
            FlowPolicy::Drain => {
                let rest = rest_of(self.service.drain_timeout);
                self.drains.begin(self.now, rest, Drain::of(epoch, from, self.spread_at_end(from, kind)));
            }
            FlowPolicy::Keep => {}
        }
    }
}
