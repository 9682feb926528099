//! Hooks before a switch: when a candidate's round has passed, whoever the operator named is asked, and may say no.
//!
//! Only a switch that can wait does: a failback, or one by an operator without `--force`. A failover never asks. The question
//! is a part of the round: what ends the round (the candidate goes down, a failover, a reload) ends the question, and an
//! answer that comes later means nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Action, Core, choice::Choice, round::Round, time::Time};
use crate::model::{HookFailure, HookWhen, MemberId, SwitchKind};

/// Beyond the time-outs, for the way through the agent.
const ROOM: Duration = Duration::from_secs(1);

/// A candidate that was refused is not proposed again by the agent itself before this.
const PAUSE_AFTER_VETO: Duration = Duration::from_secs(60);

/// A question to the hooks before a switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asking {
    ask: u64,
    kind: SwitchKind,
    /// What they have not said by then is decided without them.
    pub(super) until: Time,
    said: Option<Result<(), String>>,
}

/// What hooks said against a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Vetoed {
    pub(super) until: Time,
    pub(super) why: String,
}

impl Core {
    /// The hooks that [`Action::AskHooks`] asked have answered: the switch may be made, or why not. An answer to a question
    /// that stands no more is ignored.
    pub fn on_hooks(&mut self, now: Time, ask: u64, said: Result<(), String>) {
        self.now = self.now.max(now);
        let asking = self.round.as_mut().and_then(|round| round.hooks.as_mut());
        if let Some(asking) = asking.filter(|asking| asking.ask == ask && asking.said.is_none()) {
            asking.said = Some(said);
        }
        self.settle();
    }

    /// Whether hooks let a switch of this kind be made, whose round has passed.
    pub(super) fn hooks_agree(&self, round: &Round, kind: SwitchKind) -> bool {
        let asked = round.hooks.as_ref().filter(|asking| asking.kind == kind);
        let nobody_to_ask = self.service.hooks_at(HookWhen::Before, kind).next().is_none();
        nobody_to_ask || asked.is_some_and(|asking| asking.said == Some(Ok(())))
    }

    /// Asks the hooks about this choice, if they were not yet. Its round has passed.
    pub(super) fn ask_hooks(&mut self, to: MemberId, choice: &Choice) {
        let kind = choice.kind;
        let Some(round) = &mut self.round else { return };
        if round.hooks.as_ref().is_some_and(|asking| asking.kind == kind) {
            return;
        }
        self.asks += 1;
        let limits: Duration = self.service.hooks_at(HookWhen::Before, kind).map(|hook| hook.timeout).sum();
        round.hooks = Some(Asking { ask: self.asks, kind, until: self.now + limits + ROOM, said: None });
        self.actions.push_back(Action::AskHooks { ask: self.asks, to, kind, reason: choice.reason.clone() });
    }

    /// Hooks that have not answered in time have by now; those that said no reject their candidate, for a while.
    pub(super) fn hear_hooks(&mut self) {
        let Some(round) = &mut self.round else { return };
        let Some(asking) = &mut round.hooks else { return };
        if asking.said.is_none() && asking.until <= self.now {
            let mut hooks = self.service.hooks_at(HookWhen::Before, asking.kind);
            let vetoes = hooks.any(|hook| hook.on_failure == HookFailure::Veto);
            asking.said =
                Some(if vetoes { Err("its hooks did not answer in time".to_owned()) } else { Ok(()) });
        }
        let Some(Err(why)) = &asking.said else { return };
        let (member, why) = (round.member, why.clone());
        self.round = None;
        if self.manual.as_ref().is_some_and(|manual| manual.to == member) {
            self.call_off(&why);
        }
        self.vetoed[member.0] = Some(Vetoed { until: self.now + PAUSE_AFTER_VETO, why });
    }

    /// What hooks said against a member that is not proposed again yet.
    pub(super) fn veto(&self, member: MemberId, now: Time) -> Option<&Vetoed> {
        self.vetoed[member.0].as_ref().filter(|vetoed| vetoed.until > now)
    }

    /// When hooks must have answered that are asked now.
    pub(super) fn hooks_asked_until(&self) -> Option<Time> {
        let asking = self.round.as_ref()?.hooks.as_ref()?;
        asking.said.is_none().then_some(asking.until)
    }
}
