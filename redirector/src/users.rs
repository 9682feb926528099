//! Names of users and groups, as this host has them (`nsswitch.conf`): from files, LDAP, or whatever else.
//!
//! A directory service may take its time to answer, or not answer at all: whoever must not wait for it gives up after
//! [`PATIENCE`], and nothing that ends waits for the answer.

use std::{io, thread, time::Duration};

use nix::unistd::{Group, Uid, User};
use tokio::{sync::oneshot, time::timeout};

/// How long a name may take to be found when something waits for it.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Number of the group `name`; `None`: there is none.
///
/// # Errors
/// The user database does not answer.
pub fn group(name: &str) -> io::Result<Option<u32>> {
    Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()))
}

/// Whether the user database says that there is no such group. One that says nothing is no reason to refuse anything.
pub async fn is_no_group(name: &str) -> bool {
    let name = name.to_owned();
    matches!(patiently(move || group(&name)).await, Some(Ok(None)))
}

/// Name of a user; `None`: there is none, or it was not found in time.
pub async fn user(id: u32) -> Option<String> {
    let found = patiently(move || User::from_uid(Uid::from_raw(id))).await?;
    Some(found.ok()??.name)
}

/// What `ask` answers, if it does in time. On a thread of its own, which the runtime does not wait for when it ends.
async fn patiently<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    within(PATIENCE, ask).await
}

async fn within<T: Send + 'static>(time: Duration, ask: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, answer) = oneshot::channel();
    let thread = thread::Builder::new().name("users".into());
    // Nobody may be waiting for a late answer any more.
    thread.spawn(move || drop(sender.send(ask()))).ok()?;
    timeout(time, answer).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn what_every_host_has_is_found_and_nothing_else() {
        assert_eq!((group("root").unwrap(), user(0).await.as_deref()), (Some(0), Some("root")));
        assert_eq!((group("no such group").unwrap(), user(4_000_000_000).await), (None, None));
        assert!(is_no_group("no such group").await && !is_no_group("root").await);
    }

    #[tokio::test]
    async fn a_directory_that_does_not_answer_is_not_waited_for() {
        let (time, start) = (Duration::from_millis(10), Instant::now());
        assert_eq!(within(time, || thread::sleep(Duration::from_millis(500))).await, None);
        assert!(start.elapsed() < Duration::from_millis(400), "{:?}", start.elapsed());
    }
}
