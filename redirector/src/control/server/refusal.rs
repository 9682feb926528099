//! Requests that are not served, and why: what went wrong, what to do, and HTTP's number for it.

use std::time::Duration;

use hyper::{
    Method, Response, StatusCode,
    header::{ALLOW, HeaderValue},
};

use super::{
    super::{
        ErrorDocument, ErrorText,
        status::{ServiceStatus, VERSION},
    },
    Body, json,
};

/// A request that is not served, and why.
pub(in super::super) struct Refusal {
    code: StatusCode,
    message: String,
    next: String,
    /// The method that would do, if it is another one.
    allow: Option<&'static str>,
}

impl Refusal {
    pub(in super::super) fn new(
        code: StatusCode,
        message: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { code, message: message.into(), next: next.into(), allow: None }
    }

    pub(super) fn unknown_path(path: &str) -> Self {
        let message = format!("there is nothing at {path}");
        Self::new(
            StatusCode::NOT_FOUND,
            message,
            "ask for /v1/status, /v1/status/SERVICE, /v1/explain/SERVICE, /v1/flows, /v1/flows/totals or /v1/events; changes \
             are /v1/services/SERVICE/VERB",
        )
    }

    pub(super) fn wrong_method(method: &Method, path: &str, allow: &'static str) -> Self {
        let message = format!("{path} does not take {method}");
        let refusal = Self::new(StatusCode::METHOD_NOT_ALLOWED, message, format!("use {allow}"));
        Self { allow: Some(allow), ..refusal }
    }

    pub(super) fn unknown_service(name: &str, services: &[ServiceStatus]) -> Self {
        let known: Vec<_> = services.iter().map(|service| format!("\"{}\"", service.name)).collect();
        let message = format!("there is no service \"{name}\"; there is {}", known.join(", "));
        Self::new(StatusCode::NOT_FOUND, message, "check the name, or leave it out to see all services")
    }

    pub(in super::super) fn unknown_name(error: ErrorText) -> Self {
        Self::new(StatusCode::NOT_FOUND, error.message, error.next)
    }

    pub(super) fn wrong_query(message: String) -> Self {
        let next = "use service, member, client, state, idle_over_ms, stale, and limit for lists";
        Self::new(StatusCode::BAD_REQUEST, message, next)
    }

    pub(super) fn crowded(others: usize, what: &str) -> Self {
        let message = format!("{others} others {what} flows");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message, "repeat")
    }

    pub(super) fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping", "start it again and repeat")
    }

    pub(super) fn busy(time: Duration) -> Self {
        let message = format!("the agent's loop gave no answer within {} s", time.as_secs());
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message, "repeat, and look at the agent's log")
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let error = ErrorText { message: self.message, next: self.next };
        let mut response = json(self.code, &ErrorDocument { version: VERSION, error });
        if let Some(method) = self.allow {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(method));
        }
        response
    }
}
