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

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
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

pub use answer::{Answer, Said};
pub use follow::{Changed, Followed, follow};

const HOSTS: &str = "/etc/hosts";
const SERVERS: &str = "/etc/resolv.conf";

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
        let own = Arc::clone(self);
        // Reads files.
        let sources = match tokio::task::spawn_blocking(move || own.sources()).await {
            Ok(sources) => sources,
            Err(error) => return Answer::failed(&format!("the resolver stopped: {error}")),
        };
        let name = match Name::from_utf8(host) {
            Ok(name) => name,
            Err(error) => return Answer::failed(&error.to_string()),
        };
        match sources.static_addresses(&name) {
            Some(answer) => answer,
            None => match &sources.dns {
                Ok(dns) => ask(dns, name).await,
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

/// Both IP versions, each with its own result. The second question is for the name that answered the first one, so that
/// a search list never mixes two hosts.
async fn ask(dns: &TokioResolver, name: Name) -> Answer {
    let mut holds = None;
    let mut ask = async |name: Name, kind| match dns.lookup(name.clone(), kind).await {
        Ok(lookup) => {
            let answered = lookup.query().name().clone();
            let ttl = lookup.answers().iter().map(|record| record.ttl).min();
            let ttl = ttl.map(|seconds| Duration::from_secs(seconds.into()));
            holds = [holds, ttl].into_iter().flatten().min();
            match addresses(lookup.answers()) {
                none if none.is_empty() => (Said::Nothing, answered),
                found => (Said::Addresses(found), answered),
            }
        }
        Err(error) => (without_addresses(&error), name),
    };
    let (v4, name) = ask(name, RecordType::A).await;
    let (v6, _) = ask(name, RecordType::AAAA).await;
    Answer { v4, v6, holds: holds.unwrap_or_default() }
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
