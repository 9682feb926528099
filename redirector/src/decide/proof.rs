//! What the core remembers of answers beyond their count, and the round that proves a candidate.

use std::{net::SocketAddr, time::Duration};

use super::{
    Action, Core,
    answers::{self, Turn},
    choice::Choice,
    round::{Progress, Round},
};
use crate::model::{CheckId, MemberId, MemberState, ProbeOutcome, Verdict};

/// A candidate that failed its round is not asked again at once.
pub(super) const PAUSE_AFTER_ROUND: Duration = Duration::from_secs(1);

impl Core {
    /// Remembers when an answer came.
    pub(super) fn note(
        &mut self,
        member: MemberId,
        address: SocketAddr,
        check: CheckId,
        outcome: &ProbeOutcome,
    ) {
        let checks = &self.service.members[member.0].checks;
        let verdict = outcome.verdict();
        let passes = verdict == Verdict::Pass && checks[check.0].effect.decides();
        // As it was before: this pass is the one that they wait for.
        let unheard = if passes { self.failing_unheard(member) } else { Vec::new() };
        let others = if passes { self.others_that_hear(member, address) } else { Vec::new() };
        let turn = self.answers[member.0].note(self.now, checks, address, check, verdict);
        if let Some(round) = self.round.as_mut().filter(|round| round.member == member) {
            round.hear(address, check, &checks[check.0].name, outcome);
        }
        if let Some(turn) = turn {
            self.ask_for_drains(member, turn);
        }
        if turn == Some(Turn::Fails) {
            self.ask_the_others(member, address);
        }
        for other in unheard {
            self.doubt_failures_up_to_now(other);
        }
        for other in others {
            self.doubt_failures_of_address(member, other);
        }
        if verdict == Verdict::Fail {
            self.ask_once_more(member);
            self.ask_address_once_more(member, address);
        }
    }

    /// Members went down or came up.
    pub(super) fn count_flaps(&mut self) {
        let half_life = self.service.failback.flap_half_life;
        for (number, (flap, member)) in self.flaps.iter_mut().zip(&self.members).enumerate() {
            // What an operator does to a member that he took out is no flapping.
            let counts = !self.orders.is_drained(MemberId(number));
            flap.look(self.now, member.state(), half_life, counts);
        }
    }

    /// Whether nothing more has to be asked before this choice is carried out: neither checks nor hooks.
    pub(super) fn is_proven(&self, choice: &Choice) -> bool {
        let Some(to) = choice.to.filter(|_| choice.round) else { return true };
        self.round_for(to).is_some_and(|round| {
            let checks = &self.service.members[to.0].checks;
            round.progress(self.now, checks) == Progress::Passed && self.hooks_agree(round, choice.kind)
        })
    }

    /// Asks for what is missing, if it was not asked for yet.
    pub(super) fn ask_for_proof(&mut self, choice: &Choice) {
        let Some(to) = choice.to else { return };
        let checks = &self.service.members[to.0].checks;
        match self.round_for(to).map(|round| round.progress(self.now, checks)) {
            Some(Progress::Passed) => self.ask_hooks(to, choice),
            Some(Progress::Waits | Progress::Failed(_)) => {}
            None => {
                self.round = Some(Round::begin(self.now, to, &self.members[to.0], checks));
                self.actions.push_back(Action::Round { member: to });
            }
        }
    }

    fn round_for(&self, member: MemberId) -> Option<&Round> {
        self.round.as_ref().filter(|round| round.member == member)
    }

    /// A round that has failed rejects its member, for a while.
    pub(super) fn end_round(&mut self) {
        let Some(round) = &self.round else { return };
        let member = round.member;
        let Progress::Failed(why) = round.progress(self.now, &self.service.members[member.0].checks) else {
            return;
        };
        self.round = None;
        self.rejected[member.0] = Some(self.now);
        if self.manual.as_ref().is_some_and(|manual| manual.to == member) {
            self.call_off(&format!("its round of checks failed: {why}"));
        }
    }

    /// Whether the newest answers of `member` are those of probes that were due: at one of the addresses that are up, every
    /// check has answered within its interval and time-out.
    pub(super) fn is_fresh(&self, member: MemberId) -> bool {
        let checks = &self.service.members[member.0].checks;
        let fresh = |address| self.answers[member.0].are_fresh(self.now, address, checks);
        self.members[member.0]
            .addresses()
            .any(|(address, health, _)| health.state() == MemberState::Up && fresh(address))
    }

    /// Within this time every probe of every member has come round: interval and time-out of the slowest check.
    pub(super) fn window(&self) -> Duration {
        answers::longest_wait(self.service.members.iter().flat_map(|member| &member.checks))
    }
}
