//! Whatever the text, `parse` answers; and what it accepts keeps the promises of the model.

use std::cell::Cell;

use proptest::{prelude::*, sample::Index};

use super::*;

/// The legal file with one stretch replaced.
fn damaged() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<String>(),
        "[0-9a-z.\\[\\]:\"=\n -]{0,12}",
        (any::<Index>(), 1_usize..60).prop_map(|(start, length)| stretch(start, length).to_owned()),
    ];
    (any::<Index>(), 0_usize..40, piece).prop_map(|(start, length, piece)| {
        let start = start.index(FULL.len());
        let end = (start + length).min(FULL.len());
        format!("{}{piece}{}", &FULL[..start], &FULL[end..])
    })
}

/// The legal file is ASCII, so that every offset is a boundary.
fn stretch(start: Index, length: usize) -> &'static str {
    let start = start.index(FULL.len());
    &FULL[start..(start + length).min(FULL.len())]
}

fn keeps_promises(config: &Config) {
    assert!(!config.services.is_empty());
    let datapath = &config.datapath;
    assert!(datapath.device.len() <= 13 && !datapath.device.is_empty());
    assert!(0 < datapath.port_range.first && datapath.port_range.first <= datapath.port_range.last);
    for service in &config.services {
        assert!(!service.vips.is_empty() && !service.members.is_empty() && !service.checks.is_empty());
        assert!(service.vips.iter().all(|vip| vip.port() != 0));
        assert!(service.members.iter().all(|member| member.weight > 0 && member.endpoint.port != 0));
        for check in &service.checks {
            assert!(!check.fast_interval.is_zero() && check.fast_interval <= check.interval);
            assert!(!check.timeout.is_zero() && check.fall > 0 && check.rise > 0);
        }
    }
}

/// Nothing is written into the source tree; a failing case prints its text.
fn cases() -> ProptestConfig {
    ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() }
}

#[test]
fn any_text_gets_an_answer() {
    proptest!(cases(), |(text in any::<String>())| {
        if let Err(error) = parse(Path::new("redirector.toml"), &text) {
            prop_assert!(!error.to_string().is_empty());
        }
    });
}

#[test]
fn a_damaged_file_is_refused_with_places_or_keeps_the_promises() {
    let directory = Directory::new();
    let accepted = Cell::new(0);
    proptest!(cases(), |(text in damaged())| {
        match directory.parse(&text) {
            Ok(config) => {
                accepted.set(accepted.get() + 1);
                keeps_promises(&config);
            }
            Err(error) => {
                for fault in error.faults() {
                    let place = fault.place().expect("a fault of the text has a place");
                    prop_assert!((1..=text.lines().count() + 1).contains(&place.line), "{fault}");
                }
            }
        }
    });
    assert!(accepted.get() > 0, "no damage was harmless: the promises were never looked at");
}
