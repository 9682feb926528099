//! Who is at the other end of the control socket, and what they may do.
//!
//! Everybody may read. Root and the members of one group may operate. The kernel says who connected; nothing that a client
//! sends takes part in it. What counts is what the process was when it connected: a user who is let into the group has to
//! log in anew, as for any other group.

use std::{
    fmt, fs, io,
    os::fd::{AsFd as _, BorrowedFd},
};

use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use crate::users;

/// The group of those who may operate, when the configuration names none. It need not exist.
pub const DEFAULT_GROUP: &str = "redirector";

/// Users and groups that a user namespace has no number for look like this one (`/proc/sys/kernel/overflowgid`).
const NOBODY_KNOWN: u32 = 65534;

/// Reads the supplementary groups of a peer: [`crate::datapath::peer_groups`], outside tests too.
pub type PeerGroups = fn(BorrowedFd<'_>) -> io::Result<Vec<u32>>;

/// What decides who may operate.
#[derive(Clone, Debug)]
pub struct Access {
    /// Name and number; `None`: root only.
    group: Option<(String, u32)>,
    groups: PeerGroups,
}

impl Access {
    /// With the group that the configuration names, if any. Asks the user database.
    ///
    /// A group that cannot be found lets nobody in, and there is a warning: an agent does its work without operators.
    #[must_use]
    pub fn new(written: Option<&str>, groups: PeerGroups) -> Self {
        let name = written.unwrap_or(DEFAULT_GROUP);
        let group = match users::group(name) {
            Ok(Some(NOBODY_KNOWN)) => {
                tracing::warn!(
                    group = name,
                    "only root may operate: this group's number also stands for groups that are unknown here; name \
                     another one in operator_group"
                );
                None
            }
            Ok(Some(id)) => Some((name.to_owned(), id)),
            Ok(None) if written.is_none() => None,
            Ok(None) => {
                tracing::warn!(
                    group = name,
                    "only root may operate: there is no such group; add it and restart"
                );
                None
            }
            Err(error) => {
                tracing::warn!(group = name, %error, "only root may operate: the group cannot be looked up; restart");
                None
            }
        };
        Self { group, groups }
    }

    /// Who connected.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn peer(&self, stream: &UnixStream) -> io::Result<Peer> {
        let credentials = stream.peer_cred()?;
        Ok(Peer {
            uid: credentials.uid(),
            gid: credentials.gid(),
            // 0 where the process is of a PID namespace that cannot be seen from here.
            pid: credentials.pid().filter(|pid| *pid > 0),
            groups: (self.groups)(stream.as_fd())?,
        })
    }

    /// Whether this one may change things.
    #[must_use]
    pub fn may_operate(&self, peer: &Peer) -> bool {
        let group = self.group.as_ref().map(|(_, id)| *id);
        peer.uid == 0 || group.is_some_and(|id| peer.gid == id || peer.groups.contains(&id))
    }

    /// What somebody does who may not, and wants to.
    #[must_use]
    pub fn next(&self) -> String {
        match &self.group {
            Some((name, _)) => format!(
                "become root, or have root add your user to the group {name:?} (`usermod -aG {name} USER`) and log in anew"
            ),
            None => format!(
                "become root; or have root add a group (`groupadd --system {DEFAULT_GROUP}`, or another one and \
                 operator_group in [agent]), add your user to it, and restart the agent"
            ),
        }
    }
}

/// A process that connected, as it was then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Process; `None`: it cannot be seen from here.
    pub pid: Option<i32>,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Somebody who asked for a change, for the record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// Effective user.
    pub uid: u32,
    /// Its name, if it has one.
    pub user: Option<String>,
    /// Effective group.
    pub gid: u32,
    /// Process.
    pub pid: Option<i32>,
    /// Name of the process (`/proc/PID/comm`), as it is when the request has come: for people, and proof of nothing.
    pub command: Option<String>,
    /// The user who logged in, where the kernel keeps that (`/proc/PID/loginuid`) and it is another one: who is behind
    /// `sudo`. As good as [`Self::command`].
    pub login: Option<String>,
}

impl Who {
    /// Without any name.
    pub(super) fn unnamed(peer: &Peer) -> Self {
        Self { uid: peer.uid, gid: peer.gid, pid: peer.pid, ..Self::default() }
    }

    /// Finds the names. Takes [`users::PATIENCE`] at the longest.
    pub async fn of(peer: &Peer) -> Self {
        let login = peer.pid.and_then(|pid| line(pid, "loginuid")).and_then(|text| text.parse().ok());
        // The largest number says that nobody logged in.
        let login = login.filter(|id| *id != u32::MAX && *id != peer.uid);
        let (user, login) = tokio::join!(users::user(peer.uid), async {
            let id = login?;
            Some(users::user(id).await.unwrap_or_else(|| id.to_string()))
        });
        Self {
            uid: peer.uid,
            user,
            gid: peer.gid,
            pid: peer.pid,
            command: peer.pid.and_then(|pid| line(pid, "comm")),
            login,
        }
    }
}

/// The one line of a file of `/proc/PID`.
fn line(pid: i32, file: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    // A process may call itself whatever it likes.
    Some(text.trim_end().replace(char::is_control, "?"))
}

impl fmt::Display for Who {
    /// `alice (uid 1000)`, `root for alice`, `uid 4711`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.user, &self.login) {
            (Some(user), Some(login)) => write!(f, "{user} for {login}"),
            (Some(user), None) if self.uid == 0 => f.write_str(user),
            (Some(user), None) => write!(f, "{user} (uid {})", self.uid),
            (None, _) => write!(f, "uid {}", self.uid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(group: Option<u32>) -> Access {
        Access { group: group.map(|id| ("operators".to_owned(), id)), groups: |_| Ok(Vec::new()) }
    }

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
        Peer { uid, gid, pid: Some(1), groups: groups.to_vec() }
    }

    #[test]
    fn root_and_the_group_may_operate_and_nobody_else() {
        for (peer, with_group, without) in [
            (peer(0, 0, &[]), true, true),
            (peer(0, 1000, &[]), true, true),
            (peer(1000, 50, &[]), true, false),
            (peer(1000, 1000, &[4, 50]), true, false),
            (peer(1000, 1000, &[4, 51]), false, false),
            // The group of root makes nobody root.
            (peer(1000, 0, &[0]), false, false),
            (peer(NOBODY_KNOWN, NOBODY_KNOWN, &[NOBODY_KNOWN]), false, false),
        ] {
            assert_eq!(access(Some(50)).may_operate(&peer), with_group, "{peer:?}");
            assert_eq!(access(None).may_operate(&peer), without, "{peer:?}");
        }
    }

    #[test]
    fn a_group_that_stands_for_unknown_ones_lets_nobody_in() {
        let access = Access::new(Some("nogroup"), |_| Ok(Vec::new()));
        assert!(!access.may_operate(&peer(1000, NOBODY_KNOWN, &[NOBODY_KNOWN])));
        assert!(!Access::new(Some("no such group"), |_| Ok(Vec::new())).may_operate(&peer(1000, 0, &[])));
    }

    #[test]
    fn people_are_called_by_their_names() {
        let who = |uid, user: Option<&str>, login: Option<&str>| {
            let (user, login) = (user.map(str::to_owned), login.map(str::to_owned));
            Who { uid, user, gid: 0, pid: None, command: None, login }.to_string()
        };
        assert_eq!(who(1000, Some("alice"), None), "alice (uid 1000)");
        assert_eq!(who(0, Some("root"), None), "root");
        assert_eq!(who(0, Some("root"), Some("alice")), "root for alice");
        assert_eq!(who(4711, None, None), "uid 4711");
    }
}
