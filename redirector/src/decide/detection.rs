//! How soon trouble makes an address or a member down at the latest, and how many probes that costs: what `redirector check`
//! prints.
//!
//! Pure functions over the configuration. They follow one prober through its worst schedule: the trouble begins just after
//! a probe has passed. `decide/tests/detection.rs` runs core and probers through it, and through others, in virtual time.
//! With a signal of the kernel the first probe does not wait for its interval ([`Prompt`]).
//! What is not in it: the time that the agent itself takes (about a millisecond), a host that is too busy, and a crash within
//! the `interval` after the kept connection was ended by something else, which is seen only when that interval is over.

use std::time::Duration;

use crate::model::{Check, Combine, Effect, FailureKind, LOOK_AFTER, Policy};

/// What can happen to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The server has ended: its host refuses connections.
    Crash,
    /// Nothing comes back any more: its host or the network is gone.
    Silence,
    /// Its host acknowledges, the server does not answer.
    Stall,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Crash, Self::Silence, Self::Stall];

    /// How its probes fail.
    #[must_use]
    pub fn failure(self) -> FailureKind {
        match self {
            Self::Crash => FailureKind::Refused,
            Self::Silence => FailureKind::Silence,
            Self::Stall => FailureKind::Stall,
        }
    }
}

/// What makes the first probe begin that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Its interval is over: nobody uses the member.
    Interval,
    /// A signal of the kernel, if it comes sooner: clients use the member, and one of them asks when the trouble begins.
    Signal,
}

/// Moments of the traffic are known to a tick of the kernel, which takes so long at most (`HZ` 100).
const TICK: Duration = Duration::from_millis(10);

/// How long the traffic with a member that answers within `latency` can be in trouble until there is a signal.
fn signal_after(trouble: Trouble, latency: Duration) -> Duration {
    match trouble {
        // Its kernel says so itself.
        Trouble::Crash => latency,
        Trouble::Silence | Trouble::Stall => LOOK_AFTER.max(latency * 4) + TICK,
    }
}

/// The longest from the beginning of the trouble until the check fails, if its probes of a member that is well take
/// `latency`. `None`: it does not see this trouble.
#[must_use]
pub fn of_check(check: &Check, trouble: Trouble, latency: Duration, prompt: Prompt) -> Option<Duration> {
    if !check.kind.sees(trouble.failure()) {
        return None;
    }
    let kept = check.kind.keeps_a_connection();
    let limits = check.limits(latency, latency);
    let lasts = |connected: bool| match trouble {
        Trouble::Crash => latency,
        Trouble::Silence if connected => {
            limits.answer.min(limits.kept() + limits.silence.unwrap_or(limits.answer))
        }
        Trouble::Silence => limits.answer.min(limits.silence.unwrap_or(limits.answer)),
        Trouble::Stall => limits.answer,
    };
    let spacing = |failures| match trouble {
        Trouble::Crash => check.after_refusal(failures),
        Trouble::Silence | Trouble::Stall => check.fast_interval,
    };

    let mut start = first_wait(check, trouble, latency);
    if prompt == Prompt::Signal {
        // A round that is under way does not begin anew: its next probe may wait for its turn.
        let turn = if passes_needed(check) > 1 { check.probe_delay.max(latency) } else { Duration::ZERO };
        start = start.min(signal_after(trouble, latency).max(turn));
    }
    let (mut end, mut clock) = (start, None);
    let mut connected = kept;
    for failures in 1..=check.fall {
        let mut at = start;
        for number in 0..failures_needed(check) {
            let began = if number == 0 { at } else { at.max(end) };
            end = began + lasts(connected);
            at = began + check.probe_delay;
            connected = false;
            if number + 1 == failures_needed(check) {
                // A probe that is answered says when the trouble was seen, one that is not says since when it waited.
                clock.get_or_insert(if trouble == Trouble::Crash { end } else { began });
            }
        }
        start = end.max(start + spacing(failures));
    }
    Some(end.max(clock.unwrap_or(end) + check.detect.tolerance(trouble.failure())))
}

/// The longest until the first round begins that fails from its first probe on. The end of a kept connection starts one at
/// once, but for the waits within a round.
fn first_wait(check: &Check, trouble: Trouble, latency: Duration) -> Duration {
    let pauses = passes_needed(check) - 1;
    if trouble == Trouble::Crash && check.kind.keeps_a_connection() {
        return if pauses > 0 { check.probe_delay } else { Duration::ZERO };
    }
    check.interval.max(check.probe_delay.max(latency) * pauses + latency)
}

/// How many probes must fail until a round is lost.
fn failures_needed(check: &Check) -> u32 {
    match check.policy {
        Policy::All => 1,
        Policy::Majority => check.probes.div_ceil(2),
        Policy::Any => check.probes,
    }
}

/// How many must pass until it is won.
fn passes_needed(check: &Check) -> u32 {
    match check.policy {
        Policy::All => check.probes,
        Policy::Majority => check.probes / 2 + 1,
        Policy::Any => 1,
    }
}

/// The same for an address that several checks watch together, each with the latency of its probes; and so for its member:
/// all addresses are probed at the same time.
#[must_use]
pub fn of_member(
    checks: &[(&Check, Duration)],
    combine: Combine,
    trouble: Trouble,
    prompt: Prompt,
) -> Option<Duration> {
    let times = |effect: Effect| {
        let of_effect = checks.iter().filter(move |(check, _)| check.effect == effect);
        of_effect.map(move |(check, latency)| of_check(check, trouble, *latency, prompt))
    };
    let counting = times(Effect::Count).count();
    let mut seen: Vec<_> = times(Effect::Count).flatten().collect();
    seen.sort_unstable();
    // As soon as too few are left that could pass.
    let enough_fail =
        counting.checked_sub(combine.needed(counting)).and_then(|spare| seen.get(spare).copied());
    times(Effect::Veto).flatten().chain(enough_fail).min()
}

/// What the probes of one address cost it, from one host.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Connections that stay open.
    pub connections: usize,
    /// While all is well.
    pub normal: Rate,
    /// While it is in doubt.
    pub in_doubt: Rate,
}

/// How often.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Probes a second.
    pub probes: f64,
    /// Connections that are opened a second.
    pub connections: f64,
}

/// Of all these checks together, on average.
#[must_use]
pub fn load(checks: &[Check]) -> Load {
    let mut load = Load::default();
    for check in checks {
        let pauses = check.probe_delay * (check.probes - 1);
        let mean = check.interval.mul_f64(1.0 - f64::from(check.jitter_percent) / 200.0);
        let normal = f64::from(passes_needed(check)) / mean.max(pauses).as_secs_f64();
        let in_doubt = f64::from(check.probes) / check.fast_interval.max(pauses).as_secs_f64();
        load.normal.probes += normal;
        load.in_doubt.probes += in_doubt;
        // A probe that fails leaves no connection to keep.
        load.in_doubt.connections += in_doubt;
        if check.kind.keeps_a_connection() {
            load.connections += 1;
        } else {
            load.normal.connections += normal;
        }
    }
    load
}
