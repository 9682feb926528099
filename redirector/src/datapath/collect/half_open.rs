//! The counts of half-open flows, as far as the agent touches them: it takes off what it removes, and puts right what
//! drifted.
//!
//! Programs count while flows open and end, and two processors that end one flow in the same moment count it twice. So
//! the agent counts anew whenever it reads the flow table. What it finds is not exact either, because flows come and go
//! meanwhile: a difference is believed only as far as two collections in a row agree on it.

use std::{
    collections::HashMap,
    io,
    ops::ControlFlow::Continue,
    os::fd::BorrowedFd,
    sync::{Arc, atomic::Ordering},
};

use anyhow::{Context as _, Result};
use redirector_common::layout::{MAX_SERVICES, SourceKey};

use crate::datapath::{bpf::Table, maps::Words};

/// How many flows are not established yet, by source and by service. Clones are the same counts.
#[derive(Clone, Debug)]
pub(in crate::datapath) struct HalfOpen {
    sources: Table<SourceKey, i64>,
    sums: Arc<Words>,
}

impl HalfOpen {
    /// Of the map `half_open`, and `half_open_sums` in memory.
    pub(in crate::datapath) fn new(sources: BorrowedFd<'_>, sums: Words) -> io::Result<Self> {
        Ok(Self { sources: Table::new(sources)?, sums: Arc::new(sums) })
    }

    /// Whether some service has so many that a collection is worth while now.
    pub(super) fn abound(&self, cap: u32) -> bool {
        (0..MAX_SERVICES as usize).any(|service| self.sum(service) > i64::from(cap / 4))
    }

    fn sum(&self, service: usize) -> i64 {
        self.sums.get(service).load(Ordering::Relaxed).cast_signed()
    }

    fn add_to_sum(&self, service: usize, number: i64) {
        self.sums.get(service).fetch_add(number.cast_unsigned(), Ordering::Relaxed);
    }

    /// Changes what is counted for a source and its service.
    pub(super) fn add(&self, source: &SourceKey, number: i64) -> Result<()> {
        self.add_to_sum(source.service as usize, number);
        self.add_to_source(source, number)
    }

    /// A source that nothing is left of goes. What a program counts between the look and the change is lost; the next
    /// collections find it.
    fn add_to_source(&self, source: &SourceKey, number: i64) -> Result<()> {
        let Some(count) = self.sources.get(source).context("cannot read a count of half-open flows")? else {
            return Ok(());
        };
        let changed = match count + number {
            0 => self.sources.remove(source),
            sum => self.sources.replace(source, &sum),
        };
        changed.context("cannot change a count of half-open flows").map(drop)
    }
}

/// By how much the counts were wrong at the last collection.
#[derive(Debug, Default)]
pub(super) struct Drift {
    sources: HashMap<SourceKey, i64>,
    sums: HashMap<usize, i64>,
}

impl Drift {
    /// Puts right what is wrong for the second time. `counted` is what the flow table says.
    pub(super) fn correct(&mut self, half_open: &HalfOpen, counted: &HashMap<SourceKey, i64>) -> Result<()> {
        let mut sums = vec![0_i64; MAX_SERVICES as usize];
        for (source, count) in counted {
            sums[source.service as usize] += count;
        }
        for (service, counted) in sums.into_iter().enumerate() {
            let wrong = half_open.sum(service) - counted;
            half_open.add_to_sum(service, -agreed(&mut self.sums, service, wrong));
        }

        let mut sources = Vec::new();
        let each = |source: &SourceKey, count: &i64| {
            sources.push((*source, *count));
            Continue(())
        };
        half_open.sources.for_each(each).context("cannot read the counts of half-open flows")?;
        let mut before = std::mem::take(&mut self.sources);
        for (source, count) in sources {
            let wrong = count - counted.get(&source).copied().unwrap_or(0);
            let agreed = agreed(&mut before, source, wrong);
            if agreed != 0 || count == 0 {
                half_open.add_to_source(&source, -agreed)?;
            }
            if let Some(wrong) = before.remove(&source) {
                self.sources.insert(source, wrong);
            }
        }
        Ok(())
    }
}

/// The part of a difference that the last collection found too. What is left of it is kept for the next one.
fn agreed<K: std::hash::Hash + Eq>(before: &mut HashMap<K, i64>, key: K, wrong: i64) -> i64 {
    let last = before.remove(&key).unwrap_or(0);
    let agreed =
        if last.signum() == wrong.signum() { wrong.signum() * wrong.abs().min(last.abs()) } else { 0 };
    if wrong != agreed {
        before.insert(key, wrong - agreed);
    }
    agreed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_believed_as_far_as_two_collections_agree() {
        let mut before = HashMap::new();
        assert_eq!(agreed(&mut before, "source", 5), 0, "seen once");
        assert_eq!(agreed(&mut before, "source", 3), 3, "two of them were flows that came meanwhile");
        assert_eq!(agreed(&mut before, "source", 0), 0);
        assert!(before.is_empty());
        assert_eq!(agreed(&mut before, "source", -4), 0);
        assert_eq!(agreed(&mut before, "source", 2), 0, "no two agree");
        assert_eq!(agreed(&mut before, "source", 7), 2);
        assert_eq!(agreed(&mut before, "source", 5), 5, "the rest of seven");
    }
}
