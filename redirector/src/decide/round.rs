//! A round: every check of a candidate is asked once more before a member that lives is left for it.
//!
//! A member that has been up for a minute was proven by its last probe, up to an interval ago, and its slower checks longer
//! ago still. So a failback, or a switch by an operator, asks for fresh answers first. A failover does not: it cannot wait.
//!
//! The round passes when every check has answered at each address that was up, and none failed that had passed. A check that
//! was failing already (the member is up by others) may go on failing. An answer that says nothing, says nothing here too.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{hooks::Asking, member::Member, time::Time};
use crate::model::{Check, CheckId, MemberId, ProbeOutcome, Verdict};

/// Beyond the time-outs: for the way through the agent.
const ROOM: Duration = Duration::from_secs(1);

/// A round under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Round {
    pub(super) member: MemberId,
    began: Time,
    /// What has not answered by then has failed.
    pub(super) until: Time,
    asked: Vec<Asked>,
    /// What went wrong first, in words.
    failed: Option<String>,
    /// What is asked when it has passed.
    pub(super) hooks: Option<Asking>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Asked {
    address: SocketAddr,
    check: CheckId,
    /// What it said until now was good, so that a failure counts.
    must_pass: bool,
    answered: bool,
}

/// How far a round is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Waits,
    Passed,
    /// Why, in words.
    Failed(String),
}

impl Round {
    /// Asks all checks of a member that is not down.
    pub(super) fn begin(now: Time, id: MemberId, member: &Member, checks: &[Check]) -> Self {
        let asked = member.asked_in_a_round().map(|(address, check, must_pass)| Asked {
            address,
            check,
            must_pass,
            answered: false,
        });
        let longest = checks.iter().map(Check::longest_probe).max().unwrap_or_default();
        Self {
            member: id,
            began: now,
            until: now + longest + ROOM,
            asked: asked.collect(),
            failed: None,
            hooks: None,
        }
    }

    /// A probe of the member has ended.
    pub(super) fn hear(&mut self, address: SocketAddr, check: CheckId, name: &str, outcome: &ProbeOutcome) {
        let asked = self.asked.iter_mut().find(|asked| (asked.address, asked.check) == (address, check));
        let Some(asked) = asked else { return };
        asked.answered = true;
        if let ProbeOutcome::Failed(failure) = outcome
            && asked.must_pass
            && outcome.verdict() == Verdict::Fail
        {
            self.failed.get_or_insert_with(|| format!("{name} at {address}: {failure}"));
        }
    }

    /// Addresses that are gone need not answer.
    pub(super) fn retain(&mut self, addresses: &[SocketAddr]) {
        self.asked.retain(|asked| addresses.contains(&asked.address));
    }

    pub(super) fn progress(&self, now: Time, checks: &[Check]) -> Progress {
        if let Some(why) = &self.failed {
            return Progress::Failed(why.clone());
        }
        let Some(waits) = self.asked.iter().find(|asked| !asked.answered) else {
            return if self.asked.is_empty() {
                Progress::Failed("it has no address left that was up".to_owned())
            } else {
                Progress::Passed
            };
        };
        if now < self.until {
            return Progress::Waits;
        }
        let name = checks.get(waits.check.0).map_or("a check", |check| check.name.as_str());
        let waited = super::time::in_words(now.since(self.began));
        Progress::Failed(format!("{name} at {} did not answer within {waited}", waits.address))
    }
}
