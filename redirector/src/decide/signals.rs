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
//! * A member that is down is not looked at: nothing new would be learnt. What it shows then is counted and no event, and when
//!   it comes back nothing waits: what went before has nothing to do with how it is now.
//!
//! The first signal that nothing has answered yet is the **alarm**: it is named when the member goes down. It is answered when
//! the probes that a look makes have found nothing, *all* of them: each check that follows signals, at each address, by a
//! probe that began after the signal came. The port of a frozen server accepts connections while nobody answers behind it, and
//! what was asked before the trouble says nothing of it.
//!
//! What the traffic was like ([`Core::on_traffic`]) is the business of the [`breaker`](super::breaker).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Action, Core, Time, member::Member};
use crate::model::{
    Borne, Check, CheckId, MemberId, MemberState, Signal, SignalKind, Signals, Traffic, Verdict,
};

/// No more often is the same kind of a member an event.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What the traffic of one member has shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// Those that were seen, in the order of [`SignalKind`]. Each error is a kind of its own.
    kinds: Vec<Kind>,
    looked_at: Option<Time>,
    /// Of those that were looked at and are not answered the first.
    alarm: Option<Alarm>,
    /// The checks that answer a look. Kept here because what a check asks, which says so, is not recorded.
    followers: Vec<CheckId>,
    /// Whether the member was down when it was looked at last.
    was_down: bool,
}

/// Signals of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Kind {
    /// The newest, and when it came.
    pub(super) newest: (Time, Signal),
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
    /// When the signal came.
    at: Time,
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
    fn new(now: Time, signal: Signal) -> Self {
        Self {
            newest: (now, signal),
            total: 0,
            waiting: 0,
            looked_at: None,
            wait: Duration::ZERO,
            untold: 0,
            told_at: None,
        }
    }

    fn note(&mut self, now: Time, signal: Signal, is_down: bool) {
        self.total = self.total.saturating_add(signal.count.into());
        self.newest = (now, signal);
        if !is_down {
            self.waiting = self.waiting.saturating_add(signal.count);
            self.untold = self.untold.saturating_add(signal.count);
        }
    }

    /// When what waits may be looked at; `None`: nothing waits.
    fn due(&self) -> Option<Time> {
        (self.waiting > 0).then(|| self.looked_at.map_or(Time::default(), |at| at + self.wait))
    }

    /// What waits to be looked at; it is looked at now.
    fn look(&mut self, now: Time, rhythm: Rhythm) -> Option<Alarm> {
        if self.waiting == 0 {
            return None;
        }
        let (at, newest) = self.newest;
        let quiet = self.looked_at.is_none_or(|last| last + self.wait + rhythm.normal <= now);
        self.wait = if quiet { rhythm.fast } else { (self.wait * 2).clamp(rhythm.fast, rhythm.normal) };
        self.looked_at = Some(now);
        self.waiting = 0;
        Some(Alarm { kind: newest.kind, at, began: at.ago(newest.ago) })
    }

    /// When there is an event; `None`: there is nothing to tell. What waits is told when it is looked at.
    fn tell_due(&self) -> Option<Time> {
        let is_due = self.untold > 0 && self.waiting == 0;
        is_due.then(|| self.told_at.map_or(Time::default(), |told| told + TELL_EVERY))
    }

    /// What is worth an event.
    fn tell(&mut self, now: Time) -> Option<Signal> {
        self.tell_due().filter(|due| *due <= now)?;
        self.told_at = Some(now);
        let (at, newest) = self.newest;
        let ago = now.since(at) + newest.ago;
        Some(Signal { count: std::mem::take(&mut self.untold), ago, ..newest })
    }
}

impl Seen {
    /// Of a member with these checks nothing was seen yet.
    pub(super) fn of(checks: &[Check]) -> Self {
        let mut seen = Self::default();
        seen.set_checks(checks);
        seen
    }

    /// The checks are others now. Where none follows signals, those that decide answer them in their own time.
    pub(super) fn set_checks(&mut self, checks: &[Check]) {
        let which = |is: fn(&Check) -> bool| {
            let numbered = checks.iter().enumerate().filter(move |(_, check)| is(check));
            numbered.map(|(number, _)| CheckId(number)).collect::<Vec<_>>()
        };
        self.followers = which(Check::follows_signals);
        if self.followers.is_empty() {
            self.followers = which(|check| check.effect.decides());
        }
    }

    fn note(&mut self, now: Time, signal: Signal, is_down: bool) {
        let place = self.kinds.binary_search_by_key(&signal.kind, |kind| kind.newest.1.kind);
        let place = place.unwrap_or_else(|place| {
            self.kinds.insert(place, Kind::new(now, signal));
            place
        });
        self.kinds[place].note(now, signal, is_down);
    }

    /// When the member is to be looked at.
    pub(super) fn due(&self, rhythm: Rhythm) -> Option<Time> {
        let kind = self.kinds.iter().filter_map(Kind::due).min()?;
        Some(self.looked_at.map_or(kind, |at| kind.max(at + rhythm.fast)))
    }

    /// When there is an event.
    fn tell_due(&self) -> Option<Time> {
        self.kinds.iter().filter_map(Kind::tell_due).min()
    }

    /// Each kind that was seen.
    pub(super) fn kinds(&self) -> impl Iterator<Item = &Kind> {
        self.kinds.iter()
    }

    /// Whatever waits is looked at now. `acts`: by probes; `is_answered`: what came at this moment was looked at before.
    fn look(&mut self, now: Time, rhythm: Rhythm, acts: bool, is_answered: impl Fn(&Self, Time) -> bool) {
        self.looked_at = Some(now);
        let looked: Vec<_> = self.kinds.iter_mut().filter_map(|kind| kind.look(now, rhythm)).collect();
        let news = looked.into_iter().filter(|alarm| acts && !is_answered(self, alarm.at));
        self.alarm = self.alarm.or(news.min_by_key(|alarm| alarm.began));
    }

    /// Whether probes that began since have found nothing, or no more than was known: none of them counts failures.
    fn is_answered(&self, member: &Member, since: Time) -> bool {
        !member.counts_failures() && member.have_answered_since(since, &self.followers)
    }

    /// A member that went down is not looked at any more, and one that is back is another story.
    fn follow(&mut self, is_down: bool) {
        if is_down {
            self.kinds.iter_mut().for_each(|kind| kind.waiting = 0);
        } else if self.was_down {
            self.alarm = None;
        }
        self.was_down = is_down;
    }

    /// From now on signals have another effect, or none.
    pub(super) fn begin_anew(&mut self) {
        self.alarm = None;
        self.kinds.iter_mut().for_each(|kind| (kind.waiting, kind.untold) = (0, 0));
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
        let is_down = self.members[member.0].state() == MemberState::Down;
        self.seen[member.0].note(self.now, *signal, is_down);
        self.look_at(member);
    }

    /// What the clients of a member have met since the call before. The member's breaker counts it, if the service has one,
    /// and may open if the service acts on its traffic ([`Signals::Act`]).
    ///
    /// # Panics
    ///
    /// When `member` is not of the service.
    pub fn on_traffic(&mut self, now: Time, member: MemberId, traffic: Traffic) {
        self.catch_up(now);
        let Some(settings) = self.service.breaker.filter(|_| self.service.signals != Signals::Off) else {
            return;
        };
        let acts = self.service.signals == Signals::Act;
        if self.members[member.0].on_traffic(self.now, &settings, traffic, acts) {
            self.carry_on(member, Vec::new());
        }
    }

    /// What a probe has found of the signals before it: something that was not known, or nothing.
    pub(super) fn weigh_signals(&mut self, member: MemberId, verdict: Verdict, doubt_begins: bool) {
        let seen = &mut self.seen[member.0];
        let health = &self.members[member.0];
        match verdict {
            Verdict::Fail if doubt_begins => {
                seen.kinds.iter_mut().for_each(|kind| kind.wait = Duration::ZERO);
            }
            Verdict::Fail => {}
            // What took a member down is named until it is back.
            Verdict::Pass | Verdict::Inconclusive if health.state() == MemberState::Down => {}
            Verdict::Pass | Verdict::Inconclusive => {
                seen.alarm = seen.alarm.filter(|alarm| !seen.is_answered(health, alarm.at));
            }
        }
    }

    /// What was due by now happens first: what is handed in does not make it wait.
    fn catch_up(&mut self, now: Time) {
        if self.is_due(now) {
            self.on_deadline(now);
        }
        self.now = self.now.max(now);
    }

    /// Looks and events that were put off are due.
    pub(super) fn look(&mut self) {
        (0..self.members.len()).for_each(|member| self.look_at(MemberId(member)));
    }

    /// When [`Self::look`] wants to be called.
    pub(super) fn next_look(&self) -> Option<Time> {
        if self.service.signals == Signals::Off {
            return None;
        }
        let looks = (0..self.members.len()).filter_map(|member| self.look_due(MemberId(member)));
        looks.chain(self.seen.iter().filter_map(Seen::tell_due)).min()
    }

    pub(super) fn look_due(&self, member: MemberId) -> Option<Time> {
        if self.service.signals == Signals::Off || self.members[member.0].state() == MemberState::Down {
            return None;
        }
        self.seen[member.0].due(Rhythm::of(&self.service.members[member.0].checks))
    }

    fn look_at(&mut self, member: MemberId) {
        let acts = self.service.signals == Signals::Act;
        self.seen[member.0].follow(self.members[member.0].state() == MemberState::Down);
        if self.look_due(member).is_some_and(|due| due <= self.now) {
            if acts {
                self.actions.push_back(Action::Look { member });
            }
            let rhythm = Rhythm::of(&self.service.members[member.0].checks);
            let health = &self.members[member.0];
            self.seen[member.0].look(self.now, rhythm, acts, |seen, at| seen.is_answered(health, at));
        }
        if self.service.signals != Signals::Off {
            for signal in self.seen[member.0].kinds.iter_mut().filter_map(|kind| kind.tell(self.now)) {
                self.actions.push_back(Action::Signal { member, signal, looked: acts });
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
