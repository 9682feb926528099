//! Another configuration of the service, while the core runs.

use super::{Choice, Core, Standing, Time, member::Member};
use crate::model::{MemberId, Service, SwitchKind};

impl Core {
    /// The service is this one from now on. `members` says of each of its members which one it was before; `None`: it is
    /// new, and its addresses come with [`Self::on_addresses`].
    ///
    /// Members whose checks are others have no verdict until these have answered. An active member that is gone is left in
    /// this call, for the best that is up; without one the service is held. Nothing else is a reason to move that was
    /// none before.
    ///
    /// # Panics
    ///
    /// When `members` is shorter than the members of `service`, or names one that the core does not know.
    pub fn set_service(&mut self, now: Time, service: Service, members: &[Option<MemberId>]) {
        self.now = self.now.max(now);
        let of_before = |old: MemberId| members.iter().position(|known| *known == Some(old)).map(MemberId);
        let (mut states, mut offered) = (Vec::new(), Vec::new());
        for (member, before) in service.members.iter().zip(members) {
            let offers = before.map_or_else(Vec::new, |before| self.offered[before.0].clone());
            let same = before.filter(|before| self.service.members[before.0].checks == member.checks);
            states.push(match same {
                Some(same) => self.members[same.0].clone(),
                None => Member::new(&offers, &member.checks, self.now),
            });
            offered.push(offers);
        }
        let active = self.standing.active();
        let gone = active.filter(|active| of_before(*active).is_none());
        let gone_name = gone.map(|gone| self.service.members[gone.0].name.clone());
        if let Some(active) = active.and_then(of_before) {
            self.standing = Standing::Active(active);
        }
        if let Some(last) = &mut self.last {
            last.from = last.from.and_then(of_before);
            last.to = last.to.and_then(of_before);
        }
        self.leaving.rename(of_before);
        (self.members, self.offered, self.service) = (states, offered, service);
        if let Some(name) = gone_name {
            self.standing = Standing::Held;
            let best = self.situation(self.now).best_up();
            let reason = format!("member {name:?} was removed from the configuration");
            self.switch(Choice { to: best, kind: SwitchKind::Failover, reason });
        }
        self.settle();
    }
}
