//! Requests that read the whole flow table: each in a thread of its own, and with its place until that has ended.
//!
//! A client that leaves does not end the thread. Were its place free from then on, whoever connects and leaves in a loop would
//! have as many threads read the table as there are.

use std::sync::Arc;

use hyper::body::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
};

use super::{Agent, flows, report};
use crate::control::{
    ErrorText,
    flows::{Filter, Totals},
    server::Place,
    status::Status,
};

/// Works out an answer. `work` may ask whether nobody waits for it any more.
fn answer<T: Send + 'static>(
    place: Place,
    reply: oneshot::Sender<T>,
    work: impl FnOnce(&dyn Fn() -> bool) -> anyhow::Result<T> + Send + 'static,
) {
    spawn_blocking(move || {
        // Who has gone away meanwhile costs nothing more.
        if !reply.is_closed() {
            match work(&|| reply.is_closed()) {
                Ok(answer) => drop(reply.send(answer)),
                Err(error) => tracing::error!("cannot read the maps: {error:#}"),
            }
        }
        drop(place);
    });
}

impl Agent {
    /// What `status` says.
    pub(super) fn count_for_status(&self, place: Place, reply: oneshot::Sender<Status>) {
        if reply.is_closed() {
            return;
        }
        let now = self.clock.now();
        let views: Vec<_> = self.cores.iter().map(|core| core.view(now)).collect();
        let count = self.datapath.counter();
        let (config, clock) = (Arc::clone(&self.config), self.clock);
        let board = self.lookouts.board().clone();
        answer(place, reply, move |_| Ok(report::status(&config, &views, &count()?, &board, clock)));
    }

    /// How many flows of which kind there are.
    pub(super) fn count_totals(
        &self,
        filter: Filter,
        place: Place,
        reply: oneshot::Sender<Result<Totals, ErrorText>>,
    ) {
        let (list, config) = (self.datapath.list(), Arc::clone(&self.config));
        match flows::known(&config, &filter) {
            Ok(()) => answer(place, reply, move |nobody_waits| {
                flows::totals(&list, &config, &filter, nobody_waits).map(Ok)
            }),
            Err(unknown) => drop(reply.send(Err(unknown))),
        }
    }

    /// The flows themselves, as lines.
    pub(super) fn list_flows(
        &self,
        filter: Filter,
        limit: u64,
        place: Place,
        lines: mpsc::Sender<Bytes>,
        reply: oneshot::Sender<Result<(), ErrorText>>,
    ) {
        let known = flows::known(&self.config, &filter);
        let is_known = known.is_ok();
        if reply.send(known).is_err() || !is_known {
            return;
        }
        let (list, config) = (self.datapath.list(), Arc::clone(&self.config));
        spawn_blocking(move || {
            if let Err(error) = flows::list(&list, &config, &filter, limit, &lines) {
                tracing::error!("cannot read the flow table: {error:#}");
            }
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::channel,
        time::{Duration, Instant},
    };

    use tokio::{sync::Semaphore, time::sleep};

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    /// Ten clients that ask and leave used to be ten threads that count.
    #[tokio::test]
    async fn a_client_that_leaves_takes_its_place_along_only_when_the_work_has_ended() {
        let places = Arc::new(Semaphore::new(1));
        let place = Place::new(Arc::clone(&places).try_acquire_owned().unwrap());
        let (reply, waits) = oneshot::channel();
        let ((say, said), (end, ends)) = (channel(), channel());
        answer(place, reply, move |nobody_waits| {
            say.send(nobody_waits())?;
            ends.recv_timeout(SOON)?;
            say.send(nobody_waits())?;
            Ok(())
        });
        let begins = spawn_blocking(move || (said.recv_timeout(SOON), said)).await.unwrap();
        let (Ok(false), said) = begins else { panic!("{begins:?}") };
        drop(waits);
        sleep(Duration::from_millis(50)).await;
        assert_eq!(places.available_permits(), 0, "it counts on, and somebody else begins");
        end.send(()).unwrap();
        let start = Instant::now();
        while places.available_permits() == 0 {
            assert!(start.elapsed() < SOON, "the place is never given back");
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(said.recv(), Ok(true));
    }

    #[tokio::test]
    async fn nothing_is_worked_out_for_who_has_left_before() {
        let places = Arc::new(Semaphore::new(1));
        let place = Place::new(Arc::clone(&places).try_acquire_owned().unwrap());
        let (reply, waits) = oneshot::channel();
        drop(waits);
        let (say, said) = channel();
        answer(place, reply, move |_| Ok(say.send(())?));
        let freed = tokio::time::timeout(SOON, places.acquire()).await;
        assert!(freed.is_ok(), "the place is never given back");
        assert!(said.recv().is_err(), "it was worked out for nobody");
    }
}
