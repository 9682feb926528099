//! A member more or less, by an operator's word: the configuration that follows from it.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    config::{self, Resolved},
    control::{
        operator::{Refused, RefusedKind},
        reload::NewMember,
    },
    model::{Access, CheckKind, Config, ExecOf, Member, MemberId, Service, ServiceId},
    resolve::Resolver,
};

/// With a member more. It is checked as the service says, and entered as the service's first member is.
///
/// Not where a `lag` check asks the REST API of each member's cluster: no other member's is the new one's, and the agent, which
/// is root, reads no password file that an operator names. Without that check the member would be one that nothing bars.
pub(super) async fn add(
    config: &Config,
    resolved: &Resolved,
    resolver: &Arc<Resolver>,
    service: &str,
    new: &NewMember,
) -> Result<(Config, Resolved), Refused> {
    let id = service_of(config, service)?;
    let (mut config, mut resolved) = (config.clone(), resolved.clone());
    let Service { members, checks, .. } = &mut config.services[id.0];
    if members.iter().any(|member| member.name == new.name) {
        let message = format!("service {service:?} has a member {:?} already", new.name);
        return Err(conflict(message, "give another name, or remove that one first"));
    }
    if let Some(check) = checks.iter().find(|check| matches!(check.kind, CheckKind::Lag(_))) {
        let message = format!(
            "check {:?} of service {service:?} asks the REST API of each member's cluster, and no command says what that of {:?} \
             is",
            check.name, new.name
        );
        return Err(conflict(
            message,
            "write the member into the file with its [service.member.rest], and reload",
        ));
    }
    let mut checks = checks.clone();
    for check in &mut checks {
        if let CheckKind::Exec(exec) = &mut check.kind {
            let (member, endpoint) = (new.name.clone(), new.endpoint.clone());
            exec.of = Some(ExecOf { service: service.to_owned(), member, endpoint });
        }
    }
    // There is always a first one.
    let like = members[0].clone();
    members.push(Member {
        name: new.name.clone(),
        endpoint: new.endpoint.clone(),
        weight: new.weight,
        checks,
        rest: None,
        access: Access { host: new.endpoint.host.clone(), ..like.access },
    });
    let answer =
        match new.endpoint.literal() {
            Some(literal) => Ok(vec![literal]),
            None => resolver.look_up(&new.endpoint.host).await.after(&[]).map(|ips| {
                ips.into_iter().map(|ip| SocketAddr::new(ip, new.endpoint.port)).collect::<Vec<_>>()
            }),
        };
    let addresses = answer.and_then(|answer| config::accept(&config, id, &answer)).map_err(|why| {
        let message = format!("the endpoint {} cannot be used: {why}", new.endpoint);
        conflict(message, "check the name or give an address")
    })?;
    resolved.push(id, addresses);
    Ok((config, resolved))
}

/// Without one of its members.
pub(super) fn remove(
    config: &Config,
    resolved: &Resolved,
    service: &str,
    member: &str,
) -> Result<(Config, Resolved), Refused> {
    let id = service_of(config, service)?;
    let (mut config, mut resolved) = (config.clone(), resolved.clone());
    let service = &mut config.services[id.0];
    let Some(at) = service.members.iter().position(|known| known.name == member) else {
        let known: Vec<_> = service.members.iter().map(|member| format!("{:?}", member.name)).collect();
        let message =
            format!("service {:?} has no member {member:?}; it has {}", service.name, known.join(", "));
        return Err(Refused { kind: RefusedKind::Unknown, message, next: "check the name".to_owned() });
    };
    service.members.remove(at);
    resolved.remove(id, MemberId(at));
    if service.members.is_empty() {
        let message = format!("{member:?} is the only member of service {:?}", service.name);
        return Err(conflict(
            message,
            "add another one first, or take the service out of the file and reload",
        ));
    }
    let rest = || (0..service.members.len()).map(|number| resolved.addresses(id, MemberId(number)));
    if let Some(vip) = service.vips.iter().find(|vip| !rest().any(|addresses| addresses.serves(**vip))) {
        let message = format!("no other member has an address of the IP version of VIP {vip}");
        return Err(conflict(message, "add such a member first, or take the VIP out of the file and reload"));
    }
    Ok((config, resolved))
}

fn service_of(config: &Config, name: &str) -> Result<ServiceId, Refused> {
    let found = config.services.iter().position(|service| service.name == name);
    found.map(ServiceId).ok_or_else(|| {
        let known: Vec<_> = config.services.iter().map(|service| format!("{:?}", service.name)).collect();
        let message = format!("there is no service {name:?}; there is {}", known.join(", "));
        Refused { kind: RefusedKind::Unknown, message, next: "check the name".to_owned() }
    })
}

fn conflict(message: String, next: &str) -> Refused {
    Refused { kind: RefusedKind::Conflict, message, next: next.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config::tests::configuration,
        model::{Endpoint, Lag},
    };

    fn resolved(config: &Config) -> Resolved {
        let literal = |member: &Member| member.endpoint.literal().into_iter().collect();
        let of_service = |service: &Service| service.members.iter().map(literal).collect();
        Resolved::of(config.services.iter().map(of_service).collect())
    }

    #[tokio::test]
    async fn a_member_is_added_unless_a_check_needs_what_no_command_says() {
        let mut config = configuration(&[("orders", &["paris"]), ("carts", &["paris"])]);
        let known = resolved(&config);
        let endpoint = Endpoint { host: "198.51.100.77".to_owned(), port: 6379 };
        let oslo = NewMember { name: "oslo".to_owned(), endpoint, weight: 50 };
        let resolver = Arc::<Resolver>::default();
        let lag = Lag { tolerance: Duration::from_secs(5), extended: true, of: None };
        let ping = config.services[0].checks[0].clone();
        config.services[0].checks.push(crate::model::Check {
            name: "behind".to_owned(),
            kind: CheckKind::Lag(lag),
            ..ping
        });
        let refused = add(&config, &known, &resolver, "orders", &oslo).await.unwrap_err();
        assert_eq!(refused.kind, RefusedKind::Conflict);
        let says = "check \"behind\" of service \"orders\" asks the REST API of each member's cluster, and no command says \
                    what that of \"oslo\" is; write the member into the file with its [service.member.rest], and reload";
        assert_eq!(format!("{}; {}", refused.message, refused.next), says);

        let (config, known) = add(&config, &known, &resolver, "carts", &oslo).await.unwrap();
        let added = &config.services[1].members[1];
        assert_eq!((added.name.as_str(), added.weight, added.checks.len()), ("oslo", 50, 1));
        assert_eq!(known.addresses(ServiceId(1), MemberId(1)).to_string(), "198.51.100.77:6379");
        let again = add(&config, &known, &resolver, "carts", &oslo).await.unwrap_err();
        assert!(again.message.contains("has a member \"oslo\" already"), "{}", again.message);
    }
}
