//! The two connections to one member: one that publishes, and one that is subscribed. A connection in RESP2 that is
//! subscribed can do nothing else.
//!
//! A member with several addresses is reached by one of them, by the next when that one fails: what is published through
//! one proxy of a database is published to all of it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use redis::Value;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

use super::super::{
    redis::{Connection, shown, wrong},
    stop::{self, Stop},
};
use crate::model::{Access, Cause, Failure, Phase};

/// What happened at a member.
#[derive(Debug)]
pub(super) struct News {
    pub(super) member: usize,
    pub(super) at: Instant,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// It accepted the messages that were sent then.
    Accepted(Duration),
    /// It did not.
    NotAccepted(Failure),
    /// Its subscription stands.
    Subscribed,
    /// It does not.
    NotSubscribed(Failure),
    /// A message that was published through this member arrived.
    Heard { from: usize, channel: usize, sent: Duration },
}

/// How a member is reached.
pub(super) struct Line {
    pub(super) member: usize,
    pub(super) access: Access,
    pub(super) addresses: watch::Receiver<Vec<SocketAddr>>,
    pub(super) channels: Arc<[String]>,
    /// For one beat, or one subscription, all phases together.
    pub(super) limit: Duration,
    /// From the start of one subscription to the start of the next, at least.
    pub(super) pause: Duration,
    pub(super) news: mpsc::Sender<News>,
    /// Which address is tried first.
    pub(super) turn: usize,
}

impl Line {
    /// Publishes at each beat; a beat that comes while an earlier one still waits for its answer is left out. Ends with
    /// the beats.
    pub(super) async fn speak(mut self, mut beats: watch::Receiver<Duration>) {
        let mut kept = None;
        while beats.changed().await.is_ok() {
            let sent = *beats.borrow_and_update();
            let mut phase = Phase::Connect;
            let published = timeout(self.limit, self.publish(kept.take(), sent, &mut phase)).await;
            let what = match published {
                Ok(Ok(connection)) => {
                    kept = Some(connection);
                    What::Accepted(sent)
                }
                Ok(Err(cause)) => What::NotAccepted(self.failed(phase, cause)),
                Err(_) => What::NotAccepted(self.failed(phase, Cause::TimedOut(self.limit))),
            };
            if self.tell(what).await.is_err() {
                return;
            }
        }
    }

    /// Hears what is published, over one subscription after the other. `anew` asks for the next one.
    pub(super) async fn listen(mut self, anew: Arc<Notify>) {
        loop {
            let started = Instant::now();
            let mut phase = Phase::Connect;
            let subscribed = match timeout(self.limit, self.subscribe(&mut phase)).await {
                Ok(Ok(subscription)) => Ok(subscription),
                Ok(Err(cause)) => Err(cause),
                Err(_) => Err(Cause::TimedOut(self.limit)),
            };
            let told = match subscribed {
                Ok((address, mut connection)) => match self.tell(What::Subscribed).await {
                    Ok(()) => self.hear(address, &mut connection, &anew).await,
                    gone => gone,
                },
                Err(cause) => {
                    let failure = self.failed(phase, cause);
                    self.tell(What::NotSubscribed(failure)).await
                }
            };
            if told.is_err() {
                return;
            }
            sleep_until(started + self.pause).await;
        }
    }

    async fn publish(
        &mut self,
        kept: Option<(SocketAddr, Connection)>,
        sent: Duration,
        phase: &mut Phase,
    ) -> Result<(SocketAddr, Connection), Cause> {
        let kept = kept.filter(|(address, _)| self.addresses.borrow().contains(address));
        if let Some((address, mut connection)) = kept {
            *phase = Phase::Command;
            match self.send(&mut connection, sent).await {
                // A server's idle time-out, or an operator: the same beat goes over a new connection.
                Err(stop) if stop.is_closed() => {}
                Err(stop) => return Err(self.cause(stop, address)),
                Ok(()) => return Ok((address, connection)),
            }
        }
        let (address, mut connection) = self.open(phase).await?;
        self.send(&mut connection, sent).await.map_err(|stop| self.cause(stop, address))?;
        Ok((address, connection))
    }

    async fn send(&self, connection: &mut Connection, sent: Duration) -> Result<(), Stop> {
        let message = write(self.member, sent);
        let commands: Vec<_> = self
            .channels
            .iter()
            .map(|channel| {
                let mut publish = redis::cmd("PUBLISH");
                publish.arg(channel).arg(&message);
                publish
            })
            .collect();
        connection.send_all(&commands).await?;
        for _ in &commands {
            match connection.receive().await? {
                // How many heard it at this node: nobody does where the subscription stands at another one.
                Value::Int(_) => {}
                other => return Err(wrong(format!("{} to PUBLISH", shown(&other)))),
            }
        }
        Ok(())
    }

    async fn subscribe(&mut self, phase: &mut Phase) -> Result<(SocketAddr, Connection), Cause> {
        let (address, mut connection) = self.open(phase).await?;
        let subscribe = async {
            let mut command = redis::cmd("SUBSCRIBE");
            self.channels.iter().for_each(|channel| {
                command.arg(channel);
            });
            connection.send(&command).await?;
            // One answer for each. Messages of the first ones may come in between.
            let mut confirmed = 0;
            while confirmed < self.channels.len() {
                match first_word(&connection.receive().await?).as_deref() {
                    Some(b"subscribe") => confirmed += 1,
                    Some(b"message") => {}
                    _ => return Err(wrong("no Redis answer to SUBSCRIBE".to_owned())),
                }
            }
            Ok(())
        };
        subscribe.await.map_err(|stop| self.cause(stop, address))?;
        Ok((address, connection))
    }

    /// Until the subscription has ended, or is asked for anew, or its address is the member's no more.
    async fn hear(
        &mut self,
        address: SocketAddr,
        connection: &mut Connection,
        anew: &Notify,
    ) -> Result<(), Gone> {
        loop {
            tokio::select! {
                message = connection.receive() => match message {
                    Ok(message) => {
                        if let Some(what) = self.read(&message) {
                            self.tell(what).await?;
                        }
                    }
                    Err(_) => return Ok(()),
                },
                () = anew.notified() => {
                    self.turn += 1;
                    return Ok(());
                }
                // Without a sender they stay as they are.
                Ok(()) = self.addresses.changed() => {
                    if !self.addresses.borrow_and_update().contains(&address) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// A connection to the first of the addresses that has one.
    async fn open(&mut self, phase: &mut Phase) -> Result<(SocketAddr, Connection), Cause> {
        let addresses = self.addresses.borrow_and_update().clone();
        let mut cause = Cause::Local("the member has no address".to_owned());
        for number in 0..addresses.len() {
            let address = addresses[(self.turn + number) % addresses.len()];
            match Connection::open(address, &self.access, phase).await {
                Ok(connection) => return Ok((address, connection)),
                Err(stop) => cause = self.cause(stop, address),
            }
        }
        Err(cause)
    }

    fn cause(&self, stop: Stop, address: SocketAddr) -> Cause {
        match stop {
            Stop::Answer(cause) => cause,
            Stop::Io(error) => stop::cause(&error, address, self.limit),
        }
    }

    /// The next attempt begins with another address.
    fn failed(&mut self, phase: Phase, cause: Cause) -> Failure {
        self.turn += 1;
        Failure { phase, cause }
    }

    /// `["message", channel, text]`, if it is ours.
    fn read(&self, message: &Value) -> Option<What> {
        let Value::Array(parts) = message else { return None };
        let [Value::BulkString(word), Value::BulkString(channel), Value::BulkString(text)] = parts.as_slice()
        else {
            return None;
        };
        let channel = self.channels.iter().position(|name| name.as_bytes() == channel)?;
        let (from, sent) = read(text)?;
        (word == b"message").then_some(What::Heard { from, channel, sent })
    }

    async fn tell(&self, what: What) -> Result<(), Gone> {
        let news = News { member: self.member, at: Instant::now(), what };
        self.news.send(news).await.map_err(|_| Gone)
    }
}

/// Nobody listens any more.
struct Gone;

fn first_word(answer: &Value) -> Option<Vec<u8>> {
    match answer {
        Value::Array(parts) => match parts.first()? {
            Value::BulkString(word) => Some(word.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// Through which member, and when: since the heartbeat began, in microseconds.
fn write(member: usize, sent: Duration) -> String {
    format!("{member}:{}", sent.as_micros())
}

fn read(text: &[u8]) -> Option<(usize, Duration)> {
    let (member, sent) = str::from_utf8(text).ok()?.split_once(':')?;
    Some((member.parse().ok()?, Duration::from_micros(sent.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_whose_they_are() {
        let sent = Duration::from_micros(1_234_567);
        assert_eq!(read(write(3, sent).as_bytes()), Some((3, sent)));
        for text in ["", "3", "3:", ":3", "x:3", "3:-1", "3:99999999999999999999999"] {
            assert_eq!(read(text.as_bytes()), None, "{text:?}");
        }
    }
}
