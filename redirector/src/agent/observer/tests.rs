//! What is measured at a failover, and what is told once and not again.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use super::*;
use crate::{
    datapath::SweptFlows,
    decide::Time,
    model::{Cause, Epoch, Failure, Phase, RedisErrorKind},
    telemetry::{Record, Selection},
};

const TEXT: &str = r#"
[[service]]
name = "orders"
vips = ["10.255.0.1:6379"]
[[service.member]]
name = "paris"
endpoint = "10.2.1.2:6379"
[[service.member]]
name = "dublin"
endpoint = "10.2.2.2:6379"
"#;

const SERVICE: ServiceId = ServiceId(0);
const PARIS: MemberId = MemberId(0);
const DUBLIN: MemberId = MemberId(1);

/// An observer of an agent with two members, and a clock that stands still unless it is told otherwise.
struct World {
    observer: Observer,
    config: Config,
    state: PathBuf,
    now: Instant,
}

impl World {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let state = env::temp_dir().join(format!("redirector-observer-{}-{number}", process::id()));
        let metrics = Metrics::default();
        let observer = Observer::new(Events::open(&state, metrics.clone()), metrics);
        let config = crate::config::parse(Path::new("r.toml"), TEXT).unwrap().config;
        Self { observer, config, state, now: Instant::now() }
    }

    /// A probe that began and ended so many milliseconds ago.
    fn probe(&mut self, member: MemberId, outcome: ProbeOutcome, [started, at]: [u64; 2]) {
        let ago =
            |ms| self.now.checked_sub(Duration::from_millis(ms)).expect("the machine has run for longer");
        let report = Report {
            prober: crate::probe::ProberId::default(),
            service: SERVICE,
            member,
            address: format!("10.2.{}.2:6379", member.0 + 1).parse().unwrap(),
            check: CheckId(0),
            outcome,
            started: ago(started),
            at: ago(at),
        };
        self.observer.takes_up_report(&self.config, &report);
    }

    fn fails(&mut self, member: MemberId, times: [u64; 2]) {
        let failure = Failure { phase: Phase::Connect, cause: Cause::Refused };
        self.probe(member, ProbeOutcome::Failed(failure), times);
    }

    fn passes(&mut self, member: MemberId, times: [u64; 2]) {
        self.probe(member, ProbeOutcome::Passed { latency: Duration::from_millis(1) }, times);
    }

    fn switch(&mut self, kind: SwitchKind, policy: FlowPolicy) {
        let switch = Switch {
            from: Some(PARIS),
            to: Some(DUBLIN),
            epoch: Epoch(2),
            policy,
            over: Duration::ZERO,
            borne: None,
            kind,
            reason: "paris is down".into(),
            at: Time(Duration::ZERO),
        };
        self.observer.switched(SERVICE, &self.config.services[0], &switch, self.now);
    }

    fn events(&self) -> Vec<Event> {
        let recent = self.observer.events.subscribe(Selection::default()).take_recent();
        recent.iter().map(|line| serde_json::from_str::<Record>(line.text()).unwrap().event).collect()
    }

    /// What the newest switch says of its detection, in milliseconds.
    fn detected(&self) -> (Option<f64>, Option<f64>) {
        let switches = self.events().into_iter().rev().find_map(|event| match event {
            Event::Switch { detected_in_ms, outage_at_most_ms, .. } => {
                Some((detected_in_ms, outage_at_most_ms))
            }
            _ => None,
        });
        switches.expect("a switch")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.state);
    }
}

#[test]
fn detection_is_from_the_first_failed_probe_of_the_run() {
    let mut world = World::new();
    world.fails(PARIS, [2000, 1990]);
    world.passes(PARIS, [1000, 999]);
    world.fails(PARIS, [120, 60]);
    world.fails(DUBLIN, [110, 55]);
    world.fails(PARIS, [50, 10]);
    world.switch(SwitchKind::Failover, FlowPolicy::Reset);
    assert_eq!(world.detected(), (Some(120.0), Some(999.0)));
}

/// A tolerance ended, and no report: the newest run of the member that is left.
#[test]
fn a_deadline_measures_the_member_that_is_left() {
    let mut world = World::new();
    world.fails(PARIS, [120, 60]);
    world.fails(DUBLIN, [30, 20]);
    world.observer.takes_up();
    world.switch(SwitchKind::Failover, FlowPolicy::Reset);
    assert_eq!(world.detected(), (Some(120.0), None));
}

/// The member was down for long, and nobody was there to go to: that was no slow detection.
#[test]
fn a_failover_that_had_to_wait_is_not_measured() {
    let mut world = World::new();
    world.fails(PARIS, [90_000, 89_000]);
    world.passes(DUBLIN, [2, 1]);
    world.switch(SwitchKind::Failover, FlowPolicy::Reset);
    assert_eq!(world.detected(), (None, None));
    world.fails(PARIS, [2, 1]);
    world.switch(SwitchKind::Manual, FlowPolicy::Reset);
    assert_eq!(world.detected(), (None, None), "an operator's");
}

#[test]
fn a_drain_is_told_with_its_time() {
    let mut world = World::new();
    world.switch(SwitchKind::Failback, FlowPolicy::Drain);
    let events = world.events();
    assert!(
        matches!(&events[..], [Event::Switch { .. }, Event::DrainBegan { lasts_ms: 30_000, .. }]),
        "{events:?}"
    );
}

/// A pass that had begun before the switch did not reset its flows.
#[test]
fn a_switch_is_over_with_the_first_pass_that_came_after_it() {
    let mut world = World::new();
    world.switch(SwitchKind::Failover, FlowPolicy::Reset);
    let later = |ms| world.now + Duration::from_millis(ms);
    let flows = |reset, waiting| BTreeMap::from([(7, SweptFlows { reset, waiting })]);
    let before = world.now.checked_sub(Duration::from_millis(1)).unwrap();
    let passes = [
        Swept { requested: before, ended: later(1), members: BTreeMap::new() },
        Swept { requested: later(0), ended: later(4), members: flows(12, 1) },
        Swept { requested: later(0), ended: later(10), members: flows(2, 1) },
    ];
    let mut counts = Vec::new();
    for swept in passes {
        world.observer.swept(&swept, |id| (id == 7).then(|| ("orders".into(), "paris".into(), 2)));
        counts.push(world.observer.resetting.len());
    }
    assert_eq!(counts, [1, 0, 0]);
    let resets: Vec<_> = world.events().into_iter().skip(1).collect();
    let reset = |reset, waiting, after_ms| Event::FlowsReset {
        service: Some("orders".into()),
        member: Some("paris".into()),
        epoch: Some(2),
        reset,
        waiting,
        after_ms,
    };
    assert_eq!(resets, [reset(12, 1, 4.0), reset(2, 1, 10.0)]);
}

#[test]
fn a_check_that_says_nothing_is_told_once() {
    let mut world = World::new();
    let refused = || {
        let cause = Cause::Redis(RedisErrorKind::WrongPass, "WRONGPASS invalid".into());
        ProbeOutcome::Inconclusive(Failure { phase: Phase::Authenticate, cause })
    };
    for _ in 0..3 {
        world.probe(PARIS, refused(), [2, 1]);
    }
    world.fails(PARIS, [2, 1]);
    world.passes(PARIS, [2, 1]);
    world.probe(PARIS, refused(), [2, 1]);
    let names: Vec<_> = world.events().iter().map(Event::name).collect();
    assert_eq!(names, ["check_inconclusive", "check_conclusive", "check_inconclusive"]);
    let Event::CheckInconclusive { outcome, check, .. } = &world.events()[0] else { panic!() };
    assert_eq!((outcome.as_str(), check.as_str()), ("redis_wrongpass", "ping"));
}

/// A loop that is late is late a thousand times.
#[test]
fn lateness_is_told_now_and_then() {
    let mut world = World::new();
    for _ in 0..5 {
        world.passes(PARIS, [1400, 400]);
    }
    world.passes(PARIS, [200, 100]);
    let events = world.events();
    assert!(matches!(&events[..], [Event::Late { more: 0, late_ms }] if *late_ms >= 400.0), "{events:?}");
}
