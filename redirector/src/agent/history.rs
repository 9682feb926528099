//! The newest switch of each service and the drains under way, on disk: what a restarted agent cannot read from the maps.
//!
//! Losing the file loses the reason and the time of the last switch, and with them the drains or a hold-down that were
//! running. It decides nothing else: active member, epoch and floors are in the maps.
//!
//! Deadlines are kept by the time of day, so that they go on while no agent runs. Nothing here outlives a boot: without the maps
//! there is no epoch that a record could be of.
//!
//! A version before drains were written down wrote the same records without [`Record::drains`], and takes no notice of them.
//! So either version can follow on the other: the older one knows of the newest switch, and leaves out the rest when it writes.

use std::{collections::BTreeMap, path::Path, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::clock::Clock;
use crate::{
    decide::{Drain, Draining, ResumedSwitch, Spread, Switch},
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
    /// RFC 3339.
    at: String,
    /// Those under way, of this switch and of earlier ones, as they began. `None`: an earlier version wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drains: Option<Vec<Kept>>,
}

/// A drain as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    epoch: u32,
    from: Option<String>,
    /// RFC 3339.
    until: String,
    spread: Spread,
}

type Records = BTreeMap<String, Record>;

/// What is kept of each service, by its name.
#[derive(Debug)]
pub(super) struct History {
    records: Records,
    /// Something is not written yet.
    changed: bool,
    writer: Writer<Records>,
}

impl History {
    /// Reads what an earlier agent kept.
    pub(super) fn read(state_dir: &Path) -> Self {
        let file = state_dir.join("switches.json");
        let writer = Writer::new(&file, "the last switch is");
        Self { records: kept::read(&file), changed: false, writer }
    }

    /// The switch to `epoch`, if that is the one on record, and what drains since then. Of the switch before, only what drains.
    pub(super) fn resume(&self, service: &Service, epoch: Epoch, clock: Clock) -> Option<ResumedSwitch> {
        let record = self.records.get(&service.name)?;
        // The maps were one step ahead: this start has held the service, because its active member is gone, or the agent was killed.
        let is_older = record.epoch.checked_add(1) == Some(epoch.0);
        if record.epoch != epoch.0 && !is_older {
            return None;
        }
        let at = humantime::parse_rfc3339(&record.at).ok()?;
        // A clock that was set back makes the switch a new one.
        let now = SystemTime::now().max(at);
        let member = |name: &String| service.members.iter().position(|member| member.name == *name);
        let resumed = |kept: &Kept| {
            let until = humantime::parse_rfc3339(&kept.until).ok();
            let left = until.and_then(|until| until.duration_since(now).ok()).unwrap_or_default();
            let from = kept.from.as_ref().and_then(member).map(MemberId);
            let drain = Drain { epoch: Epoch(kept.epoch), from, spread: kept.spread };
            Draining { deadline: clock.now() + left, drain }
        };
        Some(ResumedSwitch {
            from: record.from.as_ref().and_then(member).map(MemberId),
            kind: record.kind,
            policy: record.policy,
            reason: record.reason.clone(),
            age: now.duration_since(at).unwrap_or_default(),
            drains: record.drains.as_ref().map(|drains| drains.iter().map(resumed).collect()),
            is_older,
        })
    }

    /// A switch was made. What drains goes on, until [`Self::drains`] says something else.
    pub(super) fn record(&mut self, service: &Service, switch: &Switch, at: SystemTime) {
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
            at: humantime::format_rfc3339_millis(at).to_string(),
            drains: Some(drains),
        };
        self.records.insert(service.name.clone(), record);
        self.changed = true;
    }

    /// These drains are under way now, and no others.
    pub(super) fn drains(&mut self, service: &Service, drains: &[Draining], clock: Clock) {
        // Every drain is of a switch that is on record, or was taken from there.
        let Some(record) = self.records.get_mut(&service.name) else { return };
        let (now, moment) = (SystemTime::now(), clock.now());
        let kept = |Draining { deadline, drain }: &Draining| Kept {
            epoch: drain.epoch.0,
            from: name(service, drain.from),
            // In full: a drain must not end before its time.
            until: humantime::format_rfc3339_nanos(now + deadline.since(moment)).to_string(),
            spread: drain.spread,
        };
        record.drains = Some(drains.iter().map(kept).collect());
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
    use std::{env, fs, path::PathBuf, process, time::Duration};

    use super::*;
    use crate::{decide::Time, model::FlowPolicy};

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
        history.record(&service, &switch(M1, 1, 5, FlowPolicy::Drain), SystemTime::now());
        history.drains(&service, &[draining(5, M1, first)], Clock);
        history.write();
        history.record(&service, &switch(M2, 2, 6, FlowPolicy::Drain), SystemTime::now());
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
        let mut history = History::read(&dir);
        two_drains(&mut history, over, ahead);
        // Dropping it waits for the disk.
        drop(history);

        let history = History::read(&dir);
        let [first, second] = resumed(&history, &three(), 6)[..] else { panic!("{history:?}") };
        assert_eq!((first.drain, second.drain), (draining(5, M1, over).drain, draining(6, M2, ahead).drain));
        assert!(first.deadline <= Clock.now(), "it has ended meanwhile");
        // Two clocks are read one after the other.
        let apart = second.deadline.since(ahead) + ahead.since(second.deadline);
        assert!(apart < Duration::from_secs(1), "{apart:?}");
        assert_eq!(history.resume(&three(), Epoch(8), Clock), None, "a record of another switch");
        assert_eq!(history.resume(&three(), Epoch(5), Clock), None, "a record of another switch");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn members_are_known_by_name_and_may_be_gone() {
        let dir = state_dir("names");
        let ahead = Clock.now() + Duration::from_secs(3600);
        let mut history = History::read(&dir);
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
        let mut history = History::read(&dir);
        two_drains(&mut history, ahead, ahead);
        history.record(&three(), &switch(Some(MemberId(2)), 0, 7, FlowPolicy::Keep), SystemTime::now());
        let next = history.resume(&three(), Epoch(7), Clock).unwrap();
        assert_eq!(next.drains.map(|drains| drains.len()), Some(2));
        // Of switches before this boot, say: their drains are nobody's.
        history.record(&three(), &switch(None, 0, 1, FlowPolicy::Keep), SystemTime::now());
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
        let mut history = History::read(&dir);
        two_drains(&mut history, ahead, ahead);
        let two = service(&["m1", "m2"]);
        let froms = |drains: Vec<Draining>| drains.iter().map(|one| one.drain.from).collect::<Vec<_>>();
        assert_eq!(froms(resumed(&history, &two, 7)), [M1, M2]);
        history.record(&two, &switch(None, 0, 8, FlowPolicy::Keep), SystemTime::now());
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
        let mut history = History::read(&dir);
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

    #[test]
    fn a_clock_that_was_set_back_lets_no_drain_last_longer_than_it_was_told() {
        let dir = state_dir("back");
        let mut history = History::read(&dir);
        let day = Duration::from_secs(86400);
        history.record(&three(), &switch(M1, 1, 6, FlowPolicy::Drain), SystemTime::now() + day);
        let hour = Duration::from_secs(3600);
        history.drains(&three(), &[draining(6, M1, Clock.now() + day + hour)], Clock);
        history.write();
        let [one] = resumed(&history, &three(), 6)[..] else { panic!("{history:?}") };
        let left = one.deadline.since(Clock.now());
        // The time of the switch is kept in milliseconds.
        assert!(left.abs_diff(hour) < Duration::from_secs(1), "{left:?}");
        drop(history);
        fs::remove_dir_all(&dir).unwrap();
    }
}
