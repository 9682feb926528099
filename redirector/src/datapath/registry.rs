//! Which id belongs to which service and member, so that ids keep their meaning over a restart and a changed
//! configuration.
//!
//! Programs know numbers, people know names. The numbers stand in flows that outlive the agent; the names stand
//! beside them in a pinned map.

use anyhow::{Result, bail};
use redirector_common::layout::{MAX_MEMBERS, MAX_SERVICES, Name};

use crate::model::{Config, MemberId, ServiceId};

/// The ids of everything that a configuration names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ids {
    services: Vec<u16>,
    members: Vec<Vec<u16>>,
}

/// Ids whose names the configuration does not have any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Retired {
    pub(super) services: Vec<u16>,
    pub(super) members: Vec<u16>,
}

/// What becomes of the pinned names under a configuration.
pub(super) struct Assignment {
    pub(super) ids: Ids,
    pub(super) retired: Retired,
    /// Ids that a member gets for the first time.
    pub(super) new_members: Vec<u16>,
    /// Names that change, by their place in the map. To be written when nothing of an old name is left in other maps.
    pub(super) written: Vec<(u32, Name)>,
}

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

    /// The ids of all members.
    pub(super) fn members(&self) -> impl Iterator<Item = u16> {
        self.members.iter().flatten().copied()
    }

    /// The ids of the members of a service.
    pub(super) fn members_of(&self, service: ServiceId) -> impl Iterator<Item = u16> {
        self.members[service.0].iter().copied()
    }

    /// The member of a service that has an id.
    pub(super) fn member_of(&self, service: ServiceId, id: u16) -> Option<MemberId> {
        self.members[service.0].iter().position(|known| *known == id).map(MemberId)
    }

    /// Gives every name an id: the one it had, or a free one.
    pub(super) fn assign(config: &Config, names: &[Name]) -> Result<Assignment> {
        let mut table = Table { names: names.to_vec(), used: vec![false; names.len()], written: Vec::new() };
        let mut ids = Self::default();
        for service in &config.services {
            let id = table.take(0..MAX_SERVICES, &service.name, 0)?;
            let mut members = Vec::new();
            for member in &service.members {
                let range = MAX_SERVICES..MAX_SERVICES + MAX_MEMBERS;
                members.push(table.take(range, &member.name, u32::from(id))?);
            }
            ids.services.push(id);
            ids.members.push(members);
        }
        let new_members = table
            .written
            .iter()
            .filter(|(index, _)| *index >= MAX_SERVICES)
            .map(|(index, _)| id(*index, MAX_SERVICES))
            .collect();
        let retired = table.retire();
        Ok(Assignment { ids, retired, new_members, written: table.written })
    }
}

struct Table {
    names: Vec<Name>,
    used: Vec<bool>,
    written: Vec<(u32, Name)>,
}

impl Table {
    fn take(&mut self, range: std::ops::Range<u32>, text: &str, service: u32) -> Result<u16> {
        let wanted = name(text, service);
        let first = range.start;
        let mut free = None;
        for index in range {
            let at = index as usize;
            if self.names[at] == wanted && !self.used[at] {
                self.used[at] = true;
                return Ok(id(index, first));
            }
            if self.names[at].text[0] == 0 && !self.used[at] {
                free = free.or(Some(index));
            }
        }
        let Some(index) = free else {
            bail!("no id is left for {text:?}: at most {MAX_SERVICES} services and {MAX_MEMBERS} members");
        };
        self.names[index as usize] = wanted;
        self.used[index as usize] = true;
        self.written.push((index, wanted));
        Ok(id(index, first))
    }

    /// Frees what was not taken.
    fn retire(&mut self) -> Retired {
        let mut retired = Retired::default();
        for index in 0..MAX_SERVICES + MAX_MEMBERS {
            let at = index as usize;
            if self.used[at] || self.names[at].text[0] == 0 {
                continue;
            }
            self.written.push((index, name("", 0)));
            if index < MAX_SERVICES {
                retired.services.push(id(index, 0));
            } else {
                retired.members.push(id(index, MAX_SERVICES));
            }
        }
        retired
    }
}

#[allow(clippy::cast_possible_truncation)] // Both tables are smaller than 2^16.
fn id(index: u32, first: u32) -> u16 {
    (index - first) as u16
}

fn name(text: &str, service: u32) -> Name {
    let mut bytes = [0; 64];
    // The configuration allows 63 bytes.
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    Name { text: bytes, service }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    fn configuration(services: &[(&str, &[&str])]) -> Config {
        let mut text = String::new();
        for (number, (service, members)) in services.iter().enumerate() {
            text += &format!("[[service]]\nname = {service:?}\nvips = [\"192.0.2.{}:6379\"]\n", number + 1);
            for (place, member) in members.iter().enumerate() {
                let endpoint = format!("198.51.100.{}:6379", number * 10 + place + 1);
                text += &format!("[[service.member]]\nname = {member:?}\nendpoint = {endpoint:?}\n");
            }
        }
        config::parse(Path::new("test.toml"), &text).unwrap().config
    }

    /// Names after an assignment, as the map would hold them.
    fn after(mut names: Vec<Name>, assignment: &Assignment) -> Vec<Name> {
        for (index, name) in &assignment.written {
            names[*index as usize] = *name;
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
        let later = Ids::assign(&turned, &after(empty, &before)).unwrap();
        assert_eq!((later.ids.services, later.ids.members), (vec![1, 0], vec![vec![2], vec![1, 0]]));
        assert!(later.written.is_empty() && later.new_members.is_empty());
    }

    #[test]
    fn what_is_gone_is_retired_and_its_id_is_new_to_the_next() {
        let empty = vec![name("", 0); (MAX_SERVICES + MAX_MEMBERS) as usize];
        let before = Ids::assign(&configuration(&[("a", &["a1", "a2"]), ("b", &["b1"])]), &empty).unwrap();
        let names = after(empty, &before);

        let without = Ids::assign(&configuration(&[("a", &["a2"]), ("b", &["b1"])]), &names).unwrap();
        assert_eq!(without.retired, Retired { services: vec![], members: vec![0] });
        let names = after(names, &without);

        let reused = Ids::assign(&configuration(&[("a", &["a2"]), ("b", &["b1", "b2"])]), &names).unwrap();
        assert_eq!(reused.ids.member(ServiceId(1), MemberId(1)), 0);
        assert_eq!(reused.new_members, [0]);
    }
}
