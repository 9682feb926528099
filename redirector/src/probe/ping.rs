//! `ping`: Redis answers `PING` with `PONG`, over a connection that is kept from probe to probe.
//!
//! The redis crate encodes and decodes; the socket is this module's own. The crate's connections would hide what
//! a probe is there to see: its connection manager reconnects, and the others have time-outs of their own, send
//! further commands, and do not tell which phase failed or that an idle connection has ended.

use std::{future, io, net::SocketAddr};

use redis::{Cmd, Value};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    socket,
    stop::{self, Stop},
};
use crate::model::{Cause, Login, Phase, RedisErrorKind};

/// Longest line that an answer may have. Redis's own stay far below.
const LONGEST_ANSWER: usize = 16 * 1024;

/// How much of an answer is repeated in a report, in characters.
const LONGEST_QUOTE: usize = 120;

/// The state of a `ping` prober.
pub(super) struct Ping {
    address: SocketAddr,
    login: Login,
    /// Logged in, and without an answer outstanding.
    kept: Option<TcpStream>,
}

impl Ping {
    pub(super) fn new(address: SocketAddr, login: Login) -> Self {
        Self { address, login, kept: None }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// One probe. The connection is kept only when it passes: dropped half-way or failed, the next one connects anew.
    ///
    /// A kept connection that turns out to have ended says little (a server's idle time-out, an operator's
    /// `CLIENT KILL`), so the same probe asks again over a new one.
    pub(super) async fn probe(&mut self, phase: &mut Phase) -> Result<(), Stop> {
        if let Some(mut stream) = self.kept.take() {
            *phase = Phase::Command;
            match ping(&mut stream).await {
                Err(stop) if stop.is_closed() => *phase = Phase::Connect,
                Err(stop) => return Err(stop),
                Ok(()) => {
                    self.kept = Some(stream);
                    return Ok(());
                }
            }
        }
        let mut stream = socket::open(self.address).await?;
        if let Some(password) = &self.login.password {
            *phase = Phase::Authenticate;
            let mut auth = redis::cmd("AUTH");
            if let Some(username) = &self.login.username {
                auth.arg(username);
            }
            auth.arg(password.expose());
            authenticate(&mut stream, &auth).await?;
        }
        *phase = Phase::Command;
        ping(&mut stream).await?;
        self.kept = Some(stream);
        Ok(())
    }

    /// Returns when the kept connection has ended (and drops it); never, when there is none.
    pub(super) async fn ended(&mut self) {
        match &self.kept {
            Some(stream) => end_of(stream).await,
            None => future::pending().await,
        }
        self.kept = None;
    }
}

/// Waits for the end of an idle connection. Bytes that nobody asked for end it too: it is out of step.
async fn end_of(stream: &TcpStream) {
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut [0; 1]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}

/// `PING`, and nothing but `PONG` will do.
async fn ping(stream: &mut TcpStream) -> Result<(), Stop> {
    let answer = ask(stream, &redis::cmd("PING")).await?;
    Err(Stop::Answer(match parse(&answer) {
        Some(Value::SimpleString(text)) if text == "PONG" => return Ok(()),
        Some(Value::ServerError(error)) => {
            let text = format!("{} {}", error.code(), error.details().unwrap_or_default());
            Cause::Redis(RedisErrorKind::of(error.code()), quote(text.trim_end()))
        }
        _ => Cause::WrongAnswer(quote(&String::from_utf8_lossy(&answer))),
    }))
}

/// `AUTH`. What the member answers is not repeated: Redis quotes the arguments of a command that it does not know
/// (`rename-command AUTH`), and a port that is not Redis may echo them.
async fn authenticate(stream: &mut TcpStream, auth: &Cmd) -> Result<(), Stop> {
    let answer = ask(stream, auth).await?;
    Err(Stop::Answer(match parse(&answer) {
        Some(Value::Okay) => return Ok(()),
        Some(Value::ServerError(error)) => refused(error.code(), error.details().unwrap_or_default()),
        _ => Cause::WrongAnswer("no Redis answer to AUTH".to_owned()),
    }))
}

/// The meaning of an error reply to `AUTH`, in own words.
fn refused(code: &str, details: &str) -> Cause {
    let (kind, text) = match RedisErrorKind::of(code) {
        RedisErrorKind::Credentials => {
            (RedisErrorKind::Credentials, "AUTH was refused: wrong user or password")
        }
        RedisErrorKind::Other if details.starts_with("max number of clients") => {
            (RedisErrorKind::Other, "max number of clients reached")
        }
        // No password is set, AUTH is renamed, or it takes no user before Redis 6: all of them plain ERR.
        RedisErrorKind::Other if details.to_ascii_lowercase().contains("auth") => {
            (RedisErrorKind::Credentials, "AUTH was refused: the member asks for no password, or for no user")
        }
        kind => (kind, "the answer to AUTH was an error that is not about credentials"),
    };
    Cause::Redis(kind, text.to_owned())
}

/// Sends a command whose answer is one line, and reads it with its CR LF. Without these two bytes it is no such
/// answer.
async fn ask(stream: &mut TcpStream, command: &Cmd) -> Result<Vec<u8>, Stop> {
    match stream.write_all(&command.get_packed_command()).await {
        // A server that turns a connection away (too many clients, protected mode) says why before it closes:
        // that is still to be read.
        Err(error) if !stop::is_closed(&error) => return Err(error.into()),
        _ => {}
    }
    let mut answer = Vec::with_capacity(64);
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        // Known to be wrong from its first byte: no need to wait for more.
        let is_line = matches!(answer[0], b'+' | b'-');
        if !is_line || answer.contains(&b'\n') || answer.len() > LONGEST_ANSWER {
            return Ok(answer);
        }
    }
}

/// The answer, if it is exactly one line of RESP.
fn parse(answer: &[u8]) -> Option<Value> {
    let line = answer.strip_suffix(b"\r\n")?;
    let is_line =
        matches!(line.first()?, b'+' | b'-') && !line.iter().any(|byte| matches!(byte, b'\r' | b'\n'));
    is_line.then(|| redis::parse_redis_value(answer).ok()).flatten()
}

/// Text of a member, safe to print: short, and without what could move a terminal's cursor.
fn quote(text: &str) -> String {
    let mut quoted = String::new();
    for c in text.chars().take(LONGEST_QUOTE) {
        match c {
            '\'' | '"' => quoted.push(c),
            _ => quoted.extend(c.escape_debug()),
        }
    }
    if text.chars().nth(LONGEST_QUOTE).is_some() {
        quoted.push('…');
    }
    quoted
}
