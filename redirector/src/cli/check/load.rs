//! The part of `check` that is computed: how soon trouble of a member is seen, what the profile means, and what the probes of
//! this host cost a member.

use std::{
    io::{self, Write},
    time::Duration,
};

use serde::Serialize;

use super::super::table::{Align, Table};
use crate::{
    decide::detection::{self, Load, Prompt, Rate, Trouble},
    model::{Combine, Detect, Member, Service, Signals},
};

/// Of one member.
#[derive(Debug, Serialize)]
pub(super) struct Detection {
    service: String,
    member: String,
    /// Where the defaults come from: `fast`, `balanced` or `patient`.
    profile: String,
    /// Which checks must pass: `all`, `any`, or `at_least 2`.
    combine: String,
    /// The tolerances, in milliseconds.
    silence_tolerance_ms: u64,
    stall_tolerance_ms: u64,
    refused_tolerance_ms: u64,
    /// From the beginning of the trouble until the member is down, at the latest, in milliseconds; `null`: no check that
    /// decides sees it.
    crash_ms: Option<u64>,
    silence_ms: Option<u64>,
    stall_ms: Option<u64>,
    /// The same while clients use the member, and signals of the kernel make the probers look; `null`: they do not.
    with_traffic: Option<WithTraffic>,
    /// Connections from this host that stay open.
    connections: usize,
    /// Probes from this host, on average.
    normal: PerSecond,
    in_doubt: PerSecond,
}

/// How soon a member is down whose clients notice it.
#[derive(Debug, Serialize)]
struct WithTraffic {
    crash_ms: Option<u64>,
    silence_ms: Option<u64>,
    stall_ms: Option<u64>,
}

/// How often, at all addresses of a member together.
#[derive(Debug, Serialize)]
struct PerSecond {
    probes_per_second: f64,
    new_connections_per_second: f64,
}

impl Detection {
    /// Of a member whose checks have taken so long, at the slowest of this many addresses.
    pub(super) fn of(service: &Service, member: &Member, latencies: &[Duration], addresses: usize) -> Self {
        let checks: Vec<_> = member.checks.iter().zip(latencies.iter().copied()).collect();
        let worst = |prompt| {
            Trouble::ALL.map(|trouble| {
                detection::of_member(&checks, service.combine, trouble, prompt).map(milliseconds)
            })
        };
        let [crash_ms, silence_ms, stall_ms] = worst(Prompt::Interval);
        let with_traffic = (service.signals == Signals::Act).then(|| {
            let [crash_ms, silence_ms, stall_ms] = worst(Prompt::Signal);
            WithTraffic { crash_ms, silence_ms, stall_ms }
        });
        // Every check of a service bears the same.
        let detect = service.checks.first().map_or(service.profile.defaults().detect, |check| check.detect);
        let Detect { silence_tolerance, stall_tolerance, refused_tolerance } = detect;
        let Load { connections, normal, in_doubt } = detection::load(&member.checks);
        Self {
            service: service.name.clone(),
            member: member.name.clone(),
            profile: service.profile.to_string(),
            combine: match service.combine {
                Combine::All => "all".to_owned(),
                Combine::Any => "any".to_owned(),
                Combine::AtLeast(number) => format!("at_least {number}"),
            },
            silence_tolerance_ms: milliseconds(silence_tolerance),
            stall_tolerance_ms: milliseconds(stall_tolerance),
            refused_tolerance_ms: milliseconds(refused_tolerance),
            crash_ms,
            silence_ms,
            stall_ms,
            with_traffic,
            connections: connections * addresses,
            normal: PerSecond::of(normal, addresses),
            in_doubt: PerSecond::of(in_doubt, addresses),
        }
    }
}

impl PerSecond {
    fn of(rate: Rate, addresses: usize) -> Self {
        // A member has at most sixteen.
        let times = f64::from(u32::try_from(addresses).unwrap_or(u32::MAX));
        let rounded = |number: f64| (number * times * 100.0).round() / 100.0;
        Self {
            probes_per_second: rounded(rate.probes),
            new_connections_per_second: rounded(rate.connections),
        }
    }
}

/// As text.
pub(super) fn write(detection: &[Detection], out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new([
        ("service", Align::Left),
        ("member", Align::Left),
        ("down after crash", Align::Right),
        ("silence", Align::Right),
        ("stall", Align::Right),
        ("with traffic: crash", Align::Right),
        ("silence", Align::Right),
        ("stall", Align::Right),
        ("connections kept", Align::Right),
        ("probes/s", Align::Right),
        ("in doubt", Align::Right),
        ("connections/s in doubt", Align::Right),
    ]);
    for member in detection {
        table.row([
            member.service.clone(),
            member.member.clone(),
            in_milliseconds(member.crash_ms),
            in_milliseconds(member.silence_ms),
            in_milliseconds(member.stall_ms),
            with_traffic(member, |times| times.crash_ms),
            with_traffic(member, |times| times.silence_ms),
            with_traffic(member, |times| times.stall_ms),
            member.connections.to_string(),
            member.normal.probes_per_second.to_string(),
            member.in_doubt.probes_per_second.to_string(),
            member.in_doubt.new_connections_per_second.to_string(),
        ]);
    }
    writeln!(out, "{table}")?;
    let mut told: Option<&str> = None;
    for member in detection {
        if told.replace(&member.service) != Some(&member.service) {
            writeln!(
                out,
                "{}: profile {}, combine {}; borne for: silence {} ms, stall {} ms, refusal {} ms.",
                member.service,
                member.profile,
                member.combine,
                member.silence_tolerance_ms,
                member.stall_tolerance_ms,
                member.refused_tolerance_ms,
            )?;
        }
    }
    writeln!(
        out,
        "These are worst cases: trouble that begins just after a probe has passed; with traffic: just before a client asks, so that \
         the kernel's signals need not wait for a probe. Probes and connections are those of this \
         host.\n"
    )?;
    Ok(())
}

fn with_traffic(member: &Detection, time: impl Fn(&WithTraffic) -> Option<u64>) -> String {
    in_milliseconds(member.with_traffic.as_ref().and_then(time))
}

/// Rounded up: a worst case.
pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// `-`: not seen.
pub(super) fn in_milliseconds(milliseconds: Option<u64>) -> String {
    milliseconds.map_or_else(|| "-".to_owned(), |milliseconds| format!("{milliseconds} ms"))
}
