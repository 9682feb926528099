//! Which id belongs to which service and member, so that ids keep their meaning over a restart and a changed
//! configuration.
//!
//! Programs know numbers, people know names. The numbers stand in flows that outlive the agent; the names stand
//! beside them in a pinned map.

use anyhow::{Result, bail};
use redirector_common::layout::{MAX_MEMBERS, MAX_SERVICES, Name};

use super::maps::Maps;
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
struct Assignment {
    ids: Ids,
    retired: Retired,
    /// Names that change, by their place in the map.
    written: Vec<(u32, Name)>,
}

impl Ids {
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

    /// The member of a service that has an id.
    pub(super) fn member_of(&self, service: ServiceId, id: u16) -> Option<MemberId> {
        self.members[service.0].iter().position(|known| *known == id).map(MemberId)
    }

    /// Gives every name an id: the one it had, or a free one.
    fn assign(config: &Config, names: &[Name]) -> Result<Assignment> {
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
        let retired = table.retire();
        Ok(Assignment { ids, retired, written: table.written })
    }

    /// Assigns ids after the pinned names and pins what is new.
    pub(super) fn adopt(config: &Config, maps: &mut Maps) -> Result<(Self, Retired)> {
        let Assignment { ids, retired, written } = Self::assign(config, &maps.names()?)?;
        for (index, name) in written {
            maps.set_name(index, name)?;
        }
        Ok((ids, retired))
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
