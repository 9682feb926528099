//! What programs observe on live traffic, and how they tell the agent.
//!
//! A signal is a reason to look at a member, never a proof. There are two ways to the agent: the [`Pulse`] of a member, which
//! the agent reads at any time without a system call, and a [`Report`] through a ring buffer, at most one for a member and a
//! signal in 10 ms, and of error replies one for each error.
//!
//! All moments are ticks of the kernel (the low half of its jiffies), as in [`crate::flow::Flow`].

use crate::{
    addr::Tuple,
    flow::{is_after, since},
};

macro_rules! named {
    ($(#[doc = $about:literal])+ $kind:ident { $($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+ }) => {
        $(#[doc = $about])+
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $kind { $($(#[doc = $doc])+ $variant,)+ }

        impl $kind {
            /// All of them, in the order of their counters.
            pub const ALL: [Self; [$(Self::$variant,)+].len()] = [$(Self::$variant,)+];

            /// The name that metrics, events and docs use.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it means, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc,)+),)+ }
            }

            /// The one with this number; `None`: there is none.
            #[must_use]
            pub fn from_number(number: u32) -> Option<Self> {
                Self::ALL.get(usize::try_from(number).ok()?).copied()
            }
        }
    };
}

named! {
    /// What programs see of a member. One list: counter index, metric label, text of docs.
    Signal {
        /// A SYN was answered with a reset.
        Refused = "refused",
        /// A SYN was sent again, because nothing answered the first one.
        Unanswered = "unanswered",
        /// The member reset an established flow.
        Reset = "reset",
        /// The member ended an established flow, and the client had not ended it before.
        Closed = "closed",
        /// A client sent data again that the member has not acknowledged.
        Retransmitted = "retransmitted",
        /// The same, and nothing at all was heard from the member since.
        Silent = "silent",
        /// A router, or the member's host, said that the member cannot be reached.
        Unreachable = "unreachable",
        /// A reply began with a Redis error that means trouble.
        ErrorReply = "error_reply",
    }
}

named! {
    /// The beginnings of a reply that mean that the member, and not the command, is in trouble.
    ErrorReply {
        /// `-LOADING`: the data set is being read.
        Loading = "loading",
        /// `-MASTERDOWN`: a replica without its primary.
        MasterDown = "masterdown",
        /// `-CLUSTERDOWN`: a cluster that does not serve all slots.
        ClusterDown = "clusterdown",
        /// `-READONLY`: a replica.
        ReadOnly = "readonly",
        /// `-BUSY`: a script runs for too long.
        Busy = "busy",
        /// `-MISCONF`: the data set cannot be saved.
        Misconf = "misconf",
        /// `-OOM`: memory is used up.
        OutOfMemory = "oom",
        /// `-TRYAGAIN`: a slot is being moved.
        TryAgain = "tryagain",
        /// `-NOREPLICAS`: too few replicas to write.
        NoReplicas = "noreplicas",
        /// `-ERR max number of clients reached`.
        MaxClients = "max_clients",
    }
}

impl ErrorReply {
    /// What a reply that begins with these twelve bytes means; `None`: no trouble of the member. Words as they stand in memory.
    ///
    /// A code is a whole word: `-BUSYKEY` and `-BUSYGROUP` are answers to a command and no trouble.
    #[inline(always)]
    #[must_use]
    pub const fn of(start: [u32; 3]) -> Option<Self> {
        const fn word(text: [u8; 4]) -> u32 {
            u32::from_ne_bytes(text)
        }
        const fn is(start: [u32; 3], second: [u8; 4], third: [u8; 4]) -> bool {
            start[1] == word(second) && start[2] == word(third)
        }
        /// Whether the second word begins with this byte.
        const fn then(start: [u32; 3], byte: u8) -> bool {
            start[1].to_ne_bytes()[0] == byte
        }
        const LOADING: u32 = word(*b"-LOA");
        const MASTER_DOWN: u32 = word(*b"-MAS");
        const CLUSTER_DOWN: u32 = word(*b"-CLU");
        const READ_ONLY: u32 = word(*b"-REA");
        const BUSY: u32 = word(*b"-BUS");
        const MISCONF: u32 = word(*b"-MIS");
        const OUT_OF_MEMORY: u32 = word(*b"-OOM");
        const TRY_AGAIN: u32 = word(*b"-TRY");
        const NO_REPLICAS: u32 = word(*b"-NOR");
        const GENERIC: u32 = word(*b"-ERR");
        let (found, kind) = match start[0] {
            LOADING => (start[1] == word(*b"DING"), Self::Loading),
            MASTER_DOWN => (is(start, *b"TERD", *b"OWN "), Self::MasterDown),
            CLUSTER_DOWN => (is(start, *b"STER", *b"DOWN"), Self::ClusterDown),
            READ_ONLY => (start[1] == word(*b"DONL"), Self::ReadOnly),
            BUSY => (start[1].to_ne_bytes()[0] == b'Y' && start[1].to_ne_bytes()[1] == b' ', Self::Busy),
            MISCONF => (start[1] == word(*b"CONF"), Self::Misconf),
            OUT_OF_MEMORY => (then(start, b' '), Self::OutOfMemory),
            TRY_AGAIN => (start[1] == word(*b"AGAI"), Self::TryAgain),
            NO_REPLICAS => (is(start, *b"EPLI", *b"CAS "), Self::NoReplicas),
            GENERIC => (is(start, *b" max", *b" num"), Self::MaxClients),
            _ => return None,
        };
        if found { Some(kind) } else { None }
    }
}

/// How a member is doing, as its traffic shows: one entry of the map `pulses`, which the agent has mapped.
///
/// Laid out by cache lines of 64 bytes, because the ways to and from a member run on different processors: what one direction
/// writes stands in a line of its own, and a word is written only when it changes, at most once a tick. Processors may write at
/// the same moment: what is counted without a lock (round trips) may miss one now and then, and does not need to be exact.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// When the first segment was sent (SYN or data, nothing that was sent before) since anything was heard.
    pub sent: u32,
    /// When the first data was sent since the last answer.
    pub asked: u32,
    /// Fills the line.
    pub reserved_sent: [u32; 14],

    /// When anything was heard last. Begins a tick before the first flow.
    pub heard: u32,
    /// When data was heard last. Begins as [`Pulse::heard`] does.
    pub answered: u32,
    /// Fills the line.
    pub reserved_heard: [u32; 14],

    /// Smoothed round trip of data and its acknowledgement, in microseconds (RFC 6298: an eighth of each sample); 0: none yet.
    pub rtt_us: u32,
    /// The shortest one so far, in microseconds; 0: none yet.
    pub rtt_min_us: u32,
    /// How many round trips were measured: at most one of a flow in about 128 ms.
    pub samples: u32,
    /// Smoothed time from SYN to SYN-ACK, of SYNs that were sent once, in microseconds; 0: none yet.
    pub connect_us: u32,
    /// Connections that the member accepted.
    pub connected: u32,
    /// Connections that it did not: refused, not answered at the first try, or unreachable. Each counts once.
    pub failed: u32,
    /// How many of those since it accepted one.
    pub failed_in_a_row: u32,
    /// Fills the line.
    pub reserved_rtt: [u32; 9],

    /// How often each [`Signal`] was seen; the agent adds the silence that it finds.
    pub counts: [u32; Signal::ALL.len()],
    /// When each was reported last.
    pub reported_at: [u32; Signal::ALL.len()],

    /// How often each was seen since it was reported last; [`Pulse::errors_unreported`] has it of [`Signal::ErrorReply`].
    pub unreported: [u32; Signal::ALL.len()],
    /// Which errors were reported since the tick that [`Pulse::reported_at`] has of [`Signal::ErrorReply`]: a bit for each.
    pub errors_reported: u32,
    /// How often the agent found that it did not answer what it had acknowledged. Programs cannot see it; it stands here
    /// because it is counted for as long as all the others.
    pub stalled: u32,
    /// Fills the line.
    pub reserved_reports: [u32; 6],

    /// How often each [`ErrorReply`] was seen: in at most one reply of a flow in a tick.
    pub errors: [u32; ErrorReply::ALL.len()],
    /// How often each was seen since it was reported last. Counted without a lock, and no further than it goes.
    pub errors_unreported: [u16; ErrorReply::ALL.len()],
    /// Fills the line.
    pub reserved_errors: u32,
}

impl Pulse {
    /// Whether what was [`Pulse::sent`] waits: nothing was heard in its tick or later. In the same tick is a tie: what was heard
    /// came perhaps before it was sent, perhaps after.
    #[must_use]
    pub const fn is_unheard(&self) -> bool {
        is_after(self.sent, self.heard)
    }

    /// The same of data and answers.
    #[must_use]
    pub const fn is_unanswered(&self) -> bool {
        is_after(self.asked, self.answered)
    }
}

/// Whether a segment is the first that waits for an answer, when the last first one was sent at `since` and an answer came at
/// `last`. One in the tick of the answer is: it is not known which came first.
#[inline(always)]
#[must_use]
pub const fn is_first(since: u32, last: u32) -> bool {
    !is_after(since, last)
}

/// Whether a member has to be heard of anew: it never was, or in a quarter of the time in which the ticks come round (12 days with
/// 1000 a second).
#[inline(always)]
#[must_use]
pub const fn is_long_ago(heard: u32, now: u32) -> bool {
    heard == 0 || since(heard, now) > u32::MAX / 4
}

/// A smoothed time after one more sample (RFC 6298 section 2: an eighth of it); 0 is none, so a sample of 0 counts as 1.
#[inline(always)]
#[must_use]
pub const fn smoothed(so_far: u32, sample: u32) -> u32 {
    let next = if so_far == 0 { sample } else { ((so_far as u64 * 7 + sample as u64) / 8) as u32 };
    if next == 0 { 1 } else { next }
}

/// What goes through the ring buffer `signals`: one observation, and how many of its kind there were.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The flow that it was seen on; of several the last.
    pub client_side: Tuple,
    /// When.
    pub at: u32,
    /// Since when it has been so: of [`Signal::Silent`] when that was sent which nothing came back for; of all others as
    /// [`Report::at`].
    pub since: u32,
    /// Which member.
    pub member: u16,
    /// Which service.
    pub service: u16,
    /// Which of the member's addresses.
    pub slot: u32,
    /// Number of the [`Signal`].
    pub signal: u32,
    /// How many there were of this member and signal (of error replies: this error) since the last report.
    pub count: u32,
    /// Number of the [`ErrorReply`], for that signal; else 0.
    pub error: u32,
}

impl Report {
    /// What was seen; `None`: a number that this version does not know.
    #[must_use]
    pub fn kind(&self) -> Option<Signal> {
        Signal::from_number(self.signal)
    }

    /// The Redis error, if it was one.
    #[must_use]
    pub fn error_reply(&self) -> Option<ErrorReply> {
        (self.kind()? == Signal::ErrorReply).then(|| ErrorReply::from_number(self.error)).flatten()
    }
}

/// Bytes of the ring buffer: 3 600 reports of 64 bytes and the kernel's 8.
pub const SIGNALS_BYTES: u32 = 256 * 1024;

/// Padding would be uninitialised memory, and lines that overlap would be as good as one.
const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Pulse>() == 6 * 64);
    assert!(offset_of!(Pulse, heard) == 64);
    assert!(offset_of!(Pulse, rtt_us) == 2 * 64);
    assert!(offset_of!(Pulse, counts) == 3 * 64);
    assert!(offset_of!(Pulse, unreported) == 4 * 64);
    assert!(offset_of!(Pulse, errors) == 5 * 64);
    assert!(size_of::<Report>() == 64);
};

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<ErrorReply> {
        let bytes = text.as_bytes();
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        ErrorReply::of([word(0), word(4), word(8)])
    }

    #[test]
    fn a_member_that_was_silent_for_weeks_begins_anew() {
        let now = 5_u32;
        for (heard, is_long) in [
            (0, true),
            (now, false),
            (now + 1, false),
            (now.wrapping_sub(u32::MAX / 4), false),
            (now.wrapping_sub(u32::MAX / 4 + 1), true),
            (now.wrapping_sub(u32::MAX / 2 + 9), true),
        ] {
            assert_eq!(is_long_ago(heard, now), is_long, "{heard}");
        }
    }

    #[test]
    fn errors_of_the_member_are_told_from_errors_of_a_command() {
        for (reply, kind) in [
            ("-LOADING Redis is loading the dataset in memory\r\n", ErrorReply::Loading),
            (
                "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
                ErrorReply::MasterDown,
            ),
            ("-CLUSTERDOWN The cluster is down\r\n", ErrorReply::ClusterDown),
            ("-CLUSTERDOWN Hash slot not served\r\n", ErrorReply::ClusterDown),
            ("-READONLY You can't write against a read only replica.\r\n", ErrorReply::ReadOnly),
            ("-BUSY Redis is busy running a script.\r\n", ErrorReply::Busy),
            ("-MISCONF Redis is configured to save RDB snapshots\r\n", ErrorReply::Misconf),
            ("-OOM command not allowed when used memory > 'maxmemory'.\r\n", ErrorReply::OutOfMemory),
            ("-TRYAGAIN Multiple keys request during rehashing of slot\r\n", ErrorReply::TryAgain),
            ("-NOREPLICAS Not enough good replicas to write.\r\n", ErrorReply::NoReplicas),
            ("-ERR max number of clients reached\r\n", ErrorReply::MaxClients),
        ] {
            assert_eq!(of(reply), Some(kind), "{reply}");
        }
        for reply in [
            "-BUSYKEY Target key name already exists.\r\n",
            "-BUSYGROUP Consumer Group name already exists\r\n",
            "-ERR unknown command 'foo'\r\n",
            "-ERR max execution time\r\n",
            "-WRONGTYPE Operation against a key\r\n",
            "-NOREPL and nothing of the kind",
            "+LOADING is a status reply\r\n",
            "$7\r\n-LOADING\r\n",
        ] {
            assert_eq!(of(reply), None, "{reply}");
        }
    }

    #[test]
    fn names_are_labels() {
        let names = Signal::ALL.iter().map(|signal| signal.name());
        for name in names.chain(ErrorReply::ALL.iter().map(|error| error.name())) {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        }
        assert!(Signal::ALL.iter().enumerate().all(|(at, signal)| *signal as usize == at));
        assert_eq!(Signal::from_number(Signal::ALL.len() as u32), None);
    }

    /// What waits keeps the moment of its first segment, also over the wrap of the clock.
    #[test]
    fn the_first_segment_since_anything_was_heard_is_kept() {
        let mut sent = u32::MAX - 5;
        for (now, heard, expected, why) in [
            (u32::MAX - 3, u32::MAX - 5, u32::MAX - 3, "nothing waits: the first"),
            (2, u32::MAX - 5, u32::MAX - 3, "it goes on waiting"),
            (9, 9, 9, "heard: the next one is the first again"),
            (12, 9, 12, "a tie does not wait: it was perhaps answered"),
        ] {
            if is_first(sent, heard) {
                sent = now;
            }
            assert_eq!(sent, expected, "{why}");
        }
    }

    #[test]
    fn a_smoothed_time_follows_slowly_and_is_never_none() {
        assert_eq!(smoothed(0, 800), 800);
        assert_eq!(smoothed(800, 1600), 900);
        assert_eq!(smoothed(0, 0), 1);
        assert_eq!(smoothed(1, 0), 1);
        assert_eq!((0..100).fold(8, |so_far, _| smoothed(so_far, 80_000)) / 1000, 79);
    }
}
