//! Which service and member of one configuration is which of another: by their names.

use crate::model::{Config, MemberId, Service, ServiceId};

/// For each service of the new configuration which one it was, and for each of its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Moves {
    services: Vec<(Option<ServiceId>, Vec<Option<MemberId>>)>,
}

impl Moves {
    pub(super) fn between(old: &Config, new: &Config) -> Self {
        let names: std::collections::HashMap<_, _> =
            old.services.iter().enumerate().map(|(at, service)| (service.name.as_str(), at)).collect();
        let of_service = |service: &Service| {
            let before = names.get(service.name.as_str()).copied();
            let members = before.map_or(&[][..], |at| &old.services[at].members);
            let of_member = |name: &str| members.iter().position(|member| member.name == name).map(MemberId);
            let members = service.members.iter().map(|member| of_member(&member.name)).collect();
            (before.map(ServiceId), members)
        };
        Self { services: new.services.iter().map(of_service).collect() }
    }

    /// Calls `with` for every service of the new configuration: which one it was, and which ones its members were.
    pub(super) fn each_service<T>(
        &self,
        mut with: impl FnMut(Option<ServiceId>, &[Option<MemberId>]) -> T,
    ) -> Vec<T> {
        self.services.iter().map(|(service, members)| with(*service, members)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::configuration;

    #[test]
    fn names_tell_what_moved_where() {
        let old = configuration(&[("orders", &["paris", "dublin"]), ("carts", &["paris"])]);
        let new = configuration(&[("stock", &["paris"]), ("orders", &["oslo", "dublin"])]);
        let moves = Moves::between(&old, &new);
        let seen = moves.each_service(|service, members| (service, members.to_vec()));
        assert_eq!(seen[0], (None, vec![None]));
        assert_eq!(seen[1], (Some(ServiceId(0)), vec![None, Some(MemberId(1))]));
    }
}
