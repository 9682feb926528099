//! One node of a member, and the keys that are written and read back there.
//!
//! All keys of a node go out in one piece and their answers are read in order, so that a probe takes one round trip
//! however many keys there are. A key whose slot is just moving to another node (`ASK`) is asked for there.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use redis::{Cmd, Value};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::super::{
    redis::{Connection, shown, wrong},
    slots::Slots,
    stop::{self, Stop},
};
use crate::model::{Access, Cause, Limits, Phase, RedisErrorKind};

/// Pause before a command that was answered with `TRYAGAIN` is sent again.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// A key, and the slots that it stands for.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) slots: Slots,
    pub(super) name: String,
}

/// What all nodes are asked in one probe.
#[derive(Clone, Debug)]
pub(super) struct Round {
    /// Written under every key.
    pub(super) value: String,
    /// After which the server forgets it.
    pub(super) expiry: Duration,
    pub(super) started: Instant,
    pub(super) limits: Limits,
}

impl Round {
    /// When every answer must be there: a little before the probe is given up, so that it can still be said which shard it
    /// waited for.
    pub(super) fn deadline(&self) -> Instant {
        self.started + self.limits.answer - self.limits.answer / 20
    }

    /// When nothing more is begun for single keys, and no name waited for any more, so that all others are still heard of.
    pub(super) fn last_call(&self) -> Instant {
        self.started + self.limits.answer - self.limits.answer / 10
    }

    fn cause(&self, stop: Stop, address: SocketAddr) -> Cause {
        match stop {
            Stop::Answer(cause) => cause,
            Stop::Io(error) => stop::cause(&error, address, self.started.elapsed()),
        }
    }
}

/// Slots that cannot be written to or read from, where they should be, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) slots: Slots,
    /// `None`: no node is announced for them.
    pub(super) address: Option<SocketAddr>,
    pub(super) phase: Phase,
    pub(super) cause: Cause,
}

/// One address of a member, with a connection that is kept.
pub(super) struct Node {
    pub(super) address: SocketAddr,
    pub(super) access: Arc<Access>,
    /// Its name in the cluster; `None`: unknown, or several nodes are behind the address.
    pub(super) id: Option<String>,
    pub(super) keys: Vec<Key>,
    /// Logged in, and without an answer outstanding.
    pub(super) connection: Option<Connection>,
}

impl Node {
    /// Writes and reads back every key. The connection is kept only if it is in step afterwards.
    pub(super) async fn probe(&mut self, round: &Round) -> Vec<Fault> {
        let (mut phase, mut answered, mut faults) = (Phase::Connect, 0, Vec::new());
        let kept = self.connection.take();
        let attempt = self.attempt(kept, round, &mut phase, &mut answered, &mut faults);
        let cause = match timeout_at(round.deadline(), attempt).await {
            Ok(Ok(connection)) => {
                self.connection = Some(connection);
                return faults;
            }
            Ok(Err(stop)) => round.cause(stop, self.address),
            Err(_) => Cause::TimedOut(round.limits.answer),
        };
        faults.push(self.unanswered(answered, phase, cause));
        faults
    }

    /// What stopped a probe when the first `answered` keys had their answers. Behind a proxy the answers keep their order: the
    /// first that is missing is the one that waits for its shard, and nothing is known of those after it.
    fn unanswered(&self, answered: usize, phase: Phase, cause: Cause) -> Fault {
        let mut slots = Slots::default();
        let unknown = self.keys.get(answered..).filter(|keys| !keys.is_empty()).unwrap_or(&self.keys);
        let at_fault = if answered == 0 { unknown } else { &unknown[..unknown.len().min(1)] };
        at_fault.iter().for_each(|key| slots.join(&key.slots));
        Fault { slots, address: Some(self.address), phase, cause }
    }

    /// Over a kept connection first. One that has ended meanwhile, or brings no answer, says little: the same probe goes on
    /// over a new one, which tells a silent network from a server that is stalled.
    async fn attempt(
        &self,
        kept: Option<Connection>,
        round: &Round,
        phase: &mut Phase,
        answered: &mut usize,
        faults: &mut Vec<Fault>,
    ) -> Result<Connection, Stop> {
        if let Some(mut connection) = kept {
            *phase = Phase::Command;
            let conversation = self.converse(&mut connection, round, answered, faults);
            match timeout(round.limits.kept(), conversation).await {
                Err(_) => {}
                Ok(Err(stop)) if stop.is_closed() => {}
                Ok(Err(stop)) => return Err(stop),
                Ok(Ok(())) => return Ok(connection),
            }
            *answered = 0;
            faults.clear();
        }
        let mut connection = Connection::open(self.address, &self.access, phase).await?;
        self.identify(&mut connection).await?;
        self.converse(&mut connection, round, answered, faults).await?;
        Ok(connection)
    }

    /// Whether the node that answers is the one that was announced at this address: behind it may be another cluster, or a
    /// single server that takes every key. A server that does not tell (`CLUSTER MYID` is not in every edition, nor is it
    /// for every user) is believed.
    async fn identify(&self, connection: &mut Connection) -> Result<(), Stop> {
        let Some(announced) = &self.id else { return Ok(()) };
        match connection.ask(redis::cmd("CLUSTER").arg("MYID")).await {
            Ok(Value::BulkString(id)) if id != announced.as_bytes() => {
                let (id, announced) = (String::from_utf8_lossy(&id), announced);
                Err(wrong(format!(
                    "node {id} is here, and {announced} is announced; correct what the node announces"
                )))
            }
            Err(Stop::Answer(Cause::Redis(_, text))) if text.contains("cluster support disabled") => {
                Err(wrong(format!(
                    "a server without cluster is here, and node {announced} is announced; correct what the node announces"
                )))
            }
            Ok(_) | Err(Stop::Answer(Cause::Redis(..))) => Ok(()),
            Err(stop) => Err(stop),
        }
    }

    /// Every key over this connection. What concerns one key alone is added to `faults`.
    async fn converse(
        &self,
        connection: &mut Connection,
        round: &Round,
        answered: &mut usize,
        faults: &mut Vec<Fault>,
    ) -> Result<(), Stop> {
        let commands: Vec<_> = self.keys.iter().flat_map(|key| commands(key, round)).collect();
        connection.send_all(&commands).await?;
        let mut again = Vec::new();
        for key in &self.keys {
            // Both answers are taken, whatever the first one is.
            let (set, get) = (reply(connection).await?, reply(connection).await?);
            *answered += 1;
            if let Err(cause) = set.and_then(written).and_then(|()| read_back(&get?, round)) {
                again.push((key, cause));
            }
        }
        for (key, cause) in again {
            if let Err(cause) = self.again(key, cause, round).await {
                faults.push(self.fault(key, cause));
            }
        }
        Ok(())
    }

    fn fault(&self, key: &Key, cause: Cause) -> Fault {
        Fault { slots: key.slots.clone(), address: Some(self.address), phase: Phase::Command, cause }
    }

    /// What a key is owed whose slot is moving, until the last call; anything else is final.
    async fn again(&self, key: &Key, mut cause: Cause, round: &Round) -> Result<(), Cause> {
        let mut asks = 0;
        loop {
            let (address, asking) = match &cause {
                Cause::Redis(RedisErrorKind::Ask, text) => match target(text) {
                    Some(address) => (address, true),
                    None => return Err(Cause::WrongAnswer(text.clone())),
                },
                Cause::Redis(RedisErrorKind::TryAgain, _) => (self.address, false),
                _ => return Err(cause),
            };
            asks += 1;
            let pause = if asking && asks == 1 { Duration::ZERO } else { TRY_AGAIN_AFTER };
            let attempt = async {
                sleep(pause).await;
                self.aside(address, asking, key, round).await
            };
            let late = Instant::now() + pause >= round.last_call();
            match timeout_at(round.last_call(), attempt).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(next)) if !late => cause = next,
                _ if asking && !late => return Err(Cause::TimedOut(round.limits.answer)),
                _ => return Err(cause),
            }
        }
    }

    /// One key over a connection of its own, which may be dropped half-way: at the node that its slot is moving to, which
    /// takes it only if it is `asking`; or here once more.
    async fn aside(&self, address: SocketAddr, asking: bool, key: &Key, round: &Round) -> Result<(), Cause> {
        let mut phase = Phase::Connect;
        let exchange = async {
            let mut connection = Connection::open(address, &self.access, &mut phase).await?;
            let mut answers = Vec::new();
            for command in commands(key, round) {
                if asking {
                    connection.ask(&redis::cmd("ASKING")).await?;
                }
                connection.send(&command).await?;
                answers.push(reply(&mut connection).await?);
            }
            Ok(answers)
        };
        let answers = exchange.await.map_err(|stop| round.cause(stop, address))?;
        match <[_; 2]>::try_from(answers) {
            Ok([set, get]) => set.and_then(written).and_then(|()| read_back(&get?, round)),
            Err(_) => Err(Cause::WrongAnswer("no answer".to_owned())),
        }
    }
}

/// Where `ASK` or `MOVED` leads: `ASK 3999 10.2.1.3:6379`. `None`: to a name, or to where the answer came from.
pub(super) fn target(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_whitespace().nth(2)?.rsplit_once(':')?;
    // IPv6 addresses come without brackets.
    let ip = host.trim_matches(['[', ']']).parse().ok()?;
    Some(SocketAddr::new(ip, port.parse().ok()?))
}

fn commands(key: &Key, round: &Round) -> [Cmd; 2] {
    let (mut set, mut get) = (redis::cmd("SET"), redis::cmd("GET"));
    let expiry = u64::try_from(round.expiry.as_millis()).unwrap_or(u64::MAX);
    set.arg(&key.name).arg(&round.value).arg("PX").arg(expiry);
    get.arg(&key.name);
    [set, get]
}

/// The next answer; an error reply is one, too.
async fn reply(connection: &mut Connection) -> Result<Result<Value, Cause>, Stop> {
    match connection.receive().await {
        Ok(value) => Ok(Ok(value)),
        Err(Stop::Answer(cause @ Cause::Redis(..))) => Ok(Err(cause)),
        Err(stop) => Err(stop),
    }
}

fn written(answer: Value) -> Result<(), Cause> {
    match answer {
        Value::Okay => Ok(()),
        other => Err(Cause::WrongAnswer(format!("SET answers {}", shown(&other)))),
    }
}

fn read_back(answer: &Value, round: &Round) -> Result<(), Cause> {
    let text = match answer {
        Value::BulkString(value) if value == round.value.as_bytes() => return Ok(()),
        Value::BulkString(_) => "GET answers another value than SET has written".to_owned(),
        Value::Nil => "GET finds nothing of what SET has written".to_owned(),
        other => format!("GET answers {}", shown(other)),
    };
    Err(Cause::WrongAnswer(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_lead_to_addresses() {
        let leads = |text| target(text).map(|address| address.to_string());
        assert_eq!(leads("ASK 3999 10.2.1.3:6379").as_deref(), Some("10.2.1.3:6379"));
        assert_eq!(leads("MOVED 3999 fd02:1::2:6379").as_deref(), Some("[fd02:1::2]:6379"));
        assert_eq!(leads("MOVED 3999 :6379"), None);
        assert_eq!(leads("MOVED 3999 redis.example:6379"), None);
        assert_eq!(leads("MOVED"), None);
    }
}
