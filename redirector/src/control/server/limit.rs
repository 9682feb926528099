//! Until when a connection may last.

use std::{
    future::pending,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// The end of a connection's time, which the request moves that it turns out to carry. Clones are of the same connection.
#[derive(Clone)]
pub(in super::super) struct Limit(Arc<Mutex<Option<Instant>>>);

impl Limit {
    pub(super) fn new(time: Duration) -> Self {
        Self(Arc::new(Mutex::new(Some(Instant::now() + time))))
    }

    /// So long from now.
    pub(super) fn set(&self, time: Duration) {
        self.replace(Some(Instant::now() + time));
    }

    /// It may last for as long as its client likes.
    pub(in super::super) fn lift(&self) {
        self.replace(None);
    }

    /// Waits until it is over.
    pub(super) async fn reached(&self) {
        loop {
            let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match until {
                None => pending().await,
                Some(until) if until <= Instant::now() => return,
                Some(until) => sleep_until(until).await,
            }
        }
    }

    fn replace(&self, until: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn it_is_moved_and_lifted_while_it_is_waited_for() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        let limit = Limit::new(ms(20));
        limit.set(ms(60));
        limit.reached().await;
        assert!(start.elapsed() >= ms(60), "{:?}", start.elapsed());
        let limit = Limit::new(ms(20));
        let waits = limit.clone();
        let waits = tokio::spawn(async move { timeout(ms(100), waits.reached()).await });
        tokio::task::yield_now().await;
        limit.lift();
        assert!(waits.await.unwrap().is_err());
    }
}
