//! What operators ask for: carried out by the cores, answered, and put on record.
//!
//! A switch may wait until the checks of its member have been asked once more. Its reply is held until then; whoever asked
//! may be gone by that time, and the switch is made all the same. Nothing here waits.

mod words;

use std::collections::HashMap;

use tokio::sync::oneshot;

use self::words::{Picture, Told};
use super::{Agent, clock::Clock};
use crate::{
    control::{
        ErrorText,
        access::Who,
        explain::{Explained, MemberReadiness},
        operator::{Answer, Asked, Operation, OperationResult, Order, Refused, RefusedKind},
        status::VERSION,
    },
    decide::{Accepted, Command, Pin, Refused as CoreRefused, Time},
    model::{MemberId, Service, ServiceId},
    telemetry::Event,
};

/// Where an answer goes.
type Reply = oneshot::Sender<Result<Answer, Refused>>;

/// Switches that wait for their round of checks, by the name of the service: it has one at the most.
#[derive(Debug, Default)]
pub(super) struct Operators {
    waiting: HashMap<String, Waiting>,
}

/// A switch that waits for its round of checks.
#[derive(Debug)]
struct Waiting {
    asked: Asked,
    who: Who,
    since: Time,
    before: Picture,
    reply: Reply,
}

/// How far a change came.
enum Progress {
    Done(Answer),
    Waits(Picture),
}

impl Agent {
    /// Somebody who may asks for a change.
    pub(super) fn on_operate(&mut self, service: String, asked: Asked, who: Who, reply: Reply) {
        match self.operate(&service, &asked, &who) {
            Ok(Progress::Done(answer)) => self.settle(Ok(answer), service, asked, who, reply),
            Ok(Progress::Waits(before)) => {
                let since = self.clock.now();
                self.operators.waiting.insert(service, Waiting { asked, who, since, before, reply });
            }
            Err(refused) => self.settle(Err(refused), service, asked, who, reply),
        }
    }

    fn operate(&mut self, name: &str, asked: &Asked, who: &Who) -> Result<Progress, Refused> {
        let id = self.find_service(name)?;
        let command = command(&self.config.services[id.0], asked, who)?;
        let (now, clock) = (self.clock.now(), self.clock);
        let before = Picture::of(&self.config.services[id.0], &self.cores[id.0], now);
        if let Order::Switch { member, force, .. } = &asked.order {
            not_waiting(self.operators.waiting.get(name), now)?;
            not_pinned(before.pin.as_ref().filter(|pin| !force && pin.member != *member), clock)?;
        }
        if asked.dry_run {
            let mut trial = self.cores[id.0].clone();
            let accepted = trial.on_operator(now, &command).map_err(conflict)?;
            let told = Told { service: &self.config.services[id.0], core: &trial, clock };
            return Ok(Progress::Done(told.answer(asked, &before, accepted)));
        }
        match self.on_command(id, &command).map_err(conflict)? {
            Accepted::Waits => Ok(Progress::Waits(before)),
            Accepted::Done => {
                // Traffic has moved when the answer says so.
                self.carry_out();
                Ok(Progress::Done(self.told(id).answer(asked, &before, Accepted::Done)))
            }
        }
    }

    /// The core says what became of a switch that waited.
    pub(super) fn on_answer(&mut self, id: ServiceId, result: Result<(), CoreRefused>) {
        let name = self.config.services[id.0].name.clone();
        // A switch that was made at once is answered already.
        let Some(waiting) = self.operators.waiting.remove(&name) else { return };
        let Waiting { asked, who, before, reply, .. } = waiting;
        let result = match result {
            Ok(()) => Ok(self.told(id).answer(&asked, &before, Accepted::Done)),
            Err(refused) => Err(conflict(refused)),
        };
        self.settle(result, name, asked, who, reply);
    }

    /// Switches that wait in services that are gone are refused.
    pub(super) fn services_are_others(&mut self) {
        let gone = |name: &String| self.config.services.iter().all(|service| service.name != *name);
        let names: Vec<_> = self.operators.waiting.keys().filter(|name| gone(name)).cloned().collect();
        for name in names {
            let Some(Waiting { asked, who, reply, .. }) = self.operators.waiting.remove(&name) else {
                continue;
            };
            let refused = Refused {
                kind: RefusedKind::Unknown,
                message: format!("the service {name:?} was removed from the configuration"),
                next: "look at `redirector status`".to_owned(),
            };
            self.settle(Err(refused), name, asked, who, reply);
        }
    }

    /// Answers, and puts it on record.
    fn settle(&self, result: Result<Answer, Refused>, service: String, asked: Asked, who: Who, reply: Reply) {
        let (verb, member) = (asked.order.verb(), asked.order.member().map(str::to_owned));
        let (outcome, message) = match &result {
            Ok(answer) => (OperationResult::Done, answer.message.clone()),
            Err(refused) => (OperationResult::Refused, refused.message.clone()),
        };
        let Asked { reason, dry_run, .. } = asked;
        let service = Some(service);
        self.put_on_record(Operation {
            verb,
            service,
            member,
            dry_run,
            who,
            reason,
            result: outcome,
            message,
        });
        // Whoever asked may be gone.
        let _gone = reply.send(result);
    }

    /// Every request for a change passes here, also one that was denied.
    pub(super) fn put_on_record(&self, operation: Operation) {
        let Operation { verb, service, member, dry_run, who, reason, result, message } = operation;
        let (verb, result) = (verb.to_string(), result.to_string());
        self.observer.events.emit(Event::Operator {
            verb,
            service,
            member,
            dry_run,
            who,
            reason,
            result,
            message,
        });
    }

    /// Why a service is as it is.
    pub(super) fn explain(&self, name: &str) -> Result<Explained, ErrorText> {
        let id =
            self.find_service(name).map_err(|Refused { message, next, .. }| ErrorText { message, next })?;
        let now = self.clock.now();
        let service = &self.config.services[id.0];
        let readiness = service.members.iter().map(|member| MemberReadiness {
            member: member.name.clone(),
            readiness: (&self.lookouts.board().readiness(&service.name, &member.name)).into(),
        });
        Ok(Explained {
            version: VERSION,
            at: self.clock.rfc3339(now),
            explanation: self.cores[id.0].explain(now),
            readiness: readiness.collect(),
        })
    }

    /// The service of this name.
    fn find_service(&self, name: &str) -> Result<ServiceId, Refused> {
        let services = &self.config.services;
        let found = services.iter().position(|service| service.name == name).map(ServiceId);
        found.ok_or_else(|| unknown("service", name, services.iter().map(|service| service.name.as_str())))
    }

    fn told(&self, id: ServiceId) -> Told<'_> {
        Told { service: &self.config.services[id.0], core: &self.cores[id.0], clock: self.clock }
    }
}

/// The core's command. The reason says who gave it: it is shown to whoever comes next, also after a restart.
fn command(service: &Service, asked: &Asked, who: &Who) -> Result<Command, Refused> {
    let find = |name: &str| {
        let members = || service.members.iter().map(|member| member.name.as_str());
        let found = members().position(|known| known == name).map(MemberId);
        found.ok_or_else(|| unknown("member", name, members()))
    };
    Ok(match &asked.order {
        Order::Switch { member, hold, force } => Command::Switch {
            to: find(member)?,
            hold: *hold,
            reason: match &asked.reason {
                Some(reason) => format!("{who}: {reason}"),
                None => who.to_string(),
            },
            force: *force,
        },
        Order::Release => Command::Release,
        Order::Drain { member, force } => Command::Drain { member: find(member)?, force: *force },
        Order::Undrain { member } => Command::Undrain { member: find(member)? },
        Order::Pause => Command::Pause,
        Order::Resume => Command::Resume,
        Order::Weight { member, weight } => Command::Weight { member: find(member)?, weight: *weight },
    })
}

fn unknown<'a>(kind: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Refused {
    let known: Vec<_> = known.map(|name| format!("{name:?}")).collect();
    Refused {
        kind: RefusedKind::Unknown,
        message: format!("there is no {kind} {name:?}; there is {}", known.join(", ")),
        next: "check the name".to_owned(),
    }
}

fn conflict(refused: CoreRefused) -> Refused {
    Refused { kind: RefusedKind::Conflict, message: refused.reason, next: refused.next }
}

/// One operator's switch is not overtaken by another's.
fn not_waiting(waiting: Option<&Waiting>, now: Time) -> Result<(), Refused> {
    let Some(Waiting { asked, who, since, .. }) = waiting else { return Ok(()) };
    let member = asked.order.member().unwrap_or_default();
    let age = now.since(*since).as_millis();
    Err(Refused {
        kind: RefusedKind::Conflict,
        message: format!(
            "{who} asked for a switch to {member:?} {age} ms ago, and its checks have not all answered"
        ),
        next: "wait for its end, or `release` to call it off".to_owned(),
    })
}

/// One operator's pin is not taken away by another's switch unawares.
fn not_pinned(pin: Option<&Pin>, clock: Clock) -> Result<(), Refused> {
    let Some(Pin { member, until, reason, .. }) = pin else { return Ok(()) };
    let until = match until {
        Some(at) => format!("until {}", clock.rfc3339_ahead(*at)),
        None => "until it is released".to_owned(),
    };
    Err(Refused {
        kind: RefusedKind::Conflict,
        message: format!("{member:?} is pinned {until} by {reason}"),
        next: "ask them; then `release` it first, or repeat with --force (\"force\": true)".to_owned(),
    })
}
