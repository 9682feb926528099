//! The watch: looks ten times a second whether the members that were asked have answered.
//!
//! The kernel programs keep four moments of each member's traffic ([`Beat`]), and cannot say what does *not* happen. So the agent
//! looks: a member that was sent something, and of which nothing at all was heard, is *silent*; one that was asked, and has
//! not answered, is *stalled*. Either is a signal to the core when it lasts for longer than [`LOOK_AFTER`](crate::model::LOOK_AFTER) and four round trips.
//!
//! * A look reads two cache lines of each member out of mapped memory, and makes no system call unless somebody waits for an
//!   answer. docs/signals.md says what it costs.
//! * Between two looks nothing is missed: what was asked since the last one is younger than [`LOOK_AFTER`](crate::model::LOOK_AFTER), and what is open
//!   gets a look of its own at the moment when it will have been open for too long.
//! * What was asked is a signal once. A client that is blocked in `BLPOP` for an hour is one reason to look, not thousands.
//! * A probe that began after something was asked, and passed, has looked already.

use std::{
    cell::Cell,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Result;

use self::asks::{Asks, Found};
use super::moves::Moves;
use crate::{
    datapath::{Beat, Pulses, Ticks, Totals},
    model::{Config, MemberId, ServiceId, Signal, SignalKind, Signals, Traffic},
};

mod asks;

/// Two looks are at least so far apart.
const PAUSE: Duration = Duration::from_millis(4);

/// All members, and when the next look is due.
#[derive(Debug)]
pub(super) struct Watch {
    /// Service by service, in the order of the configuration.
    members: Vec<Watched>,
    /// Where the members of each service begin.
    services: Vec<usize>,
    /// By the kernel's id of a member its place in `members`.
    places: Vec<Option<u16>>,
    /// [`LOOK_AFTER`](crate::model::LOOK_AFTER) in ticks.
    patience: u32,
    next: Option<Instant>,
    /// When the newest was made.
    looked: Option<Instant>,
}

/// One member.
#[derive(Clone, Debug)]
struct Watched {
    service: ServiceId,
    member: MemberId,
    /// The kernel's id.
    id: u16,
    signals: Signals,
    asks: Asks,
    /// When a breaker wants to know: what was counted at the last look.
    met: Option<Met>,
    /// Of each address that a probe passed at, the newest start of such a probe.
    passed: Vec<(SocketAddr, Instant)>,
    /// How many addresses are probed.
    addresses: usize,
}

/// What a member's clients have met; counts that only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Met {
    totals: Totals,
    /// Replies that were looked at.
    replies: u64,
}

/// The clock that pulses are on.
pub(super) trait Clock {
    /// Now, in ticks. A system call.
    fn now(&self) -> Result<u32>;
    /// How long so many ticks are.
    fn duration(&self, ticks: u32) -> Duration;
    /// How many ticks a time takes.
    fn ticks(&self, time: Duration) -> u32;
}

impl Clock for Ticks {
    fn now(&self) -> Result<u32> {
        Ticks::now(self)
    }

    fn duration(&self, ticks: u32) -> Duration {
        Ticks::duration(self, ticks)
    }

    fn ticks(&self, time: Duration) -> u32 {
        Ticks::ticks(self, time)
    }
}

/// What a look has seen of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It does not answer.
    Signal(Signal),
    /// What its clients have met since the last look, if that is asked for.
    Traffic(Traffic),
}

impl Met {
    fn now(id: u16, pulses: &Pulses) -> Result<Self> {
        Ok(Self { totals: pulses.totals(id), replies: pulses.replies(id)? })
    }
}

impl Watched {
    fn new(id: u16) -> Self {
        Self {
            service: ServiceId(0),
            member: MemberId(0),
            id,
            signals: Signals::default(),
            asks: Asks::default(),
            met: None,
            passed: Vec::new(),
            addresses: 0,
        }
    }

    /// Whether a probe that began within the last `ago` has passed, at every address.
    fn has_passed(&self, now: Instant, ago: Duration) -> bool {
        let newer = |(_, started): &&(SocketAddr, Instant)| now.saturating_duration_since(*started) < ago;
        self.addresses > 0 && self.passed.iter().filter(newer).count() >= self.addresses
    }

    /// What the member's clients have met since the last look. To be called before the beat is judged.
    fn traffic(&mut self, beat: &Beat, pulses: &Pulses) -> Result<Option<Traffic>> {
        let Some(before) = self.met else { return Ok(None) };
        // Each processor counts replies for itself: they are asked for only when there were some.
        let totals = pulses.totals(self.id);
        let is_quiet = beat.answered == self.asks.answered && totals.errors == before.totals.errors;
        let replies = if is_quiet { before.replies } else { pulses.replies(self.id)? };
        let after = Met { totals, replies };
        self.met = Some(after);
        let errors = after.totals.errors.wrapping_sub(before.totals.errors);
        let replies = u32::try_from(after.replies.wrapping_sub(before.replies)).unwrap_or(u32::MAX);
        let traffic = Traffic {
            connected: after.totals.connected.wrapping_sub(before.totals.connected),
            failed: after.totals.failed.wrapping_sub(before.totals.failed),
            answered: replies.saturating_sub(errors),
            errors,
        };
        Ok((!traffic.is_nothing()).then_some(traffic))
    }
}

impl Watch {
    /// Nobody yet. [`LOOK_AFTER`](crate::model::LOOK_AFTER) in ticks.
    pub(super) fn new(patience: u32) -> Self {
        let (members, services, places) = (Vec::new(), Vec::new(), Vec::new());
        Self { members, services, places, patience, next: None, looked: None }
    }

    /// Watches the members of this configuration from now on; `id` is the kernel's of each. Those that were there go on.
    ///
    /// # Errors
    /// When the maps cannot be read. Nobody is watched any more then.
    pub(super) fn rename(
        &mut self,
        moves: &Moves,
        config: &Config,
        pulses: &Pulses,
        id: impl Fn(ServiceId, MemberId) -> u16,
    ) -> Result<()> {
        let before = std::mem::replace(self, Self::new(self.patience));
        let mut failed = None;
        let known = |service: ServiceId, member: MemberId| {
            before.members[before.services[service.0] + member.0].clone()
        };
        let mut services = config.services.iter().enumerate();
        let members = moves.each_service(|old, members| {
            let (at, service) = services.next()?;
            let service_id = ServiceId(at);
            let each = members.iter().enumerate().map(|(number, member)| {
                let (member_id, known) =
                    (MemberId(number), old.zip(*member).map(|(old, member)| known(old, member)));
                let fresh = || Watched::new(id(service_id, member_id));
                let watched = known.unwrap_or_else(fresh);
                let wants_traffic = service.breaker.is_some() && service.signals != Signals::Off;
                let met = wants_traffic.then(|| watched.met.map_or_else(|| Met::now(watched.id, pulses), Ok));
                let met = met.transpose().unwrap_or_else(|error| {
                    failed = Some(error);
                    None
                });
                Watched { service: service_id, member: member_id, signals: service.signals, met, ..watched }
            });
            Some(each.collect::<Vec<_>>())
        });
        for members in members.into_iter().flatten() {
            self.services.push(self.members.len());
            members.into_iter().for_each(|watched| self.push(watched));
        }
        if let Some(error) = failed {
            return Err(error);
        }
        self.looked = before.looked;
        let somebody = self.members.iter().any(|watched| watched.signals != Signals::Off);
        self.next = somebody.then(|| before.next.unwrap_or_else(Instant::now));
        Ok(())
    }

    fn push(&mut self, watched: Watched) {
        let place = usize::from(watched.id);
        if self.places.len() <= place {
            self.places.resize(place + 1, None);
        }
        // There are fewer members than ids.
        self.places[place] = u16::try_from(self.members.len()).ok();
        self.members.push(watched);
    }

    fn place(&self, id: u16) -> Option<usize> {
        self.places.get(usize::from(id)).copied().flatten().map(usize::from)
    }

    fn of(&mut self, service: ServiceId, member: MemberId) -> &mut Watched {
        &mut self.members[self.services[service.0] + member.0]
    }

    /// Whose id in the kernel this is, if anybody wants to know of its signals.
    pub(super) fn subject(&self, id: u16) -> Option<(ServiceId, MemberId)> {
        let watched = &self.members[self.place(id)?];
        (watched.signals != Signals::Off).then_some((watched.service, watched.member))
    }

    /// These addresses of a member are probed from now on.
    pub(super) fn probed(&mut self, service: ServiceId, member: MemberId, addresses: &[SocketAddr]) {
        let watched = self.of(service, member);
        watched.addresses = addresses.len();
        watched.passed.retain(|(address, _)| addresses.contains(address));
    }

    /// A probe of Redis has passed.
    pub(super) fn passed(
        &mut self,
        service: ServiceId,
        member: MemberId,
        address: SocketAddr,
        started: Instant,
    ) {
        let passed = &mut self.of(service, member).passed;
        match passed.iter_mut().find(|(known, _)| *known == address) {
            Some((_, newest)) => *newest = started.max(*newest),
            None => passed.push((address, started)),
        }
    }

    /// When the next look is due; `None`: nobody is watched.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Looks at all members. Whoever does not answer, and what clients have met, is handed to `tell`.
    ///
    /// # Errors
    /// When the kernel's clock or its maps cannot be read. Nobody is watched any more then.
    pub(super) fn look(
        &mut self,
        now: Instant,
        pulses: &Pulses,
        ticks: &impl Clock,
        mut tell: impl FnMut(ServiceId, MemberId, Seen),
    ) -> Result<()> {
        self.next = None;
        // What clients have met while nobody looked was spread over all that time, and not over one look.
        let late = ticks.duration(self.patience.saturating_mul(3));
        let is_late = self.looked.replace(now).is_some_and(|looked| now.duration_since(looked) > late);
        // Read once in a look, and only in one that needs it.
        let tick = Cell::new(None);
        let read = || -> Result<u32> {
            let read = tick.get().map_or_else(|| ticks.now(), Ok)?;
            tick.set(Some(read));
            Ok(read)
        };
        let mut soonest = u32::MAX;
        for watched in self.members.iter_mut().filter(|watched| watched.signals != Signals::Off) {
            let (id, beat) = (watched.id, pulses.beat(watched.id));
            if let Some(traffic) = watched.traffic(&beat, pulses)?.filter(|_| !is_late) {
                tell(watched.service, watched.member, Seen::Traffic(traffic));
            }
            let round_trip = || ticks.ticks(pulses.round_trip(id));
            match watched.asks.judge(&beat, self.patience, read, round_trip)? {
                Found::Nothing => {}
                Found::Open(left) => soonest = soonest.min(left),
                Found::Trouble(kind, since) => {
                    let ago = ticks.duration(since);
                    if !watched.has_passed(now, ago) {
                        match kind {
                            SignalKind::Silent => pulses.count_silence(id),
                            _ => pulses.count_stall(id),
                        }
                        let signal = Signal { kind, ago, count: 1 };
                        tell(watched.service, watched.member, Seen::Signal(signal));
                    }
                }
            }
        }
        self.next = Some(now + ticks.duration(soonest.min(self.patience)).max(PAUSE));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
