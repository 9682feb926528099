//! `http`: an HTTP server of the operator's choice says how the member is. Whatever keeps it from saying so counts: the
//! operator means it.

use std::net::SocketAddr;

use super::{http_client::Client, stop::Stop};
use crate::{
    model::{Cause, Http as Settings, HttpTarget, Login, Phase, Url},
    quote::quote,
};

/// How much of a body is read, and searched.
const LONGEST_BODY: usize = 64 * 1024;

/// The state of an `http` prober.
pub(super) struct Http {
    client: Client,
    path: String,
    settings: Settings,
}

impl Http {
    /// For the member's `address`, whose endpoint has the host `host`.
    pub(super) fn new(settings: &Settings, host: &str, address: SocketAddr) -> Self {
        let (url, address) = match &settings.target {
            HttpTarget::Url(url) => (url.clone(), None),
            HttpTarget::Path { path, port } => {
                let address = SocketAddr::new(address.ip(), port.unwrap_or(address.port()));
                let (path, is_https) = (path.clone(), settings.tls.is_some());
                let url = Url { is_https, host: host.to_owned(), port: address.port(), path };
                (url, Some(address))
            }
        };
        let path = url.path.clone();
        let client = Client::new(url, address, settings.tls.as_ref(), &Login::default());
        Self { client, path, settings: settings.clone() }
    }

    /// One probe.
    pub(super) async fn probe(&mut self, phase: &mut Phase) -> Result<(), Stop> {
        let answer = self.client.get(&self.path, LONGEST_BODY, phase).await?;
        let status = answer.status.as_u16();
        if !self.settings.status.iter().any(|range| range.contains(&status)) {
            return Err(wrong(format!("status {status}, not {}", self.statuses())));
        }
        match &self.settings.contains {
            Some(text) if !has(&answer.body, text.as_bytes()) => {
                let where_ = if answer.is_cut { "the first 64 KiB of the body do" } else { "the body does" };
                Err(wrong(format!("status {status}, but {where_} not have {:?}", quote(text))))
            }
            _ => Ok(()),
        }
    }

    /// As they are configured: `200, 301-302`.
    fn statuses(&self) -> String {
        let ranges = self.settings.status.iter().map(|range| match (range.start(), range.end()) {
            (one, other) if one == other => one.to_string(),
            (first, last) => format!("{first}-{last}"),
        });
        ranges.collect::<Vec<_>>().join(", ")
    }
}

fn wrong(why: String) -> Stop {
    Stop::Answer(Cause::WrongAnswer(why))
}

/// Whether the bytes have this text, which is not empty.
fn has(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}
