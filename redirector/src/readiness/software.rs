//! Redis Software: which Active-Active database a member belongs to, and whether its discovery service answers.

use std::{net::SocketAddr, time::Duration};

use hyper::StatusCode;
use serde::Deserialize;
use tokio::time::timeout;

use super::{
    Finding, Look, Target,
    look::{settle, within},
};
use crate::{
    model::{Cause, Phase, Rest},
    probe::{http_client::Client, lag, socket, stop::Stop},
    quote::quote,
};

/// Where Redis Software answers as Sentinel does.
const DISCOVERY_PORT: u16 = 8001;

/// Nobody waits for a port that a firewall swallows.
const DISCOVERY_PATIENCE: Duration = Duration::from_secs(1);

/// Longest answer about one database; two fields have a hundred bytes.
const LONGEST_ANSWER: usize = 64 * 1024;

/// A database, with the fields that are asked for.
#[derive(Deserialize)]
struct Database {
    crdt: Option<bool>,
    crdt_guid: Option<String>,
}

pub(super) async fn look(look: &mut Look, rest: &Rest, target: &Target, address: SocketAddr) {
    let mut phase = Phase::Resolve;
    let answer = within(crdt_guid(rest, target, &mut phase)).await;
    match settle(answer, phase, address) {
        Ok(guid) => look.facts.crdt_guid = Some(guid),
        // Whatever it is, it is about the API: its certificate is not that of the database.
        Err(failure) => {
            look.unclear::<()>(format!("crdt_guid: REST API: {failure}"));
        }
    }
    let discovery = SocketAddr::new(address.ip(), DISCOVERY_PORT);
    if matches!(timeout(DISCOVERY_PATIENCE, socket::open(discovery)).await, Ok(Ok(_))) {
        look.findings.push(Finding::Discovery { port: DISCOVERY_PORT });
    }
}

/// `None`: the database is not Active-Active. Always with `fields`: without, passwords come back.
async fn crdt_guid(rest: &Rest, target: &Target, phase: &mut Phase) -> Result<Option<String>, Stop> {
    let client = Client::new(rest.url.clone(), None, rest.tls.as_ref(), &rest.login);
    let uid = match rest.uid {
        Some(uid) => uid,
        None => lag::look_up(&client, &target.endpoint, phase).await?,
    };
    let path = format!("/v1/bdbs/{uid}?fields=uid,crdt,crdt_guid");
    let answer = client.get(&path, LONGEST_ANSWER, phase).await?;
    let unclear = |why: String| Stop::Answer(Cause::WrongAnswer(why));
    if answer.status != StatusCode::OK {
        return Err(unclear(lag::refusal(answer.status, "the database")));
    }
    let database: Option<Database> = serde_json::from_slice(&answer.body).ok();
    match database {
        Some(Database { crdt_guid: Some(guid), .. }) if !guid.is_empty() => Ok(Some(quote(&guid))),
        Some(Database { crdt: Some(false), .. }) => Ok(None),
        _ => Err(unclear(format!("it does not say to which Active-Active database {uid} belongs"))),
    }
}
