//! `ping`: Redis answers `PING` with `PONG`.

use redis::Value;

use super::{
    kept::Dialogue,
    redis::{Connection, shown, wrong},
    role,
    stop::Stop,
};
use crate::model::Role;

/// What a `ping` says.
pub(super) struct Ping {
    pub(super) role: Role,
}

impl Dialogue for Ping {
    async fn hold(&mut self, connection: &mut Connection) -> Result<(), Stop> {
        pong(connection).await?;
        role::check(connection, self.role).await
    }
}

/// `PING`, and nothing but `PONG` will do.
pub(super) async fn pong(connection: &mut Connection) -> Result<(), Stop> {
    match connection.ask(&redis::cmd("PING")).await? {
        Value::SimpleString(text) if text == "PONG" => Ok(()),
        other => Err(wrong(shown(&other))),
    }
}
