//! `explain -o json`. A promise to scripts: fields may be added, none changes its meaning.

use serde::{Deserialize, Serialize};

use super::status::ReadinessStatus;
use crate::decide::Explanation;

/// Why a service is as it is, and what would change it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// [`super::status::VERSION`].
    pub version: u32,
    /// The moment that it speaks of (RFC 3339, UTC).
    pub at: String,
    /// What the core says.
    #[serde(flatten)]
    pub explanation: Explanation,
    /// How ready its members are for applications. No part of the decision.
    #[serde(default)]
    pub readiness: Vec<MemberReadiness>,
}

/// How ready one member is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberReadiness {
    /// Its name.
    pub member: String,
    /// What was seen.
    #[serde(flatten)]
    pub readiness: ReadinessStatus,
}
