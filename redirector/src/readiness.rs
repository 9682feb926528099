//! Readiness: what would hurt after a switch to a member, beyond up and down.
//!
//! ```text
//! look (one address) ──Look──▶ board ──judge (compares the members)──▶ Readiness ──▶ status, check, explain, metrics
//! ```
//!
//! A member can be up by all checks and still break applications when they come: its certificate is not for the name that
//! they verify, their user is unknown there, it has half the memory. That is looked at now and then, with connections of
//! its own, one at a time for each member. It is shown and **never decides**: `decide` does not know this module, and no
//! look waits for a probe or keeps one waiting.

use std::{net::SocketAddr, time::SystemTime};

use crate::model::{Access, Application, Endpoint, MemberId, Rest, Service};

pub use board::Board;
pub use finding::{Finding, Severity};
pub use judge::{Found, MemberLooks, Readiness, judge};
pub use look::{Look, look};
pub use run::run;

mod board;
mod certificate;
mod cluster;
mod facts;
mod finding;
mod judge;
mod look;
mod run;
mod software;

/// Whose readiness is looked at, and how to get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name of the service.
    pub service: String,
    /// Name of the member.
    pub member: String,
    /// As written.
    pub endpoint: Endpoint,
    /// The way of the checks.
    pub access: Access,
    /// The way of the applications.
    pub application: Application,
    /// The cluster's REST API, if there is one.
    pub rest: Option<Rest>,
    /// The service's.
    pub vips: Vec<SocketAddr>,
}

impl Target {
    /// A member of `service`.
    #[must_use]
    pub fn of(service: &Service, member: MemberId) -> Self {
        let member = &service.members[member.0];
        Self {
            service: service.name.clone(),
            member: member.name.clone(),
            endpoint: member.endpoint.clone(),
            access: member.access.clone(),
            application: service.application.clone(),
            rest: member.rest.clone(),
            vips: service.vips.clone(),
        }
    }
}

/// As humans and programs read it: seconds, UTC.
fn date(time: SystemTime) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_seconds(time)
}
