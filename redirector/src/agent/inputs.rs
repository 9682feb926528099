//! Everything that is handed in to a core goes through here, so that it can be recorded; and what its new actions ask of the
//! agent.

use std::{net::SocketAddr, time::Duration};

use super::Agent;
use crate::{
    decide::{
        Accepted, Action, Command, Core, Orders, Refused, Time,
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
        tracing::warn!(
            late_ms = late.as_millis(),
            "the agent was not scheduled for a while, or the machine slept: a member that went down since is left only \
             when another probe has failed too"
        );
        for at in 0..self.cores.len() {
            self.note(now, ServiceId(at), || Input::Late(nanos(late)));
            self.cores[at].on_late(now, late);
            self.set_timer(ServiceId(at));
        }
    }

    pub(super) fn on_report(&mut self, report: &Report) {
        self.look_at_the_clock();
        let Report { service, member, address, check, outcome, .. } = report;
        let now = self.clock.now();
        self.note(now, *service, || Input::Probe(*member, *address, *check, outcome.into()));
        self.cores[service.0].on_probe(now, *member, *address, *check, outcome);
        self.set_timer(*service);
    }

    pub(super) fn hand_in_addresses(
        &mut self,
        service: ServiceId,
        member: MemberId,
        addresses: &[SocketAddr],
    ) {
        let now = self.clock.now();
        self.note(now, service, || Input::Addresses(member, addresses.to_vec()));
        self.cores[service.0].on_addresses(now, member, addresses);
        self.set_timer(service);
    }

    pub(super) fn on_deadline(&mut self) {
        self.look_at_the_clock();
        let now = self.clock.now();
        for at in 0..self.cores.len() {
            if self.timers[at].is_some_and(|deadline| deadline <= now) {
                self.note(now, ServiceId(at), || Input::Deadline);
                self.cores[at].on_deadline(now);
                self.set_timer(ServiceId(at));
            }
        }
    }

    /// When the next deadline of any core is, but no later than the next look at the clock.
    pub(super) fn next_wake_up(&self) -> Duration {
        let deadline = self.timers.iter().flatten().min();
        // Sleeps are measured by a clock that stops in suspend, deadlines are not: another reason to look now and then.
        deadline.map_or(TICK, |deadline| deadline.since(self.clock.now()).min(TICK))
    }

    /// Something was handed in to a core. With hundreds of them, each is asked for its deadline only then.
    pub(super) fn set_timer(&mut self, service: ServiceId) {
        self.timers[service.0] = self.cores[service.0].next_deadline();
    }

    /// An operator wants something of a service. The actions that follow are carried out when the loop comes round.
    ///
    /// # Errors
    ///
    /// It is refused, and nothing has changed.
    pub(super) fn on_command(&mut self, service: ServiceId, command: &Command) -> Result<Accepted, Refused> {
        let now = self.clock.now();
        self.note(now, service, || Input::Operator(command.clone()));
        let answer = self.cores[service.0].on_operator(now, command);
        self.set_timer(service);
        answer
    }

    /// A reload has changed what services there are, or one of them ([`Core::set_service`]): timers are set, and a recording
    /// begins anew.
    pub(super) fn cores_are_others(&mut self) {
        self.timers = self.cores.iter().map(Core::next_deadline).collect();
        if let Some(recorder) = &mut self.recorder {
            recorder.begin_anew();
        }
    }

    /// What an action asks for that has to do with orders and rounds.
    pub(super) fn act_on_orders(&mut self, id: ServiceId, action: Action) {
        match action {
            Action::Round { member } => self.probers.ask(id, member),
            Action::Orders(orders) => self.keep(id, orders),
            Action::Answer { result } => {
                let service = &self.config.services[id.0].name;
                match result {
                    Ok(()) => tracing::info!(service, "the switch that an operator asked for is made"),
                    Err(refused) => tracing::warn!(service, "{refused}"),
                }
            }
            _ => {}
        }
    }

    fn keep(&mut self, id: ServiceId, orders: Orders) {
        self.orders.keep(&self.config.services[id.0], orders, self.clock);
    }

    /// Records what is about to be handed in. `input` is only made when somebody records.
    fn note(&mut self, now: Time, service: ServiceId, input: impl FnOnce() -> Input) {
        let Self { recorder: Some(recorder), config, cores, .. } = self else { return };
        let cores: &[Core] = cores;
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
