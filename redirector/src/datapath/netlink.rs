//! Route netlink: lists that are whole, or an error.
//!
//! What a list ends with says whether it is one. The kernel refuses a list, or gives up in the middle of it, with an error
//! number in the message that ends it (`NLMSG_DONE`); and it marks a list that may lack something, because what it tells of
//! changed meanwhile (`NLM_F_DUMP_INTR`: links, addresses and rules; routes are found again by their keys). The streams of
//! rtnetlink's requests know neither: for them both are the end of the list. So lists are asked for here.
//!
//! | | |
//! |---|---|
//! | [`connect`], [`list`] | over a connection of rtnetlink |
//! | [`Socket`] | in the calling thread: giving a claim back is no asynchronous work, threads in other namespaces have no runtime |

mod socket;
#[cfg(test)]
mod tests;

use std::{io, time::Duration};

use rtnetlink::{
    Handle,
    packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
};
use tokio_stream::StreamExt as _;

pub(super) use self::socket::Socket;

/// How often a list is asked for that changes while the kernel tells it. It does so in parts of 32 KiB: some 400 addresses.
const TRIES: u32 = 10;

/// Between two of them: whoever changes much is done after a moment.
const PAUSE: Duration = Duration::from_millis(10);

/// What a message of an answer says.
enum Heard<T> {
    Item(T),
    /// All is said; or done, where a change was asked for.
    End,
    Nothing,
}

fn hear<T>(payload: NetlinkPayload<T>) -> io::Result<Heard<T>> {
    match payload {
        NetlinkPayload::InnerMessage(item) => Ok(Heard::Item(item)),
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        NetlinkPayload::Done(done) if done.code < 0 => {
            Err(io::Error::from_raw_os_error(done.code.saturating_neg()))
        }
        NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => Ok(Heard::End),
        _ => Ok(Heard::Nothing),
    }
}

fn restless() -> io::Error {
    io::Error::new(
        io::ErrorKind::Interrupted,
        format!("it changed each of the {TRIES} times that the kernel was asked for it; try again"),
    )
}

/// A connection for requests of all kinds, and for [`list`]. `strict`: the kernel takes every word of a question seriously,
/// and filters lists by it (Linux 4.20). Needs a tokio runtime, which drives it.
pub(super) fn connect(strict: bool) -> io::Result<Handle> {
    let new = if strict { rtnetlink::new_connection_with_strict_check } else { rtnetlink::new_connection };
    let (mut connection, handle, _) = new()?;
    connection.set_forward_done(true);
    tokio::spawn(connection);
    Ok(handle)
}

/// What `keep` makes of everything that the kernel tells in answer to a question; over a handle of [`connect`].
pub(super) async fn list<T>(
    handle: &Handle,
    question: RouteNetlinkMessage,
    mut keep: impl FnMut(RouteNetlinkMessage) -> Option<T>,
) -> io::Result<Vec<T>> {
    let mut question = NetlinkMessage::from(question);
    question.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    for _ in 0..TRIES {
        let mut answer = handle.clone().request(question.clone()).map_err(io::Error::other)?;
        let (mut found, mut interrupted) = (Vec::new(), false);
        loop {
            let Some(message) = answer.next().await else { return Err(lost()) };
            interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
            match hear(message.payload)? {
                Heard::Item(item) => found.extend(keep(item)),
                Heard::End if interrupted => break,
                Heard::End => return Ok(found),
                Heard::Nothing => {}
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(restless())
}

/// Of an answer that ended before it said anything, or before its end.
pub(super) fn lost() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the netlink connection has ended; look at the log")
}
