//! The programs' behaviour, a packet at a time: one table, both IP versions.
//!
//! Each case says in a sentence what it is about, what happened before, which packet comes, and what must follow.
//! Nothing is mocked: the kernel runs the programs.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test: what is odd shall panic"
)]

#[path = "packets/bench.rs"]
mod bench;
#[path = "packets/choice.rs"]
mod choice;
#[path = "packets/frame.rs"]
mod frame;
#[path = "packets/fuzz.rs"]
mod fuzz;
#[path = "packets/table.rs"]
mod table;

use bench::{Bench, Seen};
use table::{Case, Given, TABLE};

/// Runs the whole table for one IP version, each case in a namespace of its own, and reports every case that fails.
fn run(v6: bool) {
    let failures: Vec<_> = TABLE
        .iter()
        .filter(|case| !(v6 && case.only_v4))
        .filter_map(|case| {
            // A thread of its own: it takes its namespace along when it ends.
            let thread = std::thread::spawn(move || check(case, v6));
            let error = match thread.join() {
                Ok(result) => result.err()?,
                Err(panic) => format!(
                    "panicked: {:?}",
                    panic
                        .downcast_ref::<String>()
                        .map(String::as_str)
                        .or(panic.downcast_ref::<&str>().copied())
                ),
            };
            Some(format!("{}:\n  {error}", case.says))
        })
        .collect();
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), TABLE.len(), failures.join("\n"));
}

fn check(case: &Case, v6: bool) -> Result<(), String> {
    let mut bench = Bench::for_a_case(v6);
    for given in case.given {
        match given {
            Given::Sent(words) => drop(bench.sent(words)),
            Given::Came(words) => drop(bench.came(words)),
            Given::Do(action) => action(&mut bench),
        }
    }
    let seen = match case.packet {
        Given::Sent(words) => bench.sent(words),
        Given::Came(words) => bench.came(words),
        Given::Do(_) => panic!("a case is about a packet"),
    };
    let wanted = Seen {
        verdict: case.verdict,
        outcome: case.outcome,
        packet: case.out.into(),
        copy: case.copy.map(Into::into),
    };
    if seen != wanted {
        return Err(format!("wanted {wanted:?}\n  seen   {seen:?}"));
    }
    let entries = bench.entries();
    if case.left.is_some_and(|left| (left, left) != entries) {
        return Err(format!("flows and stubs afterwards: {entries:?}, wanted {:?}", case.left));
    }
    if case.outcome == "opened" && !bench.port_is_of_the_range() {
        return Err("the source port is not one of the range".into());
    }
    bench.give_back();
    Ok(())
}

#[test]
fn table_ipv4() {
    run(false);
}

#[test]
fn table_ipv6() {
    run(true);
}

/// Whatever comes, a program neither changes nor drops what it does not understand.
#[test]
fn noise_is_left_alone() {
    let mut bench = Bench::new(false, 64, false);
    assert_ne!(bench.device(), 0);
    bench.survives_noise(20_000);
}

/// The log is verified only when it is on: what is off, the verifier removes.
#[test]
fn programs_carry_with_the_log_on() {
    let mut bench = Bench::new(false, 64, true);
    assert_eq!(bench.sent("client > vip SYN seq=100").outcome, "opened");
    assert_eq!(bench.sent("client > vip:80 SYN seq=100").outcome, "refused_no_service");
}
