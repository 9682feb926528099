//! Follows the addresses of one member whose endpoint is a name.
//!
//! Asks again when the last answer is over. A failure changes nothing: what was known last goes on to hold, and the
//! question is put again, less and less often.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::sleep};

use super::Resolver;
use crate::{
    config::{self, MemberAddresses},
    model::{Config, MemberId, ServiceId},
};

/// Bounds of the time that an answer is taken to hold: a TTL of 0 must not flood the server, and one of a week must not
/// make a mistake of a minute last a week.
const HOLDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// Pauses after a failure: the first, and the longest of those that double.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A member whose endpoint is a name.
#[derive(Clone, Debug)]
pub struct Followed {
    /// What it belongs to.
    pub config: Arc<Config>,
    /// Its service.
    pub service: ServiceId,
    /// The member.
    pub member: MemberId,
    /// Its addresses as they are known.
    pub known: MemberAddresses,
}

/// A member has other addresses now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its service.
    pub service: ServiceId,
    /// The member.
    pub member: MemberId,
    /// All of them.
    pub addresses: MemberAddresses,
}

/// Reports every change of the addresses, until it is dropped or nobody receives its reports.
///
/// What is known was asked a moment ago: the first question comes after the shortest time that an answer holds.
pub async fn follow(resolver: Arc<Resolver>, mut followed: Followed, changes: mpsc::Sender<Changed>) {
    let (mut pause, mut retry) = (HOLDS.0, RETRY.0);
    let mut complaint = None;
    loop {
        sleep(pause).await;
        let (result, holds) = followed.ask(&resolver).await;
        let trouble = match result {
            Ok((addresses, trouble)) => {
                (pause, retry) = (holds.clamp(HOLDS.0, HOLDS.1), RETRY.0);
                if addresses != followed.known {
                    followed.known = addresses.clone();
                    let Followed { service, member, .. } = followed;
                    if changes.send(Changed { service, member, addresses }).await.is_err() {
                        return;
                    }
                }
                trouble
            }
            Err(error) => {
                pause = retry;
                retry = (retry * 2).min(RETRY.1);
                Some(error)
            }
        };
        followed.complain(&mut complaint, trouble);
    }
}

impl Followed {
    /// What holds from now on, with what is wrong with it nevertheless; and for how long.
    async fn ask(
        &self,
        resolver: &Arc<Resolver>,
    ) -> (Result<(MemberAddresses, Option<String>), String>, Duration) {
        let endpoint = &self.config.services[self.service.0].members[self.member.0].endpoint;
        let answer = resolver.look_up(&endpoint.host).await;
        let last: Vec<_> = self.known.iter().map(|address| address.ip()).collect();
        let addresses = answer.after(&last).and_then(|ips| {
            let addresses = ips.into_iter().map(|ip| SocketAddr::new(ip, endpoint.port));
            config::accept(&self.config, self.service, &addresses.collect::<Vec<_>>())
        });
        let trouble = answer.failure();
        (addresses.map(|addresses| (addresses, trouble)), answer.holds)
    }

    /// Logs what is wrong once, not with every question.
    fn complain(&self, before: &mut Option<String>, now: Option<String>) {
        if *before == now {
            return;
        }
        let service = &self.config.services[self.service.0];
        let member = &service.members[self.member.0];
        let (service, endpoint, member) = (&service.name, member.endpoint.to_string(), &member.name);
        match &now {
            Some(error) => tracing::warn!(
                service,
                member,
                endpoint,
                error,
                addresses = %self.known,
                "the endpoint does not resolve, its last addresses hold"
            ),
            None => {
                tracing::info!(service, member, endpoint, addresses = %self.known, "the endpoint resolves again");
            }
        }
        *before = now;
    }
}
