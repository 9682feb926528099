//! What the cores know, in the words of `status`.

use std::time::Duration;

use redirector_common::signal::{ErrorReply, Signal};

use super::clock::Clock;
use crate::{
    control::status::{
        AddressStatus, BreakerStatus, MemberStatus, OutcomeStatus, ReadinessStatus, ResetsStatus,
        ServiceStatus, Status, SwitchStatus, VERSION, VitalsStatus,
    },
    datapath::{Counts, Vitals},
    decide::{AddressView, BreakerView, MemberView, Switch, View},
    model::{Config, MemberId, Service, ServiceId, SignalKind},
    readiness::Board,
};

/// The whole answer; `views` are in the order of the configuration.
pub(super) fn status(
    config: &Config,
    views: &[View],
    counts: &Counts,
    board: &Board,
    clock: Clock,
) -> Status {
    let services = config.services.iter().zip(views).enumerate().map(|(at, (service, view))| {
        let id = ServiceId(at);
        let members = view.members.iter().enumerate().map(|(number, view)| {
            let member = MemberId(number);
            let status = member_status(service, member, view, id, counts, clock);
            let readiness = (&board.readiness(&service.name, &status.name)).into();
            let vitals = vitals(&counts.vitals(id, member));
            MemberStatus { readiness, vitals, ..status }
        });
        ServiceStatus {
            name: service.name.clone(),
            vips: service.vips.iter().map(ToString::to_string).collect(),
            state: view.state,
            active: view.active.map(|member| name(service, member)),
            epoch: view.epoch.0,
            since: view.since.map(|since| clock.rfc3339(since)),
            pinned: view.pinned.map(|member| name(service, member)),
            paused: view.paused,
            last_switch: view.last.as_ref().map(|switch| switch_status(service, switch, clock)),
            members: members.collect(),
        }
    });
    let outcomes = counts.outcomes.iter().map(|(outcome, count)| {
        (outcome.name().to_owned(), OutcomeStatus { packets: count.packets, bytes: count.bytes })
    });
    let collected = counts.collected.by_reason().map(|(reason, number)| (reason.to_owned(), number));
    Status {
        version: VERSION,
        services: services.collect(),
        outcomes: outcomes.collect(),
        collected: collected.into_iter().collect(),
        resets: ResetsStatus {
            sockets: counts.ways.sockets.is_none(),
            namespaces: counts.ways.namespaces.is_none(),
            requests: counts.ways.requests.is_none(),
            problems: counts.ways.problems(),
        },
    }
}

fn member_status(
    service: &Service,
    id: MemberId,
    view: &MemberView,
    service_id: ServiceId,
    counts: &Counts,
    clock: Clock,
) -> MemberStatus {
    let member = &service.members[id.0];
    MemberStatus {
        name: member.name.clone(),
        endpoint: member.endpoint.to_string(),
        addresses: view.addresses.iter().map(|view| view.address.to_string()).collect(),
        address_states: view.addresses.iter().map(|view| address_status(view, clock)).collect(),
        weight: view.weight,
        state: view.state,
        reason: view.reason.clone(),
        checked_at: view.checked_at.map(|at| clock.rfc3339(at)),
        eligible: view.eligible,
        eligible_reason: view.eligible_reason.clone(),
        flows: counts.flows(service_id, id),
        breaker: view.breaker.map(|view| breaker_status(view, clock)),
        readiness: ReadinessStatus::default(),
        vitals: VitalsStatus::default(),
    }
}

fn breaker_status(view: BreakerView, clock: Clock) -> BreakerStatus {
    BreakerStatus {
        state: view.state.to_owned(),
        since: view.since.map(|since| clock.rfc3339(since)),
        attempts: view.attempts,
        failures: view.failures,
        #[expect(clippy::cast_precision_loss, reason = "nobody meets 2^52 attempts within a window")]
        failure_rate: (view.attempts > 0).then(|| view.failures as f64 * 100.0 / view.attempts as f64),
        in_a_row: view.in_a_row,
    }
}

/// What the traffic of a member shows.
fn vitals(vitals: &Vitals) -> VitalsStatus {
    let ms = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1e3);
    let counts = Signal::ALL.iter().zip(vitals.signals);
    let signals = counts.map(|(signal, count)| (signal.name().to_owned(), count.into()));
    let stalled = (SignalKind::Stalled.name().to_owned(), vitals.stalled.into());
    let errors = ErrorReply::ALL.iter().zip(vitals.errors).filter(|(_, count)| *count > 0);
    VitalsStatus {
        rtt_ms: ms(vitals.round_trip),
        rtt_min_ms: ms(vitals.shortest),
        connect_ms: ms(vitals.connect),
        signals: signals.chain([stalled]).collect(),
        error_replies: errors.map(|(error, count)| (error.name().to_owned(), count.into())).collect(),
    }
}

fn address_status(view: &AddressView, clock: Clock) -> AddressStatus {
    AddressStatus {
        address: view.address.to_string(),
        state: view.state,
        reason: view.reason.clone(),
        checked_at: view.checked_at.map(|at| clock.rfc3339(at)),
        offered: view.offered,
    }
}

fn switch_status(service: &Service, switch: &Switch, clock: Clock) -> SwitchStatus {
    SwitchStatus {
        from: switch.from.map(|member| name(service, member)),
        to: switch.to.map(|member| name(service, member)),
        kind: switch.kind,
        reason: switch.reason.clone(),
        at: clock.rfc3339(switch.at),
    }
}

fn name(service: &Service, member: MemberId) -> String {
    service.members[member.0].name.clone()
}
