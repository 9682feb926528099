//! Where a Redis reply ends: RESP2 and RESP3, as far as it takes to cut one reply out of a stream.
//!
//! The redis crate decodes a reply that is complete; given less it cannot tell "not yet" from "never", and given
//! `*2000000000` it would wait for all of them. So the end is found here, within bounds, and a byte that no reply
//! can have is known at once.

/// Largest reply: the map of a cluster with a thousand nodes is below it.
pub(super) const LONGEST_REPLY: usize = 1 << 20;

/// Longest line of it. Redis's own stay far below.
const LONGEST_LINE: usize = 16 * 1024;

/// No value is shorter than `_` and its line end.
const SHORTEST_VALUE: usize = 3;

/// No reply begins like this, or none that this program would wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoReply;

/// How far a reply has been seen. The same bytes, and more behind them, are to be shown to it each time.
#[derive(Debug)]
pub(super) struct Scan {
    /// The first byte that was not understood yet.
    at: usize,
    /// How many values begin from there on.
    wanted: usize,
}

impl Scan {
    /// At the start of a reply.
    pub(super) fn new() -> Self {
        Self { at: 0, wanted: 1 }
    }

    /// The length of the reply, once it is complete.
    pub(super) fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, NoReply> {
        while self.wanted > 0 {
            match value(&bytes[self.at..])? {
                None => return Ok(None),
                Some(Value { length, nested }) => {
                    self.at += length;
                    self.wanted = self.wanted - 1 + nested;
                    // Whatever is still wanted has to fit as well.
                    if self.at + self.wanted * SHORTEST_VALUE > LONGEST_REPLY {
                        return Err(NoReply);
                    }
                }
            }
        }
        Ok(Some(self.at))
    }
}

/// One value without those that are nested in it.
struct Value {
    /// In bytes.
    length: usize,
    /// How many follow that belong to it.
    nested: usize,
}

/// The value at the start of `bytes`, if it is complete.
fn value(bytes: &[u8]) -> Result<Option<Value>, NoReply> {
    let Some(kind) = bytes.first() else { return Ok(None) };
    if !b"+-:$*_,#!=(%~>|".contains(kind) {
        return Err(NoReply);
    }
    let Some(line) = line(bytes)? else { return Ok(None) };
    let (header, plain) = (line.len() + 2, |length, nested| Ok(Some(Value { length, nested })));
    match kind {
        b'$' | b'!' | b'=' => {
            let Some(size) = count(line)? else { return plain(header, 0) };
            let length = header + size + 2;
            match bytes.get(length - 2..length) {
                Some(b"\r\n") => plain(length, 0),
                Some(_) => Err(NoReply),
                None => Ok(None),
            }
        }
        b'*' | b'~' | b'>' => plain(header, count(line)?.unwrap_or(0)),
        b'%' => plain(header, 2 * count(line)?.unwrap_or(0)),
        // What it is an attribute of follows.
        b'|' => plain(header, 2 * count(line)?.unwrap_or(0) + 1),
        _ => plain(header, 0),
    }
}

/// The line at the start of `bytes` without its CR LF.
fn line(bytes: &[u8]) -> Result<Option<&[u8]>, NoReply> {
    let seen = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = seen.iter().position(|byte| *byte == b'\n') else {
        return if seen.len() < LONGEST_LINE { Ok(None) } else { Err(NoReply) };
    };
    match seen[..end].strip_suffix(b"\r") {
        Some(line) if !line.contains(&b'\r') => Ok(Some(line)),
        _ => Err(NoReply),
    }
}

/// The number in the header of a value that has a length; `None` is RESP2's -1, which has no body.
fn count(line: &[u8]) -> Result<Option<usize>, NoReply> {
    let digits = &line[1..];
    if digits == b"-1" {
        return Ok(None);
    }
    // Not `parse` alone, which would take a sign.
    let text = str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let count = text.and_then(|text| text.parse().ok()).filter(|count| *count <= LONGEST_REPLY);
    count.map(Some).ok_or(NoReply)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn end(bytes: &[u8]) -> Result<Option<usize>, NoReply> {
        Scan::new().end(bytes)
    }

    const WHOLE: [&str; 19] = [
        "+OK\r\n",
        "-ERR no\r\n",
        ":42\r\n",
        "$5\r\na\r\nbc\r\n",
        "$-1\r\n",
        "*-1\r\n",
        "*0\r\n",
        "*2\r\n$3\r\nfoo\r\n*1\r\n:1\r\n",
        "_\r\n",
        ",3.5\r\n",
        "#t\r\n",
        "!5\r\nERR x\r\n",
        "=7\r\ntxt:abc\r\n",
        "(12345678901234567890\r\n",
        "%1\r\n+a\r\n*1\r\n+b\r\n",
        "~2\r\n+a\r\n+b\r\n",
        ">2\r\n+message\r\n+x\r\n",
        "|1\r\n+ttl\r\n:3\r\n+OK\r\n",
        "$0\r\n\r\n",
    ];

    #[test]
    fn a_reply_ends_where_it_ends_and_not_before() {
        for text in WHOLE {
            let bytes = text.as_bytes();
            assert_eq!(end(bytes), Ok(Some(bytes.len())), "{text:?}");
            assert_eq!(end(&[bytes, b"+NEXT\r\n"].concat()), Ok(Some(bytes.len())), "{text:?}");
            for part in 0..bytes.len() {
                assert_eq!(end(&bytes[..part]), Ok(None), "{:?}", &text[..part]);
            }
            assert!(redis::parse_redis_value(bytes).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn what_no_reply_can_be_is_known_at_once() {
        for text in [
            "H",
            "\x1b",
            "+a\n",
            "+a\rb\r\n",
            "*x\r\n",
            "$-2\r\n",
            "$+3\r\n",
            "*2000000000\r\n",
            "$3\r\nabcde",
            "%900000\r\n",
        ] {
            assert_eq!(end(text.as_bytes()), Err(NoReply), "{text:?}");
        }
        assert_eq!(end(&[b"+".as_slice(), &[b'a'; LONGEST_LINE]].concat()), Err(NoReply));
        // Arrays in arrays that promise more than may come.
        assert_eq!(end(&b"*300000\r\n".repeat(2)), Err(NoReply));
    }

    /// On the stack of a test's thread, which is as large as that of any of the agent's.
    #[test]
    fn arrays_in_arrays_in_arrays_exhaust_no_stack() {
        let deep = ["*1\r\n".repeat(200_000).as_str(), ":1\r\n"].concat();
        assert_eq!(end(deep.as_bytes()), Ok(Some(deep.len())));
        assert!(redis::parse_redis_value(deep.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_give_the_same_answer(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'*'), Just(b'$'), Just(b'1'), Just(b'+'), any::<u8>()], 0..64),
            cut in 0_usize..64,
        ) {
            let whole = end(&bytes);
            let mut scan = Scan::new();
            let first = scan.end(&bytes[..cut.min(bytes.len())]);
            match first {
                Ok(None) => prop_assert_eq!(scan.end(&bytes), whole),
                first => prop_assert_eq!(first, whole),
            }
        }
    }
}
