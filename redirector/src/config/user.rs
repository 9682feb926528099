//! `user`: who runs the command of a check.

use std::fs;

use super::error::Complaint;
use crate::model::User;

const PASSWD: &str = "/etc/passwd";

/// What the kernel shows for users that it cannot; no system gives it to anybody else than `nobody`.
const OVERFLOW: u32 = 65_534;

/// A name in `/etc/passwd`, or `uid:gid`. Other sources of `nsswitch.conf` are not asked.
pub(super) fn user(text: &str) -> Result<User, Complaint> {
    let found = match text.split_once(':') {
        Some((uid, gid)) => uid.parse().ok().zip(gid.parse().ok()),
        None => in_passwd(&fs::read_to_string(PASSWD).unwrap_or_default(), text),
    };
    match found {
        Some((0, _) | (_, 0)) => Err(Complaint::new(
            format!("`user` {text:?} is root, or of root's group"),
            "give one without privileges, such as \"nobody\"",
        )),
        Some((uid, gid)) => Ok(User { name: text.to_owned(), uid, gid }),
        None => Err(Complaint::new(
            format!("`user` {text:?} is not in {PASSWD}"),
            "add the user (`useradd --system`), or give numbers, for example \"65534:65534\"",
        )),
    }
}

/// Whoever may do nothing.
pub(super) fn nobody() -> User {
    user("nobody").unwrap_or_else(|_| User { name: "nobody".to_owned(), uid: OVERFLOW, gid: OVERFLOW })
}

/// Number of the user and of its group (passwd(5)).
fn in_passwd(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_it = fields.next() == Some(name);
        // The second is the password, or a letter in its place.
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        is_it.then_some((uid, gid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_and_root_is_refused() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nchecks:x:990:991::/:/bin/false\n";
        assert_eq!(in_passwd(passwd, "checks"), Some((990, 991)));
        assert_eq!(in_passwd(passwd, "check"), None);
        assert_eq!(in_passwd(passwd, "broken"), None);
        for root in ["root", "0:5", "5:0"] {
            assert!(user(root).is_err(), "{root}");
        }
        assert_eq!(user("7:8"), Ok(User { name: "7:8".to_owned(), uid: 7, gid: 8 }));
        assert!(user("no such user").is_err() && user("7:").is_err() && user("-1:5").is_err());
    }
}
