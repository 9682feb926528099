//! One look at the readiness of every member.

use std::io::{self, Write};

use serde::Serialize;

use super::probes::at_once;
use crate::{
    config::Resolved,
    control::status::{FindingStatus, ReadinessStatus},
    model::{Config, MemberId, ServiceId},
    readiness::{self, MemberLooks, Severity, Target},
};

/// How ready one member is.
#[derive(Debug, Serialize)]
pub(super) struct Ready {
    service: String,
    member: String,
    #[serde(flatten)]
    readiness: ReadinessStatus,
}

impl Ready {
    /// Whether nothing is sure to break applications. What nobody could look at breaks nothing.
    pub(super) fn is_sound(&self) -> bool {
        self.readiness.ready != Some(false)
    }
}

/// So many looks at the same time: each has a descriptor or two open, and a process may be allowed 1024 only.
const LOOKS: usize = 256;

/// Looks at every address, also with the login of the applications.
pub(super) async fn look(config: &Config, resolved: &Resolved) -> Vec<Ready> {
    let (mut services, mut looks) = (Vec::new(), Vec::new());
    for (at, service) in config.services.iter().enumerate() {
        let mut members = Vec::new();
        for (number, member) in service.members.iter().enumerate() {
            let target = Target::of(service, MemberId(number));
            let addresses = resolved.addresses(ServiceId(at), MemberId(number)).as_slice();
            for address in addresses {
                let (target, address) = (target.clone(), *address);
                looks.push(async move { readiness::look(&target, address).await });
            }
            let looks = addresses.iter().map(|address| (*address, None)).collect();
            members.push(MemberLooks { member: member.name.clone(), looks });
        }
        services.push(members);
    }
    let looks = at_once(LOOKS, looks.into_iter()).await;
    let places = services.iter_mut().flatten().flat_map(|member| &mut member.looks);
    places.zip(looks).for_each(|((_, place), look)| *place = Some(look));
    let of_service = |(service, members): (&crate::model::Service, &Vec<MemberLooks>)| {
        let judged = readiness::judge(members);
        let ready = judged.iter().zip(&service.members).map(|(readiness, member)| Ready {
            service: service.name.clone(),
            member: member.name.clone(),
            readiness: readiness.into(),
        });
        ready.collect::<Vec<_>>()
    };
    config.services.iter().zip(&services).flat_map(of_service).collect()
}

/// A line for each finding and for what is not known; nothing where all is well.
pub(super) fn write(members: &[Ready], out: &mut impl Write) -> io::Result<()> {
    let is_silent =
        |member: &Ready| member.readiness.findings.is_empty() && member.readiness.ready_unknown.is_empty();
    if members.iter().all(is_silent) {
        return Ok(());
    }
    writeln!(out, "After a switch applications would meet:")?;
    for Ready { service, member, readiness } in members {
        for FindingStatus { severity, text, .. } in &readiness.findings {
            writeln!(out, "{severity}: member {member:?} of service {service:?}: {text}")?;
        }
        for why in &readiness.ready_unknown {
            writeln!(out, "unknown: member {member:?} of service {service:?}: {why}")?;
        }
    }
    if members
        .iter()
        .flat_map(|member| &member.readiness.findings)
        .any(|finding| finding.severity == Severity::Problem)
    {
        writeln!(out, "Problems are sure to break applications, and make this command fail.")?;
    }
    writeln!(out)
}
