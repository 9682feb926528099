//! The `tc` hook: egress of the VIP device, ingress of the uplinks.

use aya_ebpf::{macros::classifier, programs::TcContext};
use redirector_common::{
    layout::{Continuation, Side},
    outcome::Outcome,
    packet::{Datagram, Packet as _, Parsed, parse},
    whole,
};

use crate::{
    fragment, from_client, from_member,
    hook::{Hook, Verdict},
    icmp, inject, kernel, maps, open, reset,
    skb::{Frame, Skb},
    stray,
};

/// Everything routed to a VIP leaves the host's stack here.
#[classifier]
pub fn redirector_egress(ctx: TcContext) -> i32 {
    run(Frame::new(ctx), |packet| match parse(packet) {
        Ok(Parsed::Segment(segment)) => from_client::carry_on(packet, &segment),
        Ok(_) => packet.continue_in(Continuation::FromClient),
        Err(_) => packet.read_closely(Side::Host),
    })
}

/// Goes on for [`redirector_egress`].
#[classifier]
pub fn redirector_from_client(ctx: TcContext) -> i32 {
    run(Frame::new(ctx), routed_to_a_vip)
}

/// A function, not a closure: it must not become one to the kernel, which allows tail calls in those that return an integer only.
#[inline(always)]
fn routed_to_a_vip(packet: &mut Frame) -> Verdict<Frame> {
    match whole::parse(packet) {
        Ok(Parsed::Segment(segment)) => from_client::handle(packet, &segment),
        Ok(Parsed::Datagram(datagram)) if packet.is_icmp_error(&datagram) => {
            packet.continue_in(Continuation::Icmp)
        }
        Ok(Parsed::Datagram(datagram)) => stray::handle(packet, &datagram),
        Ok(Parsed::Fragment(_)) => Verdict::leave(Outcome::Fragment),
        Err(outcome) => Verdict::leave(outcome),
    }
}

/// Goes on for [`redirector_from_client`].
#[classifier]
pub fn redirector_open(ctx: TcContext) -> i32 {
    run(Frame::new(ctx), |packet| match whole::parse(packet) {
        Ok(Parsed::Segment(segment)) => open::handle(packet, &segment),
        Ok(_) => Verdict::leave(Outcome::NotTcp),
        Err(outcome) => Verdict::leave(outcome),
    })
}

/// Goes on for programs that refuse. The first word of the packet's control block says why.
#[classifier]
pub fn redirector_refuse(ctx: TcContext) -> i32 {
    let why = kernel::note(&ctx) as usize;
    let outcome = Outcome::ALL.get(why).copied().unwrap_or(Outcome::DroppedKernel);
    run(Frame::new(ctx), |packet| match whole::parse(packet) {
        Ok(Parsed::Segment(segment)) => reset::refuse(packet, &segment, outcome),
        Ok(_) => Verdict::leave(Outcome::NotTcp),
        Err(outcome) => Verdict::leave(outcome),
    })
}

/// Whatever an uplink receives passes here before the host's stack sees it.
#[classifier]
pub fn redirector_ingress(ctx: TcContext) -> i32 {
    // The VLAN device above this one gets the packet next, and with it the program there.
    if kernel::is_of_a_vlan(&ctx) {
        maps::count(Outcome::Vlan, None, ctx.len());
        return Frame::LEAVE;
    }
    run(Frame::new(ctx), |packet| match parse(packet) {
        Ok(Parsed::Segment(segment)) => from_member::carry_on(packet, &segment),
        Ok(Parsed::Datagram(datagram)) => from_network(packet, &datagram, Continuation::IcmpIn),
        Ok(Parsed::Fragment(_)) | Err(Outcome::Malformed | Outcome::Fragment | Outcome::NotCarried) => {
            packet.read_closely(Side::Uplink)
        }
        Err(outcome) => Verdict::leave(outcome),
    })
}

/// Goes on for [`redirector_ingress`].
#[classifier]
pub fn redirector_from_member(ctx: TcContext) -> i32 {
    run(Frame::new(ctx), |packet| match whole::parse(packet) {
        Ok(Parsed::Segment(segment)) => from_member::handle(packet, &segment),
        Ok(_) => Verdict::leave(Outcome::NotTcp),
        Err(outcome) => Verdict::leave(outcome),
    })
}

/// Goes on for [`redirector_from_client`], and for itself.
#[classifier]
pub fn redirector_inject(ctx: TcContext) -> i32 {
    run(Frame::new(ctx), inject::next)
}

/// Looks at no packet and is attached nowhere: the agent runs it (`BPF_PROG_TEST_RUN`) to read the clock that the times
/// of flows are on.
#[classifier]
pub fn redirector_clock(_: TcContext) -> i32 {
    kernel::ticks().cast_signed()
}

/// As [`redirector_ingress`], on uplinks without Ethernet header. What is of a flow gets one, because the VIP device has
/// them: from there on it is a packet like all others.
#[classifier]
pub fn redirector_ingress_l3(ctx: TcContext) -> i32 {
    run(Skb::<0>::new(ctx), |packet| match packet.parse_closely() {
        Ok(Parsed::Segment(segment)) => {
            if maps::stub(&segment.ends.reversed()).is_none() {
                Verdict::leave(Outcome::NotOurs)
            } else if segment.is_fragment() {
                packet.as_frame(segment.v6, |packet| packet.read_closely(Side::Uplink))
            } else {
                packet.as_frame(segment.v6, |packet| packet.continue_in(Continuation::FromMember))
            }
        }
        Ok(Parsed::Fragment(fragment)) if fragment::flow_of(&fragment, Side::Uplink).is_some() => {
            packet.as_frame(fragment.v6, |packet| packet.read_closely(Side::Uplink))
        }
        Ok(Parsed::Fragment(_)) => Verdict::leave(Outcome::Fragment),
        Ok(Parsed::Datagram(datagram)) => from_network(packet, &datagram, Continuation::IcmpInL3),
        Err(outcome) => Verdict::leave(outcome),
    })
}

/// What is no TCP, and was received by an uplink: nobody's, unless it is an ICMP error.
#[inline(always)]
fn from_network<const START: usize>(
    packet: &Skb<START>,
    datagram: &Datagram,
    program: Continuation,
) -> Verdict<Skb<START>> {
    if packet.is_icmp_error(datagram) {
        return packet.continue_in(program);
    }
    Verdict::leave(Outcome::NotTcp)
}

/// Goes on for programs that cannot read a packet at a glance. The first word of the packet's control block says at which
/// [`Side`].
#[classifier]
pub fn redirector_unread(ctx: TcContext) -> i32 {
    let side = if kernel::note(&ctx) == Side::Host as u32 { Side::Host } else { Side::Uplink };
    run(Frame::new(ctx), |packet| match packet.parse_closely() {
        Ok(Parsed::Segment(segment)) => {
            if segment.is_fragment() {
                fragment::remember(&segment, side);
            }
            packet.continue_in(match side {
                Side::Host => Continuation::FromClient,
                Side::Uplink => Continuation::FromMember,
            })
        }
        Ok(Parsed::Fragment(fragment)) => fragment::carry(packet, &fragment, side),
        Ok(Parsed::Datagram(datagram)) => match side {
            Side::Host => packet.continue_in(Continuation::FromClient),
            Side::Uplink => from_network(packet, &datagram, Continuation::IcmpIn),
        },
        Err(outcome) => Verdict::leave(outcome),
    })
}

/// Goes on for [`redirector_from_client`].
#[classifier]
pub fn redirector_icmp(ctx: TcContext) -> i32 {
    run(Frame::new(ctx), |packet| on_error(packet, icmp::routed))
}

/// Goes on for [`redirector_ingress`].
#[classifier]
pub fn redirector_icmp_in(ctx: TcContext) -> i32 {
    run(Frame::new(ctx), |packet| on_error(packet, icmp::received))
}

/// Goes on for [`redirector_ingress_l3`].
#[classifier]
pub fn redirector_icmp_in_l3(ctx: TcContext) -> i32 {
    run(Skb::<0>::new(ctx), |packet| {
        on_error(packet, |packet, error| {
            if icmp::is_for_a_client(packet, error) {
                packet.as_frame(error.v6, |packet| packet.continue_in(Continuation::IcmpIn))
            } else {
                Verdict::leave(Outcome::NotTcp)
            }
        })
    })
}

/// Lets `handle` see an ICMP error, with all that it quotes within reach.
#[inline(always)]
fn on_error<const START: usize>(
    packet: &mut Skb<START>,
    handle: impl Fn(&mut Skb<START>, &Datagram) -> Verdict<Skb<START>>,
) -> Verdict<Skb<START>> {
    match packet.parse_closely() {
        Ok(Parsed::Datagram(error)) => handle(packet, &error),
        Ok(_) => Verdict::leave(Outcome::NotTcp),
        Err(outcome) => Verdict::leave(outcome),
    }
}

/// Lets `handle` decide and apply, and counts.
#[inline(always)]
fn run<const START: usize>(
    mut packet: Skb<START>,
    handle: impl Fn(&mut Skb<START>) -> Verdict<Skb<START>>,
) -> i32 {
    let bytes = packet.length();
    if cfg!(feature = "other-programs") {
        // An instruction more, which does nothing.
        core::hint::black_box(bytes);
    }
    let verdict = handle(&mut packet);
    maps::count(verdict.outcome, verdict.member, bytes);
    verdict.action
}
