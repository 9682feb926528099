//! Places at the control socket: those who may operate have their own of each kind, so that nobody who may only read, however
//! many they are and however long they stay, keeps them out. Nor do those who follow events: what is left besides is theirs.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// A place that is taken, until the last clone of this is dropped: whatever is done for a client holds one, also when the
/// client has left.
pub type Place = Arc<OwnedSemaphorePermit>;

/// Clients at a time that follow events, without a limit on their time: so many who may operate, and so many others.
pub const MAX_FOLLOWERS: usize = 16;

/// Connections at a time of those who may only read. The probes need file descriptors too.
const OTHERS: usize = 48;

/// Connections at a time of those who may operate, by far more than may follow events.
const OPERATORS: usize = 64;

/// Connections at a time that are being turned away.
const TURNED_AWAY: usize = 8;

/// Lists of flows at a time: their clients may be slow to read them.
pub(super) const MAX_LISTS: usize = 4;

/// Other answers at a time that need the whole flow table.
pub(super) const MAX_COUNTS: usize = 4;

/// The places of everybody.
pub(super) struct AllPlaces {
    pub(super) operators: Places,
    others: Places,
    turned_away: Arc<Semaphore>,
}

impl AllPlaces {
    pub(super) fn of(&self, may_operate: bool) -> &Places {
        if may_operate { &self.operators } else { &self.others }
    }

    /// To be told at leisure that there is no place; `None`: it must be done at once.
    pub(super) fn turned_away(&self) -> Option<Place> {
        Arc::clone(&self.turned_away).try_acquire_owned().ok().map(Place::new)
    }
}

impl Default for AllPlaces {
    fn default() -> Self {
        Self {
            operators: Places::new(OPERATORS),
            others: Places::new(OTHERS),
            turned_away: Arc::new(Semaphore::new(TURNED_AWAY)),
        }
    }
}

/// The places of those who may operate, or of all others. Clones are of the same places.
#[derive(Clone)]
pub(in super::super) struct Places {
    connections: Arc<Semaphore>,
    lists: Arc<Semaphore>,
    counts: Arc<Semaphore>,
    followers: Arc<Semaphore>,
}

impl Places {
    fn new(connections: usize) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self {
            connections: places(connections),
            lists: places(MAX_LISTS),
            counts: places(MAX_COUNTS),
            followers: places(MAX_FOLLOWERS),
        }
    }

    /// Whether a place for a connection is free.
    pub(super) fn has_room(&self) -> bool {
        self.connections.available_permits() > 0
    }

    /// For a connection; `None`: none is free.
    pub(super) fn connection(&self) -> Option<Place> {
        Arc::clone(&self.connections).try_acquire_owned().ok().map(Place::new)
    }

    /// For somebody who follows events; `None`: none is free.
    pub(in super::super) fn follower(&self) -> Option<Place> {
        Arc::clone(&self.followers).try_acquire_owned().ok().map(Place::new)
    }

    /// For a list of flows, as long as it is made or its client reads it; `None`: none became free within this time.
    pub(super) async fn list(&self, within: Duration) -> Option<Place> {
        free_within(within, &self.lists).await
    }

    /// For any other answer that needs the whole flow table, until it is there.
    pub(super) async fn count(&self, within: Duration) -> Option<Place> {
        free_within(within, &self.counts).await
    }
}

async fn free_within(time: Duration, places: &Arc<Semaphore>) -> Option<Place> {
    timeout(time, Arc::clone(places).acquire_owned()).await.ok()?.ok().map(Place::new)
}
