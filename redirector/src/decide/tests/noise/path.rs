//! The way to a member and the server at its end: packets that are lost at random, a queue that fills now and then, a
//! server that pauses. TCP is as far in it as a prober feels it: what is lost is sent again.

use std::time::Duration;

use super::super::world::{ms, s};
use crate::decide::{Time, detection::Trouble};

/// Of a packet to the member and one back, while the queue is empty.
pub(super) const ROUND_TRIP: Duration = Duration::from_micros(300);
/// One packet in a hundred, each way.
const LOSS: f64 = 0.01;
/// Linux sends data again after that (`TCP_RTO_MIN`), and after twice that, and so on.
const DATA_AGAIN: Duration = ms(200);
/// The same for a SYN (`TCP_TIMEOUT_INIT`, RFC 6298).
const SYN_AGAIN: Duration = s(1);

/// Something that goes on for a while, again and again.
struct Bout {
    every: Duration,
    from: Duration,
    lasts: Duration,
}

impl Bout {
    /// When the bout ends that goes on at this moment.
    fn end(&self, at: Time) -> Option<Time> {
        let into = at.0.as_nanos() % self.every.as_nanos();
        let (from, to) = (self.from.as_nanos(), (self.from + self.lasts).as_nanos());
        let left = (from..to).contains(&into).then(|| to - into)?;
        Some(at + Duration::from_nanos(u64::try_from(left).expect("less than `every`")))
    }
}

/// Somebody else's traffic fills the queue of a link: every packet waits.
const QUEUE: Bout = Bout { every: ms(2_300), from: ms(700), lasts: ms(400) };
const QUEUED: Duration = ms(50);

/// `DEBUG SLEEP 0.5`; a large `DEL`; a fork. Now and then one begins in the other.
const PAUSES: [Bout; 3] = [
    Bout { every: s(10), from: s(3), lasts: ms(500) },
    Bout { every: s(7), from: s(5), lasts: ms(300) },
    Bout { every: s(13), from: s(8), lasts: ms(60) },
];

/// Random enough, and the same in every run: SplitMix64 (Steele, Lea, Flood 2014).
pub(super) struct Chance(pub(super) u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// At least 0, less than 1.
    pub(super) fn part(&mut self) -> f64 {
        let drawn = u32::try_from(self.next() >> 32).expect("32 bits");
        f64::from(drawn) / (f64::from(u32::MAX) + 1.0)
    }

    pub(super) fn happens(&mut self, probability: f64) -> bool {
        self.part() < probability
    }

    /// Less than `most`, to the microsecond.
    pub(super) fn within(&mut self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_micros()).expect("a short time");
        Duration::from_micros(self.next() % most)
    }
}

/// How an attempt to connect ends.
pub(super) enum Opened {
    At(Time),
    Refused(Time),
    Never,
}

/// The way to one member.
pub(super) struct Path {
    pub(super) chance: Chance,
    /// What happens to the member, and does not end.
    pub(super) fault: Option<(Trouble, Time)>,
}

impl Path {
    pub(super) fn trouble(&self, at: Time) -> Option<Trouble> {
        self.fault.and_then(|(trouble, since)| (since <= at).then_some(trouble))
    }

    /// When the server goes on that pauses at this moment.
    pub(super) fn paused(&self, at: Time) -> Option<Time> {
        PAUSES.iter().filter_map(|pause| pause.end(at)).max()
    }

    /// A SYN, until its answer.
    pub(super) fn open(&mut self, at: Time) -> Opened {
        let (mut at, mut again) = (at, SYN_AGAIN);
        loop {
            let trouble = self.trouble(at);
            if trouble == Some(Trouble::Silence) {
                return Opened::Never;
            }
            // The SYN, and its answer.
            if !self.chance.happens(LOSS) && !self.chance.happens(LOSS) {
                let answered = at + ROUND_TRIP + queued(at);
                return if trouble == Some(Trouble::Crash) {
                    Opened::Refused(answered)
                } else {
                    Opened::At(answered)
                };
            }
            (at, again) = (at + again, again * 2);
        }
    }

    /// A command over an open connection, until its reply.
    pub(super) fn ask(&mut self, at: Time) -> Option<Time> {
        let asked = self.deliver(at)? + queued(at);
        let mut replied = asked;
        while let Some(end) = self.paused(replied) {
            replied = end;
        }
        match self.trouble(replied) {
            None => Some(self.deliver(replied)? + ROUND_TRIP),
            Some(_) => None,
        }
    }

    /// When the first copy of a segment comes through.
    fn deliver(&mut self, at: Time) -> Option<Time> {
        let (mut at, mut again) = (at, DATA_AGAIN);
        while self.chance.happens(LOSS) {
            (at, again) = (at + again, again * 2);
        }
        (self.trouble(at) != Some(Trouble::Silence)).then_some(at)
    }
}

fn queued(at: Time) -> Duration {
    QUEUE.end(at).map_or(Duration::ZERO, |_| QUEUED)
}
