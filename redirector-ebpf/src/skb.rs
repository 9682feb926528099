//! A packet at the `tc` hook: how its bytes are read and written, its checksums mended, and where it can go.

use aya_ebpf::programs::TcContext;
use redirector_common::{
    addr::Tuple,
    build,
    checksum::{Delta, Sum},
    flow::{Flow, Route, Way},
    icmp::is_error,
    inject::{MOST, Target},
    layout::{Continuation, Side},
    outcome::Outcome,
    packet::{
        Datagram, ETHERNET, IPV4, IPV6, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, Packet, Parsed,
        Segment, TCP, Word, field, readdress_v4,
    },
    reset::LENGTH as RESET_LENGTH,
    whole::{self, REACH},
};

use crate::{
    hook::{Hook, Next, Verdict},
    kernel, maps, settings,
};

/// A packet on a device with Ethernet headers.
pub type Frame = Skb<ETHERNET>;

/// A packet at this hook, whose IP header starts at `START`.
pub struct Skb<const START: usize> {
    ctx: TcContext,
}

impl<const START: usize> Skb<START> {
    #[inline(always)]
    pub const fn new(ctx: TcContext) -> Self {
        Self { ctx }
    }

    /// Parses closely, with all headers where the program can reach them.
    #[inline(always)]
    pub fn parse_closely(&mut self) -> Result<Parsed, Outcome> {
        let headers = (REACH as u32).min(self.length());
        if self.reachable() < headers {
            kernel::pull(self.ctx.skb.skb, headers);
        }
        whole::parse(self)
    }

    /// Whether a datagram is an ICMP error about some packet.
    #[inline(always)]
    pub fn is_icmp_error(&self, datagram: &Datagram) -> bool {
        matches!(datagram.protocol, PROTOCOL_ICMP | PROTOCOL_ICMPV6)
            && self
                .load::<u32>(usize::from(datagram.offset))
                .is_some_and(|word| is_error(datagram.protocol, word.to_ne_bytes()[0]))
    }

    #[inline(always)]
    fn reachable(&self) -> u32 {
        self.ctx.data_end().wrapping_sub(self.ctx.data()) as u32
    }

    /// A pointer to a word of the packet, if it lies within.
    #[inline(always)]
    fn at<T: Word>(&self, offset: usize) -> Option<*mut T> {
        // The verifier forgets what it knew of an offset that went through the stack: say it again.
        let start = self.ctx.data() + (offset & REACH);
        (start + size_of::<T>() <= self.ctx.data_end()).then_some(start as *mut T)
    }

    /// Writes the TCP checksum of a segment without data from scratch.
    ///
    /// A packet that the device is to finish (`CHECKSUM_PARTIAL`, as local TCP sends) must hold the sum of the
    /// pseudo-header; a whole checksum there would be summed once more. No field of the context tells the two
    /// apart, but a change outside of the pseudo-header does: it leaves a partial sum alone.
    #[inline(always)]
    fn finish_segment(&mut self, tcp: usize, ends: &Tuple, v6: bool, header: &[u32; 5]) -> Option<()> {
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

impl<const START: usize> Packet for Skb<START> {
    const IP: usize = START;

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

    #[inline(always)]
    fn forget(&self, number: usize) -> usize {
        kernel::forget(&self.ctx, number as u32) as usize
    }
}

impl<const START: usize> Hook for Skb<START> {
    type Action = i32;
    type Context = TcContext;

    /// `TCX_NEXT`, and `TC_ACT_UNSPEC` for clsact: the next program decides.
    const LEAVE: i32 = -1;
    /// `TC_ACT_SHOT`.
    const DROP: i32 = 2;

    #[inline(always)]
    fn again(&self) -> Self {
        Self { ctx: TcContext::new(self.ctx.skb.skb) }
    }

    #[inline(always)]
    fn data(&self, offset: usize) -> Option<u32> {
        self.ctx.load(offset).ok()
    }

    #[inline(always)]
    fn copy(&self, offset: u32, targets: &mut [Target; MOST], more: u32) -> Option<()> {
        kernel::load_targets(self.ctx.skb.skb, offset, targets, more)
    }

    #[inline(always)]
    fn to_member(&mut self, route: &Route) -> i32 {
        match route.way() {
            Way::Neighbour => kernel::redirect_to_neighbour(route),
            Way::Plain => kernel::redirect_plainly(route.device),
            Way::Local if route.device == 0 => self.to_client(),
            Way::Local => match self.address_to_loopback() {
                Some(()) => kernel::redirect_to_ingress(route.device),
                None => Self::DROP,
            },
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
    fn copy_to_client(&mut self) -> Option<()> {
        self.address_to_device()?;
        kernel::clone_to_ingress(self.ctx.skb.skb, settings::VIP_DEVICE.load())
    }

    #[inline(always)]
    fn copy_to_member(&mut self, next: &Next) -> Option<()> {
        let (skb, device) = (self.ctx.skb.skb, next.route.device);
        match next.route.way() {
            Way::Neighbour | Way::Plain => {
                kernel::store(skb, 0, &next.link?)?;
                kernel::clone_to_egress(skb, device)
            }
            Way::Local if device == 0 => self.copy_to_client(),
            Way::Local => {
                self.address_to_loopback()?;
                kernel::clone_to_ingress(skb, device)
            }
        }
    }

    #[inline(always)]
    fn copy_to_vip(&mut self) {
        let _it_comes_again = kernel::clone_to_egress(self.ctx.skb.skb, settings::VIP_DEVICE.load());
    }

    #[inline(always)]
    fn become_segment(&mut self, segment: &Segment, ends: &Tuple, header: &[u32; 5]) -> Option<()> {
        let skb = self.ctx.skb.skb;
        let tcp = usize::from(segment.tcp_offset) & REACH;
        kernel::resize(skb, (tcp + TCP) as u32)?;
        if segment.v6 {
            // Extension headers stay: the kernel may know the TCP header's place (`CHECKSUM_PARTIAL`).
            let [_, _, next, _] = self.load::<u32>(START + field::V6_LENGTH)?.to_ne_bytes();
            let length = (tcp + TCP - START - IPV6) as u16;
            kernel::store(skb, START as u32, &build::ipv6_header(ends, next, length))?;
            if segment.is_fragment() {
                kernel::store(skb, u32::from(segment.fragment), &0_u16)?;
            }
        } else {
            let options = (tcp - START - IPV4) / 4;
            let ip = build::ipv4_header(ends, options, PROTOCOL_TCP, RESET_LENGTH);
            kernel::store_ipv4_header(skb, START as u32, &ip, options)?;
        }
        kernel::store(skb, tcp as u32, header)?;
        self.finish_segment(tcp, ends, segment.v6, header)
    }

    #[inline(always)]
    fn become_port_unreachable(&mut self, datagram: &Datagram) -> Option<()> {
        let ends = datagram.ends.reversed();
        if datagram.v6 {
            let quote = self.quote::<{ build::QUOTE_V6 }>()?;
            let header = build::ipv6_header(&ends, PROTOCOL_ICMPV6, (8 + size_of_val(&quote)) as u16);
            let error = build::port_unreachable_v6(&ends, &quote);
            self.become_error(IPV6, &header, error, &quote)
        } else if usize::from(datagram.offset) == START + IPV4 {
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
            self.store(START + field::V6_SOURCE, ends.far.0)?;
            self.store(START + field::V6_DESTINATION, ends.near.0)
        } else {
            self.store(START + field::V4_SOURCE, ends.far.v4_word())?;
            self.store(START + field::V4_DESTINATION, ends.near.v4_word())
        }
    }

    #[inline(always)]
    fn readdress(&mut self, ends: &Tuple, delta: &Delta, v6: bool) -> Option<()> {
        if !v6 {
            return readdress_v4(self, START, ends, delta);
        }
        // No checksum in this packet makes up for the change: the kernel is told, for one that is `CHECKSUM_COMPLETE`.
        let skb = self.ctx.skb.skb;
        kernel::store(skb, (START + field::V6_SOURCE) as u32, &ends.near)?;
        kernel::store(skb, (START + field::V6_DESTINATION) as u32, &ends.far)
    }

    #[inline(always)]
    fn route(&self, ends: &Tuple, v6: bool) -> Option<Route> {
        let (device, flags) = (settings::VIP_DEVICE.load(), settings::FIB_LOOKUP_FLAG.load());
        let route = kernel::fib_lookup(self.ctx.skb.skb, device, ends, v6, flags)?;
        Some(if maps::is_l3(route.device) { Route::plain(route.device) } else { route })
    }

    #[inline(always)]
    fn next_of(&self, flow: &Flow, v6: bool) -> Option<Next> {
        let none = [0; 3];
        if flow.route.way() == Way::Local {
            return Some(Next { route: flow.route, link: Some(none) });
        }
        let device = settings::VIP_DEVICE.load();
        let (route, link) = kernel::fib_lookup_with_link(self.ctx.skb.skb, device, &flow.member_side, v6, 0)?;
        if maps::is_l3(route.device) {
            return Some(Next { route: Route::plain(route.device), link: Some(none) });
        }
        Some(Next { route, link })
    }

    #[inline(always)]
    fn has_socket(&self, ends: &Tuple, v6: bool, home: i32) -> bool {
        kernel::has_socket(self.ctx.skb.skb, ends, v6, home)
    }

    #[inline(always)]
    fn is_of_this_host(&self) -> bool {
        kernel::received_by(&self.ctx) == 0
    }

    #[inline(always)]
    fn socket_cookie(&self) -> u64 {
        kernel::socket_cookie(self.ctx.skb.skb)
    }

    #[inline(always)]
    fn read_closely(&mut self, side: Side) -> Verdict<Self> {
        kernel::set_note(&self.ctx, side as u32);
        self.continue_in(Continuation::Unread)
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

impl<const START: usize> Skb<START> {
    /// The first words of the IP packet, for an ICMP error.
    #[inline(always)]
    fn quote<const N: usize>(&self) -> Option<[u32; N]> {
        let mut words = [0; N];
        for (at, word) in words.iter_mut().enumerate() {
            *word = self.load(START + at * 4)?;
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
        let icmp = START + length;
        kernel::resize(skb, (icmp + 8 + size_of::<Q>()) as u32)?;
        kernel::store(skb, (icmp + 8) as u32, quote)?;
        kernel::store(skb, icmp as u32, &error)?;
        kernel::store(skb, START as u32, header)
    }

    /// The loopback device's address is all zeros.
    #[inline(always)]
    fn address_to_loopback(&mut self) -> Option<()> {
        self.store(0, 0_u32)?;
        self.store(4, 0_u16)
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

impl Skb<0> {
    /// Gives the packet an Ethernet header, and goes on with it as with a frame. The addresses are for
    /// [`Hook::to_client`] to fill in.
    #[inline(always)]
    pub fn as_frame(&mut self, v6: bool, go_on: impl Fn(&mut Frame) -> Verdict<Frame>) -> Verdict<Self> {
        const ETHERTYPE: usize = 12;
        let skb = self.ctx.skb.skb;
        let ethertype: u16 = if v6 { 0x86dd } else { 0x0800 };
        let pushed = kernel::push_head(skb, ETHERNET as u32);
        let mut frame = Frame { ctx: TcContext::new(skb) };
        // A plain store: the sum of a `CHECKSUM_COMPLETE` packet does not cover this header.
        if pushed.and_then(|()| frame.store(ETHERTYPE, ethertype.to_be())).is_none() {
            return Verdict::drop(Outcome::DroppedKernel, None);
        }
        let Verdict { outcome, member, action } = go_on(&mut frame);
        Verdict { outcome, member, action }
    }
}
