//! From the traffic to the cores: what the kernel programs report, and what the watch sees.
//!
//! ```text
//! programs ──ring buffer──▶ on_signals ─┐
//!     └──pulses (mapped)──▶ watch ──────┴─▶ core ──look──▶ probers
//! ```

use std::time::Instant;

use super::{Agent, moves::Moves, watch::Seen};
use crate::{
    datapath::{self, OfMember},
    decide::record::Input,
    model::{CheckKind, MemberId, ServiceId, Signal, Traffic, Verdict},
    probe::Report,
    telemetry::Event,
};

/// Waits for what the programs report; forever, when it cannot be read.
pub(super) async fn next(signals: &mut Option<datapath::Signals>) -> anyhow::Result<Vec<OfMember>> {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}

impl Agent {
    /// The programs have reported something, or it cannot be read any more.
    pub(super) fn on_signals(
        &mut self,
        seen: anyhow::Result<Vec<OfMember>>,
        signals: &mut Option<datapath::Signals>,
    ) {
        self.look_at_the_clock();
        self.observer.takes_up();
        let seen = seen.unwrap_or_else(|error| {
            *signals = None;
            self.no_signals("what the kernel programs report cannot be read any more", &error);
            Vec::new()
        });
        for (id, signal) in seen {
            // Of members that leave, and of services that nobody wants signals of, there is nothing to tell.
            if let Some((service, member)) = self.watch.subject(id) {
                self.hand_in_signal(service, member, signal);
            }
        }
    }

    /// A look at the traffic, if it is due.
    pub(super) fn look_at_traffic(&mut self) {
        let now = Instant::now();
        if self.watch.next().is_none_or(|next| next > now) {
            return;
        }
        let mut seen = Vec::new();
        let looked = self.watch.look(now, &self.pulses, &self.ticks, |service, member, what| {
            seen.push((service, member, what));
        });
        for (service, member, seen) in seen {
            match seen {
                Seen::Signal(signal) => self.hand_in_signal(service, member, signal),
                Seen::Traffic(traffic) => self.hand_in_traffic(service, member, traffic),
            }
        }
        if let Err(error) = looked {
            self.no_signals("the traffic with the members is not watched any more", &error);
        }
    }

    /// A part of what gives signals has failed: what is left is what there is without them.
    pub(super) fn no_signals(&self, what: &str, error: &anyhow::Error) {
        let message = format!(
            "{what}: {error:#}; members are probed at their intervals all the same: restart the agent"
        );
        self.observer.events.emit(Event::Error { service: None, member: None, message });
    }

    fn hand_in_signal(&mut self, service: ServiceId, member: MemberId, signal: Signal) {
        let now = self.clock.now();
        self.note(now, service, || Input::Signal(member, signal));
        self.cores.of(service).on_signal(now, member, &signal);
    }

    fn hand_in_traffic(&mut self, service: ServiceId, member: MemberId, traffic: Traffic) {
        let now = self.clock.now();
        self.note(now, service, || Input::Traffic(member, traffic));
        self.cores.of(service).on_traffic(now, member, traffic);
    }

    /// A probe that has passed may have answered what the watch would ask.
    pub(super) fn watch_report(&mut self, report: &Report) {
        let kind =
            &self.config.services[report.service.0].members[report.member.0].checks[report.check.0].kind;
        // A connection says nothing of Redis, and a witness nothing of the way that clients go.
        let asks_redis = match kind {
            CheckKind::Ping | CheckKind::Echo | CheckKind::SetGet { .. } => true,
            CheckKind::Tcp
            | CheckKind::Keyspace(_)
            | CheckKind::Heartbeat(_)
            | CheckKind::Lag(_)
            | CheckKind::Http(_)
            | CheckKind::Exec(_) => false,
        };
        if asks_redis && report.outcome.verdict() == Verdict::Pass {
            self.watch.passed(report.service, report.member, report.address, report.started);
        }
    }

    /// Members have other numbers from now on, or there are others.
    pub(super) fn watch_again(&mut self, moves: &Moves) {
        let datapath = &self.datapath;
        let id = |service, member| datapath.id(service, member);
        if let Err(error) = self.watch.rename(moves, &self.config, &self.pulses, id) {
            self.no_signals("the traffic with the members is not watched", &error);
        }
    }
}
