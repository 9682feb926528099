//! What packet code needs of a hook beyond reading and writing: ways out, and room to make a reset.

use aya_ebpf::EbpfContext;
use redirector_common::{
    addr::Tuple,
    checksum::Delta,
    flow::{Flow, Route, Way},
    inject::{MOST, Target},
    layout::{Continuation, Side},
    outcome::Outcome,
    packet::{Datagram, Packet, Segment},
    reset::{Numbers, header},
};

use crate::maps;

/// Where a copy goes on the way to a member.
pub struct Next {
    pub route: Route,
    /// The link-layer addresses of the neighbour and of the device, as an Ethernet header begins; where there are none: zeros. `None`:
    /// that of the neighbour is not known.
    pub link: Option<[u32; 3]>,
}

/// A packet at one of the hooks.
pub trait Hook: Packet + Sized {
    /// What a program returns.
    type Action: Copy;
    /// For aya-log.
    type Context: EbpfContext;

    /// The packet goes on as if the program were not there.
    const LEAVE: Self::Action;
    /// The packet ends here.
    const DROP: Self::Action;

    /// The same packet, for a function that the kernel verifies by itself.
    fn again(&self) -> Self;

    /// A word of what a segment carries. It may lie apart from the headers, where [`Packet::load`] does not reach: always in what a
    /// socket of this host sent (a container's server), and with devices that split headers off.
    fn data(&self, offset: usize) -> Option<u32>;

    /// Copies a target and so many more out of the packet, from `offset` on.
    fn copy(&self, offset: u32, targets: &mut [Target; MOST], more: u32) -> Option<()>;

    /// Leaves for a member over `route`.
    fn to_member(&mut self, route: &Route) -> Self::Action;

    /// Enters the stack through the ingress of the VIP device, so that every reverse-path check agrees.
    fn to_client(&mut self) -> Self::Action;

    /// Sends a copy the way of [`Hook::to_client`] and keeps the packet. `None`: it was lost at once.
    fn copy_to_client(&mut self) -> Option<()>;

    /// Sends a copy the way of [`Hook::to_member`] and keeps the packet. `None`: it was lost at once, as is one whose neighbour is
    /// not known.
    fn copy_to_member(&mut self, next: &Next) -> Option<()>;

    /// Sends a copy out of the VIP device, as clients do, and keeps the packet.
    fn copy_to_vip(&mut self);

    /// Makes a reset out of the packet, between `ends`.
    #[inline(always)]
    fn become_reset(&mut self, segment: &Segment, ends: &Tuple, numbers: Numbers) -> Option<()> {
        self.become_segment(segment, ends, &header(ends, numbers))
    }

    /// Makes a segment without data out of the packet, between `ends`.
    fn become_segment(&mut self, segment: &Segment, ends: &Tuple, header: &[u32; 5]) -> Option<()>;

    /// Makes an ICMP error out of a datagram, unless it is one that errors do not answer or has IPv4 options.
    fn become_port_unreachable(&mut self, datagram: &Datagram) -> Option<()>;

    /// Makes the reply out of an echo request; `None`: it is none.
    fn become_echo_reply(&mut self, datagram: &Datagram) -> Option<()>;

    /// Gives the IP header other addresses, `delta` apart from those that it has. What follows has no checksum over them.
    fn readdress(&mut self, ends: &Tuple, delta: &Delta, v6: bool) -> Option<()>;

    /// Asks the routing table for the way to the far end of `ends`.
    fn route(&self, ends: &Tuple, v6: bool) -> Option<Route>;

    /// The way to the member of a flow, asked anew.
    #[inline(always)]
    fn route_of(&self, flow: &Flow, v6: bool) -> Option<Route> {
        match flow.route.way() {
            Way::Local => Some(flow.route),
            Way::Neighbour | Way::Plain => self.route(&flow.member_side, v6),
        }
    }

    /// As [`Hook::route_of`], with what a copy needs: nothing looks for its neighbour on the way out.
    fn next_of(&self, flow: &Flow, v6: bool) -> Option<Next>;

    /// Whether a socket has these ends, with the far one its peer, in a network namespace that [`Home::number`] names. One that
    /// listens for anybody, or only waits for late segments (TIME-WAIT), is none.
    ///
    /// [`Home::number`]: redirector_common::inject::Home::number
    fn has_socket(&self, ends: &Tuple, v6: bool, home: i32) -> bool;

    /// Whether the packet was made on this host, in this network namespace.
    fn is_of_this_host(&self) -> bool;

    /// Cookie of the local socket that sent the packet; 0: none in this network namespace.
    fn socket_cookie(&self) -> u64;

    /// Hands the packet on to another program, which counts it. Comes back only when that program is not there.
    #[inline(always)]
    fn continue_in(&self, program: Continuation) -> Verdict<Self>
    where
        Self: Sized,
    {
        maps::continue_in(self.context(), program);
        Verdict::leave(Outcome::NoContinuation)
    }

    /// Hands the packet on to the program that reads it closely.
    fn read_closely(&mut self, side: Side) -> Verdict<Self>
    where
        Self: Sized;

    /// Hands the packet on to the program that answers it with a reset.
    fn refuse(&mut self, outcome: Outcome) -> Verdict<Self>
    where
        Self: Sized;

    /// For aya-log.
    fn context(&self) -> &Self::Context;
}

/// What a program does with a packet, and what is counted.
#[must_use]
pub struct Verdict<H: Hook> {
    pub outcome: Outcome,
    /// The member that the packet has to do with.
    pub member: Option<u16>,
    pub action: H::Action,
}

impl<H: Hook> Verdict<H> {
    /// The packet goes on unchanged.
    #[inline(always)]
    pub fn leave(outcome: Outcome) -> Self {
        Self { outcome, member: None, action: H::LEAVE }
    }

    /// The packet ends here.
    #[inline(always)]
    pub fn drop(outcome: Outcome, member: Option<u16>) -> Self {
        Self { outcome, member, action: H::DROP }
    }
}
