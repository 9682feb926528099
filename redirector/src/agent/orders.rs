//! What operators have said and still holds, on disk: a restarted agent goes on with it. It holds over a reboot too, so an
//! expiry is kept by the time of day; and by the agent's clock, which nobody sets, for as long as the boot lasts.
//!
//! Losing the file loses the orders, as if each had been taken back.

use std::{collections::BTreeMap, path::Path};

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
    /// The same by the agent's clock, of that [`Self::boot`]; earlier agents did not write it down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pin_until_boot_ns: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boot: Option<String>,
    /// Without the time of the pin.
    #[serde(flatten)]
    orders: Orders,
}

type Records = BTreeMap<String, Record>;

/// The orders of every service that has any, by its name.
#[derive(Debug)]
pub(super) struct OrdersFile {
    records: Records,
    /// This boot.
    boot: String,
    writer: Writer<Records>,
}

impl OrdersFile {
    /// Reads what an earlier agent kept.
    pub(super) fn read(state_dir: &Path, boot: &str) -> Self {
        let file = state_dir.join("orders.json");
        let writer = Writer::new(&file, "what operators said is");
        Self { records: kept::read(&file), boot: boot.to_owned(), writer }
    }

    /// What still holds of what was said about this service; `None`: nothing was.
    pub(super) fn of(&self, service: &Service, clock: Clock) -> Option<Orders> {
        let Record { pin_until, pin_until_boot_ns, boot, mut orders } =
            self.records.get(&service.name)?.clone();
        if let Some(pin) = &mut orders.pin {
            let of_this_boot = pin_until_boot_ns.filter(|_| boot.as_ref() == Some(&self.boot));
            pin.until = of_this_boot.or_else(|| pin_until.map(|until| moment(&until, clock)));
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
            let boot = until.is_some().then(|| self.boot.clone());
            let record = Record { pin_until, pin_until_boot_ns: until, boot, orders };
            self.records.insert(service.name.clone(), record);
        }
        self.writer.write(self.records.clone());
    }
}

/// When a time of day comes; a time that is not readable or has passed is now.
fn moment(text: &str, clock: Clock) -> Time {
    clock.now().max(clock.moment(text).unwrap_or_default())
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
        let mut file = OrdersFile::read(&state_dir, "this boot");
        assert_eq!(file.of(&service(), clock), None);
        file.keep(&service(), orders.clone(), clock);
        // Dropping it waits for the disk.
        drop(file);
        let mut file = OrdersFile::read(&state_dir, "this boot");
        let read = file.of(&service(), clock).unwrap();
        assert_eq!(read, orders);
        let until = |boot| {
            let read = OrdersFile::read(&state_dir, boot).of(&service(), clock);
            read.unwrap().pin.unwrap().until.unwrap()
        };
        let left = until("another").since(clock.now());
        assert!((3595..=3600).contains(&left.as_secs()), "{left:?}");
        // The clock is set: by it the pin has ended.
        let path = state_dir.join("orders.json");
        let mut records: Records = kept::read(&path);
        records.get_mut("orders").unwrap().pin_until = Some("2001-01-01T00:00:00Z".into());
        fs::write(&path, serde_json::to_vec(&records).unwrap()).unwrap();
        assert_eq!(Some(until("this boot")), orders.pin.as_ref().unwrap().until);
        assert!(until("another") <= clock.now());
        file.keep(&service(), Orders::default(), clock);
        drop(file);
        assert_eq!(OrdersFile::read(&state_dir, "this boot").of(&service(), clock), None);
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
