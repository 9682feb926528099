//! Time as the core sees it: a number that the caller hands in.

use std::{ops::Add, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment, as the time that passed since an origin of the caller's choice.
///
/// The agent takes the boot of the machine (`CLOCK_BOOTTIME`: it goes on during suspend, [`std::time::Instant`]
/// does not). Nothing that is resumed outlives a boot, so every moment that the core speaks of is after that
/// origin. With a later origin, moments before it are shown as the origin itself; deadlines stay right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub Duration);

impl Time {
    /// How long ago `earlier` was; zero when it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `age` ago; the origin when that is before it.
    #[must_use]
    pub fn ago(self, age: Duration) -> Self {
        Self(self.0.saturating_sub(age))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    /// Saturates: a configured "for ever" is a moment that never comes.
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// In nanoseconds.
impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A moment that never comes is far beyond 584 years.
        serializer.serialize_u64(u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer).map(|nanos| Self(Duration::from_nanos(nanos)))
    }
}

/// A duration for a sentence: whole seconds, or milliseconds when it is shorter than one.
pub(super) fn in_words(duration: Duration) -> String {
    let rounded = if duration.as_secs() > 0 {
        Duration::from_secs(duration.as_secs())
    } else {
        Duration::from_millis(duration.subsec_millis().into())
    };
    humantime::format_duration(rounded).to_string()
}
