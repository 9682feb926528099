//! One connection to a member's Redis port: opened, encrypted, logged in, and asked.
//!
//! The redis crate encodes and decodes; the connection is this module's own. The crate's connections would hide what
//! a probe is there to see: its connection manager reconnects, and the others have time-outs of their own, send
//! further commands, and do not tell which phase failed or that an idle connection has ended.
//!
//! Nothing here has a time limit: whoever probes drops the future when the check's time is over.

use std::{io, net::SocketAddr, slice};

use redis::{Cmd, Value};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::{
    resp::{NoReply, Scan},
    socket,
    stop::{self, Stop},
};
use crate::{
    model::{Access, Cause, Login, Phase, RedisErrorKind},
    quote::quote,
    tls::{Connector, TlsStream},
};

/// In clear or encrypted.
trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {
    /// What the member showed, its own certificate first; empty in clear.
    fn certificates(&self) -> &[CertificateDer<'static>];
}

impl Stream for TcpStream {
    fn certificates(&self) -> &[CertificateDer<'static>] {
        &[]
    }
}

impl Stream for TlsStream {
    fn certificates(&self) -> &[CertificateDer<'static>] {
        self.get_ref().1.peer_certificates().unwrap_or_default()
    }
}

/// A connection to a member, logged in. It resets when it is dropped.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    /// Received, and not taken yet.
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects, shakes hands if the member is to be reached by TLS, and logs in if there is a password. `phase` says
    /// how far it came, also when it is dropped half-way.
    pub(super) async fn open(address: SocketAddr, access: &Access, phase: &mut Phase) -> Result<Self, Stop> {
        let mut connection = Self::connect(address, access, phase).await?;
        connection.enter(&access.login, phase).await?;
        Ok(connection)
    }

    /// The same without logging in.
    pub(crate) async fn connect(
        address: SocketAddr,
        access: &Access,
        phase: &mut Phase,
    ) -> Result<Self, Stop> {
        *phase = Phase::Connect;
        let stream = socket::open(address).await?;
        let stream: Box<dyn Stream> = match &access.tls {
            None => Box::new(stream),
            Some(tls) => {
                *phase = Phase::Tls;
                let connector = Connector::new(tls).map_err(|why| Stop::Answer(Cause::Local(why)))?;
                Box::new(connector.connect(&access.host, stream).await?)
            }
        };
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Logs in, if there is a password. From here on it is in the command phase.
    pub(crate) async fn enter(&mut self, login: &Login, phase: &mut Phase) -> Result<(), Stop> {
        if login.password.is_some() {
            *phase = Phase::Authenticate;
            self.authenticate(login).await?;
        }
        *phase = Phase::Command;
        Ok(())
    }

    /// The certificates that the member showed, its own first; empty in clear.
    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        self.stream.certificates()
    }

    /// Sends a command and returns its answer, whatever kind of value it is. An error reply stops the probe; one that is
    /// nested in an array is part of the answer.
    pub(crate) async fn ask(&mut self, command: &Cmd) -> Result<Value, Stop> {
        self.send(command).await?;
        let answer = self.receive().await?;
        if !self.buffer.is_empty() {
            return Err(wrong(format!("{} and more behind it", shown(&answer))));
        }
        Ok(answer)
    }

    /// Sends a command without waiting for what it brings.
    pub(super) async fn send(&mut self, command: &Cmd) -> Result<(), Stop> {
        self.send_all(slice::from_ref(command)).await
    }

    /// The same for several, in one piece.
    pub(super) async fn send_all(&mut self, commands: &[Cmd]) -> Result<(), Stop> {
        let mut packed = Vec::new();
        commands.iter().for_each(|command| command.write_packed_command(&mut packed));
        let sent = match self.stream.write_all(&packed).await {
            Ok(()) => self.stream.flush().await,
            Err(error) => Err(error),
        };
        match sent {
            // A server that turns a connection away (too many clients, protected mode, a client certificate that it
            // does not like) says why before it closes: that is still to be read.
            Err(error) if !stop::is_closed(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The next reply: one that is outstanding, or a message of a subscription. An error reply stops the probe.
    ///
    /// It may be dropped half-way and called again: what was received is kept.
    pub(super) async fn receive(&mut self) -> Result<Value, Stop> {
        match self.reply().await? {
            Value::ServerError(error) => Err(Stop::Answer(refusal(&error))),
            value => Ok(value),
        }
    }

    /// Returns when the connection has ended while nobody was waiting for anything. Bytes that nobody asked for end it,
    /// too: it is out of step.
    pub(super) async fn ended(&mut self) {
        let _ = self.stream.read_buf(&mut self.buffer).await;
    }

    /// `AUTH`. What the member answers is not repeated: Redis quotes the arguments of a command that it does not know
    /// (`rename-command AUTH`), and a port that is not Redis may echo them.
    async fn authenticate(&mut self, login: &Login) -> Result<(), Stop> {
        let Some(password) = &login.password else { return Ok(()) };
        let mut auth = redis::cmd("AUTH");
        if let Some(username) = &login.username {
            auth.arg(username);
        }
        auth.arg(password.expose());
        self.send(&auth).await?;
        let cause = match self.reply().await {
            Ok(Value::Okay) if self.buffer.is_empty() => return Ok(()),
            Ok(Value::ServerError(error)) => no_entry(error.code(), error.details().unwrap_or_default()),
            Ok(_) | Err(Stop::Answer(_)) => Cause::WrongAnswer("no Redis answer to AUTH".to_owned()),
            Err(stop) => return Err(stop),
        };
        Err(Stop::Answer(cause))
    }

    /// One reply, errors included, taken out of the buffer.
    async fn reply(&mut self) -> Result<Value, Stop> {
        let mut scan = Scan::new();
        loop {
            match scan.end(&self.buffer) {
                Err(NoReply) => return Err(wrong(unreadable(&self.buffer))),
                Ok(Some(end)) => {
                    let value = redis::parse_redis_value(&self.buffer[..end]);
                    let bytes: Vec<u8> = self.buffer.drain(..end).collect();
                    return value.map_err(|_| wrong(unreadable(&bytes)));
                }
                Ok(None) => {}
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}

/// An answer that the command does not call for.
pub(crate) fn wrong(text: String) -> Stop {
    Stop::Answer(Cause::WrongAnswer(text))
}

/// An answer in words, for a message.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::Nil => "nil".to_owned(),
        Value::Int(number) => format!("the number {number}"),
        Value::BulkString(bytes) => format!("the string {:?}", quote(&String::from_utf8_lossy(bytes))),
        Value::Okay => "OK".to_owned(),
        Value::SimpleString(text) => quote(text),
        Value::Array(values) => format!("an array of {}", values.len()),
        Value::ServerError(error) => {
            quote(&format!("{} {}", error.code(), error.details().unwrap_or_default()))
        }
        _ => "a value of another type".to_owned(),
    }
}

/// What is no reply, in words.
fn unreadable(bytes: &[u8]) -> String {
    // The record type and major version of a TLS alert: an OpenSSL server's answer to bytes in clear.
    if bytes.starts_with(&[0x15, 0x03]) {
        return "a TLS alert; the member speaks TLS on this port: set `tls` in [service.redis]".to_owned();
    }
    quote(&String::from_utf8_lossy(bytes))
}

/// The meaning of an error reply.
fn refusal(error: &redis::ServerError) -> Cause {
    let details = error.details().unwrap_or_default();
    let text = format!("{} {details}", error.code());
    Cause::Redis(RedisErrorKind::of(error.code(), details), quote(text.trim_end()))
}

/// The meaning of an error reply to `AUTH`, in own words.
fn no_entry(code: &str, details: &str) -> Cause {
    let (kind, text) = match RedisErrorKind::of(code, details) {
        kind if kind.is_about_credentials() => (kind, "AUTH was refused: wrong user or password"),
        RedisErrorKind::MaxClients => (RedisErrorKind::MaxClients, "max number of clients reached"),
        // No password is set, AUTH is renamed, or it takes no user before Redis 6: all of them plain ERR.
        RedisErrorKind::Other if details.to_ascii_lowercase().contains("auth") => {
            (RedisErrorKind::WrongPass, "AUTH was refused: the member asks for no password, or for no user")
        }
        kind => (kind, "the answer to AUTH was an error that is not about credentials"),
    };
    Cause::Redis(kind, text.to_owned())
}
