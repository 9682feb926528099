//! Names of users and groups, as this host has them (`nsswitch.conf`): from files, LDAP, or whatever else.
//!
//! A directory service may take its time to answer, or not answer at all: whoever must not wait for it gives up after
//! [`PATIENCE`], and nothing that ends waits for the answer. A question that nobody waits for any more still has its thread:
//! while [`AT_A_TIME`] are open, no other is put.

use std::{io, thread, time::Duration};

use nix::unistd::{Group, Uid, User};
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

/// How long a name may take to be found when something waits for it.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Questions at a time that are open.
const AT_A_TIME: usize = 16;

/// One for each of them.
static OPEN: Semaphore = Semaphore::const_new(AT_A_TIME);

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

/// Name of a user; `None`: there is none, it was not found in time, or too many questions are open.
pub async fn user(id: u32) -> Option<String> {
    let found = patiently(move || User::from_uid(Uid::from_raw(id))).await?;
    Some(found.ok()??.name)
}

/// What `ask` answers, if it does in time. On a thread of its own, which the runtime does not wait for when it ends.
async fn patiently<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    within(PATIENCE, &OPEN, ask).await
}

async fn within<T: Send + 'static>(
    time: Duration,
    open: &'static Semaphore,
    ask: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let place = open.try_acquire().ok()?;
    let (sender, answer) = oneshot::channel();
    let thread = thread::Builder::new().name("users".into());
    let asks = move || {
        let answer = ask();
        drop(place);
        // Nobody may be waiting for a late answer any more.
        drop(sender.send(answer));
    };
    thread.spawn(asks).ok()?;
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
        static TWO: Semaphore = Semaphore::const_new(2);
        let (time, start) = (Duration::from_millis(10), Instant::now());
        let (done, ends) = std::sync::mpsc::channel();
        for _ in 0..2 {
            let done = done.clone();
            let slow = move || {
                thread::sleep(Duration::from_millis(500));
                done.send(()).unwrap();
            };
            assert_eq!(within(time, &TWO, slow).await, None);
        }
        let third = within(time, &TWO, || panic!("asked while two others are"));
        assert_eq!(third.await, None::<()>);
        assert!(start.elapsed() < Duration::from_millis(400), "{:?}", start.elapsed());
        // Their places come back with their threads.
        (0..2).for_each(|_| ends.recv().unwrap());
        while TWO.available_permits() < 2 {
            assert!(start.elapsed() < Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(within(Duration::from_secs(5), &TWO, || 7).await, Some(7));
    }
}
