//! The newest switch of each service and the drains under way, on disk: what a restarted agent cannot read from the maps.
//!
//! Losing the file loses the reason and the time of the last switch, and with them the drains or a hold-down that were
//! running. It decides nothing else: active member, epoch and floors are in the maps.
//!
//! Nothing here outlives a boot: without the maps there is no epoch that a record could be of. So moments are those of the
//! agent's clock, which goes on while no agent runs and which nobody sets, and a record says which boot they count from. One of
//! another boot is none.
//!
//! Earlier versions wrote the same records without [`Record::drains`], or with times of day alone, and take no notice of the
//! rest. So any version can follow on any other: the older one goes by the time of day, and leaves out the rest when it writes.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use super::clock::Clock;
use crate::{
    decide::{Drain, Draining, ResumedSwitch, Spread, Switch, Time},
    kept::{self, Writer},
    model::{Epoch, FlowPolicy, MemberId, Service, SwitchKind},
};

/// A switch as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    epoch: u32,
    from: Option<String>,
    kind: SwitchKind,
    /// What became of the flows of `from`; earlier agents did not write it down.
    #[serde(default)]
    policy: Option<FlowPolicy>,
    reason: String,
    /// RFC 3339, for people and for earlier versions.
    at: String,
    /// By the agent's clock. `None`: an earlier version wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at_boot_ns: Option<Time>,
    /// The boot that the agent's clock counts from. `None`: an earlier version wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boot: Option<String>,
    /// Those under way, of this switch and of earlier ones, as they began. `None`: an earlier version wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drains: Option<Vec<Kept>>,
}

/// A drain as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    epoch: u32,
    from: Option<String>,
    /// RFC 3339, for people and for earlier versions.
    until: String,
    /// By the agent's clock. `None`: an earlier version wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until_boot_ns: Option<Time>,
    spread: Spread,
}

type Records = BTreeMap<String, Record>;

/// What is kept of each service, by its name.
#[derive(Debug)]
pub(super) struct History {
    records: Records,
    /// This boot.
    boot: String,
    /// Something is not written yet.
    changed: bool,
    writer: Writer<Records>,
}

impl History {
    /// Reads what an earlier agent kept in this boot.
    pub(super) fn read(state_dir: &Path, boot: &str) -> Self {
        let file = state_dir.join("switches.json");
        let mut records: Records = kept::read(&file);
        records.retain(|_, record| record.boot.as_ref().is_none_or(|of| of == boot));
        let writer = Writer::new(&file, "the last switch is");
        Self { records, boot: boot.to_owned(), changed: false, writer }
    }

    /// The switch to `epoch`, if that is the one on record, and what drains since then. Of the switch before, only what drains.
    pub(super) fn resume(&self, service: &Service, epoch: Epoch, clock: Clock) -> Option<ResumedSwitch> {
        let record = self.records.get(&service.name)?;
        // The maps were one step ahead: this start has held the service, because its active member is gone, or the agent was killed.
        let is_older = record.epoch.checked_add(1) == Some(epoch.0);
        if record.epoch != epoch.0 && !is_older {
            return None;
        }
        let at = record.at_boot_ns.or_else(|| clock.moment(&record.at))?;
        let now = clock.now();
        // By the time of day the switch may be still to come: the clock was set back, and it counts as a new one.
        let by_day = |until: &str| clock.moment(until).map(|until| now + until.since(now.max(at)));
        let member = |name: &String| service.members.iter().position(|member| member.name == *name);
        let resumed = |kept: &Kept| {
            let deadline = kept.until_boot_ns.or_else(|| by_day(&kept.until)).unwrap_or_default();
            let from = kept.from.as_ref().and_then(member).map(MemberId);
            let drain = Drain { epoch: Epoch(kept.epoch), from, spread: kept.spread };
            Draining { deadline, drain }
        };
        Some(ResumedSwitch {
            from: record.from.as_ref().and_then(member).map(MemberId),
            kind: record.kind,
            policy: record.policy,
            reason: record.reason.clone(),
            age: now.since(at),
            drains: record.drains.as_ref().map(|drains| drains.iter().map(resumed).collect()),
            is_older,
        })
    }

    /// A switch was made. What drains goes on, until [`Self::drains`] says something else.
    pub(super) fn record(&mut self, service: &Service, switch: &Switch, clock: Clock) {
        // A record of another epoch was not resumed: it is of a time before these maps, or of switches that were not written.
        let before = self.records.remove(&service.name);
        // With a step between them that nobody wrote down, it was: [`Self::resume`].
        let was_resumed = |record: &Record| matches!(switch.epoch.0.checked_sub(record.epoch), Some(1 | 2));
        let before = before.filter(was_resumed);
        let drains = before.and_then(|record| record.drains).unwrap_or_default();
        let record = Record {
            epoch: switch.epoch.0,
            from: name(service, switch.from),
            kind: switch.kind,
            policy: Some(switch.policy),
            reason: switch.reason.clone(),
            at: clock.rfc3339(switch.at),
            at_boot_ns: Some(switch.at),
            boot: Some(self.boot.clone()),
            drains: Some(drains),
        };
        self.records.insert(service.name.clone(), record);
        self.changed = true;
    }

    /// These drains are under way now, and no others.
    pub(super) fn drains(&mut self, service: &Service, drains: &[Draining], clock: Clock) {
        // Every drain is of a switch that is on record, or was taken from there.
        let Some(record) = self.records.get_mut(&service.name) else { return };
        let kept = |Draining { deadline, drain }: &Draining| Kept {
            epoch: drain.epoch.0,
            from: name(service, drain.from),
            until: clock.rfc3339_ahead(*deadline),
            until_boot_ns: Some(*deadline),
            spread: drain.spread,
        };
        record.drains = Some(drains.iter().map(kept).collect());
        // That of an earlier version's record has none yet.
        record.boot = Some(self.boot.clone());
        self.changed = true;
    }

    /// To be called when the maps say what was recorded. What belongs to one switch is written in one step.
    pub(super) fn write(&mut self) {
        if std::mem::take(&mut self.changed) {
            self.writer.write(self.records.clone());
        }
    }
}

fn name(service: &Service, member: Option<MemberId>) -> Option<String> {
    member.map(|member| service.members[member.0].name.clone())
}

#[cfg(test)]
mod tests {
    use std::{
        env, fs,
        path::PathBuf,
        process,
        time::{Duration, SystemTime},
    };

    use super::*;

    const BOOT: &str = "this boot";
    const M1: Option<MemberId> = Some(MemberId(0));
    const M2: Option<MemberId> = Some(MemberId(1));

    fn service(members: &[&str]) -> Service {
        let member = |(number, name): (usize, &&str)| {
            format!("[[service.member]]\nname = \"{name}\"\nendpoint = \"10.2.1.{}:6379\"\n", number + 1)
        };
        let members: String = members.iter().enumerate().map(member).collect();
        let text = format!("[[service]]\nname = \"orders\"\nvips = [\"10.255.0.1:6379\"]\n{members}");
        crate::config::parse(Path::new("r.toml"), &text).unwrap().config.services.remove(0)
    }

    fn three() -> Service {
        service(&["m1", "m2", "m3"])
    }

    fn switch(from: Option<MemberId>, to: usize, epoch: u32, policy: FlowPolicy) -> Switch {
        let (to, kind) = (Some(MemberId(to)), SwitchKind::Manual);
        let (over, borne, at) = (Duration::ZERO, None, Clock.now());
        Switch { from, to, epoch: Epoch(epoch), policy, over, kind, reason: "test".into(), borne, at }
    }

    fn draining(epoch: u32, from: Option<MemberId>, deadline: Time) -> Draining {
        Draining { deadline, drain: Drain { epoch: Epoch(epoch), from, spread: Spread::AtEnd } }
    }

    fn state_dir(test: &str) -> PathBuf {
        env::temp_dir().join(format!("redirector-history-{test}-{}", process::id()))
    }

    /// Two switches, each with a drain, as an agent tells of them.
    fn two_drains(history: &mut History, first: Time, second: Time) {
        let service = three();
        history.record(&service, &switch(M1, 1, 5, FlowPolicy::Drain), Clock);
        history.drains(&service, &[draining(5, M1, first)], Clock);
        history.write();
        history.record(&service, &switch(M2, 2, 6, FlowPolicy::Drain), Clock);
        history.drains(&service, &[draining(5, M1, first), draining(6, M2, second)], Clock);
        history.write();
    }

    fn resumed(history: &History, service: &Service, epoch: u32) -> Vec<Draining> {
        history.resume(service, Epoch(epoch), Clock).unwrap().drains.unwrap()
    }

    #[test]
    fn drains_survive_with_the_rest_of_their_time() {
        let dir = state_dir("survive");
        let (over, ahead) = (Clock.now(), Clock.now() + Duration::from_secs(3600));
        let mut history = History::read(&dir, BOOT);
        two_drains(&mut history, over, ahead);
        // Dropping it waits for the disk.
        drop(history);

        let history = History::read(&dir, BOOT);
        let [first, second] = resumed(&history, &three(), 6)[..] else { panic!("{history:?}") };
        assert_eq!((first.drain, second.drain), (draining(5, M1, over).drain, draining(6, M2, ahead).drain));
        assert!(first.deadline <= Clock.now(), "it has ended meanwhile");
        assert_eq!(second.deadline, ahead);
        assert_eq!(history.resume(&three(), Epoch(8), Clock), None, "a record of another switch");
        assert_eq!(history.resume(&three(), Epoch(5), Clock), None, "a record of another switch");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn members_are_known_by_name_and_may_be_gone() {
        let dir = state_dir("names");
        let ahead = Clock.now() + Duration::from_secs(3600);
        let mut history = History::read(&dir, BOOT);
        two_drains(&mut history, ahead, ahead);
        let froms =
            |service| resumed(&history, &service, 6).iter().map(|one| one.drain.from).collect::<Vec<_>>();
        assert_eq!(froms(service(&["m2", "m1", "m3"])), [M2, M1]);
        assert_eq!(froms(service(&["m3", "m2"])), [None, M2]);
        drop(history);
        fs::remove_dir_all(&dir).unwrap();
    }

    /// A switch that keeps its flows changes no drain, and there is nothing to say of them.
    #[test]
    fn drains_go_on_over_a_switch() {
        let dir = state_dir("over");
        let ahead = Clock.now() + Duration::from_secs(3600);
        let mut history = History::read(&dir, BOOT);
        two_drains(&mut history, ahead, ahead);
        history.record(&three(), &switch(Some(MemberId(2)), 0, 7, FlowPolicy::Keep), Clock);
        let next = history.resume(&three(), Epoch(7), Clock).unwrap();
        assert_eq!(next.drains.map(|drains| drains.len()), Some(2));
        // Of switches before this boot, say: their drains are nobody's.
        history.record(&three(), &switch(None, 0, 1, FlowPolicy::Keep), Clock);
        let first = history.resume(&three(), Epoch(1), Clock).unwrap();
        assert_eq!(first.drains, Some(Vec::new()));
        drop(history);
        fs::remove_dir_all(&dir).unwrap();
    }

    /// The start has held the service, with the next epoch, and will choose anew with the one after that.
    #[test]
    fn drains_go_on_where_the_active_member_is_gone() {
        let dir = state_dir("gone");
        let ahead = Clock.now() + Duration::from_secs(3600);
        let mut history = History::read(&dir, BOOT);
        two_drains(&mut history, ahead, ahead);
        let two = service(&["m1", "m2"]);
        let froms = |drains: Vec<Draining>| drains.iter().map(|one| one.drain.from).collect::<Vec<_>>();
        assert_eq!(froms(resumed(&history, &two, 7)), [M1, M2]);
        history.record(&two, &switch(None, 0, 8, FlowPolicy::Keep), Clock);
        assert_eq!(froms(resumed(&history, &two, 8)), [M1, M2]);
        drop(history);
        fs::remove_dir_all(&dir).unwrap();
    }

    /// As it stands on disks today.
    #[test]
    fn a_record_of_the_version_before_is_read_and_its_reader_reads_ours() {
        #[derive(Debug, Deserialize)]
        #[allow(dead_code)] // Their being there is what counts.
        struct Before {
            epoch: u32,
            from: Option<String>,
            kind: SwitchKind,
            reason: String,
            at: String,
        }

        let dir = state_dir("before");
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("switches.json");
        let before = r#"{"orders": {"epoch": 6, "from": "m2", "kind": "failback", "reason": "as it was", "at": "2026-01-01T00:00:00.000Z"}}"#;
        fs::write(&file, before).unwrap();
        let mut history = History::read(&dir, BOOT);
        let read = history.resume(&three(), Epoch(6), Clock).unwrap();
        assert_eq!((read.from, read.kind, read.reason.as_str()), (M2, SwitchKind::Failback, "as it was"));
        assert_eq!(read.drains, None);
        // What the core made of it.
        let ahead = Clock.now() + Duration::from_secs(3600);
        history.drains(&three(), &[draining(6, M2, ahead)], Clock);
        let read = history.resume(&three(), Epoch(6), Clock).unwrap();
        assert_eq!(read.drains.map(|drains| drains.len()), Some(1));

        two_drains(&mut history, ahead, ahead);
        drop(history);
        let ours: BTreeMap<String, Before> = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!((ours["orders"].epoch, ours["orders"].from.as_deref()), (6, Some("m2")));
        fs::remove_dir_all(&dir).unwrap();
    }

    /// What stands in the file, with its times of day set to something else: as if the clock had been set.
    fn set_clock(dir: &Path, at: &str, until: &str) {
        let file = dir.join("switches.json");
        let mut records: Records = kept::read(&file);
        let record = records.get_mut("orders").unwrap();
        record.at = at.into();
        record.drains.iter_mut().flatten().for_each(|kept| kept.until = until.into());
        fs::write(&file, serde_json::to_vec(&records).unwrap()).unwrap();
    }

    /// It ended drains at the start, when set forward, and let them and a hold-down last longer, when set back.
    #[test]
    fn a_clock_that_is_set_changes_no_drain_and_no_age() {
        let dir = state_dir("set");
        let ahead = Clock.now() + Duration::from_secs(3600);
        two_drains(&mut History::read(&dir, BOOT), ahead, ahead);
        for (at, until) in [
            ("2001-01-01T00:00:00Z", "2001-01-01T01:00:00Z"),
            ("2201-01-01T00:00:00Z", "2201-01-01T01:00:00Z"),
            ("no time", "no time"),
        ] {
            set_clock(&dir, at, until);
            let history = History::read(&dir, BOOT);
            let last = history.resume(&three(), Epoch(6), Clock).unwrap();
            assert!(last.age < Duration::from_secs(60), "{at}: {:?}", last.age);
            let deadlines: Vec<_> = last.drains.unwrap().iter().map(|one| one.deadline).collect();
            assert_eq!(deadlines, [ahead, ahead], "{at}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    /// The first epochs of a boot are those of the boot before.
    #[test]
    fn a_record_of_another_boot_is_none() {
        let dir = state_dir("boot");
        let ahead = Clock.now() + Duration::from_secs(3600);
        two_drains(&mut History::read(&dir, BOOT), ahead, ahead);
        let mut history = History::read(&dir, "another");
        assert_eq!(history.resume(&three(), Epoch(6), Clock), None);
        history.record(&three(), &switch(M1, 1, 7, FlowPolicy::Keep), Clock);
        assert_eq!(resumed(&history, &three(), 7), []);
        drop(history);
        fs::remove_dir_all(&dir).unwrap();
    }

    /// As the version before wrote it.
    #[test]
    fn a_record_of_times_of_day_goes_by_them() {
        let dir = state_dir("day");
        fs::create_dir_all(&dir).unwrap();
        let (day, hour) = (Duration::from_secs(86400), Duration::from_secs(3600));
        // The second: the clock was set back since, by a day.
        for ahead in [Duration::ZERO, day] {
            let at = SystemTime::now() + ahead;
            let [at, until] = [at, at + hour].map(|time| humantime::format_rfc3339_nanos(time).to_string());
            let text = format!(
                r#"{{"orders": {{"epoch": 6, "from": "m1", "kind": "manual", "reason": "test", "at": "{at}",
                    "drains": [{{"epoch": 6, "from": "m1", "until": "{until}", "spread": "at_end"}}]}}}}"#
            );
            fs::write(dir.join("switches.json"), text).unwrap();
            let mut history = History::read(&dir, BOOT);
            let [one] = resumed(&history, &three(), 6)[..] else { panic!("{history:?}") };
            let left = one.deadline.since(Clock.now());
            assert!(left.abs_diff(hour) < Duration::from_secs(1), "{left:?}");
            // What the core makes of it is of this boot.
            history.drains(&three(), &[one], Clock);
            history.write();
            drop(history);
            set_clock(&dir, &at, "2001-01-01T00:00:00Z");
            assert_eq!(resumed(&History::read(&dir, BOOT), &three(), 6)[..], [one]);
            assert_eq!(History::read(&dir, "another").resume(&three(), Epoch(6), Clock), None);
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
