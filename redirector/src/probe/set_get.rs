//! `set_get`: the member takes a write and gives it back.
//!
//! The key belongs to one prober alone: members of one database replicate to each other, so with a key in common one
//! agent would read what another one wrote, or what itself wrote through another member.

use std::time::Duration;

use redis::Value;

use super::{
    kept::Dialogue,
    nonce::nonce,
    redis::{Connection, shown, wrong},
    stop::Stop,
};

/// What a `set_get` says.
pub(super) struct SetGet {
    key: String,
    expiry: Duration,
}

impl SetGet {
    /// Writes below `prefix`; what is written goes away by itself after `expiry`.
    pub(super) fn new(prefix: &str, expiry: Duration) -> Self {
        Self { key: format!("{prefix}{}", nonce()), expiry }
    }
}

impl Dialogue for SetGet {
    async fn hold(&mut self, connection: &mut Connection) -> Result<(), Stop> {
        let value = nonce();
        let expiry = u64::try_from(self.expiry.as_millis()).unwrap_or(u64::MAX);
        let mut set = redis::cmd("SET");
        match connection.ask(set.arg(&self.key).arg(&value).arg("PX").arg(expiry)).await? {
            Value::Okay => {}
            other => return Err(wrong(format!("{} to SET", shown(&other)))),
        }
        match connection.ask(redis::cmd("GET").arg(&self.key)).await? {
            Value::BulkString(bytes) if bytes == value.as_bytes() => Ok(()),
            Value::Nil => Err(wrong("GET finds nothing where SET wrote".to_owned())),
            other => Err(wrong(format!("GET gives {}, not what SET wrote", shown(&other)))),
        }
    }
}
