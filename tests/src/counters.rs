//! Counters of the network stack of the calling thread's namespace (RFC 1213 and Linux's own), from `/proc`.

use std::fs;

use anyhow::{Context, Result};

/// All counters: `snmp` and `netstat` hold pairs of lines (names, values), `snmp6` one counter a line.
fn all() -> Result<Vec<(String, String, u64)>> {
    // Not /proc/net: that is the namespace of the thread group's leader.
    let read = |file: &str| {
        let path = format!("/proc/thread-self/net/{file}");
        fs::read_to_string(&path).with_context(|| path)
    };
    let mut counters = Vec::new();
    for text in [read("snmp")?, read("netstat")?] {
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.chunks_exact(2) {
            let (Some((protocol, names)), Some((_, values))) =
                (pair[0].split_once(':'), pair[1].split_once(':'))
            else {
                continue;
            };
            for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
                // Tcp MaxConn is -1: not a counter.
                let Ok(value) = value.parse() else { continue };
                counters.push((protocol.to_owned(), name.to_owned(), value));
            }
        }
    }
    for line in read("snmp6")?.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(Ok(value))) = (words.next(), words.next().map(str::parse)) else { continue };
        let Some(split) = name.find('6') else { continue };
        counters.push((name[..=split].to_owned(), name[split + 1..].to_owned(), value));
    }
    Ok(counters)
}

/// One counter.
pub(crate) fn read(protocol: &str, name: &str) -> Result<u64> {
    all()?
        .into_iter()
        .find_map(|(p, n, value)| (p == protocol && n == name).then_some(value))
        .with_context(|| format!("the kernel has no counter {protocol} {name}"))
}

/// The checksum error counters that are not 0. `Tcp` counts IPv6 too.
pub(crate) fn checksum_errors() -> Result<Vec<(String, u64)>> {
    Ok(all()?
        .into_iter()
        .filter(|(_, name, value)| name == "InCsumErrors" && *value > 0)
        .map(|(protocol, name, value)| (format!("{protocol} {name}"), value))
        .collect())
}
