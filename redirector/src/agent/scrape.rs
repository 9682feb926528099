//! What the listener for metrics asks the agent, and who wants to read events.

use std::{collections::BTreeSet, sync::Arc};

use super::{Agent, report};
use crate::{
    control::ErrorText,
    decide::{MemberView, View},
    model::{Check, Config, Member, Service},
    telemetry::{
        Event, Selection, Subscription,
        exposition::{self, CheckSample, Sample},
        server::Ask,
    },
};

/// What every check says of the addresses of every member.
fn checks(config: &Config, views: &[View]) -> Vec<CheckSample> {
    let members = config.services.iter().zip(views).flat_map(|(service, view)| {
        service.members.iter().zip(&view.members).map(move |(member, view)| (service, member, view))
    });
    let each = |(service, member, view): (&Service, &Member, &MemberView)| {
        let sample = |(number, check): (usize, &Check)| CheckSample {
            service: service.name.clone(),
            member: member.name.clone(),
            check: check.name.clone(),
            states: view.addresses.iter().filter_map(|view| view.checks.get(number).copied()).collect(),
        };
        member.checks.iter().enumerate().map(sample).collect::<Vec<_>>()
    };
    members.flat_map(each).collect()
}

impl Agent {
    pub(super) fn on_ask(&self, ask: Ask) {
        // In each case the client may have gone away meanwhile.
        match ask {
            Ask::Alive { reply } => {
                let _gone = reply.send(());
            }
            Ask::Ready { reply } => {
                let without =
                    self.cores.iter().zip(&self.config.services).filter(|(core, _)| core.active().is_none());
                let _gone = reply.send(without.map(|(_, service)| service.name.clone()).collect());
            }
            Ask::Scrape { turn, reply } => {
                let now = self.clock.now();
                let views: Vec<_> = self.cores.iter().map(|core| core.view(now)).collect();
                let count = self.datapath.counter();
                let (config, clock) = (Arc::clone(&self.config), self.clock);
                let board = self.lookouts.board().clone();
                let (metrics, events) = (self.observer.metrics.clone(), self.observer.events.clone());
                // Counting reads the whole flow table, and some thousand series are a megabyte of text.
                tokio::task::spawn_blocking(move || {
                    match count() {
                        Ok(counts) => {
                            let sample = Sample {
                                checks: checks(&config, &views),
                                status: report::status(&config, &views, &counts, &board, clock),
                                flows: counts.all_flows(),
                                max_flows: counts.max_flows.into(),
                                counted_in: counts.counted_in,
                            };
                            let _gone = reply.send(exposition::encode(sample, &metrics, &events));
                        }
                        Err(error) => {
                            let message = format!("cannot read the maps: {error:#}");
                            events.emit(Event::Error { service: None, member: None, message });
                        }
                    }
                    drop(turn);
                });
            }
        }
    }

    /// The events that are meant, if there is a service of that name, or was one.
    pub(super) fn subscribe(&self, selection: Selection) -> Result<Subscription, ErrorText> {
        if let Some(name) = &selection.service
            && !self.config.services.iter().any(|service| service.name == *name)
            && !self.observer.events.know(name)
        {
            let known: BTreeSet<_> =
                self.config.services.iter().map(|service| format!("\"{}\"", service.name)).collect();
            let known: Vec<_> = known.into_iter().collect();
            return Err(ErrorText {
                message: format!("there is no service \"{name}\"; there is {}", known.join(", ")),
                next: "check the name, or leave it out to see the events of all".into(),
            });
        }
        Ok(self.observer.events.subscribe(selection))
    }
}
