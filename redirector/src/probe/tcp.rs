//! `tcp`: the member's host completes a handshake. It says nothing of Redis: the kernel of a frozen process still
//! answers.

use std::net::SocketAddr;

use super::{socket, stop::Stop};

/// Opens a connection and resets it (see [`socket::open`] for why a reset).
pub(super) async fn probe(address: SocketAddr) -> Result<(), Stop> {
    socket::open(address).await?;
    Ok(())
}
