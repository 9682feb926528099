//! The agent's clock: the time since boot for decisions, the time of day for people.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

use crate::decide::Time;

/// Reads `CLOCK_BOOTTIME`, which goes on in suspend.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock;

impl Clock {
    /// Now.
    #[allow(clippy::unused_self)] // A clock is asked for the time, not a module.
    pub(super) fn now(self) -> Time {
        let time = clock_gettime(ClockId::Boottime);
        Time(Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or_default()))
    }

    /// The time of day of a moment.
    pub(super) fn system_time(self, moment: Time) -> SystemTime {
        SystemTime::now() - self.now().since(moment)
    }

    /// The time of day of a moment that is still to come, in the same form as [`Self::rfc3339`].
    pub(super) fn rfc3339_ahead(self, moment: Time) -> String {
        let at = SystemTime::now() + moment.since(self.now());
        humantime::format_rfc3339_millis(at).to_string()
    }

    /// The same for people and scripts: RFC 3339, UTC, with milliseconds.
    pub(super) fn rfc3339(self, moment: Time) -> String {
        humantime::format_rfc3339_millis(self.system_time(moment)).to_string()
    }

    /// When it is, or was, that time of day (RFC 3339), by the clock as it is set now; `None`: it is none.
    pub(super) fn moment(self, text: &str) -> Option<Time> {
        let at = humantime::parse_rfc3339(text).ok()?;
        let now = self.now();
        Some(match at.duration_since(SystemTime::now()) {
            Ok(ahead) => now + ahead,
            Err(past) => now.ago(past.duration()),
        })
    }
}
