use std::{cell::Cell, fmt::Write as _, path::Path};

use super::*;
use crate::config;

/// 250 ticks a second, and how often somebody asked for the time.
struct Virtual {
    now: u32,
    asked: Cell<u32>,
}

impl Virtual {
    fn at(now: u32) -> Self {
        Self { now, asked: Cell::new(0) }
    }
}

impl Clock for Virtual {
    fn now(&self) -> Result<u32> {
        self.asked.set(self.asked.get() + 1);
        Ok(self.now)
    }

    fn duration(&self, ticks: u32) -> Duration {
        Duration::from_millis(4) * ticks
    }

    fn ticks(&self, time: Duration) -> u32 {
        u32::try_from(time.as_millis() / 4).unwrap()
    }
}

/// Services by their names, with two members each; lines of their sections.
fn configuration(services: &[(&str, &str)]) -> Config {
    let mut text = String::new();
    for (at, (name, lines)) in services.iter().enumerate() {
        let (high, low) = (at / 250, at % 250 + 1);
        writeln!(text, "[[service]]\nname = {name:?}\nvips = [\"10.255.{high}.{low}:6379\"]\n{lines}")
            .unwrap();
        for (member, net) in [("paris", 1), ("dublin", 2)] {
            writeln!(text, "[[service.member]]\nname = {member:?}").unwrap();
            writeln!(text, "endpoint = \"10.{net}.{high}.{low}:6379\"").unwrap();
        }
    }
    config::parse(Path::new("test.toml"), &text).unwrap().config
}

/// A watch that has just begun, with ids in the order of the configuration from `first` on.
fn watch(config: &Config, pulses: &Pulses, first: u16) -> Watch {
    let mut watch = Watch::new(25);
    let nothing = Config { services: Vec::new(), ..config.clone() };
    again(&mut watch, &nothing, config, pulses, &|service, member| ids(first, service, member));
    watch
}

fn ids(first: u16, service: ServiceId, member: MemberId) -> u16 {
    first + u16::try_from(service.0 * 2 + member.0).unwrap()
}

fn again(
    watch: &mut Watch,
    old: &Config,
    new: &Config,
    pulses: &Pulses,
    id: &dyn Fn(ServiceId, MemberId) -> u16,
) {
    watch.rename(&Moves::between(old, new), new, pulses, id).unwrap();
}

fn look(watch: &mut Watch, pulses: &Pulses, clock: &Virtual) -> Vec<(usize, usize, Seen)> {
    let mut seen = Vec::new();
    watch
        .look(Instant::now(), pulses, clock, |service, member, what| seen.push((service.0, member.0, what)))
        .unwrap();
    seen
}

fn signal(kind: SignalKind, ago_ms: u64) -> Seen {
    Seen::Signal(Signal { kind, ago: Duration::from_millis(ago_ms), count: 1 })
}

const OPEN: Beat = Beat { sent: 1000, asked: 1000, heard: 999, answered: 999 };

#[test]
fn who_waits_gets_a_look_of_its_own_when_it_is_due() {
    let pulses = Pulses::in_memory();
    let mut watch = watch(&configuration(&[("orders", "")]), &pulses, 7);
    pulses.write(8, OPEN);
    let before = Instant::now();
    assert_eq!(look(&mut watch, &pulses, &Virtual::at(1015)), []);
    let due = watch.next().unwrap() - before;
    assert!(due >= Duration::from_millis(40) && due < Duration::from_millis(90), "{due:?}");
    assert_eq!(look(&mut watch, &pulses, &Virtual::at(1025)), [(0, 1, signal(SignalKind::Silent, 100))]);
    let vitals = pulses.vitals(8);
    assert_eq!((vitals.signals[redirector_common::signal::Signal::Silent as usize], vitals.stalled), (1, 0));
    assert_eq!(look(&mut watch, &pulses, &Virtual::at(1050)), []);
    assert_eq!((watch.subject(8), watch.subject(9)), (Some((ServiceId(0), MemberId(1))), None));
}

#[test]
fn a_probe_that_passed_meanwhile_has_looked_at_every_address_or_not_at_all() {
    let (service, member) = (ServiceId(0), MemberId(0));
    let [one, other]: [SocketAddr; 2] = ["10.1.0.1:6379", "10.1.0.2:6379"].map(|text| text.parse().unwrap());
    for (probed, passed, told) in [
        (vec![one], vec![], true),
        (vec![one], vec![one], false),
        (vec![one, other], vec![one], true),
        (vec![one, other], vec![one, other], false),
    ] {
        let pulses = Pulses::in_memory();
        let mut watch = watch(&configuration(&[("orders", "")]), &pulses, 0);
        watch.probed(service, member, &probed);
        passed.iter().for_each(|address| watch.passed(service, member, *address, Instant::now()));
        pulses.write(0, OPEN);
        assert_eq!(!look(&mut watch, &pulses, &Virtual::at(1025)).is_empty(), told, "{probed:?} {passed:?}");
    }
    // One from before says nothing.
    let pulses = Pulses::in_memory();
    let mut watch = watch(&configuration(&[("orders", "")]), &pulses, 0);
    watch.probed(service, member, &[one]);
    watch.passed(service, member, one, Instant::now() - Duration::from_secs(1));
    pulses.write(0, OPEN);
    assert_eq!(look(&mut watch, &pulses, &Virtual::at(1025)).len(), 1);
}

#[test]
fn a_reload_keeps_what_is_known_of_whoever_stays() {
    let pulses = Pulses::in_memory();
    let before = configuration(&[("orders", ""), ("carts", "[service.breaker]")]);
    let after =
        configuration(&[("early", "[service.breaker]"), ("carts", "[service.breaker]"), ("orders", "")]);
    pulses.count(3, Totals { connected: u32::MAX, failed: 5, errors: 1 });
    let mut watch = watch(&before, &pulses, 0);
    pulses.write(0, OPEN);
    assert_eq!(look(&mut watch, &pulses, &Virtual::at(1030)).len(), 1);
    // Whoever had the id of the new service's member before has counted.
    pulses.count(4, Totals { connected: 70, failed: 70, errors: 70 });
    pulses.count(3, Totals { connected: 1, failed: 8, errors: 1 });
    let id = |service: ServiceId, member: MemberId| [4, 2, 0][service.0] + u16::try_from(member.0).unwrap();
    again(&mut watch, &before, &after, &pulses, &id);
    let traffic = Traffic { connected: 2, failed: 3, answered: 0, errors: 0 };
    assert_eq!(
        look(&mut watch, &pulses, &Virtual::at(1060)),
        [(1, 1, Seen::Traffic(traffic))],
        "nothing twice"
    );
    assert_eq!(look(&mut watch, &pulses, &Virtual::at(1060)), []);
    assert_eq!(watch.subject(0), Some((ServiceId(2), MemberId(0))));
}

#[test]
fn nobody_is_watched_who_is_off() {
    let pulses = Pulses::in_memory();
    let both = configuration(&[("orders", "signals = \"off\""), ("carts", "signals = \"observe\"")]);
    let mut watched = watch(&both, &pulses, 0);
    pulses.write(0, OPEN);
    pulses.count(0, Totals { failed: 9, ..Totals::default() });
    assert_eq!(look(&mut watched, &pulses, &Virtual::at(1025)), []);
    assert_eq!((watched.subject(0), watched.subject(2)), (None, Some((ServiceId(1), MemberId(0)))));
    let off = configuration(&[("orders", "signals = \"off\"")]);
    assert_eq!(watch(&off, &pulses, 0).next(), None, "no timer");
}

/// A thousand services: no time is asked for when nobody waits, once when somebody does, and a member costs some ten
/// nanoseconds (a hundred without optimisation).
#[test]
fn a_look_at_thousands_is_cheap() {
    let pulses = Pulses::in_memory();
    let names: Vec<_> = (0..1000).map(|number| format!("service-{number}")).collect();
    let config = configuration(&names.iter().map(|name| (name.as_str(), "")).collect::<Vec<_>>());
    let mut watch = watch(&config, &pulses, 0);
    let clock = Virtual::at(1030);
    assert_eq!(look(&mut watch, &pulses, &clock), []);
    let start = Instant::now();
    (0..100).for_each(|_| assert_eq!(look(&mut watch, &pulses, &clock), []));
    let each = start.elapsed() / (100 * 2000);
    println!("{each:?} for each member of a look");
    assert_eq!(clock.asked.get(), 0);
    assert!(each < Duration::from_micros(5), "{each:?}");
    (0..2000).for_each(|id| pulses.write(id, OPEN));
    assert_eq!(look(&mut watch, &pulses, &clock).len(), 2000);
    assert_eq!(clock.asked.get(), 1);
}
