//! The observer suspects itself.
//!
//! When everything fails at once the likeliest cause is this host: its uplink, its firewall, its scheduler. Three cases, and
//! what each of them delays. None delays leaving one dead member while another is up and answers, and each ends after a
//! *window* (interval and time-out of the slowest check) at the latest: a suspicion is no reason to stay for ever.
//!
//! | case | seen by | delays |
//! |---|---|---|
//! | *doubt* | the active member is down, and the newest answers of all that are up are failures that began within a window of its own | the failover, until one of them answers or is down too |
//! | *blackout* | all members are down, and the first and the last of their failures began within a window (where only one is left in the choice: it and one that an operator took out) | the hold of a service that refuses, until each has failed once more; and, when the first other member comes up, leaving the active one until it has failed once more: after a cut all come back, and the first one that does so is not the better one |
//! | *late* | the agent was not scheduled | leaving a member that went down since, until a probe has failed that began since |
//!
//! A blackout does not count as flapping either.
//! Doubt and lateness delay the early end of a drain in the same way, for the member that is drained and down; that waits for more
//! than this: [`early_end`](super::early_end). So does the end of the flows of an address that is down while its member is not:
//! [`left_out`](super::left_out).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Action, Core,
    answers::Answers,
    choice::Standing,
    time::{Time, in_words},
};
use crate::model::{MemberId, MemberState};

/// What makes the observer suspect itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Suspicion {
    late: Option<Late>,
    blackout: Option<Blackout>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Late {
    at: Time,
    by: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Blackout {
    /// When the last member went down.
    since: Time,
    /// Since when another member than the active one is up again.
    heard: Option<Time>,
}

/// Why the end of the active member, or of what else is down, is not acted on yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Doubt {
    pub(super) why: String,
    /// Then it is, whatever was heard.
    pub(super) until: Time,
}

impl Suspicion {
    /// The caller was late. One that is late again and again within a window suspects itself for one window only: else
    /// a starved agent would never leave a dead member.
    pub(super) fn on_late(&mut self, now: Time, by: Duration, window: Duration) {
        self.late.take_if(|late| late.at + window <= now);
        self.late.get_or_insert(Late { at: now, by });
    }

    pub(super) fn on_switch(&mut self) {
        self.blackout = None;
    }
}

impl Core {
    /// Begins and ends what is suspected.
    pub(super) fn suspect(&mut self) {
        let (now, window) = (self.now, self.window());
        let Standing::Active(active) = self.standing else {
            self.suspicion.blackout = None;
            return;
        };
        if self.members[active.0].state() != MemberState::Down {
            self.suspicion.blackout = None;
            return;
        }
        let other_up = self.candidates().any(|member| self.is_up(member));
        let all_at_once = self.suspicion.blackout.is_none() && self.all_failed_at_once(active);
        match &mut self.suspicion.blackout {
            Some(blackout) if !other_up => blackout.heard = None,
            Some(blackout) if blackout.heard.is_none() => {
                blackout.heard = Some(now);
                self.actions.push_back(Action::Round { member: active });
            }
            Some(_) => {}
            None if all_at_once => {
                self.suspicion.blackout = Some(Blackout { since: now, heard: None });
                let began = now.ago(window * 2);
                self.flaps.iter_mut().for_each(|flap| flap.forgive(began));
            }
            None => {}
        }
    }

    /// Whether all members are down, and all since about the same moment. One alone says nothing of this host. One that an operator took
    /// out may be down or up for reasons of its own; but where it fails too, and since then, it is not one alone.
    fn all_failed_at_once(&self, active: MemberId) -> bool {
        let is_out = |member: &MemberId| *member != active && self.orders.is_drained(*member);
        let (out, of_choice): (Vec<_>, Vec<_>) = (0..self.members.len()).map(MemberId).partition(is_out);
        let failing_since = |member: &MemberId| {
            let is_down = self.members[member.0].state() == MemberState::Down;
            self.answers[member.0].failing_since().filter(|_| is_down)
        };
        let began: Option<Vec<Time>> = of_choice.iter().map(failing_since).collect();
        let Some(began) = began else { return false };
        let (first, last) = (began.iter().min(), began.iter().max());
        // Of all of them: each may be near the active one's while two are far apart.
        let at_once = first.zip(last).is_some_and(|(first, last)| last.since(*first) <= self.window());
        at_once && (began.len() > 1 || out.iter().any(|member| self.fails_with(*member, active)))
    }

    /// Why the active member, which is down, is not left yet although the rules say so; `None`: nothing is in the way.
    pub(super) fn doubt(&self, active: MemberId, now: Time) -> Option<Doubt> {
        let late = self.late(self.members[active.0].since(), &self.answers[active.0]);
        let cases = [late, self.blackout(active), self.all_in_doubt(active)];
        cases.into_iter().flatten().find(|doubt| now < doubt.until)
    }

    /// Of who is down since `down_since`.
    pub(super) fn late(&self, down_since: Time, answers: &Answers) -> Option<Doubt> {
        let Late { at, by } = self.suspicion.late?;
        (down_since >= at && !answers.confirmed_failing(at)).then(|| Doubt {
            why: format!("the agent was late by {}: a probe that began since must fail too", in_words(by)),
            until: at + self.window(),
        })
    }

    fn blackout(&self, active: MemberId) -> Option<Doubt> {
        let Blackout { since, heard } = self.suspicion.blackout?;
        let failed_since = |member: MemberId, moment| self.answers[member.0].confirmed_failing(moment);
        let (confirmed, from) = match heard {
            Some(heard) => (failed_since(active, heard), heard),
            None => (self.candidates().chain([active]).all(|member| failed_since(member, since)), since),
        };
        (!confirmed).then(|| Doubt {
            why: "every member failed at once, as when this host is cut off: further probes must fail too"
                .to_owned(),
            until: from + self.window(),
        })
    }

    fn all_in_doubt(&self, active: MemberId) -> Option<Doubt> {
        // The standing one is another than `active` when that one is drained.
        let others = self.candidates().chain(self.standing.active());
        let mut up = others.filter(|member| self.is_up(*member)).peekable();
        up.peek()?;
        up.all(|member| self.fails_with(member, active)).then(|| Doubt {
            why: "every other member began to fail with it, as when this host is cut off: one of them must answer"
                .to_owned(),
            until: self.members[active.0].since() + self.window(),
        })
    }

    /// Whether the newest answers of `member` are failures that began about when those of `active` did.
    pub(super) fn fails_with(&self, member: MemberId, active: MemberId) -> bool {
        let since = |member: MemberId| self.answers[member.0].failing_since();
        since(member).zip(since(active)).is_some_and(|(one, other)| {
            one.since(other) <= self.window() && other.since(one) <= self.window()
        })
    }

    /// What is suspected now, in words.
    pub(super) fn suspicion_in_words(&self, now: Time) -> Option<String> {
        let down =
            self.standing.active().filter(|active| self.members[active.0].state() == MemberState::Down);
        if let Some(doubt) = down.and_then(|active| self.doubt(active, now)) {
            return Some(doubt.why);
        }
        if self.suspicion.blackout.is_some() {
            return Some("every member failed at once, as when this host is cut off".to_owned());
        }
        let late = self.suspicion.late.filter(|late| now < late.at + self.window())?;
        Some(format!("the agent was late by {}", in_words(late.by)))
    }
}
