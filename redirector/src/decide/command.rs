//! Carrying out what an operator wants: first whether it may be, then what it changes.
//!
//! A command is refused before it changes anything, or it stands. What follows from it (a switch, a round) follows by the
//! rules of [`super::choice`], which know the orders.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Accepted, Action, Command, Core, Refused, Time,
    choice::Standing,
    orders::{Drained, Pinned, Weight},
};
use crate::model::{MemberId, MemberState};

/// A switch that an operator asked for and that is not made yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manual {
    pub(super) to: MemberId,
    pub(super) hold: Option<Duration>,
    pub(super) reason: String,
    /// It waits for nothing.
    pub(super) force: bool,
}

impl Core {
    /// An operator wants something.
    ///
    /// # Errors
    ///
    /// It is refused, and nothing has changed but the time.
    pub fn on_operator(&mut self, now: Time, command: &Command) -> Result<Accepted, Refused> {
        self.now = self.now.max(now);
        // What is due by now comes before what is asked now: a switch is permitted by how its member is, not by how it was.
        self.settle();
        self.permit(command)?;
        let reported = self.obey(command);
        self.settle();
        if let Some(member) = reported {
            self.tell_member(member);
        }
        let waits = matches!(command, Command::Switch { .. }) && self.manual.is_some();
        Ok(if waits { Accepted::Waits } else { Accepted::Done })
    }

    /// What [`Self::on_operator`] would say, without doing it.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn try_operator(&self, now: Time, command: &Command) -> Result<Accepted, Refused> {
        self.clone().on_operator(now, command)
    }

    fn permit(&self, command: &Command) -> Result<(), Refused> {
        match *command {
            Command::Switch { to, hold, force, .. } => self.permit_switch(to, hold, force),
            Command::Drain { member, force } => self.permit_drain(member, force),
            Command::Undrain { member } => self.known(member),
            Command::Weight { member, weight } => {
                self.known(member)?;
                if weight > 0 {
                    return Ok(());
                }
                Err(Refused::new("a weight is at least 1", "drain the member to take it out of the choice"))
            }
            Command::Release | Command::Pause | Command::Resume => Ok(()),
        }
    }

    fn known(&self, member: MemberId) -> Result<(), Refused> {
        if member.0 < self.members.len() {
            return Ok(());
        }
        let names: Vec<_> = self.service.members.iter().map(|member| member.name.as_str()).collect();
        Err(Refused::new("the service has no such member", format!("name one of {}", names.join(", "))))
    }

    fn permit_switch(&self, to: MemberId, hold: Option<Duration>, force: bool) -> Result<(), Refused> {
        self.known(to)?;
        let name = &self.service.members[to.0].name;
        if self.manual.is_some() {
            let next = "wait for its end, or release to call it off";
            return Err(Refused::new("another switch waits for its round of checks", next));
        }
        if self.orders.is_drained(to) {
            return Err(Refused::new(format!("member {name:?} is drained"), "undrain it first"));
        }
        if force {
            let is_left_at_once =
                hold == Some(Duration::ZERO) && self.members[to.0].state() == MemberState::Down;
            return if is_left_at_once {
                let reason = format!("member {name:?} is down, and would be left at once without a pin");
                Err(Refused::new(reason, "pin it for some time"))
            } else {
                Ok(())
            };
        }
        let member = &self.members[to.0];
        let next = "switch to another member, or use --force";
        match member.state() {
            MemberState::Up => {}
            MemberState::Unknown | MemberState::Drained => {
                let reason = format!("member {name:?} has no verdict yet ({})", member.reason());
                return Err(Refused::new(reason, next));
            }
            MemberState::Down => {
                let why = member.down_because().unwrap_or_default();
                return Err(Refused::new(format!("member {name:?} is down: {why}"), next));
            }
        }
        match member.gate() {
            // It is not gone to, it stays.
            _ if self.standing.active() == Some(to) => Ok(()),
            Some(why) => Err(Refused::new(format!("member {name:?} is up, but its gate fails: {why}"), next)),
            None => Ok(()),
        }
    }

    fn permit_drain(&self, member: MemberId, force: bool) -> Result<(), Refused> {
        self.known(member)?;
        if force || self.orders.is_drained(member) {
            return Ok(());
        }
        let name = &self.service.members[member.0].name;
        let is_active = self.standing.active() == Some(member);
        let is_up = self.members[member.0].state() == MemberState::Up;
        let others_up: Vec<_> =
            self.candidates().filter(|other| *other != member && self.is_up(*other)).collect();
        if !(is_active || is_up) {
            return Ok(());
        }
        if others_up.is_empty() {
            let reason = format!("no other member than {name:?} is up");
            return Err(Refused::new(
                reason,
                "wait for another one, or use --force: it is left when one comes up",
            ));
        }
        let open = |other: &MemberId| self.members[other.0].gate().is_none();
        if is_active && !others_up.iter().any(open) {
            let reason = format!("the gate of every member that could take over from {name:?} fails");
            return Err(Refused::new(reason, "wait until one is open, or use --force"));
        }
        Ok(())
    }

    /// Changes what stands. Returns the member whose state is another one now.
    fn obey(&mut self, command: &Command) -> Option<MemberId> {
        match *command {
            Command::Switch { to, hold, ref reason, force } => {
                let manual = Manual { to, hold, reason: reason.clone(), force };
                if self.standing == Standing::Active(to) {
                    self.pin(&manual);
                } else {
                    self.manual = Some(manual);
                }
            }
            Command::Release => {
                self.orders.pin = None;
                self.call_off("it was released before its round of checks had ended");
            }
            Command::Drain { member, force } => {
                let drained = self.orders.drained[member.0].replace(Drained { force });
                self.orders.pin.take_if(|pin| pin.member == member);
                return drained.is_none().then_some(member);
            }
            Command::Undrain { member } => {
                return self.orders.drained[member.0].take().map(|_| member);
            }
            Command::Pause => self.orders.paused = true,
            Command::Resume => self.orders.paused = false,
            Command::Weight { member, weight } => self.set_weight(member, weight),
        }
        None
    }

    fn set_weight(&mut self, member: MemberId, weight: u32) {
        let configured = self.configured_weight(member);
        self.orders.weights[member.0] = (weight != configured).then_some(Weight { now: weight, configured });
        self.service.members[member.0].weight = weight;
    }

    /// What the configuration says, whatever an operator said since.
    pub(super) fn configured_weight(&self, member: MemberId) -> u32 {
        let ordered = self.orders.weights[member.0].map(|weight| weight.configured);
        ordered.unwrap_or(self.service.members[member.0].weight)
    }

    /// The manual switch is made: its member stays.
    pub(super) fn pin(&mut self, manual: &Manual) {
        let Manual { to, hold, ref reason, .. } = *manual;
        self.orders.pin = Some(Pinned {
            member: to,
            until: hold.map(|hold| self.now + hold),
            against_checks: self.members[to.0].state() != MemberState::Up,
            reason: reason.clone(),
        });
        // One that takes no time is none.
        self.expire_orders();
    }

    /// Ends a switch that waits for its round.
    pub(super) fn call_off(&mut self, why: &str) {
        if let Some(manual) = self.manual.take() {
            let name = &self.service.members[manual.to.0].name;
            let reason = format!("no switch to member {name:?}: {why}");
            let next = "look at `redirector explain`, and ask again or use --force";
            self.actions.push_back(Action::Answer { result: Err(Refused::new(reason, next)) });
        }
    }

    /// What a switch waits for may have become impossible meanwhile.
    pub(super) fn look_after_manual(&mut self) {
        let Some(manual) = self.manual.as_ref().filter(|manual| !manual.force) else { return };
        let member = &self.members[manual.to.0];
        let why = if self.orders.is_drained(manual.to) {
            Some("it was drained meanwhile".to_owned())
        } else if let Some(why) = member.down_because() {
            Some(format!("it went down meanwhile: {why}"))
        } else if member.state() != MemberState::Up {
            Some("its checks have no verdict any more".to_owned())
        } else {
            member.gate().map(|why| format!("its gate fails now: {why}"))
        };
        if let Some(why) = why {
            self.call_off(&why);
        }
    }

    /// Members that may be chosen.
    pub(super) fn candidates(&self) -> impl Iterator<Item = MemberId> + '_ {
        (0..self.members.len()).map(MemberId).filter(|member| !self.orders.is_drained(*member))
    }

    pub(super) fn is_up(&self, member: MemberId) -> bool {
        self.members[member.0].state() == MemberState::Up
    }
}
