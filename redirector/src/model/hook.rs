//! `[[service.hook]]`: what an operator has run around switches.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Service, SwitchKind, Tls, Url, User};

/// A command or a webhook, run before or after switches of its service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// The program, or scheme and host of the URL: the rest may be nobody's business.
    pub name: String,
    /// When.
    pub when: HookWhen,
    /// At which switches. Before a switch never [`SwitchKind::Failover`] nor [`SwitchKind::Initial`].
    pub kinds: Vec<SwitchKind>,
    /// How long it may take; positive.
    pub timeout: Duration,
    /// What it means before a switch if it takes longer, or cannot be run or asked.
    pub on_failure: HookFailure,
    /// What is run. Not recorded: nothing is decided by it.
    #[serde(skip)]
    pub run: HookRun,
}

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookWhen {
    /// Before the switch, which waits for it and is not made if it says no.
    Before,
    /// After the switch, which does not wait.
    After,
}

/// What a hook means that gives no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookFailure {
    /// Nothing: the switch goes on.
    GoOn,
    /// The same as one that says no.
    Veto,
}

/// What a hook does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookRun {
    /// Runs a command.
    Command {
        /// The program, an absolute path, and its arguments. No shell sees them.
        command: Vec<String>,
        /// Who runs it.
        user: User,
    },
    /// Posts to a URL.
    Url {
        /// Where.
        url: Url,
        /// Some exactly if it is `https`.
        tls: Option<Tls>,
    },
}

impl Default for HookRun {
    /// Of a hook that was read from a recording: none is run there.
    fn default() -> Self {
        let url = Url { is_https: false, host: String::new(), port: 80, path: "/".to_owned() };
        Self::Url { url, tls: None }
    }
}

impl Service {
    /// Its hooks at a switch of this kind, in the order of the configuration.
    pub fn hooks_at(&self, when: HookWhen, kind: SwitchKind) -> impl Iterator<Item = &Hook> {
        self.hooks.iter().filter(move |hook| hook.when == when && hook.kinds.contains(&kind))
    }
}
