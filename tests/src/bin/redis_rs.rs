//! redis-rs through a VIP: `redis_rs NAME HOST PORT`. One of the clients that `tests/clients.rs` takes through a failover;
//! the others stand in `tests/clients/`, where `report.py` tells of the lines that they print.
//!
//! redis-rs shares a connection where others have a pool: the `ConnectionManager`, with its defaults, but for the time limit
//! of answers where a command waits for ever. NAME makes the application's keys its own.

use std::{env, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use redis::{
    AsyncTypedCommands, Client, ErrorKind, PushInfo, PushKind, RedisError, RedisResult, Value,
    aio::{ConnectionManager, ConnectionManagerConfig},
    from_redis_value_ref, pipe,
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value as Json, json};
use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};

/// What an application waits before it calls again after an error.
const AGAIN: Duration = Duration::from_millis(10);
/// How long an idle connection stays unused after the failover.
const IDLE: Duration = Duration::from_millis(300);

/// Answers who served, or why nobody did.
type Answer = RedisResult<String>;

/// One use of the client: reports who serves it, when that changes or an error came between.
struct Use {
    name: &'static str,
    by: Option<String>,
}

impl Use {
    fn new(name: &'static str) -> Self {
        Self { name, by: None }
    }

    /// Answers whether this is news.
    fn served(&mut self, by: String) -> bool {
        let news = self.by.as_ref() != Some(&by);
        if news {
            report(self.name, "served", json!({ "by": by }));
        }
        self.by = Some(by);
        news
    }

    /// Calls until there is an answer, as an application does that goes on after an error.
    async fn again(&mut self, mut call: impl AsyncFnMut() -> Answer) -> bool {
        loop {
            match call().await {
                Ok(by) => return self.served(by),
                Err(error) => {
                    self.by = None;
                    let kind: ErrorKind = error.kind();
                    report(
                        self.name,
                        "error",
                        json!({ "type": format!("{kind:?}"), "text": error.to_string() }),
                    );
                    sleep(AGAIN).await;
                }
            }
        }
    }
}

/// One line.
fn report(name: &str, event: &str, more: Json) {
    let now = clock_gettime(ClockId::Monotonic);
    #[allow(clippy::cast_precision_loss, reason = "seconds since the machine started")]
    let at = now.tv_sec as f64 + now.tv_nsec as f64 / 1e9;
    let mut line = json!({ "at": at, "use": name, "event": event });
    if let (Json::Object(line), Json::Object(more)) = (&mut line, more) {
        line.extend(more);
    }
    println!("{line}");
}

/// An answer to a `BLPOP` is the key and the element.
fn no_answer() -> RedisError {
    (ErrorKind::UnexpectedReturnType, "no answer").into()
}

async fn pool(mut manager: ConnectionManager, moved: Arc<Notify>) {
    let mut this = Use::new("pool");
    loop {
        let news = this.again(async || manager.get("whoami").await?.ok_or_else(no_answer)).await;
        if news && this.by.as_deref() != Some("m1") {
            moved.notify_one();
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// A connection that nobody uses while the failover happens.
async fn idle(mut manager: ConnectionManager, moved: Arc<Notify>) {
    let mut this = Use::new("idle");
    this.again(async || manager.get("whoami").await?.ok_or_else(no_answer)).await;
    moved.notified().await;
    sleep(IDLE).await;
    this.again(async || manager.get("whoami").await?.ok_or_else(no_answer)).await;
}

async fn blocked(mut manager: ConnectionManager, key: String) {
    let mut this = Use::new("blocked");
    this.again(async || manager.get("whoami").await?.ok_or_else(no_answer)).await;
    this.again(async || {
        let popped: Option<[String; 2]> = manager.blpop(&key, 0.0).await?;
        popped.map(|[_, element]| element).ok_or_else(no_answer)
    })
    .await;
}

async fn subscribed(mut messages: mpsc::UnboundedReceiver<PushInfo>) {
    let mut this = Use::new("subscribed");
    while let Some(push) = messages.recv().await {
        match (push.kind, push.data.last()) {
            (PushKind::Message, Some(text)) => {
                this.served(from_redis_value_ref(text).unwrap_or_default());
            }
            (PushKind::Disconnection, _) => {
                this.by = None;
                report("subscribed", "event", json!({ "type": "PushKind", "text": "Disconnection" }));
            }
            _ => {}
        }
    }
}

/// The first command is done, the second waits, when the member fails: a pipeline in flight.
async fn pipeline(mut manager: ConnectionManager, name: String) {
    let mut this = Use::new("pipeline");
    this.again(async || manager.get("whoami").await?.ok_or_else(no_answer)).await;
    let mut commands = pipe();
    commands.incr(format!("tried:{name}"), 1).blpop(format!("pipeline:{name}"), 0.0).get("whoami");
    this.again(async || {
        let (_, _, by): (Value, Value, String) = commands.query_async(&mut manager).await?;
        Ok(by)
    })
    .await;
}

async fn start(name: String, host: &str, port: &str) -> Result<()> {
    let client = Client::open(format!("redis://{host}:{port}/?protocol=resp3"))?;
    let defaults = ConnectionManagerConfig::new;
    // A command that waits must not run into the limit of half a second that answers have by default.
    let patient = || defaults().set_response_timeout(None);
    let manager = |config| client.get_connection_manager_with_config(config);
    let (sender, messages) = mpsc::unbounded_channel();

    let (moved, busy) = (Arc::new(Notify::new()), manager(defaults()).await?);
    let mut subscriber = manager(defaults().set_push_sender(sender).set_automatic_resubscription()).await?;
    subscriber.subscribe("news").await?;
    report("all", "started", Json::Null);
    let [idle_one, waiting, piped] =
        [manager(defaults()).await?, manager(patient()).await?, manager(patient()).await?];
    tokio::join!(
        pool(busy.clone(), Arc::clone(&moved)),
        pool(busy, Arc::clone(&moved)),
        idle(idle_one, moved),
        blocked(waiting, format!("blocked:{name}")),
        subscribed(messages),
        pipeline(piped, name),
    );
    // The subscription ends with its manager.
    drop(subscriber);
    Ok(())
}

fn main() -> Result<()> {
    let mut words = env::args().skip(1);
    let mut word = || words.next().context("usage: redis_rs NAME HOST PORT");
    let (name, host, port) = (word()?, word()?, word()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(start(name, &host, &port))
}
