//! Everything that is handed in to a core goes through here, so that it can be recorded; and what its new actions ask of the
//! agent.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Agent, probers::Subject};
use crate::{
    decide::{
        Accepted, Action, Command, Orders, Refused, Time,
        record::{Input, nanos},
    },
    model::{MemberId, ServiceId},
    probe::Report,
};

/// How often the agent looks at the clock while nothing happens, and so sees that it was not scheduled.
pub(super) const TICK: Duration = Duration::from_millis(500);

/// A loop that comes round later than this was late: a probe's time-out may have passed without anybody looking.
const LATE: Duration = Duration::from_millis(300);

/// When the agent's loop came round last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Punctuality {
    last: Time,
}

impl Punctuality {
    pub(super) fn new(now: Time) -> Self {
        Self { last: now }
    }

    /// The loop comes round. By how much it is late, if it is.
    pub(super) fn look(&mut self, now: Time) -> Option<Duration> {
        let late = now.since(self.last).saturating_sub(TICK);
        self.last = now;
        (late >= LATE).then_some(late)
    }
}

impl Agent {
    /// To be called when the loop has woken up, before what woke it is dealt with.
    pub(super) fn look_at_the_clock(&mut self) {
        let now = self.clock.now();
        let Some(late) = self.punctuality.look(now) else { return };
        self.observer.late(late);
        for at in 0..self.cores.len() {
            self.note(now, ServiceId(at), || Input::Late(nanos(late)));
            self.cores.of(ServiceId(at)).on_late(now, late);
        }
    }

    pub(super) fn on_report(&mut self, report: Report) {
        self.look_at_the_clock();
        // A prober that was ended may have said something just before.
        let Some(subject) = self.probers.subject(report.prober) else { return };
        let Subject { service, member, address, check } = subject;
        let report = Report { service, member, address, check, ..report };
        self.observer.takes_up_report(&self.config, &report);
        self.watch_report(&report);
        let outcome = &report.outcome;
        let now = self.clock.now();
        self.note(now, service, || Input::Probe(member, address, check, outcome.into()));
        self.cores.of(service).on_probe(now, member, address, check, outcome);
    }

    pub(super) fn hand_in_addresses(
        &mut self,
        service: ServiceId,
        member: MemberId,
        addresses: &[SocketAddr],
    ) {
        self.look_at_the_clock();
        let now = self.clock.now();
        self.note(now, service, || Input::Addresses(member, addresses.to_vec()));
        self.cores.of(service).on_addresses(now, member, addresses);
    }

    pub(super) fn on_deadline(&mut self) {
        self.look_at_the_clock();
        self.observer.takes_up();
        self.look_at_traffic();
        let now = self.clock.now();
        while let Some(service) = self.cores.take_due(now) {
            self.note(now, service, || Input::Deadline);
            self.cores.of(service).on_deadline(now);
        }
        if let Err(error) = self.datapath.dismiss_leaving() {
            tracing::error!(
                "the flows of members that were removed are not reset: {error:#}; trying again every second"
            );
        }
    }

    /// When the next deadline of any core is, or of a member that leaves, or the watch wants to
    /// look, but no later than the next look at the clock.
    pub(super) fn next_wake_up(&self) -> Duration {
        let core = self.cores.next_deadline().map(|deadline| deadline.since(self.clock.now()));
        let until = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(Instant::now()));
        let (leaving, look) = (until(self.datapath.next_dismissal()), until(self.watch.next()));
        // Sleeps are measured by a clock that stops in suspend, deadlines are not: another reason to look now and then.
        // Counted from the last look: whatever else wakes the loop looks at no clock.
        let tick = TICK.saturating_sub(self.clock.now().since(self.punctuality.last));
        core.into_iter().chain(leaving).chain(look).fold(tick, Duration::min)
    }

    /// An operator wants something of a service. The actions that follow are carried out when the loop comes round.
    ///
    /// # Errors
    ///
    /// It is refused, and nothing has changed.
    pub(super) fn on_command(&mut self, service: ServiceId, command: &Command) -> Result<Accepted, Refused> {
        self.look_at_the_clock();
        self.observer.takes_up();
        let now = self.clock.now();
        self.note(now, service, || Input::Operator(command.clone()));
        self.cores.of(service).on_operator(now, command)
    }

    /// A reload has changed what services there are, or one of them ([`crate::decide::Core::set_service`]): a recording
    /// begins anew.
    pub(super) fn cores_are_others(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.begin_anew();
        }
    }

    /// What an action asks for that has to do with orders and rounds.
    pub(super) fn act_on_orders(&mut self, id: ServiceId, action: Action) {
        match action {
            Action::Round { member } => self.probers.ask(id, member),
            Action::Orders(orders) => self.keep(id, orders),
            Action::Answer { result } => self.on_answer(id, result),
            _ => {}
        }
    }

    fn keep(&mut self, id: ServiceId, orders: Orders) {
        self.orders.keep(&self.config.services[id.0], orders, self.clock);
    }

    /// Records what is about to be handed in. `input` is only made when somebody records.
    pub(super) fn note(&mut self, now: Time, service: ServiceId, input: impl FnOnce() -> Input) {
        let Self { recorder: Some(recorder), config, cores, .. } = self else { return };
        recorder.note(now, service.0, input(), &config.services, cores);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_comes_round_in_time_is_not_late() {
        let at = |ms| Time(Duration::from_millis(ms));
        let mut punctuality = Punctuality::new(at(0));
        assert_eq!(punctuality.look(at(10)), None);
        assert_eq!(punctuality.look(at(520)), None, "woken by the tick");
        assert_eq!(punctuality.look(at(520 + 799)), None, "a little late");
        assert_eq!(punctuality.look(at(1319 + 3500)), Some(Duration::from_secs(3)));
        assert_eq!(punctuality.look(at(4820)), None);
    }
}
