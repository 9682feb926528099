//! Text from outside (an answer, a name in a certificate) made fit for a log, a table and a terminal.

/// How much is repeated, in characters.
const LONGEST: usize = 120;

/// The text, short, and without what could move a terminal's cursor.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::new();
    for c in text.chars().take(LONGEST) {
        match c {
            '\'' | '"' => quoted.push(c),
            _ => quoted.extend(c.escape_debug()),
        }
    }
    if text.chars().nth(LONGEST).is_some() {
        quoted.push('…');
    }
    quoted
}
