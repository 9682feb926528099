//! Names → addresses, with the time that an answer holds.
//!
//! | module | concern |
//! |---|---|
//! | `resolve` | one question: `/etc/hosts`, else DNS with the servers of `/etc/resolv.conf` |
//! | `answer` | what is made of the answers for the two IP versions, and of a failure |
//! | `follow` | asks again when an answer is over, for as long as the agent runs |
//!
//! The C library is not asked because it keeps the TTL to itself. So other sources of `nsswitch.conf` than `files` and
//! `dns` are not heard.

mod answer;
mod follow;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    fs,
    future::Future,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hickory_resolver::{
    Hosts, Resolver as Dns, TokioResolver,
    config::ResolveHosts,
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::{Query, ResponseCode},
        rr::{Name, RecordType},
    },
};

use tokio::time::timeout;

pub use answer::{Answer, Said};
pub use follow::{Changed, Followed, follow};

const HOSTS: &str = "/etc/hosts";
const SERVERS: &str = "/etc/resolv.conf";

/// How long the other IP version may take when one has addresses (RFC 8305, section 3, "Resolution Delay").
const OTHER_VERSION: Duration = Duration::from_millis(50);

/// `/etc/hosts` has no TTL: it is looked at again after this.
const HOSTS_HOLD: Duration = Duration::from_secs(10);

/// Asks the host's sources of names. They are read again when their files have changed.
#[derive(Default)]
pub struct Resolver {
    sources: Mutex<Option<Arc<Sources>>>,
}

/// The files as they were read.
struct Sources {
    stamps: [Option<Stamp>; 2],
    hosts: Hosts,
    /// Or why there is none; names of `hosts` resolve all the same.
    dns: Result<TokioResolver, String>,
}

/// Tells a file from what it was before: device, inode, time of change with nanoseconds, size.
type Stamp = (u64, u64, i64, i64, u64);

impl Resolver {
    /// The addresses of a host name. Takes as long as `/etc/resolv.conf` lets servers take (`timeout`, `attempts`).
    pub async fn look_up(self: &Arc<Self>, host: &str) -> Answer {
        self.look_up_within(host, None).await
    }

    /// The same for whoever has little time, and one address is enough for: when there are some of one IP version, the
    /// other one is waited for only shortly.
    pub async fn look_up_soon(self: &Arc<Self>, host: &str) -> Answer {
        self.look_up_within(host, Some(OTHER_VERSION)).await
    }

    async fn look_up_within(self: &Arc<Self>, host: &str, patience: Option<Duration>) -> Answer {
        let own = Arc::clone(self);
        // Reads files.
        let sources = match tokio::task::spawn_blocking(move || own.sources()).await {
            Ok(sources) => sources,
            Err(error) => return Answer::failed(&format!("the resolver stopped: {error}")),
        };
        // Names of machines may have underscores in them, against RFC 952.
        let name = match Name::from_str_relaxed(host) {
            Ok(name) => name,
            Err(error) => return Answer::failed(&error.to_string()),
        };
        match sources.static_addresses(&name) {
            Some(answer) => answer,
            None => match &sources.dns {
                Ok(dns) => ask(dns, name, patience).await,
                Err(error) => Answer::failed(error),
            },
        }
    }

    fn sources(&self) -> Arc<Sources> {
        let stamps = [HOSTS, SERVERS].map(stamp);
        // Nothing is half-written when a panic comes in between.
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        match &*sources {
            Some(known) if known.stamps == stamps => Arc::clone(known),
            _ => Arc::clone(sources.insert(Arc::new(Sources::read(stamps)))),
        }
    }
}

impl Sources {
    fn read(stamps: [Option<Stamp>; 2]) -> Self {
        let dns = Dns::builder(TokioRuntimeProvider::default()).and_then(|mut builder| {
            let options = builder.options_mut();
            // Whoever asks comes when the answer is over: a cache would only make it older.
            options.cache_size = 0;
            options.use_hosts_file = ResolveHosts::Never;
            builder.build()
        });
        Self {
            stamps,
            // Without the file there are no static addresses, as for the C library.
            hosts: Hosts::from_system().unwrap_or_default(),
            dns: dns.map_err(|error| format!("{SERVERS}: {error}")),
        }
    }

    /// As the C library with `hosts: files dns`: DNS is not asked for a name that the file has.
    fn static_addresses(&self, name: &Name) -> Option<Answer> {
        let of = |kind| {
            let lookup = self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
            lookup.map(|lookup| addresses(lookup.answers())).filter(|found| !found.is_empty())
        };
        let (v4, v6) = (of(RecordType::A), of(RecordType::AAAA));
        if v4.is_none() && v6.is_none() {
            return None;
        }
        let said = |found: Option<Vec<IpAddr>>| found.map_or(Said::Nothing, Said::Addresses);
        Some(Answer { v4: said(v4), v6: said(v6), holds: HOSTS_HOLD })
    }
}

fn stamp(path: &str) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.ctime(), file.ctime_nsec(), file.size()))
}

/// What was heard of one IP version.
struct Heard {
    said: Said,
    /// Of whom, when that is known: with a search list, one of several names.
    name: Option<Name>,
    /// The smallest TTL.
    holds: Option<Duration>,
}

/// Both IP versions at the same time, each with its own result: a server, or a firewall before it, may answer for one and
/// drop the other's question. When one has addresses, the other is given `patience` (`None`: as long as it takes).
///
/// A search list never mixes two hosts: when they answer for different names, the one that has IPv4 addresses is asked for
/// its others.
async fn ask(dns: &TokioResolver, name: Name, patience: Option<Duration>) -> Answer {
    let (v4, v6) = (ask_for(dns, name.clone(), RecordType::A), ask_for(dns, name, RecordType::AAAA));
    let (mut v4, mut v6) = (pin!(v4), pin!(v6));
    let (v4, mut v6) = tokio::select! {
        v4 = &mut v4 => {
            let v6 = beside(&v4, v6, patience).await;
            (v4, v6)
        }
        v6 = &mut v6 => (beside(&v6, v4, patience).await, v6),
    };
    if let (Said::Addresses(_), Some(name), Some(other)) = (&v4.said, &v4.name, &v6.name)
        && name != other
    {
        v6 = beside(&v4, ask_for(dns, name.clone(), RecordType::AAAA), patience).await;
    }
    let holds = [v4.holds, v6.holds].into_iter().flatten().min().unwrap_or_default();
    Answer { v4: v4.said, v6: v6.said, holds }
}

/// What is heard of the other IP version than this `one`.
async fn beside(one: &Heard, other: impl Future<Output = Heard>, patience: Option<Duration>) -> Heard {
    match (&one.said, patience) {
        (Said::Addresses(_), Some(patience)) => timeout(patience, other).await.unwrap_or_else(|_| Heard {
            said: without_addresses(&NetError::Timeout),
            name: None,
            holds: None,
        }),
        _ => other.await,
    }
}

async fn ask_for(dns: &TokioResolver, name: Name, kind: RecordType) -> Heard {
    match dns.lookup(name, kind).await {
        Ok(lookup) => {
            let said = match addresses(lookup.answers()) {
                none if none.is_empty() => Said::Nothing,
                found => Said::Addresses(found),
            };
            let ttl = lookup.answers().iter().map(|record| record.ttl).min();
            let holds = ttl.map(|seconds| Duration::from_secs(seconds.into()));
            Heard { said, name: Some(lookup.query().name().clone()), holds }
        }
        Err(error) => {
            let name = match &error {
                NetError::Dns(DnsError::NoRecordsFound(none)) => Some(none.query.name().clone()),
                _ => None,
            };
            Heard { said: without_addresses(&error), name, holds: None }
        }
    }
}

/// That a name has no address of a version is an answer. That it does not exist contradicts an answer for the other
/// version, and is a failure of whoever said so (or of a name of the search list).
fn without_addresses(error: &NetError) -> Said {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::NoError => {
            Said::Nothing
        }
        NetError::Dns(DnsError::NoRecordsFound(_)) => Said::Failed("no such name".to_owned()),
        NetError::Dns(DnsError::ResponseCode(code)) => Said::Failed(format!("the server says {code}")),
        NetError::Timeout => Said::Failed("no server answered in time".to_owned()),
        error => Said::Failed(error.to_string()),
    }
}

fn addresses(records: &[hickory_resolver::proto::rr::Record]) -> Vec<IpAddr> {
    records.iter().filter_map(|record| record.data.ip_addr()).collect()
}
