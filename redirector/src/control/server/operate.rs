//! Requests for changes: who may, what is asked, and the record of those who may not.

use std::{sync::PoisonError, time::Duration};

use http_body_util::{BodyExt as _, Collected, LengthLimitError, Limited};
use hyper::{
    Method, Response, StatusCode,
    body::{Bytes, Incoming},
};
use tokio::time::{Instant, timeout};

use super::{
    super::{
        access::{Peer, Who},
        operator::{Asked, LONGEST_BODY, Operation, OperationResult, Refused, RefusedKind, Verb},
    },
    Agent, Body, OPERATOR_TIME, REQUEST_TIME, Refusal, Request, ask_or, json,
};
use crate::model::is_name;

/// A path that stands for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path<'a> {
    service: &'a str,
    verb: Verb,
}

impl<'a> Path<'a> {
    /// `/v1/services/{service}/{verb}`; `None`: it is something else.
    pub(super) fn read(path: &'a str) -> Option<Self> {
        let (service, verb) = path.strip_prefix("/v1/services/")?.split_once('/')?;
        let verb = Verb::of_service(verb)?;
        (!service.is_empty()).then_some(Self { service, verb })
    }

    pub(super) fn takes(self, method: &Method) -> bool {
        method.as_str() == self.method()
    }

    pub(super) fn method(self) -> &'static str {
        "POST"
    }

    /// Lets the agent do it, if whoever asks may.
    pub(super) async fn answer(
        self,
        body: Incoming,
        peer: &Peer,
        agent: &Agent,
    ) -> Result<Response<Body>, Refusal> {
        let body = read(body).await?;
        let asked = Asked::read(self.verb, &body);
        if !agent.access.may_operate(peer) {
            let asked = asked.ok();
            let member = asked.as_ref().and_then(|asked| asked.order.member()).map(str::to_owned);
            let said = asked.map_or((None, false), |asked| (asked.reason, asked.dry_run));
            let subject = (Some(self.service), member.as_deref());
            return Err(deny(self.verb, subject, said, peer, agent).await);
        }
        let asked = asked.map_err(|error| Refusal::wrong_body(self.verb, &error))?;
        let (service, who) = (self.service.to_owned(), Who::of(peer).await);
        let request = |reply| Request::Operate { service, asked, who, reply };
        let late = || Refusal::late(self.verb);
        let done = ask_or(OPERATOR_TIME, agent, request, late).await?.map_err(Refusal::refused)?;
        Ok(json(StatusCode::OK, &done))
    }
}

/// Says to the record and to whoever asked that they may not. `asked`: reason, and whether it was only to be said what would
/// happen. Names are looked up for the record only, which is bounded: everybody can get here.
pub(super) async fn deny(
    verb: Verb,
    (service, member): (Option<&str>, Option<&str>),
    (reason, dry_run): (Option<String>, bool),
    peer: &Peer,
    agent: &Agent,
) -> Refusal {
    let unsaid = agent.denials.lock().unwrap_or_else(PoisonError::into_inner).count(Instant::now());
    let who = if unsaid.is_some() { Who::of(peer).await } else { Who::unnamed(peer) };
    let message = format!("{who} may look, but not change anything");
    if let Some(unsaid) = unsaid {
        let more = if unsaid == 0 {
            String::new()
        } else {
            format!("; {unsaid} more requests were denied before this one, and not recorded")
        };
        // Whoever may not change anything does not fill the record with what is no name (docs/configuration.md).
        let name = |text: Option<&str>| text.filter(|text| is_name(text)).map(str::to_owned);
        let operation = Operation {
            verb,
            service: name(service),
            member: name(member),
            dry_run,
            who,
            reason,
            result: OperationResult::Denied,
            message: format!("{message}{more}"),
        };
        // An agent that stops changes nothing any more.
        let _stopping = agent.requests.send(Request::Denied(operation)).await;
    }
    Refusal::new(StatusCode::FORBIDDEN, message, agent.access.next())
}

/// The whole body, if it is a short one that comes soon.
pub(super) async fn read(body: Incoming) -> Result<Bytes, Refusal> {
    let read = timeout(REQUEST_TIME, Limited::new(body, LONGEST_BODY).collect()).await;
    let Ok(read) = read else {
        let message = format!("the body did not come within {} s", REQUEST_TIME.as_secs());
        return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, message, "send it at once"));
    };
    read.map(Collected::to_bytes).map_err(|error| {
        if error.is::<LengthLimitError>() {
            let message = format!("the body has more than {LONGEST_BODY} bytes");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message, "leave out what does not belong there")
        } else {
            let message = format!("the body cannot be read: {error}");
            Refusal::new(StatusCode::BAD_REQUEST, message, "send it whole")
        }
    })
}

impl Refusal {
    fn wrong_body(verb: Verb, error: &str) -> Self {
        let example = match verb {
            Verb::Switch => r#"{"member": "dublin", "for": "1h", "reason": "maintenance"}"#,
            Verb::Drain => r#"{"member": "dublin", "reason": "maintenance"}"#,
            Verb::Undrain => r#"{"member": "dublin"}"#,
            Verb::Weight => r#"{"member": "dublin", "weight": 50}"#,
            _ => r#"{"reason": "maintenance"}"#,
        };
        let message = format!("the body of {verb} is wrong: {error}");
        Self::new(StatusCode::BAD_REQUEST, message, format!("send JSON, such as {example}"))
    }

    /// Nothing but a switch waits for anything.
    fn late(verb: Verb) -> Self {
        if verb != Verb::Switch {
            return Self::busy(OPERATOR_TIME);
        }
        let message = format!(
            "the checks of its member have not all answered within {} s; the switch may still be made",
            OPERATOR_TIME.as_secs()
        );
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message, "look at `status`, or `release` to call it off")
    }

    pub(super) fn refused(refused: Refused) -> Self {
        let code = match refused.kind {
            RefusedKind::Unknown => StatusCode::NOT_FOUND,
            RefusedKind::Conflict => StatusCode::CONFLICT,
            RefusedKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(code, refused.message, refused.next)
    }
}

/// How many denied requests go on record: everybody can make them, and they must not push out of the record what others
/// did. So many at once, then one in [`Denials::EVERY`]; the others are counted.
#[derive(Debug, Default)]
pub(super) struct Denials {
    /// When the whole burst is allowed again.
    full_at: Option<Instant>,
    unsaid: u64,
}

impl Denials {
    const BURST: u32 = 20;
    const EVERY: Duration = Duration::from_secs(5);

    /// Counts one. If it goes on record: how many did not since the last one that did.
    fn count(&mut self, now: Instant) -> Option<u64> {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + Self::EVERY;
        if full_at - now > Self::EVERY * Self::BURST {
            self.unsaid += 1;
            return None;
        }
        self.full_at = Some(full_at);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_verbs() {
        let path = |service, verb| Some(Path { service, verb });
        assert_eq!(Path::read("/v1/services/orders/switch"), path("orders", Verb::Switch));
        assert_eq!(Path::read("/v1/services/a.b-c_d/weight"), path("a.b-c_d", Verb::Weight));
        for other in [
            "/v1/services/orders",
            "/v1/services//switch",
            "/v1/services/orders/",
            "/v1/services/orders/reload",
            "/v1/services/orders/switch/",
            "/v1/services/a/b/switch",
            "/v2/services/orders/switch",
            "/v1/status",
        ] {
            assert_eq!(Path::read(other), None, "{other}");
        }
    }

    #[test]
    fn denied_requests_fill_the_record_only_so_far() {
        let (mut denials, start) = (Denials::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let recorded = (0..1000).filter(|_| denials.count(start).is_some()).count();
        assert_eq!(recorded, 20);
        assert_eq!(denials.count(at(5)), Some(980));
        assert_eq!(denials.count(at(6)), None);
        assert_eq!(denials.count(at(10)), Some(1));
        assert_eq!((0..1000).filter(|_| denials.count(at(1000)).is_some()).count(), 20);
    }
}
