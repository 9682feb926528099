//! Which id belongs to which service and member, so that ids keep their meaning over a restart and a changed
//! configuration.
//!
//! Programs know numbers, people know names. The numbers stand in flows that outlive the agent; the names stand
//! beside them in a pinned map.

use std::collections::{BTreeMap, HashSet, VecDeque};

use anyhow::{Result, bail};
use redirector_common::layout::{MAX_MEMBERS, MAX_SERVICES, Name};

use crate::model::{Config, MemberId, ServiceId};

/// The ids of everything that a configuration names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ids {
    services: Vec<u16>,
    members: Vec<Vec<u16>>,
    /// Members that their service does not have any more, and whose flows go on for a while.
    leaving: Vec<Gone>,
}

/// A member that the configuration does not have any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    /// Its id.
    pub(super) member: u16,
    /// The id of the service that it was of.
    pub(super) service: u16,
}

/// Ids whose names the configuration does not have any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Retired {
    pub(super) services: Vec<u16>,
    pub(super) members: Vec<Gone>,
}

/// What becomes of the pinned names under a configuration.
pub(super) struct Assignment {
    pub(super) ids: Ids,
    pub(super) retired: Retired,
    /// Ids that a member gets for the first time.
    pub(super) new_members: Vec<u16>,
    /// Names that are new, by their place in the map. Those of what is gone are freed by [`service_place`] and
    /// [`member_place`], when nothing of them is left in other maps.
    pub(super) named: Vec<(u32, Name)>,
}

/// Where the name of a service stands.
pub(super) fn service_place(id: u16) -> u32 {
    u32::from(id)
}

/// Where the name of a member stands.
pub(super) fn member_place(id: u16) -> u32 {
    MAX_SERVICES + u32::from(id)
}

/// The name of an id that is free.
pub(super) const FREE: Name = Name { text: [0; 64], service: 0 };

impl Ids {
    /// The services of the configuration.
    pub(super) fn services(&self) -> impl Iterator<Item = ServiceId> {
        (0..self.services.len()).map(ServiceId)
    }

    pub(super) fn service(&self, service: ServiceId) -> u16 {
        self.services[service.0]
    }

    pub(super) fn member(&self, service: ServiceId, member: MemberId) -> u16 {
        self.members[service.0][member.0]
    }

    /// The ids of all members, and of those that leave.
    pub(super) fn members(&self) -> impl Iterator<Item = u16> {
        self.members.iter().flatten().copied().chain(self.leaving.iter().map(|gone| gone.member))
    }

    /// The ids of the members of a service.
    pub(super) fn members_of(&self, service: ServiceId) -> impl Iterator<Item = u16> {
        self.members[service.0].iter().copied()
    }

    /// The ids of the members that a service had and that leave it.
    pub(super) fn leaving(&self, service: ServiceId) -> impl Iterator<Item = u16> {
        let id = self.service(service);
        self.leaving.iter().filter(move |gone| gone.service == id).map(|gone| gone.member)
    }

    /// The member of a service that has an id.
    pub(super) fn member_of(&self, service: ServiceId, id: u16) -> Option<MemberId> {
        self.members[service.0].iter().position(|known| *known == id).map(MemberId)
    }

    /// The service that has an id.
    pub(super) fn service_with(&self, id: u16) -> Option<ServiceId> {
        self.services.iter().position(|known| *known == id).map(ServiceId)
    }

    /// The flows of a member that is gone go on.
    pub(super) fn leaves(&mut self, gone: Gone) {
        self.leaving.push(gone);
    }

    /// The member is one no more.
    pub(super) fn has_left(&mut self, gone: Gone) {
        self.leaving.retain(|known| *known != gone);
    }

    /// Takes over from `earlier` those who still leave: whoever has come back does not.
    pub(super) fn take_leaving(&mut self, earlier: &Self) {
        let members: HashSet<u16> = self.members.iter().flatten().copied().collect();
        self.leaving =
            earlier.leaving.iter().filter(|gone| !members.contains(&gone.member)).copied().collect();
    }

    /// Whether a member that is gone leaves.
    pub(super) fn is_leaving(&self, gone: Gone) -> bool {
        self.leaving.contains(&gone)
    }

    /// Gives every name an id: the one it had, or a free one.
    pub(super) fn assign(config: &Config, names: &[Name]) -> Result<Assignment> {
        let mut table = Table::new(names);
        let mut ids = Self::default();
        for service in &config.services {
            let id = table.services.take(&service.name, 0)?;
            let members = service.members.iter().map(|member| table.members.take(&member.name, id.into()));
            ids.members.push(members.collect::<Result<_>>()?);
            ids.services.push(id);
        }
        let Table { services, members } = table;
        let new_members = members.new.clone();
        let named = services.named.iter().map(|(id, name)| (service_place(*id), *name));
        let named = named.chain(members.named.iter().map(|(id, name)| (member_place(*id), *name))).collect();
        let gone = |(id, name): (u16, Name)| {
            // The id of a service is one of few.
            Gone { member: id, service: u16::try_from(name.service).unwrap_or(u16::MAX) }
        };
        let retired = Retired {
            services: services.rest().map(|(id, _)| id).collect(),
            members: members.rest().map(gone).collect(),
        };
        Ok(Assignment { ids, retired, new_members, named })
    }
}

/// The pinned names, while they are given out.
struct Table {
    services: Names,
    members: Names,
}

impl Table {
    fn new(names: &[Name]) -> Self {
        let (services, members) = names.split_at(MAX_SERVICES as usize);
        Self { services: Names::new(services), members: Names::new(members) }
    }
}

/// Names of one kind.
struct Names {
    /// Which id has which name, as long as nobody asked for it. Ordered, so that the same names get the same ids.
    known: BTreeMap<([u8; 64], u32), u16>,
    free: VecDeque<u16>,
    /// What was asked for. Also names that were known: somebody may give them up before they are used again.
    named: Vec<(u16, Name)>,
    /// Ids that had no name.
    new: Vec<u16>,
}

impl Names {
    fn new(names: &[Name]) -> Self {
        let (mut known, mut free) = (BTreeMap::new(), VecDeque::new());
        for (name, id) in names.iter().zip(0..) {
            if name.text[0] == 0 {
                free.push_back(id);
            } else {
                known.insert((name.text, name.service), id);
            }
        }
        Self { known, free, named: Vec::new(), new: Vec::new() }
    }

    fn take(&mut self, text: &str, service: u32) -> Result<u16> {
        let name = name(text, service);
        if let Some(id) = self.known.remove(&(name.text, name.service)) {
            self.named.push((id, name));
            return Ok(id);
        }
        let Some(id) = self.free.pop_front() else {
            bail!(
                "no id is left for {text:?}: at most {MAX_SERVICES} services and {MAX_MEMBERS} members, those that were \
                 just removed among them; configure fewer"
            );
        };
        self.named.push((id, name));
        self.new.push(id);
        Ok(id)
    }

    /// What nobody asked for, by id.
    fn rest(self) -> impl Iterator<Item = (u16, Name)> {
        let mut rest: Vec<_> =
            self.known.into_iter().map(|((text, service), id)| (id, Name { text, service })).collect();
        rest.sort_by_key(|(id, _)| *id);
        rest.into_iter()
    }
}

fn name(text: &str, service: u32) -> Name {
    let mut bytes = [0; 64];
    // The configuration allows 63 bytes.
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    Name { text: bytes, service }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::configuration;

    /// Names after an assignment, as the map would hold them.
    fn after(mut names: Vec<Name>, assignment: &Assignment) -> Vec<Name> {
        for (index, name) in &assignment.named {
            names[*index as usize] = *name;
        }
        let Retired { services, members } = &assignment.retired;
        let free = services.iter().map(|id| service_place(*id));
        for index in free.chain(members.iter().map(|gone| member_place(gone.member))) {
            names[index as usize] = FREE;
        }
        names
    }

    #[test]
    fn ids_keep_their_meaning_when_the_order_changes() {
        let empty = vec![name("", 0); (MAX_SERVICES + MAX_MEMBERS) as usize];
        let first = configuration(&[("orders", &["paris", "dublin"]), ("carts", &["paris"])]);
        let before = Ids::assign(&first, &empty).unwrap();
        assert_eq!(before.new_members, [0, 1, 2]);

        let turned = configuration(&[("carts", &["paris"]), ("orders", &["dublin", "paris"])]);
        let names = after(empty, &before);
        let later = Ids::assign(&turned, &names).unwrap();
        assert_eq!((later.ids.services, later.ids.members), (vec![1, 0], vec![vec![2], vec![1, 0]]));
        assert!(later.new_members.is_empty());
        // Written once more: somebody may have given them up meanwhile.
        assert!(later.named.iter().all(|(place, name)| names[*place as usize] == *name));
    }

    #[test]
    fn what_is_gone_is_retired_and_its_id_is_new_to_the_next() {
        let empty = vec![name("", 0); (MAX_SERVICES + MAX_MEMBERS) as usize];
        let before = Ids::assign(&configuration(&[("a", &["a1", "a2"]), ("b", &["b1"])]), &empty).unwrap();
        let names = after(empty, &before);

        let without = Ids::assign(&configuration(&[("a", &["a2"]), ("b", &["b1"])]), &names).unwrap();
        assert_eq!(
            without.retired,
            Retired { services: vec![], members: vec![Gone { member: 0, service: 0 }] }
        );
        let names = after(names, &without);

        let reused = Ids::assign(&configuration(&[("a", &["a2"]), ("b", &["b1", "b2"])]), &names).unwrap();
        assert_eq!(reused.ids.member(ServiceId(1), MemberId(1)), 0);
        assert_eq!(reused.new_members, [0]);
    }
    #[test]
    fn who_comes_back_while_he_leaves_does_not_leave() {
        let empty = vec![name("", 0); (MAX_SERVICES + MAX_MEMBERS) as usize];
        let both = configuration(&[("a", &["a1", "a2"])]);
        let before = Ids::assign(&both, &empty).unwrap();
        // Its name stays as long as it leaves.
        let names = before.named.iter().fold(empty, |mut names, (index, name)| {
            names[*index as usize] = *name;
            names
        });
        let mut without = Ids::assign(&configuration(&[("a", &["a2"])]), &names).unwrap();
        let gone = Gone { member: 0, service: 0 };
        assert_eq!(without.retired.members, [gone]);
        without.ids.leaves(gone);
        assert_eq!(without.ids.leaving(ServiceId(0)).collect::<Vec<_>>(), [0]);
        assert_eq!(without.ids.members().collect::<Vec<_>>(), [1, 0]);

        let mut back = Ids::assign(&both, &names).unwrap();
        back.ids.take_leaving(&without.ids);
        assert_eq!(back.ids.leaving(ServiceId(0)).count(), 0);
        assert_eq!(back.ids, before.ids);
    }
    #[test]
    fn when_no_id_is_left_it_is_said_for_whom() {
        let mut names = vec![name("", 0); (MAX_SERVICES + MAX_MEMBERS) as usize];
        for (number, taken) in names[..MAX_SERVICES as usize].iter_mut().enumerate() {
            *taken = name(&format!("other-{number}"), 0);
        }
        let error = Ids::assign(&configuration(&[("orders", &["paris"])]), &names).err().unwrap().to_string();
        assert!(error.contains("\"orders\"") && error.contains("1024 services"), "{error}");
    }
}
