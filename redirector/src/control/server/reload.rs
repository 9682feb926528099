//! Requests for another configuration: the file read again, a member more or less.

use hyper::{Method, Response, StatusCode, body::Incoming};

use super::{
    super::{
        access::{Peer, Who},
        operator::{Verb, checked_reason},
        reload::{Asked, Body as Written, NewMember, Wish},
    },
    Agent, Body, RELOAD_TIME, Refusal, Request, ask_within, json,
    operate::{deny, read},
};
use crate::config;

/// A path and method that stand for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path<'a> {
    verb: Verb,
    service: &'a str,
    member: &'a str,
}

impl<'a> Path<'a> {
    /// `POST /v1/reload`, `POST` or `DELETE /v1/services/{service}/members/{member}`; `None`: it is something else.
    pub(super) fn read(method: &Method, path: &'a str) -> Option<Self> {
        if path == "/v1/reload" && method == Method::POST {
            return Some(Self { verb: Verb::Reload, service: "", member: "" });
        }
        let (service, member) = path.strip_prefix("/v1/services/")?.split_once("/members/")?;
        let verb = match *method {
            Method::POST => Verb::AddMember,
            Method::DELETE => Verb::RemoveMember,
            _ => return None,
        };
        (!service.is_empty() && !member.is_empty()).then_some(Self { verb, service, member })
    }

    /// Lets the agent do it, if whoever asks may.
    pub(super) async fn answer(
        self,
        body: Incoming,
        peer: &Peer,
        agent: &Agent,
    ) -> Result<Response<Body>, Refusal> {
        let body = read(body).await?;
        let asked = self.asked(&body);
        if !agent.access.may_operate(peer) {
            let said = asked.map_or((None, false), |asked| (asked.reason, asked.dry_run));
            let named = |name: &'a str| (!name.is_empty()).then_some(name);
            let subject = (named(self.service), named(self.member));
            return Err(deny(self.verb, subject, said, peer, agent).await);
        }
        let asked = asked.map_err(|(message, next)| Refusal::new(StatusCode::BAD_REQUEST, message, next))?;
        let who = Who::of(peer).await;
        let request = |reply| Request::Reload { asked, who, reply };
        let done = ask_within(RELOAD_TIME, agent, request).await?.map_err(Refusal::refused)?;
        Ok(json(StatusCode::OK, &done))
    }

    /// What is asked for; or what is wrong, and what to do.
    fn asked(self, body: &[u8]) -> Result<Asked, (String, String)> {
        let example = match self.verb {
            Verb::AddMember => r#"send JSON, such as {"endpoint": "10.2.3.2:6379", "weight": 50}"#,
            _ => r#"send JSON, such as {"dry_run": true}"#,
        };
        let wrong = |why: String| (format!("the body of {} is wrong: {why}", self.verb), example.to_owned());
        let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
        let Written { reason, dry_run, force, endpoint, weight } =
            serde_json::from_slice(body).map_err(|error| wrong(error.to_string()))?;
        let reason = reason.map(|reason| checked_reason(&reason)).transpose().map_err(wrong)?.flatten();
        let service = self.service.to_owned();
        let wish = match self.verb {
            Verb::AddMember => {
                let Some(endpoint) = endpoint else { return Err(wrong("`endpoint` is missing".to_owned())) };
                let weight = weight.unwrap_or(100);
                if weight == 0 {
                    return Err(wrong("`weight` is 0; the lowest is 1".to_owned()));
                }
                let name = config::member_name(self.member)?;
                Wish::Add {
                    service,
                    member: NewMember { name, endpoint: config::endpoint(&endpoint)?, weight },
                }
            }
            _ if endpoint.is_some() || weight.is_some() => {
                return Err(wrong("`endpoint` and `weight` are for a member that is added".to_owned()));
            }
            Verb::RemoveMember => Wish::Remove { service, member: self.member.to_owned() },
            _ => Wish::Reload,
        };
        Ok(Asked { wish, reason, dry_run, force })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_verbs() {
        let read = |method: Method, path: &'static str| {
            Path::read(&method, path).map(|path| (path.verb, path.service, path.member))
        };
        assert_eq!(read(Method::POST, "/v1/reload"), Some((Verb::Reload, "", "")));
        assert_eq!(read(Method::GET, "/v1/reload"), None);
        let path = "/v1/services/orders/members/oslo";
        assert_eq!(read(Method::POST, path), Some((Verb::AddMember, "orders", "oslo")));
        assert_eq!(read(Method::DELETE, path), Some((Verb::RemoveMember, "orders", "oslo")));
        assert_eq!(read(Method::POST, "/v1/services/orders/members/"), None);
        assert_eq!(read(Method::POST, "/v1/services/orders/switch"), None);
    }

    #[test]
    fn bodies_say_what_is_wrong() {
        let asked = |method: Method, path: &'static str, body: &str| {
            Path::read(&method, path)
                .unwrap()
                .asked(body.as_bytes())
                .map_err(|(message, next)| format!("{message}; {next}"))
        };
        let reload = asked(Method::POST, "/v1/reload", r#"{"dry_run": true}"#).unwrap();
        assert_eq!(reload, Asked { wish: Wish::Reload, reason: None, dry_run: true, force: false });
        let member = "/v1/services/orders/members/oslo";
        let added = asked(Method::POST, member, r#"{"endpoint": "10.2.3.2:6379"}"#).unwrap();
        assert!(matches!(added.wish, Wish::Add { member: NewMember { weight: 100, .. }, .. }), "{added:?}");
        for (method, body, says) in [
            (Method::POST, "", "`endpoint` is missing"),
            (Method::POST, r#"{"endpoint": "10.2.3.2"}"#, "has no port"),
            (Method::POST, r#"{"endpoint": "10.2.3.2:6379", "weight": 0}"#, "`weight` is 0"),
            (Method::DELETE, r#"{"weight": 5}"#, "are for a member that is added"),
            (Method::DELETE, "[", "the body of remove_member is wrong"),
        ] {
            let error = asked(method, member, body).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
