//! The cap on new connections of a service: the generic cell rate algorithm (ITU-T I.371, annex A), which keeps one word.
//!
//! The word is the *theoretical arrival time*: when the next connection would come if all kept the rate. A connection that comes
//! later is welcome and moves it on by one interval; one that comes too far ahead of it is refused and changes nothing.

/// A rate and a burst, as programs compute with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds from one connection to the next; 0: no cap.
    pub interval: u64,
    /// Nanoseconds that the theoretical arrival time may be ahead.
    pub burst: u64,
}

impl Rate {
    /// `per_second` connections, and `burst` of them in one moment (at least one). 0 per second: no cap.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        let Some(interval) = 1_000_000_000_u64.checked_div(u64::from(per_second)) else {
            return Self::default();
        };
        // More than a thousand million in a second: the clock cannot tell them apart.
        let interval = interval.max(1);
        Self { interval, burst: interval * u64::from(burst.max(1) - 1) }
    }

    /// The theoretical arrival time after a connection that comes `now`; `None`: it is one too many.
    #[inline(always)]
    #[must_use]
    pub const fn admit(&self, expected: u64, now: u64) -> Option<u64> {
        // A new map says 0, which is past; so is what was expected long ago.
        let expected = if expected < now { now } else { expected };
        if expected - now > self.burst { None } else { Some(self.after(expected, now)) }
    }

    /// The theoretical arrival time after a connection that comes `now` and is there, whether it was welcome or not.
    #[inline(always)]
    #[must_use]
    pub const fn after(&self, expected: u64, now: u64) -> u64 {
        let expected = if expected < now { now } else { expected };
        expected + self.interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let rate = Rate::new(1000, 3);
        let mut expected = 0;
        let mut admitted = |now| match rate.admit(expected, now) {
            Some(next) => {
                expected = next;
                true
            }
            None => false,
        };
        let start = 77_000_000_000;
        assert_eq!([(); 5].map(|()| admitted(start)), [true, true, true, false, false]);
        assert!(!admitted(start + 999_999));
        assert!(admitted(start + 1_000_000));
        assert!(!admitted(start + 1_000_001));
        let taken = (0..10_000_000_u64).step_by(10_000).filter(|at| admitted(start + 2_000_000 + at)).count();
        assert_eq!(taken, 10, "ten in ten milliseconds, however many ask");
        assert_eq!([(); 4].map(|()| admitted(start + 1_000_000_000)), [true, true, true, false]);
    }

    /// Two processors ask in the same moment, and both open one: the rate holds, because the next one waits for both.
    #[test]
    fn one_too_many_is_paid_back() {
        let rate = Rate::new(1000, 1);
        let start = 77_000_000_000;
        assert!(rate.admit(0, start).is_some());
        let expected = rate.after(rate.after(0, start), start);
        assert_eq!(rate.admit(expected, start + 1_999_999), None);
        assert!(rate.admit(expected, start + 2_000_000).is_some());
    }

    #[test]
    fn no_cap_and_caps_at_the_edge() {
        assert_eq!(Rate::new(0, 10), Rate { interval: 0, burst: 0 });
        assert_eq!(Rate::new(10, 0), Rate::new(10, 1), "one at a time");
        assert_eq!(Rate::new(u32::MAX, 1).interval, 1);
    }
}
