//! The `tc` hook: egress of the VIP device, ingress of the uplinks.

use aya_ebpf::{macros::classifier, programs::TcContext};
use redirector_common::{
    addr::Tuple,
    build,
    checksum::{Delta, Sum},
    flow::{Route, Way},
    layout::Continuation,
    outcome::Outcome,
    packet::{
        Datagram, ETHERNET, IPV4, IPV6, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, Packet, Parsed,
        Segment, TCP, Word, field, parse,
    },
    reset::{LENGTH as RESET_LENGTH, Numbers, header as reset_header},
};

use crate::{
    from_client, from_member,
    hook::{Hook, Verdict},
    kernel, maps, open, reset, settings, stray,
};

/// Everything routed to a VIP leaves the host's stack here.
#[classifier]
pub fn redirector_egress(ctx: TcContext) -> i32 {
    run(Skb { ctx }, |packet| match parse(packet) {
        Ok(Parsed::Segment(segment)) => from_client::carry_on(packet, &segment),
        _ => packet.continue_in(Continuation::FromClient),
    })
}

/// Goes on for [`redirector_egress`].
#[classifier]
pub fn redirector_from_client(ctx: TcContext) -> i32 {
    run(Skb { ctx }, |packet| match packet.parse() {
        Ok(Parsed::Segment(segment)) => from_client::handle(packet, &segment),
        Ok(Parsed::Datagram(datagram)) => stray::handle(packet, &datagram),
        Err(outcome) => Verdict::leave(outcome),
    })
}

/// Goes on for [`redirector_from_client`].
#[classifier]
pub fn redirector_open(ctx: TcContext) -> i32 {
    run(Skb { ctx }, |packet| match packet.parse() {
        Ok(Parsed::Segment(segment)) => open::handle(packet, &segment),
        Ok(Parsed::Datagram(_)) => Verdict::leave(Outcome::NotTcp),
        Err(outcome) => Verdict::leave(outcome),
    })
}

/// Goes on for programs that refuse. The first word of the packet's control block says why.
#[classifier]
pub fn redirector_refuse(ctx: TcContext) -> i32 {
    let why = kernel::note(&ctx) as usize;
    let outcome = Outcome::ALL.get(why).copied().unwrap_or(Outcome::DroppedKernel);
    run(Skb { ctx }, |packet| match packet.parse() {
        Ok(Parsed::Segment(segment)) => reset::refuse(packet, &segment, outcome),
        Ok(Parsed::Datagram(_)) => Verdict::leave(Outcome::NotTcp),
        Err(outcome) => Verdict::leave(outcome),
    })
}

/// Whatever an uplink receives passes here before the host's stack sees it.
#[classifier]
pub fn redirector_ingress(ctx: TcContext) -> i32 {
    // The VLAN device above this one gets the packet next, and with it the program there.
    if kernel::is_of_a_vlan(&ctx) {
        maps::count(Outcome::NotIp, None, ctx.len());
        return Skb::LEAVE;
    }
    run(Skb { ctx }, |packet| match parse(packet) {
        Ok(Parsed::Segment(segment)) => from_member::carry_on(packet, &segment),
        Ok(Parsed::Datagram(_)) => Verdict::leave(Outcome::NotTcp),
        Err(Outcome::Malformed) => packet.continue_in(Continuation::FromMember),
        Err(outcome) => Verdict::leave(outcome),
    })
}

/// Goes on for [`redirector_ingress`].
#[classifier]
pub fn redirector_from_member(ctx: TcContext) -> i32 {
    run(Skb { ctx }, |packet| match packet.parse() {
        Ok(Parsed::Segment(segment)) => from_member::handle(packet, &segment),
        Ok(Parsed::Datagram(_)) => Verdict::leave(Outcome::NotTcp),
        Err(outcome) => Verdict::leave(outcome),
    })
}

/// Looks at no packet and is attached nowhere: the agent runs it (`BPF_PROG_TEST_RUN`) to read the clock that the times
/// of flows are on.
#[classifier]
pub fn redirector_clock(_: TcContext) -> i32 {
    kernel::ticks().cast_signed()
}

/// Lets `handle` decide and apply, and counts.
#[inline(always)]
fn run(mut packet: Skb, handle: impl Fn(&mut Skb) -> Verdict<Skb>) -> i32 {
    let bytes = packet.length();
    if cfg!(feature = "other-programs") {
        // An instruction more, which does nothing.
        core::hint::black_box(bytes);
    }
    let verdict = handle(&mut packet);
    maps::count(verdict.outcome, verdict.member, bytes);
    verdict.action
}

/// A packet at this hook.
pub struct Skb {
    ctx: TcContext,
}

/// Frames shorter than this are never looked at beyond their end; longer headers have many options.
const HEADERS: u32 = (ETHERNET + 60 + TCP) as u32;

impl Skb {
    /// Parses, and once more if headers lay where the program cannot reach them.
    #[inline(always)]
    fn parse(&mut self) -> Result<Parsed, Outcome> {
        let parsed = parse(self);
        if !matches!(parsed, Err(Outcome::Malformed)) || self.reachable() >= HEADERS {
            return parsed;
        }
        kernel::pull(self.ctx.skb.skb, HEADERS.min(self.length()));
        parse(self)
    }

    #[inline(always)]
    fn reachable(&self) -> u32 {
        self.ctx.data_end().wrapping_sub(self.ctx.data()) as u32
    }

    /// A pointer to a word of the packet, if it lies within.
    #[inline(always)]
    fn at<T: Word>(&self, offset: usize) -> Option<*mut T> {
        // The verifier forgets what it knew of an offset that went through the stack: say it again.
        let start = self.ctx.data() + (offset & 0x7f);
        (start + size_of::<T>() <= self.ctx.data_end()).then_some(start as *mut T)
    }

    /// Writes the TCP checksum of a reset from scratch.
    ///
    /// A packet that the device is to finish (`CHECKSUM_PARTIAL`, as local TCP sends) must hold the sum of the
    /// pseudo-header; a whole checksum there would be summed once more. No field of the context tells the two
    /// apart, but a change outside of the pseudo-header does: it leaves a partial sum alone.
    #[inline(always)]
    fn finish_reset(&mut self, tcp: usize, ends: &Tuple, v6: bool, header: &[u32; 5]) -> Option<()> {
        let skb = self.ctx.skb.skb;
        let offset = (tcp + field::TCP_CHECKSUM) as u32;
        kernel::adjust_checksum(skb, offset, 1)?;
        let partial = self.load::<u16>(offset as usize)? == 0;
        self.store(offset as usize, 0_u16)?;
        let pseudo = Sum::pseudo_header(ends, v6, PROTOCOL_TCP, RESET_LENGTH);
        let checksum = if partial { pseudo.folded() } else { pseudo.add_all(header).finished() };
        kernel::store(skb, offset, &checksum)
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn load<T: Word>(&self, offset: usize) -> Option<T> {
        // SAFETY: the word lies within the packet. It may be unaligned, which the processors that this runs on
        // allow and the verifier checks (`CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS`).
        self.at::<T>(offset).map(|word| unsafe { *word })
    }

    #[inline(always)]
    fn store<T: Word>(&mut self, offset: usize, value: T) -> Option<()> {
        // SAFETY: as in `load`; the verifier makes sure that the packet is this program's own.
        self.at::<T>(offset).map(|word| unsafe { *word = value })
    }

    #[inline(always)]
    fn adjust_tcp_checksum(&mut self, offset: usize, delta: &Delta, v6: bool) -> Option<()> {
        let flag = if v6 { settings::IPV6_CHECKSUM_FLAG.load() } else { 0 };
        let skb = self.ctx.skb.skb;
        let before = self.load::<u16>(offset)?;
        kernel::adjust_pseudo_checksum(skb, offset as u32, delta.addresses.0, flag)?;
        if matches!(delta.addresses.folded(), 0 | 0xffff) {
            // Addresses that sum up the same: what follows could not tell.
            return kernel::adjust_checksum(skb, offset as u32, delta.ports.0);
        }
        // The kernel changed a whole checksum as RFC 1624 says, or a partial one in the opposite sense. A second call
        // for the ports would be as dear as the first; knowing which it is, one store does.
        let now = self.load::<u16>(offset)?;
        if now == delta.addresses.applied_to(before) {
            self.store(offset, delta.ports.applied_to(now))?;
        }
        Some(())
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.ctx.len()
    }
}

impl Hook for Skb {
    type Action = i32;
    type Context = TcContext;

    /// `TCX_NEXT`, and `TC_ACT_UNSPEC` for clsact: the next program decides.
    const LEAVE: i32 = -1;
    /// `TC_ACT_SHOT`.
    const DROP: i32 = 2;

    #[inline(always)]
    fn to_member(&mut self, route: &Route) -> i32 {
        match route.way() {
            Way::Neighbour => kernel::redirect_to_neighbour(route),
            Way::Plain => kernel::redirect_plainly(route.device),
            Way::Local => self.to_client(),
        }
    }

    #[inline(always)]
    fn to_client(&mut self) -> i32 {
        match self.address_to_device() {
            Some(()) => kernel::redirect_to_ingress(settings::VIP_DEVICE.load()),
            None => Self::DROP,
        }
    }

    #[inline(always)]
    fn copy_to_client(&mut self) {
        if self.address_to_device().is_some() {
            kernel::clone_to_ingress(self.ctx.skb.skb, settings::VIP_DEVICE.load());
        }
    }

    #[inline(always)]
    fn become_reset(&mut self, segment: &Segment, ends: &Tuple, numbers: Numbers) -> Option<()> {
        let skb = self.ctx.skb.skb;
        let tcp = usize::from(segment.tcp_offset & 0x7f);
        kernel::resize(skb, (tcp + TCP) as u32)?;
        if segment.v6 {
            kernel::store(skb, ETHERNET as u32, &build::ipv6_header(ends, PROTOCOL_TCP, RESET_LENGTH))?;
        } else {
            let options = (tcp - ETHERNET - IPV4) / 4;
            let header = build::ipv4_header(ends, options, PROTOCOL_TCP, RESET_LENGTH);
            kernel::store_ipv4_header(skb, &header, options)?;
        }
        let header = reset_header(ends, numbers);
        kernel::store(skb, tcp as u32, &header)?;
        self.finish_reset(tcp, ends, segment.v6, &header)
    }

    #[inline(always)]
    fn become_port_unreachable(&mut self, datagram: &Datagram) -> Option<()> {
        let ends = datagram.ends.reversed();
        if datagram.v6 {
            let quote = self.quote::<{ build::QUOTE_V6 }>()?;
            let header = build::ipv6_header(&ends, PROTOCOL_ICMPV6, (8 + size_of_val(&quote)) as u16);
            let error = build::port_unreachable_v6(&ends, &quote);
            self.become_error(IPV6, &header, error, &quote)
        } else if usize::from(datagram.offset) == ETHERNET + IPV4 {
            let quote = self.quote::<{ build::QUOTE_V4 }>()?;
            let [a, b, c, d, e, ..] =
                build::ipv4_header(&ends, 0, PROTOCOL_ICMP, (8 + size_of_val(&quote)) as u16);
            let error = build::port_unreachable_v4(&quote);
            self.become_error(IPV4, &[a, b, c, d, e], error, &quote)
        } else {
            None
        }
    }

    #[inline(always)]
    fn become_echo_reply(&mut self, datagram: &Datagram) -> Option<()> {
        let at = usize::from(datagram.offset);
        let reply = build::echo_reply(self.load(at)?, datagram.protocol)?;
        self.store(at, reply)?;
        let ends = &datagram.ends;
        // Swapped addresses leave every sum as it was.
        if datagram.v6 {
            self.store(ETHERNET + field::V6_SOURCE, ends.far.0)?;
            self.store(ETHERNET + field::V6_DESTINATION, ends.near.0)
        } else {
            self.store(ETHERNET + field::V4_SOURCE, ends.far.v4_word())?;
            self.store(ETHERNET + field::V4_DESTINATION, ends.near.v4_word())
        }
    }

    #[inline(always)]
    fn route(&self, ends: &Tuple, v6: bool) -> Option<Route> {
        let (device, flags) = (settings::VIP_DEVICE.load(), settings::FIB_LOOKUP_FLAG.load());
        kernel::fib_lookup(self.ctx.skb.skb, device, ends, v6, flags)
    }

    #[inline(always)]
    fn socket_cookie(&self) -> u64 {
        kernel::socket_cookie(self.ctx.skb.skb)
    }

    #[inline(always)]
    fn refuse(&mut self, outcome: Outcome) -> Verdict<Self> {
        kernel::set_note(&self.ctx, outcome as u32);
        self.continue_in(Continuation::Refuse)
    }

    #[inline(always)]
    fn context(&self) -> &TcContext {
        &self.ctx
    }
}

impl Skb {
    /// The first words of the IP packet, for an ICMP error.
    #[inline(always)]
    fn quote<const N: usize>(&self) -> Option<[u32; N]> {
        let mut words = [0; N];
        for (at, word) in words.iter_mut().enumerate() {
            *word = self.load(ETHERNET + at * 4)?;
        }
        Some(words)
    }

    /// Replaces the packet by an ICMP error: an IP header of `length` bytes, the error's own header, and the quote.
    #[inline(always)]
    fn become_error<H: Copy, Q: Copy>(
        &mut self,
        length: usize,
        header: &H,
        error: [u32; 2],
        quote: &Q,
    ) -> Option<()> {
        let skb = self.ctx.skb.skb;
        let icmp = ETHERNET + length;
        kernel::resize(skb, (icmp + 8 + size_of::<Q>()) as u32)?;
        kernel::store(skb, (icmp + 8) as u32, quote)?;
        kernel::store(skb, icmp as u32, &error)?;
        kernel::store(skb, ETHERNET as u32, header)
    }

    /// Without the device's own address as destination the stack takes the packet for somebody else's.
    #[inline(always)]
    fn address_to_device(&mut self) -> Option<()> {
        let [a, b, c] = settings::VIP_DEVICE_MAC.load();
        self.store(0, a)?;
        self.store(2, b)?;
        self.store(4, c)
    }
}
