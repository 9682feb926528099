//! `echo`: the member repeats a nonce, so an answer that belongs to another question is seen.

use redis::Value;

use super::{
    kept::Dialogue,
    nonce::nonce,
    redis::{Connection, shown, wrong},
    role,
    stop::Stop,
};
use crate::model::Role;

/// What an `echo` says.
pub(super) struct Echo {
    pub(super) role: Role,
}

impl Dialogue for Echo {
    async fn hold(&mut self, connection: &mut Connection) -> Result<(), Stop> {
        let nonce = nonce();
        match connection.ask(redis::cmd("ECHO").arg(&nonce)).await? {
            Value::BulkString(bytes) if bytes == nonce.as_bytes() => role::check(connection, self.role).await,
            other => Err(wrong(format!("{}, not the nonce that was to be repeated", shown(&other)))),
        }
    }
}
