//! The pulses of members, word by word: programs of all processors write them, and the agent reads at any moment.

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray, RingBuf},
};
use redirector_common::{
    layout::MAX_MEMBERS,
    signal::{ErrorReply, Pulse, Report, SIGNALS_BYTES, Signal},
};

use super::BPF_F_MMAPABLE;
use crate::kernel;

#[map(name = "pulses_v4")]
static PULSES: Array<Pulse> = Array::with_max_entries(MAX_MEMBERS, BPF_F_MMAPABLE);

#[map(name = "answers_v4")]
static ANSWERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(MAX_MEMBERS, 0);

#[map(name = "signals_v4")]
static SIGNALS: RingBuf = RingBuf::with_byte_size(SIGNALS_BYTES, 0);

/// One word of a pulse.
///
/// Each access is one load or store where the program has it: the compiler neither reads a line that is not needed, nor twice.
#[derive(Clone, Copy)]
pub struct Word(*mut u32);

impl Word {
    /// What it says now.
    #[inline(always)]
    pub fn get(self) -> u32 {
        // SAFETY: a map lookup gave the pointer, and the memory is valid until the program ends.
        unsafe { self.0.read_volatile() }
    }

    /// Writes it.
    #[inline(always)]
    pub fn set(self, value: u32) {
        // SAFETY: as in `get`.
        unsafe { self.0.write_volatile(value) }
    }

    /// Writes it, unless it says so already: a line that many processors read is left alone.
    #[inline(always)]
    pub fn change(self, value: u32) {
        if self.get() != value {
            self.set(value);
        }
    }

    /// Adds to it, atomically.
    #[inline(always)]
    pub fn add(self, number: u32) {
        // SAFETY: as in `get`.
        unsafe { kernel::atomic_add_word(self.0, number) }
    }
}

/// Half a word of a pulse, accessed in the same way.
#[derive(Clone, Copy)]
pub struct Half(*mut u16);

impl Half {
    /// What it says now.
    #[inline(always)]
    pub fn get(self) -> u16 {
        // SAFETY: as in [`Word::get`].
        unsafe { self.0.read_volatile() }
    }

    /// Writes it.
    #[inline(always)]
    pub fn set(self, value: u16) {
        // SAFETY: as in [`Word::get`].
        unsafe { self.0.write_volatile(value) }
    }
}

/// The pulse of a member.
#[derive(Clone, Copy)]
pub struct Words(*mut Pulse);

macro_rules! words {
    ($($field:ident)+) => { $(
        #[doc = concat!("See [`Pulse::", stringify!($field), "`].")]
        #[inline(always)]
        pub fn $field(self) -> Word {
            // SAFETY: the field lies within the map's value.
            Word(unsafe { &raw mut (*self.0).$field })
        }
    )+ };
    ($($field:ident: $kind:ident,)+) => { $(
        #[doc = concat!("See [`Pulse::", stringify!($field), "`].")]
        #[inline(always)]
        pub fn $field(self, of: $kind) -> Word {
            // SAFETY: there is a word for each.
            Word(unsafe { (&raw mut (*self.0).$field).cast::<u32>().add(of as usize) })
        }
    )+ };
}

impl Words {
    words!(sent asked heard answered rtt_us rtt_min_us samples connect_us connected failed failed_in_a_row errors_reported);
    words!(counts: Signal, reported_at: Signal, unreported: Signal, errors: ErrorReply,);

    /// See [`Pulse::errors_unreported`]; `None`: no error has this number.
    #[inline(always)]
    pub fn errors_unreported(self, number: u32) -> Option<Half> {
        if number >= ErrorReply::ALL.len() as u32 {
            return None;
        }
        // SAFETY: there is a half for each.
        Some(Half(unsafe { (&raw mut (*self.0).errors_unreported).cast::<u16>().add(number as usize) }))
    }
}

/// The pulse of a member.
#[inline(always)]
pub fn pulse(member: u16) -> Option<Words> {
    PULSES.get_ptr_mut(u32::from(member)).map(Words)
}

/// Counts a reply that is looked at for an error.
#[inline(always)]
pub fn count_answer(member: u16) {
    if let Some(count) = ANSWERS.get_ptr_mut(u32::from(member)) {
        // SAFETY: the element belongs to this processor, and nothing interrupts the program on it.
        unsafe { *count += 1 };
    }
}

/// Hands a report to the agent. When the ring buffer is full it is lost; what it counts is in the pulse as well.
#[inline(always)]
pub fn report(report: impl FnOnce() -> Report) {
    if let Some(mut room) = SIGNALS.reserve::<Report>(0) {
        room.write(report());
        room.submit(0);
    }
}
