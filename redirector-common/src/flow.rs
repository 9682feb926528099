//! A flow: one TCP connection through a VIP. Its state, when it is stale, and what a segment means for it.

use crate::{
    addr::Tuple,
    checksum::Delta,
    packet::{Flags, Segment},
};

/// The one entry that holds everything about a flow. Keyed by its client-side [`Tuple`].
///
/// The first fields are written once, when the entry is made. [`Flow::last_seen`] and the two [`Half`]s change
/// in place, one aligned word at a time, each half only by the program that sees its direction.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Tells this entry from an earlier or later one with the same tuple; the stub in the other map has the same.
    pub incarnation: u64,
    /// Cookie of the client's socket; 0: the client is not a process in this network namespace.
    pub cookie: u64,
    /// When a segment was last carried, in nanoseconds of `CLOCK_MONOTONIC`, with the resolution of a tick.
    pub last_seen: u64,
    /// Translated source and the member's address.
    pub member_side: Tuple,
    /// Epoch of the decision that chose the member.
    pub epoch: u32,
    /// Generation that the slot had then.
    pub generation: u32,
    /// Which service.
    pub service: u16,
    /// Which member.
    pub member: u16,
    /// Which of the member's addresses.
    pub slot: u32,
    /// How checksums change on the way to the member.
    pub delta: Delta,
    /// What the client sent.
    pub client: Half,
    /// What the member sent.
    pub replies: Half,
    /// Fills the last word.
    pub reserved: u32,
}

/// One direction of a flow, as far as it was carried.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Half {
    /// The highest sequence number sent, plus one: what the other end expects next.
    pub next: u32,
    /// The highest acknowledgement number sent: what the sender expects next.
    pub acknowledged: u32,
    /// Flags that were seen so far ([`Flags`]), in the low byte.
    pub seen: u32,
}

impl Half {
    /// Whether anything was carried in this direction.
    #[inline(always)]
    #[must_use]
    pub const fn started(&self) -> bool {
        self.seen != 0
    }

    /// Whether the sender ended its half.
    #[inline(always)]
    #[must_use]
    pub const fn finished(&self) -> bool {
        self.seen & Flags::FIN as u32 != 0
    }

    /// The half after one more segment was carried.
    #[inline(always)]
    #[must_use]
    pub const fn after(&self, segment: &Segment) -> Self {
        let first = !self.started();
        let next = segment.next();
        Self {
            next: if first || is_after(next, self.next) { next } else { self.next },
            acknowledged: if segment.flags.has_ack()
                && (self.seen & Flags::ACK as u32 == 0 || is_after(segment.acknowledged, self.acknowledged))
            {
                segment.acknowledged
            } else {
                self.acknowledged
            },
            seen: self.seen | segment.flags.0 as u32,
        }
    }
}

/// Whether sequence number `a` lies after `b` (RFC 9293 section 3.4: modulo 2^32).
#[inline(always)]
#[must_use]
pub const fn is_after(a: u32, b: u32) -> bool {
    b.wrapping_sub(a) > i32::MAX as u32
}

/// What the kernel knows of a flow's service and slot when a segment comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The member that new flows go to.
    pub active: Option<u16>,
    /// Flows with a lower epoch, on another member than the active one, are stale.
    pub floor: u32,
    /// Generation of the flow's slot now.
    pub generation: u32,
}

impl Flow {
    /// Whether this flow's member was left, or its address taken away: it is to be reset.
    #[inline(always)]
    #[must_use]
    pub fn is_stale(&self, now: &Standing) -> bool {
        (self.epoch < now.floor && now.active != Some(self.member)) || self.generation != now.generation
    }

    /// Whether both ends sent FIN and both were acknowledged: nothing but a lost last ACK can follow.
    #[inline(always)]
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.client.finished()
            && self.replies.finished()
            && !is_after(self.client.next, self.replies.acknowledged)
            && !is_after(self.replies.next, self.client.acknowledged)
    }
}

/// What a segment on a known flow calls for.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Carry it to the other end.
    Carry,
    /// Carry it, and forget the flow: it was a reset.
    CarryLast,
    /// Forget the flow and treat the segment as the first of a new one.
    OpenAnew,
    /// Answer with a reset to both ends.
    ResetBoth,
}

/// What a segment of the client means.
///
/// A SYN on a flow that lives is one sent again and keeps its member. It starts a new connection when the member
/// was left meanwhile, or when the client had ended its half: then the port is used again.
#[inline(always)]
pub fn on_client_segment(flow: &Flow, flags: Flags, stale: bool) -> Step {
    if flags.is_reset() {
        Step::CarryLast
    } else if flags.is_open() && (stale || flow.client.finished()) {
        Step::OpenAnew
    } else if stale {
        Step::ResetBoth
    } else {
        Step::Carry
    }
}

/// What a segment of the member means.
#[inline(always)]
pub fn on_member_segment(flags: Flags, stale: bool) -> Step {
    if flags.is_reset() {
        Step::CarryLast
    } else if stale {
        Step::ResetBoth
    } else {
        Step::Carry
    }
}

/// The other half of a flow: keyed by the member-side tuple as replies are seen, it leads to the entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stub {
    /// As in [`Flow::incarnation`]; a difference means that the halves do not belong together.
    pub incarnation: u64,
    /// Key of the entry.
    pub client_side: Tuple,
    /// Fills the last word.
    pub reserved: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        Flow {
            incarnation: 1,
            cookie: 0,
            last_seen: 0,
            member_side: Tuple::default(),
            epoch: 3,
            generation: 1,
            service: 0,
            member: 0,
            slot: 0,
            delta: Delta::default(),
            client: Half::default(),
            replies: Half::default(),
            reserved: 0,
        }
    }

    fn segment(sequence: u32, acknowledged: u32, reach: u32, flags: u8) -> Segment {
        Segment {
            ends: Tuple::default(),
            sequence,
            acknowledged,
            reach,
            flags: Flags(flags),
            v6: false,
            tcp_offset: 34,
        }
    }

    #[test]
    fn a_flow_is_stale_below_the_floor_on_another_member_or_with_an_old_generation() {
        let on = |active, floor, generation| flow().is_stale(&Standing { active, floor, generation });
        assert!(!on(Some(0), 0, 1), "nothing happened");
        assert!(!on(Some(1), 3, 1), "a switch that keeps flows leaves the floor");
        assert!(on(Some(1), 4, 1), "a switch that resets raises it");
        assert!(!on(Some(0), 5, 1), "going back to a member does not kill the flows that stayed on it");
        assert!(on(None, 4, 1), "a held service has no member");
        assert!(on(Some(0), 0, 2), "the address was taken away");
    }

    #[test]
    fn a_retransmitted_syn_keeps_its_member_unless_that_member_was_left() {
        let syn = Flags(Flags::SYN);
        assert_eq!(on_client_segment(&flow(), syn, false), Step::Carry);
        assert_eq!(on_client_segment(&flow(), syn, true), Step::OpenAnew);
        let closing = Flow { client: Half { seen: Flags::FIN.into(), ..Half::default() }, ..flow() };
        assert_eq!(on_client_segment(&closing, syn, false), Step::OpenAnew);
    }

    #[test]
    fn a_reset_is_never_answered() {
        for flags in [Flags::RST, Flags::RST | Flags::ACK] {
            for stale in [false, true] {
                assert_eq!(on_client_segment(&flow(), Flags(flags), stale), Step::CarryLast);
                assert_eq!(on_member_segment(Flags(flags), stale), Step::CarryLast);
            }
        }
    }

    #[test]
    fn halves_follow_the_highest_number_over_the_wrap() {
        let start = Half::default().after(&segment(u32::MAX - 5, 0, 1, Flags::SYN));
        assert_eq!(start.next, u32::MAX - 4);
        let data = start.after(&segment(u32::MAX - 4, 77, 10, Flags::ACK));
        assert_eq!((data.next, data.acknowledged), (5, 77));
        let again = data.after(&segment(u32::MAX - 4, 70, 3, Flags::ACK));
        assert_eq!((again.next, again.acknowledged), (5, 77), "a retransmission moves nothing back");
    }

    #[test]
    fn a_flow_has_ended_when_both_fins_are_acknowledged() {
        let fin = Flags::FIN | Flags::ACK;
        let mut flow = flow();
        flow.client = flow.client.after(&segment(100, 500, 1, fin));
        assert!(!flow.has_ended());
        flow.replies = flow.replies.after(&segment(500, 101, 1, fin));
        assert!(!flow.has_ended(), "the member's FIN is not acknowledged yet");
        flow.client = flow.client.after(&segment(101, 501, 0, Flags::ACK));
        assert!(flow.has_ended());
    }
}
