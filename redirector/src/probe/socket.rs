//! The connection that every probe opens.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpSocket, TcpStream},
    task_local,
    time::timeout,
};

task_local! {
    /// How long the probe that this task is at waits for the answer to its SYN; `None`: as long as for everything. Only the loop
    /// of the probes knows it, and only [`open`] needs it; the kinds of checks between them do not.
    pub(super) static SILENCE: Option<Duration>;
}

/// Connects to `address`, within [`SILENCE`] if that is set.
///
/// The stream resets when it is dropped (`SO_LINGER` 0) instead of closing in an orderly way. Up to 20 probes a
/// second would else leave a thousand `TIME_WAIT` sockets, each with a port taken, and every probe of a member
/// behind a black hole a socket that sends its FIN again for minutes. Probes have nothing to lose by a reset;
/// HAProxy ends its connect checks in the same way.
///
/// # Errors
///
/// Those of socket(2) and connect(2); [`io::ErrorKind::TimedOut`] after [`SILENCE`]; [`io::ErrorKind::ConnectionRefused`] also when the socket got connected to
/// itself: on an address of this host the kernel may choose the very port that it connects to as the source, and
/// TCP's simultaneous open (RFC 9293, 3.5) then succeeds without a server.
pub(crate) async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_nodelay(true)?;
    socket.set_zero_linger()?;
    let stream = match SILENCE.try_with(|limit| *limit).ok().flatten() {
        Some(limit) => {
            timeout(limit, socket.connect(address)).await.map_err(|_| io::ErrorKind::TimedOut)??
        }
        None => socket.connect(address).await?,
    };
    if stream.local_addr()? == address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}
