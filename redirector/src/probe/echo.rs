//! `echo`: the member repeats a nonce, so an answer that belongs to another question is seen.

use redis::Value;

use super::{
    kept::Dialogue,
    nonce::nonce,
    ping::pong,
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
            Value::BulkString(bytes) if bytes == nonce.as_bytes() => {}
            other => return Err(wrong(format!("{}, not the nonce that was to be repeated", shown(&other)))),
        }
        if self.role == Role::Primary {
            // ECHO and ROLE are answered while a data set is loaded, and when writes are stopped; PING is not.
            pong(connection).await?;
        }
        role::check(connection, self.role).await
    }
}
