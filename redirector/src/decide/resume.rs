//! Going on where an earlier agent stopped.

use std::time::Duration;

use super::{Action, Core, Resumed, ResumedSwitch, Switch, choice::Standing, drains::Drain};
use crate::model::{FlowPolicy, SwitchKind};

impl Core {
    /// Takes over the active member, and finishes what the switch to it had begun.
    pub(super) fn resume(&mut self, resumed: Resumed) {
        let Resumed { active, epoch, floor, last } = resumed;
        self.epoch = epoch;
        if let Some(active) = active {
            self.standing = Standing::Active(active);
        }
        let Some(ResumedSwitch { from, kind, policy, reason, age }) = last else {
            return;
        };
        let rest_of = |whole: Duration| whole.saturating_sub(age);
        if kind != SwitchKind::Manual {
            self.hold_until = self.now + rest_of(self.service.failback.hold_down);
        }
        // No verdict says by now whether the member that was left lived then.
        let policy = policy.unwrap_or_else(|| self.policy(from, kind));
        let over = self.spread_over(from, kind, policy);
        if floor < epoch {
            match policy {
                FlowPolicy::Reset if !over.is_zero() => {
                    self.drains.begin(self.now, rest_of(over), Drain::of(epoch, from, false));
                    self.spread(from, epoch, rest_of(over));
                }
                // The earlier agent died between the decision and the floor.
                FlowPolicy::Reset => self.actions.push_back(Action::RaiseFloor { epoch }),
                FlowPolicy::Drain => {
                    let spreads = from.is_some_and(|from| self.is_planned(from, kind));
                    let rest = rest_of(self.service.drain_timeout);
                    self.drains.begin(self.now, rest, Drain::of(epoch, from, spreads));
                }
                FlowPolicy::Keep => {}
            }
        }
        let at = self.now.ago(age);
        self.last = Some(Switch { from, to: active, epoch, policy, over, kind, reason, borne: None, at });
    }
}
