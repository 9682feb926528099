//! Signals of the kernel: when the probers of a member look because of what its traffic has shown.
//!
//! A signal proves nothing: a lossy network repeats segments all day, and a firewall that rejects one container's packets
//! looks like a member that refuses. So all that it does is to take away the wait for the next probe. What follows,
//! `fall` and the tolerances, decides as it always does.
//!
//! Every signal is looked at, but not each at once:
//!
//! * A member is looked at no more often than every `fast_interval`. What comes earlier waits until then.
//! * A kind that keeps crying wolf waits longer each time, from `fast_interval` doubling up to `interval`: then it costs one probe
//!   more in an interval, and its looks come no later than without signals. Each kind by itself, so that the loss of a
//!   bad network does not hide the silence of a dead one. A probe that fails, or an interval of quiet, and the kind is
//!   believed at once again.
//! * A member that is down is not looked at: nothing new would be learnt.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Action, Core, Time};
use crate::model::{Check, MemberId, MemberState, Signal, SignalKind, Signals, Traffic};

/// What the traffic of one member has shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Seen {
    kinds: [Kind; SignalKind::COUNT],
    looked_at: Option<Time>,
}

/// Signals of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Kind {
    /// The newest, and when it came.
    newest: Option<(Time, Signal)>,
    /// How often it was seen since the agent started.
    total: u64,
    /// And since the last look.
    waiting: u32,
    looked_at: Option<Time>,
    /// From the last look to the next.
    wait: Duration,
}

/// Between which bounds looks follow each other.
#[derive(Clone, Copy, Debug)]
struct Pace {
    fast: Duration,
    normal: Duration,
}

impl Pace {
    fn of(checks: &[Check]) -> Self {
        let deciding = || checks.iter().filter(|check| check.effect.decides());
        Self {
            fast: deciding().map(|check| check.fast_interval).min().unwrap_or_default(),
            normal: deciding().map(|check| check.interval).min().unwrap_or_default(),
        }
    }
}

impl Kind {
    fn note(&mut self, now: Time, signal: Signal) {
        self.total = self.total.saturating_add(signal.count.into());
        self.waiting = self.waiting.saturating_add(signal.count);
        self.newest = Some((now, signal));
    }

    /// When what waits may be looked at; `None`: nothing waits.
    fn due(&self) -> Option<Time> {
        (self.waiting > 0).then(|| self.looked_at.map_or(Time::default(), |at| at + self.wait))
    }

    /// It is looked at. Returns what is looked at.
    fn take(&mut self, now: Time, pace: Pace) -> Option<Signal> {
        let (_, newest) = self.newest.filter(|_| self.waiting > 0)?;
        let quiet = self.looked_at.is_none_or(|at| at + self.wait + pace.normal <= now);
        self.wait = if quiet { pace.fast } else { (self.wait * 2).clamp(pace.fast, pace.normal) };
        self.looked_at = Some(now);
        Some(Signal { count: std::mem::take(&mut self.waiting), ..newest })
    }
}

impl Seen {
    /// When the member is to be looked at.
    fn due(&self, pace: Pace) -> Option<Time> {
        let kind = self.kinds.iter().filter_map(Kind::due).min()?;
        Some(self.looked_at.map_or(kind, |at| kind.max(at + pace.fast)))
    }

    /// A probe has failed: what is seen now is believed.
    pub(super) fn believe(&mut self) {
        self.kinds.iter_mut().for_each(|kind| kind.wait = Duration::ZERO);
    }
}

impl Core {
    /// The kernel has seen something in the traffic with a member. It may make the member's probers look
    /// ([`Action::Look`]), now or a little later.
    ///
    /// # Panics
    ///
    /// When `member` is not of the service.
    pub fn on_signal(&mut self, now: Time, member: MemberId, signal: &Signal) {
        self.now = self.now.max(now);
        if self.service.signals == Signals::Off {
            return;
        }
        self.seen[member.0].kinds[signal.kind.index()].note(self.now, *signal);
        self.look_at(member);
    }

    /// What the traffic with a member was like since the call before.
    ///
    /// # Panics
    ///
    /// When `member` is not of the service.
    pub fn on_traffic(&mut self, now: Time, member: MemberId, traffic: Traffic) {
        self.now = self.now.max(now);
        let (_, _) = (&self.members[member.0], traffic);
    }

    /// Looks that were put off are due.
    pub(super) fn look(&mut self) {
        (0..self.members.len()).for_each(|member| self.look_at(MemberId(member)));
    }

    /// When [`Self::look`] wants to be called.
    pub(super) fn next_look(&self) -> Option<Time> {
        let members = (0..self.members.len()).map(MemberId);
        members.filter_map(|member| self.look_due(member)).min()
    }

    fn look_due(&self, member: MemberId) -> Option<Time> {
        if self.members[member.0].state() == MemberState::Down {
            return None;
        }
        self.seen[member.0].due(Pace::of(&self.service.members[member.0].checks))
    }

    fn look_at(&mut self, member: MemberId) {
        if self.look_due(member).is_none_or(|due| due > self.now) {
            return;
        }
        let pace = Pace::of(&self.service.members[member.0].checks);
        let seen = &mut self.seen[member.0];
        seen.looked_at = Some(self.now);
        // Of the kinds that wait longer the look is one, too: it is at all that was seen.
        let signals: Vec<_> = seen.kinds.iter_mut().filter_map(|kind| kind.take(self.now, pace)).collect();
        let looked = self.service.signals == Signals::Act;
        if looked {
            self.actions.push_back(Action::Look { member });
        }
        let signal = |signal| Action::Signal { member, signal, looked };
        self.actions.extend(signals.into_iter().map(signal));
    }
}
