//! `--wait`: until what was asked for has happened, and nobody is on the member that was left.

use std::{
    fmt,
    path::Path,
    time::{Duration, SystemTime},
};

use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::{
    cli::status::short,
    control::{
        client::{self, ClientError},
        flows::{Filter, FlowState},
        operator::{Answer, Verb},
    },
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// After a drain has ended, flows are reset within milliseconds. What is still there after this is a client that does
/// nothing, and is reset when it does something.
const AFTER_DRAIN: Duration = Duration::from_secs(1);

/// What was waited for.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Waited {
    /// Why the wait ended.
    pub(super) end: End,
    /// Flows of the member that was left, but for those that are closing.
    pub(super) flows: u64,
    /// How long it took.
    pub(super) took_ms: u64,
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum End {
    /// No flow is left.
    Left,
    /// The drain has ended: what is left is reset.
    Drained,
    /// It took too long. The member is still active.
    StillActive,
    /// It took too long. Flows are still there.
    StillFlows,
}

impl Waited {
    /// What to say when it took too long.
    pub(super) fn gave_up(&self, answer: &Answer) -> Option<String> {
        let member = left(answer)?;
        let (service, after) = (&answer.service, short(Duration::from_millis(self.took_ms)));
        match self.end {
            End::Left | End::Drained => None,
            End::StillActive => Some(format!(
                "member {member:?} of {service:?} is still active after {after}; `redirector explain {service}` says what \
                 it waits for"
            )),
            End::StillFlows => Some(format!(
                "member {member:?} of {service:?} still has {} flows after {after}; `redirector flows --service {service} \
                 --member {member}` lists them",
                self.flows
            )),
        }
    }
}

impl fmt::Display for Waited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = short(Duration::from_millis(self.took_ms));
        match self.end {
            End::Left => write!(f, "no flow is left there after {after}"),
            End::Drained => write!(f, "the drain has ended after {after}, {} flows are reset", self.flows),
            End::StillActive => write!(f, "still active after {after}"),
            End::StillFlows => write!(f, "{} flows are still there after {after}", self.flows),
        }
    }
}

/// The member that is to be without flows: of a drain the one that it names, of a switch the one that was left.
fn left(answer: &Answer) -> Option<&str> {
    match answer.verb {
        Verb::Drain => answer.member.as_deref(),
        _ => answer.left.as_ref().map(|left| left.member.as_str()),
    }
}

/// Waits until the member that was left is not active and has no flow, or until its drain has ended, for `time` at most.
pub(super) async fn until_left(
    socket: &Path,
    answer: &Answer,
    time: Duration,
) -> Result<Waited, ClientError> {
    let start = Instant::now();
    let waited = |end, flows| {
        let took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(Waited { end, flows, took_ms })
    };
    let Some(member) = left(answer) else { return waited(End::Left, 0) };
    let until = answer.left.as_ref().and_then(|left| left.until.as_ref());
    let until = until.and_then(|at| humantime::parse_rfc3339(at).ok()).map(|at| at + AFTER_DRAIN);
    loop {
        let is_over = start.elapsed() >= time;
        if is_active(socket, &answer.service, member).await? {
            if is_over {
                return waited(End::StillActive, 0);
            }
        } else {
            let flows = flows(socket, &answer.service, member).await?;
            if flows == 0 {
                return waited(End::Left, 0);
            }
            if until.is_some_and(|until| until <= SystemTime::now()) {
                return waited(End::Drained, flows);
            }
            if is_over {
                return waited(End::StillFlows, flows);
            }
        }
        sleep(PAUSE).await;
    }
}

async fn is_active(socket: &Path, service: &str, member: &str) -> Result<bool, ClientError> {
    let status = client::status(socket, Some(service)).await?;
    Ok(status.services.iter().any(|service| service.active.as_deref() == Some(member)))
}

/// How many flows a member has. Those that are closing have nothing to lose.
async fn flows(socket: &Path, service: &str, member: &str) -> Result<u64, ClientError> {
    let filter = Filter { service: Some(service.into()), member: Some(member.into()), ..Filter::default() };
    let totals = client::totals(socket, &filter).await?;
    let open = totals.totals.iter().filter(|total| total.state != FlowState::Closing);
    Ok(open.map(|total| total.flows).sum())
}
