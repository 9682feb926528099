//! Round trips: of a flow now and then one segment, and when it was acknowledged.
//!
//! Time is cut into stretches of about 128 ms. In each the first data of the client is noted; on the way back nothing is looked
//! for once a round trip of this stretch was measured, or a few segments said nothing about it. A flow thus pays for a clock
//! twice in a stretch, and the two directions, which run on different processors, hardly ever share a line.

use crate::flow::{Flow, is_after};

/// A segment of the client whose acknowledgement is waited for. Written by the way to the member.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// The sequence number that acknowledges it.
    pub end: u32,
    /// The stretch of time in which it was sent.
    pub stretch: u32,
    /// When it was sent, in nanoseconds of the monotonic clock; 0: it is not waited for, because it was sent again and nobody
    /// can tell which one is acknowledged (Karn and Partridge 1987; RFC 6298 section 3).
    pub at: u64,
}

/// What the way back has looked at.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// The last stretch that is done with.
    pub stretch: u32,
    /// Segments that were looked at in the stretch that is not.
    pub segments: u32,
}

/// Segments that are looked at in a stretch, at most: a subscriber's client acknowledges, and sends nothing.
const LOOKS: u32 = 8;

impl Looked {
    /// After one more segment, in this stretch of time; `measured`: it was the one that was waited for.
    #[inline(always)]
    #[must_use]
    pub const fn after(&self, stretch: u32, measured: bool) -> Self {
        if measured || self.segments + 1 >= LOOKS {
            Self { stretch, segments: 0 }
        } else {
            Self { stretch: self.stretch, segments: self.segments + 1 }
        }
    }
}

impl Flow {
    /// Nanoseconds that the client's sample took, if a segment of the member acknowledges it, and is the first one that does.
    #[inline(always)]
    #[must_use]
    pub const fn round_trip(&self, acknowledged: u32, now: u64) -> Option<u64> {
        let is_first =
            !self.replies.has_acknowledged() || is_after(self.sample.end, self.replies.acknowledged);
        if self.sample.at == 0 || !is_first || is_after(self.sample.end, acknowledged) {
            return None;
        }
        Some(now.saturating_sub(self.sample.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{flow::Half, packet::Flags};

    fn flow(acknowledged: Option<u32>) -> Flow {
        let replies = acknowledged.map_or_else(Half::default, |acknowledged| Half {
            acknowledged,
            seen: Flags::ACK.into(),
            ..Half::default()
        });
        Flow { sample: Sample { end: 130, stretch: 1, at: 1000 }, replies, ..Flow::default() }
    }

    #[test]
    fn only_the_first_acknowledgement_measures() {
        assert_eq!(flow(Some(100)).round_trip(130, 4000), Some(3000));
        assert_eq!(flow(Some(100)).round_trip(200, 4000), Some(3000), "of more than that");
        assert_eq!(flow(Some(100)).round_trip(129, 4000), None, "of less");
        assert_eq!(flow(Some(130)).round_trip(200, 4000), None, "it was acknowledged before");
        assert_eq!(flow(None).round_trip(130, 4000), Some(3000), "a SYN");
        let mut again = flow(Some(100));
        again.sample.at = 0;
        assert_eq!(again.round_trip(130, 4000), None, "it was sent again");
    }

    #[test]
    fn a_stretch_is_done_with_when_it_was_measured_or_says_nothing() {
        let mut looked = Looked { stretch: 4, segments: 0 };
        assert_eq!(looked.after(5, true).stretch, 5);
        let mut looks = 0;
        while looked.stretch != 5 {
            looked = looked.after(5, false);
            looks += 1;
        }
        assert_eq!((looks, looked.segments), (LOOKS, 0));
    }
}
