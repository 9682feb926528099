//! A flow: one TCP connection through a VIP. Its state, when it is stale, and what a segment means for it.

use crate::{
    addr::{Addr, Port, Tuple},
    checksum::Delta,
    packet::{Flags, Segment},
    sample::{Looked, Sample},
};

/// The one entry that holds everything about a flow. Keyed by its client-side [`Tuple`].
///
/// Most fields are written once, when the entry is made. The two [`Half`]s change in place, one aligned word at a
/// time, each only by the program that sees its direction. [`Flow::route`] is written by the direction that uses it;
/// a reader in the middle of that sends one segment astray.
///
/// The two directions of a flow run on different processors more often than not. So the layout follows cache lines of
/// 64 bytes: what both read and hardly anybody writes, what only the way to the member needs, and a line for each
/// half. (The kernel puts 88 bytes before the value: its own 48, and the key.)
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Tells this entry from all others; the stub in the other map has the same. The high half is the
    /// [`Tuple::fingerprint`] of the entry's key, the low half is random.
    ///
    /// It is the first field because the kernel fills entries from the front: an entry that ended is given to
    /// another flow at once, while a program on another processor may still read it. Whoever copied something out of
    /// an entry looks at this field *afterwards*.
    pub incarnation: u64,
    /// How checksums change on the way to the member.
    pub delta: Delta,
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
    /// When the routing table was asked for [`Flow::route`], in ticks of the kernel (low half of its jiffies). A flow
    /// asks again when its answer is older than 100 ms: asking costs more than all the rest of carrying a segment, and a
    /// change of routes is followed as late as that.
    pub routed_at: u32,
    /// 1: counted as half open ([`crate::layout::SourceKey`]), to be taken off when it is established or ends.
    pub half_open: u32,

    /// Translated source and the member's address.
    pub member_side: Tuple,
    /// The way to the member.
    pub route: Route,
    /// Fills the line.
    pub reserved_too: u32,

    /// What the client sent.
    pub client: Half,
    /// What the round trip is measured by.
    pub sample: Sample,
    /// 1: counted as a connection that failed ([`crate::signal::Pulse::failed`]).
    pub failed: u32,
    /// Fills the line.
    pub reserved_client: [u32; 7],

    /// What the member sent.
    pub replies: Half,
    /// Cookie of the client's socket; 0: the client is not a process in this network namespace.
    pub cookie: u64,
    /// When the flow was opened, in ticks of the kernel (low half of its jiffies).
    pub opened_at: u32,
    /// What was looked at to measure round trips.
    pub looked: Looked,
    /// In which tick a reply was looked at for an error last. Not [`Half::at`], which the member's answer to the SYN has set: on a
    /// short way the first reply, which says most of a member that is loading or full, comes in the same tick.
    pub answered_at: u32,
    /// What the client had sent then ([`Half::next`]): until it sends more, nothing that comes is the beginning of a reply.
    pub answered_for: u32,
    /// Fills the line.
    pub reserved_rest: [u32; 5],
}

/// The way to an address, as the routing table said. The first fields are `struct bpf_redir_neigh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Address family of the next hop; see [`Route::way`].
    pub family: u32,
    /// Its address; an IPv4 one in the first word.
    pub next_hop: [u32; 4],
    /// Interface index of the device to leave by.
    pub device: u32,
}

/// How a packet leaves for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By a device with link-layer addresses: the neighbour's is found on the way out.
    Neighbour,
    /// By a device without link-layer header, such as a tunnel.
    Plain,
    /// Into this host's own stack, through ingress of the VIP device.
    Local,
}

impl Route {
    /// [`Route::family`] of [`Way::Plain`].
    const PLAIN: u32 = 0;
    /// [`Route::family`] of [`Way::Local`].
    const OWN: u32 = u32::MAX;

    /// Index of the loopback device, in every network namespace (`LOOPBACK_IFINDEX` in `include/net/flow.h`).
    const LOOPBACK: u32 = 1;

    /// To an address of this host: by the ingress of the VIP device, which is device 0 here; but to `::1`, which the kernel
    /// takes from no other device (RFC 4291, 2.5.3), by that of the loopback device.
    #[inline(always)]
    #[must_use]
    pub const fn own(address: &Addr) -> Self {
        let device = if address.is_v6_loopback() { Self::LOOPBACK } else { 0 };
        Self { family: Self::OWN, next_hop: [0; 4], device }
    }

    /// By a device without link-layer header.
    #[inline(always)]
    #[must_use]
    pub const fn plain(device: u32) -> Self {
        Self { family: Self::PLAIN, next_hop: [0; 4], device }
    }

    /// How to leave.
    #[inline(always)]
    #[must_use]
    pub const fn way(&self) -> Way {
        match self.family {
            Self::PLAIN => Way::Plain,
            Self::OWN => Way::Local,
            _ => Way::Neighbour,
        }
    }
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
    /// When a segment was last carried, in ticks of the kernel (low half of its jiffies).
    pub at: u32,
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

    /// Whether [`Half::acknowledged`] holds a number.
    #[inline(always)]
    #[must_use]
    pub const fn has_acknowledged(&self) -> bool {
        self.seen & Flags::ACK as u32 != 0
    }

    /// The half after one more segment was carried, `at` a moment. `other`: what the other end sent. It is looked at, in a cache
    /// line of the other direction, only for what a connection that runs well does not have.
    ///
    /// What nobody can have sent on this connection moves nothing: whoever guesses numbers would make those believed that
    /// follow. A reset does not either; it is judged by itself, by what was carried before.
    ///
    /// Worked out with [`Mask`]s: of each branch the verifier would follow both ways, through all that comes after.
    #[inline(always)]
    #[must_use]
    const fn after(&self, segment: &Segment, at: u32, other: &Self) -> Self {
        let (flags, next) = (segment.flags.0 as u32, segment.next());
        let started = Mask::above(self.seen, 0);
        let (has_ack, had_ack) = (Mask::flag(flags, Flags::ACK), Mask::flag(self.seen, Flags::ACK));
        let step = segment.acknowledged.wrapping_sub(self.acknowledged);
        let is_small = had_ack.and(Mask::above(step, STEP).not());
        // It was lost or overtaken on the way here.
        let ahead = started.and(Mask::after(segment.sequence, self.next));
        // RFC 5961 section 5.
        let may_be = if ahead.or(has_ack.and(is_small.not())).is_set() {
            Mask::above(other.next.wrapping_sub(segment.acknowledged), WINDOW).not()
        } else {
            Mask::NONE
        };
        let within = Mask::above(segment.sequence.wrapping_sub(self.next), WINDOW).not();
        let goes_on = ahead.not().or(within.and(has_ack).and(may_be));
        let counts = goes_on.and(Mask::flag(flags, Flags::RST).not());
        let is_behind = started.and(Mask::after(self.next, next));
        let is_news = is_small.or(may_be.and(had_ack.not().or(Mask::above(step, i32::MAX as u32).not())));
        // Behind the end of a stream is nothing: an earlier FIN is none.
        let seen = flags & !(is_behind.0 & Flags::FIN as u32);
        Self {
            next: counts.and(is_behind.not()).choose(next, self.next),
            acknowledged: counts.and(has_ack).and(is_news).choose(segment.acknowledged, self.acknowledged),
            seen: self.seen | (seen & counts.0),
            at,
        }
    }
}

/// Yes (all bits are set) or no (none is), without a branch.
#[derive(Clone, Copy)]
struct Mask(u32);

impl Mask {
    const NONE: Self = Self(0);

    /// Whether `a` is greater than `b`.
    #[inline(always)]
    const fn above(a: u32, b: u32) -> Self {
        Self(((b as i64 - a as i64) >> 63) as u32)
    }

    /// As [`is_after`].
    #[inline(always)]
    const fn after(a: u32, b: u32) -> Self {
        Self((b.wrapping_sub(a).cast_signed() >> 31).cast_unsigned())
    }

    #[inline(always)]
    const fn flag(flags: u32, flag: u8) -> Self {
        Self(0_u32.wrapping_sub(flags >> flag.trailing_zeros() & 1))
    }

    #[inline(always)]
    const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    #[inline(always)]
    const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[inline(always)]
    const fn not(self) -> Self {
        Self(!self.0)
    }

    #[inline(always)]
    const fn is_set(self) -> bool {
        self.0 != 0
    }

    #[inline(always)]
    const fn choose(self, yes: u32, no: u32) -> u32 {
        no ^ ((yes ^ no) & self.0)
    }
}

/// How far apart what is under way in one direction can be: more than the receive windows that Linux allows by default
/// (`net.ipv4.tcp_rmem`: 32 MiB), and a small part of all numbers.
const WINDOW: u32 = 64 << 20;

/// How far an acknowledgement goes at most in one step, as a rule: what one segment of a network card's offload holds.
const STEP: u32 = 64 << 10;

/// Whether a sequence number lies between what the other end acknowledged and what was sent. Without an
/// acknowledgement so far, among the last 64 KiB.
#[inline(always)]
const fn is_under_way(sequence: u32, sent: &Half, answers: &Half) -> bool {
    let from = if answers.has_acknowledged() { answers.acknowledged } else { sent.next.wrapping_sub(0xffff) };
    !is_after(from, sequence) && !is_after(sequence, sent.next)
}

/// Whether sequence number `a` lies after `b` (RFC 9293 section 3.4: modulo 2^32).
#[inline(always)]
#[must_use]
pub const fn is_after(a: u32, b: u32) -> bool {
    b.wrapping_sub(a) > i32::MAX as u32
}

/// How far a flow is: what its idle time is measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// The member has not answered, or the client has not confirmed the answer.
    Opening,
    /// Both ends have heard each other.
    Established,
    /// At least one end sent its FIN.
    Closing,
}

/// Ticks from `at` to `now`, both the low half of the kernel's jiffies, which comes round after 49 days with 1000
/// ticks a second. Somebody may have carried a segment just after `now` was read: what lies less than a sixteenth of
/// that in the future is now.
#[inline(always)]
#[must_use]
pub const fn since(at: u32, now: u32) -> u32 {
    let ticks = now.wrapping_sub(at);
    if ticks > u32::MAX - (u32::MAX >> 4) { 0 } else { ticks }
}

/// What the kernel knows of a flow's member and slot when a segment comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Flows to this member with a lower epoch are stale.
    pub floor: u64,
    /// Generation of the flow's slot now.
    pub generation: u32,
}

impl Flow {
    /// Whether this flow's member was left, or its address taken away: it is to be reset.
    #[inline(always)]
    #[must_use]
    pub fn is_stale(&self, now: &Standing) -> bool {
        (self.epoch as u64) < now.floor || self.generation != now.generation
    }

    /// Whether this is the entry of the flow with this client side, and not one that took its place meanwhile.
    #[inline(always)]
    #[must_use]
    pub const fn is_of(incarnation: u64, client_side: &Tuple) -> bool {
        (incarnation >> 32) as u32 == client_side.fingerprint()
    }

    /// The client's half after one more of its segments was carried.
    ///
    /// As long as the member has not answered, a SYN begins anew: the client may have given up and taken the same
    /// port again.
    #[inline(always)]
    #[must_use]
    pub const fn client_after(&self, segment: &Segment, at: u32) -> Half {
        match (self.replies.started(), segment.flags.is_open(), segment.flags.is_reset()) {
            (false, true, _) => {
                Half { next: 0, acknowledged: 0, seen: 0, at }.after(segment, at, &self.replies)
            }
            // It resets an earlier connection, and its number is one of that.
            (false, _, true) => self.client,
            _ => self.client.after(segment, at, &self.replies),
        }
    }

    /// The member's half after one more of its segments was carried.
    ///
    /// What does not acknowledge the client's SYN before anything has is about an earlier connection: the member keeps
    /// the port of one that it ended for a minute (TIME-WAIT), and may answer a SYN from there with an ACK of then. The
    /// client resets that one, and sends its SYN again (RFC 9293 section 3.10.7.3): the same flow, and now it is answered.
    #[inline(always)]
    #[must_use]
    pub const fn replies_after(&self, segment: &Segment, at: u32) -> Half {
        let answers = self.replies.started()
            || (segment.flags.has_ack()
                && self.client.next.wrapping_sub(segment.acknowledged) <= u16::MAX as u32);
        if answers { self.replies.after(segment, at, &self.client) } else { self.replies }
    }

    /// Whether a segment of the client confirms that it heard the member, which ends the opening of a flow.
    ///
    /// One that acknowledges a number that the member cannot have sent confirms nothing: whoever floods with made-up
    /// sources and acknowledges blindly would be taken for established, and kept for a day. Before the first
    /// acknowledgement a member sends at most an unscaled window (RFC 7323 section 2.2).
    #[inline(always)]
    #[must_use]
    pub const fn is_confirmed_by(&self, segment: &Segment) -> bool {
        self.replies.started()
            && segment.flags.has_ack()
            && self.replies.next.wrapping_sub(segment.acknowledged) <= u16::MAX as u32
    }

    /// How far the flow is.
    #[must_use]
    pub const fn state(&self) -> State {
        if self.client.finished() || self.replies.finished() {
            State::Closing
        } else if self.half_open != 0 || !self.replies.started() || !self.client.has_acknowledged() {
            State::Opening
        } else {
            State::Established
        }
    }

    /// How many ticks ago, at `now`, the last segment was carried.
    #[must_use]
    pub const fn idle(&self, now: u32) -> u32 {
        let opened = since(self.opened_at, now);
        match (self.client.started(), self.replies.started()) {
            (false, false) => opened,
            (true, false) => since(self.client.at, now),
            (false, true) => since(self.replies.at, now),
            (true, true) => {
                let (client, replies) = (since(self.client.at, now), since(self.replies.at, now));
                if client < replies { client } else { replies }
            }
        }
    }

    /// Whether a segment of the client repeats what was carried before: its other end may not have heard it.
    #[inline(always)]
    #[must_use]
    pub const fn is_repeated(&self, segment: &Segment) -> bool {
        self.client.started() && is_after(self.client.next, segment.sequence)
    }

    /// Whether a segment of the client that is repeated says something about the member: it has data that the member has not
    /// acknowledged. Otherwise the acknowledgement was lost behind this host; or it is a keepalive, which repeats a byte.
    #[inline(always)]
    #[must_use]
    pub const fn is_missing(&self, segment: &Segment) -> bool {
        segment.data() != 0
            && (!self.replies.has_acknowledged() || is_after(segment.next(), self.replies.acknowledged))
    }

    /// Whether the member believes a reset of the client: it has the number that the member expects next (RFC 5961
    /// section 3). Any other one is ignored or challenged, and the flow goes on.
    #[inline(always)]
    #[must_use]
    pub const fn client_reset_is_exact(&self, segment: &Segment) -> bool {
        segment.sequence == self.client.next
            || (self.replies.has_acknowledged() && segment.sequence == self.replies.acknowledged)
    }

    /// Whether the client believes a reset of the member. One that waits for its SYN to be answered looks at the
    /// acknowledgement (RFC 9293 section 3.10.7.3).
    #[inline(always)]
    #[must_use]
    pub const fn member_reset_is_exact(&self, segment: &Segment) -> bool {
        if !self.replies.started() {
            return segment.flags.has_ack() && segment.acknowledged == self.client.next;
        }
        segment.sequence == self.replies.next
            || (self.client.has_acknowledged() && segment.sequence == self.client.acknowledged)
    }

    /// Whether the client may have sent this sequence number, and not heard of it yet.
    #[inline(always)]
    #[must_use]
    pub const fn client_sent(&self, sequence: u32) -> bool {
        is_under_way(sequence, &self.client, &self.replies)
    }

    /// Whether the member may have sent this sequence number, and not heard of it yet.
    #[inline(always)]
    #[must_use]
    pub const fn member_sent(&self, sequence: u32) -> bool {
        is_under_way(sequence, &self.replies, &self.client)
    }

    /// Whether the member has acknowledged everything that the client sent.
    #[inline(always)]
    #[must_use]
    pub const fn has_all_arrived(&self) -> bool {
        self.replies.has_acknowledged() && !is_after(self.client.next, self.replies.acknowledged)
    }

    /// Whether both ends sent FIN and both were acknowledged: nothing but a lost last ACK can follow.
    #[inline(always)]
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.client.finished()
            && self.replies.finished()
            && self.has_all_arrived()
            && !is_after(self.replies.next, self.client.acknowledged)
    }
}

/// How well a flow, by the [`Tuple::fingerprint`] of its client side, and an address suit each other: the address with the highest rank gets the flow (rendezvous hashing,
/// Thaler and Ravishankar 1998). An address that comes or goes moves no flow between the others.
#[inline(always)]
#[must_use]
pub const fn rank(fingerprint: u32, address: &Addr, port: Port) -> u32 {
    let [a, b, c, d] = address.0;
    let place = a ^ b.rotate_left(7) ^ c.rotate_left(13) ^ d.rotate_left(19) ^ port.wire() as u32;
    mixed(fingerprint ^ mixed(place))
}

/// Each bit of the answer depends on each bit of the word (the finalizer of MurmurHash3).
#[inline(always)]
const fn mixed(mut word: u32) -> u32 {
    word = (word ^ (word >> 16)).wrapping_mul(0x85eb_ca6b);
    word = (word ^ (word >> 13)).wrapping_mul(0xc2b2_ae35);
    word ^ (word >> 16)
}

/// What a segment on a known flow calls for.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Carry it to the other end.
    Carry,
    /// Carry it, and forget the flow: it was a reset that its receiver believes.
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
pub fn on_client_segment(flow: &Flow, segment: &Segment, stale: bool) -> Step {
    if segment.flags.is_reset() {
        if flow.client_reset_is_exact(segment) { Step::CarryLast } else { Step::Carry }
    } else if segment.flags.is_open() && (stale || flow.client.finished()) {
        Step::OpenAnew
    } else if stale {
        Step::ResetBoth
    } else {
        Step::Carry
    }
}

/// What a segment of the member means.
#[inline(always)]
pub fn on_member_segment(flow: &Flow, segment: &Segment, stale: bool) -> Step {
    if segment.flags.is_reset() {
        if flow.member_reset_is_exact(segment) { Step::CarryLast } else { Step::Carry }
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
    use std::vec::Vec;

    use super::*;

    fn flow() -> Flow {
        Flow { incarnation: 1, epoch: 3, generation: 1, ..Flow::default() }
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
            length: 0,
            fragment: 0,
            id: 0,
        }
    }

    #[test]
    fn a_flow_is_stale_below_the_floor_of_its_member_or_with_an_old_generation() {
        let on = |floor, generation| flow().is_stale(&Standing { floor, generation });
        assert!(!on(0, 1), "nothing happened");
        assert!(!on(3, 1), "flows that the switch to this epoch opened stay");
        assert!(on(4, 1), "a later switch that resets left the member");
        assert!(on(0, 2), "the address was taken away");
    }

    #[test]
    fn a_retransmitted_syn_keeps_its_member_unless_that_member_was_left() {
        let syn = segment(100, 0, 1, Flags::SYN);
        assert_eq!(on_client_segment(&flow(), &syn, false), Step::Carry);
        assert_eq!(on_client_segment(&flow(), &syn, true), Step::OpenAnew);
        let closing = Flow { client: Half { seen: Flags::FIN.into(), ..Half::default() }, ..flow() };
        assert_eq!(on_client_segment(&closing, &syn, false), Step::OpenAnew);
    }

    /// An old duplicate, or one that somebody guessed, used to end a flow that both its ends went on with.
    #[test]
    fn only_a_reset_that_its_receiver_believes_ends_a_flow() {
        let mut flow = flow();
        flow.client = flow.client_after(&segment(100, 0, 1, Flags::SYN), 0);
        let refusal = segment(0, 101, 0, Flags::RST | Flags::ACK);
        assert_eq!(on_member_segment(&flow, &refusal, false), Step::CarryLast);
        let guess = segment(0, 77, 0, Flags::RST | Flags::ACK);
        assert_eq!(on_member_segment(&flow, &guess, false), Step::Carry);

        flow.replies = flow.replies_after(&segment(500, 101, 1, Flags::SYN | Flags::ACK), 0);
        flow.client = flow.client_after(&segment(101, 501, 10, Flags::ACK), 0);
        for stale in [false, true] {
            for (sequence, step) in [(111, Step::CarryLast), (101, Step::CarryLast), (12345, Step::Carry)] {
                let reset = segment(sequence, 0, 0, Flags::RST);
                assert_eq!(on_client_segment(&flow, &reset, stale), step, "client {sequence}");
            }
            for (sequence, step) in [(501, Step::CarryLast), (502, Step::Carry)] {
                let reset = segment(sequence, 0, 0, Flags::RST);
                assert_eq!(on_member_segment(&flow, &reset, stale), step, "member {sequence}");
            }
        }
    }

    #[test]
    fn a_port_that_is_used_again_before_an_answer_begins_anew() {
        let mut flow = flow();
        flow.client = flow.client_after(&segment(4_000_000_000, 0, 1, Flags::SYN), 0);
        flow.client = flow.client_after(&segment(100, 0, 1, Flags::SYN), 0);
        assert_eq!(flow.client.next, 101);
        flow.replies = flow.replies_after(&segment(500, 101, 1, Flags::SYN | Flags::ACK), 0);
        assert!(flow.is_repeated(&segment(100, 0, 1, Flags::SYN)));
        assert!(!flow.is_repeated(&segment(101, 501, 0, Flags::ACK)));
    }

    /// A member that still keeps the port of an earlier connection used to cost the client a second and more: its reset
    /// ended the flow, and the next port could be kept too.
    #[test]
    fn an_answer_to_an_earlier_connection_is_no_answer() {
        let mut flow = flow();
        flow.client = flow.client_after(&segment(100, 0, 1, Flags::SYN), 0);
        flow.replies = flow.replies_after(&segment(7000, 90_000, 0, Flags::ACK), 0);
        assert!(!flow.replies.started());
        let reset = segment(90_000, 0, 0, Flags::RST);
        assert_eq!(on_client_segment(&flow, &reset, false), Step::Carry);
        flow.client = flow.client_after(&reset, 0);
        assert_eq!(flow.client.next, 101, "the reset is not this connection's");
        flow.replies = flow.replies_after(&segment(500, 101, 1, Flags::SYN | Flags::ACK), 0);
        assert!(flow.replies.started());
        let late = segment(501, 90_000, 0, Flags::ACK);
        assert_eq!(flow.replies_after(&late, 9).at, 9, "after the answer every segment counts");
    }

    #[test]
    fn halves_follow_the_highest_number_over_the_wrap() {
        let replies = Half { next: 77, ..Half::default() };
        let start = Half::default().after(&segment(u32::MAX - 5, 0, 1, Flags::SYN), 0, &replies);
        assert_eq!(start.next, u32::MAX - 4);
        let data = start.after(&segment(u32::MAX - 4, 77, 10, Flags::ACK), 0, &replies);
        assert_eq!((data.next, data.acknowledged), (5, 77));
        let again = data.after(&segment(u32::MAX - 4, 70, 3, Flags::ACK), 0, &replies);
        assert_eq!((again.next, again.acknowledged), (5, 77), "a retransmission moves nothing back");
    }

    /// An established flow: the client's next number is 111, the member's 501.
    fn established() -> Flow {
        let mut flow = flow();
        flow.client = flow.client_after(&segment(100, 0, 1, Flags::SYN), 0);
        flow.replies = flow.replies_after(&segment(500, 101, 1, Flags::SYN | Flags::ACK), 0);
        flow.client = flow.client_after(&segment(101, 501, 10, Flags::ACK), 0);
        flow.replies = flow.replies_after(&segment(501, 111, 0, Flags::ACK), 0);
        flow
    }

    /// The first of two used to make the second one exact: four packets with made-up numbers ended any flow.
    #[test]
    fn no_number_that_somebody_guessed_makes_the_next_one_believed() {
        let far = 1_000_000_000;
        let (rst, ack, fin) = (Flags::RST, Flags::ACK, Flags::FIN);
        let guesses = [
            ("a reset", segment(501 + far, 0, 0, rst)),
            ("a reset that acknowledges", segment(501 + far, 111, 0, rst | ack)),
            ("far ahead", segment(501 + far, 111, 0, ack)),
            ("acknowledges what was never sent", segment(501 + (1 << 20), 111 + far, 0, ack)),
            ("acknowledges nothing", segment(501 + (1 << 20), 0, 8, 0)),
            ("an end far ahead", segment(501 + far, 111, 1, fin | ack)),
            ("an end far behind", segment(501_u32.wrapping_sub(far), 111, 1, fin | ack)),
        ];
        for (what, guess) in guesses {
            let mut flow = established();
            assert_eq!(on_member_segment(&flow, &guess, false), Step::Carry, "{what}");
            flow.replies = flow.replies_after(&guess, 0);
            assert_eq!((flow.replies, flow.state()), (established().replies, State::Established), "{what}");
            let again = segment(guess.next(), 0, 0, rst);
            assert_eq!(on_member_segment(&flow, &again, false), Step::Carry, "{what}, and a reset");
        }
        let mut flow = established();
        flow.client = flow.client_after(&segment(111, 501 + far, 5, ack), 0);
        assert_eq!((flow.client.next, flow.client.acknowledged), (116, 501), "its data counts");
        assert_eq!(on_member_segment(&flow, &segment(501 + far, 0, 0, rst), false), Step::Carry);
    }

    #[test]
    fn what_was_lost_before_it_came_here_leaves_a_gap() {
        let mut flow = established();
        flow.replies = flow.replies_after(&segment(501 + 32_000_000, 111, 1000, Flags::ACK), 0);
        assert_eq!(flow.replies.next, 501 + 32_001_000);
        // Many segments went another way, or their acknowledgements were lost.
        flow.client = flow.client_after(&segment(111, 501 + 32_001_000, 0, Flags::ACK), 0);
        assert_eq!(flow.client.acknowledged, 501 + 32_001_000);
    }

    #[test]
    fn a_reset_without_an_acknowledgement_answers_nothing() {
        let mut flow = flow();
        flow.client = flow.client_after(&segment(100, 0, 1, Flags::SYN), 0);
        flow.replies = flow.replies_after(&segment(3_000_000_000, 0, 0, Flags::RST), 0);
        assert!(!flow.replies.started());
        flow.replies = flow.replies_after(&segment(500, 101, 1, Flags::SYN | Flags::ACK), 0);
        assert_eq!(flow.replies.next, 501);
    }

    #[test]
    fn addresses_share_flows_and_one_that_goes_moves_only_its_own() {
        let addresses: Vec<_> =
            (1..=4).map(|last| Addr::from(std::net::IpAddr::from([10, 2, 1, last]))).collect();
        let best = |client_side: &Tuple, addresses: &[Addr]| {
            *addresses
                .iter()
                .max_by_key(|address| rank(client_side.fingerprint(), address, Port::new(6379)))
                .unwrap()
        };
        let mut shares = [0; 4];
        for port in 1000..5000 {
            let near = std::net::SocketAddr::from(([10, 1, 0, 2], port));
            let client_side = Tuple::between(near, ([10, 255, 0, 1], 6379).into());
            let chosen = best(&client_side, &addresses);
            shares[addresses.iter().position(|address| *address == chosen).unwrap()] += 1;
            if chosen != addresses[3] {
                assert_eq!(best(&client_side, &addresses[..3]), chosen);
            }
        }
        assert!(shares.iter().all(|share| (900..1100).contains(share)), "{shares:?}");
    }

    #[test]
    fn a_blind_acknowledgement_confirms_nothing() {
        let mut flow = Flow { half_open: 1, ..flow() };
        flow.client = flow.client_after(&segment(100, 0, 1, Flags::SYN), 0);
        assert!(!flow.is_confirmed_by(&segment(101, 501, 0, Flags::ACK)), "the member has not answered");
        flow.replies = flow.replies_after(&segment(500, 101, 1, Flags::SYN | Flags::ACK), 0);
        assert!(!flow.is_confirmed_by(&segment(100, 0, 1, Flags::SYN)));
        for (acknowledged, confirms) in [(501, true), (502, false), (77_777_777, false)] {
            let ack = segment(101, acknowledged, 0, Flags::ACK);
            assert_eq!(flow.is_confirmed_by(&ack), confirms, "{acknowledged}");
        }
        flow.replies = flow.replies_after(&segment(501, 101, 20_000, Flags::ACK), 0);
        assert!(flow.is_confirmed_by(&segment(101, 501, 0, Flags::ACK)), "a member that speaks first");
    }

    #[test]
    fn a_flow_opens_is_established_and_closes() {
        let mut flow = Flow { half_open: 1, ..flow() };
        flow.client = flow.client_after(&segment(100, 0, 1, Flags::SYN), 0);
        assert_eq!(flow.state(), State::Opening);
        flow.replies = flow.replies_after(&segment(500, 101, 1, Flags::SYN | Flags::ACK), 0);
        flow.client = flow.client_after(&segment(101, 7, 0, Flags::ACK), 0);
        assert_eq!(flow.state(), State::Opening, "still counted as half open: nothing confirmed the answer");
        flow.half_open = 0;
        assert_eq!(flow.state(), State::Established);
        flow.replies = flow.replies_after(&segment(501, 101, 1, Flags::FIN | Flags::ACK), 0);
        assert_eq!(flow.state(), State::Closing);
    }

    #[test]
    fn idle_is_measured_from_the_last_segment_over_the_wrap() {
        let mut flow = Flow { opened_at: u32::MAX - 50, ..flow() };
        assert_eq!(flow.idle(49), 100, "nothing was carried yet");
        flow.client = flow.client_after(&segment(100, 0, 1, Flags::SYN), u32::MAX - 30);
        assert_eq!(flow.idle(49), 80);
        flow.replies = flow.replies_after(&segment(500, 101, 1, Flags::SYN | Flags::ACK), 9);
        assert_eq!(flow.idle(49), 40);
        assert_eq!(flow.idle(8), 0, "carried after the clock was read");
        // A month without a segment, the longest time-out there is, with 1000 ticks a second.
        let month = 30 * 24 * 60 * 60 * 1000;
        assert_eq!(flow.idle(9_u32.wrapping_add(month)), month);
    }

    #[test]
    fn a_reset_may_overtake_what_the_member_has_not_acknowledged() {
        let mut flow = flow();
        flow.client = flow.client_after(&segment(100, 0, 1, Flags::SYN), 0);
        assert!(!flow.has_all_arrived(), "not even the SYN");
        flow.replies = flow.replies_after(&segment(500, 101, 1, Flags::SYN | Flags::ACK), 0);
        assert!(flow.has_all_arrived());
        flow.client = flow.client_after(&segment(101, 501, 30, Flags::ACK), 0);
        assert!(!flow.has_all_arrived());
        flow.replies = flow.replies_after(&segment(501, 131, 0, Flags::ACK), 0);
        assert!(flow.has_all_arrived());
    }

    #[test]
    fn a_flow_has_ended_when_both_fins_are_acknowledged() {
        let fin = Flags::FIN | Flags::ACK;
        let mut flow = flow();
        flow.client = flow.client_after(&segment(100, 500, 1, fin), 0);
        assert!(!flow.has_ended());
        flow.replies = flow.replies_after(&segment(500, 101, 1, fin), 0);
        assert!(!flow.has_ended(), "the member's FIN is not acknowledged yet");
        flow.client = flow.client_after(&segment(101, 501, 0, Flags::ACK), 0);
        assert!(flow.has_ended());
    }
}
