//! What the agent tells the programs when it loads them. Constant afterwards: the verifier folds it in and drops
//! what it makes unreachable.

use aya_ebpf::Global;

/// Interface index of the VIP device.
#[unsafe(no_mangle)]
pub static VIP_DEVICE: Global<u32> = Global::new(0);

/// Ethernet address of the VIP device, as three words in memory order.
#[unsafe(no_mangle)]
pub static VIP_DEVICE_MAC: Global<[u16; 3]> = Global::new([0; 3]);

/// Lowest source port of the member side.
#[unsafe(no_mangle)]
pub static PORT_FIRST: Global<u32> = Global::new(0);

/// Number of source ports of the member side.
#[unsafe(no_mangle)]
pub static PORT_COUNT: Global<u32> = Global::new(0);

/// `BPF_F_IPV6` where the kernel knows it (Linux 6.16), else 0: keeps `CHECKSUM_COMPLETE` right when an IPv6
/// address changes, which no header checksum compensates.
#[unsafe(no_mangle)]
pub static IPV6_CHECKSUM_FLAG: Global<u32> = Global::new(0);

/// `BPF_FIB_LOOKUP_SKIP_NEIGH` where the kernel knows it (Linux 6.3), else 0: the neighbour is resolved on the way out,
/// not by the lookup, which otherwise looks for it too and finds it or not.
#[unsafe(no_mangle)]
pub static FIB_LOOKUP_FLAG: Global<u32> = Global::new(0);

/// How many flows that are not established yet one source may have with one service, counting clients without a socket
/// on this host only.
#[unsafe(no_mangle)]
pub static HALF_OPEN_PER_SOURCE: Global<u32> = Global::new(0);

/// The same for all sources of a service together.
#[unsafe(no_mangle)]
pub static HALF_OPEN_PER_SERVICE: Global<u32> = Global::new(0);

/// Ticks of the kernel that a flow's route is believed for.
#[unsafe(no_mangle)]
pub static ROUTE_LIFE: Global<u32> = Global::new(0);

/// A round trip of each flow is measured in stretches of two to the power of this many ticks.
#[unsafe(no_mangle)]
pub static SAMPLE_SHIFT: Global<u32> = Global::new(0);

/// Ticks between two reports of the same signal of the same member, at least.
#[unsafe(no_mangle)]
pub static REPORT_EVERY: Global<u32> = Global::new(0);

/// Ticks from a SYN until the same one is one that was sent again, and no copy: less than any client waits for an answer.
#[unsafe(no_mangle)]
pub static SYN_AGAIN_AFTER: Global<u32> = Global::new(0);

/// 1: the slow path logs through aya-log.
#[unsafe(no_mangle)]
pub static LOG: Global<u32> = Global::new(0);
