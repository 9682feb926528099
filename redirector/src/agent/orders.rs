//! What operators have said and still holds, on disk: a restarted agent goes on with it. An expiry is kept by the time of day,
//! so that it goes on while no agent runs.
//!
//! Losing the file loses the orders, as if each had been taken back.

use std::{collections::BTreeMap, path::Path, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::clock::Clock;
use crate::{
    decide::{Orders, Pin, Time},
    kept::{self, Writer},
    model::Service,
};

/// The orders of a service as they are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    /// RFC 3339.
    pin_until: Option<String>,
    /// Without the time of the pin.
    #[serde(flatten)]
    orders: Orders,
}

type Records = BTreeMap<String, Record>;

/// The orders of every service that has any, by its name.
#[derive(Debug)]
pub(super) struct OrdersFile {
    records: Records,
    writer: Writer<Records>,
}

impl OrdersFile {
    /// Reads what an earlier agent kept.
    pub(super) fn read(state_dir: &Path) -> Self {
        let file = state_dir.join("orders.json");
        Self { records: kept::read(&file), writer: Writer::new(&file, "what operators said is") }
    }

    /// What still holds of what was said about this service; `None`: nothing was.
    pub(super) fn of(&self, service: &Service, clock: Clock) -> Option<Orders> {
        let Record { pin_until, mut orders } = self.records.get(&service.name)?.clone();
        if let Some(pin) = &mut orders.pin {
            pin.until = pin_until.map(|until| moment(&until, clock));
        }
        Some(orders)
    }

    /// Forgets what was said about services that are not there any more.
    pub(super) fn retain(&mut self, services: &[Service]) {
        let before = self.records.len();
        self.records.retain(|name, _| services.iter().any(|service| service.name == *name));
        if self.records.len() != before {
            self.writer.write(self.records.clone());
        }
    }

    /// Keeps what holds now.
    pub(super) fn keep(&mut self, service: &Service, mut orders: Orders, clock: Clock) {
        if orders == Orders::default() {
            self.records.remove(&service.name);
        } else {
            let until = orders.pin.as_mut().and_then(|pin: &mut Pin| pin.until.take());
            let pin_until = until.map(|until| clock.rfc3339_ahead(until));
            self.records.insert(service.name.clone(), Record { pin_until, orders });
        }
        self.writer.write(self.records.clone());
    }
}

/// When a time of day comes; a time that is not readable or has passed is now.
fn moment(text: &str, clock: Clock) -> Time {
    let left = humantime::parse_rfc3339(text).ok().and_then(|at| at.duration_since(SystemTime::now()).ok());
    clock.now() + left.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process, time::Duration};

    use super::*;
    use crate::decide::{Drained, Weight};

    fn service() -> Service {
        let text = "[[service]]\nname = \"orders\"\nvips = [\"10.255.0.1:6379\"]\n[[service.member]]\nname = \
                    \"paris\"\nendpoint = \"10.2.1.2:6379\"\n";
        crate::config::parse(Path::new("r.toml"), text).unwrap().config.services.remove(0)
    }

    #[test]
    fn orders_survive_with_the_rest_of_the_pin() {
        let state_dir = env::temp_dir().join(format!("redirector-orders-{}", process::id()));
        let clock = Clock;
        let pin = |until| Pin { member: "paris".into(), until, against_checks: true, reason: "test".into() };
        let orders = Orders {
            pin: Some(pin(Some(clock.now() + Duration::from_secs(3600)))),
            paused: true,
            drained: [("dublin".to_owned(), Drained { force: true })].into(),
            weights: [("oslo".to_owned(), Weight { now: 7, configured: 50 })].into(),
        };
        let mut file = OrdersFile::read(&state_dir);
        assert_eq!(file.of(&service(), clock), None);
        file.keep(&service(), orders.clone(), clock);
        // Dropping it waits for the disk.
        drop(file);
        let mut file = OrdersFile::read(&state_dir);
        let read = file.of(&service(), clock).unwrap();
        let left = read.pin.as_ref().unwrap().until.unwrap().since(clock.now());
        assert!((3595..=3600).contains(&left.as_secs()), "{left:?}");
        let until = read.pin.as_ref().unwrap().until;
        assert_eq!(read, Orders { pin: Some(pin(until)), ..orders });
        file.keep(&service(), Orders::default(), clock);
        drop(file);
        assert_eq!(OrdersFile::read(&state_dir).of(&service(), clock), None);
        fs::remove_dir_all(&state_dir).unwrap();
    }

    #[test]
    fn a_time_that_has_passed_is_now() {
        let now = Clock.now();
        for text in ["2001-01-01T00:00:00Z", "no time"] {
            assert!(moment(text, Clock).since(now) < Duration::from_secs(1));
        }
    }
}
