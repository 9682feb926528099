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
    /// The same of [`Beat::asked`], and what was [`Beat::sent`] last then.
    stalled: Option<(u32, u32)>,
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
        let unanswered = self.unanswered(beat).filter(|_| stalled);
        if !tell_silent && unanswered.is_none() {
            return Ok(Found::Nothing);
        }
        let (now, limit) = (now()?, patience.max(round_trip().saturating_mul(ROUND_TRIPS)));
        let sent = since(beat.sent, now);
        let asked = unanswered.map(|asked| since(asked, now));
        if silent && sent >= limit {
            // Who says nothing answers nothing: it is told as what it is.
            self.stalled = Some((beat.asked, beat.sent));
            self.silent = Some(beat.sent);
            return Ok(if tell_silent { Found::Trouble(SignalKind::Silent, sent) } else { Found::Nothing });
        }
        if let Some(asked) = asked.filter(|asked| *asked >= limit) {
            self.stalled = Some((beat.asked, beat.sent));
            return Ok(Found::Trouble(SignalKind::Stalled, asked));
        }
        // What is told by now is done with; what is left is younger than the limit.
        let longest = tell_silent.then_some(sent).max(asked);
        Ok(Found::Open(limit.saturating_sub(longest.unwrap_or_default())))
    }

    /// When something was asked that waits for an answer and was not told yet.
    ///
    /// The programs keep the *first* ask without an answer. That of a client that blocks for an hour is told once, and
    /// would hide whoever asks in that hour; so what is sent after it was told is another ask.
    fn unanswered(&self, beat: &Beat) -> Option<u32> {
        match self.stalled {
            Some((asked, sent)) if asked == beat.asked => is_after(beat.sent, sent).then_some(beat.sent),
            _ => Some(beat.asked),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 ms, at 250 ticks a second.
    const PATIENCE: u32 = 25;

    /// A member's traffic over time, as the programs write it down, and looks at it.
    #[derive(Default)]
    struct Story {
        asks: Asks,
        beat: Beat,
        round_trip: u32,
        now: u32,
    }

    impl Story {
        /// Begins just before the clock comes round.
        fn new() -> Self {
            let now = u32::MAX - 200;
            let before = now - 1000;
            let beat = Beat { sent: before, asked: before, heard: before, answered: before };
            let mut story = Self { beat, now, ..Self::default() };
            story.look();
            story
        }

        fn ask(&mut self) -> &mut Self {
            let Beat { sent, asked, heard, answered } = &mut self.beat;
            if !is_after(*sent, *heard) {
                *sent = self.now;
            }
            if !is_after(*asked, *answered) {
                *asked = self.now;
            }
            self
        }

        fn acknowledge(&mut self) -> &mut Self {
            self.beat.heard = self.now;
            self
        }

        fn answer(&mut self) -> &mut Self {
            (self.beat.heard, self.beat.answered) = (self.now, self.now);
            self
        }

        fn after(&mut self, ticks: u32) -> &mut Self {
            self.now = self.now.wrapping_add(ticks);
            self
        }

        /// Asks and answers in every tick, with a look every 25, for so many looks.
        fn load(&mut self, looks: u32) -> &mut Self {
            for _ in 0..looks {
                for _ in 0..PATIENCE {
                    self.after(1).ask().answer();
                }
                let found = self.look();
                assert!(matches!(found, Found::Nothing | Found::Open(_)), "{found:?}");
            }
            self
        }

        fn look(&mut self) -> Found {
            let (now, round_trip) = (self.now, self.round_trip);
            self.asks.judge(&self.beat, PATIENCE, || Ok(now), || round_trip).unwrap()
        }
    }

    #[test]
    fn silence_is_told_once_and_at_its_time() {
        let mut story = Story::new();
        story.ask();
        assert_eq!(story.after(10).look(), Found::Open(15), "the next look is to come then");
        assert_eq!(story.after(15).look(), Found::Trouble(SignalKind::Silent, 25));
        assert_eq!(story.after(25).look(), Found::Nothing);
        assert_eq!(story.after(25).ask().look(), Found::Nothing, "what is sent later waits for the same");
        story.answer();
        assert_eq!(story.look(), Found::Nothing);
        story.after(1).ask();
        assert_eq!(story.after(30).look(), Found::Trouble(SignalKind::Silent, 30), "another time");
    }

    #[test]
    fn what_is_acknowledged_and_not_answered_is_a_stall() {
        let mut story = Story::new();
        story.ask().after(1).acknowledge();
        assert_eq!(story.after(23).look(), Found::Open(1));
        assert_eq!(story.after(1).look(), Found::Trouble(SignalKind::Stalled, 25));
        assert_eq!(story.after(9000).look(), Found::Nothing, "a client that blocks for long is told once");
    }

    /// A worker waits in `BLPOP`, and then the server freezes.
    #[test]
    fn a_client_that_blocks_does_not_hide_a_stall() {
        let mut story = Story::new();
        story.ask().after(1).acknowledge();
        assert_eq!(story.after(24).look(), Found::Trouble(SignalKind::Stalled, 25));
        assert_eq!(story.after(1250).look(), Found::Nothing);
        story.ask().after(1).acknowledge();
        assert_eq!(story.look(), Found::Open(24));
        assert_eq!(story.after(24).look(), Found::Trouble(SignalKind::Stalled, 25));
        assert_eq!(story.after(9000).look(), Found::Nothing, "that one is told once, too");
    }

    #[test]
    fn silence_is_not_told_as_a_stall_too_and_a_stall_that_turns_silent_is() {
        let mut silent = Story::new();
        silent.ask();
        assert_eq!(silent.after(25).look(), Found::Trouble(SignalKind::Silent, 25));
        assert_eq!(silent.after(25).look(), Found::Nothing);
        silent.acknowledge();
        assert_eq!(silent.look(), Found::Nothing, "it was looked at for this already");

        let mut stalled = Story::new();
        stalled.ask().after(1).acknowledge();
        assert_eq!(stalled.after(30).look(), Found::Trouble(SignalKind::Stalled, 31));
        stalled.ask();
        assert_eq!(stalled.after(25).look(), Found::Trouble(SignalKind::Silent, 25));
    }

    #[test]
    fn far_members_are_given_four_round_trips() {
        let mut story = Story::new();
        story.round_trip = 15;
        story.ask();
        assert_eq!(story.after(25).look(), Found::Open(35));
        assert_eq!(story.after(34).look(), Found::Open(1));
        assert_eq!(story.after(1).look(), Found::Trouble(SignalKind::Silent, 60));
    }

    /// The last answer of a busy member came in the tick of the last request, and then nothing more.
    #[test]
    fn a_tie_is_trouble_of_a_busy_member_only() {
        let mut idle = Story::new();
        idle.ask().answer();
        assert_eq!(idle.after(30).look(), Found::Nothing);

        let mut busy = Story::new();
        busy.load(5);
        assert!(matches!(busy.look(), Found::Open(_)));
        assert_eq!(busy.after(25).look(), Found::Trouble(SignalKind::Silent, 25));
        assert_eq!(busy.after(25).look(), Found::Nothing);

        let mut briefly = Story::new();
        briefly.load(2);
        assert_eq!(briefly.after(25).look(), Found::Nothing, "two looks are no load");
    }

    /// The host of a frozen server acknowledges what was asked in the tick of its last answer.
    #[test]
    fn a_busy_member_that_only_acknowledges_is_stalled() {
        let mut story = Story::new();
        story.load(5).ask().after(10).acknowledge();
        assert_eq!(story.after(15).look(), Found::Trouble(SignalKind::Stalled, 25));
    }

    #[test]
    fn a_member_that_answers_is_never_in_trouble() {
        let mut story = Story::new();
        story.load(200);
        // Nothing for a second, and again.
        story.look();
        story.after(250).ask().answer();
        assert_eq!(story.look(), Found::Nothing);
        story.load(200);
    }

    #[test]
    fn without_traffic_nothing_is_asked_for() {
        let mut asks = Asks::default();
        let found = asks.judge(&Beat::default(), PATIENCE, || panic!("no clock"), || panic!("no round trip"));
        assert_eq!(found.unwrap(), Found::Nothing);
    }
}
