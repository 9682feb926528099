//! A member goes down while it is drained: its flows have nothing to wait for, and end before their time.
//!
//! It cannot be taken back, and to the flows of a member that lives it is an outage that nobody needed. When this host is cut off for
//! a moment, all members fail, and which one is heard first afterwards is chance. So an early end waits for more than a failover does,
//! which leaves nobody without a member that answers:
//!
//! | the drained member is down, and | its drain ends when |
//! |---|---|
//! | a failover from it would be doubted ([`suspicion`](super::suspicion)): the agent was late, or whoever is up began to fail with it | that doubt ends |
//! | the active member was not heard since the failures began | it has answered: it is asked when they begin. What it answers may have been put off by a cut, so the next row follows |
//! | all its failures but one came before that answer; or it began to fail with the active member, or while that one failed, and that one was heard again | a probe that began since has failed: it is asked at once, and once more |
//! | it answers again, and is not up yet | it fails again |
//!
//! All of this ends a window after both were known, the one to be down and the other to be up. A member that is drained and dies
//! alone loses its flows in the call that finds it down, if the active one has answered before the last two of the failures that count.

use std::collections::BTreeSet;

use super::{Action, Core, answers::Turn, suspicion::Doubt, time::Time};
use crate::model::{FlowPolicy, MemberId, MemberState};

impl Core {
    /// Ends the flows of members that have gone down since they were left.
    ///
    /// What the operator wants for members that are down decides, [`Service::on_failover`](crate::model::Service::on_failover):
    /// with anything but a reset they wait for the end of the drain, as flows do that a failover has left.
    pub(super) fn end_drains_of_the_dead(&mut self) {
        // Nobody else can have flows that these drains are about.
        let only = self.service.members.len() <= 2;
        for member in self.dead_in_drain() {
            if self.doubt_of_end(member, self.now).is_some() {
                continue;
            }
            if let Some(epoch) = self.drains.end_of(member, only) {
                let reason = self.members[member.0].reason();
                self.actions.push_back(Action::EndDrain { member, epoch, reason });
            }
        }
        // One whose resets were being spread kept those behind it waiting.
        self.end_drains();
    }

    /// Members whose drains would end, and why they do not yet.
    pub(super) fn doubted_drains(&self, now: Time) -> impl Iterator<Item = (MemberId, Doubt)> + '_ {
        let dead = self.dead_in_drain().into_iter();
        dead.filter_map(move |member| Some((member, self.doubt_of_end(member, now)?)))
    }

    /// When the first of them ends, whatever was heard.
    pub(super) fn next_end_of_a_doubted_drain(&self) -> Option<Time> {
        self.doubted_drains(self.now).map(|(_, doubt)| doubt.until).min()
    }

    /// A member began to fail, or is heard again: whoever must say more before a drain may end is asked.
    pub(super) fn ask_for_drains(&mut self, member: MemberId, turn: Turn) {
        let active = self.standing.active();
        match turn {
            Turn::Fails => {
                if let Some(active) = active.filter(|active| *active != member && self.may_end_early(member))
                {
                    self.actions.push_back(Action::Round { member: active });
                }
            }
            // While none is active, whoever is heard first may be the next one.
            Turn::Passes { failed_since } if active.is_none_or(|active| active == member) => {
                self.hear_again(member, failed_since);
            }
            Turn::Passes { .. } => {}
        }
    }

    fn hear_again(&mut self, heard: MemberId, failed_since: Time) {
        let window = self.window();
        // Who began to fail much earlier than the active member had died before.
        let not_before = |at: Time| failed_since.since(at) <= window;
        for other in (0..self.members.len()).map(MemberId).filter(|other| *other != heard) {
            if self.answers[other.0].failures().any(not_before) {
                self.doubt_failures_up_to_now(other);
            }
        }
    }

    /// Members that began to fail since `heard` was heard last, if that is the active one or may be the next.
    pub(super) fn failing_unheard(&self, heard: MemberId) -> Vec<MemberId> {
        if self.standing.active().is_some_and(|active| active != heard) {
            return Vec::new();
        }
        let others = (0..self.members.len()).map(MemberId).filter(|other| *other != heard);
        others.filter(|other| self.is_unheard(heard, *other)).collect()
    }

    /// A cut that ends now may have been all that is known against a member: it must fail again.
    pub(super) fn doubt_failures_up_to_now(&mut self, member: MemberId) {
        self.heard_again[member.0] = Some(self.now);
        if self.is_down(member) && self.may_end_early(member) {
            self.actions.push_back(Action::Round { member });
        }
    }

    /// A member has failed. If that probe may have been under way in a cut, the next one does not wait for its turn.
    pub(super) fn ask_once_more(&mut self, member: MemberId) {
        if self.is_down(member) && self.may_end_early(member) && self.may_have_been_cut(member) {
            self.actions.push_back(Action::Round { member });
        }
    }

    /// Members that are down and whose flows would end for that. A reset is of use only to who finds an active member that is up:
    /// when that one is not, perhaps it is this host that is cut off.
    fn dead_in_drain(&self) -> BTreeSet<MemberId> {
        let Some(active) = self.standing.active().filter(|active| self.is_up(*active)) else {
            return BTreeSet::new();
        };
        let mut members = self.drains.members();
        members.retain(|member| *member != active && self.is_down(*member) && self.may_end_early(*member));
        members
    }

    /// Whether the member is drained, and its flows would end if it were down.
    fn may_end_early(&self, member: MemberId) -> bool {
        self.service.on_failover == FlowPolicy::Reset && self.drains.members().contains(&member)
    }

    fn is_down(&self, member: MemberId) -> bool {
        self.members[member.0].state() == MemberState::Down
    }

    /// Why the drain of a member, which is down, does not end yet; `None`: nothing is in the way.
    fn doubt_of_end(&self, member: MemberId, now: Time) -> Option<Doubt> {
        let active = self.standing.active()?;
        let why = if self.is_unheard(active, member) {
            "the active member was not heard since it began to fail: it must answer first"
        } else if self.may_have_been_cut(member) {
            "the active member is heard again, as when this host was cut off: a probe that began since must fail too"
        } else if self.answers_again(member) {
            "it answers again: it must fail once more"
        } else {
            return self.doubt(member, now);
        };
        let both_known = self.members[member.0].since().max(self.members[active.0].since());
        let doubt = Doubt { why: why.to_owned(), until: both_known + self.window() };
        Some(doubt).filter(|doubt| now < doubt.until).or_else(|| self.doubt(member, now))
    }

    /// Whether the active member has not passed since a check of `member` began to fail.
    fn is_unheard(&self, active: MemberId, member: MemberId) -> bool {
        self.answers[member.0].is_unheard_by(&self.answers[active.0])
    }

    /// Whether all that is known against `member` may be of the time when the active member failed too, or was not heard.
    fn may_have_been_cut(&self, member: MemberId) -> bool {
        let down_since = self.members[member.0].since();
        self.heard_again[member.0]
            .is_some_and(|heard| self.answers[member.0].may_have_been_cut(down_since, heard))
    }

    /// Whether an address that is down has no check that fails: it will be up when they have passed often enough.
    fn answers_again(&self, member: MemberId) -> bool {
        let (health, answers) = (&self.members[member.0], &self.answers[member.0]);
        health
            .addresses()
            .any(|(address, health, _)| health.state() == MemberState::Down && answers.none_fails_at(address))
    }
}
