//! The control socket: HTTP and JSON on a Unix socket. Server, client, and the types that both share.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`status::Status`] |
//! | `GET /v1/status/{service}` | the same with this service only |
//! | `GET /v1/flows?FILTER&limit=N` | a line of JSON for each flow ([`flows::FlowStatus`]), then [`flows::ListEnd`] |
//! | `GET /v1/flows/totals?FILTER` | [`flows::Totals`] |
//! | `GET /v1/events?since=10m&service=NAME&follow=true` | a line of JSON for each event ([`crate::telemetry::Record`]) |
//! | `POST /v1/reload` | [`reload::Reloaded`] |
//! | `POST`, `DELETE /v1/services/{service}/members/{member}` | the same |
//! | `GET /v1/explain/{service}` | [`explain::Explained`] |
//! | `POST /v1/services/{service}/{verb}` | [`operator::Answer`]; the verbs and their bodies are those of [`operator::Order`] |
//!
//! `FILTER` is any of `service`, `member`, `client`, `state`, `idle_over_ms` and `stale=true` ([`flows::Filter`]).
//!
//! Everybody may `GET`; the others are for root and the operators' group ([`access`]).
//!
//! Everything else is answered with an [`ErrorDocument`]. `curl --unix-socket /run/redirector/control.sock
//! http://localhost/v1/status` works.

use serde::{Deserialize, Serialize};

pub mod access;
pub mod client;
mod events;
pub mod explain;
pub mod flows;
pub mod operator;
pub mod reload;
pub mod server;
pub mod status;

/// What is answered when a request cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDocument {
    /// [`status::VERSION`].
    pub version: u32,
    /// The error.
    pub error: ErrorText,
}

/// An error in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorText {
    /// What went wrong, and with what.
    pub message: String,
    /// What to do.
    pub next: String,
}
