//! What a look can find, in words that name the next step.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::date;

/// How much a finding hurts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Applications may notice.
    Warning,
    /// Applications are sure to fail at this member.
    Problem,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

/// One thing that would hurt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The name that applications verify is not in the certificate. In the words of TLS.
    CertificateName(String),
    /// The certificate is over. In the words of TLS.
    CertificateExpired(String),
    /// It, or one that leads to its authority, is over soon.
    CertificateExpires {
        /// The subject of the certificate.
        of: String,
        /// When.
        at: SystemTime,
        /// From the look until then.
        left: Duration,
    },
    /// TLS does not come about for another reason. In the words of TLS.
    Tls(String),
    /// The applications' credentials are refused. In own words.
    Credentials(String),
    /// The applications' user may not say `GET`.
    Permission {
        /// At every member: then they may not need it.
        everywhere: bool,
    },
    /// Less memory than another member has.
    Maxmemory {
        /// In bytes.
        own: u64,
        /// In bytes; 0 is without a limit.
        most: u64,
        /// Who has that.
        at: String,
    },
    /// Another eviction policy.
    MaxmemoryPolicy {
        /// This member's.
        own: String,
        /// That of most.
        usual: String,
        /// Who have that.
        at: String,
    },
    /// An older version.
    Version {
        /// This member's.
        own: String,
        /// The newest.
        newest: String,
        /// Who has that.
        at: String,
    },
    /// It belongs to another Active-Active database, or to none.
    CrdtGuid {
        /// `None`: it is not Active-Active.
        own: Option<String>,
        /// That of most.
        usual: Option<String>,
        /// Who have that.
        at: String,
    },
    /// The OSS Cluster API names addresses that are no VIP.
    ClusterApi {
        /// How many primaries share the slots.
        primaries: usize,
        /// Addresses that it names, quoted; at least one.
        around: Vec<String>,
    },
    /// Redis Software's discovery service answers.
    Discovery {
        /// Where.
        port: u16,
    },
    /// Hardly room for another client.
    Maxclients {
        /// Connected now.
        connected: u64,
        /// At most.
        most: u64,
    },
    /// No room for another client.
    MaxclientsReached,
}

impl Finding {
    /// One word for programs; does not change.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::CertificateName(_) => "certificate_name",
            Self::CertificateExpired(_) => "certificate_expired",
            Self::CertificateExpires { .. } => "certificate_expires",
            Self::Tls(_) => "tls",
            Self::Credentials(_) => "credentials",
            Self::Permission { .. } => "permission",
            Self::Maxmemory { .. } => "maxmemory",
            Self::MaxmemoryPolicy { .. } => "maxmemory_policy",
            Self::Version { .. } => "version",
            Self::CrdtGuid { .. } => "crdt_guid",
            Self::ClusterApi { .. } => "cluster_api",
            Self::Discovery { .. } => "discovery",
            Self::Maxclients { .. } | Self::MaxclientsReached => "maxclients",
        }
    }

    /// How much it hurts.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::CertificateName(_)
            | Self::CertificateExpired(_)
            | Self::Tls(_)
            | Self::Credentials(_)
            | Self::Permission { everywhere: false }
            | Self::CrdtGuid { .. }
            | Self::MaxclientsReached => Severity::Problem,
            // One node has all slots, and serves clients that know nothing of clusters.
            Self::ClusterApi { primaries, .. } if *primaries > 1 => Severity::Problem,
            Self::CertificateExpires { .. }
            | Self::Permission { everywhere: true }
            | Self::Maxmemory { .. }
            | Self::MaxmemoryPolicy { .. }
            | Self::Version { .. }
            | Self::ClusterApi { .. }
            | Self::Discovery { .. }
            | Self::Maxclients { .. } => Severity::Warning,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CertificateName(text) | Self::CertificateExpired(text) | Self::Tls(text) => f.write_str(text),
            Self::CertificateExpires { of, at, left } => {
                let days = left.as_secs() / (24 * 60 * 60);
                write!(f, "the certificate of {of} expires at {} (in {days} days); renew it", date(*at))
            }
            Self::Credentials(text) => write!(
                f,
                "applications cannot log in: {text}; create their user with the same password at every member, or correct \
                 [service.application]"
            ),
            Self::Permission { everywhere: false } => f.write_str(
                "the user of the applications may not say GET, and may at another member; give it the same rights (ACL \
                 SETUSER) at every member",
            ),
            Self::Permission { everywhere: true } => f.write_str(
                "the user of the applications may not say GET at any member; give it the right (ACL SETUSER … +get), unless \
                 they never read so",
            ),
            Self::Maxmemory { own, most, at } => write!(
                f,
                "maxmemory is {}, at {at} {}; raise it, or this member evicts or refuses writes first",
                size(*own),
                size(*most)
            ),
            Self::MaxmemoryPolicy { own, usual, at } => {
                write!(f, "maxmemory-policy is {own}, at {at} {usual}; set the same at every member")
            }
            Self::Version { own, newest, at } => write!(
                f,
                "version {own} is older than {newest} of {at}; upgrade it, or let applications use only what it has"
            ),
            Self::CrdtGuid { own: Some(own), usual: Some(usual), at } => write!(
                f,
                "it is a member of the Active-Active database {own}, {at} of {usual}: other data; correct `endpoint`, or \
                 `uid` in [service.member.rest]"
            ),
            Self::CrdtGuid { own: None, at, .. } => write!(
                f,
                "its database is not Active-Active, that of {at} is: other data; correct `endpoint`, or `uid` in \
                 [service.member.rest]"
            ),
            Self::CrdtGuid { own: Some(own), usual: None, at } => write!(
                f,
                "it is a member of the Active-Active database {own}, and that of {at} is in none: other data; correct \
                 `endpoint`, or `uid` in [service.member.rest]"
            ),
            Self::ClusterApi { primaries, around } => write!(
                f,
                "the OSS Cluster API is on and names {}: clients that follow it connect around the VIP{}; switch it off for \
                 this database, or let applications use clients without it",
                around.join(", "),
                if *primaries > 1 { ", and others are sent there (MOVED)" } else { "" }
            ),
            Self::Discovery { port } => write!(
                f,
                "the discovery service answers on port {port}: clients that ask it (as they ask Sentinel) connect around the \
                 VIP; give applications the VIP and no discovery"
            ),
            Self::Maxclients { connected, most } => write!(
                f,
                "{connected} of at most {most} clients are connected; raise maxclients, or those that come with a switch find \
                 no room"
            ),
            Self::MaxclientsReached => {
                f.write_str("max number of clients reached; raise maxclients, or find out who holds connections")
            }
        }
    }
}

/// Bytes as Redis writes them.
fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    if bytes == 0 {
        return "without a limit".to_owned();
    }
    let unit = UNITS.iter().find(|(unit, _)| bytes >= *unit);
    // A limit has few digits; the loss of precision is in none of them.
    #[allow(clippy::cast_precision_loss)]
    match unit {
        Some((unit, name)) if bytes.is_multiple_of(*unit) => format!("{} {name}", bytes / unit),
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_short() {
        let shown = [0, 512, 1 << 20, 3 << 29, 100 << 30].map(size);
        assert_eq!(shown, ["without a limit", "512 bytes", "1 MiB", "1.5 GiB", "100 GiB"]);
    }
}
