//! Profiles: the defaults of every time and threshold of a service. What is written wins, key by key.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::Detect;

/// `profile`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Leaves a member within 150 ms, whatever its trouble, and so now and then without need; probes twenty times a second.
    Fast,
    /// Leaves a crashed member at once and bears short stalls.
    #[default]
    Balanced,
    /// Waits for the recovery of a member's own cluster, which takes seconds.
    Patient,
}

/// What holds where a configuration says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Of every check.
    pub interval: Duration,
    /// Of every check; a shorter `interval` shortens it.
    pub fast_interval: Duration,
    /// Of every check.
    pub timeout: Duration,
    /// Of every check.
    pub fall: u32,
    /// Of every check.
    pub rise: u32,
    /// Of `[service.detect]`.
    pub detect: Detect,
    /// Of the service.
    pub initial_timeout: Duration,
    /// Of the service.
    pub drain_timeout: Duration,
    /// Of `[service.failback]`.
    pub healthy_for: Duration,
    /// Of `[service.failback]`.
    pub hold_down: Duration,
}

impl Profile {
    /// All of them, by the word that a configuration uses.
    pub const WORDS: [(&'static str, Self); 3] =
        [("fast", Self::Fast), ("balanced", Self::Balanced), ("patient", Self::Patient)];

    /// The table of docs/configuration.md, which is tested against this one.
    #[must_use]
    pub const fn defaults(self) -> Defaults {
        const fn ms(milliseconds: u64) -> Duration {
            Duration::from_millis(milliseconds)
        }
        const fn s(seconds: u64) -> Duration {
            Duration::from_secs(seconds)
        }
        match self {
            Self::Fast => Defaults {
                interval: ms(50),
                fast_interval: ms(10),
                timeout: ms(500),
                fall: 3,
                rise: 2,
                detect: Detect {
                    silence_tolerance: ms(80),
                    stall_tolerance: ms(80),
                    refused_tolerance: ms(0),
                },
                initial_timeout: s(2),
                drain_timeout: s(30),
                healthy_for: s(60),
                hold_down: s(30),
            },
            Self::Balanced => Defaults {
                interval: s(1),
                fast_interval: ms(50),
                timeout: s(1),
                fall: 3,
                rise: 2,
                detect: Detect {
                    silence_tolerance: ms(300),
                    stall_tolerance: s(1),
                    refused_tolerance: ms(0),
                },
                initial_timeout: s(5),
                drain_timeout: s(30),
                healthy_for: s(60),
                hold_down: s(30),
            },
            Self::Patient => Defaults {
                interval: s(2),
                fast_interval: ms(500),
                timeout: s(3),
                fall: 3,
                rise: 3,
                detect: Detect { silence_tolerance: s(5), stall_tolerance: s(10), refused_tolerance: s(5) },
                initial_timeout: s(15),
                drain_timeout: s(60),
                healthy_for: s(120),
                hold_down: s(60),
            },
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fast => "fast",
            Self::Balanced => "balanced",
            Self::Patient => "patient",
        })
    }
}
