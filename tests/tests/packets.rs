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

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

#[path = "packets/bench.rs"]
mod bench;
#[path = "packets/choice.rs"]
mod choice;
#[path = "packets/devices.rs"]
mod devices;
#[path = "packets/forms.rs"]
mod forms;
#[path = "packets/frame.rs"]
mod frame;
#[path = "packets/fuzz.rs"]
mod fuzz;
#[path = "packets/inject.rs"]
mod inject;
#[path = "packets/pulses.rs"]
mod pulses;
#[path = "packets/table.rs"]
mod table;

use bench::{Bench, Seen};
use forms::FORMS;
use redirector::datapath::programs::{EGRESS, INGRESS};
use redirector_common::flow::Way;
use table::{Case, Given, TABLE};

/// Runs the tables for one IP version, and reports every case that fails. `REDIRECTOR_CASES` runs only those whose
/// sentence contains it.
fn run(v6: bool) {
    let only = std::env::var("REDIRECTOR_CASES").unwrap_or_default();
    let cases = TABLE.iter().chain(FORMS).filter(move |case| !(v6 && case.only_v4) && (v6 || !case.only_v6));
    // A thread of its own: it takes its namespaces along when it ends.
    let thread = std::thread::spawn(move || {
        let mut bench = None;
        let mut failures = Vec::new();
        for case in cases.filter(|case| case.says.contains(&only)) {
            let mut fresh = bench.take().filter(Bench::is_fresh).unwrap_or_else(|| Bench::new(v6, 64, false));
            let result = catch_unwind(AssertUnwindSafe(|| check(&mut fresh, case)));
            match result {
                Ok(result) => {
                    failures.extend(result.err().map(|error| format!("{}:\n  {error}", case.says)));
                    fresh.renew();
                    bench = Some(fresh);
                }
                Err(panic) => {
                    let text = panic.downcast_ref::<String>().map(String::as_str);
                    let text = text.or(panic.downcast_ref::<&str>().copied());
                    failures.push(format!("{}:\n  panicked: {text:?}", case.says));
                }
            }
        }
        failures
    });
    let failures = thread.join().unwrap();
    assert!(failures.is_empty(), "{} cases:\n{}", failures.len(), failures.join("\n"));
}

fn check(bench: &mut Bench, case: &Case) -> Result<(), String> {
    let start = Instant::now();
    for given in case.given {
        match given {
            Given::Sent(words) => drop(bench.sent(words)),
            Given::Came(words) => drop(bench.came(words)),
            Given::CameL3(words) => drop(bench.came_l3(words)),
            Given::Do(action) => action(bench),
        }
    }
    let before = bench.signals();
    let seen = match case.packet {
        Given::Sent(words) => bench.sent(words),
        Given::Came(words) => bench.came(words),
        Given::CameL3(words) => bench.came_l3(words),
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
    let mut signals = bench.signals_since(&before);
    // Whether a SYN is a copy or was sent again is a matter of time, and a machine may be slow.
    if start.elapsed() > Duration::from_millis(80) && !case.signals.contains(&"unanswered") {
        signals.retain(|signal| *signal != "unanswered");
    }
    if signals != case.signals {
        return Err(format!("signals: {signals:?}, wanted {:?}", case.signals));
    }
    let entries = bench.entries();
    if case.left.is_some_and(|left| (left, left) != entries) {
        return Err(format!("flows and stubs afterwards: {entries:?}, wanted {:?}", case.left));
    }
    if case.outcome == "opened" && !bench.port_is_of_the_range() {
        return Err("the source port is not one of the range".into());
    }
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

/// To a device without Ethernet header a flow leaves without a neighbour.
#[test]
fn a_flow_leaves_by_a_device_without_ethernet_header() {
    for v6 in [false, true] {
        let mut bench = Bench::new(v6, 64, false);
        bench.sent("client > vip SYN seq=100");
        assert_eq!(bench.way(), Way::Neighbour);
        bench.renew();
        bench.lead_over_a_tunnel();
        assert_eq!(bench.sent("client > vip SYN seq=100").outcome, "opened");
        assert_eq!(bench.way(), Way::Plain);
    }
}

/// The checksum of a segment covers all its fragments, and stands in the first one.
#[test]
fn fragments_add_up_to_a_segment_with_a_right_checksum() {
    let segment = "client > vip PSH ACK seq=101 ack=501 len=101";
    let answer = "member > port PSH ACK seq=501 ack=202 len=101";
    for v6 in [false, true] {
        let mut bench = Bench::new(v6, 64, false);
        bench.sent("client > vip SYN seq=100");
        for (program, words, whole) in [
            (EGRESS, segment, "port > member PSH ACK seq=101 ack=501 len=101"),
            (INGRESS, answer, "vip > client PSH ACK seq=501 ack=202 len=101"),
        ] {
            let mut payload = Vec::new();
            let mut header = Vec::new();
            for part in ["frag=0-48", "frag=48-96", "frag=96-"] {
                let frame = frame::build(&format!("{words} {part}"), &bench.names);
                let (_, out, _) = bench.run_frame(program, &frame).unwrap();
                let start = if v6 { 14 + 48 } else { 14 + 20 };
                payload.extend(&out[start..]);
                header = out[..if v6 { 14 + 40 } else { start }].to_vec();
            }
            assert_eq!(frame::describe(&reassembled(header, &payload), &bench.names), whole);
        }
    }
}

/// The packet that fragments with this header add up to.
fn reassembled(mut header: Vec<u8>, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u16;
    if header[12] == 0x86 {
        header[18..20].copy_from_slice(&length.to_be_bytes());
        header[20] = 6;
    } else {
        header[16..18].copy_from_slice(&(length + 20).to_be_bytes());
        header[20..22].fill(0);
        header[24..26].fill(0);
        let sum = frame::checksum(&[&header[14..]]);
        header[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    header.extend(payload);
    header
}
