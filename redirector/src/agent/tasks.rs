//! The agent's tasks, watched. Each of them is to run for as long as the agent does.
//!
//! A prober that ends would leave its member in the state that it was in, for ever and in silence. So the end of any
//! task ends the agent: loudly, and without harm, because programs and maps stay and the next agent takes them over.

use std::{collections::HashMap, future::pending};

use anyhow::{Error, anyhow};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

/// Running tasks; dropping it ends them.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    running: JoinSet<()>,
    names: HashMap<Id, String>,
}

impl Tasks {
    /// Starts a task. Its name says who failed: "the prober of …". To end it on purpose, abort it.
    pub(super) fn spawn(
        &mut self,
        name: impl Into<String>,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        let handle = self.running.spawn(task);
        self.names.insert(handle.id(), name.into());
        handle
    }

    /// The same for a task that ends with what is returned.
    pub(super) fn spawn_owned(
        &mut self,
        name: impl Into<String>,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Owned {
        Owned(self.spawn(name, task))
    }

    /// Waits for a task that ends although nobody aborted it, and says which and why. Nothing is lost when the wait is
    /// dropped.
    pub(super) async fn failed(&mut self) -> Error {
        loop {
            let Some(ended) = self.running.join_next_with_id().await else { return pending().await };
            let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
            let name = self.names.remove(&id).unwrap_or_default();
            match ended {
                Err(error) if error.is_cancelled() => {}
                Err(error) => return anyhow!("{name} failed ({error}); {NEXT}"),
                Ok(_) => return anyhow!("{name} ended; {NEXT}"),
            }
        }
    }
}

/// A task that runs until this is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the task"]
pub(super) struct Owned(AbortHandle);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

const NEXT: &str = "this is a fault of the agent, which ends because of it, and traffic goes on with the last decision: \
                    start it again, and report these lines";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_named() {
        let mut tasks = Tasks::default();
        tasks.spawn("the one that waits", pending());
        tasks.spawn("the one that panics", async { panic!("by design") });
        let error = tasks.failed().await.to_string();
        assert!(error.contains("the one that panics failed") && error.contains("by design"), "{error}");
    }

    #[tokio::test]
    async fn a_task_that_ends_is_named() {
        let mut tasks = Tasks::default();
        tasks.spawn("the one that ends", async {});
        assert!(tasks.failed().await.to_string().contains("the one that ends ended"));
    }

    #[tokio::test]
    async fn an_aborted_task_is_no_failure() {
        let mut tasks = Tasks::default();
        tasks.spawn("the one that is aborted", pending()).abort();
        assert!(timeout(Duration::from_millis(10), tasks.failed()).await.is_err());
    }

    #[tokio::test]
    async fn an_owned_task_ends_with_its_owner() {
        let mut tasks = Tasks::default();
        let (alive, mut ended) = tokio::sync::mpsc::channel::<()>(1);
        let owned = tasks.spawn_owned("the one that is owned", async move {
            let _alive = alive;
            pending::<()>().await;
        });
        assert!(timeout(Duration::from_millis(10), ended.recv()).await.is_err(), "it runs");
        drop(owned);
        assert_eq!(timeout(Duration::from_secs(5), ended.recv()).await, Ok(None));
        assert!(timeout(Duration::from_millis(10), tasks.failed()).await.is_err());
    }

    #[tokio::test]
    async fn nothing_fails_while_all_run_or_none_is_there() {
        let mut tasks = Tasks::default();
        assert!(timeout(Duration::from_millis(10), tasks.failed()).await.is_err());
        tasks.spawn("the one that waits", pending());
        assert!(timeout(Duration::from_millis(10), tasks.failed()).await.is_err());
    }
}
