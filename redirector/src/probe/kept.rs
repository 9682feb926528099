//! A connection that is kept from probe to probe, and what is said over it.

use std::{future, net::SocketAddr};

use super::{redis::Connection, stop::Stop};
use crate::model::{Access, Phase};

/// What one kind of check asks over a connection.
pub(super) trait Dialogue {
    /// One probe's questions and answers. `Ok` leaves nothing outstanding.
    async fn hold(&mut self, connection: &mut Connection) -> Result<(), Stop>;
}

/// A prober that asks over a kept connection.
pub(super) struct Kept<D> {
    address: SocketAddr,
    access: Access,
    dialogue: D,
    /// Logged in, and without an answer outstanding.
    connection: Option<Connection>,
}

impl<D: Dialogue> Kept<D> {
    pub(super) fn new(address: SocketAddr, access: Access, dialogue: D) -> Self {
        Self { address, access, dialogue, connection: None }
    }

    /// One probe. The connection is kept only when it passes: dropped half-way or failed, the next one connects anew.
    ///
    /// A kept connection that turns out to have ended says little (a server's idle time-out, an operator's
    /// `CLIENT KILL`), so the same probe asks again over a new one.
    pub(super) async fn probe(&mut self, phase: &mut Phase) -> Result<(), Stop> {
        if let Some(mut connection) = self.connection.take() {
            *phase = Phase::Command;
            match self.dialogue.hold(&mut connection).await {
                Err(stop) if stop.is_closed() => {}
                Err(stop) => return Err(stop),
                Ok(()) => {
                    self.connection = Some(connection);
                    return Ok(());
                }
            }
        }
        let mut connection = Connection::open(self.address, &self.access, phase).await?;
        self.dialogue.hold(&mut connection).await?;
        self.connection = Some(connection);
        Ok(())
    }

    /// Whether there is a connection to ask over.
    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// The next probe connects anew.
    pub(super) fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Returns when the kept connection has ended (and drops it); never, when there is none.
    pub(super) async fn ended(&mut self) {
        match &mut self.connection {
            Some(connection) => connection.ended().await,
            None => future::pending().await,
        }
        self.connection = None;
    }
}
