//! `role = "primary"`: what the member says it is.

use redis::Value;

use super::{
    redis::{Connection, shown, wrong},
    stop::Stop,
};
use crate::{
    model::{Cause, Role},
    quote::quote,
};

/// Asks `ROLE`, if the check wants to know.
pub(super) async fn check(connection: &mut Connection, wanted: Role) -> Result<(), Stop> {
    match wanted {
        Role::Any => Ok(()),
        Role::Primary => primary(&connection.ask(&redis::cmd("ROLE")).await?),
    }
}

/// Redis calls a primary "master", and a replica "slave" with its primary's host and port.
fn primary(answer: &Value) -> Result<(), Stop> {
    let Value::Array(parts) = answer else { return Err(wrong(shown(answer))) };
    let text = |part: usize| match parts.get(part) {
        Some(Value::BulkString(bytes)) => quote(&String::from_utf8_lossy(bytes)),
        Some(Value::Int(number)) => number.to_string(),
        _ => "?".to_owned(),
    };
    let role = match text(0).as_str() {
        "master" => return Ok(()),
        "slave" => format!("a replica of {} port {}", text(1), text(2)),
        "sentinel" => "a sentinel".to_owned(),
        other => format!("{other:?}"),
    };
    Err(Stop::Answer(Cause::WrongRole(format!("the member is {role}, the check asks for a primary"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(reply: &str) -> Result<(), Cause> {
        match primary(&redis::parse_redis_value(reply.as_bytes()).unwrap()) {
            Ok(()) => Ok(()),
            Err(Stop::Answer(cause)) => Err(cause),
            Err(Stop::Io(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn only_a_primary_is_one() {
        assert_eq!(of("*3\r\n$6\r\nmaster\r\n:3129659\r\n*0\r\n"), Ok(()));
        let replica = "*5\r\n$5\r\nslave\r\n$9\r\n192.0.2.9\r\n:6379\r\n$9\r\nconnected\r\n:7\r\n";
        let words = "the member is a replica of 192.0.2.9 port 6379, the check asks for a primary";
        assert_eq!(of(replica), Err(Cause::WrongRole(words.to_owned())));
        assert!(matches!(of("*2\r\n$8\r\nsentinel\r\n*0\r\n"), Err(Cause::WrongRole(_))));
        assert!(matches!(of("*0\r\n"), Err(Cause::WrongRole(_))));
        assert!(matches!(of("+OK\r\n"), Err(Cause::WrongAnswer(_))));
    }
}
