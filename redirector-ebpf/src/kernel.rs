//! All calls into the kernel. Nothing else in this crate calls a helper.
//!
//! Structures of the kernel's interface are declared here in the form that is used, after
//! `include/uapi/linux/bpf.h`.

use core::ffi::c_void;

use aya_ebpf::{bindings::__sk_buff, helpers, programs::TcContext};
use redirector_common::{
    addr::{Addr, Tuple},
    flow::Route,
    inject::{MOST, TARGET, Target},
    packet::IPV4,
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const BPF_F_INGRESS: u64 = 1;
const BPF_F_RECOMPUTE_CSUM: u64 = 1;
/// The change is one of the pseudo-header.
const BPF_F_PSEUDO_HDR: u64 = 1 << 4;
const PROTOCOL_TCP: u8 = 6;

/// `struct bpf_fib_lookup`.
#[repr(C)]
struct FibLookup {
    family: u8,
    l4_protocol: u8,
    source_port: u16,
    destination_port: u16,
    /// 0: the kernel compares the packet itself, segmentation included, with the MTU.
    length: u16,
    ifindex: u32,
    flow_information: u32,
    source: [u32; 4],
    /// In: the destination. Out: the next hop.
    destination: [u32; 4],
    vlan: u32,
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
}

/// Size of `struct bpf_redir_neigh`.
const REDIR_NEIGH: i32 = 20;

/// Asks the routing table for the way to the far end of `ends`, as if the packet had come in by `device`
/// (which has forwarding on for this purpose). `None`: there is none.
#[inline(always)]
pub fn fib_lookup(skb: *mut __sk_buff, device: u32, ends: &Tuple, v6: bool, flags: u32) -> Option<Route> {
    fib_lookup_with_link(skb, device, ends, v6, flags).map(|(route, _)| route)
}

/// As [`fib_lookup`]; with the link-layer addresses of the neighbour and of the device, as an Ethernet header begins, if they are
/// known and `flags` do not say to pass them over.
#[inline(always)]
pub fn fib_lookup_with_link(
    skb: *mut __sk_buff,
    device: u32,
    ends: &Tuple,
    v6: bool,
    flags: u32,
) -> Option<(Route, Option<[u32; 3]>)> {
    const SUCCESS: i64 = 0;
    const NO_NEIGHBOUR: i64 = 7;
    const FRAGMENTATION_NEEDED: i64 = 8;

    let first = |address: [u32; 4]| if v6 { address } else { [address[3], 0, 0, 0] };
    let mut lookup = FibLookup {
        family: if v6 { AF_INET6 } else { AF_INET },
        l4_protocol: PROTOCOL_TCP,
        // Ports, so that equal-cost paths are spread over flows.
        source_port: ends.near_port.wire(),
        destination_port: ends.far_port.wire(),
        length: 0,
        ifindex: device,
        flow_information: 0,
        source: first(ends.near.0),
        destination: first(ends.far.0),
        vlan: 0,
        source_mac: [0; 6],
        destination_mac: [0; 6],
    };
    // SAFETY: the structure is the kernel's, and its size is given.
    let answer = unsafe {
        helpers::generated::bpf_fib_lookup(
            skb.cast(),
            (&raw mut lookup).cast(),
            size_of::<FibLookup>() as i32,
            flags,
        )
    };
    // A segment above the path's MTU is sent all the same: the route of the VIP carries the smallest MTU of all
    // routes to members, so it is one that was on its way while that changed.
    if !matches!(answer, SUCCESS | NO_NEIGHBOUR | FRAGMENTATION_NEEDED) {
        return None;
    }
    let route =
        Route { family: u32::from(lookup.family), next_hop: lookup.destination, device: lookup.ifindex };
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (lookup.destination_mac, lookup.source_mac);
    let link = [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_ne_bytes);
    // Zeros: Linux before 6.2 says nothing of a neighbour that does not answer.
    let is_known = answer != NO_NEIGHBOUR && lookup.destination_mac != [0; 6];
    Some((route, is_known.then_some(link)))
}

/// Leaves by the device of `route`, with the link-layer address of its next hop (Linux 5.10).
#[inline(always)]
pub fn redirect_to_neighbour(route: &Route) -> i32 {
    let parameters = (&raw const *route).cast_mut().cast();
    // SAFETY: `Route` starts with the fields of `struct bpf_redir_neigh`, whose size is given; the kernel only reads.
    unsafe { helpers::generated::bpf_redirect_neigh(route.device, parameters, REDIR_NEIGH, 0) as i32 }
}

/// Leaves by a device without link-layer header.
#[inline(always)]
pub fn redirect_plainly(device: u32) -> i32 {
    // SAFETY: no pointer is involved.
    unsafe { helpers::generated::bpf_redirect(device, 0) as i32 }
}

/// Enters the stack as if received by `device`.
#[inline(always)]
pub fn redirect_to_ingress(device: u32) -> i32 {
    // SAFETY: no pointer is involved.
    unsafe { helpers::generated::bpf_redirect(device, BPF_F_INGRESS) as i32 }
}

/// A copy enters the stack as if received by `device`. `None`: it was lost at once, as when the processor's backlog is full.
#[inline(always)]
pub fn clone_to_ingress(skb: *mut __sk_buff, device: u32) -> Option<()> {
    // SAFETY: `skb` is the context that the program was given.
    (unsafe { helpers::generated::bpf_clone_redirect(skb, device, BPF_F_INGRESS) } == 0).then_some(())
}

/// A copy is sent out of `device`. `None`: it was lost at once, as when the device's queue is full.
#[inline(always)]
pub fn clone_to_egress(skb: *mut __sk_buff, device: u32) -> Option<()> {
    // SAFETY: `skb` is the context that the program was given.
    (unsafe { helpers::generated::bpf_clone_redirect(skb, device, 0) } == 0).then_some(())
}

/// Brings the first `length` bytes where the program can reach them.
#[inline(always)]
pub fn pull(skb: *mut __sk_buff, length: u32) {
    // SAFETY: `skb` is the context that the program was given.
    let _checked_by_the_next_read = unsafe { helpers::generated::bpf_skb_pull_data(skb, length) };
}

/// Cuts or lengthens the packet to `length` bytes and drops what segmentation offload knew of it.
#[inline(always)]
pub fn resize(skb: *mut __sk_buff, length: u32) -> Option<()> {
    // SAFETY: `skb` is the context that the program was given.
    (unsafe { helpers::generated::bpf_skb_change_tail(skb, length, 0) } == 0).then_some(())
}

/// Writes `value` at `offset` and keeps the sum of a `CHECKSUM_COMPLETE` packet right.
#[inline(always)]
pub fn store<T: Copy>(skb: *mut __sk_buff, offset: u32, value: &T) -> Option<()> {
    let from: *const T = value;
    // SAFETY: `from` points to a value of that size.
    let failed = unsafe {
        helpers::generated::bpf_skb_store_bytes(
            skb,
            offset,
            from.cast::<c_void>(),
            size_of::<T>() as u32,
            BPF_F_RECOMPUTE_CSUM,
        )
    };
    (failed == 0).then_some(())
}

/// Reads a target and `more` from `offset` on; fewer than there is room for.
#[inline(always)]
pub fn load_targets(skb: *mut __sk_buff, offset: u32, targets: &mut [Target; MOST], more: u32) -> Option<()> {
    // SAFETY: as many bytes as that many targets have, and no more than there is room for.
    let failed = unsafe {
        helpers::generated::bpf_skb_load_bytes(
            skb.cast(),
            offset,
            targets.as_mut_ptr().cast::<c_void>(),
            more * TARGET as u32 + TARGET as u32,
        )
    };
    (failed == 0).then_some(())
}

/// Makes room for a link-layer header of `length` bytes, filled with zeros, before a packet without one.
#[inline(always)]
pub fn push_head(skb: *mut __sk_buff, length: u32) -> Option<()> {
    // SAFETY: `skb` is the context that the program was given.
    (unsafe { helpers::generated::bpf_skb_change_head(skb, length, 0) } == 0).then_some(())
}

/// Writes an IPv4 header with `options` option words at `offset`, as [`store`] does.
#[inline(always)]
pub fn store_ipv4_header(skb: *mut __sk_buff, offset: u32, header: &[u32; 15], options: usize) -> Option<()> {
    // The compiler knows the bound from the parser's arithmetic, which the verifier does not follow: without this
    // the comparison would be optimised away.
    let options = core::hint::black_box(options as u32);
    if options > 10 {
        return None;
    }
    // SAFETY: at most 15 words are read.
    let failed = unsafe {
        helpers::generated::bpf_skb_store_bytes(
            skb,
            offset,
            header.as_ptr().cast::<c_void>(),
            IPV4 as u32 + options * 4,
            BPF_F_RECOMPUTE_CSUM,
        )
    };
    (failed == 0).then_some(())
}

/// Adds `difference` to the TCP checksum at `offset`. The kernel knows whether the field holds a whole checksum or
/// the sum of the pseudo-header only (`CHECKSUM_PARTIAL`): changes of ports do not touch the latter.
#[inline(always)]
pub fn adjust_checksum(skb: *mut __sk_buff, offset: u32, difference: u32) -> Option<()> {
    // SAFETY: `skb` is the context that the program was given.
    (unsafe { helpers::generated::bpf_l4_csum_replace(skb, offset, 0, u64::from(difference), 0) } == 0)
        .then_some(())
}

/// As [`adjust_checksum`], for addresses, which the pseudo-header covers.
#[inline(always)]
pub fn adjust_pseudo_checksum(
    skb: *mut __sk_buff,
    offset: u32,
    difference: u32,
    extra_flags: u32,
) -> Option<()> {
    let flags = BPF_F_PSEUDO_HDR | u64::from(extra_flags);
    // SAFETY: `skb` is the context that the program was given.
    (unsafe { helpers::generated::bpf_l4_csum_replace(skb, offset, 0, u64::from(difference), flags) } == 0)
        .then_some(())
}

/// Cookie of the TCP socket that sent the packet; 0: none of this network namespace did. A raw socket, with which anybody
/// can be pretended to be, does not count (Linux 5.1).
#[inline(always)]
pub fn socket_cookie(skb: *mut __sk_buff) -> u64 {
    // SAFETY: `skb` is the context that the program was given; the kernel gives a socket of it or null.
    let socket = unsafe { (*skb).__bindgen_anon_2.sk };
    if socket.is_null() {
        return 0;
    }
    // SAFETY: as above, and not null.
    let socket = unsafe { helpers::generated::bpf_sk_fullsock(socket) };
    // SAFETY: a whole socket or null.
    if socket.is_null() || unsafe { (*socket).protocol } != u32::from(PROTOCOL_TCP) {
        return 0;
    }
    // SAFETY: `skb` is the context that the program was given.
    unsafe { helpers::generated::bpf_get_socket_cookie(skb.cast()) }
}

/// Whether a TCP socket has these ends, its peer the far one, in the network namespace that the packet's has this number for; a
/// negative one: in the packet's own. One that listens or only waits for late segments is none (Linux 5.2).
#[inline(always)]
pub fn has_socket(skb: *mut __sk_buff, ends: &Tuple, v6: bool, namespace: i32) -> bool {
    const TIME_WAIT: u32 = 6;
    const CLOSE: u32 = 7;
    const LISTEN: u32 = 10;

    let [[i, j], [k, l]] = [ends.far_port, ends.near_port].map(|port| port.wire().to_ne_bytes());
    let ports = u32::from_ne_bytes([i, j, k, l]);
    // `struct bpf_sock_tuple`: addresses and ports as a packet of the peer has them.
    let (Addr([a, b, c, d]), Addr([e, f, g, h])) = (ends.far, ends.near);
    let (v4, v6) = ([d, h, ports], v6.then_some([a, b, c, d, e, f, g, h, ports]));
    let (tuple, size) = match &v6 {
        Some(v6) => (v6.as_ptr(), size_of_val(v6)),
        None => (v4.as_ptr(), size_of_val(&v4)),
    };
    // SAFETY: the structure is the kernel's in its form for that version, and its size is given.
    let socket = unsafe {
        helpers::generated::bpf_skc_lookup_tcp(
            skb.cast(),
            tuple.cast_mut().cast(),
            size as u32,
            u64::from(namespace.cast_unsigned()),
            0,
        )
    };
    if socket.is_null() {
        return false;
    }
    // SAFETY: not null; it is released below.
    let state = unsafe { (&raw const (*socket).state).read_volatile() };
    // SAFETY: found above, and not released yet.
    let _always_zero = unsafe { helpers::generated::bpf_sk_release(socket.cast()) };
    !matches!(state, TIME_WAIT | CLOSE | LISTEN)
}

/// Ticks of the kernel, the low half of its jiffies. The verifier makes one load of it: no call.
#[inline(always)]
pub fn ticks() -> u32 {
    // SAFETY: no pointer is involved.
    unsafe { helpers::generated::bpf_jiffies64() as u32 }
}

/// `CLOCK_BOOTTIME` in nanoseconds: goes on in suspend, as leases do.
#[inline(always)]
pub fn boot_now() -> u64 {
    // SAFETY: no pointer is involved.
    unsafe { helpers::generated::bpf_ktime_get_boot_ns() }
}

/// `CLOCK_MONOTONIC` in nanoseconds: for what lasts less than a connection.
#[inline(always)]
pub fn monotonic_now() -> u64 {
    // SAFETY: no pointer is involved.
    unsafe { helpers::generated::bpf_ktime_get_ns() }
}

/// A pseudo-random number.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: no pointer is involved.
    unsafe { helpers::generated::bpf_get_prandom_u32() }
}

/// Index of the device by which the packet came to this host; 0: by none.
#[inline(always)]
pub fn received_by(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid while the program runs.
    unsafe { (*ctx.skb.skb).ingress_ifindex }
}

/// Whether the frame belongs to a VLAN: the kernel keeps its tag beside the packet. VLAN 0 is none, only a priority
/// (IEEE 802.1Q section 6.9), and such a frame belongs to this device.
#[inline(always)]
pub fn is_of_a_vlan(ctx: &TcContext) -> bool {
    // SAFETY: the context is valid while the program runs.
    unsafe { (*ctx.skb.skb).vlan_present != 0 && (*ctx.skb.skb).vlan_tci & 0x0fff != 0 }
}

/// Adds to a number that other processors add to as well. (This target's `core` has no atomic arithmetic.)
///
/// # Safety
/// `number` must lead to a map's value.
#[inline(always)]
pub unsafe fn atomic_add(number: *mut i64, addend: i64) {
    // SAFETY: the caller's promise; the instruction (`BPF_ATOMIC | BPF_ADD`) touches nothing else.
    unsafe { core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) number, in(reg) addend) }
}

/// The same for 32 bits.
///
/// # Safety
/// `number` must lead to a map's value.
#[inline(always)]
pub unsafe fn atomic_add_word(number: *mut u32, addend: u32) {
    // SAFETY: the caller's promise; the instruction touches nothing else.
    unsafe {
        core::arch::asm!("lock *(u32 *)({0} + 0) += {1}", in(reg) number, in(reg) u64::from(addend));
    }
}

/// Replaces a number that is still `old`; whether it was (Linux 5.12).
///
/// # Safety
/// `number` must lead to a map's value.
#[inline(always)]
pub unsafe fn compare_exchange(number: *mut u64, old: u64, new: u64) -> bool {
    let found: u64;
    // SAFETY: the caller's promise; the instruction touches nothing else.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({0} + 0, r0, {1})",
            in(reg) number,
            in(reg) new,
            inout("r0") old => found
        );
    }
    found == old
}

/// Leaves a word with the packet for the program that it is handed on to.
#[inline(always)]
pub fn set_note(ctx: &TcContext, word: u32) {
    // SAFETY: the context is valid while the program runs; its control block is the programs' own at this hook.
    unsafe { (*ctx.skb.skb).cb[0] = word };
}

/// The word that another program left.
#[inline(always)]
pub fn note(ctx: &TcContext) -> u32 {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).cb[0] }
}

/// The same number, by way of the packet's control block (`cb[1]`, at byte 52 of `struct __sk_buff`): the verifier does not
/// follow what is written there.
#[inline(always)]
pub fn forget(ctx: &TcContext, number: u32) -> u32 {
    let mut number = u64::from(number);
    // SAFETY: the context is valid while the program runs; its control block is the programs' own at this hook. As
    // instructions, because the compiler would work out the address first, and the verifier wants it with the context.
    unsafe {
        core::arch::asm!(
            "*(u32 *)({0} + 52) = {1}",
            "{1} = *(u32 *)({0} + 52)",
            in(reg) ctx.skb.skb,
            inout(reg) number
        );
    }
    number as u32
}
