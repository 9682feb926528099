//! Reloads: what is carried over, and the one switch that they may make.

use super::{Known, Witness};
use crate::{
    decide::{
        Action, Switch, Time, View,
        tests::{
            properties::{Event, Reload, named_check},
            world::{assert_at_rest, check, member as a_member},
        },
    },
    model::{Epoch, MemberId, MemberState, OnAllDown, Service, SwitchKind},
};

impl Witness {
    pub(super) fn reload(&mut self, told: Time, reload: &Reload) {
        let (service, origins) = self.reloaded(reload);
        if service.members.is_empty() {
            return;
        }
        let active = self.before.active;
        let result = self.core.leave_removed(told, &origins, reload.force);
        if result.is_ok() {
            self.now = self.now.max(told);
        }
        let stays = active.is_none_or(|active| origins.contains(&Some(active)));
        assert!(result.is_ok() || !(stays || reload.force), "{result:?}");
        self.record_core();
        let leaves = active.filter(|_| !stays && result.is_ok());
        self.look_at_a_reload(leaves);
        if result.is_err() {
            return;
        }
        let moved = self.before.active.is_none_or(|active| origins.contains(&Some(active)));
        assert!(moved || reload.force, "the active one is gone, and another one was up");
        self.core.set_service(told, service.clone(), &origins);
        self.service = service;
        self.members = origins.iter().map(|from| self.carried(*from, reload)).collect();
        self.renumber_drains(&origins);
        let was_active = self.before.active;
        let active =
            was_active.and_then(|old| origins.iter().position(|from| *from == Some(old)).map(MemberId));
        if active.is_none() && was_active.is_some() {
            self.choosing = Some(self.now);
        }
        self.record_core();
        let view = self.core.view(self.now);
        self.before = View { active, epoch: self.before.epoch, ..view };
        self.kept_dead_since = None;
        self.look_at_a_reload(None);
        for (number, from) in origins.iter().enumerate() {
            if from.is_none() {
                self.call(told, &Event::Addresses { member: number, which: vec![0] });
            }
        }
    }

    /// The service as it will be, and which member each of its members was.
    fn reloaded(&self, reload: &Reload) -> (Service, Vec<Option<MemberId>>) {
        let mut service = self.service.clone();
        let mut origins: Vec<_> = (0..service.members.len())
            .filter(|number| reload.stay[number % reload.stay.len()])
            .map(|number| Some(MemberId(number)))
            .collect();
        if reload.rotate && !origins.is_empty() {
            origins.rotate_left(1);
        }
        let mut members: Vec<_> =
            origins.iter().flatten().map(|from| self.service.members[from.0].clone()).collect();
        if let Some(last) = members.last_mut() {
            last.weight = reload.weight;
        }
        if let Some(weight) = reload.new.filter(|_| members.len() < 4) {
            members.insert(0, a_member(&format!("m{}", self.next_id), weight));
            origins.insert(0, None);
        }
        if reload.checks && service.checks.len() > 1 {
            service.checks.pop();
        } else if reload.checks {
            service.checks.push(named_check(1, check()));
        }
        members.iter_mut().for_each(|member| member.checks.clone_from(&service.checks));
        (Service { members, failback: reload.failback, ..service }, origins)
    }

    fn carried(&mut self, from: Option<MemberId>, reload: &Reload) -> Known {
        let Some(from) = from else {
            // Few enough that every one has addresses of its own.
            self.next_id = (self.next_id + 1) % 20;
            return Known::new((self.next_id + 19) % 20);
        };
        let mut known = self.members[from.0].clone();
        known.round = None;
        known.held_up_since = None;
        if reload.checks {
            // The second check is another one, or gone.
            known.answers.retain(|(_, check, ..)| *check == 0);
            known.stories.retain(|story| story.check == 0);
        }
        known
    }

    /// A reload makes no switch but the one away from a member that is removed.
    fn look_at_a_reload(&mut self, leaves: Option<MemberId>) {
        let after = self.core.view(self.now);
        let mut reset = Vec::new();
        while let Some(action) = self.core.poll_action() {
            match &action {
                Action::Switch(switch) if self.before.active.is_some() => {
                    let from = switch.from.expect("there was one");
                    let may = leaves == Some(from)
                        || after.members[from.0].checks == MemberState::Down
                        || after.members[from.0].state == MemberState::Drained;
                    assert!(may, "no reason for {switch:?}");
                    self.note_switch(switch, &after);
                }
                Action::Switch(switch) => self.note_switch(switch, &after),
                Action::RaiseFloor { epoch } => self.raised(*epoch),
                Action::EndDrain { member, epoch, .. } => self.check_end_of_drain(*member, *epoch, &after),
                Action::Orders(orders) => self.orders = orders.clone(),
                Action::Answer { result } => {
                    assert!(self.waits && (result.is_err() || leaves.is_some()));
                    self.waits = false;
                }
                Action::Round { member } => {
                    self.members[member.0].ask(&after.members[member.0], &self.service);
                }
                Action::ResetAddress { address, .. } => reset.push(*address),
                Action::Look { member } => self.members[member.0].looked_at = Some(self.now),
                _ => {}
            }
            self.actions.push(action);
        }
        assert_eq!(self.core.orders(), self.orders);
        self.note_states(&after);
        // The first step does nothing where no member is left, not even what is due.
        if !self.core.is_due(self.now) {
            for member in (0..self.members.len()).map(MemberId) {
                self.check_left_out(member, &after, &reset);
            }
        }
        assert_at_rest(&self.core);
        self.before = after;
    }

    fn note_switch(&mut self, switch: &Switch, after: &View) {
        assert_eq!(switch.epoch, Epoch(self.before.epoch.0 + 1));
        match switch.to {
            Some(to) => assert_eq!(after.members[to.0].state, MemberState::Up),
            None => assert_eq!(self.service.on_all_down, OnAllDown::Refuse),
        }
        self.choosing = None;
        if switch.kind != SwitchKind::Manual {
            self.last_switch = Some(self.now);
        }
        self.note_drain(switch);
    }
}
