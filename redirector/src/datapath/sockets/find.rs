//! Whether local sockets still exist: one exact lookup each, by tuple and cookie, without a dump (`sock_diag(7)`).

use std::net::TcpListener;

use anyhow::{Context as _, Result};
use redirector_common::addr::Tuple;

use super::{SOCK_DIAG_BY_FAMILY, Victim, diag::Diag};

/// Questions asked with one system call. An answer takes some kilobytes of the receive buffer.
const BATCH: usize = 32;

/// Looks sockets of this network namespace up.
#[derive(Debug)]
pub(in super::super) struct Finder {
    diag: Diag,
}

impl Finder {
    pub(in super::super) fn open() -> Result<Self> {
        Ok(Self { diag: Diag::open()? })
    }

    /// Whether the kernel finds sockets at all (`CONFIG_INET_DIAG`): it answers in the same way when it does not as
    /// for a socket that is gone. Looks an own one up.
    pub(in super::super) fn works(&self) -> Result<bool> {
        // Without loopback there is nothing to look up; then nothing can be told.
        let Ok(listener) = TcpListener::bind("127.0.0.1:0") else { return Ok(false) };
        let cookie = rustix::net::sockopt::socket_cookie(&listener)?;
        // A listener is found by its own end; the other one only has to be no port 0.
        let client_side = Tuple::between(listener.local_addr()?, ([127, 0, 0, 1], 1).into());
        Ok(self.are_gone(&[Victim { client_side, cookie }])? == [false])
    }

    /// For each socket, whether the kernel says that it does not exist. Where it says something else or nothing, the
    /// socket is taken to be there.
    pub(in super::super) fn are_gone(&self, sockets: &[Victim]) -> Result<Vec<bool>> {
        let mut gone = vec![false; sockets.len()];
        let answered = |number: usize, error: i32| {
            // Another cookie by now is no such socket either. A late answer to an earlier question has another number,
            // perhaps.
            if error == -libc::ENOENT
                && let Some(gone) = gone.get_mut(number)
            {
                *gone = true;
            }
        };
        self.diag.ask(SOCK_DIAG_BY_FAMILY, sockets, BATCH, answered).context("cannot ask for sockets")?;
        Ok(gone)
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpStream, os::fd::AsFd as _};

    use super::*;

    #[test]
    fn a_socket_is_there_until_it_is_closed_and_another_one_with_its_tuple_is_another() {
        let finder = Finder::open().unwrap();
        assert!(finder.works().unwrap());
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let mut asked = Vec::new();
            let clients: Vec<_> = (0..100)
                .map(|_| {
                    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                    let client_side =
                        Tuple::between(client.local_addr().unwrap(), client.peer_addr().unwrap());
                    let cookie = rustix::net::sockopt::socket_cookie(client.as_fd()).unwrap();
                    asked.push(Victim { client_side, cookie });
                    client
                })
                .collect();
            assert_eq!(finder.are_gone(&asked).unwrap(), vec![false; 100]);
            let others: Vec<_> =
                asked.iter().map(|socket| Victim { cookie: socket.cookie + 1_000_000, ..*socket }).collect();
            assert_eq!(finder.are_gone(&others).unwrap(), vec![true; 100]);
            // The peers are reset, so that no socket waits for a late segment.
            for client in &clients {
                rustix::net::sockopt::set_socket_linger(client, Some(std::time::Duration::ZERO)).unwrap();
            }
            drop(clients);
            assert_eq!(finder.are_gone(&asked).unwrap(), vec![true; 100]);
        }
    }
}
