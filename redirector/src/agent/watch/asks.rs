//! When a member that was asked has not answered for too long, out of four moments of its traffic.
//!
//! # Moments in the same tick
//!
//! The kernel counts time in ticks of a few milliseconds. When something was sent and something was heard in the same tick,
//! nobody knows which came first. For a member that was busy, with answers in each of the last three looks, the worse is
//! assumed when nothing more is heard: a black hole under load looks like that, because clients that wait for an answer
//! send nothing new. When load just ends it costs one probe. For all others the better is assumed.

use anyhow::Result;
use redirector_common::flow::{is_after, since};

use crate::{datapath::Beat, model::SignalKind};

/// How many round trips are waited for, if that is longer than the patience.
const ROUND_TRIPS: u32 = 4;

/// In so many looks in a row a busy member has answered.
const BUSY: u32 = 3;

/// What is remembered of a member's beats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asks {
    /// [`Beat::answered`] at the last look.
    pub(super) answered: u32,
    /// Since when it has answered in every look.
    busy_since: u32,
    /// [`Beat::sent`] that was told, or that a probe has looked after.
    silent: Option<u32>,
    /// The same of [`Beat::asked`].
    stalled: Option<u32>,
}

/// What a look at a member finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing that is new.
    Nothing,
    /// Something waits, and will be told in so many ticks.
    Open(u32),
    /// It has not answered for so many ticks.
    Trouble(SignalKind, u32),
}

impl Asks {
    /// Judges a member. All in ticks; `now` and `round_trip` are asked for only when something waits.
    pub(super) fn judge(
        &mut self,
        beat: &Beat,
        patience: u32,
        now: impl FnOnce() -> Result<u32>,
        round_trip: impl FnOnce() -> u32,
    ) -> Result<Found> {
        let is_busy = self.is_busy(beat, patience);
        // What was heard last, in a tie, was an answer: an acknowledgement alone would be that of what was sent.
        let silent = is_after(beat.sent, beat.heard)
            || (is_busy && beat.sent == beat.heard && beat.heard == beat.answered);
        let stalled = is_after(beat.asked, beat.answered) || (is_busy && beat.asked == beat.answered);
        let tell_silent = silent && self.silent != Some(beat.sent);
        let tell_stalled = stalled && self.stalled != Some(beat.asked);
        if !tell_silent && !tell_stalled {
            return Ok(Found::Nothing);
        }
        let (now, limit) = (now()?, patience.max(round_trip().saturating_mul(ROUND_TRIPS)));
        let (sent, asked) = (since(beat.sent, now), since(beat.asked, now));
        if silent && sent >= limit {
            // Who says nothing answers nothing: it is told as what it is.
            self.stalled = Some(beat.asked);
            self.silent = Some(beat.sent);
            return Ok(if tell_silent { Found::Trouble(SignalKind::Silent, sent) } else { Found::Nothing });
        }
        if tell_stalled && asked >= limit {
            self.stalled = Some(beat.asked);
            return Ok(Found::Trouble(SignalKind::Stalled, asked));
        }
        // What is told by now is done with; what is left is younger than the limit.
        let waits = [(tell_silent, sent), (tell_stalled, asked)];
        let longest = waits.into_iter().filter_map(|(tell, age)| tell.then_some(age)).max();
        Ok(Found::Open(limit.saturating_sub(longest.unwrap_or_default())))
    }

    /// Whether the member has answered in each of the last looks, up to its newest answer.
    fn is_busy(&mut self, beat: &Beat, patience: u32) -> bool {
        // A look may come half of its time late.
        let late = patience / 2;
        if beat.answered != self.answered {
            if since(self.answered, beat.answered) > patience + late {
                self.busy_since = beat.answered;
            }
            self.answered = beat.answered;
        }
        since(self.busy_since, beat.answered) >= BUSY * patience - late
    }
}
