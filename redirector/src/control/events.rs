//! `GET /v1/events`: recent events, and with `follow=true` those that come, for as long as the client stays.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    Response, StatusCode,
    body::{Body as Pieces, Bytes, Frame, SizeHint},
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};

use super::server::{Agent, Body, MAX_FOLLOWERS, Place, Refusal, Request, ask, lines_of_json};
use crate::telemetry::{Line, Selection, Subscription, events::Since};

/// Lines that wait for the client to read them. The stream itself holds those that do not fit, up to a bound.
const LINES: usize = 16;

/// Recent lines that are sent together.
const TOGETHER: usize = 64;

/// The answer to such a request.
pub(super) async fn answer(query: &str, agent: &Agent) -> Result<Response<Body>, Refusal> {
    let selection = selection(query).map_err(|message| {
        let next = "use since (10m, or 2026-11-21T20:00:00Z), service and follow=true";
        Refusal::new(StatusCode::BAD_REQUEST, message, next)
    })?;
    let follows = selection.follow;
    let place = if follows { Some(place(agent)?) } else { None };
    let subscription = ask(agent, |reply| Request::Events { selection, reply }).await?;
    let mut subscription = subscription.map_err(Refusal::unknown_name)?;
    let recent = Recent(subscription.take_recent());
    let Some(place) = place else {
        return Ok(lines_of_json(recent.boxed_unsync()));
    };
    // From here on the client may take its time.
    agent.limit.lift();
    Ok(lines_of_json(follow(recent, subscription, place)))
}

/// A place among those who follow.
fn place(agent: &Agent) -> Result<Place, Refusal> {
    agent.places.follower().ok_or_else(|| {
        let message = format!("{MAX_FOLLOWERS} others follow events already");
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message, "end one of them, or ask without follow")
    })
}

/// Events of the ring, which has them only once: they become text a few at a time, as their reader takes them. Readers that do
/// not would hold a megabyte each.
struct Recent(VecDeque<Arc<Line>>);

impl Iterator for Recent {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let together = self.0.len().min(TOGETHER);
        let mut text = String::new();
        for line in self.0.drain(..together) {
            text.push_str(line.text());
            text.push('\n');
        }
        (!text.is_empty()).then(|| text.into())
    }
}

impl Pieces for Recent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.get_mut().next().map(|text| Ok(Frame::data(text))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|line| line.text().len() as u64 + 1).sum())
    }
}

/// What was, then what comes.
fn follow(recent: Recent, mut subscription: Subscription, place: Place) -> Body {
    let (lines, waiting) = mpsc::channel::<Arc<Line>>(LINES);
    // It ends when the body is dropped, which the connection does when the client is gone.
    tokio::spawn(async move {
        let _place = place;
        loop {
            tokio::select! {
                () = lines.closed() => return,
                next = subscription.next() => {
                    let Some(line) = next else { return };
                    if lines.send(line).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    let recent = tokio_stream::iter(recent);
    let coming = ReceiverStream::new(waiting).map(|line| Bytes::from(format!("{}\n", line.text())));
    StreamBody::new(recent.chain(coming).map(|bytes| Ok(Frame::data(bytes)))).boxed_unsync()
}

/// Reads the query.
fn selection(query: &str) -> Result<Selection, String> {
    let mut selection = Selection::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match (key, value) {
            // What a URL makes of a colon.
            ("since", value) => selection.since = Some(value.replace("%3A", ":").parse::<Since>()?),
            ("service", value) => selection.service = Some(value.to_owned()),
            ("follow", "true") => selection.follow = true,
            ("follow", "false") => selection.follow = false,
            ("follow", _) => return Err(format!("follow={value} is neither true nor false")),
            _ => return Err(format!("there is no parameter {key:?}")),
        }
    }
    Ok(selection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_since_when_of_what_and_whether_to_follow() {
        assert_eq!(selection(""), Ok(Selection::default()));
        let all = selection("since=10m&service=orders&follow=true").unwrap();
        assert!(all.follow && all.service.as_deref() == Some("orders"));
        assert_eq!(all.since, Some("10m".parse().unwrap()));
        let moment = selection("since=2026-11-21T20%3A00%3A00Z").unwrap();
        assert_eq!(moment.since, Some("2026-11-21T20:00:00Z".parse().unwrap()));
        for wrong in ["since=", "since=yesterday", "follow=1", "what=1"] {
            selection(wrong).expect_err(wrong);
        }
    }
}
