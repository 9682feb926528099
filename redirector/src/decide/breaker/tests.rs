//! The ring against a look back over everything, and its edges.

use proptest::prelude::*;

use super::*;

fn at(ms: u64) -> Time {
    Time(Duration::from_millis(ms))
}

fn settings() -> Settings {
    Settings { minimum_failures: 10, failure_rate: 10, in_a_row: 0, ..Settings::default() }
}

fn failed(failed: u32) -> Traffic {
    Traffic { failed, ..Traffic::default() }
}

#[test]
fn number_and_rate_must_both_be_reached() {
    let mut breaker = Breaker::default();
    // Enough of all attempts, but not enough.
    assert!(!breaker.on_traffic(at(0), &settings(), Traffic { answered: 0, errors: 9, ..failed(0) }));
    // Enough, but not of 101.
    assert!(!breaker.on_traffic(at(10), &settings(), Traffic { answered: 91, errors: 1, ..failed(0) }));
    assert!(breaker.on_traffic(at(20), &settings(), failed(1)));
    assert_eq!(
        breaker.down_because().unwrap(),
        "breaker open: 11 of 102 attempts of clients failed within 2s"
    );
}

#[test]
fn what_is_further_back_than_the_window_is_gone() {
    let mut breaker = Breaker::default();
    assert!(!breaker.on_traffic(at(50), &settings(), failed(9)));
    // A bucket is 100 ms: the first one counts until its whole length is out of the window.
    assert!(!breaker.clone().on_traffic(at(2100), &settings(), failed(1)));
    assert!(breaker.on_traffic(at(2050), &settings(), failed(1)));
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn one_success_ends_the_row() {
    let settings = Settings { in_a_row: 5, minimum_failures: 1000, ..settings() };
    let mut breaker = Breaker::default();
    assert!(!breaker.on_traffic(at(0), &settings, failed(4)));
    assert!(!breaker.on_traffic(at(100), &settings, Traffic { connected: 1, ..failed(4) }));
    assert!(!breaker.on_traffic(at(200), &settings, failed(4)));
    // Hours later: a row has no window.
    assert!(breaker.on_traffic(at(9_000_000), &settings, failed(1)));
    assert_eq!(breaker.down_because().unwrap(), "breaker open: 5 attempts of clients failed in a row");
}

/// As at `maxclients`: every attempt is accepted, and told so.
#[test]
fn a_connection_that_brings_an_error_only_ends_no_row() {
    let settings = Settings { in_a_row: 5, minimum_failures: 1000, ..settings() };
    let mut breaker = Breaker::default();
    let rejected = Traffic { connected: 2, errors: 2, ..failed(0) };
    assert!(!breaker.on_traffic(at(0), &settings, rejected));
    assert!(!breaker.on_traffic(at(100), &settings, rejected));
    assert!(breaker.on_traffic(at(200), &settings, rejected));
}

fn traffic() -> impl Strategy<Value = Traffic> {
    (0_u32..20, 0_u32..4, 0_u32..20, 0_u32..4).prop_map(|(connected, failed, answered, errors)| Traffic {
        connected,
        failed,
        answered,
        errors,
    })
}

proptest! {
    /// Against all that ever came, looked back on at each step.
    #[test]
    fn the_ring_equals_a_look_back(
        window in 200_u64..4000,
        minimum in 1_u32..60,
        rate in 0_u32..=100,
        steps in prop::collection::vec((0_u64..400, traffic()), 1..120),
    ) {
        let settings = Settings {
            window: Duration::from_millis(window),
            minimum_failures: minimum,
            failure_rate: rate,
            ..settings()
        };
        let width = settings.window / BUCKETS;
        let (mut breaker, mut history, mut now) = (Breaker::default(), Vec::new(), 5_000_000);
        for (wait, traffic) in steps {
            now += wait;
            history.push((at(now), traffic));
            let opened = breaker.on_traffic(at(now), &settings, traffic);
            // Whole buckets, from the one that the beginning of the window is in.
            let bucket = |time: Time| time.0.as_nanos() / width.as_nanos();
            let recent = history.iter().filter(|(time, _)| bucket(*time) + u128::from(BUCKETS) >= bucket(at(now)));
            let (attempts, failures) = recent.fold((0_u64, 0_u64), |(attempts, failures), (_, one)| {
                let bad = u64::from(one.failed + one.errors);
                (attempts + bad + u64::from(one.connected + one.answered), failures + bad)
            });
            let expected = failures >= u64::from(minimum) && failures * 100 >= attempts * u64::from(rate);
            prop_assert_eq!(opened, expected && !traffic.is_nothing());
            if opened {
                prop_assert_eq!(breaker.counts(at(now), &settings), Counts::default());
                return Ok(());
            }
            prop_assert_eq!(breaker.counts(at(now), &settings), Counts { attempts, failures, row: breaker.row });
        }
    }
}
