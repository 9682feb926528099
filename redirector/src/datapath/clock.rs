//! The clock that the times of flows are on: the low half of the kernel's jiffies.
//!
//! A program reads it, run once without a packet: userspace has no other exact way to it.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{bpf::run_once, programs::ticks_per_second};

/// The kernel's ticks. They come round after 49 days with 1000 ticks a second, after 198 with 250.
#[derive(Clone, Debug)]
pub struct Clock {
    program: Arc<OwnedFd>,
    per_second: u32,
}

impl Clock {
    /// With the program `redirector_clock`.
    pub(super) fn new(program: BorrowedFd<'_>) -> Result<Self> {
        let clock =
            Self { program: Arc::new(program.try_clone_to_owned()?), per_second: ticks_per_second().max(1) };
        clock.now()?;
        Ok(clock)
    }

    /// What it says now. A system call.
    ///
    /// # Errors
    /// When the kernel does not run the program.
    pub fn now(&self) -> Result<u32> {
        run_once(self.program.as_fd()).context("cannot read the kernel's clock (BPF_PROG_TEST_RUN)")
    }

    /// How long so many ticks are.
    #[must_use]
    pub fn duration(&self, ticks: u32) -> Duration {
        Duration::from_secs(u64::from(ticks)) / self.per_second
    }

    /// How many ticks a time takes, rounded down.
    #[must_use]
    pub fn ticks(&self, time: Duration) -> u32 {
        u32::try_from(time.as_millis() * u128::from(self.per_second) / 1000).unwrap_or(u32::MAX)
    }
}
