//! Another configuration while the agent runs: what may be asked for, and what is answered. A promise to scripts, as
//! [`super::operator`].

use serde::{Deserialize, Serialize};

use super::operator::Verb;
use crate::model::Endpoint;
pub use crate::model::{Change, Difference, Kind, ServiceDifference};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The configuration file is read again.
    Reload,
    /// A service gets a member.
    Add {
        /// Name of the service.
        service: String,
        /// The member.
        member: NewMember,
    },
    /// A service loses a member.
    Remove {
        /// Name of the service.
        service: String,
        /// Name of the member.
        member: String,
    },
}

impl Wish {
    /// Its verb.
    #[must_use]
    pub fn verb(&self) -> Verb {
        match self {
            Self::Reload => Verb::Reload,
            Self::Add { .. } => Verb::AddMember,
            Self::Remove { .. } => Verb::RemoveMember,
        }
    }

    /// The service that it names.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::Reload => None,
            Self::Add { service, .. } | Self::Remove { service, .. } => Some(service),
        }
    }

    /// The member that it names.
    #[must_use]
    pub fn member(&self) -> Option<&str> {
        match self {
            Self::Reload => None,
            Self::Add { member, .. } => Some(&member.name),
            Self::Remove { member, .. } => Some(member),
        }
    }
}

/// A member that is added. Its checks are those of the service, and so is how they log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    /// Unique within its service.
    pub name: String,
    /// Where it is.
    pub endpoint: Endpoint,
    /// At least 1.
    pub weight: u32,
}

/// A request, as its body says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What is asked for.
    pub wish: Wish,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// Whether it is only to be said what would happen.
    pub dry_run: bool,
    /// Although an active member goes and no other one is up: the service refuses connections until one is.
    pub force: bool,
}

/// Body of every request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it is only to be said what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Although an active member goes and no other one is up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Of a member that is added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Of a member that is added; 100, if it is not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// [`super::status::VERSION`].
    pub version: u32,
    /// What was asked for.
    pub verb: Verb,
    /// Whether this says what *would* happen.
    pub dry_run: bool,
    /// What happened, or would, in words.
    pub message: String,
    /// What differs.
    pub difference: Difference,
    /// What this host does not have yet, in words, each with the next step.
    pub warnings: Vec<String>,
}
