//! What the core knows, for `status`.

use std::net::SocketAddr;

use super::{CheckState, Core, Switch, Time, breaker::Counts, member::Member};
use crate::model::{Breaker as Settings, Epoch, MemberId, MemberState, ServiceState};

/// A service at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// How it is.
    pub state: ServiceState,
    /// Where new connections go; `None`: they are refused.
    pub active: Option<MemberId>,
    /// Grows by one with each switch.
    pub epoch: Epoch,
    /// When the newest switch was made; `None`: there was none, or the agent that made it left no record.
    pub since: Option<Time>,
    /// The newest switch.
    pub last: Option<Switch>,
    /// The member that an operator has pinned.
    pub pinned: Option<MemberId>,
    /// Whether an operator stopped automatic switches.
    pub paused: bool,
    /// Why this host suspects itself, in words.
    pub suspicion: Option<String>,
    /// In the order of the configuration.
    pub members: Vec<MemberView>,
}

/// A member at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// What its checks say, or that it was taken out by an operator.
    pub state: MemberState,
    /// Why, in words: `ping ok in 0.3 ms`, `ping: connection refused (1 of 3)`.
    pub reason: String,
    /// What its checks say, also of one that was taken out.
    pub checks: MemberState,
    /// Its weight now.
    pub weight: u32,
    /// When the newest probe ended.
    pub checked_at: Option<Time>,
    /// Whether it could become active now, or is active and up.
    pub eligible: bool,
    /// Why not.
    pub eligible_reason: Option<String>,
    /// Its breaker; `None`: the service has none.
    pub breaker: Option<BreakerView>,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<AddressView>,
}

/// The breaker of a member at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerView {
    /// `closed`, `open` or `half_open`.
    pub state: &'static str,
    /// Since when it is not closed.
    pub since: Option<Time>,
    /// Attempts of clients within its window.
    pub attempts: u64,
    /// How many of them failed.
    pub failures: u64,
    /// Failures in a row, at least.
    pub in_a_row: u32,
}

/// An address of a member at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressView {
    /// The address.
    pub address: SocketAddr,
    /// What its checks say.
    pub state: MemberState,
    /// Why, in words.
    pub reason: String,
    /// When the newest probe ended.
    pub checked_at: Option<Time>,
    /// Whether new flows may go there.
    pub offered: bool,
    /// What each check says of it, in the order of the configuration.
    pub checks: Vec<CheckState>,
}

impl Core {
    /// What the core knows at `now`.
    #[must_use]
    pub fn view(&self, now: Time) -> View {
        View {
            state: self.state(),
            active: self.standing.active(),
            epoch: self.epoch,
            since: self.last.as_ref().map(|switch| switch.at),
            last: self.last.clone(),
            pinned: self.orders.pin.as_ref().map(|pin| pin.member),
            paused: self.orders.paused,
            suspicion: self.suspicion_in_words(now.max(self.now)),
            members: self.member_views(now.max(self.now)),
        }
    }

    pub(super) fn state(&self) -> ServiceState {
        let Some(active) = self.standing.active() else {
            return ServiceState::Held;
        };
        // Were another one up, the active one would have been left.
        if self.members[active.0].state() == MemberState::Down {
            return ServiceState::Down;
        }
        let weight = self.service.members[active.0].weight;
        if self.service.members.iter().all(|member| member.weight <= weight) {
            ServiceState::Ok
        } else {
            ServiceState::Degraded
        }
    }

    fn member_views(&self, now: Time) -> Vec<MemberView> {
        let situation = self.situation(now);
        let view = |(index, member): (usize, &Member)| {
            let eligible_reason = situation.obstacle(MemberId(index));
            let (state, reason) = self.shown(MemberId(index));
            MemberView {
                state,
                reason,
                checks: member.state(),
                weight: self.service.members[index].weight,
                checked_at: member.checked_at(),
                eligible: eligible_reason.is_none(),
                eligible_reason,
                breaker: self.service.breaker.as_ref().map(|settings| breaker_view(member, settings, now)),
                addresses: address_views(member),
            }
        };
        self.members.iter().enumerate().map(view).collect()
    }
}

fn breaker_view(member: &Member, settings: &Settings, now: Time) -> BreakerView {
    let breaker = member.breaker();
    let Counts { attempts, failures, row } = breaker.counts(now, settings);
    let (state, since) = (breaker.state().name(), breaker.since());
    BreakerView { state, since, attempts, failures, in_a_row: row }
}

fn address_views(member: &Member) -> Vec<AddressView> {
    let view = |(address, health, offered): (SocketAddr, &super::health::Health, bool)| AddressView {
        address,
        state: health.state(),
        reason: health.reason(),
        checked_at: health.checked_at(),
        offered,
        checks: health.checks().iter().map(super::health::CheckHealth::state).collect(),
    };
    member.addresses().map(view).collect()
}
