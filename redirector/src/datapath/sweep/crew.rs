//! Many sockets of one network namespace, looked at and destroyed by several threads at once.
//!
//! Nearly all of the time goes into the kernel, which destroys a socket, carries its reset and wakes its owner in the system
//! call of the thread that asks: so a second processor takes half of the work, and a third one a third.

use std::thread;

use anyhow::Result;

use super::super::sockets::Destroyer;

/// Threads at most, on a host with more processors: others want to work there too, the clients before all.
const MOST_THREADS: usize = 4;

/// What makes another thread worth its start, which takes as long as some ten sockets.
const WORTH_A_THREAD: usize = 512;

/// Netlink sockets of one network namespace: answers come to the socket that asked, so each thread needs its own.
#[derive(Debug)]
pub(in super::super) struct Crew(Vec<Destroyer>);

impl Crew {
    /// For the network namespace that the thread is in now.
    pub(in super::super) fn open() -> Result<Self> {
        let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        (0..threads).map(|_| Destroyer::open()).collect::<Result<_>>().map(Self)
    }

    /// Any one of them: they differ in nothing.
    pub(super) fn one(&self) -> &Destroyer {
        &self.0[0]
    }

    /// Has threads do parts of `all`, and returns what came of each part, in their order.
    pub(super) fn share<T: Sync, R: Send>(
        &self,
        all: &[T],
        work: impl Fn(&Destroyer, &[T]) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        let parts = (all.len() / WORTH_A_THREAD).clamp(1, self.0.len());
        let (mine, others) = all.split_at(all.len().div_ceil(parts));
        thread::scope(|scope| {
            let work = &work;
            let others = others.chunks(mine.len().max(1)).zip(&self.0[1..]).map(|(part, destroyer)| {
                let started = thread::Builder::new()
                    .name("sweep-part".into())
                    .spawn_scoped(scope, move || work(destroyer, part));
                // No thread to be had: this one does it all.
                started.map_err(|_| (part, destroyer))
            });
            let others: Vec<_> = others.collect();
            let mut done = vec![work(self.one(), mine)];
            done.extend(others.into_iter().map(|part| match part {
                Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err((part, destroyer)) => work(destroyer, part),
            }));
            done.into_iter().collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_done_once_and_few_things_by_one() {
        let crew = Crew((0..3).map(|_| Destroyer::open().unwrap()).collect());
        for (count, parts) in [(0, 1), (1, 1), (1023, 1), (1024, 2), (1025, 2), (1537, 3), (100_000, 3)] {
            let all: Vec<usize> = (0..count).collect();
            let done = crew.share(&all, |_, part| Ok(part.to_vec())).unwrap();
            assert_eq!((done.len(), done.concat()), (parts, all));
        }
    }

    #[test]
    fn one_failure_is_a_failure() {
        let crew = Crew((0..2).map(|_| Destroyer::open().unwrap()).collect());
        let all = vec![0; 2 * WORTH_A_THREAD];
        let last = &raw const all[all.len() - 1] as usize;
        let fails = |_: &Destroyer, part: &[i32]| {
            anyhow::ensure!(part.last().map(|item| &raw const *item as usize) != Some(last));
            Ok(())
        };
        assert!(crew.share(&all, fails).is_err());
    }
}
