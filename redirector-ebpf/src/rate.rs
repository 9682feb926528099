//! The cap on new connections of a service.

use crate::{kernel, maps};

/// How often a program tries again when programs of other processors open connections in the same moment.
const TRIES: u32 = 4;

/// 1: one more connection keeps the cap of the service, and is counted.
///
/// A function of its own to the kernel, which verifies it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn keeps_rate(service: u32) -> u32 {
    let Some((rate, expected)) = maps::rate(service) else { return 1 };
    if rate.interval == 0 {
        return 1;
    }
    let now = kernel::monotonic_now();
    for _ in 0..TRIES {
        let old = expected.get();
        let Some(next) = rate.admit(old, now) else { return 0 };
        if expected.replace(old, next) {
            return 1;
        }
    }
    // Somebody else was admitted each time: one too many is better than a refusal without a reason.
    1
}
