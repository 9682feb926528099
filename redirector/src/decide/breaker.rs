//! The circuit breaker: a member is down because of what its clients meet, whatever its checks say.
//!
//! The client libraries have it (redis-py, Jedis, Lettuce, go-redis), each for one process; here it counts for all processes of the
//! host together. Closed, it counts attempts and failures ([`Traffic`]) over a window, and opens on either of two conditions:
//!
//! * at least `minimum_failures` within `window`, *and* at least `failure_rate` percent of all attempts: the libraries' own;
//! * `in_a_row` failures in a row, which a service that is seldom used reaches, too. Attempts come in as numbers, ten
//!   times a second, so their order is not known: one success among them ends the row. It is never counted too long.
//!
//! Open, the member is down. After `open_for` it is *half open*: still down, until its checks have passed anew, `rise` times each
//! at one address. No client is sent there to find out. Then it is closed, and begins to count at zero.
//!
//! The window is an exact ring of buckets in whole numbers, not a moving average: what is further back than the window is gone,
//! and not still there by a little; and the same traffic gives the same decision on every machine. A bucket is a
//! twentieth of the window, so a window is too long by that at most, never too short.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::time::{Time, in_words};
use crate::model::{Breaker as Settings, CheckId, Traffic};

/// In one window.
const BUCKETS: u32 = 20;

/// Of one member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Breaker {
    ring: VecDeque<Bucket>,
    /// Failures since the newest success.
    row: u32,
    tripped: Option<Tripped>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Bucket {
    /// Of the time since the origin, in lengths of a bucket.
    number: u64,
    attempts: u64,
    failures: u64,
}

/// It is not closed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Tripped {
    since: Time,
    why: String,
    /// Then it is half open.
    until: Time,
    /// What has passed since it is: how often in a row. `None`: it is open.
    passes: Option<Vec<(SocketAddr, CheckId, u32)>>,
}

/// What a breaker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Closed,
    Open,
    HalfOpen,
}

impl State {
    /// In one word.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// What a breaker has counted in the window that ends now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) attempts: u64,
    pub(super) failures: u64,
    pub(super) row: u32,
}

impl Breaker {
    /// Clients have met this. Returns whether it opens.
    pub(super) fn on_traffic(&mut self, now: Time, settings: &Settings, traffic: Traffic) -> bool {
        if self.tripped.is_some() || traffic.is_nothing() {
            return false;
        }
        self.count(now, settings, traffic);
        let Some(why) = self.trips(now, settings) else { return false };
        let until = now + settings.open_for;
        *self = Self { tripped: Some(Tripped { since: now, why, until, passes: None }), ..Self::default() };
        true
    }

    /// The same where it is only shown: it never opens.
    pub(super) fn count(&mut self, now: Time, settings: &Settings, traffic: Traffic) {
        let failures = traffic.failed.saturating_add(traffic.errors);
        let successes = traffic.connected.saturating_add(traffic.answered);
        // A connection that is accepted to be told of trouble is no success.
        let is_well = traffic.answered > 0 || (traffic.connected > 0 && traffic.errors == 0);
        self.row = if is_well { 0 } else { self.row.saturating_add(failures) };
        let number = number(now, settings);
        if self.ring.back().is_none_or(|newest| newest.number < number) {
            self.ring.push_back(Bucket { number, attempts: 0, failures: 0 });
        }
        if let Some(newest) = self.ring.back_mut() {
            newest.attempts += u64::from(failures) + u64::from(successes);
            newest.failures += u64::from(failures);
        }
        let oldest = number.saturating_sub(u64::from(BUCKETS));
        while self.ring.front().is_some_and(|bucket| bucket.number < oldest) {
            self.ring.pop_front();
        }
    }

    /// Why it opens; `None`: it does not.
    fn trips(&self, now: Time, settings: &Settings) -> Option<String> {
        let Counts { attempts, failures, row } = self.counts(now, settings);
        if settings.in_a_row > 0 && row >= settings.in_a_row {
            return Some(format!("{row} attempts of clients failed in a row"));
        }
        let enough = failures >= settings.minimum_failures.into()
            && failures * 100 >= attempts * u64::from(settings.failure_rate);
        enough.then(|| {
            let window = in_words(settings.window);
            format!("{failures} of {attempts} attempts of clients failed within {window}")
        })
    }

    pub(super) fn counts(&self, now: Time, settings: &Settings) -> Counts {
        let oldest = number(now, settings).saturating_sub(u64::from(BUCKETS));
        let within = self.ring.iter().filter(|bucket| bucket.number >= oldest);
        let sum = |counts: Counts, bucket: &Bucket| Counts {
            attempts: counts.attempts + bucket.attempts,
            failures: counts.failures + bucket.failures,
            ..counts
        };
        within.fold(Counts { row: self.row, ..Counts::default() }, sum)
    }

    /// What was counted is forgotten: the member is down anyway, or the window is another one.
    pub(super) fn forget(&mut self) {
        self.ring.clear();
        self.row = 0;
    }

    /// After a reload: what was counted goes on when nothing of it `is_new`. Without `settings` none is open. One that is open
    /// stays so for as long as is written now. Checks may have other numbers, and begin to pass anew once more.
    pub(super) fn carry(&mut self, settings: Option<&Settings>, is_new: bool) {
        if is_new {
            self.forget();
        }
        let Some((tripped, settings)) = self.tripped.as_mut().zip(settings) else {
            self.tripped = None;
            return;
        };
        tripped.until = tripped.since + settings.open_for;
        if let Some(passes) = &mut tripped.passes {
            passes.clear();
        }
    }

    pub(super) fn state(&self) -> State {
        match &self.tripped {
            None => State::Closed,
            Some(Tripped { passes: None, .. }) => State::Open,
            Some(Tripped { passes: Some(_), .. }) => State::HalfOpen,
        }
    }

    /// When [`Self::on_deadline`] wants to be called.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.tripped.as_ref().filter(|tripped| tripped.passes.is_none()).map(|tripped| tripped.until)
    }

    /// It may be time to let the checks pass anew.
    pub(super) fn on_deadline(&mut self, now: Time) {
        if let Some(tripped) = self.tripped.as_mut().filter(|tripped| tripped.until <= now) {
            tripped.passes.get_or_insert_default();
        }
    }

    /// A probe has passed, or failed: then that address begins anew.
    pub(super) fn on_outcome(&mut self, address: SocketAddr, check: CheckId, passed: bool) {
        let Some(passes) = self.tripped.as_mut().and_then(|tripped| tripped.passes.as_mut()) else { return };
        if !passed {
            passes.retain(|(of, ..)| *of != address);
            return;
        }
        match passes.iter_mut().find(|(of, number, _)| (*of, *number) == (address, check)) {
            Some((.., times)) => *times = times.saturating_add(1),
            None => passes.push((address, check, 1)),
        }
    }

    /// How often in a row a check has passed since it is half open.
    pub(super) fn passes(&self, address: SocketAddr, check: CheckId) -> u32 {
        let passes = self.tripped.as_ref().and_then(|tripped| tripped.passes.as_ref());
        let found =
            passes.and_then(|all| all.iter().find(|(of, number, _)| (*of, *number) == (address, check)));
        found.map_or(0, |(.., times)| *times)
    }

    /// The checks have passed anew.
    pub(super) fn close(&mut self) {
        *self = Self::default();
    }

    /// Since when it is not closed.
    pub(super) fn since(&self) -> Option<Time> {
        self.tripped.as_ref().map(|tripped| tripped.since)
    }

    /// Why the member is down; `None`: not by this.
    pub(super) fn down_because(&self) -> Option<String> {
        let tripped = self.tripped.as_ref()?;
        Some(match self.state() {
            State::HalfOpen => format!("breaker half open: {}; its checks must pass anew", tripped.why),
            State::Open | State::Closed => format!("breaker open: {}", tripped.why),
        })
    }
}

/// Of the bucket that `now` is in.
fn number(now: Time, settings: &Settings) -> u64 {
    let width = (settings.window / BUCKETS).max(Duration::from_nanos(1));
    u64::try_from(now.0.as_nanos() / width.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
