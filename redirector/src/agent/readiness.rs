//! What systemd is told: when others may count on the VIPs, and when a reload begins and ends.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::{
    decide::Core,
    model::Config,
    telemetry::{Event, Events},
};

/// Ready is: every service has an active member, taken over or chosen, or its time for the first choice is over.
pub(super) struct Readiness {
    is_told: bool,
}

impl Readiness {
    /// The first choice may take longer than systemd waits.
    pub(super) fn announce(config: &Config) -> Self {
        const REST_OF_THE_START: Duration = Duration::from_secs(10);

        let longest = config.services.iter().map(|service| service.initial_timeout).max().unwrap_or_default();
        let time = u32::try_from((longest + REST_OF_THE_START).as_micros()).unwrap_or(u32::MAX);
        tell(&[NotifyState::ExtendTimeoutUsec(time)]);
        Self { is_told: false }
    }

    pub(super) fn look(&mut self, cores: &[Core], events: &Events) {
        if self.is_told || cores.iter().any(Core::waits_for_first_choice) {
            return;
        }
        self.is_told = true;
        events.emit(Event::Ready {});
        tell(&[NotifyState::Ready]);
    }

    /// A reload begins. systemd 253 wants the time with it (`Type=notify-reload`).
    pub(super) fn reloading(&self) {
        if self.is_told {
            // Without a clock there is nothing to say that systemd would understand.
            if let Ok(now) = NotifyState::monotonic_usec_now() {
                tell(&[NotifyState::Reloading, now]);
            }
        }
    }

    /// A reload has ended, well or not: the agent serves as it did.
    pub(super) fn reloaded(&self) {
        if self.is_told {
            tell(&[NotifyState::Ready]);
        }
    }
}

/// Nobody may be listening: the agent runs without systemd too.
pub(super) fn tell(state: &[NotifyState<'_>]) {
    let _not_under_systemd = sd_notify::notify(state);
}
