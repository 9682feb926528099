//! The newest switch of each service, on disk: what a restarted agent cannot read from the maps.
//!
//! Losing the file loses the reason and the time of the last switch, and with them a drain or a hold-down that was
//! running. It decides nothing else: active member and epoch are in the maps.

use std::{collections::BTreeMap, path::Path, time::SystemTime};

use serde::{Deserialize, Serialize};

use crate::{
    decide::{ResumedSwitch, Switch},
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
}

type Records = BTreeMap<String, Record>;

/// The newest switch of each service, by its name.
#[derive(Debug)]
pub(super) struct History {
    records: Records,
    writer: Writer<Records>,
}

impl History {
    /// Reads what an earlier agent kept.
    pub(super) fn read(state_dir: &Path) -> Self {
        let file = state_dir.join("switches.json");
        Self { records: kept::read(&file), writer: Writer::new(&file, "the last switch is") }
    }

    /// The switch to `epoch`, if that is the one on record.
    pub(super) fn resume(&self, service: &Service, epoch: Epoch) -> Option<ResumedSwitch> {
        let record = self.records.get(&service.name).filter(|record| record.epoch == epoch.0)?;
        let at = humantime::parse_rfc3339(&record.at).ok()?;
        let member = |name: &String| service.members.iter().position(|member| member.name == *name);
        Some(ResumedSwitch {
            from: record.from.as_ref().and_then(member).map(MemberId),
            kind: record.kind,
            policy: record.policy,
            reason: record.reason.clone(),
            // A clock that was set back makes the switch a new one.
            age: SystemTime::now().duration_since(at).unwrap_or_default(),
        })
    }

    /// Keeps a switch.
    pub(super) fn record(&mut self, service: &Service, switch: &Switch, at: SystemTime) {
        let record = Record {
            epoch: switch.epoch.0,
            from: switch.from.map(|member| service.members[member.0].name.clone()),
            kind: switch.kind,
            policy: Some(switch.policy),
            reason: switch.reason.clone(),
            at: humantime::format_rfc3339_millis(at).to_string(),
        };
        self.records.insert(service.name.clone(), record);
        self.writer.write(self.records.clone());
    }
}
