//! Redis's error replies by kind, and which of them say that the member serves nobody.

use serde::{Deserialize, Serialize};

/// Redis's error replies, told apart by their first word, or by their text where the first word is `ERR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisErrorKind {
    /// `LOADING`: reads its data set into memory, or takes it over from its primary.
    Loading,
    /// `BUSY`: runs a script or function that does not end.
    Busy,
    /// `READONLY`: a replica.
    ReadOnly,
    /// `MASTERDOWN`: a replica without its primary.
    MasterDown,
    /// `CLUSTERDOWN`: slots are not covered.
    ClusterDown,
    /// `MISCONF`: writes are stopped because the last save failed. `PING` is answered with it, too.
    Misconf,
    /// `OOM`: writes are refused because the memory limit is reached.
    OutOfMemory,
    /// `NOREPLICAS`: writes are refused because too few replicas follow.
    NoReplicas,
    /// `ERR max number of clients reached`.
    MaxClients,
    /// `DENIED`: protected mode, which refuses everybody who is not on the member's own host.
    Denied,
    /// `NOAUTH`: nobody logged in.
    NoAuth,
    /// `WRONGPASS`, and every other way in which `AUTH` is refused.
    WrongPass,
    /// `NOPERM`: the user lacks the rights for what the probe does.
    NoPerm,
    /// `TRYAGAIN`: a slot moves between two nodes.
    TryAgain,
    /// `MOVED`: another node has the slot.
    Moved,
    /// `ASK`: a slot moves, and another node has this key already.
    Ask,
    /// Any other.
    Other,
}

impl RedisErrorKind {
    /// Every kind, and the word that the configuration has for it: Redis's own where it has one.
    pub const WORDS: [(&'static str, Self); 17] = [
        ("LOADING", Self::Loading),
        ("BUSY", Self::Busy),
        ("READONLY", Self::ReadOnly),
        ("MASTERDOWN", Self::MasterDown),
        ("CLUSTERDOWN", Self::ClusterDown),
        ("MISCONF", Self::Misconf),
        ("OOM", Self::OutOfMemory),
        ("NOREPLICAS", Self::NoReplicas),
        ("MAXCLIENTS", Self::MaxClients),
        ("DENIED", Self::Denied),
        ("NOAUTH", Self::NoAuth),
        ("WRONGPASS", Self::WrongPass),
        ("NOPERM", Self::NoPerm),
        ("TRYAGAIN", Self::TryAgain),
        ("MOVED", Self::Moved),
        ("ASK", Self::Ask),
        ("OTHER", Self::Other),
    ];

    /// Reads an error reply: its first word, and what follows.
    #[must_use]
    pub fn of(code: &str, details: &str) -> Self {
        match code {
            "ERR" if details.starts_with("max number of clients") => Self::MaxClients,
            // Words of this program, which Redis does not send as a first word.
            "MAXCLIENTS" | "OTHER" => Self::Other,
            _ => Self::WORDS.iter().find(|(word, _)| *word == code).map_or(Self::Other, |(_, kind)| *kind),
        }
    }

    /// The word that the configuration has for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, kind)| *kind == self).map_or("OTHER", |(word, _)| word)
    }

    /// Whether it is about who asks, not about the member. Such an error never counts against a member.
    #[must_use]
    pub fn is_about_credentials(self) -> bool {
        matches!(self, Self::NoAuth | Self::WrongPass | Self::NoPerm)
    }

    /// Those that count against a member where the configuration says nothing: an application that asks the same gets the
    /// same answer, and none of them goes away by asking another node of the same member. `docs/checks.md` has the
    /// reason for each.
    #[must_use]
    pub fn counted_by_default() -> Vec<Self> {
        let counts = |kind: &Self| {
            !kind.is_about_credentials() && !matches!(kind, Self::TryAgain | Self::Moved | Self::Ask)
        };
        Self::WORDS.iter().map(|(_, kind)| *kind).filter(counts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::RedisErrorKind;

    #[test]
    fn a_kind_is_read_from_the_reply() {
        assert_eq!(RedisErrorKind::of("LOADING", "Redis is loading"), RedisErrorKind::Loading);
        assert_eq!(RedisErrorKind::of("ERR", "max number of clients reached"), RedisErrorKind::MaxClients);
        assert_eq!(RedisErrorKind::of("ERR", "unknown command"), RedisErrorKind::Other);
        assert_eq!(RedisErrorKind::of("MAXCLIENTS", ""), RedisErrorKind::Other);
        for (word, kind) in RedisErrorKind::WORDS {
            assert_eq!(kind.word(), word);
        }
    }
}
