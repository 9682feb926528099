//! The pulses: how every member is doing as its traffic shows, kept by the kernel programs and mapped into the agent.
//!
//! Reading is a load, no system call. What is read is not of one moment: programs write word by word while somebody reads.

use std::{
    mem::offset_of,
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, PerCpuArray};
use redirector_common::{
    layout::MAX_MEMBERS,
    signal::{ErrorReply, Pulse, Signal},
};
use rustix::mm::{MapFlags, ProtFlags};

/// 32-bit words of one pulse.
const WORDS: usize = size_of::<Pulse>() / size_of::<u32>();

const LENGTH: usize = MAX_MEMBERS as usize * size_of::<Pulse>();

/// The pulses of all members, by the kernel's id.
pub struct Pulses {
    base: NonNull<AtomicU32>,
    /// Replies that were looked at for an error; `None`: nobody counts them, in tests.
    replies: Option<PerCpuArray<MapData, u64>>,
}

// SAFETY: the mapping is shared memory that is only touched through atomics and lives until `drop`.
unsafe impl Send for Pulses {}
// SAFETY: as above.
unsafe impl Sync for Pulses {}

/// The moments of a member's traffic that say whether it answers; ticks of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// When the first segment was sent since anything was heard.
    pub sent: u32,
    /// When the first data was sent since the last answer.
    pub asked: u32,
    /// When anything was heard last.
    pub heard: u32,
    /// When data was heard last.
    pub answered: u32,
}

/// What is known of a member's traffic, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// Smoothed round trip of data; `None`: none was measured.
    pub round_trip: Option<Duration>,
    /// The shortest one.
    pub shortest: Option<Duration>,
    /// Smoothed time from a SYN to its answer.
    pub connect: Option<Duration>,
    /// How often each signal was seen, since the maps were made.
    pub signals: [u32; Signal::ALL.len()],
    /// The same of stalls, which only the agent sees.
    pub stalled: u32,
    /// The same of error replies.
    pub errors: [u32; ErrorReply::ALL.len()],
}

/// Counts that only grow, and come round after 2^32: what is told of them is the difference of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections that the member accepted.
    pub connected: u32,
    /// Connections that it did not.
    pub failed: u32,
    /// Error replies that mean trouble.
    pub errors: u32,
}

impl Pulses {
    /// Maps `pulses`, and takes the map that counts replies.
    pub(super) fn map(pulses: BorrowedFd<'_>, replies: PerCpuArray<MapData, u64>) -> Result<Self> {
        Self::of(pulses, Some(replies))
    }

    fn of(pulses: BorrowedFd<'_>, replies: Option<PerCpuArray<MapData, u64>>) -> Result<Self> {
        // SAFETY: a fresh mapping at an address that the kernel chooses aliases nothing.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                LENGTH,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                pulses,
                0,
            )
        };
        let base = base.context("cannot map the pulses of the members into memory")?;
        let base = NonNull::new(base.cast()).context("the pulses were mapped at address 0")?;
        Ok(Self { base, replies })
    }

    /// The words of one member's pulse.
    fn words(&self, member: u16) -> &[AtomicU32; WORDS] {
        let member = usize::from(member);
        assert!(member < MAX_MEMBERS as usize, "member {member} of {MAX_MEMBERS}");
        // SAFETY: within the mapping, which is page aligned and lives as long as `self`; a pulse is made of 32-bit words only.
        unsafe { self.base.add(member * WORDS).cast().as_ref() }
    }

    fn word(&self, member: u16, offset: usize) -> u32 {
        self.words(member)[offset / size_of::<u32>()].load(Ordering::Relaxed)
    }

    /// Whether a member answers.
    #[must_use]
    pub fn beat(&self, member: u16) -> Beat {
        let word = |offset| self.word(member, offset);
        Beat {
            sent: word(offset_of!(Pulse, sent)),
            asked: word(offset_of!(Pulse, asked)),
            heard: word(offset_of!(Pulse, heard)),
            answered: word(offset_of!(Pulse, answered)),
        }
    }

    /// The smoothed round trip of a member; zero: none was measured.
    #[must_use]
    pub fn round_trip(&self, member: u16) -> Duration {
        Duration::from_micros(self.word(member, offset_of!(Pulse, rtt_us)).into())
    }

    /// What was counted of a member's connections and replies.
    #[must_use]
    pub fn totals(&self, member: u16) -> Totals {
        let errors = offset_of!(Pulse, counts) + Signal::ErrorReply as usize * size_of::<u32>();
        Totals {
            connected: self.word(member, offset_of!(Pulse, connected)),
            failed: self.word(member, offset_of!(Pulse, failed)),
            errors: self.word(member, errors),
        }
    }

    /// How many replies of a member were looked at for an error. A system call.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn replies(&self, member: u16) -> Result<u64> {
        let Some(replies) = &self.replies else { return Ok(0) };
        let each = replies.get(&member.into(), 0).context("cannot read the map of answers")?;
        Ok(each.iter().fold(0, |sum, count| sum.wrapping_add(*count)))
    }

    /// What there is to say of a member.
    #[must_use]
    pub fn vitals(&self, member: u16) -> Vitals {
        let word = |offset| self.word(member, offset);
        let time =
            |offset| Some(word(offset)).filter(|us| *us > 0).map(|us| Duration::from_micros(us.into()));
        let of = |first: usize, at: usize| word(first + at * size_of::<u32>());
        Vitals {
            round_trip: time(offset_of!(Pulse, rtt_us)),
            shortest: time(offset_of!(Pulse, rtt_min_us)),
            connect: time(offset_of!(Pulse, connect_us)),
            signals: std::array::from_fn(|at| of(offset_of!(Pulse, counts), at)),
            stalled: word(offset_of!(Pulse, stalled)),
            errors: std::array::from_fn(|at| of(offset_of!(Pulse, errors), at)),
        }
    }

    /// Counts what the programs cannot see, beside what they count: it lives as long.
    pub fn count_silence(&self, member: u16) {
        self.add(member, offset_of!(Pulse, counts) + Signal::Silent as usize * size_of::<u32>());
    }

    /// The same of a stall.
    pub fn count_stall(&self, member: u16) {
        self.add(member, offset_of!(Pulse, stalled));
    }

    /// Programs may add to the same word in the same moment.
    fn add(&self, member: u16, offset: usize) {
        self.words(member)[offset / size_of::<u32>()].fetch_add(1, Ordering::Relaxed);
    }

    /// A new member has no past: its id may have been another one's. Nobody has a flow on it.
    pub(super) fn clear(&self, member: u16) {
        self.words(member).iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
impl Pulses {
    /// Pulses that no program writes.
    pub fn in_memory() -> Self {
        let memory = rustix::fs::memfd_create("pulses", rustix::fs::MemfdFlags::empty()).unwrap();
        rustix::fs::ftruncate(&memory, LENGTH as u64).unwrap();
        Self::of(std::os::fd::AsFd::as_fd(&memory), None).unwrap()
    }

    /// Writes as the programs do.
    pub fn write(&self, member: u16, beat: Beat) {
        let Beat { sent, asked, heard, answered } = beat;
        let write = |offset: usize, word: u32| {
            self.words(member)[offset / size_of::<u32>()].store(word, Ordering::Relaxed);
        };
        write(offset_of!(Pulse, sent), sent);
        write(offset_of!(Pulse, asked), asked);
        write(offset_of!(Pulse, heard), heard);
        write(offset_of!(Pulse, answered), answered);
    }

    /// The same of what is counted.
    pub fn count(&self, member: u16, totals: Totals) {
        let write = |offset: usize, word: u32| {
            self.words(member)[offset / size_of::<u32>()].store(word, Ordering::Relaxed);
        };
        write(offset_of!(Pulse, connected), totals.connected);
        write(offset_of!(Pulse, failed), totals.failed);
        write(offset_of!(Pulse, counts) + Signal::ErrorReply as usize * size_of::<u32>(), totals.errors);
    }
}

impl Drop for Pulses {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped; no reference outlives `self`.
        let _nothing_to_do_about_it = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), LENGTH) };
    }
}
