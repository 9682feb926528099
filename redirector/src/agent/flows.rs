//! What the kernel knows of flows, in the words of `flows`.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    ops::ControlFlow::{Break, Continue},
};

use hyper::body::Bytes;
use redirector_common::flow::State;
use tokio::sync::mpsc;

use crate::{
    control::{
        ErrorText,
        flows::{Filter, FlowState, FlowStatus, ListEnd, Total, Totals},
        status::VERSION,
    },
    datapath::{FlowList, ListedFlow},
    model::{Config, MemberId, ServiceId},
};

/// Bytes that are handed over together.
const CHUNK: usize = 32 * 1024;

/// A filter with ids for names, so that no text is compared for each flow.
struct Wanted<'a> {
    filter: &'a Filter,
    service: Option<ServiceId>,
}

impl Wanted<'_> {
    fn has(&self, flow: &ListedFlow<'_>, config: &Config) -> bool {
        let Filter { member, client, state, idle_over, stale, .. } = self.filter;
        // What costs least stands first.
        (self.service.is_none() || flow.service() == self.service)
            && state.is_none_or(|state| state_of(flow) == state)
            && (!stale || flow.is_stale())
            && idle_over.is_none_or(|time| flow.idle() > time)
            && member.as_ref().is_none_or(|name| member_name(config, flow).as_deref() == Some(name))
            && client.is_none_or(|clients| clients.contain(flow.client()))
    }
}

/// Writes the flows that `filter` means as lines, at most `limit` of them, and the end. Ends early when nobody reads any more,
/// also while nothing is found.
pub(super) fn list(
    flows: &FlowList,
    config: &Config,
    filter: &Filter,
    limit: u64,
    lines: &mpsc::Sender<Bytes>,
) -> anyhow::Result<()> {
    let wanted = Wanted { filter, service: service_id(config, filter) };
    let mut text = Vec::with_capacity(CHUNK + 1024);
    let mut matched = 0;
    flows.for_each(|flow| {
        if lines.is_closed() {
            return Break(());
        }
        if !wanted.has(flow, config) {
            return Continue(());
        }
        matched += 1;
        if matched > limit {
            return Continue(());
        }
        write_line(&mut text, &status(flow, config));
        if text.len() >= CHUNK {
            let chunk = std::mem::replace(&mut text, Vec::with_capacity(CHUNK + 1024));
            let _nobody_reads = lines.blocking_send(chunk.into());
        }
        Continue(())
    })?;
    write_line(&mut text, &ListEnd { matched });
    let _nobody_reads = lines.blocking_send(text.into());
    Ok(())
}

/// Counts the flows that `filter` means; fewer of them, once nobody waits for it any more.
pub(super) fn totals(
    flows: &FlowList,
    config: &Config,
    filter: &Filter,
    nobody_waits: &dyn Fn() -> bool,
) -> anyhow::Result<Totals> {
    #[derive(Default)]
    struct Count {
        flows: u64,
        stale: u64,
        local: u64,
    }

    let wanted = Wanted { filter, service: service_id(config, filter) };
    let mut counts: HashMap<(Option<ServiceId>, Option<MemberId>, State), Count> = HashMap::new();
    flows.for_each(|flow| {
        if nobody_waits() {
            return Break(());
        }
        if wanted.has(flow, config) {
            let count = counts.entry((flow.service(), flow.member(), flow.state())).or_default();
            count.flows += 1;
            count.stale += u64::from(flow.is_stale());
            count.local += u64::from(flow.is_local());
        }
        Continue(())
    })?;
    let mut totals: Vec<_> = counts
        .into_iter()
        .map(|((service, member, state), Count { flows, stale, local })| Total {
            service: service.map(|service| config.services[service.0].name.clone()),
            member: name_of(config, service, member),
            state: word(state),
            flows,
            stale,
            local,
        })
        .collect();
    totals.sort();
    Ok(Totals { version: VERSION, flows: totals.iter().map(|total| total.flows).sum(), totals })
}

/// Whether the configuration has what a filter names.
pub(super) fn known(config: &Config, filter: &Filter) -> Result<(), ErrorText> {
    let service = filter.service.as_deref();
    let member = filter.member.as_deref();
    if let Some(name) = service
        && !config.services.iter().any(|service| service.name == name)
    {
        return Err(unknown("service", name, config.services.iter().map(|service| &service.name)));
    }
    let services = || config.services.iter().filter(|known| service.is_none_or(|name| known.name == name));
    let members = || services().flat_map(|service| &service.members).map(|member| &member.name);
    match member {
        Some(name) if !members().any(|known| known == name) => Err(unknown("member", name, members())),
        _ => Ok(()),
    }
}

fn unknown<'a>(kind: &str, name: &str, known: impl Iterator<Item = &'a String>) -> ErrorText {
    let known: BTreeSet<_> = known.map(|name| format!("\"{name}\"")).collect();
    let known: Vec<_> = known.into_iter().collect();
    ErrorText {
        message: format!("there is no {kind} \"{name}\"; there is {}", known.join(", ")),
        next: format!("check the name, or leave it out to see the flows of every {kind}"),
    }
}

/// The service that a filter names. Whether there is one, the control socket has found out.
fn service_id(config: &Config, filter: &Filter) -> Option<ServiceId> {
    let name = filter.service.as_ref()?;
    config.services.iter().position(|service| service.name == *name).map(ServiceId)
}

fn status(flow: &ListedFlow<'_>, config: &Config) -> FlowStatus {
    let milliseconds = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    FlowStatus {
        service: flow.service().map(|service| config.services[service.0].name.clone()),
        member: member_name(config, flow),
        client: flow.client(),
        vip: flow.vip(),
        source: flow.source(),
        address: flow.address(),
        state: state_of(flow),
        stale: flow.is_stale(),
        local: flow.is_local(),
        epoch: flow.epoch(),
        idle_ms: milliseconds(flow.idle()),
        age_ms: milliseconds(flow.age()),
    }
}

fn member_name(config: &Config, flow: &ListedFlow<'_>) -> Option<String> {
    name_of(config, flow.service(), flow.member())
}

fn name_of(config: &Config, service: Option<ServiceId>, member: Option<MemberId>) -> Option<String> {
    Some(config.services.get(service?.0)?.members.get(member?.0)?.name.clone())
}

fn state_of(flow: &ListedFlow<'_>) -> FlowState {
    word(flow.state())
}

fn word(state: State) -> FlowState {
    match state {
        State::Opening => FlowState::Opening,
        State::Established => FlowState::Established,
        State::Closing => FlowState::Closing,
    }
}

fn write_line(text: &mut Vec<u8>, document: &impl serde::Serialize) {
    // A structure of strings and numbers, into memory: neither can fail.
    let _never: Result<(), serde_json::Error> = serde_json::to_writer(&mut *text, document);
    let _never: io::Result<()> = io::Write::write_all(text, b"\n");
}
