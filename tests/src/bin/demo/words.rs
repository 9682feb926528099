//! Figures and causes, as the demo writes them.

use std::{io::ErrorKind, time::Duration};

use redirector_tests::Failure;

/// Milliseconds with a decimal, without the unit.
pub(crate) fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}

/// Seconds, in configuration and text: `3 s`, `2.5 s`.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}

/// `12 345`
pub(crate) fn count(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// `1 command`, `2 commands`
pub(crate) fn many(number: usize, thing: &str) -> String {
    format!("{} {thing}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Why a client was not served, as its socket said it.
pub(crate) fn cause(failure: &Failure) -> String {
    match failure {
        Failure::Connect(kind) | Failure::Command(kind) => match kind {
            ErrorKind::UnexpectedEof => "closed by the member".to_owned(),
            ErrorKind::ConnectionAborted => "ended by the host (ECONNABORTED)".to_owned(),
            ErrorKind::ConnectionReset => "reset (ECONNRESET)".to_owned(),
            ErrorKind::ConnectionRefused => "refused (ECONNREFUSED)".to_owned(),
            other => other.to_string(),
        },
        Failure::Reply(text) => format!("the answer was {text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1 000", "1 234 567"]);
        assert_eq!([0, 1, 1000].map(|n| many(n, "command")), ["0 commands", "1 command", "1 000 commands"]);
        assert_eq!(ms(Duration::from_micros(46_250)), "46.2");
        assert_eq!([3000, 2500].map(Duration::from_millis).map(seconds), ["3 s", "2.5 s"]);
    }
}
