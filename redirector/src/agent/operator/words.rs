//! What a change did, or would do, in words.

use crate::{
    agent::clock::Clock,
    control::{
        operator::{Answer, Asked, Left, Order},
        status::VERSION,
    },
    decide::{Accepted, Core, Pin, Time},
    model::{FlowPolicy, MemberId, Service},
};

/// What a change may change, at one moment. By name: a reload may come before the answer.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    active: Option<String>,
    epoch: u32,
    pub(super) pin: Option<Pin>,
    paused: bool,
    /// Name, whether it is taken out, and weight.
    members: Vec<(String, bool, u32)>,
}

impl Picture {
    pub(super) fn of(service: &Service, core: &Core, now: Time) -> Self {
        let (view, orders) = (core.view(now), core.orders());
        let members = service.members.iter().zip(&view.members).map(|(member, view)| {
            (member.name.clone(), orders.drained.contains_key(&member.name), view.weight)
        });
        Self {
            active: view.active.map(|member| name(service, member)),
            epoch: view.epoch.0,
            members: members.collect(),
            pin: orders.pin,
            paused: orders.paused,
        }
    }

    fn is_drained(&self, name: &str) -> bool {
        self.members.iter().any(|(member, drained, _)| member == name && *drained)
    }

    fn weight(&self, name: &str) -> u32 {
        let member = self.members.iter().find(|(member, ..)| member == name);
        member.map_or(0, |(.., weight)| *weight)
    }
}

/// A service after a change, or after a trial of it.
pub(super) struct Told<'a> {
    pub(super) service: &'a Service,
    pub(super) core: &'a Core,
    pub(super) clock: Clock,
}

impl Told<'_> {
    pub(super) fn answer(&self, asked: &Asked, before: &Picture, accepted: Accepted) -> Answer {
        let after = Picture::of(self.service, self.core, self.clock.now());
        let message = match &asked.order {
            Order::Switch { member, .. } => self.switched(member, before, &after, accepted),
            order => format!("{}; {}", said(order, before), active(order, before, &after)),
        };
        Answer {
            version: VERSION,
            service: self.service.name.clone(),
            verb: asked.order.verb(),
            member: asked.order.member().map(str::to_owned),
            dry_run: asked.dry_run,
            message,
            left: self.left(before, &after),
            active: after.active,
            epoch: after.epoch,
            pinned: after.pin.map(|pin| pin.member),
            paused: after.paused,
        }
    }

    /// The member that was left since, by the newest switch.
    fn left(&self, before: &Picture, after: &Picture) -> Option<Left> {
        let switch = self.core.view(self.clock.now()).last.filter(|_| after.epoch != before.epoch)?;
        let lasts = match switch.policy {
            FlowPolicy::Drain => Some(self.service.drain_timeout),
            FlowPolicy::Reset if !switch.over.is_zero() => Some(switch.over),
            FlowPolicy::Reset | FlowPolicy::Keep => None,
        };
        let until = lasts.map(|lasts| self.clock.rfc3339_ahead(switch.at + lasts));
        Some(Left { member: name(self.service, switch.from?), flows: switch.policy, until })
    }

    fn switched(&self, member: &str, before: &Picture, after: &Picture, accepted: Accepted) -> String {
        let instead = before.active.as_deref().filter(|active| *active != member);
        let instead = instead.map(|active| format!(" instead of {active:?}")).unwrap_or_default();
        if accepted == Accepted::Waits {
            return format!("its checks are asked; when all have passed, {member:?} becomes active{instead}");
        }
        let is = if before.epoch == after.epoch { "was active already" } else { "is active now" };
        let pinned = match &after.pin {
            Some(Pin { until: Some(until), .. }) => {
                format!("pinned until {}", self.clock.rfc3339_ahead(*until))
            }
            Some(_) => "pinned until it is released".to_owned(),
            None => "not pinned any more".to_owned(),
        };
        format!("{member:?} {is}{instead}, {pinned}")
    }
}

/// What was done, but for a switch.
fn said(order: &Order, before: &Picture) -> String {
    match order {
        Order::Release => match &before.pin {
            Some(pin) => format!("the pin of {:?} is ended", pin.member),
            None => "no member was pinned".to_owned(),
        },
        Order::Drain { member, .. } if before.is_drained(member) => {
            format!("{member:?} was taken out already")
        }
        Order::Drain { member, .. } => format!("{member:?} is taken out"),
        Order::Undrain { member } if before.is_drained(member) => format!("{member:?} is taken back"),
        Order::Undrain { member } => format!("{member:?} was not taken out"),
        Order::Pause if before.paused => "automatic switching was stopped already".to_owned(),
        Order::Pause => "automatic switching is stopped, failover too".to_owned(),
        Order::Resume if before.paused => "automatic switching goes on".to_owned(),
        Order::Resume => "automatic switching was not stopped".to_owned(),
        Order::Weight { member, weight } => {
            format!("{member:?} has weight {weight} instead of {}", before.weight(member))
        }
        Order::Switch { member, .. } => format!("switch to {member:?}"),
    }
}

/// Who is active after it.
fn active(order: &Order, before: &Picture, after: &Picture) -> String {
    match (&before.active, &after.active) {
        (Some(old), Some(new)) if before.epoch != after.epoch => {
            format!("{new:?} is active now instead of {old:?}")
        }
        (_, Some(new)) if before.epoch != after.epoch => format!("{new:?} is active now"),
        (_, Some(new)) if matches!(order, Order::Drain { member, .. } if member == new) => {
            format!("{new:?} is active until the checks of another member have passed")
        }
        (_, Some(new)) => format!("{new:?} is active as before"),
        (_, None) => "no member is active".to_owned(),
    }
}

fn name(service: &Service, member: MemberId) -> String {
    service.members[member.0].name.clone()
}
