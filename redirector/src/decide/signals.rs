//! Signals of the kernel: when the probers of a member look because of what its traffic has shown.
//!
//! A signal proves nothing: a lossy network repeats segments all day, and a firewall that rejects one container's packets
//! looks like a member that refuses. So all that it does is to take away the wait for the next probe. What follows,
//! `fall` and the tolerances, decides as it always does.
//!
//! Every signal is looked at, but not each at once:
//!
//! * A member is looked at no more often than every `fast_interval`. What comes earlier waits until then.
//! * A kind that keeps crying wolf waits longer each time, from `fast_interval` doubling up to the longest `interval`: then it costs one
//!   probe more in an interval, and its looks come no later than without signals. Each kind by itself, so that the loss of a
//!   bad network does not hide the silence of a dead one. A probe that begins to fail, or an interval of quiet, and the
//!   kind is believed at once again.
//! * A member that is down is not looked at: nothing new would be learnt.
//!
//! What the traffic was like ([`Core::on_traffic`]) is the business of the [`breaker`](super::breaker).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Action, Core, Time};
use crate::model::{Borne, Check, MemberId, MemberState, Signal, SignalKind, Signals, Traffic, Verdict};

/// No more often is the same kind of a member an event.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What the traffic of one member has shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Seen {
    kinds: [Kind; SignalKind::COUNT],
    looked_at: Option<Time>,
    /// The first signal that was looked at since a probe passed.
    alarm: Option<Alarm>,
}

/// Signals of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Kind {
    /// The newest, and when it came.
    pub(super) newest: Option<(Time, Signal)>,
    /// How often it was seen since the agent started.
    pub(super) total: u64,
    /// And since the last look.
    waiting: u32,
    looked_at: Option<Time>,
    /// From the last look to the next.
    wait: Duration,
    /// How often it was seen since the last event, and when that was.
    untold: u32,
    told_at: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Alarm {
    kind: SignalKind,
    /// When the trouble began, as the traffic saw it.
    began: Time,
}

/// Between which bounds looks follow each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rhythm {
    fast: Duration,
    normal: Duration,
}

impl Rhythm {
    pub(super) fn of(checks: &[Check]) -> Self {
        // What a check asks is not recorded: so it is not asked for here whether a look concerns it.
        let deciding = || checks.iter().filter(|check| check.effect.decides());
        Self {
            fast: deciding().map(|check| check.fast_interval).min().unwrap_or_default(),
            normal: deciding().map(|check| check.interval).max().unwrap_or_default(),
        }
    }
}

impl Kind {
    fn note(&mut self, now: Time, signal: Signal) {
        self.total = self.total.saturating_add(signal.count.into());
        self.waiting = self.waiting.saturating_add(signal.count);
        self.untold = self.untold.saturating_add(signal.count);
        self.newest = Some((now, signal));
    }

    /// When what waits may be looked at; `None`: nothing waits.
    fn due(&self) -> Option<Time> {
        (self.waiting > 0).then(|| self.looked_at.map_or(Time::default(), |at| at + self.wait))
    }

    /// When the trouble began that waits to be looked at; it is looked at now.
    fn look(&mut self, now: Time, rhythm: Rhythm) -> Option<Alarm> {
        let (at, newest) = self.newest.filter(|_| self.waiting > 0)?;
        let quiet = self.looked_at.is_none_or(|last| last + self.wait + rhythm.normal <= now);
        self.wait = if quiet { rhythm.fast } else { (self.wait * 2).clamp(rhythm.fast, rhythm.normal) };
        self.looked_at = Some(now);
        self.waiting = 0;
        Some(Alarm { kind: newest.kind, began: at.ago(newest.ago) })
    }

    /// What is worth an event.
    fn tell(&mut self, now: Time) -> Option<Signal> {
        let (at, newest) = self.newest.filter(|_| self.untold > 0)?;
        if self.told_at.is_some_and(|told| told + TELL_EVERY > now) {
            return None;
        }
        self.told_at = Some(now);
        let ago = now.since(at) + newest.ago;
        Some(Signal { count: std::mem::take(&mut self.untold), ago, ..newest })
    }
}

impl Seen {
    /// When the member is to be looked at.
    pub(super) fn due(&self, rhythm: Rhythm) -> Option<Time> {
        let kind = self.kinds.iter().filter_map(Kind::due).min()?;
        Some(self.looked_at.map_or(kind, |at| kind.max(at + rhythm.fast)))
    }

    /// Each kind that was seen.
    pub(super) fn kinds(&self) -> impl Iterator<Item = &Kind> {
        self.kinds.iter().filter(|kind| kind.newest.is_some())
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
        self.catch_up(now);
        if self.service.signals == Signals::Off {
            return;
        }
        self.seen[member.0].kinds[signal.kind.index()].note(self.now, *signal);
        self.look_at(member);
    }

    /// What the clients of a member have met since the call before. It may open the member's breaker, if the service has one
    /// and acts on its traffic ([`Signals::Act`]).
    ///
    /// # Panics
    ///
    /// When `member` is not of the service.
    pub fn on_traffic(&mut self, now: Time, member: MemberId, traffic: Traffic) {
        self.catch_up(now);
        let Some(settings) = self.service.breaker.filter(|_| self.service.signals == Signals::Act) else {
            return;
        };
        if self.members[member.0].on_traffic(self.now, &settings, traffic) {
            self.carry_on(member, Vec::new());
        }
    }

    /// What a probe has found of the signals before it: something that was not known, or nothing.
    pub(super) fn weigh_signals(&mut self, member: MemberId, verdict: Verdict, doubt_begins: bool) {
        let seen = &mut self.seen[member.0];
        match verdict {
            // Another check may be failing still.
            Verdict::Pass if self.answers[member.0].failing_since().is_none() => seen.alarm = None,
            Verdict::Fail if doubt_begins => {
                seen.kinds.iter_mut().for_each(|kind| kind.wait = Duration::ZERO);
            }
            Verdict::Pass | Verdict::Fail | Verdict::Inconclusive => {}
        }
    }

    /// What was due by now happens first: what is handed in does not make it wait.
    fn catch_up(&mut self, now: Time) {
        if self.is_due(now) {
            self.on_deadline(now);
        }
        self.now = self.now.max(now);
    }

    /// Looks that were put off are due.
    pub(super) fn look(&mut self) {
        (0..self.members.len()).for_each(|member| self.look_at(MemberId(member)));
    }

    /// When [`Self::look`] wants to be called.
    pub(super) fn next_look(&self) -> Option<Time> {
        (0..self.members.len()).filter_map(|member| self.look_due(MemberId(member))).min()
    }

    pub(super) fn look_due(&self, member: MemberId) -> Option<Time> {
        if self.service.signals == Signals::Off || self.members[member.0].state() == MemberState::Down {
            return None;
        }
        self.seen[member.0].due(Rhythm::of(&self.service.members[member.0].checks))
    }

    fn look_at(&mut self, member: MemberId) {
        if self.look_due(member).is_none_or(|due| due > self.now) {
            return;
        }
        let rhythm = Rhythm::of(&self.service.members[member.0].checks);
        let looked = self.service.signals == Signals::Act;
        if looked {
            self.actions.push_back(Action::Look { member });
        }
        let seen = &mut self.seen[member.0];
        seen.looked_at = Some(self.now);
        // Whatever else waits is looked at with it.
        for kind in &mut seen.kinds {
            let alarm = kind.look(self.now, rhythm).filter(|_| looked);
            seen.alarm = seen.alarm.or(alarm);
            if let Some(signal) = kind.tell(self.now) {
                self.actions.push_back(Action::Signal { member, signal, looked });
            }
        }
    }

    /// What took a member down, how long it was borne, and which signal showed it first; `None`: it is not down.
    pub(super) fn borne(&self, member: MemberId) -> Option<Borne> {
        let (trouble, lasted) = self.members[member.0].borne()?;
        let alarm = self.seen[member.0].alarm;
        Some(Borne {
            trouble,
            lasted,
            signal: alarm.map(|alarm| alarm.kind),
            signalled: alarm.map(|alarm| self.now.since(alarm.began)),
        })
    }
}
