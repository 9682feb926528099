//! `[service.application]`: what is known of the applications, for readiness alone.

use std::time::Duration;

use super::Login;

/// How often readiness is looked at, where nothing is said.
const USUALLY: Duration = Duration::from_secs(60);

/// Who the applications are. Without the section: [`Application::default`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// Their own; without a password nobody logs in as they do.
    pub login: Login,
    /// Name that they verify in the certificate of whoever answers behind the VIP; `None`: that of the checks.
    pub server_name: Option<String>,
    /// From one look to the next; 0, or at least 1 s.
    pub ready_every: Duration,
}

impl Default for Application {
    fn default() -> Self {
        Self { login: Login::default(), server_name: None, ready_every: USUALLY }
    }
}

impl Application {
    /// From one look of the agent to the next.
    #[must_use]
    pub fn every(&self) -> Duration {
        if self.ready_every.is_zero() { USUALLY } else { self.ready_every }
    }

    /// As the agent looks again and again: with `ready_every = "0s"` it enters nowhere as the applications do.
    #[must_use]
    pub fn of_the_agent(&self) -> Self {
        match self.ready_every.is_zero() {
            true => Self { login: Login::default(), server_name: None, ready_every: self.ready_every },
            false => self.clone(),
        }
    }
}
