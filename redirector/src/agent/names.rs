//! Following names: one task for each member whose endpoint is a name, and one that learns how new addresses are reached.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{
    QUEUE,
    tasks::{Owned, Tasks},
};
use crate::{
    config::Resolved,
    datapath::Learner,
    model::{Config, MemberId, ServiceId},
    resolve::{Changed, Followed, Resolver, follow},
    telemetry::{Event, Events},
};

/// What following names takes.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) resolver: Arc<Resolver>,
    pub(super) events: Events,
}

/// The tasks for the names of one configuration. Dropping it ends them, and forgets what they have found out and not said.
pub(super) struct Names {
    _running: Vec<Owned>,
    changed: mpsc::Receiver<Changed>,
}

impl Names {
    /// What is known was asked a moment ago.
    pub(super) fn follow(
        source: &Source,
        config: &Arc<Config>,
        resolved: &Resolved,
        learner: Learner,
        tasks: &mut Tasks,
    ) -> Self {
        let (changes, from_resolver) = mpsc::channel(QUEUE);
        let (learnt, changed) = mpsc::channel(QUEUE);
        let mut running = Vec::new();
        for (at, service) in config.services.iter().enumerate() {
            for (number, member) in service.members.iter().enumerate() {
                let endpoint = &member.endpoint;
                if endpoint.literal().is_some() {
                    continue;
                }
                let (service, member) = (ServiceId(at), MemberId(number));
                let known = resolved.addresses(service, member).clone();
                let followed = Followed { config: Arc::clone(config), service, member, known };
                let name = format!("what follows the addresses of {endpoint}");
                running.push(
                    tasks.spawn_owned(name, follow(Arc::clone(&source.resolver), followed, changes.clone())),
                );
            }
        }
        let learn = learn(learner, from_resolver, learnt, source.events.clone(), changes);
        running.push(tasks.spawn_owned("what learns how addresses are reached", learn));
        Self { _running: running, changed }
    }

    /// Waits until a member has other addresses, and it is known how they are reached. Nothing is lost when the wait is
    /// dropped.
    pub(super) async fn changed(&mut self) -> Option<Changed> {
        self.changed.recv().await
    }
}

/// Finds out how new addresses are reached before anything is sent there. Not in the agent's own task: the kernel may take
/// its time to answer, and a switch does not wait for that.
async fn learn(
    learner: Learner,
    mut from: mpsc::Receiver<Changed>,
    to: mpsc::Sender<Changed>,
    events: Events,
    // Held, so that the queue stays open without a single name.
    _open: mpsc::Sender<Changed>,
) {
    while let Some(changed) = from.recv().await {
        let Changed { service, member, addresses } = &changed;
        if let Err(error) = learner.learn(*service, *member, addresses.as_slice()).await {
            let message = format!("how {addresses} are reached is not known: {error:#}");
            events.emit(Event::Error { service: None, member: None, message });
        }
        if to.send(changed).await.is_err() {
            return;
        }
    }
}
