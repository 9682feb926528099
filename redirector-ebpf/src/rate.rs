//! The cap on new connections of a service.

use crate::{kernel, maps};

/// How often a program tries again when programs of other processors open connections in the same moment.
const TRIES: u32 = 4;

/// 1: one more connection keeps the cap of the service. Nothing is counted yet: it may be refused for another reason.
///
/// This and [`count_opened`] are functions of their own to the kernel, which verifies them once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn keeps_rate(service: u32) -> u32 {
    let Some((rate, expected)) = maps::rate(service) else { return 1 };
    u32::from(rate.interval == 0 || rate.admit(expected.get(), kernel::monotonic_now()).is_some())
}

/// Counts a connection that was opened. Those that were let in on other processors since [`keeps_rate`] are too many by then, and
/// paid back: the next one waits for all of them. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn count_opened(service: u32) -> u32 {
    let Some((rate, expected)) = maps::rate(service) else { return 0 };
    if rate.interval == 0 {
        return 0;
    }
    let now = kernel::monotonic_now();
    for _ in 0..TRIES {
        let old = expected.get();
        if expected.replace(old, rate.after(old, now)) {
            break;
        }
    }
    // Somebody else was quicker each time: one that is not counted is better than a loop without an end.
    0
}
