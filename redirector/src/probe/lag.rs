//! `lag`: the cluster itself says whether the member's database is available and how far it is behind.
//!
//! Redis Software answers `GET /v1/bdbs/{uid}/availability` with 200 and nothing, or with 503 and a reason. Only these two
//! are about the member. Everything else is about who was asked: the REST API is not reached, does not believe the user,
//! does not know the database, says something that its documents do not have. That counts for nothing and is shown; a
//! revoked password must not make a database look bad.
//!
//! The database's number (`uid`) differs from cluster to cluster. It is looked up by the member's endpoint and kept until
//! the API does not know it any more.

use std::{net::IpAddr, time::Duration};

use hyper::StatusCode;
use serde::{Deserialize, de::IgnoredAny};

use super::{
    http_client::{Answer, Client},
    stop::Stop,
};
use crate::{
    model::{Cause, Endpoint, Lag as Settings, LagOf, Phase, Secret},
    quote::quote,
};

/// Longest answer about one database; documented ones have some hundred bytes.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Longest list of databases, of which each takes some 500 bytes. A cluster has hundreds, rarely thousands.
const LONGEST_LIST: usize = 4 * 1024 * 1024;

/// The state of a `lag` prober.
pub(super) struct Lag {
    client: Client,
    endpoint: Endpoint,
    password: Option<Secret>,
    tolerance: Duration,
    extended: bool,
    /// As configured.
    given: Option<u32>,
    /// As looked up.
    found: Option<u32>,
    /// Whether the database `uid` is Active-Active, once that was asked.
    active_active: Option<(u32, bool)>,
}

impl Lag {
    pub(super) fn new(settings: &Settings, of: &LagOf) -> Self {
        let rest = &of.rest;
        Self {
            client: Client::new(rest.url.clone(), None, rest.tls.as_ref(), &rest.login),
            endpoint: of.endpoint.clone(),
            password: rest.login.password.clone(),
            tolerance: settings.tolerance,
            extended: settings.extended,
            given: rest.uid,
            found: None,
            active_active: None,
        }
    }

    /// One probe. A number that the API does not know any more is looked up again, once.
    pub(super) async fn probe(&mut self, phase: &mut Phase) -> Result<(), Stop> {
        let known = self.given.or(self.found);
        let uid = match known {
            Some(uid) => uid,
            None => self.look_up(phase).await?,
        };
        let mut verdict = self.ask(uid, phase).await?;
        if matches!(verdict, Availability::NoSuchDatabase) && self.given.is_none() {
            self.found = None;
            if known.is_some() {
                let uid = self.look_up(phase).await?;
                verdict = self.ask(uid, phase).await?;
            }
        }
        let uid = self.given.or(self.found).unwrap_or(uid);
        match verdict {
            Availability::Available => Ok(()),
            Availability::NoSuchDatabase => Err(unclear(format!(
                "the cluster has no database {uid}; {}",
                if self.given.is_some() { "correct `uid`" } else { "it may just have been deleted" }
            ))),
            Availability::Unavailable(answer) => {
                if self.extended && !self.is_active_active(uid, phase).await {
                    return Err(unclear(format!(
                        "database {uid} is not Active-Active, and so always counts as too far behind; set \
                         `extended = false`, or remove this check"
                    )));
                }
                Err(Stop::Answer(Cause::Reported(self.words(uid, &answer))))
            }
        }
    }

    async fn look_up(&mut self, phase: &mut Phase) -> Result<u32, Stop> {
        let uid = look_up(&self.client, &self.endpoint, phase).await?;
        self.found = Some(uid);
        Ok(uid)
    }

    async fn ask(&self, uid: u32, phase: &mut Phase) -> Result<Availability, Stop> {
        let path = if self.extended {
            let tolerance = self.tolerance.as_millis();
            format!("/v1/bdbs/{uid}/availability?extend_check=lag&availability_lag_tolerance_ms={tolerance}")
        } else {
            format!("/v1/bdbs/{uid}/availability")
        };
        let answer = self.client.get(&path, LONGEST_ANSWER, phase).await?;
        Availability::of(&answer).map_err(unclear)
    }

    /// Whether it can be behind anybody at all. To the question for the lag, a database that is not Active-Active answers
    /// as one that is far behind. When nobody says, it is believed to be.
    async fn is_active_active(&mut self, uid: u32, phase: &mut Phase) -> bool {
        if let Some((known, is)) = self.active_active
            && known == uid
        {
            return is;
        }
        let answer = self.client.get(&format!("/v1/bdbs/{uid}?fields=uid,crdt"), LONGEST_ANSWER, phase).await;
        let kind = answer.ok().and_then(|answer| serde_json::from_slice::<Kind>(&answer.body).ok());
        let Some(is) = kind.filter(|kind| kind.uid == uid).and_then(|kind| kind.crdt) else { return true };
        self.active_active = Some((uid, is));
        is
    }

    /// What the cluster says of an unavailable database, first in own words and then in its own.
    fn words(&self, uid: u32, error: &ApiError) -> String {
        let code = error.error_code.as_str();
        let meaning = match code {
            "no_quorum" => "its cluster has no quorum".to_owned(),
            _ if code.ends_with("_shard_unreachable") => {
                format!("a primary shard of database {uid} is not reachable")
            }
            _ if code.ends_with("_port_unbound") => format!("nobody listens on the port of database {uid}"),
            "bdb_unavailable" | "bdb_endpoint_unavailable" if self.extended => format!(
                "database {uid} is not available, or more than {} behind",
                humantime::format_duration(self.tolerance)
            ),
            _ => format!("database {uid} is not available"),
        };
        let description =
            error.description.as_deref().filter(|text| !self.is_secret(text) && !text.is_empty());
        match description {
            Some(description) => format!("{meaning} ({}: {})", quote(code), quote(description)),
            None => format!("{meaning} ({})", quote(code)),
        }
    }

    /// Nobody should send a password back; one that is, is not repeated.
    fn is_secret(&self, text: &str) -> bool {
        self.password.as_ref().is_some_and(|password| text.contains(password.expose()))
    }
}

/// The number of the database that has the member's endpoint. Always with `fields`: without, passwords come back.
pub(crate) async fn look_up(client: &Client, endpoint: &Endpoint, phase: &mut Phase) -> Result<u32, Stop> {
    let answer = client.get("/v1/bdbs?fields=uid,name,endpoints", LONGEST_LIST, phase).await?;
    if answer.status != StatusCode::OK {
        return Err(unclear(refusal(answer.status, "the list of databases")));
    }
    if answer.is_cut {
        return Err(unclear("the list of databases is too long; give this one's `uid`".to_owned()));
    }
    let databases: Vec<Database> = serde_json::from_slice(&answer.body)
        .map_err(|_| unclear("the list of databases is not what the API's documents say".to_owned()))?;
    let mut having = databases.iter().filter(|database| database.has(endpoint)).map(|found| found.uid);
    match (having.next(), having.next()) {
        (Some(uid), None) => Ok(uid),
        (Some(one), Some(other)) => {
            Err(unclear(format!("databases {one} and {other} both have the endpoint {endpoint}; give `uid`")))
        }
        (None, _) => Err(unclear(format!(
            "no database of the cluster has the endpoint {endpoint} ({}); give its `uid`",
            listed(&databases)
        ))),
    }
}

/// What the API says of a database.
#[derive(Debug, PartialEq, Eq)]
enum Availability {
    Available,
    Unavailable(ApiError),
    NoSuchDatabase,
}

impl Availability {
    /// Or why the answer says nothing about it.
    fn of(answer: &Answer) -> Result<Self, String> {
        let error = serde_json::from_slice::<ApiError>(&answer.body).ok();
        match (answer.status, error) {
            (StatusCode::OK, _) if is_empty(&answer.body) => Ok(Self::Available),
            (StatusCode::OK, _) => Err("status 200 with a page: not of Redis Software's REST API".to_owned()),
            (StatusCode::NOT_FOUND, _) => Ok(Self::NoSuchDatabase),
            (StatusCode::SERVICE_UNAVAILABLE, Some(error)) if error.error_code == "db_not_found" => {
                Ok(Self::NoSuchDatabase)
            }
            (StatusCode::SERVICE_UNAVAILABLE, Some(error)) => Ok(Self::Unavailable(error)),
            (StatusCode::SERVICE_UNAVAILABLE, None) => {
                Err("status 503 without `error_code`: not of Redis Software, but of something before it"
                    .to_owned())
            }
            (status, _) => Err(refusal(status, "the availability")),
        }
    }
}

/// The documents say that the answer of an available database is empty. JSON will do too, a page (the administrator's
/// pages listen beside the API) will not.
fn is_empty(body: &[u8]) -> bool {
    body.trim_ascii().is_empty() || serde_json::from_slice::<IgnoredAny>(body).is_ok()
}

/// The body of an error.
#[derive(Debug, Deserialize, PartialEq, Eq)]
struct ApiError {
    error_code: String,
    description: Option<String>,
}

/// A database in the list, with the fields that were asked for.
#[derive(Deserialize)]
struct Database {
    uid: u32,
    #[serde(default)]
    endpoints: Vec<Listed>,
}

/// An endpoint of a database, as the API has it.
#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    dns_name: Option<String>,
    #[serde(default)]
    addr: Addresses,
    port: u16,
}

/// One, or several: the documents have both.
#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Addresses {
    #[default]
    None,
    One(String),
    Several(Vec<String>),
}

/// Whether a database is Active-Active.
#[derive(Deserialize)]
struct Kind {
    uid: u32,
    crdt: Option<bool>,
}

impl Database {
    fn has(&self, endpoint: &Endpoint) -> bool {
        self.endpoints.iter().any(|listed| listed.port == endpoint.port && listed.is_at(&endpoint.host))
    }
}

impl Listed {
    fn is_at(&self, host: &str) -> bool {
        let same = |name: &str| name.trim_end_matches('.').eq_ignore_ascii_case(host.trim_end_matches('.'));
        let same_address = |text: &str| match (text.parse::<IpAddr>(), host.parse::<IpAddr>()) {
            (Ok(one), Ok(other)) => one == other,
            _ => false,
        };
        self.dns_name.as_deref().is_some_and(same)
            || match &self.addr {
                Addresses::None => false,
                Addresses::One(address) => same_address(address),
                Addresses::Several(addresses) => addresses.iter().any(|address| same_address(address)),
            }
    }
}

/// Some endpoints that there are, for the operator to compare with.
fn listed(databases: &[Database]) -> String {
    const SHOWN: usize = 4;
    let names = databases.iter().flat_map(|database| &database.endpoints);
    let mut names: Vec<_> = names
        .filter_map(|listed| Some(format!("{}:{}", quote(listed.dns_name.as_deref()?), listed.port)))
        .collect();
    names.sort_unstable();
    names.dedup();
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    match (names.is_empty(), more) {
        (true, _) => "it lists none".to_owned(),
        (false, 0) => format!("it lists {}", names.join(", ")),
        (false, more) => format!("it lists {} and {more} more", names.join(", ")),
    }
}

/// What a status means that is no answer to the question. Bodies are not repeated: they may quote the request.
pub(crate) fn refusal(status: StatusCode, wanted: &str) -> String {
    let number = status.as_u16();
    match number {
        401 => "the user or the password is refused (status 401)".to_owned(),
        403 => format!("the user may not see {wanted} (status 403); the role `db_viewer` may"),
        400 => format!("the question for {wanted} is not understood (status 400); old versions know no lag"),
        300..=399 => format!(
            "status {number} leads elsewhere, and is not followed; `url` must name the cluster, not one of its nodes"
        ),
        _ => format!("status {number} instead of {wanted}"),
    }
}

fn unclear(why: String) -> Stop {
    Stop::Answer(Cause::WrongAnswer(why))
}
