//! How often something is restored that somebody else takes away again and again.

use std::time::{Duration, Instant};

/// Restored without a pause.
const AT_ONCE: u32 = 5;
/// From then on.
const PAUSE: Duration = Duration::from_secs(1);
/// After this long without a restoration it was not "again".
const CALM: Duration = Duration::from_secs(10);

/// The restorations of one thing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    in_a_row: u32,
    last: Option<Instant>,
}

/// What there is to say of a restoration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// That it was made.
    Restored,
    /// That from now on there is a pause in between.
    Slower,
    /// Nothing any more.
    Nothing,
}

impl Pace {
    /// When it may be restored; `None`: now.
    pub(super) fn wait_until(&self, now: Instant) -> Option<Instant> {
        let next = self.last.filter(|_| self.in_a_row >= AT_ONCE)? + PAUSE;
        (next > now).then_some(next)
    }

    /// It was restored.
    pub(super) fn restored(&mut self, now: Instant) -> Told {
        let again = self.last.is_some_and(|last| now.duration_since(last) < CALM);
        self.in_a_row = if again { self.in_a_row.saturating_add(1) } else { 1 };
        self.last = Some(now);
        match self.in_a_row {
            ..AT_ONCE => Told::Restored,
            AT_ONCE => Told::Slower,
            _ => Told::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_times_at_once_then_once_a_second_until_it_is_calm() {
        let start = Instant::now();
        let mut pace = Pace::default();
        for time in 1..=5 {
            assert_eq!(pace.wait_until(start), None, "time {time}");
            assert_eq!(pace.restored(start), if time < 5 { Told::Restored } else { Told::Slower });
        }
        assert_eq!(pace.wait_until(start), Some(start + PAUSE));
        assert_eq!(pace.wait_until(start + PAUSE), None);
        assert_eq!(pace.restored(start + PAUSE), Told::Nothing);
        assert_eq!(pace.wait_until(start + PAUSE), Some(start + 2 * PAUSE));

        let later = start + PAUSE + CALM;
        assert_eq!(pace.restored(later), Told::Restored);
        assert_eq!(pace.wait_until(later), None);
    }
}
